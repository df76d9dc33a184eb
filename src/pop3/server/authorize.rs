//! AUTHORIZATION state: from the greeting to a right password, over TLS or not.

use super::lost;
use crate::auth;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::lookup::Lookup;
use crate::net::connection::{Fault, Stream};
use crate::net::peer::Peer;
use crate::net::tls::{Failure, Identity, Offer};
use crate::pop3::dialogue::Dialogue;
use crate::pop3::reply::Reply;
use crate::pop3::session::{Session, Step};
use crate::sasl::{self, Credentials, Exchange, GaveUp, Mechanism, Proof};
use log::info;

/// Gives what nobody can guess, and never the same twice; none if there is no chance to be had.
pub type Nonce = fn() -> Option<String>;

/// By what ways a client may log in.
pub(in crate::pop3) struct Access {
    /// Passwords are allowed before TLS: only on this machine, or where the administrator says so.
    pub(in crate::pop3) passwords_allowed: bool,
    /// There are passwords stored in clear.
    pub(in crate::pop3) secrets: bool,
    /// TLS.
    pub(in crate::pop3) tls: Offer,
    /// Our name, for challenges.
    pub(in crate::pop3) host: String,
    /// What makes each challenge another.
    pub(in crate::pop3) nonce: Nonce,
}

impl Access {
    pub(in crate::pop3) fn new(config: &Config, peer: &Peer, secrets: bool, tls: Offer) -> Access {
        let passwords_allowed = !config.tls_auth_only || peer.is_on_this_machine();
        Access { passwords_allowed, secrets, tls, host: config.myhostname.clone(), nonce: auth::nonce }
    }
}

/// What AUTHORIZATION came to.
pub(in crate::pop3) enum Entered<T> {
    /// Somebody is in.
    In(T),
    /// Nobody is, and the connection is closed.
    Out(Ended),
}

/// AUTHORIZATION state: from the greeting to a right password. `check` gets credentials and the failures so far, and gives
/// with what it found what the mechanism has to say at its end. It also has the dialogue, for what was read and not used.
pub(in crate::pop3) fn authorize<S: Stream, T>(
    dialogue: &mut Dialogue<S>,
    peer: &Peer,
    access: Access,
    mut check: impl FnMut(&mut Dialogue<S>, &Credentials, u32) -> Result<Lookup<(T, Vec<u8>)>, Error>,
) -> Result<Entered<T>, Error> {
    let mut session = Session::new(access.passwords_allowed).with_secrets(access.secrets);
    let mut tls = access.tls;
    let mut failures = 0;
    info!("client={peer} event=connect");
    match &tls {
        Offer::None => {}
        Offer::OnRequest(_) => session.offer_tls(),
        Offer::AtOnce(_) => {
            if let Some(files) = tls.take()
                && !shake_hands(dialogue, &files.read()?, &mut session, peer)?
            {
                return Ok(Entered::Out(Ended::HungUp));
            }
        }
    }
    let stamp = if session.stamp() { (access.nonce)().map(|nonce| format!("<{nonce}@{}>", access.host)) } else { None };
    dialogue.say(&stamp.as_deref().map_or(Reply::GREETING, Reply::stamped_greeting));
    loop {
        let step = match dialogue.next_command() {
            Ok(Some(Ok(command))) => session.command(command),
            Ok(Some(Err(mistake))) => session.mistake(mistake),
            Ok(None) => return Ok(Entered::Out(lost(dialogue, None, peer, session.phase())?)),
            Err(fault) => return Ok(Entered::Out(lost(dialogue, Some(fault), peer, session.phase())?)),
        };
        let given = match step {
            Step::Check(name, secret) => Ok(Credentials { name, proof: Proof::Password(secret) }),
            Step::CheckApop(name, digest) => {
                let stamp = stamp.clone().unwrap_or_default().into_bytes();
                Ok(Credentials { name, proof: Proof::Apop { stamp, digest } })
            }
            Step::Authenticate(mechanism, initial) => {
                match authenticate(dialogue, mechanism, initial.as_deref(), &access.host, access.nonce) {
                    Ok(Ok(credentials)) => Ok(credentials),
                    Ok(Err(reply)) => Err(session.gave_up(reply)),
                    Err(fault) => return Ok(Entered::Out(lost(dialogue, fault, peer, session.phase())?)),
                }
            }
            other => Err(other),
        };
        dialogue.speaks_utf8 = session.speaks_utf8();
        let step = match given {
            Err(step) => step,
            Ok(credentials) => match check(dialogue, &credentials, failures) {
                Ok(Lookup::Yes((found, last_words))) => {
                    if !last_words.is_empty() {
                        dialogue.say(&Reply::challenge(&last_words));
                        let gone = match dialogue.next_response() {
                            // It may find that we are not who we should be, and must then be refused (RFC 5034 section 4).
                            // There is no way back for who became the user.
                            Ok(Some(line)) if line.0 == b"*" => {
                                dialogue.close(&Reply::CANCELLED);
                                info!("client={peer} event=end phase={} cancelled=yes", session.phase());
                                return Ok(Entered::Out(Ended::Refused));
                            }
                            Ok(Some(_)) => None,
                            Ok(None) => Some(None),
                            Err(fault) => Some(Some(fault)),
                        };
                        if let Some(fault) = gone {
                            return Ok(Entered::Out(lost(dialogue, fault, peer, session.phase())?));
                        }
                    }
                    return Ok(Entered::In(found));
                }
                Ok(Lookup::No) => {
                    failures += 1;
                    session.refused()
                }
                Ok(Lookup::CannotTell(_)) => {
                    failures += 1;
                    session.unchecked()
                }
                Err(error) => {
                    dialogue.close(&Reply::from(&error));
                    return Err(error);
                }
            },
        };
        match step {
            Step::Say(reply) => dialogue.say(&reply),
            Step::Capabilities(capabilities) => dialogue.say_capabilities(capabilities),
            Step::Mechanisms => {
                let names = session.mechanisms().names();
                dialogue.say(&Reply::MECHANISMS);
                dialogue.say_lines(names.split(' '));
            }
            Step::Languages => dialogue.say_languages(),
            Step::StartTls => match tls.take().map(|files| files.read()) {
                Some(Ok(identity)) => {
                    dialogue.say(&Reply::START_TLS);
                    if !shake_hands(dialogue, &identity, &mut session, peer)? {
                        return Ok(Entered::Out(Ended::HungUp));
                    }
                }
                Some(Err(error)) => {
                    log::error!("client={peer} event=no-tls problem={:?}", error.to_string());
                    dialogue.say(&Reply::NO_TLS);
                }
                None => dialogue.say(&Reply::NO_TLS),
            },
            Step::Close(reply) => {
                if reply == Reply::GOODBYE {
                    dialogue.part(&reply)
                } else {
                    dialogue.close(&reply)
                }
                info!("client={peer} event=end phase={} failures={failures}", session.phase());
                let ended = if reply == Reply::GOODBYE { Ended::Done } else { Ended::Refused };
                return Ok(Entered::Out(ended));
            }
            Step::Check(..)
            | Step::CheckApop(..)
            | Step::Authenticate(..)
            | Step::List
            | Step::Size(_)
            | Step::Delete(_)
            | Step::UniqueId(_)
            | Step::UniqueIds
            | Step::Retrieve(_)
            | Step::Top(..)
            | Step::Update => dialogue.say(&Reply::TROUBLE),
        }
    }
}

/// An exchange of SASL (RFC 5034 section 4); the inner error is a reply. The outer one is how the client left.
fn authenticate<S: Stream>(
    dialogue: &mut Dialogue<S>,
    mechanism: Mechanism,
    initial: Option<&[u8]>,
    host: &str,
    nonce: Nonce,
) -> Result<Result<Credentials, Reply>, Option<Fault>> {
    let Some(nonce) = nonce() else { return Ok(Err(Reply::TROUBLE)) };
    let exchange = Exchange::new(mechanism, nonce, host);
    let say = |dialogue: &mut Dialogue<S>, challenge: &[u8]| dialogue.say(&Reply::challenge(challenge));
    let hear = |dialogue: &mut Dialogue<S>| dialogue.next_response().map_err(Some)?.ok_or(None);
    let said = sasl::converse(dialogue, exchange, initial, say, hear)?;
    Ok(said.map_err(|gave_up| match gave_up {
        GaveUp::Malformed => Reply::MALFORMED,
        GaveUp::Cancelled => Reply::CANCELLED,
    }))
}

/// Becomes TLS; false: the client would not, and has gone or is to go.
fn shake_hands<S: Stream>(
    dialogue: &mut Dialogue<S>,
    identity: &Identity,
    session: &mut Session,
    peer: &Peer,
) -> Result<bool, Error> {
    let why = match dialogue.start_tls(identity) {
        Ok(facts) => {
            info!("client={peer} event=tls tls={facts}");
            session.under_tls();
            return Ok(true);
        }
        // In the middle of a handshake there is nothing that could be said to the client.
        Err(Failure::Stream(Fault::TimedOut)) => "timed out".to_owned(),
        Err(Failure::Stream(Fault::HungUp)) => "lost connection".to_owned(),
        Err(Failure::Stream(Fault::Io(error))) => {
            return Err(Error::Connection(format!("client={peer} event=trouble phase=tls why={error}")));
        }
        Err(Failure::Handshake(why)) => why,
    };
    info!("client={peer} event=tls-failed why={why:?}");
    Ok(false)
}
