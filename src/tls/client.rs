//! `ClientConfigs`: one client configuration per set of roots and ALPN, made once and shared by all workers.
//!
//! Sharing is what makes session resumption work. rustls keeps sessions per configuration and server name, and binds them to the
//! verifier, so upstreams that trust different roots never share one.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use super::error::TlsError;
use super::roots::{self, Trust};
use crate::secret::Secret;

/// Which HTTP versions a handshake offers (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `h2`, then `http/1.1`.
    Both,
    /// `http/1.1` alone: upgrades, and peers that are told to.
    H1,
    /// `h2` alone.
    H2,
}

impl Alpn {
    pub(super) fn protocols(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Self::Both => &[b"h2", b"http/1.1"],
            Self::H1 => &[b"http/1.1"],
            Self::H2 => &[b"h2"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

const MOST_CONFIGS: usize = 256;
const SESSIONS_PER_CONFIG: usize = 256;

/// exeat's own certificate: a chain and the key that signs for it. The key is never seen again.
#[derive(Clone)]
pub struct OwnCertificate(Arc<CertifiedKey>);

impl OwnCertificate {
    /// From a chain, leaf first, and its key in PKCS#8 DER.
    ///
    /// # Errors
    /// Not such a key, or the key of another certificate.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &Secret) -> Result<Self, TlsError> {
        Self::of(chain, &PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose())))
    }

    /// From a chain, leaf first, and its key in PEM.
    ///
    /// # Errors
    /// No certificate, no key, or the key of another certificate.
    pub fn from_pem(chain: &[u8], key: &Secret) -> Result<Self, TlsError> {
        let unusable = |why: String| TlsError::Configuration(why);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(format!("its certificate: {error}")))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let key =
            PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| unusable("its key is no unencrypted private key in PEM".to_owned()))?;
        Self::of(chain, &key)
    }

    fn of(chain: Vec<CertificateDer<'static>>, der: &PrivateKeyDer<'_>) -> Result<Self, TlsError> {
        let bad = |error: rustls::Error| TlsError::Configuration(format!("the key of its own certificate cannot be used: {error}"));
        let signer = super::provider().key_provider.load_private_key(der.clone_key()).map_err(bad)?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(bad)?;
        Ok(Self(Arc::new(certified)))
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.cert
    }

    /// For a TLS server that shows it.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0)
    }
}

impl std::fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnCertificate").field("chain", &self.0.cert.len()).finish_non_exhaustive()
    }
}

/// Who the server must be.
pub enum Peer {
    /// Whoever proves the connection's name to these roots.
    Named(Trust),
    /// Whoever this verifier believes.
    Judged(Arc<dyn ServerCertVerifier>),
}

/// Client configurations by trust and ALPN.
#[derive(Default)]
pub struct ClientConfigs {
    made: Mutex<FxHashMap<(Trust, Alpn), Arc<ClientConfig>>>,
    system: Mutex<Option<Arc<RootCertStore>>>,
}

impl ClientConfigs {
    /// None made yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the operating system's store now, so that no request waits for it; later calls find it read.
    ///
    /// # Errors
    /// The machine has no trusted certificates.
    pub fn load_system_roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &*system {
            return Ok(Arc::clone(store));
        }
        let store = Arc::new(roots::system()?);
        *system = Some(Arc::clone(&store));
        Ok(store)
    }

    /// A configuration for connections that authenticate, made anew: its owner keeps it as long as the certificate holds, so that no TLS
    /// session outlives what it was opened with.
    ///
    /// # Errors
    /// Roots that cannot be used.
    pub fn authenticated(&self, peer: Peer, own: Option<&OwnCertificate>, alpn: Alpn) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = ClientConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Configuration(error.to_string()))?;
        let builder = match peer {
            Peer::Named(trust) => builder.with_root_certificates(self.store(&trust)?),
            Peer::Judged(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier),
        };
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.protocols();
        config.resumption = Resumption::in_memory_sessions(SESSIONS_PER_CONFIG);
        Ok(Arc::new(config))
    }

    fn store(&self, trust: &Trust) -> Result<Arc<RootCertStore>, TlsError> {
        match trust {
            Trust::System => self.load_system_roots(),
            Trust::Certificates(certificates) => Ok(Arc::new(roots::store(certificates)?)),
        }
    }

    /// The configuration for this trust and ALPN.
    ///
    /// # Errors
    /// Roots that cannot be used.
    pub fn config(&self, trust: &Trust, alpn: Alpn) -> Result<Arc<ClientConfig>, TlsError> {
        let key = (trust.clone(), alpn);
        if let Some(config) = self.made.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(configure(self.store(trust)?, alpn)?);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= MOST_CONFIGS {
            // Only reloads with ever new roots come here: what is still in use is made again.
            made.clear();
        }
        made.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

fn configure(roots: Arc<RootCertStore>, alpn: Alpn) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Configuration(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.protocols();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_PER_CONFIG);
    Ok(config)
}

/// The name that the peer's certificate must prove: a DNS name or an address, never empty.
///
/// # Errors
/// What no certificate can prove.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadName(host.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_configuration_per_trust_and_alpn() {
        let configs = ClientConfigs::new();
        let root = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            Trust::Certificates(Arc::from([made.cert.der().to_vec()]))
        };
        let (a, b) = (root("a.example"), root("b.example"));
        let first = configs.config(&a, Alpn::Both).unwrap();
        assert!(Arc::ptr_eq(&first, &configs.config(&a.clone(), Alpn::Both).unwrap()));
        assert!(!Arc::ptr_eq(&first, &configs.config(&a, Alpn::H1).unwrap()));
        assert!(!Arc::ptr_eq(&first, &configs.config(&b, Alpn::Both).unwrap()));
    }

    #[test]
    fn post_quantum_comes_first_and_a_name_is_needed() {
        let groups: Vec<_> = super::super::provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups.first(), Some(&rustls::NamedGroup::X25519MLKEM768));
        assert_eq!(server_name(""), Err(TlsError::BadName(String::new())));
        assert!(server_name("::1").is_ok() && server_name("a.example").is_ok());
    }
}
