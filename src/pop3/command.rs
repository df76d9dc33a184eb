//! A line of octets to a typed command (RFC 1939 section 3, RFC 2449 section 4).

use crate::sasl::credentials::hexadecimal;
use crate::wire::secret::Secret;
use std::num::NonZeroU32;

/// Longest line without its end: 255 octets with CR LF (RFC 2449 section 4).
pub const LONGEST_LINE: usize = 253;

/// Counted from 1 (RFC 1939 section 4): `DELE 0` ends here, and no later `- 1` hits a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageNumber(NonZeroU32);

impl MessageNumber {
    /// The position in a list that begins with 0.
    pub fn index(self) -> usize {
        usize::try_from(self.0.get() - 1).unwrap_or(usize::MAX)
    }
}

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The name of a user or mailbox.
    User(Vec<u8>),
    /// The password, any octets.
    Pass(Secret),
    /// A name, and MD5 of the greeting's stamp and the password.
    Apop(Vec<u8>, [u8; 16]),
    /// Octets beyond ASCII in names, passwords and messages are UTF-8 (RFC 6856).
    Utf8,
    /// In which language replies are to be; without one, which there are (RFC 6856 section 3).
    Lang(Option<LanguageRange>),
    /// Ends the session; in TRANSACTION state removes what is marked.
    Quit,
    /// How many messages and octets there are.
    Stat,
    /// Scan listing of one or all.
    List(Option<MessageNumber>),
    /// A whole message.
    Retr(MessageNumber),
    /// Marks a message as deleted.
    Dele(MessageNumber),
    /// Nothing.
    Noop,
    /// Takes all marks off.
    Rset,
    /// The header and so many lines of the body.
    Top(MessageNumber, u32),
    /// Unique-id listing of one or all.
    Uidl(Option<MessageNumber>),
    /// The highest message number used (RFC 1460).
    Last,
    /// What the server can do (RFC 2449).
    Capa,
    /// Asks for TLS (RFC 2595).
    Stls,
    /// Logs in by a mechanism of SASL, with the initial response in base64; without one asks what there is (RFC 5034).
    Auth(Option<MechanismAndResponse>),
}

/// Which languages a client would read (RFC 4647 section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanguageRange {
    /// Any: the one that the server likes best.
    Any,
    /// English, of any country.
    English,
    /// What whoever reads Latin letters understands (RFC 2277 section 4.5), which is English too.
    International,
    /// One that is not there.
    Other,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Longer than [`LONGEST_LINE`].
    TooLong,
    /// No command we know.
    UnknownCommand,
    /// An argument is missing.
    MissingArgument,
    /// There is an argument too many.
    ExtraArgument,
    /// 32 hexadecimal digits in lower case make a digest.
    NotADigest,
    /// Digits only, from 1 to 4294967295, make a message number.
    NotANumber,
}

/// Reads a line without its end.
pub fn parse(line: &[u8]) -> Result<Command, Mistake> {
    let (verb, rest) = match line.iter().position(|octet| *octet == b' ') {
        Some(space) => (line.get(..space).unwrap_or_default(), line.get(space + 1..)),
        None => (line, None),
    };
    match verb.to_ascii_uppercase().as_slice() {
        b"USER" => name(rest).map(Command::User),
        // All behind exactly one space: a password may begin with a blank, end with one and have some inside.
        b"PASS" => rest.ok_or(Mistake::MissingArgument).map(|secret| Command::Pass(Secret(secret.to_vec()))),
        b"APOP" => digest(rest).map(|(name, digest)| Command::Apop(name, digest)),
        b"UTF8" => nothing(rest).map(|()| Command::Utf8),
        b"LANG" => language(rest).map(Command::Lang),
        b"QUIT" => nothing(rest).map(|()| Command::Quit),
        b"STAT" => nothing(rest).map(|()| Command::Stat),
        b"LIST" => optional(rest).map(Command::List),
        b"RETR" => one(rest).map(Command::Retr),
        b"DELE" => one(rest).map(Command::Dele),
        b"NOOP" => nothing(rest).map(|()| Command::Noop),
        b"RSET" => nothing(rest).map(|()| Command::Rset),
        b"TOP" => two(rest).map(|(number, lines)| Command::Top(number, lines)),
        b"UIDL" => optional(rest).map(Command::Uidl),
        b"LAST" => nothing(rest).map(|()| Command::Last),
        b"CAPA" => nothing(rest).map(|()| Command::Capa),
        b"AUTH" => mechanism(rest).map(Command::Auth),
        b"STLS" => nothing(rest).map(|()| Command::Stls),
        _ => Err(Mistake::UnknownCommand),
    }
}

/// A line as it may stand in a log: of PASS, APOP and AUTH only the first word, or two.
pub fn without_secrets(line: &[u8]) -> Vec<u8> {
    let words: Vec<&[u8]> = line.splitn(3, |octet| *octet == b' ').collect();
    let verb = words.first().copied().unwrap_or_default();
    let shown = |count: usize| words.get(..count.min(words.len())).unwrap_or_default().join(&b' ');
    match verb.to_ascii_uppercase().as_slice() {
        b"AUTH" | b"APOP" => shown(2),
        // Where a client that has lost count says its password it may say it as anything.
        b"USER" | b"QUIT" | b"STAT" | b"LIST" | b"RETR" | b"DELE" | b"NOOP" | b"RSET" | b"TOP" | b"UIDL" | b"LAST"
        | b"CAPA" | b"STLS" | b"UTF8" | b"LANG" => line.to_vec(),
        b"PASS" => shown(1),
        _ => b"(no command)".to_vec(),
    }
}

/// Blanks around arguments do not count: there are clients that send some at the end.
fn arguments(rest: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
    rest.unwrap_or_default().split(|octet| matches!(octet, b' ' | b'\t')).filter(|word| !word.is_empty())
}

fn name(rest: Option<&[u8]>) -> Result<Vec<u8>, Mistake> {
    let name = rest.unwrap_or_default().trim_ascii();
    if name.is_empty() { Err(Mistake::MissingArgument) } else { Ok(name.to_vec()) }
}

/// The digest is the last word; a name may have blanks inside (RFC 1939 section 7).
fn digest(rest: Option<&[u8]>) -> Result<(Vec<u8>, [u8; 16]), Mistake> {
    let text = rest.unwrap_or_default().trim_ascii();
    let blank = text.iter().rposition(|octet| *octet == b' ').ok_or(Mistake::MissingArgument)?;
    let digest = hexadecimal(text.get(blank + 1..).unwrap_or_default()).ok_or(Mistake::NotADigest)?;
    name(text.get(..blank)).map(|name| (name, digest))
}

/// A mechanism, and what the client says first.
type MechanismAndResponse = (Vec<u8>, Option<Vec<u8>>);

fn mechanism(rest: Option<&[u8]>) -> Result<Option<MechanismAndResponse>, Mistake> {
    let mut words = arguments(rest).map(<[u8]>::to_vec);
    let found = words.next().map(|name| (name, words.next()));
    if words.next().is_some() { Err(Mistake::ExtraArgument) } else { Ok(found) }
}

fn language(rest: Option<&[u8]>) -> Result<Option<LanguageRange>, Mistake> {
    let mut words = arguments(rest);
    let found = words.next().map(|range| match range.to_ascii_lowercase().as_slice() {
        b"*" => LanguageRange::Any,
        b"en" => LanguageRange::English,
        b"i-default" => LanguageRange::International,
        // A narrower one is shortened until it is there (RFC 4647 section 3.4).
        range if range.starts_with(b"en-") => LanguageRange::English,
        _ => LanguageRange::Other,
    });
    if words.next().is_some() { Err(Mistake::ExtraArgument) } else { Ok(found) }
}

fn nothing(rest: Option<&[u8]>) -> Result<(), Mistake> {
    if arguments(rest).next().is_some() { Err(Mistake::ExtraArgument) } else { Ok(()) }
}

fn optional(rest: Option<&[u8]>) -> Result<Option<MessageNumber>, Mistake> {
    if arguments(rest).next().is_some() { one(rest).map(Some) } else { Ok(None) }
}

fn one(rest: Option<&[u8]>) -> Result<MessageNumber, Mistake> {
    let mut words = arguments(rest);
    let number = message_number(words.next().ok_or(Mistake::MissingArgument)?)?;
    if words.next().is_some() { Err(Mistake::ExtraArgument) } else { Ok(number) }
}

fn two(rest: Option<&[u8]>) -> Result<(MessageNumber, u32), Mistake> {
    let mut words = arguments(rest);
    let number = message_number(words.next().ok_or(Mistake::MissingArgument)?)?;
    let lines = digits(words.next().ok_or(Mistake::MissingArgument)?)?;
    if words.next().is_some() { Err(Mistake::ExtraArgument) } else { Ok((number, lines)) }
}

fn message_number(word: &[u8]) -> Result<MessageNumber, Mistake> {
    NonZeroU32::new(digits(word)?).map(MessageNumber).ok_or(Mistake::NotANumber)
}

/// Digits only: `str::parse` alone would also take "+1".
fn digits(word: &[u8]) -> Result<u32, Mistake> {
    if !word.iter().all(u8::is_ascii_digit) {
        return Err(Mistake::NotANumber);
    }
    std::str::from_utf8(word).ok().and_then(|text| text.parse().ok()).ok_or(Mistake::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(n: u32) -> MessageNumber {
        MessageNumber(NonZeroU32::new(n).unwrap())
    }

    #[test]
    fn every_command_is_known_in_any_case() {
        let all = [
            ("USER bob", Command::User(b"bob".to_vec())),
            ("PASS secret", Command::Pass(Secret(b"secret".to_vec()))),
            ("QUIT", Command::Quit),
            ("UTF8", Command::Utf8),
            ("LANG", Command::Lang(None)),
            ("LANG *", Command::Lang(Some(LanguageRange::Any))),
            ("LANG EN", Command::Lang(Some(LanguageRange::English))),
            ("LANG en-GB", Command::Lang(Some(LanguageRange::English))),
            ("LANG I-DEFAULT", Command::Lang(Some(LanguageRange::International))),
            ("LANG eng", Command::Lang(Some(LanguageRange::Other))),
            ("STLS", Command::Stls),
            ("AUTH", Command::Auth(None)),
            ("AUTH 1", Command::Auth(Some((b"1".to_vec(), None)))),
            ("AUTH 1 =", Command::Auth(Some((b"1".to_vec(), Some(b"=".to_vec()))))),
            ("STAT", Command::Stat),
            ("LIST", Command::List(None)),
            ("LIST 7", Command::List(Some(number(7)))),
            ("RETR 7", Command::Retr(number(7))),
            ("DELE 4294967295", Command::Dele(number(u32::MAX))),
            ("NOOP", Command::Noop),
            ("RSET", Command::Rset),
            ("TOP 7 0", Command::Top(number(7), 0)),
            ("UIDL", Command::Uidl(None)),
            ("UIDL 7", Command::Uidl(Some(number(7)))),
            ("LAST", Command::Last),
            ("CAPA", Command::Capa),
        ];
        for (line, command) in all {
            assert_eq!(parse(line.as_bytes()), Ok(command.clone()), "{line}");
            assert_eq!(parse(line.to_lowercase().as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn blanks_around_arguments_do_not_count() {
        assert_eq!(parse(b"QUIT  "), Ok(Command::Quit));
        assert_eq!(parse(b"LIST "), Ok(Command::List(None)));
        assert_eq!(parse(b"TOP  1\t2 "), Ok(Command::Top(number(1), 2)));
        assert_eq!(parse(b"USER  bob "), Ok(Command::User(b"bob".to_vec())));
    }

    #[test]
    fn a_password_is_all_that_stands_behind_one_space() {
        for secret in ["", " ", "  a  b ", "\u{e4}", "a\tb", "user x"] {
            let line = format!("PASS {secret}");
            assert_eq!(parse(line.as_bytes()), Ok(Command::Pass(Secret(secret.as_bytes().to_vec()))));
        }
        assert_eq!(parse(b"PASS"), Err(Mistake::MissingArgument));
        assert_eq!(parse(b"PASS\tx"), Err(Mistake::UnknownCommand));
    }

    #[test]
    fn apop_has_a_name_and_a_digest() {
        let digest = "c4c9334bac560ecc979e58001b3e22fb";
        let octets = hexadecimal(digest.as_bytes()).unwrap();
        for (line, name) in [(format!("APOP mrose {digest}"), "mrose"), (format!("apop  a b  {digest} "), "a b")] {
            assert_eq!(parse(line.as_bytes()), Ok(Command::Apop(name.into(), octets)), "{line}");
        }
        for line in ["APOP", "APOP ", "APOP mrose", &format!("APOP {digest}")] {
            assert_eq!(parse(line.as_bytes()), Err(Mistake::MissingArgument), "{line}");
        }
        for wrong in [&digest[1..], &digest.to_uppercase(), &format!("{digest}0"), "x"] {
            assert_eq!(parse(format!("APOP mrose {wrong}").as_bytes()), Err(Mistake::NotADigest), "{wrong}");
        }
    }

    #[test]
    fn a_number_is_digits_only_and_in_range() {
        for word in ["0", "+1", "-1", "1x", "x", "4294967296", "4294967297", "18446744073709551616", "1.0", "\u{661}"] {
            for verb in ["RETR", "DELE", "LIST", "UIDL"] {
                assert_eq!(parse(format!("{verb} {word}").as_bytes()), Err(Mistake::NotANumber), "{verb} {word}");
            }
            assert_eq!(parse(format!("TOP {word} 1").as_bytes()), Err(Mistake::NotANumber), "{word}");
        }
        for lines in ["-1", "+1", "100000000000000000000", "x"] {
            assert_eq!(parse(format!("TOP 1 {lines}").as_bytes()), Err(Mistake::NotANumber), "{lines}");
        }
    }

    #[test]
    fn there_are_as_many_arguments_as_there_should_be() {
        for line in ["RETR", "DELE", "TOP", "TOP 1", "USER", "USER ", "RETR "] {
            assert_eq!(parse(line.as_bytes()), Err(Mistake::MissingArgument), "{line}");
        }
        for line in ["RETR 1 5", "DELE 1 2", "LIST 1 2", "UIDL 1 2", "TOP 1 2 3", "QUIT now", "STAT 1", "NOOP x"] {
            assert_eq!(parse(line.as_bytes()), Err(Mistake::ExtraArgument), "{line}");
        }
    }

    #[test]
    fn anything_else_is_unknown() {
        for line in
            [b"".as_slice(), b" ", b" QUIT", b"\0QUIT", b"QUIT\0", b"STARTTLS", b"AUTHX PLAIN", b"RETR1", b"\xff"]
        {
            assert_eq!(parse(line), Err(Mistake::UnknownCommand), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&line);
        }

        #[test]
        fn numbers_are_taken_exactly_when_they_are_in_range(n in any::<u64>()) {
            let expected = u32::try_from(n).ok().and_then(NonZeroU32::new).map(MessageNumber);
            prop_assert_eq!(parse(format!("RETR {n}").as_bytes()).ok(), expected.map(Command::Retr));
        }

        #[test]
        fn arguments_that_are_not_digits_are_never_numbers(word in "[^ \t]{1,20}") {
            prop_assume!(!word.bytes().all(|octet| octet.is_ascii_digit()));
            prop_assert_eq!(parse(format!("DELE {word}").as_bytes()), Err(Mistake::NotANumber));
        }

        #[test]
        fn a_password_keeps_every_octet(secret in proptest::collection::vec(any::<u8>(), 0..200)) {
            let line = [b"pass ".as_slice(), &secret].concat();
            prop_assert_eq!(parse(&line), Ok(Command::Pass(Secret(secret))));
        }
    }
}
