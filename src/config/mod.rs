//! Configuration: `main.cf` in Postfix's syntax, `-o name=value`, and the defaults; no file at all is a working one.
//!
//! `file.rs` reads any of the files, `main_cf.rs` the lines of main.cf, `expand.rs` does `$name`, `names.rs` knows the names,
//! `value.rs` turns text into values, `parameters.rs` is the one table of what there is, `rules.rs` says what else must
//! hold, `load.rs` brings them together, `pattern.rs` and `table.rs` are the lists of clients and domains, `net.rs` the nets in
//! them, `show.rs` prints the outcome. Each wrong value is an `Error` with file, line and what was expected.

pub mod expand;
pub(crate) mod file;
pub mod load;
pub mod main_cf;
pub(crate) mod names;
mod net;
pub mod parameters;
pub mod pattern;
mod rules;
pub mod show;
pub mod table;
pub mod value;

pub use file::that_were_there;
pub use parameters::Config;

use std::path::Path;
use std::sync::Arc;

/// Where a setting was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file and the line its logical line begins on, from 1; 0: the file as a whole.
    File(Arc<Path>, usize),
    /// `-o name=value`.
    Option,
    /// The operands of the command line.
    Arguments,
    /// What named the folder of main.cf: `option --config`, or `environment MAIL_CONFIG`.
    Folder(&'static str),
    /// The parameter's default.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::File(path, 0) => path.display().fmt(f),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Option => f.write_str("option -o"),
            Origin::Arguments => f.write_str("command line"),
            Origin::Folder(named_by) => f.write_str(named_by),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A file, line or parameter that cannot be used: where it stands, and what was expected there. Exit status 78.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Where the wrong thing stands.
    pub origin: Origin,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl Error {
    /// An error in line `line` (from 1) of a file.
    pub fn at(path: impl Into<Arc<Path>>, line: usize, problem: impl Into<String>) -> Self {
        Error { origin: Origin::File(path.into(), line), problem: problem.into() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.origin, self.problem)
    }
}

impl std::error::Error for Error {}

/// The beginning of a text that somebody wrote, as it can stand in a message: one line, and not a long one.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
