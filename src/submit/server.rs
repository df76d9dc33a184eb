//! submit's end: one client after another, never two on one connection; end of input abandons.
//!
//! [`serve`] reads requests off a socket and hands them to a receiver (`receiver.rs`).

use super::Outcome;
use super::frames::{FrameReader, LONGEST_CONTENT, Reply, Request};
use super::receiver::Receiver;
use crate::channel::Channels;
use crate::cli::Common;
use crate::config::{Config, pattern};
use crate::exit::{Ended, Error};
use crate::kept::Kept;
use crate::net::{FIRST_ROOM, make_room};
use crate::privilege::{self, Owner};
use crate::queue::Queue;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// What is read at once: several frames of a large message, most of which need not be put together then.
const MOST_READ: usize = 4 * LONGEST_CONTENT;

/// What a process that serves one client after another keeps in between: the queue, which it has opened, and the channels
/// for as long as their file is the same.
#[derive(Debug, Default)]
pub struct Premises {
    queue: Option<Arc<Queue>>,
    channels: Kept<Channels>,
    /// This process serves one client after another.
    is_kept: bool,
}

impl Premises {
    /// Opens the queue before there is a client. Trouble is met with again, and told then.
    pub fn prepare(&mut self, config: &Config) {
        let _ = self.queue(config);
    }

    /// From now on one client follows the other, and what comes next may be prepared for.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Nobody has come for a while.
    pub fn rest(&mut self) {
        if let Some(queue) = &self.queue {
            queue.unprepare();
        }
    }

    fn queue(&mut self, config: &Config) -> Result<Arc<Queue>, Error> {
        if let Some(queue) = &self.queue {
            return Ok(queue.clone());
        }
        Ok(self.queue.insert(Arc::new(Queue::open(&config.queue_directory)?)).clone())
    }

    fn channels(&self, config: &Config) -> Result<Arc<Channels>, Error> {
        let before = pattern::files_read();
        let channels = self.channels.get(&config.channels, || Channels::load(config));
        if pattern::files_read() != before {
            self.channels.forget(&config.channels);
        }
        Ok(channels?)
    }

    /// One for the next client.
    fn receiver<'a>(&mut self, config: &'a Config, common: &'a Common) -> Result<Receiver<'a>, Error> {
        let (queue, channels) = (self.queue(config)?, self.channels(config)?);
        Ok(Receiver::serving(config, common, queue, channels, self.is_kept))
    }

    /// What the next one has to know of this one.
    fn leave(&mut self, receiver: &Receiver<'_>) {
        if receiver.is_troubled() {
            // Its folders may have been taken away.
            self.queue = None;
        }
    }
}

/// Serves one client on a unix socket until its end.
///
/// Whoever may speak here may put anything into the queue, so the other end must be one of ours, by the kernel's word:
/// this process's user, root, `mail_owner` or `net_owner`. Of an inet socket the kernel cannot say that.
pub fn serve(config: &Config, common: &Common, premises: &mut Premises, stream: UnixStream) -> Result<Ended, Error> {
    if let Some(uid) = stranger(config, &stream)? {
        // Nobody else may hand in mail here; but everybody may ask for the mail that is his.
        let queue = Queue::open(&config.queue_directory)?;
        log::info!("event=status uid={uid}");
        return crate::mailq::status::answer(&queue, stream, uid)
            .map(|()| Ended::Done)
            .map_err(|error| Error::Permission(format!("uid {uid} may not speak to submit: {error}")));
    }
    let mut receiver = premises.receiver(config, common)?;
    let ended = listen(config, common, premises, &mut receiver, stream);
    premises.leave(&receiver);
    ended
}

/// Obeys until the end of input. Who introduces himself again is another client of the server, of whom nothing is known: a
/// server keeps its connection from one to the next.
fn listen<'a>(
    config: &'a Config,
    common: &'a Common,
    premises: &mut Premises,
    receiver: &mut Receiver<'a>,
    mut stream: UnixStream,
) -> Result<Ended, Error> {
    let broken = |error: io::Error| Error::Connection(format!("connection to submit: {error}"));
    // The client may think as long as its own session may last.
    let patience = config.daemon_timeout.0.max(config.ipc_timeout.0);
    stream.set_read_timeout(Some(patience)).map_err(broken)?;
    stream.set_write_timeout(Some(config.ipc_timeout.0)).map_err(broken)?;
    let (mut reader, mut input, mut count) = (FrameReader::default(), vec![0; FIRST_ROOM], 0);
    loop {
        make_room(&mut input, count, MOST_READ);
        count = match stream.read(&mut input) {
            Ok(0) => return Ok(Ended::Done),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Ended::TimedOut),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Ended::HungUp),
            Err(error) => return Err(broken(error)),
        };
        let mut rest = &input[..count];
        while !rest.is_empty() {
            let (taken, payload) = reader.push(rest).map_err(|_| nonsense())?;
            rest = &rest[taken..];
            let Some(payload) = payload else { continue };
            let request = Request::decode(payload).map_err(|_| nonsense())?;
            if matches!(request, Request::Introduce(_)) && receiver.is_introduced() {
                premises.leave(receiver);
                *receiver = premises.receiver(config, common)?;
            }
            let Some(reply) = receiver.obey(&request)? else { continue };
            let mut out = Vec::new();
            reply.put(&mut out);
            let sent = stream.write_all(&out);
            if let Reply::Outcome(Outcome::Queued(id)) = &reply {
                // Behind the answer: the client need not wait for it.
                receiver.follow_up(id);
            }
            if let Err(error) = sent {
                log::info!("the client left before it had its answer: {error}");
                return Ok(Ended::HungUp);
            }
        }
    }
}

/// Who is at the other end, if that is nobody of ours.
fn stranger(config: &Config, stream: &UnixStream) -> Result<Option<u32>, Error> {
    let refused = |who: &str| Error::Permission(format!("{who} may not speak to submit"));
    let credentials = getsockopt(stream, PeerCredentials).map_err(|_| refused("who is on no unix socket"))?;
    let uid = credentials.uid();
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(None);
    }
    let is_that = |owner| privilege::owner_of(config, owner).is_ok_and(|user| user.uid.as_raw() == uid);
    let is_ours = is_that(Owner::Mail) || (!config.net_owner.is_empty() && is_that(Owner::Net));
    Ok(Some(uid).filter(|_| !is_ours))
}

fn nonsense() -> Error {
    Error::Connection("what came is no request to submit".to_owned())
}

#[cfg(test)]
mod tests;
