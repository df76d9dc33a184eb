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

    /// The options of the page of this name: the long name, and the letter where there is one. Of the name of ours, what
    /// has a letter.
    fn page(self) -> &'static [(&'static str, Option<char>)] {
        match self {
            Personality::Smtpd => &[("debug", Some('d')), ("finicky", Some('f')), ("maxconnects", Some('n'))],
            Personality::Forkserver => &[
                ("port", Some('p')),
                ("user", Some('u')),
                ("limit-connections", Some('c')),
                ("max-from-ip", Some('m')),
                ("listen-address", Some('l')),
                ("detach", Some('d')),
                ("no-rdns", Some('H')),
                ("pid-file", None),
                ("help", None),
            ],
            Personality::Prefork => &[
                ("port", None),
                ("user", None),
                ("limit-connections", None),
                ("max-from-ip", None),
                ("children", None),
                ("idle-children", None),
                ("listen-address", None),
                ("interface", None),
                ("renice-parent", None),
                ("detach", None),
                ("pid-file", None),
                ("pretty-child", None),
                ("version", None),
                ("debug", None),
                ("verbose", None),
                ("quiet", None),
                ("help", None),
            ],
        }
    }

    /// The qpsmtpd programs took any beginning of a long name that is nobody else's.
    fn takes_beginnings(self) -> bool {
        self != Personality::Smtpd
    }

    /// What begins this option of the page and no other one, and so stands for it whatever other options we have.
    fn beginnings(self, long: &'static str) -> impl Iterator<Item = &'static str> {
        let is_its_own = move |begun: &&str| {
            self.takes_beginnings() && self.page().iter().filter(|(other, _)| other.starts_with(*begun)).count() == 1
        };
        (1..long.len()).filter_map(|end| long.get(..end)).filter(is_its_own)
    }

    /// Gives a command line the letters of this name, and what its long options may be cut to.
    pub fn dress(self, command: Command) -> Command {
        let command = self.page().iter().fold(command, |command, (long, letter)| {
            let is_it = |arg: &&clap::Arg| {
                arg.get_long() == Some(*long) || arg.get_all_aliases().is_some_and(|all| all.contains(long))
            };
            let Some(id) = command.get_arguments().find(is_it).map(|arg| arg.get_id().clone()) else { return command };
            command.mut_arg(id, |arg| {
                let arg = if letter.is_some() { arg.short(*letter) } else { arg };
                self.beginnings(long).fold(arg, clap::Arg::alias)
            })
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
