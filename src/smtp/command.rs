//! Octets to [`Command`] (RFC 5321 section 4.1). What the grammar does not know ends here, as a [`Fault`].

use crate::message::parameters::{self, MailParameters, RecipientParameters, Xtext};
use crate::message::path::{self, Address, ReversePath};
use crate::sasl::Mechanism;
use crate::wire::secret::Secret;

pub mod extensions;

pub use extensions::{Said, Xclient};

/// Longest HELO argument taken; a domain has at most 255 octets (RFC 5321 section 4.5.3.1.2).
const LONGEST_DOMAIN: usize = 255;

/// One command with everything in it checked, in the order of RFC 5321 section 4.1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// What the client calls itself: printable ASCII, otherwise unchecked.
    Ehlo(Vec<u8>),
    /// The same without extensions.
    Helo(Vec<u8>),
    /// What LMTP has for both (RFC 2033 section 4.1).
    Lhlo(Vec<u8>),
    /// Begins a message.
    Mail {
        /// Where failures go.
        reverse_path: ReversePath,
        /// What the queue is to keep of it.
        parameters: MailParameters,
        /// What the client announced with SIZE; more than a `u64` holds is its largest.
        size: Option<u64>,
    },
    /// Adds a recipient.
    Rcpt {
        /// Who.
        forward_path: Address,
        /// What the queue is to keep of it.
        parameters: RecipientParameters,
    },
    /// Announces the message.
    Data,
    /// Announces so many octets of the message, which follow at once (RFC 3030).
    Bdat {
        /// How many.
        size: u64,
        /// Whether they end the message.
        last: bool,
    },
    /// BDAT with a size that cannot be read: what follows might be anything.
    UnreadableBdat,
    /// Forgets the message.
    Rset,
    /// Asks whether there is such a mailbox: an address, or a name without domain; and whether the answer may have
    /// octets above 127. EXPN, too, for who is on a list is nobody's business (RFC 5321 section 7.3).
    Vrfy(Address, bool),
    /// Asks what there is.
    Help,
    /// Nothing.
    Noop,
    /// The end.
    Quit,
    /// Asks for TLS (RFC 3207).
    StartTls,
    /// Begins to show who the client is (RFC 4954).
    Auth {
        /// The mechanism, if it is one we know.
        mechanism: Option<Mechanism>,
        /// What the client says first, as it came.
        initial: Option<Secret>,
    },
    /// A proxy says who the client is.
    Xclient(Box<Xclient>),
    /// A command of SMTP or of an extension that we do not have: SEND SOML SAML TURN ETRN.
    NotImplemented,
    /// Another protocol, which the server knows by [`begins_with`], or a header field: whoever sends that does not listen
    /// to replies.
    Stranger,
}

impl Command {
    /// Whether a client must wait for the reply before it sends more (RFC 2920 section 3.1). QUIT is one of these too, but
    /// what follows it is not read anyway.
    pub fn must_be_last(&self) -> bool {
        match self {
            Command::Ehlo(_) | Command::Helo(_) | Command::Lhlo(_) | Command::Data | Command::Vrfy(..) => true,
            Command::Noop | Command::StartTls | Command::Auth { .. } | Command::Xclient(_) => true,
            Command::Mail { .. } | Command::Rcpt { .. } | Command::Rset | Command::Help | Command::Quit => false,
            Command::Bdat { .. } | Command::UnreadableBdat | Command::NotImplemented | Command::Stranger => false,
        }
    }
}

/// Why a line is not a command. `reply.rs` has the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The line is empty.
    Empty,
    /// There are control octets in it.
    Controls,
    /// Nobody knows this verb.
    Unknown,
    /// An argument is missing.
    NoArgument,
    /// There is an argument where there is none.
    NeedlessArgument,
    /// The argument is not what it should be.
    BadArgument,
    /// `FROM:` or `TO:` is missing, or the path behind it does not follow the grammar.
    Path(Which, path::Fault),
    /// An ESMTP parameter we did not offer.
    UnknownParameter,
    /// An ESMTP parameter with a wrong value, or given twice.
    BadParameter,
}

/// Which path is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// That of MAIL.
    Reverse,
    /// That of RCPT, VRFY or EXPN.
    Forward,
}

const NOT_IMPLEMENTED: [&[u8]; 5] = [b"SEND", b"SOML", b"SAML", b"TURN", b"ETRN"];

/// Reads one line, given without its CR LF.
pub fn parse(line: &[u8]) -> Result<Command, Fault> {
    let line = trim_end(line);
    let (verb, argument) = match line.iter().position(|octet| *octet == b' ') {
        Some(blank) => (&line[..blank], trim_start(&line[blank..])),
        None => (line, &b""[..]),
    };
    let verb = verb.to_ascii_uppercase();
    if is_field_name(&verb) {
        return Ok(Command::Stranger);
    }
    if is_bdat(line) {
        return Ok(if verb == b"BDAT" { extensions::bdat(argument) } else { Command::UnreadableBdat });
    }
    // Not only NUL: an octet that another reader of the line takes for its end must not pass.
    if line.iter().any(u8::is_ascii_control) {
        return Err(Fault::Controls);
    }
    match &verb[..] {
        b"" => Err(Fault::Empty),
        b"EHLO" => domain(argument).map(Command::Ehlo),
        b"HELO" => domain(argument).map(Command::Helo),
        b"LHLO" => domain(argument).map(Command::Lhlo),
        b"MAIL" => mail(argument),
        b"RCPT" => rcpt(argument),
        b"DATA" => alone(argument, Command::Data),
        b"RSET" => alone(argument, Command::Rset),
        b"VRFY" | b"EXPN" => vrfy(argument),
        b"HELP" => Ok(Command::Help),
        b"NOOP" => Ok(Command::Noop),
        b"QUIT" => alone(argument, Command::Quit),
        b"STARTTLS" => alone(argument, Command::StartTls),
        b"AUTH" => extensions::auth(argument),
        b"XCLIENT" => extensions::xclient(argument),
        verb if NOT_IMPLEMENTED.contains(&verb) => Ok(Command::NotImplemented),
        _ => Err(Fault::Unknown),
    }
}

/// Whether a line means BDAT, whatever is wrong with it: octets of a message may follow.
pub fn is_bdat(line: &[u8]) -> bool {
    let line = line.iter().position(|octet| *octet > b' ').and_then(|begin| line.get(begin..));
    let word = line.and_then(|line| line.split(|octet| !octet.is_ascii_alphabetic()).next());
    word.is_some_and(|word| word.eq_ignore_ascii_case(b"BDAT"))
}

/// Whether a first octet cannot begin a command of anybody who speaks SMTP: a TLS handshake record (RFC 8446 section
/// 5.1), whose line may never end.
pub fn is_tls(first: u8) -> bool {
    first == 22
}

/// A field name with its colon (RFC 5322 section 2.2).
fn is_field_name(verb: &[u8]) -> bool {
    verb.strip_suffix(b":").is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_graphic))
}

/// Whether a line begins with one of these words, in whatever case.
pub fn begins_with(line: &[u8], words: &[impl AsRef<str>]) -> bool {
    let end = line.iter().position(|octet| matches!(octet, b' ' | b'\t')).unwrap_or(line.len());
    words.iter().any(|word| word.as_ref().as_bytes().eq_ignore_ascii_case(&line[..end]))
}

fn alone(argument: &[u8], command: Command) -> Result<Command, Fault> {
    if argument.is_empty() { Ok(command) } else { Err(Fault::NeedlessArgument) }
}

/// Whatever a client calls itself is only logged and written into the Received field, so it is only made sure that it
/// can be: names with underscores and without dots are in use.
fn domain(argument: &[u8]) -> Result<Vec<u8>, Fault> {
    match argument.len() {
        0 => Err(Fault::NoArgument),
        1..=LONGEST_DOMAIN if argument.is_ascii() => Ok(argument.to_vec()),
        _ => Err(Fault::BadArgument),
    }
}

fn mail(argument: &[u8]) -> Result<Command, Fault> {
    let (path, words) = path(argument, b"FROM:", Which::Reverse)?;
    let (mut parameters, mut size, mut auth) = (MailParameters::default(), None, false);
    for (keyword, value) in read_parameters(words)? {
        match &keyword.to_ascii_uppercase()[..] {
            b"SIZE" if size.is_none() => size = Some(number(value.unwrap_or_default())?),
            // Who submitted the message first (RFC 4954 section 5): nobody here would believe it.
            b"AUTH" if !auth && value.is_some_and(is_auth) => auth = true,
            b"SIZE" | b"AUTH" => return Err(Fault::BadParameter),
            _ => parameters.set(keyword, value).map_err(bad)?,
        }
    }
    // Only as a recipient needs postmaster no domain (RFC 5321 sections 4.1.1.3 and 4.5.1).
    if path.as_ref().is_some_and(|path| path.domain().is_none()) {
        return Err(Fault::Path(Which::Reverse, path::Fault::Syntax));
    }
    Ok(Command::Mail { reverse_path: ReversePath(path), parameters, size })
}

/// `<>` or an address in xtext.
fn is_auth(value: &[u8]) -> bool {
    value == b"<>" || Xtext::from_encoded(value).is_some()
}

fn rcpt(argument: &[u8]) -> Result<Command, Fault> {
    let (path, words) = path(argument, b"TO:", Which::Forward)?;
    let mut parameters = RecipientParameters::default();
    for (keyword, value) in read_parameters(words)? {
        parameters.set(keyword, value).map_err(bad)?;
    }
    let forward_path = path.ok_or(Fault::Path(Which::Forward, path::Fault::Syntax))?;
    Ok(Command::Rcpt { forward_path, parameters })
}

fn bad(fault: parameters::Fault) -> Fault {
    match fault {
        parameters::Fault::Unknown => Fault::UnknownParameter,
        parameters::Fault::Wrong => Fault::BadParameter,
    }
}

/// With SMTPUTF8 behind it where the answer may need that (RFC 6531 section 3.7.4.2).
fn vrfy(argument: &[u8]) -> Result<Command, Fault> {
    let at = argument.len().saturating_sub(b" SMTPUTF8".len());
    let (argument, in_utf8) = match argument.split_at(at) {
        (argument, end) if end.eq_ignore_ascii_case(b" SMTPUTF8") => (trim_end(argument), true),
        _ => (argument, false),
    };
    lone_address(argument).map(|address| Command::Vrfy(address, in_utf8))
}

/// Reads an address as it may stand behind VRFY: alone or in angle brackets, or a user's name without a domain (RFC 5321
/// section 4.1.1.6, RFC 6531 section 3.7.4.2).
pub fn lone_address(argument: &[u8]) -> Result<Address, Fault> {
    let wrong = |fault| Fault::Path(Which::Forward, fault);
    if argument.is_empty() {
        return Err(Fault::NoArgument);
    }
    if !argument.starts_with(b"<") {
        return path::parse_lone(argument).map_err(wrong);
    }
    match path::parse(argument).map_err(wrong)? {
        (Some(address), []) => Ok(address),
        _ => Err(wrong(path::Fault::Syntax)),
    }
}

/// Reads `FROM:` or `TO:` and the path; blanks between them are wrong and common.
fn path<'a>(argument: &'a [u8], keyword: &[u8], which: Which) -> Result<(Option<Address>, &'a [u8]), Fault> {
    let (begin, rest) = argument.split_at_checked(keyword.len()).unwrap_or((argument, b""));
    if !begin.eq_ignore_ascii_case(keyword) {
        return Err(Fault::BadArgument);
    }
    path::parse(trim_start(rest)).map_err(|fault| Fault::Path(which, fault))
}

/// What stands behind a path: nothing, or parameters behind a blank.
fn read_parameters(text: &[u8]) -> Result<Vec<parameters::Parameter<'_>>, Fault> {
    if !text.is_empty() && !text.starts_with(b" ") {
        return Err(Fault::BadParameter);
    }
    parameters::words(text).map_err(bad)
}

/// Up to 20 digits (RFC 1870 section 3); what a `u64` cannot hold is too large anyway.
fn number(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || value.len() > 20 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::BadParameter);
    }
    Ok(value.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// Trailing white space is to be tolerated (RFC 5321 section 4.1.1).
fn trim_end(line: &[u8]) -> &[u8] {
    &line[..line.iter().rposition(|octet| !matches!(octet, b' ' | b'\t')).map_or(0, |last| last + 1)]
}

fn trim_start(text: &[u8]) -> &[u8] {
    &text[text.iter().position(|octet| *octet != b' ').unwrap_or(text.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        Address::from_internal(text.as_bytes()).unwrap()
    }

    fn mail_command(from: &str, size: Option<u64>) -> Command {
        let reverse_path = ReversePath::from_internal(from.as_bytes()).unwrap();
        Command::Mail { reverse_path, parameters: MailParameters::default(), size }
    }

    fn rcpt_command(to: &str) -> Command {
        Command::Rcpt { forward_path: address(to), parameters: RecipientParameters::default() }
    }

    #[test]
    fn a_line_begins_with_a_word_and_not_with_a_part_of_one() {
        let words = ["GET".to_owned(), "POST".to_owned()];
        for (line, expected) in [
            (&b"GET / HTTP/1.1"[..], true),
            (b"post", true),
            (b"Get\t/", true),
            (b"GETS", false),
            (b"", false),
            (b" GET", false),
        ] {
            assert_eq!(begins_with(line, &words), expected, "{}", line.escape_ascii());
        }
        assert!(!begins_with(b"GET", &[""; 0]));
    }

    #[test]
    fn verbs_are_read_in_any_case_and_blanks_at_the_end_are_nothing() {
        for (line, command) in [
            ("EHLO client.example", Command::Ehlo(b"client.example".to_vec())),
            ("helo [192.0.2.1] ", Command::Helo(b"[192.0.2.1]".to_vec())),
            ("Mail From:<a@b>", mail_command("a@b", None)),
            ("MAIL FROM: <> ", mail_command("", None)),
            ("MAIL FROM:<a@b> SIZE=10 BODY=7bit", mail_command("a@b", Some(10))),
            ("MAIL FROM:<a@b> AUTH=<>", mail_command("a@b", None)),
            (
                "MAIL FROM:<> BODY=8bitmime SMTPUTF8 ret=full envid=x+20y requiretls",
                Command::Mail {
                    reverse_path: ReversePath::NULL,
                    parameters: MailParameters::from_text(b"BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=FULL ENVID=x+20y")
                        .unwrap(),
                    size: None,
                },
            ),
            ("MAIL FROM:<a@b>  body=7BIT size=99999999999999999999", mail_command("a@b", Some(u64::MAX))),
            ("rcpt to:<bob@mx>", rcpt_command("bob@mx")),
            ("RCPT TO:<Postmaster>", rcpt_command("Postmaster")),
            ("RCPT TO:<@a,@b:bob@mx>", rcpt_command("bob@mx")),
            ("data\t", Command::Data),
            ("RSET", Command::Rset),
            ("VRFY bob", Command::Vrfy(address("bob"), false)),
            ("VRFY bob@mx", Command::Vrfy(address("bob@mx"), false)),
            ("VRFY <bob@mx>", Command::Vrfy(address("bob@mx"), false)),
            ("EXPN staff", Command::Vrfy(address("staff"), false)),
            ("HELP me", Command::Help),
            ("NOOP x", Command::Noop),
            ("QUIT", Command::Quit),
            ("TURN", Command::NotImplemented),
            ("SAML FROM:<a@b>", Command::NotImplemented),
            ("VRFY bob smtputf8", Command::Vrfy(address("bob"), true)),
            ("VRFY \"john \\doe\"", Command::Vrfy(address("john doe"), false)),
            ("VRFY \"a b\"@mx", Command::Vrfy(address("a b@mx"), false)),
            ("VRFY j\u{f6}rg SMTPUTF8", Command::Vrfy(address("j\u{f6}rg"), true)),
            ("LHLO x", Command::Lhlo(b"x".to_vec())),
            (
                "RCPT TO:<bob@mx> NOTIFY=DELAY ORCPT=rfc822;x@y",
                Command::Rcpt {
                    forward_path: address("bob@mx"),
                    parameters: RecipientParameters::from_text(b"NOTIFY=DELAY ORCPT=rfc822;x@y").unwrap(),
                },
            ),
            ("Subject: x", Command::Stranger),
            ("\"quoted\": x", Command::Stranger),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let path = |which| Fault::Path(which, path::Fault::Syntax);
        for (line, fault) in [
            ("", Fault::Empty),
            (" ", Fault::Empty),
            (" HELO x", Fault::Empty),
            ("FOO", Fault::Unknown),
            ("MAILFROM:<a@b>", Fault::Unknown),
            ("RCPT\tTO:<a@b>", Fault::Controls),
            ("NOOP \0", Fault::Controls),
            ("QUIT\x7f", Fault::Controls),
            ("HELO", Fault::NoArgument),
            ("EHLO m\u{fc}.example", Fault::BadArgument),
            ("VRFY", Fault::NoArgument),
            ("EXPN", Fault::NoArgument),
            ("DATA x", Fault::NeedlessArgument),
            ("QUIT now", Fault::NeedlessArgument),
            ("RSET x", Fault::NeedlessArgument),
            ("MAIL", Fault::BadArgument),
            ("MAIL TO:<a@b>", Fault::BadArgument),
            ("RCPT FROM:<a@b>", Fault::BadArgument),
            ("MAIL FROM:", path(Which::Reverse)),
            ("MAIL FROM:a@b", path(Which::Reverse)),
            ("MAIL FROM:<a>", path(Which::Reverse)),
            ("MAIL FROM:<postmaster>", path(Which::Reverse)),
            ("MAIL FROM:<\"Postmaster\"> SIZE=1", path(Which::Reverse)),
            ("RCPT TO:<>", path(Which::Forward)),
            ("RCPT TO:<a@b", path(Which::Forward)),
            ("RCPT TO:<\u{fc}@b\u{85}>", path(Which::Forward)),
            ("VRFY a b", path(Which::Forward)),
            ("VRFY \"a@b\"", path(Which::Forward)),
            ("VRFY \"a\"b", path(Which::Forward)),
            ("VRFY <>", path(Which::Forward)),
            ("MAIL FROM:<a@b> RET=ALL", Fault::BadParameter),
            ("MAIL FROM:<a@b> HOLDFOR=5", Fault::UnknownParameter),
            ("MAIL FROM:<a@b> AUTH=+4", Fault::BadParameter),
            ("RCPT TO:<a@b> NOTIFY=EVER", Fault::BadParameter),
            ("RCPT TO:<a@b> SIZE=1", Fault::UnknownParameter),
            ("MAIL FROM:<a@b>SIZE=1", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE=", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE=+1", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE=1 SIZE=1", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE=999999999999999999999", Fault::BadParameter),
            ("MAIL FROM:<a@b> BODY=BINARY", Fault::BadParameter),
            ("MAIL FROM:<a@b> -X=1", Fault::BadParameter),
            ("MAIL FROM:<a@b> X==", Fault::BadParameter),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(fault), "{line:?}");
        }
    }

    #[test]
    fn every_octet_at_every_place_is_answered() {
        for line in ["EHLO a", "MAIL FROM:<a@b> SIZE=1", "RCPT TO:<\"a\"@b>", "VRFY <a@b>", "QUIT"] {
            for (place, octet) in (0..line.len()).flat_map(|place| (0..=255).map(move |octet| (place, octet))) {
                let mut changed = line.as_bytes().to_vec();
                changed[place] = octet;
                let parsed = parse(&changed);
                assert!(octet >= 32 || octet == b'\t' || parsed.is_err(), "{}", changed.escape_ascii());
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_command_or_a_fault(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line);
            let _ = parse(&[b"MAIL FROM:<a@b> ", &line[..]].concat());
        }
    }
}
