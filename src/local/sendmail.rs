//! The program under the name `sendmail`: options as cron, mutt, git send-email, PHP and mailx use them, recipients from
//! the command line or with `-t` from the header, and what the header lacks added.
//!
//! `options.rs` reads the command line, `header.rs` the header. What is no option of sendmail's is an error; what is one and
//! means nothing here is taken and passed over.

pub mod header;
pub mod options;

use super::hand_in::{self, Envelope, Text};
use crate::clock;
use crate::config::{Config, shown};
use crate::exit::Error;
use crate::message::parameters::{Body, MailParameters, RecipientParameters};
use crate::message::path::Address;
use crate::message::verp;
use crate::submit::{Submit, before_queue};
use header::{Header, Who};
use nix::unistd::{Uid, User};
use options::Options;
use std::io::{self, Read};
use std::time::SystemTime;

/// Largest header, in octets.
const LARGEST_HEADER: usize = 1 << 20;

/// Submits the message on `input` as the options say; gives its queue id.
pub fn submit(
    config: &Config,
    way: &mut dyn Submit,
    options: &Options,
    caller: Uid,
    input: &mut dyn Read,
) -> Result<String, Error> {
    let mut dotted = UntilDot { input, ends_at_dot: !options.keep_dots, at: LineStart::Begin, ended: false };
    let mut text = Text::of_program(&mut dotted);
    let (mut header, body) = read_header(&mut text)?;
    let mut recipients = Vec::new();
    for operand in options.recipients.iter().chain(&options.from) {
        if operand.contains(char::REPLACEMENT_CHARACTER) {
            // Octets that are no UTF-8: it would be another address.
            return Err(Error::Data(format!("expected a mail address in UTF-8 instead of {}", shown(operand))));
        }
    }
    for operand in &options.recipients {
        recipients.extend(header::addresses(operand.as_bytes())?);
    }
    if options.from_header {
        recipients.extend(header.recipients()?);
    }
    if recipients.is_empty() {
        let expected = if options.from_header { "in To, Cc or Bcc" } else { "as operands, or with -t in the header" };
        return Err(Error::Usage(format!("expected recipients {expected}")));
    }
    let who = who(config, options, caller);
    header.complete(&config.message_drop_headers.0, &who, &clock::field_date(SystemTime::now()), &message_id(config));
    if !options.from_filter {
        header.qualify(&config.myhostname);
    }
    let mail = MailParameters {
        body: if options.is_eight_bit { Body::EightBitMime } else { Body::SevenBit },
        ret: options.ret,
        envid: options.envid.clone(),
        // A filter that hands the message on by this name must not take that from it.
        requiretls: before_queue::said().requiretls,
        ..MailParameters::default()
    };
    let said = RecipientParameters { notify: options.notify, orcpt: None };
    let recipients = hand_in::without_repeats(config, recipients);
    let from = sender(options, caller);
    let from = options.verp.map_or(Ok(from.clone()), |delimiter| of_each(config, &from, delimiter))?;
    let envelope = Envelope { from, recipients, mail, said };
    let head = header.to_text();
    let mut whole = io::Read::chain(&head[..], io::Read::chain(&body[..], text));
    hand_in::submit(config, way, &envelope, &mut whole)
}

/// Who calls, by name, for the envelope.
fn sender(options: &Options, caller: Uid) -> String {
    options.from.clone().unwrap_or_else(|| login(caller))
}

/// The sender that is another one for each recipient (`-XV`).
fn of_each(config: &Config, from: &str, delimiter: u8) -> Result<String, Error> {
    let (allowed, given) = (&config.verp_delimiter_filter, format!("{}=", char::from(delimiter)));
    if !given.chars().all(|delimiter| allowed.contains(delimiter)) {
        let expected = format!("expected delimiters of verp_delimiter_filter, {}", shown(allowed));
        return Err(Error::Usage(format!("-XV{}: {expected}", shown(&given))));
    }
    let path = verp::of_each(&hand_in::reverse_path(config, from)?, delimiter);
    let path = path.and_then(|path| String::from_utf8(path.as_bytes().to_vec()).ok());
    path.ok_or_else(|| Error::Usage(format!("-XV: expected a sender with one @ instead of {}", shown(from))))
}

fn login(caller: Uid) -> String {
    match User::from_uid(caller) {
        Ok(Some(user)) => user.name,
        _ => caller.to_string(),
    }
}

/// Who the message is from, where the header does not say.
fn who(config: &Config, options: &Options, caller: Uid) -> Who {
    let user = User::from_uid(caller).ok().flatten();
    let from = options.from.as_deref().filter(|from| !matches!(*from, "" | "<>"));
    let address = from.map_or_else(|| login(caller), str::to_owned);
    let address = address.trim_start_matches('<').trim_end_matches('>').to_owned();
    let address = Address::from_internal(address.as_bytes()).and_then(|address| address.completed(&config.myhostname));
    let own_name = || {
        let user = user.as_ref().filter(|_| options.from.is_none())?;
        let gecos = user.gecos.to_string_lossy();
        Some(gecos.split(',').next().unwrap_or_default().replace('&', &user.name))
    };
    let name = options.full_name.clone().or_else(own_name).unwrap_or_default();
    Who { address: address.map_or_else(|_| "MAILER-DAEMON".to_owned(), |address| address.to_string()), name }
}

fn message_id(config: &Config) -> String {
    let id = crate::queue::Id::new(SystemTime::now());
    format!("<{id}.{}@{}>", std::process::id(), config.myhostname)
}

/// The header, and what was read behind it.
fn read_header(text: &mut dyn Read) -> Result<(Header, Vec<u8>), Error> {
    let (mut octets, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let count = match text.read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Connection(format!("standard input: {error}"))),
        };
        octets.extend_from_slice(piece.get(..count).unwrap_or_default());
        if let Some(found) = Header::split(&octets, count == 0) {
            return Ok(found);
        }
        if octets.len() > LARGEST_HEADER {
            return Err(Error::Data(format!("expected a header of at most {LARGEST_HEADER} octets")));
        }
    }
}

/// Text that ends with a line of a dot alone, as people type it.
struct UntilDot<'a> {
    input: &'a mut dyn Read,
    ends_at_dot: bool,
    at: LineStart,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LineStart {
    Begin,
    Dot,
    DotCr,
    Within,
}

impl Read for UntilDot<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.ends_at_dot {
            return self.input.read(buffer);
        }
        // What is held back of a line that begins with a dot needs room: one octet at a time goes out in pieces.
        let Some(room) = buffer.len().checked_sub(2).filter(|room| *room > 0) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        loop {
            if self.ended {
                return Ok(0);
            }
            let mut piece = vec![0; room.min(16 * 1024)];
            let count = self.input.read(&mut piece)?;
            let mut out = Vec::with_capacity(count + 2);
            if count == 0 {
                self.ended = true;
                // A dot that the input ends with ends it as well.
                out.extend_from_slice(if self.at == LineStart::DotCr { b".\r" } else { b"" });
            }
            for &octet in piece.get(..count).unwrap_or_default() {
                self.at = match (self.at, octet) {
                    (LineStart::Begin, b'.') => LineStart::Dot,
                    (LineStart::Dot, b'\r') => LineStart::DotCr,
                    (LineStart::Dot | LineStart::DotCr, b'\n') => {
                        self.ended = true;
                        break;
                    }
                    (held, octet) => {
                        out.extend_from_slice(match held {
                            LineStart::Dot => b".",
                            LineStart::DotCr => b".\r",
                            LineStart::Begin | LineStart::Within => b"",
                        });
                        out.push(octet);
                        if octet == b'\n' { LineStart::Begin } else { LineStart::Within }
                    }
                };
            }
            if !out.is_empty() || self.ended {
                let filled = buffer.get_mut(..out.len()).ok_or(io::ErrorKind::InvalidInput)?;
                filled.copy_from_slice(&out);
                return Ok(out.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until_dot(input: &str, chunk: usize) -> String {
        struct Slow<'a>(&'a [u8], usize);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(self.0.len()).min(buffer.len());
                let (now, later) = self.0.split_at(count);
                buffer[..count].copy_from_slice(now);
                self.0 = later;
                Ok(count)
            }
        }
        let mut slow = Slow(input.as_bytes(), chunk);
        let mut dotted = UntilDot { input: &mut slow, ends_at_dot: true, at: LineStart::Begin, ended: false };
        let (mut out, mut buffer) = (Vec::new(), [0; 100]);
        loop {
            match dotted.read(&mut buffer).unwrap() {
                0 => return String::from_utf8(out).unwrap(),
                count => out.extend_from_slice(&buffer[..count]),
            }
        }
    }

    #[test]
    fn a_dot_alone_ends_the_text_however_it_is_split() {
        for (input, output) in [
            ("a\n.\nb\n", "a\n"),
            ("a\r\n.\r\nb\n", "a\r\n"),
            (".\n", ""),
            ("a\n..\n.b\n.\rc\n", "a\n..\n.b\n.\rc\n"),
            ("a.\nb\n", "a.\nb\n"),
            ("a\n.", "a\n"),
        ] {
            for chunk in 1..=input.len() {
                assert_eq!(until_dot(input, chunk), output, "{input:?} by {chunk}");
            }
        }
    }
}
