//! `--show-config`: every parameter, its value and where it came from.

use super::Origin;
use super::parameters::{Config, Setting, parameters};
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Prints what `kind` asks for. That nobody reads it is no trouble of ours.
pub fn print(config: &Config, kind: &str) {
    let _ = io::stdout().write_all(text(config, kind).as_bytes());
}

/// The text; it is a main.cf itself, with remarks in lines of their own.
///
/// `defaults`: the defaults before expansion. `set`: what was set, as it was written, and where. `expanded`: all values
/// after expansion. `values`: all values as they were written. Anything else: these, with default and origin.
pub fn text(config: &Config, kind: &str) -> String {
    let mut out = String::new();
    for parameter in parameters() {
        let Some(setting) = config.setting(parameter.name) else { continue };
        let value = match kind {
            "defaults" => parameter.default,
            "expanded" => &setting.expanded,
            "set" if setting.origin == Origin::Default => continue,
            _ => &setting.raw,
        };
        let _ = writeln!(out, "{} ={}{value}", setting.name, if value.is_empty() { "" } else { " " });
        if !matches!(kind, "defaults" | "expanded" | "values") {
            remark(&mut out, &setting, parameter.default);
        }
    }
    out
}

fn remark(out: &mut String, setting: &Setting, default: &str) {
    let _ = write!(out, "#   from {}", setting.origin);
    if setting.origin != Origin::Default {
        let _ = write!(out, "; default: {}", if default.is_empty() { "(empty)" } else { default });
    }
    if setting.expanded != setting.raw {
        let _ = write!(out, "; expanded: {}", setting.expanded);
    }
    out.push('\n');
}
