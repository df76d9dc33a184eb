//! What all command lines share: `--config`, `-o`, `--show-config`, `--help`, and usage errors with exit status 64.
//! And the options that Postfix's daemons share, for the programs that a line of master.cf may name.

use crate::exit::Error;
use clap::{FromArgMatches, Parser};
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The options every program has.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct Common {
    /// Read main.cf and channels in this folder (default: $MAIL_CONFIG, else /etc/doorpost)
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Set a parameter, over what main.cf says; may be repeated
    #[arg(short = 'o', value_name = "NAME=VALUE")]
    pub overrides: Vec<String>,
    /// Print every parameter and where it came from, and exit
    #[arg(long, value_name = "KIND", num_args = 0..=1, require_equals = true, default_missing_value = "all",
          value_parser = ["all", "defaults", "set", "expanded", "values"])]
    pub show_config: Option<String>,
}

impl Common {
    /// The arguments that make another program of ours read the same configuration.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if let Some(folder) = &self.config {
            // That program may run in another folder.
            let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
            arguments.push("--config".into());
            arguments.push(absolute.into());
        }
        for setting in &self.overrides {
            arguments.push("-o".into());
            arguments.push(setting.into());
        }
        arguments
    }
}

/// The generic options of Postfix's daemons. Those that speak of Postfix's master are taken and mean nothing here.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct Daemon {
    /// Serve one client on standard input and output; a pipe or unix socket of which nothing is known is localhost
    #[arg(short = 'S')]
    pub alone: bool,
    /// Log each step; twice, each piece of content too
    #[arg(short, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Name of the service, for $service_name
    #[arg(short, value_name = "NAME")]
    pub name: Option<String>,
    /// Set max_idle
    #[arg(short = 'i', value_name = "SECONDS")]
    pub idle: Option<String>,
    /// Set max_use
    #[arg(short = 'm', value_name = "COUNT")]
    pub max_use: Option<String>,
    /// One process only: set children to 1
    #[arg(short = 'l')]
    pub one_process: bool,
    /// Would change the root, for which nothing is prepared; a service manager can do it
    #[arg(short = 'c')]
    pub chroot: bool,
    /// Would start a debugger
    #[arg(short = 'D')]
    pub debugger: bool,
    /// Standard input may be a terminal; it always may
    #[arg(short = 'd')]
    pub terminal: bool,
    /// Retire after so long; each process serves one connection anyway
    #[arg(short = 'r', value_name = "SECONDS", value_parser = number)]
    pub retire: Option<u32>,
    /// Number of listening sockets; they are found without it
    #[arg(short = 's', value_name = "COUNT", value_parser = number)]
    pub sockets: Option<u32>,
    /// Kind of listening socket; it is found without it
    #[arg(short = 't', value_name = "KIND", value_parser = ["inet", "unix", "pass", "fifo"])]
    pub kind: Option<String>,
    /// Become mail_owner; that is done always
    #[arg(short = 'u')]
    pub unprivileged: bool,
    /// Log to standard error too; that is done where it is not the client
    #[arg(short = 'V')]
    pub log_to_stderr: bool,
    /// No limit of processes; children is the limit
    #[arg(short = 'z')]
    pub no_limit: bool,
}

impl Daemon {
    /// Does what can be done before the configuration is read, and [`Daemon::set`].
    pub fn apply(&self, common: &mut Common) -> Result<(), Error> {
        if self.chroot {
            log::warn!("option -c: the root is not changed");
        }
        if self.debugger {
            log::warn!("option -D: no debugger is started");
        }
        crate::logging::verbose(self.verbose.into());
        if let Some(name) = &self.name {
            let _ = SERVICE_NAME.set(name.clone());
        }
        self.set(common);
        Ok(())
    }

    /// Makes settings of the options that are some.
    pub fn set(&self, common: &mut Common) {
        let one = self.one_process.then(|| "1".to_owned());
        let settings = [("max_idle", &self.idle), ("max_use", &self.max_use), ("children", &one)];
        // In front, so that -o wins.
        let settings = settings.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
        common.overrides.splice(0..0, settings);
    }
}

/// The last part of the name we were started by.
pub fn own_name() -> &'static OsStr {
    // Sessions ask, and the list of all arguments is made anew for each look at it.
    static NAME: OnceLock<OsString> = OnceLock::new();
    let own = || std::env::args_os().next().and_then(|path| Path::new(&path).file_name().map(OsStr::to_owned));
    NAME.get_or_init(|| own().unwrap_or_default())
}

/// Whether it is this one, exactly: a program may be several.
pub fn started_as(name: &str) -> bool {
    own_name() == name
}

static SERVICE_NAME: OnceLock<String> = OnceLock::new();

/// What `$service_name` is: option -n, else the program's own name.
pub fn service_name() -> Cow<'static, str> {
    SERVICE_NAME.get().map_or_else(|| own_name().to_string_lossy(), |name| name.into())
}

/// Reads the command line. Without arguments clap is not even started: each connection pays for it.
///
/// `--help` and `--version` print and end the program with status 0.
pub fn parse<Args: Parser + Default>() -> Result<Args, Error> {
    if std::env::args_os().len() <= 1 {
        return Ok(Args::default());
    }
    parse_as(Args::command())
}

/// The same by a command line that was changed, always by clap. Of an option that is given again the last one holds, as
/// with getopt, argp and Getopt::Long, which read the command lines whose place ours take; what may be repeated is
/// collected.
pub fn parse_as<Args: FromArgMatches>(command: clap::Command) -> Result<Args, Error> {
    parse_words(command, std::env::args_os())
}

/// The same of these words.
// Its frame is large, and not to be part of those under which a session runs.
#[inline(never)]
pub fn parse_words<Args: FromArgMatches>(
    command: clap::Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Args, Error> {
    read(command, words).or_else(|problem| {
        if problem.use_stderr() {
            return Err(Error::Usage(in_one_line(&problem.render().to_string())));
        }
        let _ = problem.print();
        std::process::exit(0)
    })
}

/// What another program of ours makes of its command line, name and words.
pub fn of_another<Args: FromArgMatches>(
    command: clap::Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Args, Error> {
    read(command, words).map_err(|problem| match problem.use_stderr() {
        true => Error::Usage(in_one_line(&problem.render().to_string())),
        false => Error::Usage("expected options of a server, not --help or --version".to_owned()),
    })
}

fn read<Args: FromArgMatches>(
    command: clap::Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Args, clap::Error> {
    let matches = command.args_override_self(true).try_get_matches_from(words);
    matches.and_then(|matches| Args::from_arg_matches(&matches))
}

/// Reads a number. What std says of one that is none is not what was expected.
pub fn number(text: &str) -> Result<u32, String> {
    let digits = Some(text).filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| format!("expected a number from 0 to {}", u32::MAX))
}

/// The same where there must be one of it at least.
pub fn positive(text: &str) -> Result<NonZeroU32, String> {
    let number = number(text).ok().and_then(NonZeroU32::new);
    number.ok_or_else(|| format!("expected a number from 1 to {}", u32::MAX))
}

/// What clap says is wrong, without the summary and the hints below it: a record of the log is one line.
fn in_one_line(text: &str) -> String {
    let hint = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more information");
    let said = text.trim_start_matches("error: ").lines().map(str::trim).take_while(|line| !hint(line));
    said.filter(|line| !line.is_empty() && !line.starts_with("tip:")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_is_one_line_that_says_what_is_wrong() {
        let said = |words: &[&str]| {
            #[derive(Debug, Parser)]
            struct Args {
                #[command(flatten)]
                _common: Common,
            }
            let problem = Args::try_parse_from([&["program"], words].concat()).unwrap_err();
            in_one_line(&problem.render().to_string())
        };
        assert_eq!(said(&["--no-such"]), "unexpected argument '--no-such' found");
        assert_eq!(
            said(&["--show-config=some"]),
            "invalid value 'some' for '--show-config[=<KIND>]' [possible values: all, defaults, set, expanded, values]"
        );
    }

    #[test]
    fn another_program_gets_the_same_configuration_wherever_it_runs() {
        let overrides = vec!["a=1".to_owned(), "{ b = 2 }".to_owned()];
        let common = Common { config: Some("conf".into()), overrides, show_config: Some("all".to_owned()) };
        let folder = std::env::current_dir().unwrap().join("conf").into_os_string();
        let expected: [OsString; 6] =
            ["--config".into(), folder, "-o".into(), "a=1".into(), "-o".into(), "{ b = 2 }".into()];
        assert_eq!(common.arguments(), expected);
        assert_eq!(Common::default().arguments(), [] as [OsString; 0]);
    }
}
