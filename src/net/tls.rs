//! TLS for a server, by rustls: certificates and keys out of PEM files, and one session as octets in and octets out.
//!
//! Reading, writing and waiting are left to `connection`. Nothing is kept here for a client that comes again; it may get a
//! ticket, if there is a file of keys for that (`tickets.rs`). Files are opened at the start, with the rights of that moment,
//! and read only when a client asks for TLS, so that the others do not pay for it. A process that listens follows them
//! (`followed.rs`).

mod followed;

pub use followed::Followed;

use super::connection::Fault;
use super::tickets::Tickets;
use super::trust::Trust;
use crate::config::{self, Config, Origin};
use crate::exit::Error;
use crate::wire::secret::Secret;
use nix::libc::O_NONBLOCK;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, Connection, ServerConfig, ServerConnection};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Largest PEM file read, in octets.
const LARGEST_FILE: usize = 1 << 20;
/// Room for one record as it comes from the network (RFC 8446 section 5.2).
const RECORD: usize = 18 * 1024;

/// What a server offers. Copies share the files, so that a process that serves several clients has one for each.
#[derive(Debug, Default, Clone)]
pub enum Offer {
    /// No TLS: no certificate is configured, or the connection is under TLS already.
    #[default]
    None,
    /// By STARTTLS or STLS.
    OnRequest(Arc<Files>),
    /// From the first octet on.
    AtOnce(Arc<Files>),
}

/// The files of certificates and keys, opened and not read.
#[derive(Debug)]
pub struct Files {
    pairs: Vec<[Pem; 2]>,
    tickets: Option<Keys>,
}

/// The keys of tickets as they were at the start, and where they come from.
#[derive(Debug)]
struct Keys {
    path: PathBuf,
    read: Option<Arc<Tickets>>,
}

#[derive(Debug)]
struct Pem {
    parameter: &'static str,
    path: PathBuf,
    file: File,
}

/// Certificates and keys that fit, ready for a handshake.
#[derive(Debug, Clone)]
pub struct Identity(Arc<ServerConfig>);

/// Why there is no TLS after a handshake was begun. The connection is of no use any more.
#[derive(Debug)]
pub enum Failure {
    /// The stream ended, was too slow or broke.
    Stream(Fault),
    /// The two sides could not agree, or the client did not speak TLS; for the log.
    Handshake(String),
    /// The other side has not shown the certificate that it must have; for the log.
    Certificate(String),
}

impl Failure {
    /// Why, for the log: in the middle of a handshake there is nothing that could be said to the client. What the system would
    /// not do is given as it is.
    pub fn why(self) -> io::Result<String> {
        match self {
            Failure::Stream(Fault::TimedOut) => Ok("timed out".to_owned()),
            Failure::Stream(Fault::HungUp) => Ok("lost connection".to_owned()),
            Failure::Stream(Fault::Io(error)) => Err(error),
            Failure::Handshake(why) | Failure::Certificate(why) => Ok(why),
        }
    }
}

impl Offer {
    /// What the configuration offers; `at_once` (option `--tls`) needs a certificate. A file that cannot be opened is
    /// wrong configuration. To be called before rights are given up: a key may be for root's eyes alone.
    pub fn open(config: &Config, at_once: bool) -> Result<Offer, Error> {
        Offer::check(config, at_once)?;
        Ok(Offer::of(Files::open(config)?, at_once))
    }

    fn of(files: Option<Files>, at_once: bool) -> Offer {
        files.map(Arc::new).map_or(Offer::None, if at_once { Offer::AtOnce } else { Offer::OnRequest })
    }

    /// Whether it could be opened at all, as far as that can be told without rights to the files.
    pub fn check(config: &Config, at_once: bool) -> Result<(), Error> {
        match at_once && config.tls_cert_file.0.is_empty() {
            true => Err(wrong(Path::new("--tls"), "tls_cert_file", "a file of certificates to be set")),
            false => Ok(()),
        }
    }

    /// With the keys of tickets as they are now, as far as they can be read: before rights are given up.
    pub fn with_tickets_of_now(mut self) -> Offer {
        if let Offer::OnRequest(files) | Offer::AtOnce(files) = &mut self
            && let Some(keys) = Arc::get_mut(files).and_then(|files| files.tickets.as_mut())
        {
            let now = Keys::open(&keys.path);
            keys.read = now.read.or(keys.read.take());
        }
        self
    }

    /// Whether a client may ask for it now.
    pub fn is_on_request(&self) -> bool {
        matches!(self, Offer::OnRequest(_))
    }

    /// Takes the files, to read them: TLS is offered once.
    pub fn take(&mut self) -> Option<Arc<Files>> {
        match std::mem::take(self) {
            Offer::None => None,
            Offer::OnRequest(files) | Offer::AtOnce(files) => Some(files),
        }
    }
}

impl Files {
    fn open(config: &Config) -> Result<Option<Files>, Error> {
        let (certificates, keys) = (&config.tls_cert_file.0, &config.tls_key_file.0);
        if certificates.is_empty() {
            return Ok(None);
        }
        if keys.len() != certificates.len() {
            let origin = config.setting("tls_key_file").map(|setting| setting.origin);
            let problem = format!("tls_key_file: expected {} files, one for each of tls_cert_file", certificates.len());
            return Err(Error::Config(config::Error { origin: origin.unwrap_or(Origin::Default), problem }));
        }
        let pair = |(certificate, key): (&PathBuf, &PathBuf)| {
            Ok([Pem::open("tls_cert_file", certificate)?, Pem::open("tls_key_file", key)?])
        };
        let pairs = certificates.iter().zip(keys).map(pair).collect::<Result<_, Error>>()?;
        let tickets = config.tls_ticket_key_file.0.as_ref().map(|path| Keys::open(path));
        Ok(Some(Files { pairs, tickets }))
    }

    /// Reads them. Where they are of no use they may have been opened while they were being replaced: then as they are now, as
    /// far as this process may open them again.
    pub fn read(&self) -> Result<Identity, Error> {
        let tickets = self.tickets.as_ref().and_then(Keys::tickets);
        identity(&self.pairs, tickets.clone()).or_else(|error| {
            let again = |pem: &Pem| Pem::open(pem.parameter, &pem.path);
            let now = self.pairs.iter().map(|[certificate, key]| Ok([again(certificate)?, again(key)?]));
            let now = now.collect::<Result<Vec<_>, Error>>();
            now.and_then(|now| identity(&now, tickets)).map_err(|_| error)
        })
    }
}

impl Keys {
    /// With the rights of now: the file may be for root's eyes alone.
    fn open(path: &Path) -> Keys {
        let complain = |error: &io::Error| log::warn!("tls_ticket_key_file {}: no tickets: {error}", path.display());
        let read = Tickets::open(path, SystemTime::now()).inspect_err(complain).ok().map(Arc::new);
        Keys { path: path.to_owned(), read }
    }

    /// The keys as they are now, as far as they can be read again, and else as they were at the start.
    fn tickets(&self) -> Option<Arc<Tickets>> {
        let time = SystemTime::now();
        let now = Tickets::open(&self.path, time).ok().filter(ProducesTickets::enabled);
        now.map(Arc::new).or_else(|| self.read.clone().filter(|old| old.are_recent(time)))
    }
}

impl Pem {
    fn open(parameter: &'static str, path: &Path) -> Result<Pem, Error> {
        // Or a FIFO in its place would be waited for.
        match File::options().read(true).custom_flags(O_NONBLOCK).open(path) {
            Ok(file) => Ok(Pem { parameter, path: path.to_owned(), file }),
            Err(error) => Err(wrong(path, parameter, &format!("a PEM file that can be read: {error}"))),
        }
    }

    /// Not by the file's own position, which other processes share.
    fn octets(&self) -> Result<Secret, Error> {
        let failed = |error: io::Error| wrong(&self.path, self.parameter, &format!("a PEM file: {error}"));
        let mut octets = Secret(vec![0; LARGEST_FILE.min(self.length().map_err(failed)?)]);
        let mut filled = 0;
        while let Some(rest) = octets.0.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        octets.0.truncate(filled);
        Ok(octets)
    }

    fn length(&self) -> io::Result<usize> {
        Ok(usize::try_from(self.file.metadata()?.len()).unwrap_or(LARGEST_FILE))
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let octets = self.octets()?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets.0).collect();
        match read {
            Ok(chain) if !chain.is_empty() => Ok(chain),
            Ok(_) => Err(self.wrong("a PEM file with a certificate (-----BEGIN CERTIFICATE-----)")),
            Err(error) => Err(self.wrong(&format!("certificates in PEM: {error}"))),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        let octets = self.octets()?;
        PrivateKeyDer::from_pem_slice(&octets.0).map_err(|error| {
            self.wrong(&format!("a PEM file with a key that has no password (-----BEGIN PRIVATE KEY-----): {error}"))
        })
    }

    fn wrong(&self, expected: &str) -> Error {
        wrong(&self.path, self.parameter, expected)
    }
}

fn wrong(path: &Path, parameter: &str, expected: &str) -> Error {
    Error::Config(config::Error::at(path, 0, format!("{parameter}: expected {expected}")))
}

fn identity(pairs: &[[Pem; 2]], tickets: Option<Arc<Tickets>>) -> Result<Identity, Error> {
    // No client is asked for a certificate. How one would be verified is not linked then, nor its tables of addresses,
    // which the loader has to write down anew in each process.
    let signature_verification_algorithms = WebPkiSupportedAlgorithms { all: &[], mapping: &[] };
    let provider = Arc::new(CryptoProvider { signature_verification_algorithms, ..ring::default_provider() });
    let mut certified = Vec::new();
    for [certificate, key] in pairs {
        let read = CertifiedKey::from_der(certificate.certificates()?, key.key()?, &provider);
        certified.push(Arc::new(read.map_err(|error| {
            key.wrong(&format!("the key of the first certificate in {}: {error}", certificate.path.display()))
        })?));
    }
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::Temporary(format!("TLS: {error}")))?;
    let mut server = builder.with_no_client_auth().with_cert_resolver(Arc::new(ByName(certified)));
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    if let Some(tickets) = tickets.filter(|tickets| tickets.enabled()) {
        server.send_tls13_tickets = 1;
        server.ticketer = tickets;
    }
    Ok(Identity(Arc::new(server)))
}

/// The first certificate for the name the client asks for that it can check, else the first that it can check.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |key: &&Arc<CertifiedKey>| {
            let certificate = key.end_entity_cert().ok().and_then(|der| ParsedCertificate::try_from(der).ok());
            certificate
                .zip(name.as_ref())
                .is_some_and(|(certificate, name)| verify_server_name(&certificate, name).is_ok())
        };
        let mut all = self.0.iter().filter(usable);
        // Who asks for a name nobody has gets an answer that he can judge by himself.
        all.clone().find(fits).or_else(|| all.next()).cloned()
    }
}

/// One TLS session, without its socket.
#[derive(Debug)]
pub(super) struct Tls {
    session: Connection,
    /// What came from the network; up to `used` it has been taken.
    raw: Vec<u8>,
    used: usize,
    /// What is to go to the network.
    pub(super) sealed: Vec<u8>,
}

impl Tls {
    pub(super) fn new(identity: &Identity) -> Result<Tls, Failure> {
        let session = ServerConnection::new(identity.0.clone()).map_err(|e| Failure::Handshake(e.to_string()))?;
        Ok(Tls { session: session.into(), raw: Vec::new(), used: 0, sealed: Vec::new() })
    }

    /// The same as a client of the server of that name.
    pub(super) fn client(trust: &Trust, name: &str) -> Result<Tls, Failure> {
        let failed = |text: String| Failure::Handshake(text);
        let name = ServerName::try_from(name.to_owned()).map_err(|error| failed(error.to_string()))?;
        let session = ClientConnection::new(trust.config(), name).map_err(|error| failed(error.to_string()))?;
        let mut tls = Tls { session: session.into(), raw: Vec::new(), used: 0, sealed: Vec::new() };
        // The client speaks first.
        tls.seal_pending();
        Ok(tls)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Version and cipher suite, for the log.
    pub(super) fn facts(&self) -> String {
        let version = self.session.protocol_version().and_then(|version| version.as_str().map(str::to_owned));
        let suite = self.session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let name = |text: Option<&str>| text.unwrap_or("unknown").replace("TLSv1_", "TLSv1.").replace("TLS13_", "TLS_");
        format!("{}/{}", name(version.as_deref()), name(suite))
    }

    /// Room for octets from the network; to be followed by [`Tls::filled`]. Only when [`Tls::plaintext`] gave nothing.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.raw.resize(RECORD, 0);
        &mut self.raw
    }

    /// So many octets came; 0 is the end of the stream, `None` that nothing came of it.
    pub(super) fn filled(&mut self, count: Option<usize>) -> Result<(), Fault> {
        self.raw.truncate(count.unwrap_or(0));
        self.used = 0;
        if count == Some(0) {
            self.session.read_tls(&mut io::empty()).map_err(Fault::Io)?;
        }
        Ok(())
    }

    /// Takes what came, as far as it goes without leaving plaintext lying; false: all has been taken.
    pub(super) fn take(&mut self) -> Result<bool, rustls::Error> {
        let mut rest = self.raw.get(self.used..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(false);
        }
        self.used += self.session.read_tls(&mut rest).map_err(|error| rustls::Error::General(error.to_string()))?;
        let taken = self.session.process_new_packets().map(|_| true);
        self.seal_pending();
        taken
    }

    /// Whether something of the other side is here that [`Tls::plaintext`] has not given.
    pub(super) fn has_input(&mut self) -> bool {
        self.used < self.raw.len()
            || self.session.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Octets of the client that are there. `None`: more must come from the network first. `Some(0)`: it said that
    /// there will be no more.
    pub(super) fn plaintext(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Fault> {
        loop {
            match self.session.reader().read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // An end that the client did not announce: somebody else may have cut the connection (truncation).
                Err(_) => return Err(Fault::HungUp),
            }
            match self.take() {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    log::info!("event=tls-broken reason={:?}", error.to_string());
                    return Err(Fault::HungUp);
                }
            }
        }
    }

    /// Puts octets of ours into `sealed`, as many as there is room for in one go; gives how many.
    pub(super) fn seal(&mut self, octets: &[u8]) -> Result<usize, Fault> {
        let count = self.session.writer().write(octets).map_err(Fault::Io)?;
        self.seal_pending();
        Ok(count)
    }

    /// Puts the announcement that we will say no more into `sealed`.
    pub(super) fn seal_end(&mut self) {
        self.session.send_close_notify();
        self.seal_pending();
    }

    /// A session writes to memory, which does not fail.
    fn seal_pending(&mut self) {
        while self.session.wants_write() && self.session.write_tls(&mut self.sealed).is_ok_and(|count| count > 0) {}
    }
}

#[cfg(test)]
mod tests;
