//! The command line of pop3d: the options of GNU Mailutils' page by their own names, which set parameters of ours.
//!
//! Mailutils glues the number to `-d`, so `-d 5` is an operand too many here as it is there.

use crate::cli::{self, Common};
use crate::config::shown;
use crate::config::value::{AuthMethod, Expire, Facility, List, MailboxSpec, OptionalPath, Users, Value, placeholders};
use crate::exit::Error;
use crate::mailbox::import::Source;
use clap::{ArgAction, ArgGroup, CommandFactory, Parser};
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Let one client read its mail by POP3 on standard input and output
#[derive(Debug, Default, Parser)]
#[command(name = "pop3d", version, disable_version_flag = true, disable_help_flag = true)]
#[command(group = ArgGroup::new("standalone").args(["daemon", "port"]).multiple(true))]
pub struct Args {
    /// Serve the client on standard input and output (the default)
    #[arg(short, long, overrides_with = "daemon")]
    pub inetd: bool,
    /// Listen, and serve each connection in a child, NUMBER at most (10)
    #[arg(short, long, value_name = "NUMBER", num_args = 0..=1, default_missing_value = "10", overrides_with = "inetd",
          value_parser = cli::positive)]
    pub daemon: Option<NonZeroU32>,
    /// Listen there: a port or service, perhaps with addresses before it and a colon (110); implies -d, and is nothing with -i
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<String>,
    /// With -d, go into the background when it listens
    #[arg(long, requires = "standalone", conflicts_with = "inetd")]
    pub detach: bool,
    /// With -d, put the process id into a file
    #[arg(short = 'P', long, value_name = "FILE", requires = "standalone", conflicts_with = "inetd")]
    pub pidfile: Option<PathBuf>,
    /// End the session of a client that was silent for so long: pop3d_timeout
    #[arg(short, long, value_name = "SECONDS", value_parser = cli::positive, allow_negative_numbers = true)]
    pub timeout: Option<NonZeroU32>,
    /// The folder of the mailboxes, which are mbox; or a format and a folder: mailbox
    #[arg(short, long, value_name = "PATH")]
    pub mail_spool: Option<String>,
    /// Take the deletion marks of other programs off the messages of a Maildir: pop3d_undelete
    #[arg(long)]
    pub undelete: bool,
    /// Shortest time between two sessions of a user: pop3d_login_delay
    #[arg(long, value_name = "SECONDS", value_parser = cli::number, allow_negative_numbers = true)]
    pub login_delay: Option<u32>,
    /// Where the times of the last sessions are: pop3d_stat_file
    #[arg(long, value_name = "PATH")]
    pub stat_file: Option<String>,
    /// Days that a message stays after it was fetched: pop3d_expire
    #[arg(long, value_name = "DAYS")]
    pub expire: Option<String>,
    /// Remove messages at QUIT that are as old as --expire says: pop3d_delete_expired
    #[arg(long)]
    pub delete_expired: bool,
    /// How mailboxes are locked: E, by --external-locker; R, try again; T, steal an old lock; P, of a dead process (always)
    #[arg(long, value_name = "LETTERS")]
    pub lock_flags: Option<String>,
    /// The program that makes dot locks instead: external_locker
    #[arg(long, value_name = "PROGRAM")]
    pub external_locker: Option<String>,
    /// How often a lock is tried: deliver_lock_attempts
    #[arg(long, value_name = "NUMBER", value_parser = cli::number, allow_negative_numbers = true)]
    pub lock_retry_count: Option<u32>,
    /// Time between two tries: deliver_lock_delay
    #[arg(long, value_name = "SECONDS", value_parser = cli::number, allow_negative_numbers = true)]
    pub lock_retry_timeout: Option<u32>,
    /// Age of a lock that may be stolen: stale_lock_time
    #[arg(long, value_name = "SECONDS", value_parser = cli::number, allow_negative_numbers = true)]
    pub lock_expire_timeout: Option<u32>,
    /// Facility of log records: syslog_facility
    #[arg(long, value_name = "FACILITY")]
    pub log_facility: Option<String>,
    /// Tag of log records: syslog_name
    #[arg(long, value_name = "TAG")]
    pub log_tag: Option<String>,
    /// Log what clients say and are answered: pop3d_transcript
    #[arg(short = 'x', long)]
    pub transcript: bool,
    /// The file in /etc/pam.d: pam_service
    #[arg(long, value_name = "NAME")]
    pub pam_service: Option<String>,
    /// How passwords are checked, a list: authentication
    #[arg(long, value_name = "LIST")]
    pub authentication: Option<String>,
    /// Where users are looked up, a list: users
    #[arg(long, value_name = "LIST")]
    pub authorization: Option<String>,
    /// Begin with TLS, before the greeting, as on port 995
    #[arg(long)]
    pub tls: bool,
    /// Take the unique-ids of another server over for --user, and exit: dovecot or dovecot:FORMAT, courier, x-uidl
    #[arg(long, value_name = "SOURCE", requires = "user", conflicts_with_all = ["standalone", "inetd", "tls"])]
    pub import_unique_ids: Option<String>,
    /// Whose mailbox that is for
    #[arg(long, value_name = "NAME", requires = "import_unique_ids")]
    pub user: Option<String>,
    /// Write the session to a new file, as a transcript that can be played again
    #[arg(long, value_name = "FILE", conflicts_with = "standalone")]
    pub record: Option<PathBuf>,
    /// For tests: number challenges, so that a file or pipe gets the same replies each time
    #[arg(long, value_name = "SECONDS", conflicts_with = "standalone",
          value_parser = cli::number, allow_negative_numbers = true)]
    pub fixed: Option<u32>,
    /// What all programs have.
    #[command(flatten)]
    pub common: Common,
    /// Print this help and exit
    #[arg(short, long, short_alias = '?', action = ArgAction::Help)]
    help: Option<bool>,
    /// Print the version and exit
    #[arg(short = 'v', long, short_alias = 'V', action = ArgAction::Version)]
    version: Option<bool>,
}

/// Where `-d` has no number.
const CHILDREN: u32 = 10;

impl Args {
    /// Reads them, and puts what they set before the settings of `-o`, which so have the last word.
    pub fn read() -> Result<Args, Error> {
        if std::env::args_os().len() <= 1 {
            return Ok(Args::default());
        }
        Args::of(&std::env::args_os().collect::<Vec<_>>(), cli::parse_words)
    }

    /// What another program would have it started with, name and words.
    pub fn of_another(words: &[OsString]) -> Result<Args, Error> {
        Args::of(words, cli::of_another)
    }

    fn of(words: &[OsString], read: fn(clap::Command, Vec<OsString>) -> Result<Args, Error>) -> Result<Args, Error> {
        let is_number = |word: &OsString| word.to_str().is_some_and(|word| word.parse::<u32>().is_ok());
        if words
            .iter()
            .skip(1)
            .zip(words.iter().skip(2))
            .any(|(one, two)| one.to_str().is_some_and(is_daemon) && is_number(two))
        {
            return Err(Error::Usage("expected the number next to -d, without a blank".to_owned()));
        }
        let mut args = read(abbreviated(), words.to_vec())?;
        let settings = args.settings()?;
        args.common.overrides.splice(0..0, settings);
        Ok(args)
    }

    fn settings(&self) -> Result<Vec<String>, Error> {
        let mut settings = Vec::new();
        let mut set = |name: &str, value: Option<String>| {
            settings.extend(value.map(|value| format!("{name}={}", value.replace('$', "$$"))));
        };
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        set("pop3d_timeout", number(self.timeout.map(NonZeroU32::get)));
        set("mailbox", self.mail_spool.as_deref().map(spool).transpose()?);
        set("pop3d_undelete", self.undelete.then(|| "yes".to_owned()));
        set("pop3d_login_delay", number(self.login_delay));
        set("pop3d_stat_file", checked::<PathBuf>("--stat-file", self.stat_file.as_deref())?);
        if let Some(letters) = &self.lock_flags {
            if let Some(wrong) = letters.chars().find(|letter| !"ERTP".contains(*letter)) {
                return Err(wrong_value("--lock-flags", &wrong.to_string(), "letters of ERTP"));
            }
            if letters.contains('E') && self.external_locker.is_none() {
                // Mailutils' default, where Debian's package has it.
                set("external_locker", Some("/usr/bin/dotlock.mailutils".to_owned()));
            }
            set("deliver_lock_attempts", (!letters.contains('R')).then(|| "1".to_owned()));
            set("stale_lock_time", (!letters.contains('T')).then(|| "0".to_owned()));
        }
        set("external_locker", checked::<OptionalPath>("--external-locker", self.external_locker.as_deref())?);
        set("deliver_lock_attempts", number(self.lock_retry_count));
        set("deliver_lock_delay", number(self.lock_retry_timeout));
        set("stale_lock_time", number(self.lock_expire_timeout));
        set("pop3d_expire", checked::<Expire>("--expire", self.expire.as_deref())?);
        set("pop3d_delete_expired", self.delete_expired.then(|| "yes".to_owned()));
        set("pop3d_transcript", self.transcript.then(|| "yes".to_owned()));
        if let Some(name) = self.pam_service.as_ref().filter(|name| name.is_empty() || name.contains('/')) {
            return Err(wrong_value("--pam-service", name, "the name of a file in /etc/pam.d"));
        }
        set("pam_service", self.pam_service.clone());
        set("syslog_facility", checked::<Facility>("--log-facility", self.log_facility.as_deref())?);
        if self.log_tag.as_ref().is_some_and(String::is_empty) {
            return Err(wrong_value("--log-tag", "", "a tag"));
        }
        set("syslog_name", self.log_tag.clone());
        // Mailutils puts colons between methods, which our methods may contain.
        let colons = |list: &String| if list.contains('/') { list.clone() } else { list.replace(':', ",") };
        let methods = self.authentication.as_ref().map(colons);
        set("authentication", checked::<List<AuthMethod>>("--authentication", methods.as_deref())?);
        let sources = self.authorization.as_ref().map(colons);
        set("users", checked::<Users>("--authorization", sources.as_deref())?);
        self.import()?;
        Ok(settings)
    }

    /// How many children a server that listens by itself may have, if this is to be one.
    pub fn children(&self) -> Option<NonZeroU32> {
        self.daemon.or(self.port.as_ref().filter(|_| !self.inetd).and(NonZeroU32::new(CHILDREN)))
    }

    /// Whose unique-ids are to be taken over.
    pub fn import(&self) -> Result<Option<(Source, &str)>, Error> {
        let (Some(source), Some(user)) = (&self.import_unique_ids, &self.user) else { return Ok(None) };
        match Source::parse(source) {
            Ok(source) => Ok(Some((source, user))),
            Err(expected) => Err(wrong_value("--import-unique-ids", source, &expected)),
        }
    }
}

/// Long options may be cut short as with getopt_long and argp, which read the command lines whose place ours takes.
fn abbreviated() -> clap::Command {
    Args::command().infer_long_args(true)
}

/// Whether an argument is `-d`, in one of its spellings; a shorter one could be another option too.
fn is_daemon(argument: &str) -> bool {
    argument == "-d" || (argument.starts_with("--da") && "--daemon".starts_with(argument))
}

/// Whether a command line, name and words, is that of a server that listens by itself, as far as that can be told before it is
/// read: by the last option that says so, or not.
pub fn listens(words: &[OsString]) -> bool {
    let is_cut = |whole: &str, name: &str, least: usize| name.len() >= least && whole.starts_with(name);
    // Nothing yet, or what was said last; a port says it only where nothing else does.
    let mut said = None;
    for word in words.iter().skip(1).map(|word| word.to_string_lossy()).take_while(|word| word != "--") {
        if word.starts_with("--") {
            let name = word.split('=').next().unwrap_or_default();
            if is_daemon(name) {
                said = Some(true);
            } else if is_cut("--inetd", name, "--in".len()) {
                said = Some(false);
            } else if is_cut("--port", name, "--po".len()) {
                said = said.or(Some(true));
            }
        } else if let Some(letters) = word.strip_prefix('-') {
            for letter in letters.chars() {
                said = match letter {
                    'd' => Some(true),
                    'i' => Some(false),
                    'p' => said.or(Some(true)),
                    _ => said,
                };
                // The rest is its value.
                if "dpPtmo".contains(letter) {
                    break;
                }
            }
        }
    }
    said.unwrap_or(false)
}

/// A value as it was given, if it is one.
fn checked<T: Value>(option: &str, value: Option<&str>) -> Result<Option<String>, Error> {
    let Some(value) = value else { return Ok(None) };
    match T::parse(value) {
        Ok(_) if !value.is_empty() => Ok(Some(value.to_owned())),
        Ok(_) => Err(wrong_value(option, value, "a value")),
        Err(expected) => Err(wrong_value(option, value, &expected)),
    }
}

fn wrong_value(option: &str, value: &str, expected: &str) -> Error {
    Error::Usage(format!("{option} {}: expected {expected}", shown(value)))
}

/// `/var/mail` is `mbox:/var/mail/%u`. A `%` that stands for nothing is a character of a folder's name.
fn spool(path: &str) -> Result<String, Error> {
    // A folder of such a name is hardly meant.
    if [";type=", ";param=", ";user="].iter().any(|parameter| path.contains(parameter)) {
        return Err(wrong_value("--mail-spool", path, "%u, %n and %d in place of parameters behind ;"));
    }
    let with_format = if path.starts_with('/') { format!("mbox:{path}") } else { path.to_owned() };
    let letters = placeholders(&with_format);
    let is_at_home = with_format.split_once(':').is_some_and(|(_, path)| path.starts_with("~/"));
    if !letters.is_empty() && !is_at_home && !letters.contains(['u', 'n']) {
        // All users would have the same mailbox.
        return Err(wrong_value("--mail-spool", path, "%u or %n in a path with %d or %%"));
    }
    let is_whole = is_at_home || !letters.is_empty();
    let whole = if is_whole { with_format } else { format!("{}/%u", with_format.trim_end_matches('/')) };
    match MailboxSpec::parse(&whole) {
        Ok(_) => Ok(whole),
        Err(expected) => Err(wrong_value("--mail-spool", path, &format!("a folder, or {expected}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn settings(words: &[&str]) -> Result<Vec<String>, String> {
        let matches = abbreviated().try_get_matches_from([&["pop3d"], words].concat());
        let args = matches.and_then(|matches| Args::from_arg_matches(&matches)).map_err(|error| error.to_string())?;
        args.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn options_set_parameters() {
        for (words, expected) in [
            (&["-m", "/var/mail"][..], &["mailbox=mbox:/var/mail/%u"][..]),
            (&["--mail-spool=maildir:/mail/"], &["mailbox=maildir:/mail/%u"]),
            (&["-m", "mmdf:~/mailbox"], &["mailbox=mmdf:~/mailbox"]),
            (&["-m", "/srv/100%mail"], &["mailbox=mbox:/srv/100%mail/%u"]),
            (&["-m", "/srv/a~/%"], &["mailbox=mbox:/srv/a~/%/%u"]),
            (&["-m", "maildir:/srv/%d/%n"], &["mailbox=maildir:/srv/%d/%n"]),
            (&["-m", "/srv/50%%users/%u"], &["mailbox=mbox:/srv/50%%users/%u"]),
            (&["-m", "mbox:~/%d"], &["mailbox=mbox:~/%d"]),
            (&["--time=60", "--undel", "--mail=/m"], &["pop3d_timeout=60", "mailbox=mbox:/m/%u", "pop3d_undelete=yes"]),
            (&["--lock-e=7", "--log-t", "x"], &["stale_lock_time=7", "syslog_name=x"]),
            (&["-t", "60", "--undelete"], &["pop3d_timeout=60", "pop3d_undelete=yes"]),
            (&["--login-delay=30", "--stat-file=/x"], &["pop3d_login_delay=30", "pop3d_stat_file=/x"]),
            (&["--lock-flags=RT"], &[]),
            (&["--lock-flags=ERT", "--external-locker=/x"], &["external_locker=/x"]),
            (&["--lock-flags=ERT"], &["external_locker=/usr/bin/dotlock.mailutils"]),
            (&["--expire=7", "--delete-expired"], &["pop3d_expire=7", "pop3d_delete_expired=yes"]),
            (&["-x", "--pam-service=pop3"], &["pop3d_transcript=yes", "pam_service=pop3"]),
            (&["--authorization=system,passwd-file:/x"], &["users=system,passwd-file:/x"]),
            (&["--authentication=pam:system"], &["authentication=pam,system"]),
            (&["--lock-flags=P"], &["deliver_lock_attempts=1", "stale_lock_time=0"]),
            (&["--log-facility=LOG_LOCAL3", "--log-tag=x"], &["syslog_facility=LOG_LOCAL3", "syslog_name=x"]),
            (&["--authentication=generic:system"], &["authentication=generic,system"]),
            (&["--authorization=passwd-file:/x"], &["users=passwd-file:/x"]),
        ] {
            assert_eq!(settings(words).unwrap(), expected, "{words:?}");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_says_what_was_expected() {
        for words in [
            &["-m", "mail"][..],
            &["-m", "maildir:/srv/%d"],
            &["-m", "/srv/50%%users"],
            &["-m", "/srv/%%u"],
            &["--lock=RT"],
            &["--d=5"],
            &["--lock-flags=X"],
            &["--external-locker=dotlock"],
            &["--expire=soon"],
            &["--expire=-1"],
            &["--detach"],
            &["-P", "/x"],
            &["--import-unique-ids=cyrus", "--user=bob"],
            &["--import-unique-ids=courier"],
            &["--user=bob"],
            &["--log-facility=post"],
            &["--authentication=sql"],
            &["--authorization=virtdomain"],
            &["--stat-file=x"],
            &["--login-delay=soon"],
            &["-d0"],
            &["-dx"],
            &["-i", "--detach"],
            &["-i", "-P", "/x"],
            &["-p", "110", "--record", "/x"],
            &["-t", "0"],
            &["--log-tag="],
            &["--pam-service="],
            &["--pam-service=../x"],
            &["-m", "mbox:/var/mail;type=index;param=1;user="],
            &["-t", "-1"],
        ] {
            assert!(settings(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_told_what_was_expected() {
        for (words, expected) in [
            (&["-t", "-1"][..], "from 1 to"),
            (&["-t0"], "from 1 to"),
            (&["-dmany"], "from 1 to"),
            (&["--login-delay=soon"], "from 0 to"),
            (&["--lock-retry-count", "-1"], "from 0 to"),
        ] {
            let problem = settings(words).unwrap_err();
            assert!(problem.contains(&format!("expected a number {expected} 4294967295")), "{words:?}: {problem}");
        }
    }

    #[test]
    fn the_number_of_children_stands_next_to_its_letter() {
        let daemon = |word: &str| Args::try_parse_from(["pop3d", word]).unwrap().children().map(NonZeroU32::get);
        assert_eq!([daemon("-d"), daemon("-d3"), daemon("--daemon=4"), daemon("--daemon")], [10, 3, 4, 10].map(Some));
        assert_eq!(daemon("-i"), None);
        for (word, is_it) in [("-d", true), ("--da", true), ("--daemon", true), ("--d", false), ("--daemons", false)] {
            assert_eq!(is_daemon(word), is_it, "{word}");
        }
        // Of the two ways to serve the last one holds.
        let last = |words: [&str; 3]| Args::try_parse_from(words).unwrap().children().map(NonZeroU32::get);
        assert_eq!((last(["pop3d", "-i", "-d4"]), last(["pop3d", "-d4", "-i"])), (Some(4), None));
        // A port means nothing to who does not listen.
        assert_eq!((last(["pop3d", "-i", "-p110"]), last(["pop3d", "-p110", "-i"])), (None, None));
    }

    #[test]
    fn who_listens_is_known_before_the_command_line_is_read() {
        let listens = |line: &str| listens(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        for line in
            ["-d", "-d5", "-xd", "-p 110", "-p110", "--daemon=3", "--da", "--port=110", "--po 1", "-i -d", "-o a -d"]
        {
            assert!(listens(&format!("pop3d {line}")), "{line}");
        }
        for line in [
            "",
            "-i",
            "-x",
            "-m/var/mail/d",
            "-t60 -mpd",
            "--pidfile=/d",
            "-P /d",
            "-d -i",
            "-i -p 110",
            "--port=110 -i",
            "-i --po 1",
            "-- -d",
            "--debug",
            "-od=1",
        ] {
            assert!(!listens(&format!("pop3d {line}")), "{line}");
        }
    }

    #[test]
    fn who_names_a_port_wants_a_server_that_listens() {
        for words in [&["-p", "1110"][..], &["--port=1110", "--detach"], &["-p1110", "-P", "/x"]] {
            let args = Args::try_parse_from([&["pop3d"], words].concat()).unwrap();
            assert_eq!(args.children().map(NonZeroU32::get), Some(10), "{words:?}");
        }
    }
}
