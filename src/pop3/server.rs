//! The loop: read, ask the session, do what it says; here how its two halves come together.
//!
//! Replies are gathered and leave when the client has nothing more for us to read, or in large pieces: one write for a
//! batch of pipelined commands. AUTHORIZATION (`authorize.rs`) yields an account of some kind, TRANSACTION
//! (`transaction.rs`) runs on a maildrop; between the two may lie a change of process (`split`).

mod authorize;
mod transaction;

pub use authorize::Nonce;
pub(super) use authorize::{Access, Entered, authorize};
pub(super) use transaction::{Visitor, transaction};

use super::dialogue::Dialogue;
use super::expiry::Expiry;
use super::login_delay::LastSession;
use super::reply::Reply;
use super::split;
use crate::auth::files::Files;
use crate::auth::{self, Granted, gate};
use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec};
use crate::exit::{self, Ended, Error};
use crate::logging;
use crate::lookup::Lookup;
use crate::mailbox::{self, Maildrop};
use crate::net::accept;
use crate::net::connection::{Connection, Fault, LastWords, Stream};
use crate::net::peer::Peer;
use crate::net::tls::Offer;
use crate::privilege;
use crate::record::{self, Head, Recorder};
use crate::sasl::Credentials;
use crate::users;
use log::{info, warn};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the last words to a client may take that was too slow already.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where servers keep mailboxes that keep each in one file.
const SPOOL: &str = "/var/mail";

/// What a record of a session begins with; only the stamp in the greeting differs each time.
pub(super) const HEAD: Head = Head { program: "pop3d", arguments: Vec::new(), varying: &["+OK doorpost POP3 ready"] };

/// Serves the client on standard input and output: in two processes where we could become anybody, else in this one.
/// The session is written down in the new file `record`. `files` is what was found out for the clients before.
pub fn serve(config: &Config, record: Option<&Path>, tls: Offer, files: &mut Files) -> Result<Ended, Error> {
    let Some(peer) = Peer::of_stdio(None, None) else { return Ok(Ended::HungUp) };
    let peer = peer.asking(config);
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
    let ended = serve_alone(config, &peer, &mut stream, tls, files);
    stream.end(exit::code(&ended));
    ended
}

fn serve_alone(
    config: &Config,
    peer: &Peer,
    stream: impl Stream,
    tls: Offer,
    files: &mut Files,
) -> Result<Ended, Error> {
    let mut dialogue = Dialogue::new(stream, config.pop3d_timeout.0).set_up(config);
    let secrets = files.check(config).inspect_err(|error| dialogue.close(&Reply::from(error)))?;
    let access = Access::new(config, peer, secrets, tls);
    let entered = authorize(&mut dialogue, peer, access, |_, credentials, failures| {
        let judged = gate::judge(config, peer, credentials, failures);
        Ok(judged.map(|Granted { user, last_words }| (user, last_words)))
    })?;
    match entered {
        Entered::In(user) => {
            let last =
                LastSession::open(config, &user.name).inspect_err(|error| dialogue.close(&Reply::from(error)))?;
            let mailbox = user.mailbox_path(config);
            serve_user(config, peer, (&user.name, &mailbox), secrets, last.as_ref(), &mut dialogue)
        }
        Entered::Out(ended) => Ok(ended),
    }
}

/// Tells a client on standard output that there is no service, and why it is no use, or of use, to come again. Under TLS
/// there is no telling without the certificate; but whoever waits has to see an end: else whoever holds the socket would
/// start us again for the same client, at once and for ever.
pub fn refuse(error: &Error) {
    accept::meet_client();
    // As it may be cut short.
    if std::env::args_os().any(|argument| argument == "--tls" || argument == "--tl") {
        return;
    }
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

pub(super) fn no_connection(error: io::Error) -> Error {
    Error::Connection(format!("standard input and output: {error}"))
}

/// A whole session over any stream; `check` says which maildrop credentials open, and what the mechanism says last. With
/// `secrets` also APOP and the mechanisms are there that need passwords stored in clear. The programs do the same with
/// processes in between.
pub fn session<S: Stream, M: Maildrop>(
    stream: S,
    peer: &Peer,
    timeout: Duration,
    secrets: bool,
    nonce: Nonce,
    mut check: impl FnMut(&Credentials) -> Lookup<(M, Vec<u8>)>,
) -> Result<Ended, Error> {
    let mut dialogue = Dialogue::new(stream, timeout);
    let access = Access { passwords_allowed: true, secrets, tls: Offer::None, host: "mx.example".to_owned(), nonce };
    match authorize(&mut dialogue, peer, access, |_, credentials, _| Ok(check(credentials)))? {
        Entered::In(maildrop) => {
            let visitor = Visitor { peer, user: "somebody", secrets, last: None };
            transaction(&mut dialogue, maildrop, visitor, None)
        }
        Entered::Out(ended) => Ok(ended),
    }
}

/// Opens a user's maildrop and serves it; this process has the user's rights already, or keeps its own.
pub(super) fn serve_user<S: Stream>(
    config: &Config,
    peer: &Peer,
    (user, mailbox): (&str, &MailboxSpec),
    secrets: bool,
    last: Option<&LastSession>,
    dialogue: &mut Dialogue<S>,
) -> Result<Ended, Error> {
    let name = logging::clean(user.as_bytes(), 100);
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
    if let Some(spool) = left_in_spool(mailbox, user, Path::new(SPOOL)) {
        warn!("event=no-maildir user={name:?} mailbox={:?} left={spool:?}", mailbox.path);
    }
    let opened = mailbox::open(config, mailbox);
    if let (Err(_), Some(last)) = (&opened, last) {
        last.did_not_begin();
    }
    match opened {
        Ok(maildrop) => {
            let expiry = Expiry::of(config, mailbox);
            let ended = transaction(dialogue, maildrop, Visitor { peer, user: &name, secrets, last }, expiry);
            if let Some(last) = last.filter(|_| !matches!(ended, Ok(Ended::Done))) {
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
            Err(Error::Temporary(format!("maildrop of {name:?} at {}: {why}", mailbox.path)))
        }
        Err(mailbox::Error::Unusable(why)) => {
            dialogue.close(&Reply::UNUSABLE_MAILDROP);
            Err(Error::Temporary(format!("maildrop of {name:?} at {}: {why}", mailbox.path)))
        }
    }
}

/// The mailbox of one file that another server had, if there is mail in it and no Maildir yet: the user finds nothing.
fn left_in_spool(mailbox: &MailboxSpec, user: &str, spool: &Path) -> Option<PathBuf> {
    if mailbox.format != MailboxFormat::Maildir || Path::new(&mailbox.path).symlink_metadata().is_ok() {
        return None;
    }
    let file = spool.join(user);
    let is_mail = |status: Metadata| status.is_file() && status.len() > 0;
    (!user.contains('/') && file.symlink_metadata().is_ok_and(is_mail)).then_some(file)
}

/// The end of a session without QUIT: nothing is removed.
pub(super) fn lost<S: Stream>(
    dialogue: &mut Dialogue<S>,
    fault: Option<Fault>,
    peer: &Peer,
    phase: &str,
) -> Result<Ended, Error> {
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
            Err(Error::Connection(format!("client={peer} event=trouble phase={phase} reason={:?}", error.to_string())))
        }
    }
}

#[cfg(test)]
mod tests;
