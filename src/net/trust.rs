//! Whom a TLS client believes: nobody in particular (opportunistic TLS, which only keeps readers out), or who has a
//! certificate of a known authority for the right name.

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// Largest file of authorities read, in octets.
const LARGEST_FILE: u64 = 8 << 20;

/// A choice, ready for handshakes.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Any certificate will do.
    pub fn anybody() -> Result<Trust, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Anybody(provider.clone()));
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        Ok(Trust::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
    }

    /// Certificates of the authorities in this PEM file.
    pub fn authorities(file: &File) -> Result<Trust, String> {
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
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let verifier = verifier.map_err(|error| error.to_string())?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        Ok(Trust::new(builder.with_webpki_verifier(verifier).with_no_client_auth()))
    }

    fn new(mut config: ClientConfig) -> Trust {
        // A process that comes again for the same server is rare, and a ticket tells who it is.
        config.resumption = rustls::client::Resumption::disabled();
        Trust(Arc::new(config))
    }

    /// For handshakes, none of which resumes another.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

/// Takes any certificate, and still wants the signature of its owner.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
