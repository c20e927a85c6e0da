//! Trust anchors: the operating system's store, or the certificates that an upstream lists.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::error::TlsError;

/// Who vouches for a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The operating system's store, read once.
    System,
    /// These certificates (DER) and nobody else.
    Certificates(Arc<[Vec<u8>]>),
}

/// The certificates of a PEM file, in DER, each checked to be usable as a trust anchor.
///
/// # Errors
/// Not PEM, no certificate in it, or one that cannot be a root.
pub fn parse_certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, TlsError> {
    let mut found = Vec::new();
    for (at, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let certificate = certificate.map_err(|error| TlsError::BadCertificate { number: at + 1, why: error.to_string() })?;
        found.push(certificate.as_ref().to_vec());
    }
    store(&found)?;
    Ok(found)
}

/// A store of exactly these.
pub(super) fn store(certificates: &[Vec<u8>]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for (at, der) in certificates.iter().enumerate() {
        let bad = |error: rustls::Error| TlsError::BadCertificate { number: at + 1, why: error.to_string() };
        store.add(CertificateDer::from_slice(der)).map_err(bad)?;
    }
    if store.is_empty() { Err(TlsError::NoCertificate) } else { Ok(store) }
}

/// The operating system's store; certificates that cannot be read are left out, as everywhere.
pub(super) fn system() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why = found.errors.first().map_or_else(|| "the store is empty".to_owned(), ToString::to_string);
        return Err(TlsError::NoSystemRoots(why));
    }
    Ok(store)
}

/// The operating system's store as PEM, for a bundle of roots.
///
/// # Errors
/// There is none.
pub fn system_roots_pem() -> Result<String, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(|| "the store is empty".to_owned(), ToString::to_string);
        return Err(TlsError::NoSystemRoots(why));
    }
    Ok(found.certs.iter().map(|certificate| pem(certificate)).collect())
}

/// RFC 7468 section 3: 64 characters a line.
fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            out.push('\n');
        }
        out.push(character);
    }
    out.push_str("\n-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_checked_when_they_are_read() {
        assert_eq!(parse_certificates(b"no pem at all").unwrap_err(), TlsError::NoCertificate);
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(parse_certificates(broken).unwrap_err(), TlsError::BadCertificate { number: 1, .. }));
        let root = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        assert_eq!(parse_certificates(root.cert.pem().as_bytes()).unwrap(), [root.cert.der().to_vec()]);
    }
}
