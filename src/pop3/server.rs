//! The loop: read, ask the session, do what it says.
//!
//! Replies are gathered and leave when the client has nothing more for us to read, or in large pieces: one write for a
//! batch of pipelined commands. AUTHORIZATION yields an account of some kind, TRANSACTION runs on a maildrop; between
//! the two may lie a change of process (`split`).

use super::command::{self, Command, Mistake};
use super::content::Content;
use super::reply::{self, Reply};
use super::session::{Session, Step};
use super::split;
use crate::auth;
use crate::config::value::MailboxFormat;
use crate::config::{self, Config};
use crate::exit::{self, Ended, Error};
use crate::logging;
use crate::lookup::Lookup;
use crate::mailbox::{self, Maildrop, maildir::Maildir};
use crate::net::accept;
use crate::net::connection::{Connection, Fault, Stream};
use crate::net::peer::Peer;
use crate::privilege;
use crate::record::{self, Head, Recorder};
use crate::users::{self, User};
use crate::wire::line::{Line, LineEnd, LineReader};
use crate::wire::secret::Secret;
use log::{info, warn};
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

/// Output is sent when it is this long.
const OUTPUT: usize = 32 * 1024;
/// How long the last words to a client may take that was too slow already.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a record of a session begins with; POP3 says nothing that differs each time.
pub(super) const HEAD: Head = Head { program: "pop3d", arguments: Vec::new(), varying: &[] };

/// Serves the client on standard input and output: in two processes where we could become anybody, else in this one.
/// The session is written down in the new file `record`.
pub fn serve(config: &Config, record: Option<&Path>) -> Result<Ended, Error> {
    let peer = Peer::of_stdio(None, None);
    let record = record.and_then(|path| {
        let complain = |error: &io::Error| warn!("nothing is recorded, {}: {error}", path.display());
        record::create(path).inspect_err(complain).ok()
    });
    if privilege::is_root() {
        return split::serve(config, &peer, record);
    }
    let connection = Connection::from_stdio(config.daemon_timeout.0).map_err(no_connection)?;
    let mut stream = Recorder::new(connection, record, &HEAD);
    let ended = serve_alone(config, &peer, &mut stream);
    stream.end(exit::code(&ended));
    ended
}

fn serve_alone(config: &Config, peer: &Peer, stream: impl Stream) -> Result<Ended, Error> {
    let mut dialogue = Dialogue::new(stream, idle_timeout(config));
    check(config).inspect_err(|error| dialogue.close(&Reply::from(error)))?;
    let entered = authorize(&mut dialogue, peer, passwords_allowed(config, peer), |name, secret, failures| {
        Ok(judge(config, peer, name, secret, failures))
    })?;
    match entered {
        Entered::In(user) => serve_user(config, peer, &user, &mut dialogue),
        Entered::Out(ended) => Ok(ended),
    }
}

/// Tells a client on standard output that there is no service, and why it is no use, or of use, to come again.
pub fn refuse(error: &Error) {
    accept::meet_client();
    if let Ok(connection) = Connection::from_stdio(LAST_WORDS) {
        Dialogue::new(connection, LAST_WORDS).close(&Reply::from(error));
    }
}

/// Whether the files that passwords and users are in are right and can be used.
pub(super) fn check(config: &Config) -> Result<(), Error> {
    users::check_file(config)?;
    auth::check_methods(config)?;
    is_supported(config.mailbox.format, "mailbox").map_err(Error::Config)
}

/// No plain password before TLS, except on this machine.
pub(super) fn passwords_allowed(config: &Config, peer: &Peer) -> bool {
    !config.tls_auth_only || peer.is_on_this_machine()
}

/// `pop3d_timeout`; 0 means that only the session is limited.
pub(super) fn idle_timeout(config: &Config) -> Duration {
    let idle = config.pop3d_timeout.0;
    if idle.is_zero() { config.daemon_timeout.0 } else { idle }
}

pub(super) fn no_connection(error: io::Error) -> Error {
    Error::Connection(format!("standard input and output: {error}"))
}

/// Checks a password. A wrong one is answered the later the more there were before, on this connection.
pub(super) fn judge(config: &Config, peer: &Peer, name: &[u8], secret: &Secret, failures: u32) -> Lookup<User> {
    let found = auth::check(config, name, &secret.0);
    let name = logging::clean(name, 100);
    match &found {
        Lookup::Yes(_) => {}
        Lookup::No => {
            warn!("client={peer} event=login-failed user={name:?}");
            std::thread::sleep(config.auth_failure_delay.0.saturating_mul(failures.saturating_add(1)));
        }
        Lookup::CannotTell(why) => warn!("client={peer} event=login-not-checked user={name:?} why={why:?}"),
    }
    found
}

/// What AUTHORIZATION came to.
pub(super) enum Entered<T> {
    /// Somebody is in.
    In(T),
    /// Nobody is, and the connection is closed.
    Out(Ended),
}

/// AUTHORIZATION state: from the greeting to a right password. `check` gets name, password and the failures so far.
pub(super) fn authorize<S: Stream, T>(
    dialogue: &mut Dialogue<S>,
    peer: &Peer,
    passwords_allowed: bool,
    mut check: impl FnMut(&[u8], &Secret, u32) -> Result<Lookup<T>, Error>,
) -> Result<Entered<T>, Error> {
    let mut session = Session::new(passwords_allowed);
    let mut failures = 0;
    info!("client={peer} event=connect");
    dialogue.say(&Reply::GREETING);
    loop {
        let step = match dialogue.next() {
            Ok(Some(Ok(command))) => session.command(command),
            Ok(Some(Err(mistake))) => session.mistake(mistake),
            Ok(None) => return Ok(Entered::Out(dialogue.lost(None, peer, session.phase())?)),
            Err(fault) => return Ok(Entered::Out(dialogue.lost(Some(fault), peer, session.phase())?)),
        };
        let step = match step {
            Step::Check(name, secret) => match check(&name, &secret, failures) {
                Ok(Lookup::Yes(found)) => return Ok(Entered::In(found)),
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
            other => other,
        };
        match step {
            Step::Say(reply) => dialogue.say(&reply),
            Step::Capabilities(with_user) => reply::put_capabilities(with_user, &mut dialogue.output),
            Step::Close(reply) => {
                dialogue.close(&reply);
                info!("client={peer} event=end phase={} failures={failures}", session.phase());
                let ended = if reply == Reply::GOODBYE { Ended::Done } else { Ended::Refused };
                return Ok(Entered::Out(ended));
            }
            Step::Check(..)
            | Step::List
            | Step::UniqueId(_)
            | Step::UniqueIds
            | Step::Retrieve(_)
            | Step::Top(..)
            | Step::Update => dialogue.say(&Reply::TROUBLE),
        }
    }
}

/// Opens a user's maildrop and serves it; this process has the user's rights already, or keeps its own.
pub(super) fn serve_user<S: Stream>(
    config: &Config,
    peer: &Peer,
    user: &User,
    dialogue: &mut Dialogue<S>,
) -> Result<Ended, Error> {
    let spec = user.mailbox_path(config);
    let opened = match is_supported(spec.format, "mailbox") {
        Ok(()) => Maildir::open(Path::new(&spec.path)),
        Err(error) => {
            let error = Error::Config(error);
            dialogue.close(&Reply::from(&error));
            return Err(error);
        }
    };
    let name = logging::clean(user.name.as_bytes(), 100);
    match opened {
        Ok(maildrop) => transaction(dialogue, maildrop, peer, &name),
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

fn is_supported(format: MailboxFormat, parameter: &str) -> Result<(), config::Error> {
    match format {
        MailboxFormat::Maildir => Ok(()),
        MailboxFormat::Mbox | MailboxFormat::Mmdf => Err(config::Error {
            origin: config::Origin::Default,
            problem: format!("{parameter}: expected maildir:, for pop3d reads nothing else yet"),
        }),
    }
}

/// TRANSACTION and UPDATE state, from the answer to PASS to the end.
pub(super) fn transaction<S: Stream, M: Maildrop>(
    dialogue: &mut Dialogue<S>,
    maildrop: M,
    peer: &Peer,
    user: &str,
) -> Result<Ended, Error> {
    let mut session = Session::new(true);
    let mut retrieved = 0_u64;
    dialogue.say(&session.entered(maildrop.entries().iter().map(|entry| entry.octets).collect()));
    info!("client={peer} event=login user={user:?} messages={}", maildrop.entries().len());
    loop {
        let step = match dialogue.next() {
            Ok(Some(Ok(command))) => session.command(command),
            Ok(Some(Err(mistake))) => session.mistake(mistake),
            Ok(None) => return dialogue.lost(None, peer, session.phase()),
            Err(fault) => return dialogue.lost(Some(fault), peer, session.phase()),
        };
        let sent = match step {
            Step::Say(reply) => dialogue.respond(&reply),
            Step::Capabilities(with_user) => {
                reply::put_capabilities(with_user, &mut dialogue.output);
                Ok(())
            }
            Step::List => dialogue.list(session.listed().map(|(index, octets)| format!("{} {octets}", index + 1))),
            Step::UniqueIds => {
                let entry = |index: usize| maildrop.entries().get(index).map_or("", |entry| entry.unique_id.as_str());
                dialogue.list(session.listed().map(|(index, _)| format!("{} {}", index + 1, entry(index))))
            }
            Step::UniqueId(index) => {
                let unique_id = maildrop.entries().get(index).map_or("", |entry| entry.unique_id.as_str());
                dialogue.respond(&Reply::unique_id(index + 1, unique_id))
            }
            Step::Retrieve(index) => {
                retrieved += 1;
                dialogue.message(&maildrop, index, Content::whole())
            }
            Step::Top(index, lines) => dialogue.message(&maildrop, index, Content::top(lines)),
            Step::Check(..) => dialogue.respond(&Reply::TROUBLE),
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
        if let Err(fault) = sent {
            return dialogue.lost(Some(fault), peer, session.phase());
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

/// A stream with what was read and not yet used, and what is to be sent.
pub(super) struct Dialogue<S> {
    stream: S,
    timeout: Duration,
    lines: LineReader,
    input: Vec<u8>,
    used: usize,
    output: Vec<u8>,
}

impl<S: Stream> Dialogue<S> {
    pub(super) fn new(stream: S, timeout: Duration) -> Self {
        let lines = LineReader::new(command::LONGEST_LINE, LineEnd::Lenient);
        Dialogue { stream, timeout, lines, input: Vec::new(), used: 0, output: Vec::new() }
    }

    /// For whoever goes on: what was read and not used, and what is still to be sent.
    pub(super) fn into_rest(mut self) -> (Vec<u8>, Vec<u8>) {
        self.input.drain(..self.used);
        (self.input, self.output)
    }

    /// The next command; none at the end of the input. A command that was begun and not ended does not count.
    fn next(&mut self) -> Result<Option<Result<Command, Mistake>>, Fault> {
        // Once a command: a client that sends an octet now and then is silent, too.
        self.stream.allow(self.timeout);
        loop {
            let unused = self.input.get(self.used..).unwrap_or_default();
            let (taken, line) = self.lines.push(unused);
            self.used += taken;
            match line {
                Some(Line::Whole(line)) => return Ok(Some(command::parse(line))),
                Some(Line::TooLong | Line::BareLineEnd) => return Ok(Some(Err(Mistake::TooLong))),
                None => {}
            }
            self.flush()?;
            self.input.resize(4096, 0);
            self.used = 0;
            let count = self.stream.receive(&mut self.input);
            self.input.truncate(*count.as_ref().unwrap_or(&0));
            if count? == 0 {
                return Ok(None);
            }
        }
    }

    fn say(&mut self, reply: &Reply) {
        reply.put(&mut self.output);
    }

    /// Says it, and sends what there is if that is much.
    fn respond(&mut self, reply: &Reply) -> Result<(), Fault> {
        self.say(reply);
        self.send_much()
    }

    fn send_much(&mut self) -> Result<(), Fault> {
        if self.output.len() < OUTPUT {
            return Ok(());
        }
        self.stream.allow(self.timeout);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Fault> {
        if !self.output.is_empty() {
            self.stream.send(&self.output)?;
            self.output.clear();
        }
        Ok(())
    }

    fn list(&mut self, lines: impl Iterator<Item = String>) -> Result<(), Fault> {
        self.say(&Reply::LISTING);
        for line in lines {
            self.output.extend_from_slice(line.as_bytes());
            self.output.extend_from_slice(b"\r\n");
            self.send_much()?;
        }
        self.output.extend_from_slice(b".\r\n");
        Ok(())
    }

    fn message<M: Maildrop>(&mut self, maildrop: &M, index: usize, mut content: Content) -> Result<(), Fault> {
        let mut file = match maildrop.open(index) {
            Ok(file) => file,
            Err(error) => {
                warn!("event=message-not-opened message={} why={:?}", index + 1, error.to_string());
                let is_gone = error.kind() == ErrorKind::NotFound;
                return self.respond(if is_gone { &Reply::IS_GONE } else { &Reply::UNREADABLE });
            }
        };
        self.say(&Reply::MESSAGE);
        let mut piece = vec![0; OUTPUT];
        while !content.is_done() {
            let count = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // There is no other way to tell a client that this is not the whole message.
                Err(error) => return Err(Fault::Io(error)),
            };
            content.push(piece.get(..count).unwrap_or_default(), &mut self.output);
            self.send_much()?;
        }
        content.finish(&mut self.output);
        Ok(())
    }

    /// Says a last word, and closes.
    pub(super) fn close(&mut self, reply: &Reply) {
        self.say(reply);
        self.stream.allow(self.timeout);
        if self.flush().is_ok() {
            self.stream.finish();
        }
    }

    /// The end of a session without QUIT: nothing is removed.
    fn lost(&mut self, fault: Option<Fault>, peer: &Peer, phase: &str) -> Result<Ended, Error> {
        match fault {
            None | Some(Fault::HungUp) => {
                info!("client={peer} event=lost-connection phase={phase}");
                Ok(Ended::HungUp)
            }
            Some(Fault::TimedOut) => {
                info!("client={peer} event=timed-out phase={phase}");
                self.timeout = LAST_WORDS;
                self.close(&Reply::TIMED_OUT);
                Ok(Ended::TimedOut)
            }
            Some(Fault::Io(error)) => Err(Error::Connection(format!("peer {peer} while in {phase}: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests;
