//! One QMQP connection: may this client, take the package, hand it to submit, answer once.
//!
//! Content goes on to submit piece by piece, so memory does not grow with the message. Whatever is answered before
//! the client has sent all is followed by a half-close and a bounded drain, or the kernel's RST would destroy the
//! answer. A client that goes away before the end gets none, and nothing is queued.
//!
//! Records of level debug tell each step, those of level trace each piece of content too (`debug_peer_list`, `-v`).

use super::reply::{Kind, Reply};
use super::request::{Event, Request};
use crate::channel::Channels;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::logging::field;
use crate::lookup::Lookup;
use crate::message::path::ReversePath;
use crate::message::trace::{Client, Protocol};
use crate::message::verp::Verp;
use crate::net::connection::{Fault, Stream};
use crate::net::peer::Peer;
use crate::net::{FIRST_ROOM, make_room};
use crate::submit::{AllOrNothing, Introduction, Policy};
use std::time::Duration;

/// The specification lets neither side take longer than an hour.
const LONGEST_SESSION: Duration = Duration::from_secs(3600);

/// qmail's client gives up after 60 s: a pause before the reply must stay well below that.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How long a session may last.
pub fn longest(config: &Config) -> Duration {
    config.daemon_timeout.0.min(LONGEST_SESSION)
}

/// How long a client waits for bad news.
fn delay(config: &Config) -> Duration {
    config.qmqpd_error_delay.0.min(LONGEST_DELAY)
}

/// A client that does not even take a refusal is not waited for.
pub(super) const REFUSAL: Duration = Duration::from_secs(10);

/// What one read may bring.
const PIECE: usize = 32 * 1024;

/// How a connection comes to its end.
enum End {
    /// With this reply; `unread`: the client has sent, or may still send, what nobody will read.
    Reply { reply: Reply, ended: Ended, unread: bool },
    /// The client went away in this phase.
    HungUp(&'static str),
}

impl End {
    fn early(reply: Reply) -> End {
        End::Reply { reply, ended: Ended::Refused, unread: true }
    }
}

/// Serves one connection. `submit` was made before an octet is read; if that failed, the client hears "later". An error
/// given back has been told to the client already.
pub fn serve<S: Stream, Q: AllOrNothing>(
    stream: &mut S,
    config: &Config,
    peer: &Peer,
    channels: &Channels,
    submit: Result<Q, Error>,
) -> Result<Ended, Error> {
    let who = who(config, peer);
    log::debug!("client={who} event=connect");
    // Let go of behind the answer: the client need not wait for that.
    let mut kept = None;
    let taken = submit.and_then(|submit| match authorize(config, peer, channels)? {
        Ok(channel) => {
            let introduction = introduction(peer, channel, Policy::Anywhere, Protocol::Qmqp);
            take(stream, config, &who, introduction, kept.insert(submit))
        }
        Err(reply) => Ok(End::early(reply)),
    });
    match taken {
        Ok(End::Reply { reply, ended, unread }) => {
            let sent = say(stream, config, peer, &who, reply);
            if unread {
                stream.finish();
            }
            Ok(if sent { ended } else { Ended::HungUp })
        }
        Ok(End::HungUp(phase)) => {
            log::info!("client={who} event=end lost connection while {phase}");
            Ok(Ended::HungUp)
        }
        Err(error) => {
            refuse(stream, &error);
            Err(error)
        }
    }
}

/// Tells a client that we cannot serve it now, and never why: that stands in the log.
pub fn refuse(stream: &mut impl Stream, error: &Error) {
    let reply = match error {
        // Whoever wrote the command line must mend it, as with main.cf.
        Error::Usage(_) | Error::Config(_) => Reply::CONFIGURATION,
        Error::Data(_) | Error::Unavailable(_) | Error::Connection(_) => Reply::TROUBLE,
        Error::Temporary(_) | Error::Permission(_) => Reply::TROUBLE,
    };
    stream.allow_last_words(REFUSAL);
    let _ = stream.send(&reply.octets());
    stream.finish();
}

/// The client as records show it, with its port if that is wanted (qmqpd_client_port_logging).
pub(super) fn who(config: &Config, peer: &Peer) -> String {
    match peer.port.filter(|_| config.qmqpd_client_port_logging) {
        Some(port) => format!("{peer} port={port}"),
        None => peer.to_string(),
    }
}

/// The channel an authorised client's mail comes in on, or why it is turned away.
fn authorize(config: &Config, peer: &Peer, channels: &Channels) -> Result<Result<String, Reply>, Error> {
    match config.qmqpd_authorized_clients.matches_peer(peer) {
        Lookup::Yes(()) => {}
        Lookup::No => return Ok(Err(Reply::NOT_AUTHORIZED)),
        Lookup::CannotTell(why) => {
            log::warn!("client={peer} qmqpd_authorized_clients: {why}");
            return Ok(Err(Reply::CANNOT_TELL));
        }
    }
    match channels.incoming(peer, &[], false)? {
        Lookup::Yes(found) => Ok(Ok(found.channel.name.clone())),
        Lookup::No => Ok(Err(Reply::NOT_AUTHORIZED)),
        Lookup::CannotTell(why) => {
            log::warn!("client={peer} channels: {why}");
            Ok(Err(Reply::CANNOT_TELL))
        }
    }
}

/// Who hands mail in. An authorised QMQP client's may go anywhere: no single recipient can be refused.
pub(super) fn introduction(peer: &Peer, channel: String, policy: Policy, protocol: Protocol) -> Introduction {
    // A name that no pattern asked for is not worth a wait for DNS.
    let name = peer.looked_up.get().and_then(|looked_up| match looked_up {
        Lookup::Yes(name) => Some(name.clone()),
        Lookup::No | Lookup::CannotTell(_) => None,
    });
    let client = Client { name, address: peer.to_string(), ..Client::default() };
    Introduction { channel, policy, protocol, client }
}

/// Takes the package and hands it on.
fn take(
    stream: &mut impl Stream,
    config: &Config,
    who: &str,
    introduction: Introduction,
    submit: &mut impl AllOrNothing,
) -> Result<End, Error> {
    submit.introduce(&introduction)?;
    let mut request = Request::new(config.message_size_limit, config.line_length_limit);
    let (mut buffer, mut count) = (vec![0; FIRST_ROOM], 0);
    loop {
        make_room(&mut buffer, count, PIECE);
        stream.allow(config.qmqpd_timeout.0);
        count = match stream.receive(&mut buffer) {
            Ok(0) | Err(Fault::HungUp) => return Ok(End::HungUp(request.phase())),
            Ok(count) => count,
            Err(Fault::TimedOut) => {
                let reply = Reply::timed_out(request.phase());
                return Ok(End::Reply { reply, ended: Ended::TimedOut, unread: true });
            }
            Err(Fault::Io(error)) => return Err(Error::Connection(format!("reading from the client: {error}"))),
        };
        let mut input = &buffer[..count];
        while !input.is_empty() {
            let (taken, event) = match request.push(input) {
                Ok(pushed) => pushed,
                Err(fault) => return Ok(End::early(Reply::fault(fault, request.phase()))),
            };
            input = &input[taken..];
            match event {
                Some(Event::Content(octets)) => {
                    log::trace!("client={who} event=content octets={}", octets.len());
                    submit.content(octets)?;
                }
                Some(Event::ReversePath(path)) => {
                    log::debug!("client={who} event=sender from={}", field(&path));
                    if let Some(reply) = bad_delimiters(config, &path) {
                        return Ok(End::early(reply));
                    }
                    submit.reverse_path(&path)?;
                }
                Some(Event::Recipient(address)) => {
                    log::debug!("client={who} event=recipient to=<{}>", field(&address));
                    submit.require(&address)?;
                }
                Some(Event::End) => {
                    let reply = Reply::outcome(submit.commit()?);
                    let ended = if reply.kind == Kind::Queued { Ended::Done } else { Ended::Refused };
                    return Ok(End::Reply { reply, ended, unread: !input.is_empty() });
                }
                // QMQP has a fault instead.
                Some(Event::NotAnAddress) | None => {}
            }
        }
    }
}

/// A variable envelope return path whose delimiters the administrator does not allow.
pub(super) fn bad_delimiters(config: &Config, path: &ReversePath) -> Option<Reply> {
    let allowed = config.verp_delimiter_filter.as_bytes();
    let verp = Verp::of(path)?;
    let fits = [verp.delimiter(), b'='].iter().all(|delimiter| allowed.contains(delimiter));
    (!fits).then(|| Reply::bad_delimiters(verp.delimiter(), &config.verp_delimiter_filter))
}

/// Sends the reply; a negative one after a pause.
fn say(stream: &mut impl Stream, config: &Config, peer: &Peer, who: &str, reply: Reply) -> bool {
    let reply = if config.soft_bounce { reply.softened() } else { reply };
    log::info!("client={who} event=end reply={} text={:?}", reply.kind, reply.text);
    if reply.kind != Kind::Queued {
        slow_down(config, peer);
    }
    stream.allow_last_words(config.qmqpd_timeout.0);
    let sent = stream.send(&reply.octets()).is_ok();
    if !sent {
        log::info!("client={who} lost connection while sending completion status");
    }
    sent
}

/// A pause before an answer that is not good, if there is a network to slow down.
pub(super) fn slow_down(config: &Config, peer: &Peer) {
    if peer.on_inet_socket {
        std::thread::sleep(delay(config));
    }
}

#[cfg(test)]
mod tests;
