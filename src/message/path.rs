//! Reverse-path, forward-path, mailbox, domain (RFC 5321 section 4.1.2).
//!
//! Inside doorpost an address is octets in the *internal form*: local part without quoting, `@`, domain; the last
//! `@` divides. It is what QMQP carries and what the queue file holds. [`parse`] takes the quoted form of SMTP,
//! `Display` gives it back.

use super::idna;
use super::verp::Verp;
use core::net::IpAddr;
use std::fmt;

/// RFC 5321 section 4.5.3.1.3 allows 254 octets between the angle brackets; quoting may double a local part.
pub const LONGEST_ADDRESS: usize = 1000;

/// Longest domain (RFC 5321 section 4.5.3.1.2), in the form that it has in DNS.
const LONGEST_DOMAIN: usize = 255;

/// Longest label of a domain, in the same form (RFC 5890 section 2.3.2.1).
const LONGEST_LABEL: usize = 63;

/// An address in internal form: not empty, no NUL, CR or LF, at most [`LONGEST_ADDRESS`] octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(Box<[u8]>);

/// Why octets are not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not follow the grammar.
    Syntax,
    /// It is longer than addresses may be.
    TooLong,
    /// It has octets that are no UTF-8.
    NotUtf8,
    /// It has octets above 127, which need SMTPUTF8, and that was not asked for.
    NotAscii,
}

impl Address {
    /// Takes the internal form.
    pub fn from_internal(octets: &[u8]) -> Result<Address, Fault> {
        if octets.len() > LONGEST_ADDRESS {
            return Err(Fault::TooLong);
        }
        if octets.is_empty() || octets.iter().any(|octet| matches!(octet, 0 | b'\r' | b'\n')) {
            return Err(Fault::Syntax);
        }
        Ok(Address(octets.into()))
    }

    /// The internal form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it needs SMTPUTF8 on its way.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// Whether SMTP can carry it at all. What is no UTF-8, QMQP hands in, and mailboxes may be called so.
    pub fn is_utf8(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok()
    }

    /// What stands before the last `@`; all of it where there is none.
    pub fn local_part(&self) -> &[u8] {
        self.at().map_or(&self.0, |at| &self.0[..at])
    }

    /// What stands behind the last `@`; an address literal with its brackets.
    pub fn domain(&self) -> Option<&[u8]> {
        self.at().map(|at| &self.0[at + 1..])
    }

    /// The same address with `domain` where it had none (`postmaster`); a fault where that makes it too long.
    pub fn completed(&self, domain: &str) -> Result<Address, Fault> {
        match self.at() {
            Some(_) => Ok(self.clone()),
            None => Address::from_internal(&[&self.0[..], b"@", domain.as_bytes()].concat()),
        }
    }

    /// The same for who only reads it: one that would become too long stays without.
    pub fn or_at(&self, domain: &str) -> Address {
        self.completed(domain).unwrap_or_else(|_| self.clone())
    }

    /// Whether mail can have this address at all, so that it can stand between angle brackets. QMQP hands in anything.
    pub fn is_usable(&self) -> bool {
        !self.local_part().is_empty()
            && !self.0.iter().any(u8::is_ascii_control)
            && self.domain().is_none_or(is_usable_domain)
    }

    fn at(&self) -> Option<usize> {
        self.0.iter().rposition(|octet| *octet == b'@')
    }
}

/// The quoted form: a local part that is no dot-string becomes a quoted string (RFC 5321 section 4.1.2). What is no UTF-8 is
/// no longer the same address then: it is only to be read.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.local_part();
        let mut atoms = local.split(|octet| *octet == b'.');
        if atoms.all(|atom| !atom.is_empty() && run(atom, is_atext) == atom.len()) {
            f.write_str(&String::from_utf8_lossy(local))?;
        } else {
            let mut quoted = Vec::with_capacity(local.len() + 8);
            for &octet in local {
                if matches!(octet, b'"' | b'\\') {
                    quoted.push(b'\\');
                }
                quoted.push(octet);
            }
            write!(f, "\"{}\"", String::from_utf8_lossy(&quoted))?;
        }
        match self.domain() {
            Some(domain) => write!(f, "@{}", String::from_utf8_lossy(domain)),
            None => Ok(()),
        }
    }
}

/// Where failures go: an address, or nobody (`<>`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReversePath(pub Option<Address>);

impl ReversePath {
    /// The null reverse-path, of messages that must not be answered.
    pub const NULL: ReversePath = ReversePath(None);

    /// Takes the internal form; empty is null.
    pub fn from_internal(octets: &[u8]) -> Result<ReversePath, Fault> {
        if octets.is_empty() { Ok(Self::NULL) } else { Address::from_internal(octets).map(|a| ReversePath(Some(a))) }
    }

    /// Whether mail can have this sender. qmail's own are among them, such as `#@[]`, and those that deliver expands.
    pub fn is_usable(&self) -> bool {
        let Some(address) = &self.0 else { return true };
        let is_expanded = |octets: &[u8]| Address::from_internal(octets).is_ok_and(|address| address.is_usable());
        match (Verp::of(self), address.as_bytes().strip_suffix(b"@[]")) {
            (Some(_), Some(before)) => before.strip_suffix(b"-").is_some_and(is_expanded),
            (_, Some(before)) => !before.is_empty() && !before.iter().any(u8::is_ascii_control),
            (_, None) => address.is_usable(),
        }
    }

    /// The same with `domain` where its address had none; a fault where that makes it too long.
    pub fn completed(&self, domain: &str) -> Result<ReversePath, Fault> {
        Ok(ReversePath(self.0.as_ref().map(|address| address.completed(domain)).transpose()?))
    }

    /// The internal form; null is empty.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Address::as_bytes)
    }
}

/// A name, or an address literal with its brackets.
fn is_usable_domain(domain: &[u8]) -> bool {
    let inside = domain.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let is_name = |label: &[u8]| {
        let fits = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | 0x80..);
        !label.is_empty() && label.iter().all(fits)
    };
    idna::lengths(domain).0 <= LONGEST_DOMAIN
        && std::str::from_utf8(domain).is_ok()
        && match inside {
            Some(inside) => literal(inside).is_some(),
            None => domain.split(|octet| *octet == b'.').all(is_name),
        }
}

/// The address that stands in the brackets of an address literal (RFC 5321 section 4.1.3).
pub fn literal(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    match text.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => address.parse().ok().map(IpAddr::V6),
        _ => text.parse().ok().map(IpAddr::V4),
    }
}

/// In angle brackets, as in MAIL and Return-Path.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(address) => write!(f, "<{address}>"),
            None => f.write_str("<>"),
        }
    }
}

/// Reads a path as SMTP writes it, from `<` to `>`, and gives it with what follows. `None` is the null path `<>`.
///
/// A source route is read and dropped (RFC 5321 section 4.1.1.3); only `postmaster` may lack its domain (section
/// 4.1.1.3 too; whether the path is a forward-path is for the caller to know); `%` and `!` are octets like others and never
/// a route.
///
/// Local part and domain may be UTF-8 (RFC 6531 section 3.3): whether that was agreed on is for the caller to see to.
pub fn parse(input: &[u8]) -> Result<(Option<Address>, &[u8]), Fault> {
    let inside = input.strip_prefix(b"<").ok_or(Fault::Syntax)?;
    if let Some(rest) = inside.strip_prefix(b">") {
        return Ok((None, rest));
    }
    let read = || {
        let (address, rest) = mailbox(source_route(inside)?)?;
        Ok((Some(address), rest.strip_prefix(b">").ok_or(Fault::Syntax)?))
    };
    read().map_err(|fault| in_utf8(input, fault))
}

/// Reads an address that stands alone, without angle brackets.
pub fn parse_mailbox(input: &[u8]) -> Result<Address, Fault> {
    match mailbox(input) {
        Ok((address, [])) => Ok(address),
        Ok(_) => Err(in_utf8(input, Fault::Syntax)),
        Err(fault) => Err(in_utf8(input, fault)),
    }
}

/// The same, or a local part alone, quoted or not, which names a user here. One with an `@` is not for the internal form.
pub fn parse_lone(input: &[u8]) -> Result<Address, Fault> {
    match local_part(input) {
        Ok((local, [])) if !local.contains(&b'@') => Address::from_internal(&local),
        _ => parse_mailbox(input),
    }
}

/// What is neither ASCII nor UTF-8 has an answer of its own, wherever it stands.
fn in_utf8(input: &[u8], fault: Fault) -> Fault {
    if std::str::from_utf8(input).is_ok() { fault } else { Fault::NotUtf8 }
}

/// The length of the character of UTF-8 beyond ASCII that octets begin with. Controls are none (RFC 6532 section 3.1
/// leaves them in; nobody has them in an address, and terminals obey them).
fn utf8_character(octets: &[u8]) -> Option<usize> {
    let first = octets.get(..octets.len().min(4))?;
    let text = match std::str::from_utf8(first) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(first.get(..error.valid_up_to())?).ok()?,
    };
    let character = text.chars().next().filter(|c| !c.is_ascii() && !c.is_control())?;
    Some(character.len_utf8())
}

/// How far the octets in front are of a kind, or characters of UTF-8 beyond ASCII.
fn run(input: &[u8], of_kind: impl Fn(u8) -> bool) -> usize {
    let mut end = 0;
    while let Some(&octet) = input.get(end) {
        end += match utf8_character(&input[end..]) {
            _ if of_kind(octet) => 1,
            Some(length) => length,
            None => break,
        };
    }
    end
}

/// Skips `@one,@two:`.
fn source_route(mut input: &[u8]) -> Result<&[u8], Fault> {
    if !input.starts_with(b"@") {
        return Ok(input);
    }
    loop {
        let hop = input.strip_prefix(b"@").ok_or(Fault::Syntax)?;
        match domain(hop)?.1 {
            [b',', rest @ ..] => input = rest,
            [b':', rest @ ..] => return Ok(rest),
            _ => return Err(Fault::Syntax),
        }
    }
}

fn mailbox(input: &[u8]) -> Result<(Address, &[u8]), Fault> {
    let (mut internal, rest) = local_part(input)?;
    match rest.strip_prefix(b"@") {
        Some(rest) => {
            let (domain, rest) = domain(rest)?;
            internal.push(b'@');
            internal.extend_from_slice(domain);
            Ok((Address::from_internal(&internal)?, rest))
        }
        None if internal.eq_ignore_ascii_case(b"postmaster") => Ok((Address::from_internal(&internal)?, rest)),
        None => Err(Fault::Syntax),
    }
}

/// Reads a dot-string or a quoted string and gives it without its quoting. Longer ones than the 64 octets of RFC 5321
/// section 4.5.3.1.1 are in use (VERP, SRS) and taken.
fn local_part(input: &[u8]) -> Result<(Vec<u8>, &[u8]), Fault> {
    let Some(mut quoted) = input.strip_prefix(b"\"") else {
        let (local, rest) = input.split_at(run(input, |octet| is_atext(octet) || octet == b'.'));
        let atoms = local.split(|octet| *octet == b'.').all(|atom| !atom.is_empty());
        return if atoms { Ok((local.to_vec(), rest)) } else { Err(Fault::Syntax) };
    };
    let mut local = Vec::new();
    loop {
        let (octet, rest) = match quoted {
            // The grammar allows nothing between the quotes, but nobody can have that as a mailbox.
            [b'"', rest @ ..] if !local.is_empty() => return Ok((local, rest)),
            [b'\\', octet, rest @ ..] => (*octet, rest),
            [octet, rest @ ..] if !matches!(octet, b'"' | b'\\') => (*octet, rest),
            _ => return Err(Fault::Syntax),
        };
        if let Some(length) = utf8_character(quoted) {
            local.extend_from_slice(&quoted[..length]);
            quoted = &quoted[length..];
            continue;
        }
        if !matches!(octet, b' '..=b'~') {
            return Err(Fault::Syntax);
        }
        local.push(octet);
        quoted = rest;
    }
}

/// Reads a domain or an address literal. An underscore is no letter of a host name, but stands in names that are in
/// use.
fn domain(input: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if let Some(inside) = input.strip_prefix(b"[") {
        let end = inside.iter().position(|octet| *octet == b']').ok_or(Fault::Syntax)?;
        return literal(&inside[..end]).map(|_| input.split_at(end + 2)).ok_or(Fault::Syntax);
    }
    let of_name = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    let (name, rest) = input.split_at(run(input, of_name));
    if is_too_long(name) {
        return Err(Fault::TooLong);
    }
    let fits = |label: &[u8]| !label.is_empty() && !label.starts_with(b"-") && !label.ends_with(b"-");
    if name.split(|octet| *octet == b'.').all(fits) { Ok((name, rest)) } else { Err(Fault::Syntax) }
}

/// Whether a domain, or a label of it, is longer than in DNS. What no address has room for is not encoded to measure it.
fn is_too_long(name: &[u8]) -> bool {
    let too_long = |(whole, label)| whole > LONGEST_DOMAIN || label > LONGEST_LABEL;
    name.len() > LONGEST_ADDRESS || too_long(idna::lengths(name))
}

/// An octet of an atom (RFC 5322 section 3.2.3).
pub fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet)
}

/// Whether a text can be the name of a host: labels of letters, digits, `-` and, since there are such machines, `_`; not
/// digits alone, which an address has.
pub fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let known = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(known) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label) && name.bytes().any(|octet| octet.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn internal(path: &str) -> Result<String, Fault> {
        let (address, rest) = parse(path.as_bytes())?;
        assert!(rest.is_empty(), "{path}: {rest:?} is left");
        Ok(address.map_or_else(|| "null".to_owned(), |a| String::from_utf8_lossy(a.as_bytes()).into_owned()))
    }

    #[test]
    fn what_no_mail_can_come_from_is_told_from_what_qmail_sends() {
        let is_usable = |text: &str| ReversePath::from_internal(text.as_bytes()).unwrap().is_usable();
        for sender in
            ["", "joe", "a@b.example", "a b@c", "a@[192.0.2.1]", "a@b@c", "#@[]", "-@[]", "@a-@[]", "l-@a.example-@[]"]
        {
            assert!(is_usable(sender), "{sender}");
        }
        for sender in [
            "a@b> RET=FULL",
            "<a@b.example>",
            "a@b c",
            "a@b\u{1b}c",
            "a\tb@c",
            "@",
            "a@",
            "@b",
            "a@b..c",
            "a@b,c",
            "@[]",
            "l-@a> x-@[]",
            "l-@a@b c-@[]",
            "a\u{1}@[]",
            "a@[b]",
        ] {
            assert!(!is_usable(sender), "{sender}");
        }
    }

    #[test]
    fn no_address_grows_too_long_by_its_domain() {
        let address = |length: usize| Address::from_internal(&vec![b'a'; length]).unwrap();
        let whole = address(LONGEST_ADDRESS - 11).completed("mx.example").unwrap();
        assert_eq!(whole.as_bytes().len(), LONGEST_ADDRESS);
        assert_eq!(address(LONGEST_ADDRESS - 10).completed("mx.example"), Err(Fault::TooLong));
        assert_eq!(address(LONGEST_ADDRESS - 10).or_at("mx.example"), address(LONGEST_ADDRESS - 10));
        assert_eq!(ReversePath(Some(address(LONGEST_ADDRESS))).completed("mx.example"), Err(Fault::TooLong));
        assert_eq!(ReversePath::NULL.completed("mx.example"), Ok(ReversePath::NULL));
    }

    #[test]
    fn paths_lose_brackets_quoting_and_source_route() {
        for (path, address) in [
            ("<>", "null"),
            ("<bob@mx.example>", "bob@mx.example"),
            ("<bob+x=y%z!w@mx.example>", "bob+x=y%z!w@mx.example"),
            ("<@a.example,@[192.0.2.1]:bob@mx.example>", "bob@mx.example"),
            ("<\"bob\"@mx.example>", "bob@mx.example"),
            ("<\"b o@\\\"b\"@mx.example>", "b o@\"b@mx.example"),
            ("<bob@[192.0.2.1]>", "bob@[192.0.2.1]"),
            ("<bob@[IPv6:2001:db8::1]>", "bob@[IPv6:2001:db8::1]"),
            ("<a@b_c.example>", "a@b_c.example"),
            ("<Postmaster>", "Postmaster"),
            ("<m\u{fc}ller@b\u{fc}cher.example>", "m\u{fc}ller@b\u{fc}cher.example"),
            ("<\"\u{7528} \u{6237}\"@d>", "\u{7528} \u{6237}@d"),
        ] {
            assert_eq!(internal(path).as_deref(), Ok(address), "{path}");
        }
    }

    #[test]
    fn what_the_grammar_does_not_know_is_refused() {
        for path in [
            "",
            "<",
            ">",
            "bob@mx.example",
            "<bob@mx.example",
            "<bob>",
            "<bob@>",
            "<@mx.example>",
            "<@a:>",
            "<@a,b:c@d>",
            "<@a:b:c@d>",
            "<.bob@d>",
            "<bob.@d>",
            "<b..b@d>",
            "<\"\"@d>",
            "<\"bob@d>",
            "<\"a\".b@d>",
            "<\"a\\\"@d>",
            "<a b@d>",
            "<a@b@c>",
            "<a@-b>",
            "<a@b->",
            "<a@b..c>",
            "<a@b.>",
            "<a@.b>",
            "<a@[1.2.3]>",
            "<a@[1.2.3.4>",
            "<a@[01.2.3.4]>",
            "<a@[IPv6:1::2::3]>",
            "<a@[x:y]>",
            "<a@[IPv6:fe80::1%eth0]>",
            "<a@b c>",
            "<<a@b>>",
            "<a@\0b>",
            "<a\t@b>",
            "<\"\0\"@b>",
        ] {
            assert_eq!(internal(path), Err(Fault::Syntax), "{path:?}");
        }
        for path in [&b"<m\xfcller@d>"[..], b"<a@m\xfc.example>", b"<\"\xc3\"@d>", b"<\xed\xa0\x80@d>", b"<\xc0\xaf@d>"]
        {
            assert_eq!(parse(path), Err(Fault::NotUtf8), "{}", path.escape_ascii());
        }
        assert_eq!(internal("<a\u{85}b@d>"), Err(Fault::Syntax));
        assert_eq!(internal(&format!("<{}@d>", "a".repeat(999))), Err(Fault::TooLong));
        assert_eq!(internal(&format!("<a@{}>", "b".repeat(64))), Err(Fault::TooLong));
        assert_eq!(internal(&format!("<a@{}>", "b.".repeat(128) + "c")), Err(Fault::TooLong));
    }

    #[test]
    fn a_domain_in_letters_may_be_as_long_as_in_dns() {
        let city = "департаментобразованиягородамосквы";
        let domains = [
            (format!("{city}.example"), true),
            (format!("{city}.{city}.{city}.{city}.{city}"), true),
            (format!("{city}.{city}.{city}.{city}.{city}.{city}"), false),
            // Fewer octets than in DNS.
            (format!("{}ü.example", "a".repeat(54)), true),
            (format!("{}ü.example", "a".repeat(57)), false),
            (format!("{0}.{0}.{0}.{0}.{0}", "a".repeat(45) + "ü"), false),
            // It has no form there.
            (format!("{}\u{202e}ü.example", "a".repeat(58)), true),
            (format!("{}\u{202e}ü.example", "a".repeat(59)), false),
            ("ü".repeat(500), false),
            ("ü.".repeat(100_000) + "ü", false),
            ("\u{ad}".repeat(490) + "ü", true),
        ];
        for (domain, fits) in domains {
            let expected = if fits { Ok(format!("a@{domain}")) } else { Err(Fault::TooLong) };
            assert_eq!(internal(&format!("<a@{domain}>")), expected, "{domain}");
        }
        let is_usable = |text: String| Address::from_internal(text.as_bytes()).unwrap().is_usable();
        assert!(is_usable(format!("a@{city}.{city}.{city}.{city}")));
        assert!(!is_usable(format!("a@{city}.{city}.{city}.{city}.{city}.{city}")));
    }

    #[test]
    fn what_follows_the_path_is_given_back() {
        assert_eq!(parse(b"<> SIZE=1").map(|(_, rest)| rest), Ok(&b" SIZE=1"[..]));
        assert_eq!(parse(b"<\">\"@d>x").map(|(_, rest)| rest), Ok(&b"x"[..]));
    }

    #[test]
    fn an_address_alone_is_taken_whole_or_not_at_all() {
        assert_eq!(parse_mailbox(b"bob@d").map(|address| address.to_string()).as_deref(), Ok("bob@d"));
        assert_eq!(parse_mailbox(b"bob@d x"), Err(Fault::Syntax));
        assert_eq!(parse_mailbox(b"bob"), Err(Fault::Syntax));
    }

    proptest! {
        #[test]
        fn what_display_writes_parse_reads(local in "[ -~]{1,40}", domain in "[a-z0-9]{1,9}(\\.[a-z0-9]{1,9}){0,3}") {
            let address = Address::from_internal(format!("{local}@{domain}").as_bytes()).unwrap();
            let written = format!("<{address}>");
            prop_assert_eq!(parse(written.as_bytes()), Ok((Some(address), &b""[..])));
        }

        #[test]
        fn whatever_comes_is_read_or_refused(input in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&[b"<", &input[..]].concat());
        }

        #[test]
        fn what_looks_like_a_path_is_read_or_refused(path in "<[@,:.\"\\\\a\\[\\]]{0,12}>") {
            if let Ok((Some(address), _)) = parse(path.as_bytes()) {
                let written = format!("<{address}>");
                prop_assert_eq!(parse(written.as_bytes()), Ok((Some(address), &b""[..])));
            }
        }
    }
}
