//! The server side of a listener that speaks TLS to workloads, with or without a certificate of theirs.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::client::Alpn;
use super::error::TlsError;
use crate::secret::Secret;

/// Judges the chain that a client shows, leaf first; the error is for the operator.
pub type ClientJudge = Arc<dyn Fn(&[CertificateDer<'_>]) -> Result<(), String> + Send + Sync>;

/// A configuration that shows this chain (PEM) and, with a judge, lets in only clients whose certificate passes and who prove its key.
/// No session is resumed: each connection shows its certificate anew.
///
/// # Errors
/// No certificate, no key, or a key of another certificate.
pub fn listener_config(chain: &[u8], key: &Secret, judge: Option<ClientJudge>) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = |why: String| TlsError::Configuration(why);
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|error| unusable(format!("its certificate: {error}")))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let key =
        PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| unusable("its key is no unencrypted private key in PEM".to_owned()))?;
    let provider = super::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?;
    let builder = match judge {
        Some(judge) => {
            builder.with_client_cert_verifier(Arc::new(Judged { judge, algorithms: provider.signature_verification_algorithms }))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(error.to_string()))?;
    config.alpn_protocols = Alpn::Both.protocols();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Asks the judge; the proof of the key is rustls's to verify.
struct Judged {
    judge: ClientJudge,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judged")
    }
}

impl ClientCertVerifier for Judged {
    /// None: a SPIFFE workload has one certificate, and the names of authorities say nothing to it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        (self.judge)(&chain).map(|()| ClientCertVerified::assertion()).map_err(Error::General)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What became of a client's handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFault {
    /// It is known not to be let in, and why.
    Refused(String),
    /// It speaks something else, or went away.
    Broken(String),
}

/// Sorts what a handshake failed of.
#[must_use]
pub fn client_fault(error: &std::io::Error) -> ClientFault {
    let Some(why) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return ClientFault::Broken(error.to_string()) };
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, growing list: all else is shown in its own words")]
    match why {
        Error::General(why) => ClientFault::Refused(why.clone()),
        Error::NoCertificatesPresented => ClientFault::Refused("it showed no certificate".to_owned()),
        Error::InvalidCertificate(_) | Error::PeerMisbehaved(_) => ClientFault::Refused(why.to_string()),
        other => ClientFault::Broken(other.to_string()),
    }
}
