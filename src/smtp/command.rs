//! Octets to [`Command`] (RFC 5321 section 4.1). What the grammar does not know ends here, as a [`Fault`].

use crate::message::path::{self, Address, ReversePath};

/// Longest HELO argument taken; a domain has at most 255 octets (RFC 5321 section 4.5.3.1.2).
const LONGEST_DOMAIN: usize = 255;

/// One command with everything in it checked, in the order of RFC 5321 section 4.1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// What the client calls itself: printable ASCII, otherwise unchecked.
    Ehlo(Vec<u8>),
    /// The same without extensions.
    Helo(Vec<u8>),
    /// Begins a message.
    Mail {
        /// Where failures go.
        reverse_path: ReversePath,
        /// What the client announced with SIZE; more than a `u64` holds is its largest.
        size: Option<u64>,
    },
    /// Adds a recipient.
    Rcpt(Address),
    /// Announces the message.
    Data,
    /// Forgets the message.
    Rset,
    /// Asks whether there is such a mailbox: an address, or a name without domain.
    Vrfy(Address),
    /// Asks who is on a list.
    Expn,
    /// Asks what there is.
    Help,
    /// Nothing.
    Noop,
    /// The end.
    Quit,
    /// Asks for TLS (RFC 3207).
    StartTls,
    /// A command of SMTP or of an extension that we do not have: SEND SOML SAML TURN AUTH ETRN.
    NotImplemented,
    /// BDAT, which we do not announce: what follows it would be read as commands.
    Bdat,
    /// Another protocol, or a header field: whoever sends that does not listen to replies.
    Stranger,
}

impl Command {
    /// Whether a client must wait for the reply before it sends more (RFC 2920 section 3.1). QUIT is one of these too, but
    /// what follows it is not read anyway.
    pub fn must_be_last(&self) -> bool {
        match self {
            Command::Ehlo(_) | Command::Helo(_) | Command::Data | Command::Vrfy(_) | Command::Expn | Command::Noop => {
                true
            }
            Command::StartTls => true,
            Command::Mail { .. } | Command::Rcpt(_) | Command::Rset | Command::Help | Command::Quit => false,
            Command::NotImplemented | Command::Bdat | Command::Stranger => false,
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
    /// That of RCPT or VRFY.
    Forward,
}

/// Verbs of HTTP and of proxies, the protocols a browser can be made to speak to us.
const STRANGERS: [&[u8]; 10] =
    [b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PRI", b"PUT", b"TRACE"];
const NOT_IMPLEMENTED: [&[u8]; 6] = [b"SEND", b"SOML", b"SAML", b"TURN", b"AUTH", b"ETRN"];

/// Reads one line, given without its CR LF.
pub fn parse(line: &[u8]) -> Result<Command, Fault> {
    let line = trim_end(line);
    let (verb, argument) = match line.iter().position(|octet| *octet == b' ') {
        Some(blank) => (&line[..blank], trim_start(&line[blank..])),
        None => (line, &b""[..]),
    };
    let verb = verb.to_ascii_uppercase();
    if is_stranger(&verb) {
        return Ok(Command::Stranger);
    }
    // Not only NUL: an octet that another reader of the line takes for its end must not pass.
    if line.iter().any(u8::is_ascii_control) {
        return Err(Fault::Controls);
    }
    match &verb[..] {
        b"" => Err(Fault::Empty),
        b"EHLO" => domain(argument).map(Command::Ehlo),
        b"HELO" => domain(argument).map(Command::Helo),
        b"MAIL" => mail(argument),
        b"RCPT" => rcpt(argument),
        b"DATA" => alone(argument, Command::Data),
        b"RSET" => alone(argument, Command::Rset),
        b"VRFY" => vrfy(argument).map(Command::Vrfy),
        b"EXPN" => Ok(Command::Expn),
        b"HELP" => Ok(Command::Help),
        b"NOOP" => Ok(Command::Noop),
        b"QUIT" => alone(argument, Command::Quit),
        b"BDAT" => Ok(Command::Bdat),
        b"STARTTLS" => alone(argument, Command::StartTls),
        verb if NOT_IMPLEMENTED.contains(&verb) => Ok(Command::NotImplemented),
        _ => Err(Fault::Unknown),
    }
}

/// Whether a first octet cannot begin a command of anybody who speaks SMTP: a TLS handshake record (RFC 8446 section
/// 5.1), whose line may never end.
pub fn is_tls(first: u8) -> bool {
    first == 22
}

/// A method of HTTP, or a field name with its colon (RFC 5322 section 2.2).
fn is_stranger(verb: &[u8]) -> bool {
    let is_field =
        verb.strip_suffix(b":").is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_graphic));
    is_field || STRANGERS.contains(&verb)
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
    let (path, parameters) = path(argument, b"FROM:", Which::Reverse)?;
    let (mut size, mut body) = (None, false);
    for (keyword, value) in read_parameters(parameters)? {
        match &keyword.to_ascii_uppercase()[..] {
            b"SIZE" if size.is_none() => size = Some(number(value)?),
            // 8BITMIME makes no difference: content is octets here either way (RFC 6152 section 3).
            b"BODY" if !body && is_body(value) => body = true,
            b"SIZE" | b"BODY" => return Err(Fault::BadParameter),
            _ => return Err(Fault::UnknownParameter),
        }
    }
    Ok(Command::Mail { reverse_path: ReversePath(path), size })
}

fn rcpt(argument: &[u8]) -> Result<Command, Fault> {
    let (path, parameters) = path(argument, b"TO:", Which::Forward)?;
    if !read_parameters(parameters)?.is_empty() {
        return Err(Fault::UnknownParameter);
    }
    path.map(Command::Rcpt).ok_or(Fault::Path(Which::Forward, path::Fault::Syntax))
}

fn vrfy(argument: &[u8]) -> Result<Address, Fault> {
    let wrong = |fault| Fault::Path(Which::Forward, fault);
    if argument.is_empty() {
        return Err(Fault::NoArgument);
    }
    if argument.iter().all(|octet| path::is_atext(*octet) || *octet == b'.') {
        return Address::from_internal(argument).map_err(wrong);
    }
    if !argument.starts_with(b"<") {
        return path::parse_mailbox(argument).map_err(wrong);
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

/// Keyword and value; the value is empty where there is none.
type Parameter<'a> = (&'a [u8], &'a [u8]);

/// Splits ` KEYWORD=value KEYWORD` (RFC 5321 section 4.1.2, `Mail-parameters`).
fn read_parameters(text: &[u8]) -> Result<Vec<Parameter<'_>>, Fault> {
    if !text.is_empty() && !text.starts_with(b" ") {
        return Err(Fault::BadParameter);
    }
    let words = text.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    let pair = |word| {
        let mut parts = <[u8]>::splitn(word, 2, |octet| *octet == b'=');
        let (keyword, value) = (parts.next().unwrap_or(b""), parts.next());
        let of_keyword = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'-';
        let of_value = |octet: &u8| matches!(octet, b'!'..=b'<' | b'>'..=b'~');
        let good = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
            && keyword.iter().all(of_keyword)
            && value.is_none_or(|value| !value.is_empty() && value.iter().all(of_value));
        if good { Ok((keyword, value.unwrap_or(b""))) } else { Err(Fault::BadParameter) }
    };
    words.map(pair).collect()
}

/// Up to 20 digits (RFC 1870 section 3); what a `u64` cannot hold is too large anyway.
fn number(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || value.len() > 20 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::BadParameter);
    }
    Ok(value.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

fn is_body(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"7BIT") || value.eq_ignore_ascii_case(b"8BITMIME")
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
        Command::Mail { reverse_path: ReversePath::from_internal(from.as_bytes()).unwrap(), size }
    }

    #[test]
    fn verbs_are_read_in_any_case_and_blanks_at_the_end_are_nothing() {
        for (line, command) in [
            ("EHLO client.example", Command::Ehlo(b"client.example".to_vec())),
            ("helo [192.0.2.1] ", Command::Helo(b"[192.0.2.1]".to_vec())),
            ("Mail From:<a@b>", mail_command("a@b", None)),
            ("MAIL FROM: <> ", mail_command("", None)),
            ("MAIL FROM:<a@b> SIZE=10 BODY=8bitmime", mail_command("a@b", Some(10))),
            ("MAIL FROM:<a@b>  body=7BIT size=99999999999999999999", mail_command("a@b", Some(u64::MAX))),
            ("rcpt to:<bob@mx>", Command::Rcpt(address("bob@mx"))),
            ("RCPT TO:<Postmaster>", Command::Rcpt(address("Postmaster"))),
            ("RCPT TO:<@a,@b:bob@mx>", Command::Rcpt(address("bob@mx"))),
            ("data\t", Command::Data),
            ("RSET", Command::Rset),
            ("VRFY bob", Command::Vrfy(address("bob"))),
            ("VRFY bob@mx", Command::Vrfy(address("bob@mx"))),
            ("VRFY <bob@mx>", Command::Vrfy(address("bob@mx"))),
            ("EXPN staff", Command::Expn),
            ("HELP me", Command::Help),
            ("NOOP x", Command::Noop),
            ("QUIT", Command::Quit),
            ("TURN", Command::NotImplemented),
            ("SAML FROM:<a@b>", Command::NotImplemented),
            ("BDAT 5 LAST", Command::Bdat),
            ("GET / HTTP/1.1", Command::Stranger),
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
            ("DATA x", Fault::NeedlessArgument),
            ("QUIT now", Fault::NeedlessArgument),
            ("RSET x", Fault::NeedlessArgument),
            ("MAIL", Fault::BadArgument),
            ("MAIL TO:<a@b>", Fault::BadArgument),
            ("RCPT FROM:<a@b>", Fault::BadArgument),
            ("MAIL FROM:", path(Which::Reverse)),
            ("MAIL FROM:a@b", path(Which::Reverse)),
            ("MAIL FROM:<a>", path(Which::Reverse)),
            ("RCPT TO:<>", path(Which::Forward)),
            ("RCPT TO:<a@b", path(Which::Forward)),
            ("RCPT TO:<\u{fc}@b>", Fault::Path(Which::Forward, path::Fault::NotAscii)),
            ("VRFY a b", path(Which::Forward)),
            ("VRFY <>", path(Which::Forward)),
            ("MAIL FROM:<a@b> RET=FULL", Fault::UnknownParameter),
            ("MAIL FROM:<a@b> AUTH=<>", Fault::UnknownParameter),
            ("RCPT TO:<a@b> NOTIFY=NEVER", Fault::UnknownParameter),
            ("MAIL FROM:<a@b>SIZE=1", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE=", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE=+1", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE=1 SIZE=1", Fault::BadParameter),
            ("MAIL FROM:<a@b> SIZE=999999999999999999999", Fault::BadParameter),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", Fault::BadParameter),
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
