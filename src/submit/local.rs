//! Submission from the command line: sender and recipients are arguments, the message comes on standard input.
//!
//! Lines of a message from a pipe end in LF, and octets are kept as they are. Two liberties are taken: where the first
//! line ends in CR LF the message is taken for one from another system, and every CR LF becomes LF; and a last line
//! without an end gets one.

use super::{Introduction, Outcome, Policy, Refusal, Submit, Verdict};
use crate::config::Config;
use crate::exit::Error;
use crate::message::path::{Address, ReversePath};
use crate::message::trace::{Client, Protocol};
use std::io::{self, Read};

/// Queues one message for all recipients or for none, and gives its queue id.
pub fn submit(
    config: &Config,
    receiver: &mut impl Submit,
    from: &str,
    recipients: &[String],
    input: &mut impl Read,
) -> Result<String, Error> {
    let client = Client { helo: None, name: None, address: "local".to_owned(), tls: None };
    let (channel, policy, protocol) = ("local".to_owned(), Policy::Anywhere, Protocol::Local);
    receiver.introduce(&Introduction { channel, policy, protocol, client })?;
    receiver.reverse_path(&reverse_path(config, from)?)?;
    for recipient in recipients {
        let wrong = || Error::Usage(format!("expected a mail address instead of {}", recipient.escape_debug()));
        let address = Address::from_internal(bare(recipient).as_bytes()).map_err(|_| wrong())?;
        match receiver.recipient(&address)? {
            Verdict::Accepted => {}
            Verdict::TooMany => return Err(Error::Usage("too many recipients for one message".to_owned())),
            _ => return Err(wrong()),
        }
    }
    let (mut ends, mut piece, mut lines) = (LineEnds::default(), vec![0; 64 * 1024], Vec::new());
    loop {
        let count = match input.read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Half a message is none.
            Err(error) => return Err(Error::Connection(format!("standard input: {error}"))),
        };
        lines.clear();
        if count == 0 {
            ends.finish(&mut lines);
            receiver.content(&lines)?;
            break;
        }
        ends.push(&piece[..count], &mut lines);
        receiver.content(&lines)?;
    }
    match receiver.commit()? {
        Outcome::Queued(id) => Ok(id),
        Outcome::Refused(refusal) => Err(match refusal {
            Refusal::TooLarge => Error::Usage("the message is larger than message_size_limit".to_owned()),
            Refusal::TooManyHops => Error::Usage("the message has hopcount_limit Received fields".to_owned()),
            Refusal::NoRecipients => Error::Usage("no recipients".to_owned()),
            Refusal::NoRoom => Error::Temporary("the disk is full".to_owned()),
            Refusal::Trouble => Error::Temporary("the queue cannot be written now".to_owned()),
        }),
    }
}

fn reverse_path(config: &Config, from: &str) -> Result<ReversePath, Error> {
    let wrong = || Error::Usage(format!("expected a mail address or <> instead of {}", from.escape_debug()));
    let path = ReversePath::from_internal(bare(from).as_bytes()).map_err(|_| wrong())?;
    Ok(ReversePath(path.0.map(|address| address.or_at(&config.myhostname))))
}

/// Without the angle brackets that people copy along.
fn bare(address: &str) -> &str {
    address.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(address)
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
