//! `--show-config`: every parameter and name of the administrator's own, its value and where it came from.

use super::Origin;
use super::parameters::{Config, parameters};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Prints what `kind` asks for. That nobody reads it is no trouble of ours.
pub fn print(config: &Config, kind: &str) {
    let _ = io::stdout().write_all(text(config, kind).as_bytes());
}

/// The text, with remarks in lines of their own.
///
/// `defaults`: the defaults before expansion. `set`: what was set, as it was written, and where. `expanded`: all values
/// after expansion. `values`: all values as they were written. Anything else: these, with default and origin.
///
/// With remarks it is a main.cf that means the same: what nobody set is a comment there, for some of it means more when it is
/// set, if only to its default (`authentication`, `max_use`).
pub fn text(config: &Config, kind: &str) -> String {
    let mut out = String::new();
    let has_remarks = !matches!(kind, "defaults" | "expanded" | "values");
    for parameter in parameters() {
        let Some(setting) = config.setting(parameter.name) else { continue };
        let is_set = setting.origin != Origin::Default;
        let value = match kind {
            "defaults" => Cow::Borrowed(parameter.default),
            "expanded" => setting.expanded.clone(),
            "set" if !is_set => continue,
            _ => setting.raw.clone(),
        };
        if has_remarks && !is_set {
            out.push('#');
        }
        line(&mut out, setting.name, &value);
        if has_remarks {
            remark(
                &mut out,
                &setting.origin,
                Some(parameter.default).filter(|_| is_set),
                (&setting.raw, &setting.expanded),
            );
        }
    }
    // mydomain may be there without having been set.
    for own in config.own_names.iter().filter(|own| own.origin != Origin::Default && kind != "defaults") {
        line(&mut out, &own.name, if kind == "expanded" { &own.expanded } else { &own.raw });
        if has_remarks {
            remark(&mut out, &own.origin, None, (&own.raw, &own.expanded));
        }
    }
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name} ={}{value}", if value.is_empty() { "" } else { " " });
}

fn remark(out: &mut String, origin: &Origin, default: Option<&str>, (raw, expanded): (&str, &str)) {
    let _ = write!(out, "#   from {origin}");
    if let Some(default) = default {
        let _ = write!(out, "; default: {}", if default.is_empty() { "(empty)" } else { default });
    }
    if expanded != raw {
        let _ = write!(out, "; expanded: {expanded}");
    }
    out.push('\n');
}
