//! Under which name smtpd was started, and so which letters, long names and defaults hold.
//!
//! The long options hold under every name; the letters are those of the page of that name, and no others but `-o`,
//! `-h` and `-V`, which all our programs have. Where a page and the program it described differ, the page holds.

use super::one_client::{by_letters, has_value};
use super::pool::Mode;
use super::program::last_component;
use clap::{Arg, Command};
use std::ffi::{OsStr, OsString};

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
        let command = self.defaults().into_iter().fold(command, |command, (id, default)| {
            command.mut_arg(id, |arg| {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                arg.help(format!("{help} (default: {default})"))
            })
        });
        match self {
            Personality::Smtpd => command,
            Personality::Forkserver => command.name("qpsmtpd-forkserver").infer_long_args(true),
            Personality::Prefork => command.name("qpsmtpd-prefork").infer_long_args(true),
        }
    }

    /// A command line, for a command that was dressed. The programs of qpsmtpd read theirs by Getopt::Long: a long name of
    /// the page also stands behind one hyphen, and letters of the other case do for it, and for a letter that there is not.
    pub fn words(self, command: &Command, mut words: impl Iterator<Item = OsString>) -> Vec<OsString> {
        if !self.takes_beginnings() {
            return words.collect();
        }
        let mut read: Vec<OsString> = words.next().into_iter().collect();
        while let Some(word) = words.next() {
            let word = self.with_two_hyphens(command, word);
            let value_is_next = value_is_next(command, &word.to_string_lossy());
            read.push(word);
            match value_is_next {
                Some(true) => read.extend(words.next()),
                Some(false) => {}
                // What follows is the program's.
                None => read.extend(words.by_ref()),
            }
        }
        read
    }

    /// Which letter of the page it is, with its hyphen, in this case or else in the other one.
    fn letter(self, written: &str) -> Option<char> {
        let mut letters = written.strip_prefix('-')?.chars();
        let letter = letters.next().filter(|_| letters.next().is_none())?;
        let is_there = |letter: &char| self.page().iter().any(|(_, known)| *known == Some(*letter));
        [letter, letter.to_ascii_lowercase()].into_iter().find(is_there)
    }

    /// `--p=25` as `-p=25`, `-port=25` as `--port=25`; `-p25` and `-dH`, which begin no long name, and all else as it is.
    fn with_two_hyphens(self, command: &Command, word: OsString) -> OsString {
        let Some(text) = word.to_str().filter(|text| text.starts_with('-')) else { return word };
        let (written, value) = text.split_at(text.find('=').unwrap_or(text.len()));
        let lower = written.to_ascii_lowercase();
        if let Some(letter) = written.strip_prefix('-').and_then(|letter| self.letter(letter)) {
            return format!("-{letter}{value}").into();
        }
        let has = |written: &str| {
            let mut letters = written.chars().skip(1);
            let (letter, is_alone) = (letters.next(), letters.next().is_none());
            is_alone && command.get_arguments().any(|arg| letter.is_some() && arg.get_short() == letter)
        };
        let begun = |begun: &str| self.page().iter().filter(|(long, _)| long.starts_with(begun)).count();
        match lower.strip_prefix('-') {
            Some(name) if name.starts_with('-') => format!("{lower}{value}").into(),
            Some(name) if name.len() > 1 && begun(name) == 1 => format!("-{lower}{value}").into(),
            Some(_) if has(&lower) && !has(written) => format!("{lower}{value}").into(),
            _ => word,
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

    /// What holds for options that are not given, as the help says it.
    fn defaults(self) -> Vec<(&'static str, String)> {
        let of_main_cf = |number: Option<usize>, else_: &str| number.map_or(else_.to_owned(), |n| n.to_string());
        let (children, idle, _) = self.pool();
        let limit = if self == Personality::Smtpd { "maxconnects" } else { "limit_connections" };
        vec![
            (limit, self.limit().to_string()),
            ("mode", if self.mode() == Mode::Pool { "pool" } else { "exec" }.to_owned()),
            ("children", of_main_cf(children, "as many as connections")),
            ("idle_children", of_main_cf(idle, "idle_children of main.cf")),
            ("renice_parent", self.renice().to_string()),
            ("port", self.port().to_owned()),
        ]
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

/// Whether an option's value is the next word; nothing: this word is no option, or the end of them.
fn value_is_next(command: &Command, word: &str) -> Option<bool> {
    let option = word.strip_prefix('-').filter(|option| !matches!(*option, "" | "-"))?;
    let Some(long) = option.strip_prefix('-') else { return Some(by_letters(command, option).1) };
    let has = |arg: &Arg, is_it: &dyn Fn(&str) -> bool| {
        arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default()).any(is_it)
    };
    let whole = command.get_arguments().find(|arg| has(arg, &|name| name == long));
    let begun = || command.get_arguments().find(|arg| has(arg, &|name| name.starts_with(long)));
    Some(whole.or_else(begun).is_some_and(has_value))
}

#[cfg(test)]
mod tests {
    use super::super::command_line::Args;
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_name_is_the_last_component_and_exact() {
        let of = |name: &str| Personality::of(OsStr::new(name));
        assert_eq!(of("/usr/bin/qpsmtpd-forkserver"), Personality::Forkserver);
        assert_eq!(of("qpsmtpd-prefork"), Personality::Prefork);
        for name in ["smtpd", "", "qpsmtpd", "xqpsmtpd-prefork", "qpsmtpd-prefork.old", "qpsmtpd-prefork/smtpd"] {
            assert_eq!(of(name), Personality::Smtpd, "{name}");
        }
    }

    #[test]
    fn the_help_of_each_name_has_its_own_defaults() {
        let help = |personality: Personality| personality.dress(Args::command()).render_help().to_string();
        for (personality, own, of_others) in [
            (
                Personality::Smtpd,
                ["connections at once (default: 4)", "repeated (default: smtp)", "(default: exec)"],
                "2525",
            ),
            (Personality::Forkserver, ["(default: 15)", "(default: 2525)", "(default: pool)"], "default: 4)"),
            (Personality::Prefork, ["(default: 5)", "connections (default: 15)", "(default: 2525)"], "default: 4)"),
        ] {
            let help = help(personality).split_whitespace().collect::<Vec<_>>().join(" ");
            for words in own {
                assert!(help.contains(words), "{personality:?}: {words} in {help}");
            }
            assert!(
                !help.split("Forms:").next().is_some_and(|help| help.contains(of_others)),
                "{personality:?}: {help}"
            );
        }
    }

    #[test]
    fn long_names_of_the_page_may_stand_behind_one_hyphen() {
        let read = |personality: Personality, text: &str| {
            let words = ["name"].into_iter().chain(text.split(' ')).map(OsString::from);
            let read = personality.words(&personality.dress(Args::command()), words);
            read[1..].iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (given, expected) in [
            ("-port 25 -max=5 -limit-connections 9", "--port 25 --max=5 --limit-connections 9"),
            ("-detach -no-rdns -l ::1 -listen-address ::2", "--detach --no-rdns -l ::1 --listen-address ::2"),
            // Letters, with values or together, and what is the beginning of several or of none.
            ("-p25 -dH -Hd -h -V -li -lo -x", "-p25 -dH -Hd -h -V -li -lo -x"),
            ("--p 26 --c=40 --l 127.0.0.1 --H --d --P 1", "-p 26 -c=40 -l 127.0.0.1 -H -d -p 1"),
            // Getopt::Long's ignore_case.
            ("-P 25 -PORT=26 --Port 27 -D -H", "-p 25 --port=26 --port 27 -d -H"),
            // Values, of options that are not the page's too.
            (
                "-u -port -o -port=1 --status-file -port --serv -port",
                "-u -port -o -port=1 --status-file -port --serv -port",
            ),
            ("-o children=5 -port 25", "-o children=5 --port 25"),
            ("--show-config -port 25", "--show-config --port 25"),
            // What is the program's.
            ("-port 25 smtpsrvr -port", "--port 25 smtpsrvr -port"),
            ("-- -port", "-- -port"),
            ("- -port", "- -port"),
        ] {
            assert_eq!(read(Personality::Forkserver, given), expected);
            assert_eq!(read(Personality::Smtpd, given), given, "under the name that is not qpsmtpd's");
        }
        assert_eq!(
            read(Personality::Prefork, "-pretty -vers -inter ::1 -renice -4"),
            "--pretty --vers --inter ::1 --renice -4"
        );
    }
}
