//! `PeerVerifier`: a TLS server must be one workload, by SPIFFE ID and not by name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::bundle::Bundles;
use super::x509::X509Svid;
use crate::clock::Timestamp;
use crate::identity::spiffe_id::SpiffeId;

/// Believes a server that proves this SPIFFE ID by the bundle of its trust domain, whatever names it has.
#[derive(Debug)]
pub struct PeerVerifier {
    expected: SpiffeId,
    bundles: Arc<Bundles>,
}

impl PeerVerifier {
    /// The server must be this workload.
    #[must_use]
    pub const fn new(expected: SpiffeId, bundles: Arc<Bundles>) -> Self {
        Self { expected, bundles }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = i64::try_from(now.as_secs()).ok().and_then(|at| Timestamp::from_second(at).ok()).ok_or(Error::FailedToGetCurrentTime)?;
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(signers).cloned().collect();
        let svid = X509Svid::verify(&chain, &self.bundles, now).map_err(|fault| Error::General(fault.to_string()))?;
        if svid.id == self.expected { Ok(ServerCertVerified::assertion()) } else { Err(Error::General(format!("it is `{}`", svid.id))) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &crate::tls::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &crate::tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crate::tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
