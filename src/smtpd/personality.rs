//! Under which name smtpd was started, and so which letters, long names and defaults hold.
//!
//! The long options hold under every name; the letters are those of the page of that name, and no others but `-o`,
//! `-h` and `-V`, which all our programs have. Where a page and the program it described differ, the page holds.

use super::pool::Mode;
use super::program::last_component;
use clap::Command;
use std::ffi::OsStr;

/// The programs that smtpd stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Personality {
    /// MMDF's smtpd, and our own everyday form.
    #[default]
    Smtpd,
    /// `qpsmtpd-forkserver`.
    Forkserver,
    /// `qpsmtpd-prefork`.
    Prefork,
}

impl Personality {
    /// By the last component of `argv[0]`, exactly.
    pub fn of(argv0: &OsStr) -> Personality {
        match last_component(argv0).to_str() {
            Some("qpsmtpd-forkserver") => Personality::Forkserver,
            Some("qpsmtpd-prefork") => Personality::Prefork,
            _ => Personality::Smtpd,
        }
    }

    /// Of this process.
    pub fn of_this_process() -> Personality {
        std::env::args_os().next().map_or(Personality::Smtpd, |argv0| Personality::of(&argv0))
    }

    /// The letters, and what they stand for.
    fn letters(self) -> &'static [(&'static str, char)] {
        match self {
            Personality::Smtpd => &[("debug", 'd'), ("finicky", 'f'), ("maxconnects", 'n')],
            Personality::Forkserver => &[
                ("port", 'p'),
                ("user", 'u'),
                ("limit_connections", 'c'),
                ("max_from_ip", 'm'),
                ("listen_address", 'l'),
                ("detach", 'd'),
                ("no_rdns", 'H'),
            ],
            Personality::Prefork => &[],
        }
    }

    /// The long options of the page.
    fn page(self) -> &'static [&'static str] {
        match self {
            Personality::Smtpd => &[],
            Personality::Forkserver => &[
                "port",
                "user",
                "limit-connections",
                "max-from-ip",
                "listen-address",
                "detach",
                "pid-file",
                "no-rdns",
                "help",
            ],
            Personality::Prefork => &[
                "port",
                "user",
                "limit-connections",
                "max-from-ip",
                "children",
                "idle-children",
                "listen-address",
                "interface",
                "renice-parent",
                "detach",
                "pid-file",
                "pretty-child",
                "version",
                "debug",
                "verbose",
                "quiet",
                "help",
            ],
        }
    }

    /// What begins one option of the page and no other one, and stands for that whatever other options we have.
    fn beginnings(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let page = self.page();
        let of = move |long: &'static str| {
            let begun = (1..long.len()).filter_map(|end| long.get(..end));
            let is_one = move |begun: &&str| page.iter().filter(|other| other.starts_with(*begun)).count() == 1;
            begun.filter(is_one).map(move |begun| (long, begun))
        };
        page.iter().flat_map(move |long| of(long))
    }

    /// Gives a command line the letters of this name. The qpsmtpd programs took any beginning of a long name that is
    /// nobody else's.
    pub fn dress(self, command: Command) -> Command {
        let given = self.letters().iter().filter(|(id, _)| command.get_arguments().any(|arg| arg.get_id() == id));
        let given: Vec<_> = given.collect();
        let command =
            given.into_iter().fold(command, |command, (id, letter)| command.mut_arg(id, |arg| arg.short(*letter)));
        let command = self.beginnings().fold(command, |command, (long, begun)| {
            let is_it = |arg: &&clap::Arg| {
                arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|all| all.contains(&long))
            };
            let id = command.get_arguments().find(is_it).map(|arg| arg.get_id().clone());
            match id {
                Some(id) => command.mut_arg(id, |arg| arg.alias(begun)),
                None => command,
            }
        });
        match self {
            Personality::Smtpd => command,
            Personality::Forkserver => command.name("qpsmtpd-forkserver").infer_long_args(true),
            Personality::Prefork => command.name("qpsmtpd-prefork").infer_long_args(true),
        }
    }

    /// The port where none is given.
    pub fn port(self) -> &'static str {
        match self {
            Personality::Smtpd => "smtp",
            Personality::Forkserver | Personality::Prefork => "2525",
        }
    }

    /// Whether a server program of ours is a pool where nothing is said.
    pub fn mode(self) -> Mode {
        match self {
            Personality::Smtpd => Mode::Exec,
            Personality::Forkserver | Personality::Prefork => Mode::Pool,
        }
    }

    /// Children of a pool, those of them that wait, and connections that one serves; nothing: as main.cf says. The numbers
    /// are those that the programs had.
    pub fn pool(self) -> (Option<usize>, Option<usize>, Option<u32>) {
        match self {
            Personality::Smtpd => (None, None, None),
            Personality::Forkserver => (None, Some(0), Some(1)),
            Personality::Prefork => (Some(15), Some(5), Some(100)),
        }
    }

    /// What is added to our niceness.
    pub fn renice(self) -> i32 {
        match self {
            Personality::Smtpd | Personality::Forkserver => 0,
            Personality::Prefork => 5,
        }
    }

    /// Connections at once where no number is given; 0: no limit.
    pub fn limit(self) -> u32 {
        match self {
            Personality::Smtpd => 4,
            Personality::Forkserver => 15,
            Personality::Prefork => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_component_and_exact() {
        let of = |name: &str| Personality::of(OsStr::new(name));
        assert_eq!(of("/usr/bin/qpsmtpd-forkserver"), Personality::Forkserver);
        assert_eq!(of("qpsmtpd-prefork"), Personality::Prefork);
        for name in ["smtpd", "", "qpsmtpd", "xqpsmtpd-prefork", "qpsmtpd-prefork.old", "qpsmtpd-prefork/smtpd"] {
            assert_eq!(of(name), Personality::Smtpd, "{name}");
        }
    }
}
