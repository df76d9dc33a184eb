//! Return messages: what a sender is told of a message, as a multipart/report (RFC 3462) with a delivery-status (RFC
//! 3464, for addresses in UTF-8 RFC 6533), from nobody, so that it can never be answered by another.
//!
//! Of failures everybody hears who did not ask for silence; of delay whoever waits longer than `delay_warning_time`; of
//! success who asked for it (RFC 3461). What can neither be delivered nor returned is told to
//! `double_bounce_recipient`, and if that fails too it ends there.
//!
//! The id of a return comes from the message, the kind and the first recipient it is about. A repeat after a crash finds it
//! queued already, and only notes that. While some recipient waits for a place at a busy next hop, what failed meanwhile
//! waits too, for `minimal_backoff_time` at most, so that one report tells of all. `text.rs` finds the words. A report that a
//! host without 8BITMIME does not get is queued once more as `ascii.rs` makes it.

mod ascii;
mod text;

use super::copy::public_address;
use super::expand::IN_A_CIRCLE;
use super::schedule;
use crate::config::Config;
use crate::logging::{clean, field};
use crate::message::header::{self, Header};
use crate::message::parameters::{Body, MailParameters, RecipientParameters, Ret};
use crate::message::path::{Address, ReversePath};
use crate::message::verp::{self, Verp};
use crate::queue::{Draft, Error, Head, Id, Message, Queue, RecipientState};
use std::io::{BufRead, BufReader, Read};
use std::time::SystemTime;

/// The channel return messages are recorded to have come in on.
const CHANNEL: &str = "local";

/// Most recipients that one return message is about: those whose numbers differ by less.
const BLOCK: usize = 1000;

/// The attribute of a return message, and of what an alias or a `~/.forward` makes of it: its kind.
pub const REPORT: &str = "report";

/// What a recipient that another host has is recorded with, in front of what that said; it will not report success.
pub const RELAYED: &str = "relayed";

/// The same where the other host has taken over what the sender wants to hear.
pub const PASSED_ON: &str = "passed on";

/// The same where the recipient was an alias: others stand for it now.
pub const EXPANDED: &str = "expanded";

/// What a recipient whose mail is thrown away is recorded with, behind the status.
pub const DISCARDED: &str = "discarded";

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failure,
    Delay,
    Success,
    /// Neither delivered nor returned.
    Double,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Failure => "failure",
            Kind::Delay => "delay",
            Kind::Success => "success",
            Kind::Double => "double",
        }
    }
}

/// One recipient in a report.
struct Told {
    address: Address,
    parameters: RecipientParameters,
    report: String,
}

/// Tells of what failed and of what arrived, as far as that is wanted and not done yet.
pub fn tell(queue: &Queue, config: &Config, message: &mut Message) -> Result<(), Error> {
    for (kind, numbers) in untold(message) {
        for group in groups(message, &numbers) {
            let report = tell_of(queue, config, message, kind, group)?;
            settle(message, group)?;
            // Before that is noted it could not be delivered (origin.rs).
            report.iter().for_each(|id| _ = queue.wake_for(id));
        }
    }
    Ok(())
}

/// Ends the telling that a crash broke off: where the report is queued its recipients are noted. To be called before any
/// recipient is tried, for another that fails could be the first of its group, and give the report another id.
pub fn finish(queue: &Queue, message: &mut Message) -> Result<(), Error> {
    for (kind, numbers) in untold(message) {
        let kind = if message.reverse_path.0.is_none() { Kind::Double } else { kind };
        for group in groups(message, &numbers) {
            let Some(first) = group.first() else { continue };
            if queue.has_derived(&message.id, &origin(kind, *first))? {
                log::info!("id={} event=returned-before kind={}", message.id, kind.word());
                settle(message, group)?;
            }
        }
    }
    Ok(())
}

/// Whether nobody who failed has waited long to be told of. A clock that was set back makes nobody wait.
pub fn may_wait(config: &Config, message: &Message) -> bool {
    let now = SystemTime::now();
    let is_recent = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age < config.minimal_backoff_time.0);
    let failed = message.recipients.iter().filter(|recipient| recipient.state == RecipientState::Failed);
    failed.map(|recipient| recipient.changed).all(is_recent)
}

/// Recipients of whom nobody has been told, by kind.
fn untold(message: &Message) -> [(Kind, Vec<usize>); 2] {
    let numbers = |wanted: &dyn Fn(&crate::queue::Recipient) -> bool| -> Vec<usize> {
        let numbered = message.recipients.iter().enumerate();
        numbered.filter(|(_, recipient)| wanted(recipient)).map(|(number, _)| number).collect()
    };
    // A message from nobody has nobody to tell of success.
    let has_sender = message.reverse_path.0.is_some();
    let failed = numbers(&|recipient| recipient.state == RecipientState::Failed);
    let arrived = numbers(&|recipient| {
        recipient.state == RecipientState::Delivered
            && has_sender
            && recipient.parameters.notify().success
            && !recipient.report.starts_with(PASSED_ON)
    });
    [(Kind::Failure, failed), (Kind::Success, arrived)]
}

/// What a report comes from.
fn origin(kind: Kind, first: usize) -> String {
    format!("{}/{first}", kind.word())
}

/// Tells of recipients that wait longer than `delay_warning_time`, once.
pub fn warn(queue: &Queue, config: &Config, message: &mut Message, now: SystemTime) -> Result<(), Error> {
    let limit = config.delay_warning_time.0;
    if limit.is_zero() || message.reverse_path.0.is_none() || schedule::age(message.created, now) < limit {
        return Ok(());
    }
    let waits = |(number, recipient): (usize, &crate::queue::Recipient)| {
        let wanted = recipient.state == RecipientState::Waiting && recipient.attempts > 0;
        (wanted && !recipient.is_warned && recipient.parameters.notify().delay).then_some(number)
    };
    let waiting: Vec<usize> = message.recipients.iter().enumerate().filter_map(waits).collect();
    for group in groups(message, &waiting) {
        let report = tell_of(queue, config, message, Kind::Delay, group)?;
        for number in group.iter().rev() {
            message.mark_warned(*number, group.first() == Some(number))?;
        }
        report.iter().for_each(|id| _ = queue.wake_for(id));
    }
    Ok(())
}

/// Recipients that are told of together. By their numbers, so that a repeat after a crash in the middle makes no other
/// groups of those that are left: the first of each is settled last.
fn groups<'a>(message: &Message, numbers: &'a [usize]) -> Vec<&'a [usize]> {
    // With VERP each recipient has a sender of its own, and a report goes once more to each who has it not yet.
    let is_each = Verp::of(&message.reverse_path).is_some() || is_report_of_8_bits(message);
    numbers.chunk_by(|one, next| !is_each && one / BLOCK == next / BLOCK).collect()
}

/// Records that nothing is left to do for these.
fn settle(message: &mut Message, group: &[usize]) -> Result<(), Error> {
    for number in group.iter().rev() {
        let report = message.recipients.get(*number).map(|recipient| recipient.report.clone()).unwrap_or_default();
        message.mark(*number, RecipientState::Returned, &report, group.first() == Some(number))?;
    }
    Ok(())
}

/// Queues the report of these, and gives its id if it was not queued before.
fn tell_of(
    queue: &Queue,
    config: &Config,
    message: &Message,
    kind: Kind,
    group: &[usize],
) -> Result<Option<Id>, Error> {
    let told: Vec<Told> = group.iter().filter_map(|number| told(config, message, *number)).collect();
    let is_unwanted = |told: &&Told| kind == Kind::Failure && !told.parameters.notify().failure;
    for one in told.iter().filter(is_unwanted) {
        log::info!("id={} to=<{}> event=not-returned reason=\"NOTIFY\"", message.id, field(&one.address));
    }
    let told: Vec<Told> = told.into_iter().filter(|one| !is_unwanted(&one)).collect();
    let (Some(first), Some(one)) = (group.first(), told.first()) else { return Ok(None) };
    let is_again = needs_ascii(message, &told);
    let sender = verp::expand(&message.reverse_path, &one.address);
    let (kind, to) = match sender.0 {
        Some(sender) => (kind, Some(sender)),
        None if is_again => (Kind::Double, Some(one.address.clone())),
        None => (Kind::Double, double_bounce_recipient(config, message)),
    };
    let Some(to) = to else {
        // A report itself, of which nobody wants to hear a second time.
        for one in &told {
            let (to, reason) = (field(&one.address), &one.report);
            log::warn!("id={} to=<{to}> status=lost reason={reason:?}", message.id);
        }
        return Ok(None);
    };
    match queue.begin_derived(&message.id, &origin(kind, *first))? {
        Some(draft) if is_again => write_in_ascii(draft, message, &to).map(Some),
        Some(draft) => write(draft, config, message, kind, &told, &to).map(Some),
        None => {
            log::info!("id={} event=returned-before kind={}", message.id, kind.word());
            Ok(None)
        }
    }
}

fn told(config: &Config, message: &Message, number: usize) -> Option<Told> {
    let recipient = message.recipients.get(number)?;
    let address = public_address(message, &recipient.address.or_at(&config.myhostname));
    Some(Told { address, parameters: recipient.parameters.clone(), report: recipient.report.clone() })
}

/// Who hears of a message from nobody that failed; nobody, if it is itself a report that was no return of a failure.
fn double_bounce_recipient(config: &Config, message: &Message) -> Option<Address> {
    let is_worth_it = matches!(message.attribute(REPORT), None | Some("failure"));
    let to = Address::from_internal(config.double_bounce_recipient.as_bytes()).ok()?;
    is_worth_it.then(|| to.or_at(&config.myhostname))
}

/// Whether this is a report that did not go because of octets above 127: it can be written without.
fn needs_ascii(message: &Message, told: &[Told]) -> bool {
    let is_lack = |word: &str| matches!(word, "5.6.3" | "4.6.3");
    let is_open = |to: &Told| to.address.is_ascii() && to.report.split(' ').any(is_lack);
    is_report_of_8_bits(message) && matches!(told, [one] if is_open(one))
}

/// Whether this is a report that has octets above 127.
fn is_report_of_8_bits(message: &Message) -> bool {
    let is_report = message.attribute(REPORT).is_some() && message.reverse_path.0.is_none();
    is_report && message.parameters.body == Body::EightBitMime
}

/// Writes a report once more.
fn write_in_ascii(mut draft: Draft, message: &Message, to: &Address) -> Result<Id, Error> {
    let is_cut = in_ascii(message, false, |_| Ok(()))?;
    in_ascii(message, is_cut, |octets| draft.content(octets))?;
    draft.end_content()?;
    let parameters = MailParameters { body: Body::SevenBit, smtputf8: false, ..message.parameters.clone() };
    let kind = message.attribute(REPORT).unwrap_or_default();
    commit(draft, message, kind, &parameters, to, 1)
}

/// Gives a report in ASCII, and says whether it is cut.
fn in_ascii(message: &Message, is_cut: bool, mut each: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<bool, Error> {
    let (mut content, mut piece) = (BufReader::new(message.content()), Vec::new());
    let mut ascii = ascii::Ascii::new(is_cut);
    loop {
        let read = content.by_ref().take(ascii::PIECE).read_until(b'\n', &mut piece);
        match read.map_err(|error| Error::Io(format!("{}: {error}", message.id)))? {
            0 => return Ok(ascii.is_cut),
            _ => each(&ascii.take(&piece))?,
        }
        piece.clear();
    }
}

fn write(
    mut draft: Draft,
    config: &Config,
    message: &Message,
    kind: Kind,
    told: &[Told],
    to: &Address,
) -> Result<Id, Error> {
    let id = *draft.id();
    let beginning = header::beginning(|room, at| message.read_at(room, at))?;
    // The report is to arrive as the message was (RFC 8689 section 5).
    let is_for_any_eyes = !message.parameters.requiretls && Header::read(&beginning).is_for_any_eyes();
    let mut report = text::Report::new(config, message, kind, told, id);
    report.is_for_any_eyes = is_for_any_eyes;
    let whole = kind == Kind::Failure || kind == Kind::Double;
    // RFC 8689 section 5: what must not be read on its way is not read on its way back either.
    let requiretls = message.parameters.requiretls;
    let whole = whole && !requiretls && message.parameters.ret != Some(Ret::Hdrs);
    // What is binary cannot be a part of a text, and an attached message cannot be encoded (RFC 2046 section 5.2.1).
    let whole = whole && message.parameters.body != Body::BinaryMime;
    let whole = whole && message.size <= config.bounce_size_limit;
    // Anybody can write that field, and whoever was forged as the sender gets no more of what he wrote than must be.
    let whole = whole && told.iter().all(|one| !one.report.ends_with(IN_A_CIRCLE));
    report.is_whole = whole;
    let header = if whole { None } else { Some(header_in_lf(message)?) };
    let is_ascii = match &header {
        Some(header) => header.is_ascii(),
        None => copy(message, |_| Ok(()))?,
    };
    draft.content(report.head(to, is_ascii).as_bytes())?;
    draft.content(report.part_of_the_original(is_ascii).as_bytes())?;
    match &header {
        Some(header) => draft.content(header)?,
        None => _ = copy(message, |piece| draft.content(piece))?,
    }
    draft.content(report.end().as_bytes())?;
    draft.end_content()?;
    let body = if is_ascii && !report.is_global { Body::SevenBit } else { Body::EightBitMime };
    let smtputf8 = report.is_global || !to.as_bytes().is_ascii();
    let parameters = MailParameters { body, smtputf8, requiretls, ..MailParameters::default() };
    commit(draft, message, kind.word(), &parameters, to, told.len())
}

/// Queues a report that is written, about so many recipients.
fn commit(
    mut draft: Draft,
    message: &Message,
    kind: &str,
    parameters: &MailParameters,
    to: &Address,
    recipients: usize,
) -> Result<Id, Error> {
    // Of a report nothing is reported, but a failure is kept (double bounces).
    draft.recipient(to)?;
    draft.parameters(parameters)?;
    draft.attribute(REPORT, kind)?;
    let head = Head { reverse_path: ReversePath::NULL, trace: Vec::new(), channel: CHANNEL.to_owned() };
    let id = draft.commit(&head)?;
    log::info!("id={} return={id} kind={kind} to=<{}> recipients={recipients}", message.id, field(to));
    Ok(id)
}

/// An address as a header field can hold it: no line of a message is longer than 998 octets, and none of it
/// may be taken for something else.
fn shown(address: &Address) -> String {
    clean(address.to_string().as_bytes(), 900)
}

/// Gives the octets of the message in pieces, and says whether all are ASCII.
fn copy(message: &Message, mut each: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<bool, Error> {
    let (mut buffer, mut at, mut is_ascii) = (vec![0; 32 * 1024], 0_u64, true);
    loop {
        let count = message.read_at(&mut buffer, at)?;
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            return Ok(is_ascii);
        }
        is_ascii = is_ascii && piece.is_ascii();
        each(piece)?;
        at = at.saturating_add(count as u64);
    }
}

/// What stands before the first empty line, as lines of a text; only whole ones, and no more than bounce_size_limit's default.
/// What came as binary may have no header, and no line of it is shown that is none of one.
fn header_in_lf(message: &Message) -> Result<Vec<u8>, Error> {
    let start = message.beginning(50_000)?;
    let lines = header_of(&start).split_inclusive(|octet| *octet == b'\n');
    let texts = lines.filter_map(|line| line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")));
    let is_binary = message.parameters.body == Body::BinaryMime;
    let texts = texts.take_while(|text| !is_binary || is_line_of_header(text));
    Ok(texts.flat_map(|text| [text, b"\n"].concat()).collect())
}

fn is_line_of_header(text: &[u8]) -> bool {
    let is_one = text.starts_with(b" ") || text.starts_with(b"\t") || header::name_of(text).is_some();
    is_one && text.len() <= 998 && memchr::memchr2(0, b'\r', text).is_none()
}

/// All before the first empty line; only whole lines.
pub fn header_of(octets: &[u8]) -> &[u8] {
    let mut length = 0_usize;
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        if !line.ends_with(b"\n") || matches!(line, b"\n" | b"\r\n") {
            break;
        }
        length = length.saturating_add(line.len());
    }
    octets.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
