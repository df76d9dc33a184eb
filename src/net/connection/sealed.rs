//! The same octets under TLS: the handshake, what is sealed, and the announcement of an end.

use super::{Connection, Fault, Stream};
use crate::net::tls::{Failure, Tls};
use crate::net::trust::Trust;
use std::time::Duration;

/// How long the announcement of our end may take: who does not listen does not need it.
const LAST_RECORD: Duration = Duration::from_secs(1);

impl Connection {
    /// Becomes TLS in place, as a client of the server of that name; otherwise like [`Stream::start_tls`].
    pub fn start_tls_as_client(&mut self, trust: &Trust, name: &str) -> Result<String, Failure> {
        let mut tls = Box::new(Tls::client(trust, name)?);
        self.is_clear = false;
        self.send_sealed(&mut tls).map_err(Failure::Stream)?;
        self.shake_hands(&mut tls)?;
        let facts = tls.facts();
        self.tls = Some(tls);
        Ok(facts)
    }

    pub(super) fn receive_sealed(&mut self, tls: &mut Tls, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            let plaintext = tls.plaintext(buffer);
            // Even if it broke: what TLS has to say of that.
            self.send_sealed(tls)?;
            if let Some(count) = plaintext? {
                return Ok(count);
            }
            self.fill(tls)?;
        }
    }

    /// Waits for octets of the network. Gives how many came.
    fn fill(&mut self, tls: &mut Tls) -> Result<usize, Fault> {
        let received = self.receive_raw(tls.room());
        tls.filled(received.as_ref().ok().copied())?;
        received
    }

    pub(super) fn send_sealed(&self, tls: &mut Tls) -> Result<(), Fault> {
        let mut rest = tls.sealed.as_slice();
        let sent = self.send_raw(&mut rest);
        let count = tls.sealed.len() - rest.len();
        tls.sealed.drain(..count);
        sent
    }

    pub(super) fn shake_hands(&mut self, tls: &mut Tls) -> Result<(), Failure> {
        while tls.is_handshaking() {
            match tls.take() {
                Ok(true) => {}
                Ok(false) => match self.fill(tls) {
                    Ok(0) => return Err(Failure::Stream(Fault::HungUp)),
                    Ok(_) => {}
                    Err(fault) => return Err(Failure::Stream(fault)),
                },
                Err(error) => {
                    let _ = self.send_sealed(tls);
                    let why = error.to_string();
                    let is_of_certificate =
                        matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented);
                    return Err(if is_of_certificate { Failure::Certificate(why) } else { Failure::Handshake(why) });
                }
            }
            self.send_sealed(tls).map_err(Failure::Stream)?;
        }
        Ok(())
    }

    pub(super) fn announce_end(&mut self) {
        if self.finished {
            return;
        }
        if let Some(mut tls) = self.tls.take() {
            self.finished = true;
            self.allow(LAST_RECORD);
            tls.seal_end();
            let _ = self.send_sealed(&mut tls);
            self.tls = Some(tls);
        }
    }
}
