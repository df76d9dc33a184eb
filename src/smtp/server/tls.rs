//! STARTTLS, and TLS from the first octet on.

use super::{LineReader, Server, line_end};
use crate::exit::Error;
use crate::net::connection::Fault;
use crate::net::tls::Identity;
use crate::smtp::reply::Reply;

impl Server<'_> {
    /// Answers STARTTLS and becomes TLS; or says that this cannot be now, and goes on without.
    pub(super) fn start_tls(&mut self) -> Result<(), Fault> {
        match self.tls.take().map(|files| files.read()) {
            Some(Ok(identity)) => {
                self.abandon();
                self.say(Reply::start_tls());
                self.forget_input();
                self.flush()?;
                self.shake_hands(&identity)
            }
            Some(Err(error)) => {
                log::error!("client={} event=no-tls reason={:?}", self.client, error.to_string());
                self.say(Reply::no_tls());
                Ok(())
            }
            None => {
                self.say(Reply::no_tls());
                Ok(())
            }
        }
    }

    /// TLS before the greeting.
    pub(super) fn begin_with_tls(&mut self) -> Result<Result<(), Fault>, Error> {
        match self.tls.take() {
            Some(files) => Ok(self.shake_hands(&files.read()?)),
            None => Ok(Ok(())),
        }
    }

    /// What came behind STARTTLS was not sent under TLS, and must not be taken for what was (command injection,
    /// CVE-2011-0411).
    fn forget_input(&mut self) {
        if !self.input.is_empty() {
            let count = self.input.octets().len();
            log::warn!("client={} event=input-before-tls-dropped octets={count}", self.client);
        }
        self.input.clear();
        self.lines = LineReader::new(self.settings.line_length_limit, line_end(self.bare_newline));
    }

    fn shake_hands(&mut self, identity: &Identity) -> Result<(), Fault> {
        self.stream.allow(self.settings.timeout);
        let why = match self.stream.start_tls(identity) {
            Ok(facts) => {
                log::info!("client={} event=tls tls={facts}", self.client);
                self.session.under_tls();
                self.cipher_suite = facts.split_once('/').map(|(_, suite)| suite.to_owned());
                return Ok(());
            }
            Err(failure) => failure.why().map_err(Fault::Io)?,
        };
        log::info!("client={} event=tls-failed reason={why:?}", self.client);
        Err(Fault::HungUp)
    }
}
