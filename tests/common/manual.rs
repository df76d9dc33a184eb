//! The pages in man/, as tests read them.

use std::fs;
use std::path::{Path, PathBuf};

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man")
}

/// A page, `smtpd.8`.
pub fn page(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a reader sees of a line for `\e` and its like.
pub fn shown(line: &str) -> String {
    line.replace("\\e", "\\").replace("\\&", "").replace("\\(ti", "~").replace("\\-", "-")
}

/// What is shown in the section EXAMPLES: each literal display, and each line of its own (`.Dl`).
pub fn examples(name: &str) -> Vec<String> {
    let text = page(name);
    let section = text.split(".Sh EXAMPLES\n").nth(1).unwrap_or_else(|| panic!("{name}: no EXAMPLES"));
    let section = section.split("\n.Sh ").next().unwrap_or_default();
    let (mut found, mut display) = (Vec::new(), None::<String>);
    for line in section.lines() {
        match (&mut display, line.strip_prefix(".Dl ")) {
            (_, Some(line)) => found.push(shown(line) + "\n"),
            (Some(_), _) if line == ".Ed" => found.extend(display.take()),
            (Some(display), _) => *display += &(shown(line) + "\n"),
            (None, _) if line.starts_with(".Bd -literal") => display = Some(String::new()),
            (None, _) => {}
        }
    }
    found
}
