//! One QMTP connection: package after package, each queued or not, and a reply for each of its recipients.
//!
//! Unlike a QMQP client, who is authorised as a whole, a QMTP client stands where an SMTP client does: the channels
//! file says where its mail may go, and each recipient is judged by itself. Replies are the same.
//!
//! As there, a message has so many recipients at the most, and a client that asks for too many who are not there is sent away:
//! it is no place to find out who is.
//!
//! The protocol has no word for a package that is none: the connection ends without one, and the client tries again
//! later. Where we cannot go on, `Z` stands for the first recipient and the end of the connection for the others.

use super::reply::{Kind, Reply};
use super::request::{Event, Request};
use super::server::{REFUSAL, bad_delimiters, introduction, refuse, slow_down, who};
use crate::channel::Channels;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::logging::field;
use crate::lookup::Lookup;
use crate::message::trace::Protocol;
use crate::net::connection::{Fault, Stream};
use crate::net::peer::Peer;
use crate::submit::{Policy, Submit, Verdict};

/// What one read may bring.
const PIECE: usize = 32 * 1024;

/// So many replies are sent at once.
const REPLIES: usize = 500;

/// Serves one connection. `submit` was made before an octet is read; if that failed, the client hears "later". An error
/// given back has been told to the client already.
pub fn serve<S: Stream, Q: Submit>(
    stream: &mut S,
    config: &Config,
    peer: &Peer,
    channels: &Channels,
    submit: Result<Q, Error>,
) -> Result<Ended, Error> {
    let who = who(config, peer);
    log::debug!("client={who} event=connect");
    let served = submit.and_then(|mut submit| {
        let reply = match channels.incoming(peer, &[], false)? {
            Lookup::Yes(found) => {
                let (channel, policy) = (found.channel.name.clone(), Policy::of(found));
                submit.introduce(&introduction(peer, channel, policy, Protocol::Qmtp))?;
                return Session { stream, config, peer, who: &who, submit, errors: 0 }.packages();
            }
            Lookup::No => Reply::NOT_AUTHORIZED,
            Lookup::CannotTell(why) => {
                log::warn!("client={who} channels: {why}");
                Reply::CANNOT_TELL
            }
        };
        log::info!("client={who} event=end reply={} text={:?}", reply.kind, reply.text);
        let reply = if config.soft_bounce { reply.softened() } else { reply };
        slow_down(config, peer);
        stream.allow_last_words(config.qmqpd_timeout.0);
        let _ = stream.send(&reply.octets());
        stream.finish();
        Ok(Ended::Refused)
    });
    served.inspect_err(|error| refuse(stream, error))
}

struct Session<'a, S, Q> {
    stream: &'a mut S,
    config: &'a Config,
    peer: &'a Peer,
    who: &'a str,
    submit: Q,
    /// Recipients and messages so far that were refused for good.
    errors: u32,
}

impl<S: Stream, Q: Submit> Session<'_, S, Q> {
    /// Takes packages until the client has no more.
    fn packages(mut self) -> Result<Ended, Error> {
        let mut buffer = vec![0; PIECE];
        let mut package = Package::new(self.config);
        loop {
            self.stream.allow(self.config.qmqpd_timeout.0);
            let count = match self.stream.receive(&mut buffer) {
                Ok(0) | Err(Fault::HungUp) if !package.request.has_begun() => return Ok(Ended::Done),
                Ok(0) | Err(Fault::HungUp) => return Ok(self.end(Ended::HungUp, "lost connection", &package)),
                Ok(count) => count,
                Err(Fault::TimedOut) => return Ok(self.end(Ended::TimedOut, "timed out", &package)),
                Err(Fault::Io(error)) => return Err(Error::Connection(format!("reading from the client: {error}"))),
            };
            let mut input = buffer.get(..count).unwrap_or_default();
            while !input.is_empty() {
                let Ok((taken, event)) = package.request.push(input) else {
                    self.stream.finish();
                    return Ok(self.end(Ended::Refused, "not a package", &package));
                };
                input = &input[taken..];
                if let Some(Event::End) = event {
                    let answered = std::mem::replace(&mut package, Package::new(self.config));
                    if let Some(ended) = self.answer(answered)? {
                        return Ok(ended);
                    }
                    if self.has_erred_enough() {
                        self.stream.finish();
                        return Ok(self.end(Ended::Refused, "too many errors", &package));
                    }
                } else if let Some(event) = event
                    && !self.hand_on(&mut package, event)?
                {
                    self.stream.finish();
                    return Ok(self.end(Ended::Refused, "no kind of line end", &package));
                }
            }
        }
    }

    fn has_erred_enough(&self) -> bool {
        self.errors >= self.config.smtpd_hard_error_limit
    }

    fn end(&self, ended: Ended, why: &str, package: &Package) -> Ended {
        log::info!("client={} event=end {why} while {}", self.who, package.request.phase());
        ended
    }

    /// Hands a part of the package on; whether it can be one.
    fn hand_on(&mut self, package: &mut Package, event: Event) -> Result<bool, Error> {
        match event {
            Event::Content(octets) => {
                package.lines.decode(octets, &mut package.piece);
                self.submit.content(&package.piece)?;
                package.piece.clear();
                return Ok(package.lines != Lines::Unknown);
            }
            Event::ReversePath(path) => {
                self.submit.content(package.lines.rest())?;
                log::debug!("client={} event=sender from={}", self.who, field(&path));
                package.has_reverse_path = true;
                package.refusal = bad_delimiters(self.config, &path);
                self.submit.reverse_path(&path)?;
            }
            Event::NotAnAddress if !package.has_reverse_path => {
                // As for a recipient: what is no address now is none later.
                package.has_reverse_path = true;
                package.refusal = Some(Reply::BAD_SENDER);
            }
            Event::NotAnAddress => self.note(package, Verdict::BadAddress),
            Event::Recipient(_) if package.refusal.is_some() => package.verdicts.push(Verdict::Accepted),
            // Nobody is looked up any more; the client may try those again in another connection.
            Event::Recipient(_) if self.has_erred_enough() => package.verdicts.push(Verdict::CannotTell),
            Event::Recipient(_) if package.accepted >= self.config.smtpd_recipient_limit => {
                package.verdicts.push(Verdict::TooMany);
            }
            Event::Recipient(address) => {
                let verdict = self.submit.recipient(&address)?;
                log::debug!("client={} event=recipient to=<{}> verdict={verdict:?}", self.who, field(&address));
                self.note(package, verdict);
            }
            Event::End => {}
        }
        Ok(true)
    }

    fn note(&mut self, package: &mut Package, verdict: Verdict) {
        package.accepted = package.accepted.saturating_add(u32::from(verdict == Verdict::Accepted));
        let is_never = own_reply(&verdict).is_some_and(|reply| reply.kind == Kind::Never);
        self.errors = self.errors.saturating_add(u32::from(is_never));
        package.verdicts.push(verdict);
    }

    /// Queues the message for whom it is taken, and answers for each recipient; how the session ended, if it did.
    fn answer(&mut self, package: Package) -> Result<Option<Ended>, Error> {
        let taken = match package.refusal {
            None if package.verdicts.contains(&Verdict::Accepted) => Reply::outcome(self.submit.commit()?),
            None => self.submit.reset().map(|()| Reply::NO_RECIPIENTS)?,
            Some(refusal) => self.submit.reset().map(|()| refusal)?,
        };
        let is_refused = taken.kind == Kind::Never && package.verdicts.contains(&Verdict::Accepted);
        self.errors = self.errors.saturating_add(u32::from(is_refused));
        let reply_to = |verdict: &Verdict| {
            let reply = own_reply(verdict).unwrap_or_else(|| taken.clone());
            if self.config.soft_bounce { reply.softened() } else { reply }
        };
        let mut counts = [(Kind::Queued, 0), (Kind::Later, 0), (Kind::Never, 0)];
        for kind in package.verdicts.iter().map(|verdict| reply_to(verdict).kind) {
            counts.iter_mut().filter(|(known, _)| *known == kind).for_each(|(_, count)| *count += 1);
        }
        let [(_, queued), (_, later), (_, never)] = counts;
        log::info!("client={} event=replies K={queued} Z={later} D={never} text={:?}", self.who, taken.text);
        if later + never > 0 {
            slow_down(self.config, self.peer);
        }
        // What is queued must be said, however long that and the pause took: the client would send it again.
        let is_last = self.stream.session_left() < REFUSAL;
        if is_last {
            self.stream.allow_last_words(self.config.qmqpd_timeout.0);
        } else {
            self.stream.allow(self.config.qmqpd_timeout.0);
        }
        // A few at a time: there may be a hundred thousand.
        for some in package.verdicts.chunks(REPLIES) {
            let octets: Vec<u8> = some.iter().flat_map(|verdict| reply_to(verdict).octets()).collect();
            if self.stream.send(&octets).is_err() {
                log::info!("client={} event=end lost connection while sending replies", self.who);
                return Ok(Some(Ended::HungUp));
            }
        }
        if is_last {
            self.stream.finish();
            log::info!("client={} event=end timed out", self.who);
            return Ok(Some(Ended::TimedOut));
        }
        Ok(None)
    }
}

/// What is said of a recipient whatever becomes of the message; nothing for one that is taken.
fn own_reply(verdict: &Verdict) -> Option<Reply> {
    match verdict {
        // The client sends those that are left over in a package of their own.
        Verdict::TooMany => Some(Reply::TOO_MANY_RECIPIENTS_NOW),
        verdict => Reply::verdict(verdict),
    }
}

/// A package while it comes in.
struct Package {
    request: Request,
    lines: Lines,
    /// Content with its line ends as we write them.
    piece: Vec<u8>,
    has_reverse_path: bool,
    /// Why nobody gets the message, whatever the recipients are.
    refusal: Option<Reply>,
    verdicts: Vec<Verdict>,
    /// How many of them are taken.
    accepted: u32,
}

impl Package {
    fn new(config: &Config) -> Package {
        Package {
            request: Request::qmtp(config.line_length_limit),
            lines: Lines::Unknown,
            piece: Vec::new(),
            has_reverse_path: false,
            refusal: None,
            verdicts: Vec::new(),
            accepted: 0,
        }
    }
}

/// How the lines of the content end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// The octet that says it has not come, or was neither LF nor CR.
    Unknown,
    /// In LF: the content is taken as it is.
    Lf,
    /// In CR LF, of which the CR may have come alone so far. A CR that no LF follows is content.
    CrLf { after_cr: bool },
}

impl Lines {
    /// Appends content with LF where its line ends are.
    fn decode(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        let mut octets = octets;
        if *self == Lines::Unknown {
            let Some((first, rest)) = octets.split_first() else { return };
            octets = rest;
            *self = match first {
                b'\n' => Lines::Lf,
                b'\r' => Lines::CrLf { after_cr: false },
                _ => return,
            };
        }
        let Lines::CrLf { after_cr } = self else { return out.extend_from_slice(octets) };
        for &octet in octets {
            if *after_cr && octet != b'\n' {
                out.push(b'\r');
            }
            *after_cr = octet == b'\r';
            if !*after_cr {
                out.push(octet);
            }
        }
    }

    /// What still belongs to the content when it has ended.
    fn rest(self) -> &'static [u8] {
        if self == (Lines::CrLf { after_cr: true }) { b"\r" } else { b"" }
    }
}

#[cfg(test)]
mod tests;
