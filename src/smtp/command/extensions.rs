//! Arguments of the commands that extensions brought: AUTH, BDAT, XCLIENT.

use super::{Command, Fault};
use crate::message::parameters::{self, Xtext};
use crate::message::path;
use crate::sasl::Mechanism;
use crate::wire::secret::Secret;
use core::net::IpAddr;

/// Longest text taken from an XCLIENT attribute.
const LONGEST_TEXT: usize = 255;

/// What XCLIENT says of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Said<T> {
    /// Nothing: what was known stays.
    #[default]
    Nothing,
    /// `[UNAVAILABLE]`: there is none.
    None,
    /// `[TEMPUNAVAIL]`: nobody could tell.
    CannotTell,
    /// This.
    Value(T),
}

/// XCLIENT: who the client really is, by the word of a proxy (Postfix XCLIENT_README).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Xclient {
    /// Its address.
    pub address: Said<IpAddr>,
    /// Its port.
    pub port: Said<u16>,
    /// Its confirmed name.
    pub name: Said<String>,
    /// What it called itself.
    pub helo: Said<Vec<u8>>,
    /// Whether it said EHLO.
    pub esmtp: Said<bool>,
    /// Who it has logged in as.
    pub login: Said<Vec<u8>>,
}

/// RFC 4954 section 4: a mechanism, and maybe what the client says first.
pub(super) fn auth(argument: &[u8]) -> Result<Command, Fault> {
    let mut words = argument.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    let name = words.next().ok_or(Fault::NoArgument)?;
    let initial = words.next().map(|word| Secret(word.to_vec()));
    if words.next().is_some() {
        return Err(Fault::BadArgument);
    }
    Ok(Command::Auth { mechanism: Mechanism::named(name), initial })
}

/// RFC 3030 section 2: how many octets follow, and whether they are the last. Where that cannot be read nobody knows
/// what follows.
pub(super) fn bdat(argument: &[u8]) -> Command {
    let mut words = argument.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    let size = words.next().filter(|word| word.len() <= 19).and_then(|word| super::number(word).ok());
    let last = match words.next() {
        None => Some(false),
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => Some(true),
        Some(_) => None,
    };
    match (size, last, words.next()) {
        (Some(size), Some(last), None) => Command::Bdat { size, last },
        _ => Command::UnreadableBdat,
    }
}

/// `NAME=value ADDR=value`, values in xtext.
pub(super) fn xclient(argument: &[u8]) -> Result<Command, Fault> {
    let mut said = Xclient::default();
    let words = parameters::words(argument).map_err(|_| Fault::BadArgument)?;
    if words.is_empty() {
        return Err(Fault::NoArgument);
    }
    for (keyword, value) in words {
        let value = value.ok_or(Fault::BadArgument)?;
        match &keyword.to_ascii_uppercase()[..] {
            b"ADDR" => said.address = read(value, address)?,
            b"PORT" => said.port = read(value, |text| std::str::from_utf8(text).ok()?.parse().ok())?,
            b"NAME" => said.name = read(value, name)?,
            b"HELO" => said.helo = read(value, |text| Some(text.to_vec()))?,
            b"LOGIN" => said.login = read(value, |text| Some(text.to_vec()))?,
            b"PROTO" => said.esmtp = read(value, protocol)?,
            // Our own end, of which nothing depends.
            b"DESTADDR" | b"DESTPORT" => {}
            _ => return Err(Fault::BadArgument),
        }
    }
    Ok(Command::Xclient(Box::new(said)))
}

fn read<T>(value: &[u8], meaning: impl FnOnce(&[u8]) -> Option<T>) -> Result<Said<T>, Fault> {
    if value.eq_ignore_ascii_case(b"[UNAVAILABLE]") {
        return Ok(Said::None);
    }
    if value.eq_ignore_ascii_case(b"[TEMPUNAVAIL]") {
        return Ok(Said::CannotTell);
    }
    let text = Xtext::from_encoded(value).ok_or(Fault::BadArgument)?.decoded();
    if text.len() > LONGEST_TEXT || text.iter().any(|octet| !matches!(octet, b' '..=b'~')) {
        return Err(Fault::BadArgument);
    }
    meaning(&text).map(Said::Value).ok_or(Fault::BadArgument)
}

fn address(text: &[u8]) -> Option<IpAddr> {
    let bare = || std::str::from_utf8(text).ok()?.parse().ok();
    path::literal(text).or_else(bare).map(|address| address.to_canonical())
}

fn name(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    path::is_host_name(text).then(|| text.to_ascii_lowercase())
}

fn protocol(text: &[u8]) -> Option<bool> {
    match &text.to_ascii_uppercase()[..] {
        b"SMTP" => Some(false),
        b"ESMTP" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn auth_has_a_mechanism_and_maybe_a_response() {
        let auth = |mechanism, initial: Option<&str>| {
            let initial = initial.map(|text| Secret(text.as_bytes().to_vec()));
            Ok(Command::Auth { mechanism, initial })
        };
        assert_eq!(parse(b"AUTH plain AGEAYg=="), auth(Some(Mechanism::Plain), Some("AGEAYg==")));
        assert_eq!(parse(b"auth PLAIN ="), auth(Some(Mechanism::Plain), Some("=")));
        assert_eq!(parse(b"AUTH LOGIN"), auth(Some(Mechanism::Login), None));
        assert_eq!(parse(b"AUTH GSSAPI"), auth(None, None));
        assert_eq!(parse(b"AUTH"), Err(Fault::NoArgument));
        assert_eq!(parse(b"AUTH PLAIN a b"), Err(Fault::BadArgument));
    }

    #[test]
    fn bdat_that_cannot_be_read_is_told_apart_from_mistakes() {
        for (line, command) in [
            ("BDAT 0", Command::Bdat { size: 0, last: false }),
            ("bdat 86 last ", Command::Bdat { size: 86, last: true }),
            ("BDAT  9999999999999999999  LAST", Command::Bdat { size: 9_999_999_999_999_999_999, last: true }),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
        for line in [
            "BDAT",
            "BDAT x",
            "BDAT -1",
            "BDAT +1",
            "BDAT 1 LASTLY",
            "BDAT 1 LAST x",
            "BDAT 0x10",
            "BDAT LAST",
            "BDAT 1LAST",
            "BDAT 18446744073709551617",
            "BDAT 1.",
            "BDAT 1,2",
            "BDAT\t5",
            "BDAT 5\tLAST",
            "BDAT 5\0",
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Command::UnreadableBdat), "{line:?}");
        }
    }

    #[test]
    fn xclient_says_values_or_that_there_is_none() {
        let line = b"XCLIENT ADDR=192.0.2.1 port=25 NAME=[unavailable] HELO=a+20b LOGIN=[TEMPUNAVAIL] PROTO=ESMTP";
        let said = Xclient {
            address: Said::Value("192.0.2.1".parse().unwrap()),
            port: Said::Value(25),
            name: Said::None,
            helo: Said::Value(b"a b".to_vec()),
            esmtp: Said::Value(true),
            login: Said::CannotTell,
        };
        assert_eq!(parse(line), Ok(Command::Xclient(Box::new(said))));
        let v6 = Xclient { address: Said::Value("2001:db8::1".parse().unwrap()), ..Xclient::default() };
        assert_eq!(parse(b"XCLIENT ADDR=IPv6:2001:db8::1 DESTADDR=[UNAVAILABLE]"), Ok(Command::Xclient(Box::new(v6))));
        for line in
            ["XCLIENT ADDR", "XCLIENT ADDR=x", "XCLIENT HELO=+0D+0A", "XCLIENT NAME=a_/b", "XCLIENT X=1", "XCLIENT"]
        {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
