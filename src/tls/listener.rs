//! The server side of a listener that speaks TLS to workloads, with or without a certificate of theirs.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::client::{Alpn, OwnCertificate};
use super::error::TlsError;
use crate::clock::Timestamp;

/// How rustls says that its resolver had no certificate.
const NOTHING_SHOWN: &str = "no server certificate chain resolved";

/// Judges the chain that a client shows, leaf first; the error is for the operator.
pub type ClientJudge = Arc<dyn Fn(&[CertificateDer<'_>]) -> Result<(), String> + Send + Sync>;

/// What a listener shows at the moment of a handshake; `None`: it has nothing to show.
pub type Shown = Arc<dyn Fn() -> Option<OwnCertificate> + Send + Sync>;

/// A configuration that shows this certificate and, with a judge, lets in only clients whose certificate passes and who prove its key.
/// No session is resumed: each connection shows its certificate anew.
///
/// # Errors
/// The cryptography of this build cannot speak TLS.
pub fn listener_config(shown: Shown, judge: Option<ClientJudge>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = super::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Configuration(error.to_string()))?;
    let builder = match judge {
        Some(judge) => {
            builder.with_client_cert_verifier(Arc::new(Judged { judge, algorithms: provider.signature_verification_algorithms }))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Now(shown)));
    config.ignore_client_order = true;
    config.alpn_protocols = Alpn::Both.protocols();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Shows what there is now.
struct Now(Shown);

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Now")
    }
}

impl ResolvesServerCert for Now {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        (self.0)().map(|own| own.certified())
    }
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
    /// exeat has no certificate to show.
    NotReady,
    /// It speaks something else, or went away.
    Broken(String),
}

/// Sorts what a handshake failed of.
#[must_use]
pub fn client_fault(error: &std::io::Error) -> ClientFault {
    let Some(why) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return ClientFault::Broken(error.to_string()) };
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, growing list: all else is shown in its own words")]
    match why {
        Error::General(why) if why == NOTHING_SHOWN => ClientFault::NotReady,
        Error::General(why) => ClientFault::Refused(why.clone()),
        Error::NoCertificatesPresented => ClientFault::Refused("it showed no certificate".to_owned()),
        Error::InvalidCertificate(_) | Error::PeerMisbehaved(_) => ClientFault::Refused(why.to_string()),
        other => ClientFault::Broken(other.to_string()),
    }
}

/// When a certificate ends; `None` for what is no certificate.
#[must_use]
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}
