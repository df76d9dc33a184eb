//! One recipient's copy of a message: how it is called in a Maildir, what is written, and the address that others may see.

use super::expand::Route;
use crate::clock::since_1970;
use crate::message::parameters::Body;
use crate::message::path::{Address, ReversePath};
use crate::message::verp;
use crate::queue::{self, Error, Message};
use crate::relay::Source;
use std::io::{self, Read};

/// A message for one of its recipients.
pub struct Copy<'a> {
    /// The message.
    pub message: &'a Message,
    /// The recipient's number.
    pub number: usize,
    /// The recipient's address, with its domain.
    pub address: &'a Address,
    /// An earlier try may have come to its end.
    pub search: bool,
}

impl<'a> Copy<'a> {
    /// The unique part of the message's file name: from the queue id and the recipient's number alone, so that a repeat
    /// has the same, also where a power cut brought back what the message was made of. Short, because it is a unique-id of
    /// POP3 with the sizes behind it: 70 octets in all.
    pub fn base(&self, host: &str) -> String {
        let seconds = since_1970(self.message.id.time()).as_secs();
        let host = host.split('.').next().unwrap_or_default();
        let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(12).collect();
        let host = if host.is_empty() { "localhost" } else { &host };
        format!("{seconds}.Q{}R{}.{host}", self.message.id, self.number)
    }

    /// What is written for this recipient: the sender is expanded where that is wanted (VERP).
    pub fn content(&self) -> Result<Content<'a>, Error> {
        Content::new(self.message, &verp::expand(&self.message.reverse_path, self.address))
    }
}

/// The address of a recipient as others may see it: what an alias or a `~/.forward` made of it is nobody's affair.
pub fn public_address(message: &Message, address: &Address) -> Address {
    let Some(route) = Route::of(message) else { return address.clone() };
    let local = address.local_part();
    match local.split_first() {
        Some((b'\\' | b'~', user)) => {
            let domain = address.domain().unwrap_or_default();
            Address::from_internal(&[user, b"@", domain].concat()).unwrap_or(route.address)
        }
        Some((b'|' | b'/', _)) => route.address,
        _ => address.clone(),
    }
}

/// What is written: the Return-Path field, then trace field and content as they are queued. What came as BODY=BINARYMIME and is
/// text gets the line ends that all other text has here: the mark between two messages of an mbox is a line like its others.
///
/// Return-Path fields that came with the message are left alone: ours is the first line, and what was sent arrives
/// octet by octet (RFC 5321 section 4.4 lets us remove them, and asks for it of nobody but gateways).
pub struct Content<'a> {
    octets: io::Chain<io::Cursor<Vec<u8>>, WithoutCr<'a>>,
    size: u64,
}

impl<'a> Content<'a> {
    /// That of a message, with this sender.
    pub fn new(message: &'a Message, reverse_path: &ReversePath) -> Result<Self, Error> {
        Content::behind(format!("Return-Path: {reverse_path}\n").into_bytes(), message)
    }

    /// The same without the field.
    pub fn alone(message: &'a Message) -> Result<Self, Error> {
        Content::behind(Vec::new(), message)
    }

    fn behind(field: Vec<u8>, message: &'a Message) -> Result<Self, Error> {
        let crs = if message.parameters.body == Body::BinaryMime { crs_of_text(message)? } else { 0 };
        let size = (field.len() as u64).saturating_add(message.size).saturating_sub(crs);
        let text = WithoutCr { octets: message.content(), has_any: crs > 0 };
        Ok(Content { octets: io::Cursor::new(field).chain(text), size })
    }

    /// Its octets.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.octets.read(buffer)
    }
}

/// How many line ends have a CR, where the message is text.
fn crs_of_text(message: &Message) -> Result<u64, Error> {
    let (file, start) = message.for_reading()?;
    let source = Source { file, start, size: message.size, lines: message.lines };
    let lines = source.text_lines().map_err(|error| Error::Io(format!("{}: {error}", message.id)))?;
    Ok(lines.unwrap_or(0))
}

/// What is queued; the CR are left out, where there are any to leave out.
struct WithoutCr<'a> {
    octets: queue::Content<'a>,
    has_any: bool,
}

impl Read for WithoutCr<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.octets.read(buffer)?;
            let kept = if self.has_any { without_cr(buffer, count) } else { count };
            // Nothing is the end, and a CR alone is not.
            if kept > 0 || count == 0 {
                return Ok(kept);
            }
        }
    }
}

/// Takes them out of the first octets, and gives how many are left.
fn without_cr(buffer: &mut [u8], count: usize) -> usize {
    let kept: Vec<u8> = buffer.iter().take(count).copied().filter(|octet| *octet != b'\r').collect();
    buffer.iter_mut().zip(&kept).for_each(|(to, octet)| *to = *octet);
    kept.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::parameters::MailParameters;
    use crate::queue::{Head, Queue};

    fn message(folder: &tempfile::TempDir, body: Body, content: &[u8]) -> Message {
        let path = folder.path().join("queue");
        std::fs::create_dir_all(path.join("message")).unwrap();
        let queue = Queue::at(&path);
        let mut draft = queue.begin().unwrap();
        draft.content(content).unwrap();
        draft.recipient(&Address::from_internal(b"bob@mx.example").unwrap()).unwrap();
        draft.parameters(&MailParameters { body, ..MailParameters::default() }).unwrap();
        let reverse_path = ReversePath::from_internal(b"alice@mx.example").unwrap();
        let id = draft.commit(&Head { reverse_path, trace: Vec::new(), channel: "local".into() }).unwrap();
        queue.take_at_last(&id)
    }

    #[test]
    fn text_that_came_as_binary_has_lines_of_lf_and_all_else_is_as_it_came() {
        use Body::{BinaryMime, EightBitMime};
        for (body, content, expected) in [
            (BinaryMime, "A: b\r\n\r\n\r\n.\r\n", "A: b\n\n\n.\n"),
            (BinaryMime, "Received: x\n\ty\nA: b\r\n", "Received: x\n\ty\nA: b\n"),
            (BinaryMime, "", ""),
            (BinaryMime, "A: b\n\nc\n", "A: b\n\nc\n"),
            (BinaryMime, "A: b\r\n\r\n\0\r\n", "A: b\r\n\r\n\0\r\n"),
            (BinaryMime, "A: b\r\n\r\nc", "A: b\r\n\r\nc"),
            (EightBitMime, "A: b\r\n\r\nc\r\n", "A: b\r\n\r\nc\r\n"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let message = message(&folder, body, content.as_bytes());
            for room in [1, 2, 3, 7, 4096] {
                let mut with_field = Content::new(&message, &message.reverse_path).unwrap();
                let mut alone = Content::alone(&message).unwrap();
                for (content, field) in [(&mut with_field, "Return-Path: <alice@mx.example>\n"), (&mut alone, "")] {
                    let (mut found, mut piece) = (Vec::new(), vec![0; room]);
                    while let count @ 1.. = content.read(&mut piece).unwrap() {
                        found.extend_from_slice(&piece[..count]);
                    }
                    assert_eq!(String::from_utf8_lossy(&found), format!("{field}{expected}"), "{room}");
                    assert_eq!(content.size(), found.len() as u64);
                }
            }
        }
    }
}
