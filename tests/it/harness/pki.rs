//! A certificate authority of the tests: it vouches for every upstream, and for nothing else.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The authority and the one leaf that all upstreams show.
pub struct Authority {
    pub pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// Names that the leaf is good for, beside the addresses of loopback.
pub const NAMES: &[&str] = &["localhost", "127.0.0.1", "::1", "other.test", "*.wild.test"];

fn make(names: &[&str]) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "exeat tests");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
    let key = KeyPair::generate().expect("key");
    let mut leaf = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("names");
    leaf.distinguished_name.push(DnType::CommonName, "an upstream");
    let leaf = leaf.signed_by(&key, &issuer).expect("leaf");
    Authority { pem: issuer.pem(), chain: vec![leaf.der().clone()], key: key.serialize_der() }
}

/// The authority that configurations name as roots.
pub fn authority() -> &'static Authority {
    static ONE: OnceLock<Authority> = OnceLock::new();
    ONE.get_or_init(|| make(NAMES))
}

/// An authority that nobody names.
pub fn stranger() -> &'static Authority {
    static ONE: OnceLock<Authority> = OnceLock::new();
    ONE.get_or_init(|| make(NAMES))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's side, offering these protocols.
pub fn server(authority: &Authority, alpn: &[&str]) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(authority.key.clone()));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(authority.chain.clone(), key)
        .expect("certificate");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A server's side that shows the authority's leaf and demands certificates of this root.
pub fn mutual(authority: &Authority, clients: &CertificateDer<'static>, alpn: &[&str]) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(clients.clone()).expect("a root");
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().expect("a verifier");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(authority.key.clone()));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(authority.chain.clone(), key)
        .expect("certificate");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A client's side that trusts the certificates of this PEM alone.
pub fn client(pem: &str, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.expect("PEM")).expect("a root");
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}
