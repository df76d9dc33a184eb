//! The header of a message that a program on this machine hands in: split off, looked through for recipients, and completed
//! (RFC 6409 section 8). No I/O.

use crate::exit::Error;
use crate::message::address_list;
use crate::message::header::FieldName;
use crate::message::path::Address;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Fields that hold addresses.
const OF_ADDRESSES: [&[u8]; 10] = [
    b"from",
    b"sender",
    b"reply-to",
    b"to",
    b"cc",
    b"resent-from",
    b"resent-sender",
    b"resent-reply-to",
    b"resent-to",
    b"resent-cc",
];

/// The fields, each with its line ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Header {
    fields: Vec<Vec<u8>>,
}

/// Who a message is from, where it does not say.
#[derive(Debug, PartialEq, Eq)]
pub struct Who {
    /// The address in its quoted form.
    pub address: String,
    /// The full name; empty where there is none.
    pub name: String,
}

impl Header {
    /// Splits a text with LF line ends into header and what follows, the empty line between them taken off. Nothing if the
    /// end of the header is not there yet; `is_all`: no more comes. A first line `From ` of an mbox is dropped. A line
    /// that can be no field begins the body.
    pub fn split(text: &[u8], is_all: bool) -> Option<(Header, Vec<u8>)> {
        let mut header = Header::default();
        let mut at = 0;
        for (number, line) in text.split_inclusive(|octet| *octet == b'\n').enumerate() {
            if !line.ends_with(b"\n") && !is_all {
                return None;
            }
            let begin = at;
            at += line.len();
            match line {
                b"\n" => return Some((header, text.get(at..).unwrap_or_default().to_vec())),
                [b' ' | b'\t', ..] if !header.fields.is_empty() => {
                    header.fields.last_mut()?.extend_from_slice(line);
                }
                _ if name_of(line).is_some() => header.fields.push(line.to_vec()),
                _ if number == 0 && line.starts_with(b"From ") => {}
                _ => return Some((header, text.get(begin..).unwrap_or_default().to_vec())),
            }
        }
        is_all.then(|| (header, Vec::new()))
    }

    /// Who gets it by the header: the Resent fields where there are some, else To, Cc and Bcc.
    pub fn recipients(&self) -> Result<Vec<Address>, Error> {
        let resent: [&[u8]; 3] = [b"resent-to", b"resent-cc", b"resent-bcc"];
        let usual: [&[u8]; 3] = [b"to", b"cc", b"bcc"];
        let names = if resent.iter().any(|name| self.has(name)) { resent } else { usual };
        let mut found = Vec::new();
        for field in self.fields.iter().filter(|field| is_one_of(field, &names)) {
            let value = field.iter().position(|octet| *octet == b':').and_then(|at| field.get(at + 1..));
            found.extend(addresses(value.unwrap_or_default())?);
        }
        Ok(found)
    }

    /// Adds From, Date and Message-ID where they are missing, takes out what goes no further (`dropped`), and ends the last
    /// line.
    pub fn complete(&mut self, dropped: &[FieldName], who: &Who, date: &str, message_id: &str) {
        let dropped: Vec<&[u8]> = dropped.iter().map(|name| name.0.as_bytes()).collect();
        self.fields.retain(|field| !is_one_of(field, &dropped));
        if let Some(last) = self.fields.last_mut().filter(|last| !last.ends_with(b"\n")) {
            last.push(b'\n');
        }
        let prefix = if self.fields.iter().any(|field| is_resent(field)) { "Resent-" } else { "" };
        let missing = |name: &str| !self.has(format!("{prefix}{name}").to_ascii_lowercase().as_bytes());
        let mut added = Vec::new();
        if missing("From") {
            added.push(format!("{prefix}From: {}\n", who.mailbox()));
        }
        if missing("Date") {
            added.push(format!("{prefix}Date: {date}\n"));
        }
        if missing("Message-ID") {
            added.push(format!("{prefix}Message-ID: {message_id}\n"));
        }
        let added = added.into_iter().map(String::into_bytes);
        // A Resent block belongs in front (RFC 5322 section 3.6.6).
        if prefix.is_empty() { self.fields.extend(added) } else { drop(self.fields.splice(0..0, added)) }
    }

    /// Completes addresses without a domain, as programs of this machine write them: to another host they mean nothing, and
    /// large ones refuse mail from `root`.
    pub fn qualify(&mut self, host: &str) {
        for field in self.fields.iter_mut().filter(|field| is_one_of(field, &OF_ADDRESSES)) {
            let Some(at) = field.iter().position(|octet| *octet == b':') else { continue };
            let (name, value) = field.split_at(at + 1);
            if let Some(value) = address_list::qualified(value, host) {
                *field = [name, &value].concat();
            }
        }
    }

    /// The header with the empty line behind it.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = self.fields.concat();
        text.push(b'\n');
        text
    }

    fn has(&self, name: &[u8]) -> bool {
        self.fields.iter().any(|field| is_one_of(field, &[name]))
    }
}

/// The addresses in a text, or which of it is none.
pub fn addresses(text: &[u8]) -> Result<Vec<Address>, Error> {
    address_list::addresses(text).map_err(|wrong| Error::Data(format!("expected mail addresses instead of {wrong}")))
}

fn is_one_of(field: &[u8], names: &[&[u8]]) -> bool {
    name_of(field).is_some_and(|name| names.iter().any(|known| name.eq_ignore_ascii_case(known)))
}

fn is_resent(field: &[u8]) -> bool {
    name_of(field).and_then(|name| name.get(..7)).is_some_and(|start| start.eq_ignore_ascii_case(b"resent-"))
}

/// The name of a field, if the line begins one: graphic ASCII up to the colon, blanks before that allowed.
fn name_of(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|octet| *octet == b':')?;
    let name = line.get(..colon)?.trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

impl Who {
    /// `Name <address>`, the name quoted or encoded where it must be (RFC 5322 section 3.4, RFC 2047).
    fn mailbox(&self) -> String {
        let name: String = self.name.chars().filter(|letter| !letter.is_control()).take(100).collect();
        let name = name.trim();
        let is_plain =
            name.chars().all(|letter| letter.is_ascii_alphanumeric() || " !#$%&'*+-/=?^_`{|}~".contains(letter));
        if name.is_empty() {
            return self.address.clone();
        }
        let name = if !name.is_ascii() {
            let words: Vec<String> =
                in_pieces(name).map(|piece| format!("=?utf-8?B?{}?=", BASE64_STANDARD.encode(piece))).collect();
            words.join("\n ")
        } else if is_plain {
            name.to_owned()
        } else {
            format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
        };
        format!("{name} <{}>", self.address)
    }
}

/// Pieces that fit an encoded word (75 characters), none divided within a character.
fn in_pieces(text: &str) -> impl Iterator<Item = String> {
    let mut pieces = vec![String::new()];
    for letter in text.chars() {
        if pieces.last().is_some_and(|piece| piece.len() + letter.len_utf8() > 45) {
            pieces.push(String::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(letter);
        }
    }
    pieces.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> (Header, String) {
        let (header, body) = Header::split(text.as_bytes(), true).unwrap();
        (header, String::from_utf8(body).unwrap())
    }

    fn completed(text: &str) -> String {
        let (mut header, body) = split(text);
        let who = Who { address: "alice@mx.example".into(), name: "Alice A.".into() };
        let dropped = crate::config::Config::with(&[]).message_drop_headers.0;
        header.complete(&dropped, &who, "DATE", "<ID>");
        String::from_utf8([header.to_text(), body.into_bytes()].concat()).unwrap()
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_there_stays() {
        let added = "From: \"Alice A.\" <alice@mx.example>\nDate: DATE\nMessage-ID: <ID>\n";
        assert_eq!(completed("Subject: x\n\nbody\n"), format!("Subject: x\n{added}\nbody\n"));
        assert_eq!(completed(""), format!("{added}\n"));
        assert_eq!(completed("Subject: x"), format!("Subject: x\n{added}\n"));
        let whole = "from : a@x\ndate:\n now\nMESSAGE-ID: <1>\n\nbody";
        assert_eq!(completed(whole), whole);
    }

    #[test]
    fn a_text_without_a_header_gets_one_and_an_empty_line() {
        assert!(completed("hello there\nTo: not a field\n").ends_with("<ID>\n\nhello there\nTo: not a field\n"));
        assert!(completed(" begins with a blank\n").ends_with("<ID>\n\n begins with a blank\n"));
        assert!(completed("From alice Thu Jan  1\nSubject: x\n\nb\n").starts_with("Subject: x\nFrom: "));
    }

    #[test]
    fn blind_copies_and_what_other_hosts_wrote_for_themselves_are_taken_out() {
        let text = completed("To: a@x\nBcc: b@x,\n c@x\nReturn-Path: <d@x>\nContent-Length: 5\nSubject: y\n\nb\n");
        assert!(text.starts_with("To: a@x\nSubject: y\nFrom: "), "{text}");
        assert!(!text.contains("c@x") && !text.contains("Content-Length"));
    }

    #[test]
    fn recipients_come_from_the_fields_for_them_and_resent_ones_win() {
        let found = |text: &str| -> Vec<String> {
            split(text).0.recipients().unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            found("To: a@x, B <b@x>\nCc: c@x\nbcc: d@x,\n\te@x\nX: f@x\n\n"),
            ["a@x", "b@x", "c@x", "d@x", "e@x"]
        );
        assert_eq!(found("To: a@x\nResent-To: b@x\nResent-Bcc: c@x\n\n"), ["b@x", "c@x"]);
        assert!(split("To: a b@x\n\n").0.recipients().is_err());
    }

    #[test]
    fn a_resent_message_gets_its_block_in_front() {
        let text = completed("Subject: x\nFrom: a@x\nDate: d\nMessage-ID: <1>\nResent-To: b@x\n\nb\n");
        assert!(
            text.starts_with(
                "Resent-From: \"Alice A.\" <alice@mx.example>\nResent-Date: DATE\nResent-Message-ID: <ID>\nSubject"
            ),
            "{text}"
        );
    }

    #[test]
    fn names_are_quoted_or_encoded() {
        let mailbox = |name: &str| Who { address: "a@x".into(), name: name.into() }.mailbox();
        assert_eq!(mailbox(""), "a@x");
        assert_eq!(mailbox("Cron Daemon"), "Cron Daemon <a@x>");
        assert_eq!(mailbox("A \"B\", C\n"), "\"A \\\"B\\\", C\" <a@x>");
        assert_eq!(mailbox("J\u{f6}rg"), "=?utf-8?B?SsO2cmc=?= <a@x>");
    }

    proptest! {
        #[test]
        fn the_header_is_split_alike_however_much_is_there(text in "[a-c: \t\n.]{0,60}") {
            let all = Header::split(text.as_bytes(), true).unwrap();
            for length in 0..text.len() {
                if let Some((header, body)) = Header::split(&text.as_bytes()[..length], false) {
                    prop_assert_eq!(&header, &all.0);
                    prop_assert!(all.1.starts_with(&body));
                }
            }
        }
    }
}
