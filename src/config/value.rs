//! Text to value, one type a kind of parameter; the error says what was expected. Here are the plain kinds: numbers, times,
//! paths, addresses. Those whose words mean something to one part of the suite alone stand in files of their own.
//!
//! Times are Postfix's: a whole number and at most one letter `s m h d w`; without it the parameter's own unit.

use super::net;
use super::shown;
use super::table::Table;
use crate::port;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

mod accounts;
mod transfer;

pub use accounts::*;
pub use transfer::*;

/// Something a parameter can be.
pub trait Value: Sized {
    /// Reads it; the error is what was expected, for a sentence that begins with "expected".
    fn parse(text: &str) -> Result<Self, String>;
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            _ if text.eq_ignore_ascii_case("yes") => Ok(true),
            _ if text.eq_ignore_ascii_case("no") => Ok(false),
            _ => Err("yes or no".to_owned()),
        }
    }
}

macro_rules! whole_number {
    ($($type:ty),+) => { $(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                digits(text).and_then(|number| <$type>::try_from(number).ok())
                    .ok_or_else(|| format!("a whole number up to {}", <$type>::MAX))
            }
        }
    )+ };
}
whole_number!(u32, u64);

/// A time whose unit is the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Value for Seconds {
    fn parse(text: &str) -> Result<Self, String> {
        time(text, 's').map(Seconds)
    }
}

/// A time whose unit is the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days(pub Duration);

impl Value for Days {
    fn parse(text: &str) -> Result<Self, String> {
        time(text, 'd').map(Days)
    }
}

/// A time whose unit is the hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours(pub Duration);

impl Value for Hours {
    fn parse(text: &str) -> Result<Self, String> {
        time(text, 'h').map(Hours)
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') { Ok(PathBuf::from(text)) } else { Err("an absolute path".to_owned()) }
    }
}

/// A path, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionalPath(pub Option<PathBuf>);

impl Value for OptionalPath {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(OptionalPath(None));
        }
        if words(text).skip(1).any(|word| word.contains(":/") || word.starts_with('/')) {
            return Err("one path, and no list of them".to_owned());
        }
        MapPath::parse(text)
            .map(|path| OptionalPath(Some(path.0)))
            .map_err(|_| "an absolute path or nothing".to_owned())
    }
}

/// A text file that Postfix would have as a table, with `hash:` or `texthash:` in front of it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapPath(pub PathBuf);

impl Value for MapPath {
    fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("hash:").or_else(|| text.strip_prefix("texthash:")).unwrap_or(text);
        let path = PathBuf::parse(path).map(MapPath);
        path.map_err(|_| format!("absolute paths, or hash: or texthash: and one, and not {}", shown(text)))
    }
}

/// Words separated by commas or blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T: Value> Value for List<T> {
    fn parse(text: &str) -> Result<Self, String> {
        words(text).map(T::parse).collect::<Result<_, _>>().map(List)
    }
}

/// A table, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionalTable(pub Option<Table>);

impl Value for OptionalTable {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(OptionalTable(None)) } else { Table::parse(text).map(|t| OptionalTable(Some(t))) }
    }
}

/// How many bits of an IPv6 address count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixLength(pub u8);

impl Value for PrefixLength {
    fn parse(text: &str) -> Result<Self, String> {
        let length = digits(text).and_then(|number| u8::try_from(number).ok()).filter(|length| *length <= 128);
        length.map(PrefixLength).ok_or_else(|| "a whole number up to 128".to_owned())
    }
}

/// An address or a net.
impl Value for ipnet::IpNet {
    fn parse(text: &str) -> Result<Self, String> {
        net::alone(text)
    }
}

/// A TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub u16);

impl Value for Port {
    fn parse(text: &str) -> Result<Self, String> {
        let port = port::of(text).ok().filter(|port| *port > 0);
        port.map(Port).ok_or_else(|| "a port, or a service of /etc/services".to_owned())
    }
}

/// An address with a port, 53 where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

impl Value for NameServer {
    fn parse(text: &str) -> Result<Self, String> {
        let address = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let server = text.parse().ok().or_else(|| address(text).map(|address| (address, 53).into()));
        server.map(NameServer).ok_or_else(|| format!("addresses, maybe with ports, and not {}", shown(text)))
    }
}

/// A syslog facility, already shifted (mail is 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(pub u8);

impl Value for Facility {
    fn parse(text: &str) -> Result<Self, String> {
        const NAMES: [&str; 12] =
            ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
        let name = text.to_ascii_lowercase();
        let name = name.strip_prefix("log_").unwrap_or(&name);
        let local = name.strip_prefix("local").and_then(|digit| digit.parse::<u8>().ok()).filter(|&n| n < 8);
        let number = match local {
            Some(n) => Some(16 + n),
            None => NAMES.iter().position(|known| *known == name).and_then(|n| u8::try_from(n).ok()),
        };
        number.map(|n| Facility(n << 3)).ok_or_else(|| "a syslog facility such as mail, daemon or local0".to_owned())
    }
}

/// Digits only: `str::parse` alone would also take a sign.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|octet| octet.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn time(text: &str, unit: char) -> Result<Duration, String> {
    let expected = || "a whole number and at most one of the letters s, m, h, d, w".to_owned();
    let (number, unit) = match text.chars().next_back() {
        Some(letter @ ('s' | 'm' | 'h' | 'd' | 'w')) => (&text[..text.len() - 1], letter),
        _ => (text, unit),
    };
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => 604_800,
    };
    if number.is_empty() || !number.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(expected());
    }
    // More than an i64 of seconds cannot be added to a clock.
    let seconds = digits(number).and_then(|n| n.checked_mul(factor)).filter(|seconds| *seconds <= u64::from(u32::MAX));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("a time of at most {} seconds", u32::MAX))
}

/// Separated by commas or blanks.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texthash_is_hash_in_maps_as_it_is_in_lists_of_patterns() {
        let path = PathBuf::from("/etc/aliases");
        for text in ["/etc/aliases", "hash:/etc/aliases", "texthash:/etc/aliases"] {
            assert_eq!(MapPath::parse(text), Ok(MapPath(path.clone())), "{text}");
            assert_eq!(OptionalPath::parse(text), Ok(OptionalPath(Some(path.clone()))), "{text}");
        }
        for text in
            ["hash:texthash:/etc/aliases", "texthash:hash:/etc/aliases", "texthash:aliases", "lmdb:/etc/aliases"]
        {
            assert!(MapPath::parse(text).is_err() && OptionalPath::parse(text).is_err(), "{text}");
        }
        assert!(OptionalPath::parse("texthash:/a texthash:/b").is_err());
    }
}
