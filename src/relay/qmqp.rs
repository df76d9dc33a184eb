//! QMQP and QMTP to another host (cr.yp.to/proto/qmqp.html, cr.yp.to/proto/qmtp.txt): one or several hosts with commas
//! between, of which the next is asked only where there is no connection to the one before.
//!
//! How lines end is the protocol's affair: what came as BODY=BINARYMIME leaves with LF if it is text, and otherwise not at all.
//!
//! One package carries the message to all its recipients. QMQP answers once for all of them, QMTP for each. An answer is
//! believed as soon as its first octet has come; none at all means "later", and the message may then be there twice, as
//! always with a protocol whose answer can be lost.

use super::Outcome;
use super::link::{Line, Times, end_of};
use super::{Carried, Job, Site, route};
use crate::logging::clean;
use crate::net::dns::Resolver;
use crate::smtp::client::{Lost, Stage, Wire};
use crate::wire::netstring::{self, LengthReader};
use std::collections::VecDeque;
use std::time::Duration;

/// Longest answer.
const LONGEST_ANSWER: u64 = 2000;

/// Most octets of it that the sender is told, as of a reply of SMTP.
const LONGEST_TEXT: usize = 400;

/// How long one address may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long the other side may take for a write, and for each answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Port 628, one answer.
    Qmqp,
    /// Port 209, an answer for each recipient.
    Qmtp,
}

/// Hands the message to the first of the hosts that takes a connection.
pub fn carry(resolver: &Resolver, job: &Job, protocol: Protocol) -> Carried {
    let mut carried = Carried::new(job.to.len());
    // A report goes back all the same (RFC 8689 section 5).
    if job.requiretls && job.sender.0.is_some() {
        let why = "5.7.30 the sender requires TLS all the way, and QMQP and QMTP know none";
        return carried.all(&Outcome::Failed(why.to_owned()));
    }
    let crs = match job.binary.then(|| job.source.text_lines()) {
        None => 0,
        Some(Ok(Some(lines))) => lines,
        Some(Ok(None)) => {
            let why = "5.6.1 the message is binary, and QMQP and QMTP carry only text";
            return carried.all(&Outcome::Failed(why.to_owned()));
        }
        Some(Err(error)) => {
            log::error!("id={}: {error}", job.id);
            return carried.all(&Outcome::Deferred("4.3.0 the message could not be read".to_owned()));
        }
    };
    let (host, line) = match connect(resolver, job, protocol) {
        Ok(connected) => connected,
        Err(outcome) => {
            let everybody: Vec<usize> = (0..job.to.len()).collect();
            return carried.these(&everybody, &outcome);
        }
    };
    carried.site = Site::Answers;
    let mut talk = Talk { line, pending: VecDeque::new() };
    let sent = package(&mut talk, job, protocol, crs);
    if sent == Err(Lost::Unreadable) {
        return carried.all(&Outcome::Deferred("4.3.0 the message could not be read".to_owned()));
    }
    let mut said: Option<Outcome> = None;
    for number in 0..job.to.len() {
        let outcome = match said.take() {
            Some(outcome) => outcome,
            None => outcome(&host, sent.is_ok(), talk.answer()),
        };
        // QMQP has one answer; after a QMTP connection is lost there will be no other.
        if protocol == Protocol::Qmqp || matches!(&outcome, Outcome::Deferred(why) if why.starts_with("4.4.2")) {
            said = Some(outcome.clone());
        }
        carried.tell(number, outcome);
    }
    carried
}

fn connect(resolver: &Resolver, job: &Job, protocol: Protocol) -> Result<(String, Line), Outcome> {
    let name = if protocol == Protocol::Qmqp { "QMQP" } else { "QMTP" };
    let until = end_of(job.source.size);
    let mut trouble = Outcome::Deferred(format!("4.4.1 no connection to the {name} server"));
    for host in job.next_hop.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let port = if protocol == Protocol::Qmqp { 628 } else { 209 };
        let hops = match route::host(resolver, host, port) {
            Ok(hops) => hops,
            Err(outcome) => {
                trouble = route::for_named(outcome);
                continue;
            }
        };
        for hop in hops {
            match Line::connect(&hop.place, Times::all(CONNECT, PATIENCE), until) {
                Ok(line) => return Ok((clean(host.as_bytes(), 40), line)),
                Err(_) => trouble = Outcome::Deferred(format!("4.4.1 no connection to the {name} server")),
            }
        }
    }
    Err(trouble)
}

/// Sends it all, but for so many CR, which are all there are. Whoever stopped listening has perhaps said why.
fn package(talk: &mut Talk, job: &Job, protocol: Protocol, crs: u64) -> Result<(), Lost> {
    let mut envelope = vec![b','];
    netstring::put(&mut envelope, job.sender.as_bytes());
    let mut to = Vec::new();
    job.to.iter().for_each(|to_one| netstring::put(&mut to, to_one.address.as_bytes()));
    // QMTP begins with how lines end, and has the recipients in a netstring of their own.
    let content = job.source.size.saturating_sub(crs);
    let (size, first) = match protocol {
        Protocol::Qmqp => (content, ""),
        Protocol::Qmtp => (content + 1, "\n"),
    };
    match protocol {
        Protocol::Qmqp => envelope.append(&mut to),
        Protocol::Qmtp => netstring::put(&mut envelope, &to),
    }
    let begin = format!("{size}:{first}");
    let mut out = match protocol {
        Protocol::Qmtp => begin.into_bytes(),
        Protocol::Qmqp => {
            let inside = begin.len() as u64 + content + envelope.len() as u64;
            envelope.push(b',');
            format!("{inside}:{begin}").into_bytes()
        }
    };
    let mut piece = vec![0; 64 * 1024];
    let mut offset = 0;
    loop {
        let count = job.source.read_at(&mut piece, offset).map_err(|error| {
            log::error!("id={}: {error}", job.id);
            Lost::Unreadable
        })?;
        out.extend_from_slice(piece.get(..count).unwrap_or_default());
        if crs > 0 {
            out.retain(|octet| *octet != b'\r');
        }
        offset += count as u64;
        if count == 0 {
            out.extend_from_slice(&envelope);
        }
        talk.line.send(Stage::Content, &out)?;
        if count == 0 {
            return Ok(());
        }
        out.clear();
    }
}

fn outcome(host: &str, complete: bool, answer: Result<(u8, String), Lost>) -> Outcome {
    match (complete, answer) {
        (true, Ok((b'K', text))) => Outcome::Relayed(format!("{host} said: {text}")),
        (_, Ok((b'D', text))) => Outcome::Failed(format!("5.0.0 {host} said: {text}")),
        (_, Ok((b'Z', text))) => Outcome::Deferred(format!("4.0.0 {host} said: {text}")),
        (_, Ok(_)) => Outcome::Deferred(format!("4.5.0 {host} said something else than an answer")),
        (_, Err(Lost::TimedOut)) => Outcome::Deferred(format!("4.4.2 {host} took too long to answer")),
        (_, Err(_)) => Outcome::Deferred(format!("4.4.2 the connection to {host} was lost")),
    }
}

/// The connection, and what was received ahead.
struct Talk {
    line: Line,
    pending: VecDeque<u8>,
}

impl Talk {
    /// The first octet of the next answer, and the text behind it as far as it comes.
    fn answer(&mut self) -> Result<(u8, String), Lost> {
        self.line.expect(Stage::End);
        let mut length = LengthReader::new(LONGEST_ANSWER);
        let left = loop {
            let octet = self.octet()?;
            if let Some(length) = length.push(octet).map_err(|_| Lost::Nonsense)? {
                break length;
            }
        };
        if left == 0 {
            return Err(Lost::Nonsense);
        }
        let first = self.octet()?;
        let mut text = Vec::new();
        // What is missing of the text changes nothing. The comma is read too, or our close would be a reset.
        while let Some(octet) = (text.len() as u64).lt(&left).then(|| self.octet().ok()).flatten() {
            text.push(octet);
        }
        text.truncate(usize::try_from(left - 1).unwrap_or(usize::MAX));
        Ok((first, clean(&text, LONGEST_TEXT)))
    }

    fn octet(&mut self) -> Result<u8, Lost> {
        loop {
            if let Some(octet) = self.pending.pop_front() {
                return Ok(octet);
            }
            let mut buffer = [0; 2048];
            match self.line.receive(&mut buffer)? {
                0 => return Err(Lost::HungUp),
                count => self.pending.extend(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}
