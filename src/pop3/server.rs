//! The loop: read, ask the session, do what it says.
//!
//! Replies are gathered and leave when the client has nothing more for us to read, or in large pieces: one write for a
//! batch of pipelined commands. AUTHORIZATION yields an account of some kind, TRANSACTION runs on a maildrop; between
//! the two may lie a change of process (`split`).

use super::content::Content;
use super::dialogue::{Dialogue, Lost};
use super::login_delay::LastSession;
use super::reply::Reply;
use super::session::{Session, Step};
use super::split;
use crate::auth::{self, Granted, gate};
use crate::config::Config;
use crate::exit::{self, Ended, Error};
use crate::logging;
use crate::lookup::Lookup;
use crate::mailbox::{self, Maildrop};
use crate::net::accept;
use crate::net::connection::{Connection, Fault, LastWords, Stream};
use crate::net::peer::Peer;
use crate::net::tls::{Failure, Files, Identity, Offer};
use crate::privilege;
use crate::record::{self, Head, Recorder};
use crate::sasl::{self, Credentials, Exchange, Malformed, Mechanism, Next, Proof};
use crate::users::{self, User};
use crate::wire::secret::Secret;
use log::{info, warn};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long the last words to a client may take that was too slow already.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a record of a session begins with; POP3 says nothing that differs each time.
pub(super) const HEAD: Head = Head { program: "pop3d", arguments: Vec::new(), varying: &[] };

/// Serves the client on standard input and output: in two processes where we could become anybody, else in this one.
/// The session is written down in the new file `record`; `tls_at_once` begins it with TLS.
pub fn serve(config: &Config, record: Option<&Path>, tls_at_once: bool) -> Result<Ended, Error> {
    let tls = Offer::open(config, tls_at_once).inspect_err(refuse)?;
    let peer = Peer::of_stdio(None, None);
    peer.debug_if_listed(config);
    let record = record.and_then(|path| {
        let complain = |error: &io::Error| warn!("nothing is recorded, {}: {error}", path.display());
        record::create(path).inspect_err(complain).ok()
    });
    if privilege::is_root() {
        return split::serve(config, &peer, record, tls);
    }
    let connection = Connection::from_stdio(config.daemon_timeout.0).map_err(no_connection)?;
    let mut stream = Recorder::new(connection, record, &HEAD);
    let ended = serve_alone(config, &peer, &mut stream, tls);
    stream.end(exit::code(&ended));
    ended
}

fn serve_alone(config: &Config, peer: &Peer, stream: impl Stream, tls: Offer) -> Result<Ended, Error> {
    let mut dialogue = Dialogue::new(stream, config.pop3d_timeout.0).with_login_delay(config.pop3d_login_delay.0);
    check(config).inspect_err(|error| dialogue.close(&Reply::from(error)))?;
    let secrets = auth::has_secrets(config);
    let access = Access::new(config, peer, secrets, tls);
    let entered = authorize(&mut dialogue, peer, access, |credentials, failures| {
        let judged = gate::judge(config, peer, credentials, failures);
        Ok(judged.map(|Granted { user, last_words }| (user, last_words)))
    })?;
    match entered {
        Entered::In(user) => {
            let last =
                LastSession::open(config, &user.name).inspect_err(|error| dialogue.close(&Reply::from(error)))?;
            serve_user(config, peer, &user, secrets, last.as_ref(), &mut dialogue)
        }
        Entered::Out(ended) => Ok(ended),
    }
}

/// Tells a client on standard output that there is no service, and why it is no use, or of use, to come again. Under TLS
/// there is no telling without the certificate.
pub fn refuse(error: &Error) {
    if std::env::args_os().any(|argument| argument == "--tls") {
        return;
    }
    accept::meet_client();
    match Connection::from_stdio(LAST_WORDS) {
        Ok(connection) => Dialogue::new(connection, LAST_WORDS).close(&Reply::from(error)),
        Err(_) => Dialogue::new(LastWords, LAST_WORDS).close(&Reply::from(error)),
    }
}

/// Whether the files that passwords and users are in are right and can be used.
pub(super) fn check(config: &Config) -> Result<(), Error> {
    users::check_file(config)?;
    auth::check_methods(config)
}

/// By what ways a client may log in.
pub(super) struct Access {
    /// Passwords are allowed before TLS: only on this machine, or where the administrator says so.
    pub(super) passwords_allowed: bool,
    /// There are passwords stored in clear.
    pub(super) secrets: bool,
    /// TLS.
    pub(super) tls: Offer,
    /// Our name, for challenges.
    pub(super) host: String,
}

impl Access {
    pub(super) fn new(config: &Config, peer: &Peer, secrets: bool, tls: Offer) -> Access {
        let passwords_allowed = !config.tls_auth_only || peer.is_on_this_machine();
        Access { passwords_allowed, secrets, tls, host: config.myhostname.clone() }
    }
}

pub(super) fn no_connection(error: io::Error) -> Error {
    Error::Connection(format!("standard input and output: {error}"))
}

/// What AUTHORIZATION came to.
pub(super) enum Entered<T> {
    /// Somebody is in.
    In(T),
    /// Nobody is, and the connection is closed.
    Out(Ended),
}

/// AUTHORIZATION state: from the greeting to a right password. `check` gets credentials and the failures so far, and gives
/// with what it found what the mechanism has to say at its end.
pub(super) fn authorize<S: Stream, T>(
    dialogue: &mut Dialogue<S>,
    peer: &Peer,
    access: Access,
    mut check: impl FnMut(&Credentials, u32) -> Result<Lookup<(T, Vec<u8>)>, Error>,
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
    dialogue.say(&Reply::GREETING);
    loop {
        let step = match dialogue.next_command() {
            Ok(Some(Ok(command))) => session.command(command),
            Ok(Some(Err(mistake))) => session.mistake(mistake),
            Ok(None) => return Ok(Entered::Out(lost(dialogue, None, peer, session.phase())?)),
            Err(fault) => return Ok(Entered::Out(lost(dialogue, Some(fault), peer, session.phase())?)),
        };
        let given = match step {
            Step::Check(name, secret) => Ok(Credentials { name, proof: Proof::Password(secret) }),
            Step::Authenticate(mechanism, initial) => {
                match authenticate(dialogue, mechanism, initial.as_deref(), &access.host) {
                    Ok(Ok(credentials)) => Ok(credentials),
                    Ok(Err(reply)) => Err(session.gave_up(reply)),
                    Err(fault) => return Ok(Entered::Out(lost(dialogue, fault, peer, session.phase())?)),
                }
            }
            other => Err(other),
        };
        let step = match given {
            Err(step) => step,
            Ok(credentials) => match check(&credentials, failures) {
                Ok(Lookup::Yes((found, last_words))) => {
                    if !last_words.is_empty() {
                        dialogue.say(&Reply::challenge(&last_words));
                        match dialogue.next_response() {
                            Ok(Some(_)) => {}
                            Ok(None) => return Ok(Entered::Out(lost(dialogue, None, peer, session.phase())?)),
                            Err(fault) => {
                                return Ok(Entered::Out(lost(dialogue, Some(fault), peer, session.phase())?));
                            }
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
            Step::StartTls => match tls.take().map(Files::read) {
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
                dialogue.close(&reply);
                info!("client={peer} event=end phase={} failures={failures}", session.phase());
                let ended = if reply == Reply::GOODBYE { Ended::Done } else { Ended::Refused };
                return Ok(Entered::Out(ended));
            }
            Step::Check(..)
            | Step::Authenticate(..)
            | Step::List
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
) -> Result<Result<Credentials, Reply>, Option<Fault>> {
    let Some(nonce) = auth::nonce() else { return Ok(Err(Reply::TROUBLE)) };
    let mut exchange = Exchange::new(mechanism, nonce, host);
    let mut next = match initial.map(sasl::decode_initial).transpose() {
        Ok(initial) => exchange.begin(initial.as_ref().map(|octets| octets.0.as_slice())),
        Err(malformed) => Err(malformed),
    };
    loop {
        match next {
            Ok(Next::Check(credentials)) => return Ok(Ok(credentials)),
            Ok(Next::Challenge(octets)) => dialogue.say(&Reply::challenge(&octets)),
            Err(Malformed) => return Ok(Err(Reply::MALFORMED)),
        }
        let line = dialogue.next_response().map_err(Some)?.ok_or(None)?;
        if line.0 == b"*" {
            return Ok(Err(Reply::CANCELLED));
        }
        next = sasl::decode(&line.0).and_then(|response| exchange.take(&response.0));
    }
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

/// A whole session over any stream; `check` says which maildrop a name and a password open. The programs do the same with
/// processes in between.
pub fn session<S: Stream, M: Maildrop>(
    stream: S,
    peer: &Peer,
    timeout: Duration,
    mut check: impl FnMut(&[u8], &Secret) -> Lookup<M>,
) -> Result<Ended, Error> {
    let mut dialogue = Dialogue::new(stream, timeout);
    let access = Access { passwords_allowed: true, secrets: false, tls: Offer::None, host: String::new() };
    let mut judge = |credentials: &Credentials| match &credentials.proof {
        Proof::Password(secret) => check(&credentials.name, secret).map(|maildrop| (maildrop, Vec::new())),
        Proof::Apop { .. } | Proof::CramMd5 { .. } | Proof::ScramSha256 { .. } => Lookup::No,
    };
    match authorize(&mut dialogue, peer, access, |credentials, _| Ok(judge(credentials)))? {
        Entered::In(maildrop) => transaction(&mut dialogue, maildrop, peer, "somebody", false),
        Entered::Out(ended) => Ok(ended),
    }
}

/// Opens a user's maildrop and serves it; this process has the user's rights already, or keeps its own.
pub(super) fn serve_user<S: Stream>(
    config: &Config,
    peer: &Peer,
    user: &User,
    secrets: bool,
    last: Option<&LastSession>,
    dialogue: &mut Dialogue<S>,
) -> Result<Ended, Error> {
    let spec = user.mailbox_path(config);
    let name = logging::clean(user.name.as_bytes(), 100);
    match last.map_or(Ok(true), LastSession::may_begin) {
        Ok(true) => {}
        Ok(false) => {
            info!("client={peer} event=login-too-soon user={name:?}");
            dialogue.close(&Reply::LOGIN_DELAY);
            return Ok(Ended::Refused);
        }
        Err(error) => {
            dialogue.close(&Reply::TROUBLE);
            return Err(Error::Temporary(format!("last session of {name:?}: {error}")));
        }
    }
    match mailbox::open(config, &spec) {
        Ok(maildrop) => {
            let ended = transaction(dialogue, maildrop, peer, &name, secrets);
            if let Some(last) = last {
                last.ended();
            }
            ended
        }
        // Only now: before a right password these answers would tell that there is such a user.
        Err(mailbox::Error::InUse) => {
            info!("client={peer} event=maildrop-in-use user={name:?}");
            dialogue.close(&Reply::IN_USE);
            Ok(Ended::Refused)
        }
        Err(mailbox::Error::Io(why)) => {
            dialogue.close(&Reply::NO_MAILDROP);
            Err(Error::Temporary(format!("maildrop of {name:?} at {}: {why}", spec.path)))
        }
    }
}

/// TRANSACTION and UPDATE state, from the answer to PASS to the end.
pub(super) fn transaction<S: Stream, M: Maildrop>(
    dialogue: &mut Dialogue<S>,
    maildrop: M,
    peer: &Peer,
    user: &str,
    secrets: bool,
) -> Result<Ended, Error> {
    let mut session = Session::new(true).with_secrets(secrets);
    let mut retrieved = 0_u64;
    dialogue.say(&session.entered(maildrop.entries().iter().map(|entry| entry.octets).collect()));
    info!("client={peer} event=login user={user:?} messages={}", maildrop.entries().len());
    loop {
        let step = match dialogue.next_command() {
            Ok(Some(Ok(command))) => session.command(command),
            Ok(Some(Err(mistake))) => session.mistake(mistake),
            Ok(None) => return lost(dialogue, None, peer, session.phase()),
            Err(fault) => return lost(dialogue, Some(fault), peer, session.phase()),
        };
        let sent = match step {
            Step::Say(reply) => dialogue.respond(&reply).map_err(Lost::from),
            Step::Capabilities(capabilities) => {
                dialogue.say_capabilities(capabilities);
                Ok(())
            }
            Step::List => {
                let lines = session.listed().map(|(index, octets)| format!("{} {octets}", index + 1));
                dialogue.list(lines).map_err(Lost::from)
            }
            Step::UniqueIds => {
                let entry = |index: usize| maildrop.entries().get(index).map_or("", |entry| entry.unique_id.as_str());
                let lines = session.listed().map(|(index, _)| format!("{} {}", index + 1, entry(index)));
                dialogue.list(lines).map_err(Lost::from)
            }
            Step::UniqueId(index) => {
                let unique_id = maildrop.entries().get(index).map_or("", |entry| entry.unique_id.as_str());
                dialogue.respond(&Reply::unique_id(index + 1, unique_id)).map_err(Lost::from)
            }
            Step::Retrieve(index) => {
                retrieved += 1;
                dialogue.message(&maildrop, index, Content::whole())
            }
            Step::Top(index, lines) => dialogue.message(&maildrop, index, Content::top(lines)),
            Step::Check(..) | Step::StartTls | Step::Authenticate(..) | Step::Mechanisms => {
                dialogue.respond(&Reply::TROUBLE).map_err(Lost::from)
            }
            Step::Close(reply) => {
                dialogue.close(&reply);
                info!("client={peer} event=end user={user:?} phase={} deleted=0", session.phase());
                return Ok(Ended::Refused);
            }
            Step::Update => {
                let (reply, removed) = update(maildrop, &session.to_remove(), user);
                dialogue.close(&reply);
                info!("client={peer} event=end user={user:?} phase=update retrieved={retrieved} deleted={removed}");
                return Ok(Ended::Done);
            }
        };
        match sent {
            Ok(()) => {}
            Err(Lost::Stream(fault)) => return lost(dialogue, Some(fault), peer, session.phase()),
            Err(Lost::Message(error)) => {
                return Err(Error::Temporary(format!(
                    "client={peer} event=message-broke-off user={user:?} why={error}"
                )));
            }
        }
    }
}

/// Removes what is marked and lets go of the maildrop: a client that comes again at once after `+OK` must find it free.
/// Gives how many are gone.
fn update<M: Maildrop>(mut maildrop: M, marked: &[usize], user: &str) -> (Reply, usize) {
    let result = if marked.is_empty() { Ok(0) } else { maildrop.remove(marked) };
    drop(maildrop);
    match result {
        Ok(0) => (Reply::GOODBYE, marked.len()),
        Ok(left) => {
            warn!("event=not-removed user={user:?} messages={left}");
            (Reply::NOT_ALL_REMOVED, marked.len().saturating_sub(left))
        }
        Err(error) => {
            warn!("event=not-removed user={user:?} why={:?}", error.to_string());
            (Reply::NOT_ALL_REMOVED, 0)
        }
    }
}

/// The end of a session without QUIT: nothing is removed.
fn lost<S: Stream>(dialogue: &mut Dialogue<S>, fault: Option<Fault>, peer: &Peer, phase: &str) -> Result<Ended, Error> {
    match fault {
        None | Some(Fault::HungUp) => {
            info!("client={peer} event=lost-connection phase={phase}");
            Ok(Ended::HungUp)
        }
        Some(Fault::TimedOut) => {
            info!("client={peer} event=timed-out phase={phase}");
            dialogue.close_within(LAST_WORDS, &Reply::TIMED_OUT);
            Ok(Ended::TimedOut)
        }
        Some(Fault::Io(error)) => {
            Err(Error::Connection(format!("client={peer} event=trouble phase={phase} why={error}")))
        }
    }
}

#[cfg(test)]
mod tests;
