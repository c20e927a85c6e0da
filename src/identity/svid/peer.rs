//! `PeerVerifier`: a TLS server must be whom we expect, by SPIFFE ID and not by name.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::bundle::Bundles;
use super::x509::X509Svid;
use crate::clock::Timestamp;
use crate::identity::spiffe_id::{SpiffeId, SpiffeIdError};

/// Whom a TLS server must prove to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expected {
    /// This workload.
    One(SpiffeId),
    /// Any workload of that trust domain whose path goes on, by whole segments, behind this one's.
    Beneath(SpiffeId),
}

impl Expected {
    /// `spiffe://DOMAIN/PATH`, or `spiffe://DOMAIN/PATH/**` for all beneath. A whole trust domain is nobody.
    ///
    /// # Errors
    /// What stands before `/**` is no SPIFFE ID.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        match text.strip_suffix("/**") {
            Some(above) => SpiffeId::parse(above).map(Self::Beneath),
            None => SpiffeId::parse(text).map(Self::One),
        }
    }

    /// Whether this is whom it expects.
    #[must_use]
    pub fn admits(&self, id: &SpiffeId) -> bool {
        match self {
            Self::One(one) => id == one,
            // Neither may hold an empty or a dot segment, so what is behind the slash is a segment at least.
            Self::Beneath(above) => id.as_str().strip_prefix(above.as_str()).is_some_and(|rest| rest.starts_with('/')),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(id) => write!(f, "{id}"),
            Self::Beneath(above) => write!(f, "{above}/**"),
        }
    }
}

/// Believes a server that proves to be whom we expect by the bundle of its trust domain, whatever names it has.
#[derive(Debug)]
pub struct PeerVerifier {
    expected: Expected,
    bundles: Arc<Bundles>,
}

impl PeerVerifier {
    /// The server must be this.
    #[must_use]
    pub const fn new(expected: Expected, bundles: Arc<Bundles>) -> Self {
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
        if self.expected.admits(&svid.id) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General(format!("it is `{}`", svid.id)))
        }
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
