//! The command line of `sendmail`, which no library of today reads: `-oi`, `-fFROM` and `-f FROM`, `-bs`, several letters in
//! one word.

use crate::config::shown;
use crate::exit::Error;
use crate::message::parameters::{Notify, Ret, Xtext};
use std::iter::Peekable;
use std::path::PathBuf;

/// What sendmail is asked to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mode {
    /// Take a message (`-bm`).
    #[default]
    Deliver,
    /// Speak SMTP on standard input and output (`-bs`).
    Smtp,
    /// List the queue (`-bp`, `mailq`).
    List,
    /// Check the alias file (`-bi`, `-I`, `newaliases`).
    Aliases,
    /// Say what would become of addresses (`-bv`).
    Verify,
    /// Try what waits now (`-q`); a pattern limits it (`-qI`, `-qR`, `-qS`).
    Flush(Option<String>),
}

/// The command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// What to do.
    pub mode: Mode,
    /// `-f`, `-r`: where failures go.
    pub from: Option<String>,
    /// `-F`: the full name for From.
    pub full_name: Option<String>,
    /// `-G`: it has been here before, and comes back from a filter.
    pub from_filter: bool,
    /// `-t`: recipients are in the header.
    pub from_header: bool,
    /// `-i`, `-oi`: a dot alone is a line like others.
    pub keep_dots: bool,
    /// `-v`: say what was done.
    pub verbose: bool,
    /// `-N`: when to tell the sender.
    pub notify: Option<Notify>,
    /// `-R`: how much comes back.
    pub ret: Option<Ret>,
    /// `-V`: the sender's name for the message.
    pub envid: Option<Xtext>,
    /// `-XV`: each recipient gets the message from a sender of his own, in which this and `=` are the delimiters.
    pub verp: Option<u8>,
    /// `-B 8BITMIME`.
    pub is_eight_bit: bool,
    /// `-C`: the folder of main.cf, or main.cf itself.
    pub config: Option<PathBuf>,
    /// `-h`, `--help`.
    pub help: bool,
    /// `--version`.
    pub version: bool,
    /// The operands.
    pub recipients: Vec<String>,
}

/// Letters whose value is the rest of the word, or the next word.
const WITH_VALUE: &str = "ABCFLMNORVXbefhopr";

/// Letters whose value, if there is one, is the rest of the word.
const WITH_REST: &str = "dq";

/// Letters that stand alone.
const ALONE: &str = "GITUimnstvwx";

impl Options {
    /// Reads them; the words do not include the program's name.
    pub fn read(words: impl IntoIterator<Item = String>) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--" => {
                    options.recipients.extend(words);
                    break;
                }
                "--help" => options.help = true,
                "--version" => options.version = true,
                _ => match word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                    Some(letters) => options.letters(&word, letters, &mut words)?,
                    None => options.recipients.push(word),
                },
            }
        }
        Ok(options)
    }

    fn letters<Words>(&mut self, word: &str, letters: &str, words: &mut Peekable<Words>) -> Result<(), Error>
    where
        Words: Iterator<Item = String>,
    {
        for (at, letter) in letters.char_indices() {
            let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
            if ALONE.contains(letter) {
                self.alone(letter);
                continue;
            }
            if WITH_REST.contains(letter) {
                return self.value(letter, rest);
            }
            if !WITH_VALUE.contains(letter) {
                return Err(Error::Usage(format!("expected an option of sendmail instead of {}", shown(word))));
            }
            // -h alone asks for help, with a number it counts hops.
            let is_number = |word: &String| word.bytes().all(|octet| octet.is_ascii_digit());
            if letter == 'h' && rest.is_empty() && !words.peek().is_some_and(is_number) {
                self.help = true;
                return Ok(());
            }
            let value = if rest.is_empty() { words.next() } else { Some(rest.to_owned()) };
            let value = value.ok_or_else(|| Error::Usage(format!("expected a value behind {}", shown(word))))?;
            return self.value(letter, &value);
        }
        Ok(())
    }

    fn alone(&mut self, letter: char) {
        match letter {
            'i' => self.keep_dots = true,
            't' => self.from_header = true,
            'v' => self.verbose = true,
            'G' => self.from_filter = true,
            'I' => self.mode = Mode::Aliases,
            // No alias is looked up here, nothing runs in the foreground, and no name is asked for.
            _ => {}
        }
    }

    fn value(&mut self, letter: char, value: &str) -> Result<(), Error> {
        let expected = |what: &str| Err(Error::Usage(format!("-{letter} {}: expected {what}", shown(value))));
        match letter {
            'f' | 'r' => self.from = Some(value.to_owned()),
            'F' => self.full_name = Some(value.to_owned()),
            'o' if value == "i" => self.keep_dots = true,
            'B' => match value.to_ascii_uppercase().as_str() {
                "7BIT" => self.is_eight_bit = false,
                "8BITMIME" => self.is_eight_bit = true,
                _ => return expected("7BIT or 8BITMIME"),
            },
            'C' => self.config = Some(PathBuf::from(value)),
            'N' => match notify(value) {
                Some(notify) => self.notify = Some(notify),
                None => return expected("never, or a list of success, failure, delay"),
            },
            'R' => match value.to_ascii_lowercase().as_str() {
                "full" => self.ret = Some(Ret::Full),
                "hdrs" => self.ret = Some(Ret::Hdrs),
                _ => return expected("full or hdrs"),
            },
            'V' => match Some(Xtext::encode(value.as_bytes())).filter(|envid| envid.as_str().len() <= 100) {
                Some(envid) if !value.is_empty() => self.envid = Some(envid),
                _ => return expected("a name of at most 100 characters"),
            },
            // Another word behind -X would be the name of a file for sendmail's own records.
            'X' => match value.strip_prefix('V').map(str::as_bytes) {
                Some([]) => self.verp = Some(b'+'),
                Some([delimiter, b'=']) => self.verp = Some(*delimiter),
                Some(_) => return expected("V, and perhaps two delimiters, the second ="),
                None => {}
            },
            'b' => {
                self.mode = match value {
                    "m" | "a" => Mode::Deliver,
                    "s" => Mode::Smtp,
                    "p" => Mode::List,
                    "i" => Mode::Aliases,
                    "v" => Mode::Verify,
                    "d" | "D" | "l" => return expected("no daemon: smtpd(8) is that"),
                    _ => return expected("m, s, p, i or v"),
                }
            }
            'q' => {
                let pattern = value.split_at_checked(1).filter(|(kind, _)| matches!(*kind, "I" | "R" | "S"));
                match (value, pattern) {
                    (_, Some((_, pattern))) => self.mode = Mode::Flush(Some(pattern.to_owned())),
                    ("", None) => self.mode = Mode::Flush(None),
                    // How often a daemon would look: deliver --watch knows by itself.
                    _ => {}
                }
            }
            // Settings of sendmail's own.
            _ => {}
        }
        Ok(())
    }
}

fn notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("never") {
        return Some(Notify::NEVER);
    }
    let mut notify = Notify::NEVER;
    for word in value.split(',') {
        match word.trim().to_ascii_lowercase().as_str() {
            "success" => notify.success = true,
            "failure" => notify.failure = true,
            "delay" => notify.delay = true,
            _ => return None,
        }
    }
    Some(notify)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, Error> {
        Options::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_lines_of_well_known_programs_are_understood() {
        // Debian's cron, PHP's default, git send-email, mutt, s-nail.
        let cron = read("-i -FCronDaemon -B8BITMIME -oem root").unwrap();
        assert_eq!((cron.keep_dots, cron.full_name.as_deref()), (true, Some("CronDaemon")));
        assert!(cron.is_eight_bit && cron.recipients == ["root"]);
        let php = read("-t -i").unwrap();
        assert!(php.from_header && php.keep_dots);
        assert_eq!(read("-ti -fwww@x.example").unwrap().from.as_deref(), Some("www@x.example"));
        let mutt = read("-oem -oi -f alice@x.example -N delay,failure -R hdrs -- bob -odd@x.example").unwrap();
        assert_eq!(mutt.recipients, ["bob", "-odd@x.example"]);
        assert_eq!(mutt.notify, Some(Notify { success: false, failure: true, delay: true }));
        assert_eq!((mutt.ret, mutt.keep_dots), (Some(Ret::Hdrs), true));
        // Postfix's and sendmail's letters that take the next word.
        assert_eq!(read("-e m -A c -M id -d0.1 -em x@y").unwrap().recipients, ["x@y"]);
        assert_eq!(read("-i -m -v x@y -r a@b -V id -O X=y -p 25 -h 3 -L tag -odq -ba").unwrap().recipients, ["x@y"]);
    }

    #[test]
    fn modes_and_queue_patterns_are_told_apart() {
        for (line, mode) in [
            ("-bs", Mode::Smtp),
            ("-bp", Mode::List),
            ("-bi", Mode::Aliases),
            ("-I", Mode::Aliases),
            ("-bv a", Mode::Verify),
            ("-q", Mode::Flush(None)),
            ("-qRx.example", Mode::Flush(Some("x.example".into()))),
            ("-q30m a", Mode::Deliver),
            ("-b m a", Mode::Deliver),
        ] {
            assert_eq!(read(line).unwrap().mode, mode, "{line}");
        }
    }

    #[test]
    fn xv_has_one_sender_for_each_recipient_and_v_names_the_message() {
        let verp = |line| read(line).unwrap().verp;
        assert_eq!((verp("-XV a"), verp("-X V a"), verp("-XV-= a")), (Some(b'+'), Some(b'+'), Some(b'-')));
        let others = read("-X /tmp/log -V name a").unwrap();
        assert_eq!((others.verp, others.recipients), (None, vec!["a".to_owned()]));
    }

    #[test]
    fn wrong_ones_are_usage_errors() {
        for line in [
            "-XV+",
            "-XV+-",
            "-XV+=x",
            "-Z",
            "-f",
            "-bd",
            "-bx",
            "-N sometimes",
            "-R some",
            "-B 9BIT",
            "-iZ",
            "--no-such",
        ] {
            assert!(matches!(read(line), Err(Error::Usage(_))), "{line}");
        }
    }
}
