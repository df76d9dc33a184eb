//! A connection for whoever polls by himself, between two ends of a relay.

use super::{Connection, Fault, fault};
use nix::errno::Errno;

/// For whoever polls by himself, and must never wait here.
impl Connection {
    /// Appends what is there, when poll has said that something is; false: the client says that it will send no more.
    /// At most some 20 kB a call.
    pub(crate) fn hear(&mut self, into: &mut Vec<u8>) -> Result<bool, Fault> {
        let mut buffer = [0; 4096];
        let Some(tls) = &mut self.tls else {
            return match nix::unistd::read(&self.input, &mut buffer) {
                Ok(count) => {
                    into.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    Ok(count > 0)
                }
                Err(Errno::EINTR | Errno::EAGAIN) => Ok(true),
                Err(errno) => Err(fault(errno)),
            };
        };
        match nix::unistd::read(&self.input, tls.room()) {
            Ok(count) => tls.filled(Some(count))?,
            Err(Errno::EINTR | Errno::EAGAIN) => tls.filled(None)?,
            Err(errno) => return Err(fault(errno)),
        }
        self.drain(into)
    }

    /// Appends what has come from the network already and was not taken; the same answer.
    pub(crate) fn drain(&mut self, into: &mut Vec<u8>) -> Result<bool, Fault> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        let mut buffer = [0; 4096];
        while let Some(count) = tls.plaintext(&mut buffer)? {
            into.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if count == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends what goes, when poll has said that something does, and takes it away from `octets`. Some of it may be held
    /// here until the next call.
    pub(crate) fn tell(&mut self, octets: &mut Vec<u8>) -> Result<(), Fault> {
        const PIECE: usize = 16 * 1024;
        let Some(mut tls) = self.tls.take() else {
            octets.drain(..self.write_some(octets)?);
            return Ok(());
        };
        let mut sealed = Ok(());
        if tls.sealed.is_empty() {
            sealed = tls.seal(octets.get(..PIECE).unwrap_or(octets)).map(|count| drop(octets.drain(..count)));
        }
        let sent = sealed.and_then(|()| self.write_some(&tls.sealed)).map(|count| drop(tls.sealed.drain(..count)));
        self.tls = Some(tls);
        sent
    }

    /// Whether [`Connection::tell`] holds something back.
    pub(crate) fn holds_output(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.sealed.is_empty())
    }
}
