//! The Received field we add (RFC 5321 section 4.4), and counting those that are there (section 6.3).
//!
//! Everything in the field that a client or its name server chose is hostile: what could end the field, begin a
//! comment or hide in a terminal is written `?`, and each text is cut, so that no line is over 998 octets and the
//! whole field has room in front of the content (`queue::file::TRACE_ROOM`).

use super::path::Address;
use std::fmt::Write as _;
use std::net::IpAddr;

/// The protocol of the `with` clause (RFC 3848).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
    /// EHLO under TLS.
    Esmtps,
    /// EHLO, and the client has logged in.
    Esmtpa,
    /// Both.
    Esmtpsa,
    /// LMTP.
    Lmtp,
    /// LMTP under TLS.
    Lmtps,
    /// LMTP, and the client has logged in.
    Lmtpa,
    /// Both.
    Lmtpsa,
    /// QMQP.
    Qmqp,
    /// QMTP.
    Qmtp,
    /// A program on this machine; no client to name.
    Local,
}

impl Protocol {
    /// SMTP with extensions, under TLS and with a login or without.
    pub fn esmtp(tls: bool, login: bool) -> Protocol {
        match (tls, login) {
            (false, false) => Protocol::Esmtp,
            (true, false) => Protocol::Esmtps,
            (false, true) => Protocol::Esmtpa,
            (true, true) => Protocol::Esmtpsa,
        }
    }

    /// LMTP likewise.
    pub fn lmtp(tls: bool, login: bool) -> Protocol {
        match (tls, login) {
            (false, false) => Protocol::Lmtp,
            (true, false) => Protocol::Lmtps,
            (false, true) => Protocol::Lmtpa,
            (true, true) => Protocol::Lmtpsa,
        }
    }

    /// Whether it is SMTP or LMTP.
    pub fn is_smtp(self) -> bool {
        !matches!(self, Protocol::Qmqp | Protocol::Qmtp | Protocol::Local)
    }

    /// Its name, by RFC 3848; where addresses or header may be UTF-8, by RFC 6531 section 4.3.
    fn name(self, utf8: bool) -> &'static str {
        match (self, utf8) {
            (Protocol::Smtp, _) => "SMTP",
            (Protocol::Esmtp, false) => "ESMTP",
            (Protocol::Esmtps, false) => "ESMTPS",
            (Protocol::Esmtpa, false) => "ESMTPA",
            (Protocol::Esmtpsa, false) => "ESMTPSA",
            (Protocol::Esmtp, true) => "UTF8SMTP",
            (Protocol::Esmtps, true) => "UTF8SMTPS",
            (Protocol::Esmtpa, true) => "UTF8SMTPA",
            (Protocol::Esmtpsa, true) => "UTF8SMTPSA",
            (Protocol::Lmtp, false) => "LMTP",
            (Protocol::Lmtps, false) => "LMTPS",
            (Protocol::Lmtpa, false) => "LMTPA",
            (Protocol::Lmtpsa, false) => "LMTPSA",
            (Protocol::Lmtp, true) => "UTF8LMTP",
            (Protocol::Lmtps, true) => "UTF8LMTPS",
            (Protocol::Lmtpa, true) => "UTF8LMTPA",
            (Protocol::Lmtpsa, true) => "UTF8LMTPSA",
            (Protocol::Qmqp, _) => "QMQP",
            (Protocol::Qmtp, _) => "QMTP",
            (Protocol::Local, _) => "",
        }
    }
}

/// Where a message came from, for the `from` clause. Every text in it is hostile and is written cleaned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// What the client called itself (HELO, EHLO), if it did.
    pub helo: Option<Vec<u8>>,
    /// Its forward-confirmed name, if it has one.
    pub name: Option<String>,
    /// Its address, or `stdin`, or `unknown`.
    pub address: String,
    /// The cipher suite, if it came under TLS.
    pub tls: Option<String>,
}

/// What the field says.
#[derive(Debug)]
pub struct Received<'a> {
    /// Where the message came from.
    pub client: &'a Client,
    /// How.
    pub protocol: Protocol,
    /// Whether the message asked for SMTPUTF8.
    pub utf8: bool,
    /// The name of this machine.
    pub by: &'a str,
    /// The queue id.
    pub id: &'a str,
    /// The recipient, if there is only one: naming one of several would tell the others (RFC 5321 section 7.2).
    pub only_recipient: Option<&'a Address>,
    /// The date as `message::date` writes it.
    pub date: &'a str,
}

/// Longest host name (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;

/// Longest recipient that is named.
const LONGEST_RECIPIENT: usize = 320;

/// Room for most fields.
const ROOM: usize = 256;

impl Received<'_> {
    /// The field with its line ends, which are LF.
    pub fn field(&self) -> Vec<u8> {
        let mut field = String::with_capacity(ROOM);
        field.push_str("Received: ");
        if self.protocol != Protocol::Local {
            let literal = literal(&self.client.address);
            let name = self.client.name.as_ref().map(|name| clean(name.as_bytes()));
            let helo = self.client.helo.as_ref().map(|helo| clean(helo)).filter(|helo| !helo.is_empty());
            let from = helo.or_else(|| name.clone()).unwrap_or_else(|| literal.clone());
            let known = match (&name, literal.starts_with('[')) {
                (Some(name), _) => format!("{name} {literal}"),
                (None, true) => format!("unknown {literal}"),
                (None, false) => literal,
            };
            let _ = write!(field, "from {from} ({known})\n\t");
        }
        let with = self.protocol.name(self.utf8);
        let lead = if with.is_empty() { "" } else { " with " };
        let (by, id) = (clean(self.by.as_bytes()), clean(self.id.as_bytes()));
        let _ = write!(field, "by {by} (doorpost){lead}{with} id {id}");
        let recipient = self.only_recipient.map(Address::to_string).filter(|text| is_shown(text));
        // RFC 8314 section 4.3 has the last clause.
        let tls = self.client.tls.as_ref().map(|suite| clean(suite.as_bytes()));
        if let Some(recipient) = recipient {
            let _ = write!(field, "\n\tfor <{recipient}>");
        }
        if let Some(suite) = tls {
            let _ = write!(field, "\n\ttls {suite}");
        }
        let _ = writeln!(field, "; {}", self.date);
        field.into_bytes()
    }
}

/// An address in brackets; `stdin` and `unknown` as they are.
fn literal(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V4(address)) => format!("[{address}]"),
        Ok(IpAddr::V6(address)) => format!("[IPv6:{address}]"),
        Err(_) => clean(address.as_bytes()),
    }
}

/// Host names and address literals keep all their characters; nothing else does.
fn clean(octets: &[u8]) -> String {
    let harmless = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._:[]+=/".contains(octet);
    let mut text = String::with_capacity(octets.len().min(LONGEST_NAME));
    text.extend(octets.iter().take(LONGEST_NAME).map(|octet| if harmless(octet) { char::from(*octet) } else { '?' }));
    text
}

/// A recipient is named as it is or not at all.
fn is_shown(recipient: &str) -> bool {
    recipient.len() <= LONGEST_RECIPIENT && recipient.bytes().all(|octet| matches!(octet, b' '..=b'~'))
}

/// Counts the Received fields of a message while its content goes by, in whatever pieces.
#[derive(Debug)]
pub struct HopCounter {
    hops: u32,
    at: Place,
}

/// Where in the header the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So many octets of the field name have been seen, from the beginning of a line.
    Name(usize),
    /// The name was whole, and only blanks have come since (RFC 5322 section 4.5 allows them before the colon).
    Blanks,
    /// In a line that begins with a CR: an empty one, if an LF follows.
    Cr,
    /// In a line of no interest.
    Rest,
    /// Behind the header.
    Body,
}

impl Default for HopCounter {
    fn default() -> Self {
        HopCounter { hops: 0, at: Place::Name(0) }
    }
}

impl HopCounter {
    /// Takes the next octets of the content.
    pub fn push(&mut self, octets: &[u8]) {
        const NAME: &[u8] = b"received";
        let mut octets = octets.iter();
        while self.at != Place::Body {
            if self.at == Place::Rest && octets.by_ref().all(|octet| *octet != b'\n') {
                return;
            }
            if self.at == Place::Rest {
                self.at = Place::Name(0);
            }
            let Some(&octet) = octets.next() else { return };
            self.at = match (self.at, octet) {
                (Place::Name(0) | Place::Cr, b'\n') => Place::Body,
                (_, b'\n') => Place::Name(0),
                (Place::Name(0), b'\r') => Place::Cr,
                (Place::Name(seen), _) if NAME.get(seen) == Some(&octet.to_ascii_lowercase()) => Place::Name(seen + 1),
                (Place::Name(seen), b' ' | b'\t') if seen == NAME.len() => Place::Blanks,
                (Place::Blanks, b' ' | b'\t') => Place::Blanks,
                (Place::Name(seen), b':') if seen == NAME.len() => self.one_more(),
                (Place::Blanks, b':') => self.one_more(),
                _ => Place::Rest,
            };
        }
    }

    /// How many there were so far.
    pub fn hops(&self) -> u32 {
        self.hops
    }

    fn one_more(&mut self) -> Place {
        self.hops = self.hops.saturating_add(1);
        Place::Rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(client: &Client, protocol: Protocol, recipient: Option<&str>) -> String {
        let recipient = recipient.map(|text| Address::from_internal(text.as_bytes()).unwrap());
        let (by, id, date) = ("mx.example", "06a7b0c1d2e3f4g", "Sun, 22 Nov 2026 03:19:37 +0000");
        let received = Received { client, protocol, utf8: false, by, id, only_recipient: recipient.as_ref(), date };
        String::from_utf8(received.field()).unwrap()
    }

    fn client(helo: Option<&str>, name: Option<&str>, address: &str) -> Client {
        Client {
            helo: helo.map(|helo| helo.as_bytes().to_vec()),
            name: name.map(str::to_owned),
            address: address.to_owned(),
            tls: None,
        }
    }

    #[test]
    fn names_helo_address_and_the_only_recipient() {
        let client = client(Some("client.example"), Some("host.example"), "192.0.2.1");
        assert_eq!(
            field(&client, Protocol::Esmtp, Some("bob@mx.example")),
            "Received: from client.example (host.example [192.0.2.1])\n\
             \tby mx.example (doorpost) with ESMTP id 06a7b0c1d2e3f4g\n\
             \tfor <bob@mx.example>; Sun, 22 Nov 2026 03:19:37 +0000\n"
        );
    }

    #[test]
    fn says_by_which_cipher_suite_it_came() {
        let mut client = client(Some("client.example"), None, "192.0.2.1");
        client.tls = Some("TLS_AES_256_GCM_SHA384".to_owned());
        let text = field(&client, Protocol::Esmtpsa, Some("bob@mx.example"));
        assert!(text.contains(" with ESMTPSA id "), "{text}");
        assert!(text.contains("\n\tfor <bob@mx.example>\n\ttls TLS_AES_256_GCM_SHA384; Sun"), "{text}");
    }

    #[test]
    fn says_what_it_knows_and_no_more() {
        let first_line = |client, protocol| field(&client, protocol, None).lines().next().unwrap().to_owned();
        let smtp = |client| first_line(client, Protocol::Smtp);
        assert_eq!(smtp(client(Some("x"), None, "2001:db8::1")), "Received: from x (unknown [IPv6:2001:db8::1])");
        assert_eq!(smtp(client(Some("x"), None, "stdin")), "Received: from x (stdin)");
        assert_eq!(smtp(client(None, None, "192.0.2.1")), "Received: from [192.0.2.1] (unknown [192.0.2.1])");
        assert_eq!(smtp(client(None, Some("a.b"), "192.0.2.1")), "Received: from a.b (a.b [192.0.2.1])");
        assert_eq!(
            first_line(client(None, None, ""), Protocol::Local),
            "Received: by mx.example (doorpost) id 06a7b0c1d2e3f4g; Sun, 22 Nov 2026 03:19:37 +0000"
        );
    }

    #[test]
    fn hostile_texts_neither_end_the_field_nor_begin_a_comment() {
        let hostile = client(Some("a b\r\nX-Evil: (1"), Some("n)\n\n<b>"), "1\n2");
        let text = field(&hostile, Protocol::Smtp, Some("b\x1b[2J@mx.example"));
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("Received: from a?b??X-Evil:??1 (n????b? 1?2)\n\tby "), "{text}");
        assert!(!text.contains("for"), "{text}");
    }

    proptest! {
        #[test]
        fn any_texts_make_one_field_of_bounded_lines(
            helo in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..2000)),
            name in proptest::option::of(".{0,1000}"),
            address in ".{0,1000}",
            tls in proptest::option::of(".{0,1000}"),
            recipient in proptest::collection::vec(any::<u8>().prop_filter("line", |o| !b"\0\r\n".contains(o)), 1..1000),
        ) {
            let recipient = Address::from_internal(&recipient).unwrap();
            let client = Client { helo, name, address, tls };
            let field = Received {
                client: &client,
                protocol: Protocol::Esmtp,
                utf8: true,
                by: "mx.example",
                id: "06a7b0c1d2e3f4g",
                only_recipient: Some(&recipient),
                date: "Sun, 22 Nov 2026 03:19:37 +0000",
            }
            .field();
            prop_assert!(field.len() < 2048);
            let text = String::from_utf8(field).unwrap();
            prop_assert!(text.bytes().all(|o| matches!(o, b' '..=b'~' | b'\n' | b'\t')));
            prop_assert!(text.ends_with('\n') && !text.contains("\n\n"));
            prop_assert!(text.lines().skip(1).all(|line| line.starts_with('\t')));
            prop_assert!(text.lines().all(|line| line.len() <= 998));
        }

        #[test]
        fn hops_are_counted_alike_however_the_content_is_split(
            parts in proptest::collection::vec("(Received|rEcEiVeD|X|\r|\n|\r\n|:| |\t|\n\n){1,3}", 0..30),
            chunk in 1..10_usize,
        ) {
            let content = parts.concat();
            let mut whole = HopCounter::default();
            whole.push(content.as_bytes());
            let mut pieces = HopCounter::default();
            content.as_bytes().chunks(chunk).for_each(|piece| pieces.push(piece));
            prop_assert_eq!(whole.hops(), pieces.hops());
        }
    }

    #[test]
    fn received_fields_of_the_header_are_hops() {
        for (content, hops) in [
            (&b"Received: a\nSubject: x\nRECEIVED : b\n\tReceived: folded\nreceived:\n\nReceived: body\n"[..], 3),
            (b"Received: a\r\nReceived:\r\n\r\nReceived: body\r\n", 2),
            (b"\nReceived: body\n", 0),
            (b"\r\nReceived: body\n", 0),
            (b"\rReceived: x\nReceived: y\n", 1),
            (b"Receive: x\nReceivedx: y\nX-Received: z\nReceived x: y\n", 0),
            (b"Received:", 1),
            (b"", 0),
        ] {
            let mut counter = HopCounter::default();
            counter.push(content);
            assert_eq!(counter.hops(), hops, "{}", content.escape_ascii());
        }
    }
}
