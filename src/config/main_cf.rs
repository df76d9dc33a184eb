//! Reading main.cf: logical lines, comments, continuation.

use super::parameters::Config;
use crate::cli::Common;
use crate::exit::Error;

impl Config {
    /// Reads main.cf as the options say, applies `-o`, expands and checks everything, sets up logging by it, and answers
    /// `--show-config` (which ends the program).
    ///
    /// A missing main.cf is no error; an unreadable one is. A program that gained rights by setgid ignores the options.
    pub fn load(_common: &Common) -> Result<Config, Error> {
        todo!()
    }

    /// The defaults with some settings over them, for tests.
    pub fn with(_settings: &[(&str, &str)]) -> Config {
        todo!()
    }

    /// Where another program of ours is: daemon_directory, else the folder of the real file of the running program.
    pub fn program(&self, _name: &str) -> std::path::PathBuf {
        todo!()
    }
}
