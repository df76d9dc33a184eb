//! Return messages: a multipart/report (RFC 3462) with a message/delivery-status (RFC 3464), from nobody, so that it
//! can never be answered by another.
//!
//! Its id comes from the message it returns and the first recipient it is about. A repeat after a crash finds it
//! queued already, and only notes that.

use crate::config::Config;
use crate::logging::clean;
use crate::message::path::{Address, ReversePath};
use crate::message::verp::{self, Verp};
use crate::queue::{Draft, Error, Head, Message, Queue, RecipientState};
use crate::sys;
use std::time::{SystemTime, UNIX_EPOCH};

/// Larger messages are returned by their header alone, and of that no more than this.
const LARGEST_WHOLE: usize = 50_000;

/// The channel return messages are recorded to have come in on.
const CHANNEL: &str = "local";

/// Returns what failed and is not returned yet.
pub fn return_failed(queue: &Queue, config: &Config, message: &mut Message) -> Result<(), Error> {
    let failed: Vec<usize> = (0..message.recipients.len())
        .filter(|number| message.recipients.get(*number).is_some_and(|r| r.state == RecipientState::Failed))
        .collect();
    // With VERP each recipient has a sender of its own.
    let size = if Verp::of(&message.reverse_path).is_some() { 1 } else { failed.len().max(1) };
    for group in failed.chunks(size) {
        return_group(queue, config, message, group)?;
    }
    Ok(())
}

fn return_group(queue: &Queue, config: &Config, message: &mut Message, group: &[usize]) -> Result<(), Error> {
    let failed: Vec<Failed> = group.iter().filter_map(|number| Failed::of(message, *number, config)).collect();
    let (Some(first), Some(one)) = (group.first(), failed.first()) else { return Ok(()) };
    let to = verp::expand(&message.reverse_path, &one.address);
    match &to.0 {
        Some(to) => {
            let id = message.id.child(u32::try_from(*first).unwrap_or(u32::MAX));
            match queue.begin_as(&id)? {
                Some(draft) => {
                    write(draft, config, message, &failed, to)?;
                    queue.wake();
                }
                None => log::info!("id={} return={id} queued before", message.id),
            }
        }
        // A message from nobody is itself a report, or wants none.
        None => {
            for one in &failed {
                log::warn!("id={} to=<{}> status=lost reason=\"{}\"", message.id, one.address, one.report);
            }
        }
    }
    // The first last: it gives the return its id, should a crash come between.
    for number in group.iter().rev() {
        let Some(recipient) = message.recipients.get(*number) else { continue };
        let report = recipient.report.clone();
        message.mark(*number, RecipientState::Returned, &report, number == first)?;
    }
    Ok(())
}

/// A recipient that failed, and why.
struct Failed {
    address: Address,
    report: String,
}

impl Failed {
    fn of(message: &Message, number: usize, config: &Config) -> Option<Failed> {
        let recipient = message.recipients.get(number)?;
        let address = recipient.address.or_at(&config.myhostname);
        Some(Failed { address, report: clean(recipient.report.as_bytes(), 200) })
    }

    /// The enhanced status code the report begins with, and the text behind it.
    fn parts(&self) -> (&str, &str) {
        match self.report.split_once(' ') {
            Some((status, text)) if is_permanent_status(status) => (status, text),
            _ => ("5.0.0", &self.report),
        }
    }
}

fn is_permanent_status(text: &str) -> bool {
    let number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|octet| octet.is_ascii_digit());
    let mut parts = text.split('.');
    parts.next() == Some("5")
        && parts.next().is_some_and(number)
        && parts.next().is_some_and(number)
        && parts.next().is_none()
}

fn write(mut draft: Draft, config: &Config, message: &Message, failed: &[Failed], to: &Address) -> Result<(), Error> {
    let id = *draft.id();
    let boundary = format!("{id}/{}", config.myhostname);
    draft.content(header(config, &boundary, id.as_str(), to).as_bytes())?;
    draft.content(text(config, &boundary, failed).as_bytes())?;
    draft.content(status(config, &boundary, message, failed).as_bytes())?;
    let start = start(message)?;
    let (kind, returned) = if message.size <= LARGEST_WHOLE as u64 {
        ("message/rfc822", start.as_slice())
    } else {
        ("text/rfc822-headers", header_of(&start))
    };
    let encoding = if returned.is_ascii() { "7bit" } else { "8bit" };
    let part = format!("--{boundary}\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n");
    draft.content(part.as_bytes())?;
    draft.content(returned)?;
    draft.content(format!("\n--{boundary}--\n").as_bytes())?;
    draft.end_content()?;
    draft.recipient(to)?;
    let head = Head { reverse_path: ReversePath::NULL, trace: Vec::new(), channel: CHANNEL.to_owned() };
    let id = draft.commit(&head)?;
    log::info!("id={} return={id} to=<{to}> recipients={}", message.id, failed.len());
    Ok(())
}

fn header(config: &Config, boundary: &str, id: &str, to: &Address) -> String {
    let host = &config.myhostname;
    format!(
        "From: Mail delivery at {host} <MAILER-DAEMON@{host}>\nTo: <{}>\nSubject: Your message could not be delivered\n\
         Date: {}\nMessage-ID: <{id}@{host}>\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"{boundary}\"\n\n\
         This is a delivery report in MIME format.\n\n",
        shown(to),
        date(SystemTime::now()),
    )
}

fn text(config: &Config, boundary: &str, failed: &[Failed]) -> String {
    let mut text = format!(
        "--{boundary}\nContent-Type: text/plain; charset=us-ascii\n\n\
         This is the mail system at {}. Your message could not be delivered to:\n\n",
        config.myhostname
    );
    for one in failed {
        text.push_str(&format!("  <{}>\n    {}\n", shown(&one.address), one.report));
    }
    text.push_str("\nIt will not be tried again. What was sent follows below.\n\n");
    text
}

fn status(config: &Config, boundary: &str, message: &Message, failed: &[Failed]) -> String {
    let mut text = format!(
        "--{boundary}\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; {}\nX-Doorpost-Queue-Id: {}\n\
         Arrival-Date: {}\n",
        config.myhostname,
        message.id,
        date(message.created)
    );
    for one in failed {
        let (status, reason) = one.parts();
        text.push_str(&format!(
            "\nFinal-Recipient: rfc822; {}\nAction: failed\nStatus: {status}\nDiagnostic-Code: x-doorpost; {reason}\n",
            shown(&one.address)
        ));
    }
    text.push('\n');
    text
}

/// An address as a header field can hold it: no line of a message is longer than 998 octets, and none of it may be
/// taken for something else.
fn shown(address: &Address) -> String {
    clean(address.to_string().as_bytes(), 900)
}

/// The message from its beginning, as far as any of it is returned.
fn start(message: &Message) -> Result<Vec<u8>, Error> {
    let mut start = vec![0; LARGEST_WHOLE];
    let mut filled = 0_usize;
    while let Some(room) = start.get_mut(filled..).filter(|room| !room.is_empty()) {
        match message.read_at(room, filled as u64)? {
            0 => break,
            count => filled = filled.saturating_add(count),
        }
    }
    start.truncate(filled);
    Ok(start)
}

/// All before the first empty line; only whole lines.
fn header_of(octets: &[u8]) -> &[u8] {
    let mut length = 0_usize;
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        if !line.ends_with(b"\n") || matches!(line, b"\n" | b"\r\n") {
            break;
        }
        length = length.saturating_add(line.len());
    }
    octets.get(..length).unwrap_or_default()
}

/// A time as RFC 5322 section 3.3 writes it, in the zone of this machine.
fn date(time: SystemTime) -> String {
    let unix = time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    crate::message::date::date(unix, sys::offset_from_utc(unix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(report: &str) -> Failed {
        Failed { address: Address::from_internal(b"bob@mx.example").unwrap(), report: report.to_owned() }
    }

    #[test]
    fn a_report_without_a_permanent_status_gets_the_general_one() {
        assert_eq!(failed("5.1.1 no such user").parts(), ("5.1.1", "no such user"));
        assert_eq!(failed("5.1.100 x").parts(), ("5.1.100", "x"));
        for odd in ["no such user", "4.1.1 x", "5.1 x", "5.1.1.1 x", "5..1 x", "5.1.1234 x", "5.1.a x", ""] {
            assert_eq!(failed(odd).parts(), ("5.0.0", odd));
        }
    }

    #[test]
    fn the_header_ends_at_the_empty_line_or_at_the_last_whole_line() {
        assert_eq!(header_of(b"A: 1\n 2\nB: 3\n\nbody\n"), b"A: 1\n 2\nB: 3\n");
        assert_eq!(header_of(b"A: 1\r\n\r\nbody"), b"A: 1\r\n");
        assert_eq!(header_of(b"A: 1\nB: 2"), b"A: 1\n");
        assert_eq!(header_of(b"no line end"), b"");
    }

    #[test]
    fn an_address_cannot_add_a_field() {
        let address = Address::from_internal("x\u{1b}\u{e9}\"@mx.example".as_bytes()).unwrap();
        assert!(shown(&address).bytes().all(|octet| (b' '..=b'~').contains(&octet)));
    }
}
