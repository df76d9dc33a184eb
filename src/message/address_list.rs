//! The addresses in a field To, Cc or Bcc (RFC 5322 section 3.4): names, comments, quoted parts, groups and routes are read
//! over. For local submission with `-t`; what comes from the network names its recipients in the envelope.

use super::path::{Address, LONGEST_ADDRESS};

/// The addresses of a field's value, unfolded or not, in internal form; the error is the part that is none,
/// its first 80 octets as printable ASCII.
pub fn addresses(text: &[u8]) -> Result<Vec<Address>, String> {
    let mut reader = Reader { text, at: 0, unclosed: false };
    let mut found = Vec::new();
    let mut word = Word::default();
    loop {
        let end = match reader.next() {
            Some(Token::Text(octets)) => {
                word.text(&octets);
                continue;
            }
            Some(Token::Blank) => {
                word.blank();
                continue;
            }
            Some(Token::Open) => {
                word = Word { angle: true, ..Word::default() };
                continue;
            }
            Some(Token::Close) => {
                word.closed = true;
                continue;
            }
            // What stood before is the name of a group.
            Some(Token::Colon) if !word.angle => {
                word = Word::default();
                continue;
            }
            // The end of a route.
            Some(Token::Colon) => {
                word.octets.clear();
                continue;
            }
            Some(Token::Comma) if word.angle && !word.closed => {
                word.octets.clear();
                continue;
            }
            Some(Token::Comma) => false,
            None => true,
        };
        if let Some(address) = std::mem::take(&mut word).address()? {
            found.push(address);
        }
        if end {
            return if reader.unclosed { Err(printable(text)) } else { Ok(found) };
        }
    }
}

/// A field's value in which every address has a domain: `root (Cron Daemon)` becomes `root@host (Cron Daemon)`. Nothing where
/// that changes nothing, or where it cannot be read.
pub fn qualified(text: &[u8], host: &str) -> Option<Vec<u8>> {
    let mut reader = Reader { text, at: 0, unclosed: false };
    let (mut out, mut copied) = (Vec::new(), 0);
    let mut place = Place::default();
    loop {
        let (before, token) = (reader.at, reader.next());
        match &token {
            Some(Token::Text(_)) if !place.closed => place.text(text.get(before) == Some(&b'@'), reader.at),
            Some(Token::Text(_)) => {}
            Some(Token::Blank) => place.gap = place.end.is_some(),
            Some(Token::Open) => place = Place { angle: true, ..Place::default() },
            Some(Token::Close) => place.closed = true,
            Some(Token::Colon) if !place.angle => place = Place::default(),
            Some(Token::Colon) => {}
            Some(Token::Comma) if place.angle && !place.closed => {}
            Some(Token::Comma) | None => {
                let Place { end, has_domain, broken, angle, closed, .. } = std::mem::take(&mut place);
                if let Some(end) = end.filter(|_| !has_domain && !broken && angle == closed) {
                    out.extend_from_slice(text.get(copied..end)?);
                    out.extend_from_slice(format!("@{host}").as_bytes());
                    copied = end;
                }
            }
        }
        if token.is_none() {
            break;
        }
    }
    out.extend_from_slice(text.get(copied..)?);
    (copied > 0 && addresses(text).is_ok()).then_some(out)
}

/// Where an address ends that may lack a domain.
#[derive(Default)]
struct Place {
    end: Option<usize>,
    has_domain: bool,
    /// A blank came behind what is there.
    gap: bool,
    /// Words that are no address.
    broken: bool,
    angle: bool,
    closed: bool,
}

impl Place {
    fn text(&mut self, is_at: bool, end: usize) {
        self.broken |= std::mem::take(&mut self.gap) && !is_at && !self.has_domain;
        self.has_domain |= is_at;
        self.end = Some(end);
    }
}

/// The first 80 octets as printable ASCII, runs of blanks as one.
fn printable(text: &[u8]) -> String {
    let words: Vec<&[u8]> = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let text = words.join(&b' ');
    text.get(..80).unwrap_or(&text).escape_ascii().to_string()
}

/// What an address may be made of.
#[derive(Default)]
struct Word {
    octets: Vec<u8>,
    /// The same with its blanks, for who has to find it.
    seen: Vec<u8>,
    /// A blank came behind what is there: only an `@` or a dot may go on.
    gap: bool,
    /// Words that an angle bracket may make a name of.
    broken: bool,
    angle: bool,
    closed: bool,
}

impl Word {
    fn text(&mut self, octets: &[u8]) {
        if self.closed {
            return;
        }
        let joins = |octet: Option<&u8>| matches!(octet, Some(b'@' | b'.'));
        if std::mem::take(&mut self.gap) && !joins(self.octets.last()) && !joins(octets.first()) {
            self.broken = true;
        }
        if self.octets.len() <= LONGEST_ADDRESS {
            self.octets.extend_from_slice(octets);
            self.seen.extend_from_slice(octets);
        }
    }

    fn blank(&mut self) {
        self.gap = !self.octets.is_empty();
        if self.seen.len() <= LONGEST_ADDRESS {
            self.seen.push(b' ');
        }
    }

    fn address(self) -> Result<Option<Address>, String> {
        if self.octets.is_empty() && !self.angle {
            return Ok(None);
        }
        let shown = || printable(&self.seen);
        let address = Address::from_internal(&self.octets).map_err(|_| shown())?;
        let whole = !address.local_part().is_empty() && address.domain().is_none_or(|domain| !domain.is_empty());
        if self.broken || !whole || self.angle != self.closed { Err(shown()) } else { Ok(Some(address)) }
    }
}

enum Token {
    Text(Vec<u8>),
    Blank,
    Open,
    Close,
    Colon,
    Comma,
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    /// A quotation, a comment or a literal has no end.
    unclosed: bool,
}

impl Reader<'_> {
    fn take(&mut self) -> Option<u8> {
        let octet = self.text.get(self.at).copied()?;
        self.at += 1;
        Some(octet)
    }

    fn next(&mut self) -> Option<Token> {
        Some(match self.take()? {
            b' ' | b'\t' | b'\r' | b'\n' => Token::Blank,
            b'(' => {
                self.comment();
                Token::Blank
            }
            b'<' => Token::Open,
            b'>' => Token::Close,
            b':' => Token::Colon,
            b',' | b';' => Token::Comma,
            b'"' => Token::Text(self.quoted()),
            b'[' => Token::Text(self.literal()),
            octet => Token::Text(vec![octet]),
        })
    }

    fn quoted(&mut self) -> Vec<u8> {
        let mut inside = Vec::new();
        while let Some(octet) = self.take() {
            match octet {
                b'"' => return inside,
                b'\\' => inside.extend(self.take()),
                b'\r' | b'\n' => {}
                _ => inside.push(octet),
            }
        }
        self.unclosed = true;
        inside
    }

    fn literal(&mut self) -> Vec<u8> {
        let mut inside = vec![b'['];
        while let Some(octet) = self.take() {
            inside.push(octet);
            if octet == b']' {
                return inside;
            }
        }
        self.unclosed = true;
        inside
    }

    /// Comments nest.
    fn comment(&mut self) {
        let mut depth = 1_usize;
        while let Some(octet) = self.take() {
            match octet {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\\' => drop(self.take()),
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
        self.unclosed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let found = addresses(text.as_bytes())?;
        Ok(found.iter().map(|address| String::from_utf8_lossy(address.as_bytes()).into_owned()).collect())
    }

    #[test]
    fn addresses_are_found_in_all_their_common_dress() {
        for (text, expected) in [
            ("bob", vec!["bob"]),
            ("bob@mx.example, carol@example.net", vec!["bob@mx.example", "carol@example.net"]),
            ("Bob B. <bob@mx.example>,\n \"Carol, C.\" <carol@x.example>", vec!["bob@mx.example", "carol@x.example"]),
            ("bob@mx.example (Bob (the builder), B.)", vec!["bob@mx.example"]),
            ("\"b o b\"@mx.example", vec!["b o b@mx.example"]),
            ("friends: a@x.example, B <b@x.example>; c@x.example", vec!["a@x.example", "b@x.example", "c@x.example"]),
            ("undisclosed-recipients:;", vec![]),
            ("<@a.example,@b.example:bob@c.example>", vec!["bob@c.example"]),
            ("bob @ mx . example", vec!["bob@mx.example"]),
            ("x@[IPv6:2001:db8::1]", vec!["x@[IPv6:2001:db8::1]"]),
            (" , ,", vec![]),
            ("=?utf-8?q?J=C3=B6rg?= <joerg@x.example>", vec!["joerg@x.example"]),
        ] {
            assert_eq!(read(text), Ok(expected.into_iter().map(str::to_owned).collect()), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_told() {
        for wrong in ["bob carol", "<bob", "bob@", "<>", "@x.example", "\"Bob, x@y.example", "x\"y@z.example", "x (y"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read("a@x.example, bob \n carol"), Err("bob carol".to_owned()));
    }

    #[test]
    fn addresses_without_a_domain_get_one_and_all_else_stays() {
        for (text, expected) in [
            (" root (Cron Daemon)\n", Some(" root@h.example (Cron Daemon)\n")),
            ("Bob <bob>,\n carol , x@y.example", Some("Bob <bob@h.example>,\n carol@h.example , x@y.example")),
            ("\"a @ b\"", Some("\"a @ b\"@h.example")),
            ("friends: a, B B <b>;", Some("friends: a@h.example, B B <b@h.example>;")),
            ("a (x, y), b (@)", Some("a@h.example (x, y), b@h.example (@)")),
            ("bob @ x . example", None),
            ("bob carol", None),
            ("undisclosed-recipients:;", None),
            ("<>", None),
            ("<@a.example,@b.example:bob@c.example>", None),
            ("\"bob", None),
            ("<bob", None),
            ("", None),
        ] {
            let got = qualified(text.as_bytes(), "h.example").map(|text| String::from_utf8(text).unwrap());
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn completing_adds_domains_and_nothing_else(text in "[a@.<>(),:;\"\\\\\\[\\] \n]{0,40}") {
            if let Some(out) = qualified(text.as_bytes(), "h.example") {
                let out = String::from_utf8(out).unwrap();
                prop_assert_eq!(out.replace("@h.example", ""), text);
                prop_assert_eq!(qualified(out.as_bytes(), "h.example"), None);
            }
        }

        #[test]
        fn nothing_makes_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = addresses(&octets);
        }

        #[test]
        fn no_punctuation_makes_it_panic(text in "[a@.<>(),:;\"\\\\\\[\\] \n]{0,40}") {
            let _ = addresses(text.as_bytes());
        }
    }
}
