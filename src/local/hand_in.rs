//! Submission from this machine: the envelope is told by arguments or by the header, the message comes on standard input.
//!
//! Lines of a message from a pipe end in LF, and octets are kept as they are. Two liberties are taken: where the first
//! line ends in CR LF the message is taken for one from another system, and every CR LF becomes LF (as sendmail always);
//! and a last line without an end gets one.
//!
//! Who may write the queue writes there; everybody else leaves the message in the drop folder.

use crate::cli::Common;
use crate::config::{Config, shown};
use crate::exit::Error;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::{Client, Protocol};
use crate::submit::drop_folder::Dropper;
use crate::submit::receiver::Receiver;
use crate::submit::{Introduction, Outcome, Policy, Refusal, Submit, Verdict};
use std::collections::HashSet;
use std::io::{self, Read};

/// The way a message takes from here.
#[derive(Debug)]
pub enum Way<'a> {
    /// Into the queue.
    Queue(Box<Receiver<'a>>),
    /// Into the drop folder.
    Drop(Box<Dropper<'a>>),
}

impl<'a> Way<'a> {
    /// Finds it, by whether this process may write the queue.
    pub fn find(config: &'a Config, common: &'a Common) -> Result<Way<'a>, Error> {
        match Receiver::new(config, common) {
            Ok(receiver) => Ok(Way::Queue(Box::new(receiver))),
            // One that cannot be used now is as good as another's: what was handed in must not be lost.
            Err(error @ (Error::Permission(_) | Error::Temporary(_))) => {
                log::debug!("{error}");
                let way = Dropper::new(config).map(|dropper| Way::Drop(Box::new(dropper)));
                way.map_err(|none| if matches!(error, Error::Temporary(_)) { error } else { none })
            }
            Err(error) => Err(error),
        }
    }

    /// As what it is for whoever hands mail in.
    pub fn submit(&mut self) -> &mut dyn Submit {
        match self {
            Way::Queue(receiver) => receiver.as_mut(),
            Way::Drop(dropper) => dropper.as_mut(),
        }
    }

    /// What comes is on its way back from the content_filter. A user's word for that, in the drop folder, counts for nothing.
    pub fn come_from_filter(&mut self) {
        if let Way::Queue(receiver) = self {
            receiver.come_from_filter();
        }
    }

    /// Tells whoever delivers that there is something to deliver.
    pub fn wake(&self) {
        match self {
            Way::Queue(receiver) => receiver.wake(),
            // The dropper has.
            Way::Drop(_) => {}
        }
    }
}

/// Who sends it to whom, and what is said with that.
#[derive(Debug, Default)]
pub struct Envelope {
    /// Where failures go; `<>` or nothing for nowhere.
    pub from: String,
    /// Who gets it.
    pub recipients: Vec<Address>,
    /// With the reverse-path.
    pub mail: MailParameters,
    /// With each recipient.
    pub said: RecipientParameters,
}

/// Queues one message for all recipients or for none, and gives its queue id, or its name in the drop folder.
pub fn submit(
    config: &Config,
    way: &mut dyn Submit,
    envelope: &Envelope,
    input: &mut dyn Read,
) -> Result<String, Error> {
    let client = Client { helo: None, name: None, address: "local".to_owned(), tls: None };
    let (channel, policy, protocol) = ("local".to_owned(), Policy::Anywhere, Protocol::Local);
    way.introduce(&Introduction { channel, policy, protocol, client })?;
    way.reverse_path_with(&reverse_path(config, &envelope.from)?, &envelope.mail)?;
    for address in &envelope.recipients {
        match way.recipient_with(address, &envelope.said)? {
            Verdict::Accepted => {}
            Verdict::TooMany => return Err(Error::Unavailable("too many recipients for one message".to_owned())),
            _ => return Err(not_an_address(&address.to_string())),
        }
    }
    let mut text = Text::new(input);
    let mut piece = vec![0; 64 * 1024];
    loop {
        match text.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => way.content(piece.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Half a message is none.
            Err(error) => return Err(Error::Connection(format!("standard input: {error}"))),
        }
    }
    commit(way)
}

/// The end of a message.
pub fn commit(way: &mut dyn Submit) -> Result<String, Error> {
    match way.commit()? {
        Outcome::Queued(id) => Ok(id),
        Outcome::Refused(refusal) => Err(match refusal {
            Refusal::TooLarge | Refusal::TooManyHops | Refusal::Filtered => Error::Unavailable(refusal.to_string()),
            Refusal::NoRecipients | Refusal::Recipient(_) => Error::Usage(refusal.to_string()),
            Refusal::NoRoom | Refusal::Trouble => Error::Temporary(refusal.to_string()),
        }),
    }
}

/// Each address once, in its first spelling: people list somebody by two ways and in two cases, and mean one copy.
pub fn without_repeats(config: &Config, recipients: Vec<Address>) -> Vec<Address> {
    let mut seen = HashSet::new();
    let key = |address: &Address| address.or_at(&config.myhostname).as_bytes().to_ascii_lowercase();
    recipients.into_iter().filter(|address| seen.insert(key(address))).collect()
}

/// An operand that is to be an address, with or without angle brackets.
pub fn recipient(text: &str) -> Result<Address, Error> {
    Address::from_internal(bare(text).as_bytes()).map_err(|_| not_an_address(text))
}

fn not_an_address(text: &str) -> Error {
    Error::Data(format!("expected a mail address instead of {}", shown(text)))
}

/// The sender that a text means, with its domain; null for `<>` or nothing.
pub fn reverse_path(config: &Config, from: &str) -> Result<ReversePath, Error> {
    let wrong = || Error::Data(format!("expected a mail address or <> instead of {}", shown(from)));
    let path = ReversePath::from_internal(bare(from).as_bytes()).ok().filter(ReversePath::is_usable);
    path.and_then(|path| path.completed(&config.myhostname).ok()).ok_or_else(wrong)
}

/// Without the angle brackets that people copy along.
fn bare(address: &str) -> &str {
    address.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(address)
}

/// Text from a pipe, its line ends as they are kept.
pub struct Text<'a> {
    input: &'a mut dyn Read,
    ends: LineEnds,
    ready: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a> Text<'a> {
    /// Reads from `input`.
    pub fn new(input: &'a mut dyn Read) -> Self {
        Text { input, ends: LineEnds::default(), ready: Vec::new(), at: 0, ended: false }
    }

    /// Reads what a program hands in: every CR LF is an LF, whatever the first line ends in. PHP, for one, puts lines of its
    /// own, which end in LF, before and behind those of a script, which end in CR LF.
    pub fn of_program(input: &'a mut dyn Read) -> Self {
        Text { ends: LineEnds { crlf: Some(true), ..LineEnds::default() }, ..Text::new(input) }
    }
}

impl Read for Text<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() && !self.ended {
            let mut piece = [0; 16 * 1024];
            let count = self.input.read(&mut piece)?;
            self.ready.clear();
            self.at = 0;
            match count {
                0 => {
                    self.ended = true;
                    self.ends.finish(&mut self.ready);
                }
                _ => self.ends.push(piece.get(..count).unwrap_or_default(), &mut self.ready),
            }
        }
        let count = self.ready.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

/// Makes LF of CR LF, if the first line ends so.
#[derive(Debug, Default)]
struct LineEnds {
    /// Whether the first line ended in CR LF, once it has ended.
    crlf: Option<bool>,
    /// A CR that waits for what follows it.
    cr: bool,
    last: Option<u8>,
}

impl LineEnds {
    fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        for &octet in input {
            if std::mem::take(&mut self.cr) && !(octet == b'\n' && *self.crlf.get_or_insert(true)) {
                out.push(b'\r');
            }
            match octet {
                b'\r' => self.cr = true,
                _ => out.push(octet),
            }
            if octet == b'\n' {
                self.crlf.get_or_insert(false);
            }
            self.last = Some(octet);
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.cr) {
            out.push(b'\r');
        }
        if self.last.is_some_and(|last| last != b'\n') {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(input: &str, chunk: usize) -> String {
        let (mut ends, mut out) = (LineEnds::default(), Vec::new());
        input.as_bytes().chunks(chunk).for_each(|piece| ends.push(piece, &mut out));
        ends.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_a_message_that_begins_with_crlf_is_converted() {
        for (input, output) in [
            ("", ""),
            ("a\nb\r\n", "a\nb\r\n"),
            ("a\r\nb\r\nc\n", "a\nb\nc\n"),
            ("a\r\nb\rc\r\r\n", "a\nb\rc\r\n"),
            ("\r\n\r\n", "\n\n"),
            ("a\rb\nc", "a\rb\nc\n"),
            ("a\r", "a\r\n"),
            ("a\r\nb\r", "a\nb\r\n"),
        ] {
            for chunk in 1..=input.len().max(1) {
                assert_eq!(converted(input, chunk), output, "{input:?} by {chunk}");
            }
        }
    }
}
