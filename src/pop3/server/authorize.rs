//! AUTHORIZATION state: from the greeting to a right password, over TLS or not.

use super::lost;
use crate::auth;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::lookup::Lookup;
use crate::net::connection::{Fault, Stream};
use crate::net::peer::Peer;
use crate::net::tls::{Identity, Offer};
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
    let session = Session::new(access.passwords_allowed).with_secrets(access.secrets);
    let mut entrance = Entrance { dialogue, peer, access, session, stamp: None, failures: 0, is_tls_wanted: false };
    info!("client={peer} event=connect");
    if !entrance.greet()? {
        return Ok(Entered::Out(Ended::HungUp));
    }
    loop {
        let step = match entrance.hear() {
            Err(fault) => return entrance.lost(fault).map(Entered::Out),
            Ok(Err(step)) => step,
            Ok(Ok(credentials)) => match check(entrance.dialogue, &credentials, entrance.failures) {
                Ok(Lookup::Yes((found, last_words))) => {
                    let ended = if last_words.is_empty() { None } else { entrance.end_exchange(&last_words)? };
                    return Ok(ended.map_or(Entered::In(found), Entered::Out));
                }
                Ok(Lookup::No) => entrance.failed(Session::refused),
                Ok(Lookup::CannotTell(_)) => entrance.failed(Session::unchecked),
                Err(error) => {
                    entrance.dialogue.close(&Reply::from(&error));
                    return Err(error);
                }
            },
        };
        if let Some(ended) = entrance.act(step)? {
            return Ok(Entered::Out(ended));
        }
    }
}

/// A client that is not in yet.
struct Entrance<'a, S> {
    dialogue: &'a mut Dialogue<S>,
    peer: &'a Peer,
    access: Access,
    session: Session,
    /// What the greeting had for APOP.
    stamp: Option<String>,
    failures: u32,
    /// The log has heard that the client has to begin TLS.
    is_tls_wanted: bool,
}

impl<S: Stream> Entrance<'_, S> {
    /// Says the greeting, behind the handshake where TLS comes first; false: the client would not have that.
    fn greet(&mut self) -> Result<bool, Error> {
        match &self.access.tls {
            Offer::None => {}
            Offer::OnRequest(_) => self.session.offer_tls(),
            Offer::AtOnce(_) => {
                if let Some(files) = self.access.tls.take()
                    && !self.shake_hands(&files.read()?)?
                {
                    return Ok(false);
                }
            }
        }
        let nonce = if self.session.stamp() { (self.access.nonce)() } else { None };
        self.stamp = nonce.map(|nonce| format!("<{nonce}@{}>", self.access.host));
        self.dialogue.say(&self.stamp.as_deref().map_or(Reply::GREETING, Reply::stamped_greeting));
        Ok(true)
    }

    /// What the client wants to be checked by, or another step. The outer error is how it left.
    fn hear(&mut self) -> Result<Result<Credentials, Step>, Option<Fault>> {
        let step = match self.dialogue.next_command().map_err(Some)?.ok_or(None)? {
            Ok(command) => self.session.command(command),
            Err(mistake) => self.session.mistake(mistake),
        };
        let given = match step {
            Step::Check(name, secret) => Ok(Credentials { name, proof: Proof::Password(secret) }),
            Step::CheckApop(name, digest) => {
                let stamp = self.stamp.clone().unwrap_or_default().into_bytes();
                Ok(Credentials { name, proof: Proof::Apop { stamp, digest } })
            }
            Step::Authenticate(mechanism, initial) => {
                self.authenticate(mechanism, initial.as_deref())?.map_err(|reply| self.session.gave_up(reply))
            }
            other => Err(other),
        };
        self.dialogue.speaks_utf8 = self.session.speaks_utf8();
        Ok(given)
    }

    /// An exchange of SASL (RFC 5034 section 4); the inner error is a reply. The outer one is how the client left.
    fn authenticate(
        &mut self,
        mechanism: Mechanism,
        initial: Option<&[u8]>,
    ) -> Result<Result<Credentials, Reply>, Option<Fault>> {
        let Some(nonce) = (self.access.nonce)() else { return Ok(Err(Reply::TROUBLE)) };
        let exchange = Exchange::new(mechanism, nonce, &self.access.host);
        let say = |dialogue: &mut Dialogue<S>, challenge: &[u8]| dialogue.say(&Reply::challenge(challenge));
        let hear = |dialogue: &mut Dialogue<S>| dialogue.next_response().map_err(Some)?.ok_or(None);
        let said = sasl::converse(self.dialogue, exchange, initial, say, hear)?;
        Ok(said.map_err(|gave_up| match gave_up {
            GaveUp::Malformed => Reply::MALFORMED,
            GaveUp::Cancelled => Reply::CANCELLED,
        }))
    }

    /// Says what the mechanism has the server say at its end, and waits for the client's assent; else how it has ended.
    fn end_exchange(&mut self, last_words: &[u8]) -> Result<Option<Ended>, Error> {
        self.dialogue.say(&Reply::challenge(last_words));
        match self.dialogue.next_response() {
            // It may find that we are not who we should be, and must then be refused (RFC 5034 section 4).
            // There is no way back for who became the user.
            Ok(Some(line)) if line.0 == b"*" => {
                self.dialogue.close(&Reply::CANCELLED);
                info!("client={} event=end phase={} cancelled=yes", self.peer, self.session.phase());
                Ok(Some(Ended::Refused))
            }
            Ok(Some(_)) => Ok(None),
            Ok(None) => self.lost(None).map(Some),
            Err(fault) => self.lost(Some(fault)).map(Some),
        }
    }

    fn failed(&mut self, how: fn(&mut Session) -> Step) -> Step {
        self.failures += 1;
        how(&mut self.session)
    }

    fn lost(&mut self, fault: Option<Fault>) -> Result<Ended, Error> {
        lost(self.dialogue, fault, self.peer, self.session.phase())
    }

    /// Does what needs no password; gives the end of the session, if it is that.
    fn act(&mut self, step: Step) -> Result<Option<Ended>, Error> {
        match step {
            Step::Say(reply) => {
                // Who does not begin TLS hears it as often as he asks, and the log once.
                if reply == Reply::TLS_FIRST && !std::mem::replace(&mut self.is_tls_wanted, true) {
                    info!("client={} event=refused phase={} reply=\"{reply}\"", self.peer, self.session.phase());
                }
                self.dialogue.say(&reply);
            }
            Step::Capabilities(capabilities) => self.dialogue.say_capabilities(capabilities),
            Step::Mechanisms => {
                let names = self.session.mechanisms().names();
                self.dialogue.say(&Reply::MECHANISMS);
                self.dialogue.say_lines(names.split(' '));
            }
            Step::Languages => self.dialogue.say_languages(),
            Step::StartTls => match self.access.tls.take().map(|files| files.read()) {
                Some(Ok(identity)) => {
                    self.dialogue.say(&Reply::START_TLS);
                    if !self.shake_hands(&identity)? {
                        return Ok(Some(Ended::HungUp));
                    }
                }
                Some(Err(error)) => {
                    log::error!("client={} event=no-tls reason={:?}", self.peer, error.to_string());
                    self.dialogue.say(&Reply::NO_TLS);
                }
                None => self.dialogue.say(&Reply::NO_TLS),
            },
            Step::Close(reply) => {
                let said_quit = reply == Reply::GOODBYE;
                if said_quit {
                    self.dialogue.part(&reply)
                } else {
                    self.dialogue.close(&reply)
                }
                let (peer, phase, failures) = (self.peer, self.session.phase(), self.failures);
                info!("client={peer} event=end phase={phase} failures={failures}");
                return Ok(Some(if said_quit { Ended::Done } else { Ended::Refused }));
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
            | Step::Update => self.dialogue.say(&Reply::TROUBLE),
        }
        Ok(None)
    }

    /// Becomes TLS; false: the client would not, and has gone or is to go.
    fn shake_hands(&mut self, identity: &Identity) -> Result<bool, Error> {
        let peer = self.peer;
        let why = match self.dialogue.start_tls(identity) {
            Ok(facts) => {
                info!("client={peer} event=tls tls={facts}");
                self.session.under_tls();
                return Ok(true);
            }
            Err(failure) => failure.why().map_err(|error| {
                Error::Connection(format!("client={peer} event=trouble phase=tls reason={:?}", error.to_string()))
            })?,
        };
        info!("client={peer} event=tls-failed reason={why:?}");
        Ok(false)
    }
}
