//! Whom a TLS client believes, and by which TLS: nobody in particular (opportunistic TLS, which only keeps readers out), or who
//! has a certificate of a known authority for one of the right names; and where fingerprints are given, who has one of those.

use crate::message::path::is_host_name;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// Largest file of authorities read, in octets.
const LARGEST_FILE: u64 = 8 << 20;

/// Which versions of TLS there may be; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    v12: bool,
    v13: bool,
}

impl Default for Versions {
    fn default() -> Versions {
        Versions { v12: true, v13: true }
    }
}

impl Versions {
    /// TLS 1.2, TLS 1.3, or both.
    pub fn of(v12: bool, v13: bool) -> Option<Versions> {
        (v12 || v13).then_some(Versions { v12, v13 })
    }
}

/// Whose a certificate may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// That of this host.
    Exactly(ServerName<'static>),
    /// That of any host below this domain, which is written with a dot in front.
    Below(String),
}

impl Name {
    /// A name or an address, or `.domain`.
    pub fn parse(text: &str) -> Option<Name> {
        match text.strip_prefix('.') {
            Some(domain) => is_host_name(domain).then(|| Name::Below(text.to_ascii_lowercase())),
            None => ServerName::try_from(text.to_owned()).ok().map(Name::Exactly),
        }
    }

    fn is_in(&self, certificate: &ParsedCertificate<'_>, der: &CertificateDer<'_>) -> bool {
        match self {
            Name::Exactly(name) => verify_server_name(certificate, name).is_ok(),
            Name::Below(domain) => webpki::EndEntityCert::try_from(der).is_ok_and(|certificate| {
                let is_below = |name: &str| name.len() > domain.len() && name.to_ascii_lowercase().ends_with(domain);
                certificate.valid_dns_names().any(is_below)
            }),
        }
    }
}

/// The SHA-256 of a certificate, or of the key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Hexadecimal digits, with or without colons between the octets.
    pub fn parse(text: &str) -> Option<Fingerprint> {
        let octets: Vec<&[u8]> = match text.contains(':') {
            true => text.as_bytes().split(|octet| *octet == b':').collect(),
            false => text.as_bytes().chunks(2).collect(),
        };
        let digit = |octet: u8| char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let octet = |pair: &[u8]| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        let octets: Vec<u8> = octets.into_iter().map(octet).collect::<Option<_>>()?;
        octets.try_into().ok().map(Fingerprint)
    }

    fn is_of(&self, der: &[u8]) -> bool {
        Sha256::digest(der)[..] == self.0
    }
}

/// The known ones.
#[derive(Debug, Clone)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads them out of a PEM file.
    pub fn read(file: &File) -> Result<Authorities, String> {
        let mut octets = Vec::new();
        let read = file.take(LARGEST_FILE).read_to_end(&mut octets);
        read.map_err(|error| format!("smtp_tls_CAfile: {error}"))?;
        let mut roots = RootCertStore::empty();
        // Authorities of odd forms are in every such file; the others still count.
        let (added, _) =
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&octets).filter_map(Result::ok));
        if added == 0 {
            return Err("smtp_tls_CAfile: there is no certificate in it".to_owned());
        }
        Ok(Authorities(Arc::new(roots)))
    }
}

/// A choice, ready for handshakes.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Any certificate will do, or any that has one of these fingerprints.
    pub fn anybody(pinned: &[Fingerprint], versions: Versions) -> Result<Trust, String> {
        Trust::new(versions, pinned, None)
    }

    /// Certificates of these authorities for one of these names.
    pub fn names(
        authorities: &Authorities,
        names: Vec<Name>,
        pinned: &[Fingerprint],
        versions: Versions,
    ) -> Result<Trust, String> {
        Trust::new(versions, pinned, Some((authorities.0.clone(), names)))
    }

    fn new(
        versions: Versions,
        pinned: &[Fingerprint],
        known: Option<(Arc<RootCertStore>, Vec<Name>)>,
    ) -> Result<Trust, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Verifier { provider: provider.clone(), pinned: pinned.to_vec(), known });
        let both = [(versions.v13, &TLS13), (versions.v12, &TLS12)];
        let versions: Vec<_> = both.into_iter().filter(|(is_in, _)| *is_in).map(|(_, version)| version).collect();
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let builder = builder.map_err(|error| error.to_string())?;
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        // A process that comes again for the same server is rare, and a ticket tells who it is.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Trust(Arc::new(config)))
    }

    /// For handshakes, none of which resumes another.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

/// Wants the signature of the certificate's owner, and where something is known of whom to believe, one of the certificates of
/// those. Of the name in the handshake it knows nothing: that only tells the server which certificate to show.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Empty: none is asked for.
    pinned: Vec<Fingerprint>,
    known: Option<(Arc<RootCertStore>, Vec<Name>)>,
}

impl Verifier {
    fn check(
        &self,
        der: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let has_key = |pinned: &Fingerprint| {
            ParsedCertificate::try_from(der).is_ok_and(|known| pinned.is_of(&known.subject_public_key_info()))
        };
        if !self.pinned.is_empty() && !self.pinned.iter().any(|pinned| pinned.is_of(der) || has_key(pinned)) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        let Some((roots, names)) = &self.known else { return Ok(()) };
        let certificate = ParsedCertificate::try_from(der)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, others, now, algorithms)?;
        let is_one = names.iter().any(|name| name.is_in(&certificate, der));
        if is_one { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate, others, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_32_octets_with_colons_everywhere_or_nowhere() {
        let plain = "0123456789abcdefABCDEF".repeat(3);
        let plain = plain.get(..64).unwrap();
        let pairs: Vec<&str> = (0..32).map(|at| &plain[2 * at..2 * at + 2]).collect();
        let found = Fingerprint::parse(plain);
        assert!(found.is_some() && found == Fingerprint::parse(&pairs.join(":")));
        for wrong in ["", "00", &plain[..62], &format!("{plain}00"), &format!("{}:{}", &plain[..32], &plain[32..])] {
            assert_eq!(Fingerprint::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Fingerprint::parse(&plain.replace('0', "+")), None);
    }
}
