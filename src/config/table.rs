//! Tables that a list of patterns may name: `cidr:/path`, `hash:/path` (its text form, as postmap(1) reads it), `static:`.
//!
//! A table is read when somebody is looked up in it, so it may change without anybody being told. One that is missing or
//! wrong anywhere is no empty table: the answer then is "cannot tell". What a key leads to does not count, only that it
//! is there.

use super::{Error, file, main_cf, net};
use crate::lookup::Lookup;
use std::borrow::Cow;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A table by type and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// Lines of a net and a value; `!net` is all that is not in it, of its family. Between `if net` and `endif` are lines
    /// for what is in that. The first that fits decides.
    Cidr(PathBuf),
    /// Lines of a key and a value: a name, or an address without brackets.
    Hash(PathBuf),
    /// Everybody is in it.
    Static,
}

impl Table {
    /// Takes `type:place`; the error is what was expected. Nothing is read yet.
    pub fn parse(text: &str) -> Result<Table, String> {
        let (kind, place) = text.split_once(':').unwrap_or((text, ""));
        let path = || match Path::new(place) {
            path if path.is_absolute() => Ok(path.to_owned()),
            _ => Err(format!("an absolute path behind {kind}: instead of \"{}\"", super::shown(place))),
        };
        match kind {
            "cidr" => path().map(Table::Cidr),
            // Postfix calls by this name what others keep as a database: here both are text.
            "hash" | "texthash" => path().map(Table::Hash),
            "static" => Ok(Table::Static),
            _ => Err(format!("a table of type cidr, hash, texthash or static instead of {}", super::shown(kind))),
        }
    }

    /// The file it is in.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Table::Cidr(path) | Table::Hash(path) => Some(path),
            Table::Static => None,
        }
    }

    /// Whether an address is in it, by itself.
    pub fn has_address(&self, address: IpAddr) -> Lookup<()> {
        match self {
            Table::Static => Lookup::Yes(()),
            Table::Cidr(path) => read(path, |lines| cidr(lines, address)),
            Table::Hash(path) => read(path, |lines| hash(lines, &|key| key == address.to_string())),
        }
    }

    /// Whether a name is in it, or a domain above it: as `domain` if `parents`, else as `.domain`.
    pub fn has_name(&self, name: &str, parents: bool) -> Lookup<()> {
        let fits = |key: &str| {
            let parent = if parents { format!(".{key}") } else { key.to_owned() };
            name == key || (parent.starts_with('.') && parent.len() < name.len() && name.ends_with(&parent))
        };
        match self {
            Table::Static => Lookup::Yes(()),
            Table::Cidr(_) => Lookup::No,
            Table::Hash(path) => read(path, |lines| hash(lines, &fits)),
        }
    }

    /// What the first of these keys that is there leads to. Only a `hash:` table has values.
    pub fn value(&self, keys: &[String]) -> Lookup<String> {
        let Table::Hash(path) = self else {
            return Lookup::CannotTell("expected a table of type hash, for the others have no values".to_owned());
        };
        let mut found = None;
        let fits = |lines: &[Line<'_>]| {
            hash(lines, &|_| false)?;
            let named = |key: &String| lines.iter().find(|(_, known, _)| known.eq_ignore_ascii_case(key));
            found = keys.iter().find_map(named).map(|(_, _, value)| (*value).to_owned());
            Ok(found.is_some())
        };
        let answer = read(path, fits);
        answer.map(|()| found.unwrap_or_default())
    }
}

/// A line with its number, as key and value; without blanks, or with nothing behind them, the value is empty.
pub(crate) type Line<'a> = (usize, &'a str, &'a str);

/// Logical lines ([`main_cf::all_lines`]) of a key, blanks and a value.
pub(crate) fn entries<'a>(logical: &'a [(usize, Cow<'_, [u8]>)], path: &Path) -> Result<Vec<Line<'a>>, Error> {
    let entry = |(number, line): &'a (usize, Cow<'_, [u8]>)| {
        let text = std::str::from_utf8(line).map_err(|_| Error::at(path, *number, "expected text in UTF-8"))?;
        let text = text.trim_ascii();
        let (key, value) = text.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((text, ""));
        Ok((*number, key, value.trim_ascii_start()))
    };
    logical.iter().map(entry).collect()
}

/// Reads a table and asks it; the error of `ask` is a line's number and what was expected there.
fn read(path: &Path, ask: impl FnOnce(&[Line<'_>]) -> Result<bool, (usize, String)>) -> Lookup<()> {
    let octets = match file::contents(path) {
        Ok(Some(octets)) => octets,
        Ok(None) => return Lookup::CannotTell(format!("expected a file {}, and there is none", path.display())),
        Err(error) => return Lookup::CannotTell(error.to_string()),
    };
    let logical = match main_cf::all_lines(&octets, path) {
        Ok(logical) => logical,
        Err(error) => return Lookup::CannotTell(error.to_string()),
    };
    let lines = match entries(&logical, path) {
        Ok(lines) => lines,
        Err(error) => return Lookup::CannotTell(error.to_string()),
    };
    match ask(&lines) {
        Ok(true) => Lookup::Yes(()),
        Ok(false) => Lookup::No,
        Err((line, expected)) => Lookup::CannotTell(format!("{}:{line}: expected {expected}", path.display())),
    }
}

/// All lines are looked at, whoever asks: a table that is right for some clients only would be found out late.
fn cidr(lines: &[Line<'_>], address: IpAddr) -> Result<bool, (usize, String)> {
    let mut found = false;
    // The lines of `if` that are open, and whether what is behind them is looked at.
    let mut open: Vec<(usize, bool)> = Vec::new();
    for (number, key, value) in lines {
        let told = |expected: String| (*number, expected);
        let is_looked_at = open.last().is_none_or(|(_, holds)| *holds);
        match (key.to_ascii_lowercase().as_str(), *value) {
            ("endif", "") => {
                open.pop().ok_or_else(|| told("a line with \"if\" above this \"endif\"".to_owned()))?;
            }
            ("if", pattern) => open.push((*number, fits(pattern, address).map_err(told)? && is_looked_at)),
            (_, "") => return Err(told(KEY_AND_VALUE.to_owned())),
            _ => found |= fits(key, address).map_err(told)? && is_looked_at,
        }
    }
    let first = open.first();
    first.map_or(Ok(found), |(number, _)| Err((*number, "a line with \"endif\" below this \"if\"".to_owned())))
}

const KEY_AND_VALUE: &str = "a key, blanks, and a value";

/// As Postfix has it: what is in no net of one family is not thereby outside a net of the other.
fn fits(pattern: &str, address: IpAddr) -> Result<bool, String> {
    let text = pattern.trim_start_matches('!');
    let negated = (pattern.len() - text.len()) % 2 == 1;
    let net = net::alone(text.trim_start())?;
    Ok(net.addr().is_ipv4() == address.is_ipv4() && net.contains(&address) != negated)
}

fn hash(lines: &[Line<'_>], fits: &dyn Fn(&str) -> bool) -> Result<bool, (usize, String)> {
    let quoted = lines.iter().find(|(_, key, _)| key.starts_with('"'));
    if let Some((number, ..)) = quoted {
        return Err((*number, "a key without quotes".to_owned()));
    }
    if let Some((number, ..)) = lines.iter().find(|(_, _, value)| value.is_empty()) {
        return Err((*number, KEY_AND_VALUE.to_owned()));
    }
    Ok(lines.iter().any(|(_, key, _)| fits(&key.to_ascii_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct File(tempfile::TempDir);

    impl File {
        fn with(text: &str) -> File {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("table"), text).unwrap();
            File(folder)
        }

        fn table(&self, kind: &str) -> Table {
            Table::parse(&format!("{kind}:{}/table", self.0.path().display())).unwrap()
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nets_hold_addresses_and_negated_nets_all_others() {
        let file = File::with("# ours\n192.0.2.0/24 ok\n  of the office\n2001:db8::/32\tok\n[2001:db9::1] ok\n");
        let table = file.table("cidr");
        for (text, expected) in [
            ("192.0.2.7", Lookup::Yes(())),
            ("192.0.3.1", Lookup::No),
            ("2001:db8::9", Lookup::Yes(())),
            ("2001:db9::1", Lookup::Yes(())),
            ("2001:db9::2", Lookup::No),
        ] {
            assert_eq!(table.has_address(address(text)), expected, "{text}");
        }
        assert_eq!(table.has_name("192.0.2.7", true), Lookup::No);
        let others = File::with("!10.0.0.0/8 ok\n").table("cidr");
        // The file is gone with its folder.
        assert!(matches!(others.has_address(address("192.0.2.1")), Lookup::CannotTell(_)));
        let file = File::with("!10.0.0.0/8 ok\n");
        assert_eq!(file.table("cidr").has_address(address("192.0.2.1")), Lookup::Yes(()));
        assert_eq!(file.table("cidr").has_address(address("10.0.0.1")), Lookup::No);
    }

    #[test]
    fn a_negated_net_says_nothing_about_the_other_family() {
        let file = File::with("!10.0.0.0/8 ok\n");
        assert_eq!(file.table("cidr").has_address(address("2001:db8::1")), Lookup::No);
        let file = File::with("!2001:db8::/32 ok\n");
        assert_eq!(file.table("cidr").has_address(address("192.0.2.1")), Lookup::No);
        assert_eq!(file.table("cidr").has_address(address("2001:db9::1")), Lookup::Yes(()));
        assert_eq!(File::with("!!192.0.2.1 ok\n").table("cidr").has_address(address("192.0.2.1")), Lookup::Yes(()));
    }

    #[test]
    fn an_ipv4_net_that_is_written_as_ipv6_means_ipv4_clients() {
        let file = File::with("[::ffff:192.0.2.0]/120 ok\n::ffff:10.0.0.1 ok\n::/96 no\n");
        for (text, expected) in [("192.0.2.7", true), ("10.0.0.1", true), ("192.0.3.1", false), ("::1", true)] {
            assert_eq!(file.table("cidr").has_address(address(text)) == Lookup::Yes(()), expected, "{text}");
        }
    }

    #[test]
    fn lines_between_if_and_endif_are_for_what_is_in_that_net() {
        let file = File::with(
            "if 192.0.2.0/24\nIF !192.0.2.128/25\n192.0.2.1 ok\n192.0.2.200 ok\nENDIF\n192.0.2.9 ok\n10.0.0.1 ok\nendif\n\
             if !192.0.2.0/24\n!2001:db8::/32 never\n10.0.0.2 ok\nendif\n198.51.100.1 ok\n",
        );
        let table = file.table("cidr");
        for (text, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.200", false),
            ("192.0.2.9", true),
            ("10.0.0.1", false),
            ("10.0.0.2", true),
            ("198.51.100.1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(table.has_address(address(text)) == Lookup::Yes(()), expected, "{text}");
        }
    }

    #[test]
    fn keys_are_names_domains_above_them_and_addresses() {
        let file = File::with("Client.Example ok\n.below.example ok\n192.0.2.1 ok\n2001:db8::1 ok\n");
        for kind in ["hash", "texthash"] {
            let table = file.table(kind);
            assert_eq!(table.has_name("client.example", false), Lookup::Yes(()));
            assert_eq!(table.has_name("a.client.example", false), Lookup::No);
            assert_eq!(table.has_name("a.client.example", true), Lookup::Yes(()));
            assert_eq!(table.has_name("aclient.example", true), Lookup::No);
            assert_eq!(table.has_name("a.below.example", false), Lookup::Yes(()));
            assert_eq!(table.has_name("below.example", false), Lookup::No);
            assert_eq!(table.has_address(address("192.0.2.1")), Lookup::Yes(()));
            assert_eq!(table.has_address(address("192.0.2.2")), Lookup::No);
            assert_eq!(table.has_address(address("2001:db8::1")), Lookup::Yes(()));
        }
        assert_eq!(Table::parse("static:all").unwrap().has_address(address("::1")), Lookup::Yes(()));
    }

    #[test]
    fn a_table_that_cannot_be_read_or_is_wrong_anywhere_cannot_tell_and_says_where() {
        for (kind, text, told) in [
            ("cidr", "192.0.2.0/24 ok\n10.0.0.1/8 ok\n", "table:2: expected 10.0.0.0/8 instead of \"10.0.0.1/8\""),
            ("cidr", "192.0.2.1 ok\nif 10.0.0.0/8\n", "table:2: expected a line with \"endif\" below this \"if\""),
            ("cidr", "192.0.2.1 ok\nendif\n", "table:2: expected a line with \"if\" above this \"endif\""),
            ("cidr", "if 192.0.2.1\n10.0.0.0/8 ok\n1.0.0.0/33 ok\nendif\n", "table:3: expected an address or a net"),
            ("cidr", "192.0.2.1 ok\n10.0.0.0/33 ok\n", "table:2: expected an address or a net"),
            ("cidr", "192.0.2.1\n", "table:1: expected a key, blanks, and a value"),
            ("hash", "192.0.2.1 ok\nname\n", "table:2: expected a key, blanks, and a value"),
            ("hash", "192.0.2.1 ok\n\"a b\" ok\n", "table:2: expected a key without quotes"),
            ("hash", "192.0.2.1 ok\n\u{e4} \u{e4}\n continued\n x\n\n", ""),
            ("hash", " 192.0.2.1 ok\n", "expected no blank at the beginning"),
        ] {
            let answer = File::with(text).0;
            let table = Table::parse(&format!("{kind}:{}/table", answer.path().display())).unwrap();
            match table.has_address(address("192.0.2.1")) {
                Lookup::CannotTell(why) => assert!(why.contains(told) && !told.is_empty(), "{text}: {why}"),
                other => assert!(told.is_empty(), "{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn other_types_are_refused_by_name() {
        for (text, told) in [
            ("regexp:/etc/clients", "cidr, hash, texthash or static instead of regexp"),
            ("btree:/etc/clients", "instead of btree"),
            ("hash:clients", "an absolute path behind hash:"),
            ("cidr:", "an absolute path behind cidr:"),
        ] {
            assert!(Table::parse(text).unwrap_err().contains(told), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_table_is_answered(text in "([a-f0-9:./!\\[\\] \t\n#]{0,60}|.{0,60}\n)", kind in "cidr|hash") {
            let file = File::with(&text);
            let _ = file.table(&kind).has_address(address("192.0.2.1"));
            let _ = file.table(&kind).has_name("client.example", true);
        }
    }
}
