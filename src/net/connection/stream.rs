//! What the protocol servers need of a connection, whatever it is made of.

use crate::net::tls::{Failure, Identity};
use nix::errno::Errno;
use std::io::{self, Write};
use std::time::Duration;

/// Why a stream is at its end.
#[derive(Debug)]
pub enum Fault {
    /// The other side was silent, did not read, or took longer than the command or the session may last.
    TimedOut,
    /// The other side is gone.
    HungUp,
    /// The system would not do it.
    Io(io::Error),
}

/// What the protocol servers need of a connection; tests give them one made of memory.
pub trait Stream {
    /// From now on, until called again, `receive` and `send` together may take this long.
    fn allow(&mut self, time: Duration);
    /// The same for the last words: `send` and `finish` may take this long even where the session is over.
    fn allow_last_words(&mut self, time: Duration) {
        self.allow(time);
    }
    /// How long the session may last still.
    fn session_left(&self) -> Duration {
        Duration::MAX
    }
    /// Waits for octets. 0: the other side will send no more.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault>;
    /// Whether octets are there that nobody has received, or come within this time. Where nobody can tell there are none.
    fn is_waiting(&mut self, time: Duration) -> bool {
        let _ = time;
        false
    }
    /// Sends all of it. Behind a failure nothing of it, and nothing else, is sent any more where that is under TLS.
    fn send(&mut self, octets: &[u8]) -> Result<(), Fault>;
    /// The same; `octets` then begins behind what was sent, also where not all could be. What the other side may have had in
    /// part must not be sent again.
    fn send_from(&mut self, octets: &mut &[u8]) -> Result<(), Fault> {
        self.send(std::mem::take(octets))
    }
    /// The same for what was collected: what was sent is taken out.
    fn send_out(&mut self, collected: &mut Vec<u8>) -> Result<(), Fault> {
        let mut rest = collected.as_slice();
        let sent = self.send_from(&mut rest);
        let count = collected.len() - rest.len();
        collected.drain(..count);
        sent
    }
    /// Says that nothing more will be sent, and reads what the other side still sends, within a bound of octets and
    /// time: a close with unread octets makes the kernel send RST, which destroys the reply on its way.
    fn finish(&mut self);
    /// The same for a client that has taken its leave: where it has said no more than that, nothing is waited for.
    fn part(&mut self) {
        self.finish();
    }
    /// Becomes TLS, as the server; the handshake must be over within the time last allowed. Gives what was agreed on,
    /// for the log. What was read before must have been forgotten by the caller.
    fn start_tls(&mut self, identity: &Identity) -> Result<String, Failure> {
        let _ = identity;
        Err(Failure::Handshake("this stream cannot become TLS".to_owned()))
    }
}

/// Standard output as it is, for last words where there is no descriptor left to make a [`Connection`](super::Connection) of.
#[derive(Debug)]
pub struct LastWords;

impl Stream for LastWords {
    fn allow(&mut self, _: Duration) {}

    fn receive(&mut self, _: &mut [u8]) -> Result<usize, Fault> {
        Ok(0)
    }

    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        let mut output = io::stdout();
        output.write_all(octets).and_then(|()| output.flush()).map_err(Fault::Io)
    }

    fn finish(&mut self) {}
}

impl<S: Stream> Stream for &mut S {
    fn allow(&mut self, time: Duration) {
        (**self).allow(time);
    }

    fn allow_last_words(&mut self, time: Duration) {
        (**self).allow_last_words(time);
    }

    fn session_left(&self) -> Duration {
        (**self).session_left()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        (**self).receive(buffer)
    }

    fn is_waiting(&mut self, time: Duration) -> bool {
        (**self).is_waiting(time)
    }

    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        (**self).send(octets)
    }

    fn send_from(&mut self, octets: &mut &[u8]) -> Result<(), Fault> {
        (**self).send_from(octets)
    }

    fn finish(&mut self) {
        (**self).finish();
    }

    fn part(&mut self) {
        (**self).part();
    }

    fn start_tls(&mut self, identity: &Identity) -> Result<String, Failure> {
        (**self).start_tls(identity)
    }
}

/// What a network does to a connection is how clients leave; only the rest is our trouble.
pub(crate) fn fault(errno: Errno) -> Fault {
    match errno {
        Errno::EPIPE
        | Errno::ECONNRESET
        | Errno::ECONNABORTED
        | Errno::ENOTCONN
        | Errno::ETIMEDOUT
        | Errno::EHOSTUNREACH
        | Errno::ENETUNREACH
        | Errno::ENETDOWN => Fault::HungUp,
        other => Fault::Io(other.into()),
    }
}
