//! `Authority`: the local CA whose leaves stand in for intercepted names.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsError;
use crate::clock::Timestamp;
use crate::secret::{Secret, random};

const AUTHORITY_LIFE: Duration = Duration::from_hours(5 * 365 * 24);
/// Clients whose clock is behind must not meet a certificate from the future.
const BACKDATED: Duration = Duration::from_hours(1);

/// The CA's certificate and key, and the one key that all its leaves share.
///
/// One leaf key is enough: it never leaves this process, and a key of its own for each name would protect nothing that the CA's key
/// beside it does not open.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: Box<str>,
    leaf_key: KeyPair,
    signer: Arc<dyn rustls::sign::SigningKey>,
}

impl Authority {
    /// A new P-256 CA. With `permitted` names (`example.com` and all below it; addresses alone) the CA can vouch for nothing else,
    /// whoever steals its key (RFC 5280 section 4.2.1.10); empty means any name.
    ///
    /// # Errors
    /// A permitted name that is none.
    pub fn generate(now: Timestamp, permitted: &[&str]) -> Result<Self, TlsError> {
        let key = KeyPair::generate().map_err(bad)?;
        let mut params = CertificateParams::default();
        let mut tag = [0; 4];
        random(&mut tag);
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "exeat");
        name.push(DnType::CommonName, format!("exeat local CA {:08x}", u32::from_be_bytes(tag)));
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = (!permitted.is_empty()).then(|| NameConstraints {
            permitted_subtrees: permitted.iter().map(|name| subtree(name)).collect(),
            excluded_subtrees: Vec::new(),
        });
        validity(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key).map_err(bad)?;
        Self::new(certificate.pem().into(), certificate.into(), key)
    }

    /// A CA from its PEM certificate and PKCS#8 PEM key.
    ///
    /// # Errors
    /// Not PEM, not a certificate, or a key of another certificate.
    pub fn from_pem(certificate: &str, key: &Secret) -> Result<Self, TlsError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| TlsError::BadAuthority(format!("its certificate: {error}")))?;
        let key = std::str::from_utf8(key.expose()).map_err(|_| TlsError::BadAuthority("its key is not PEM".to_owned()))?;
        let key = KeyPair::from_pem(key).map_err(|error| TlsError::BadAuthority(format!("its key: {error}")))?;
        let parsed = rustls::server::ParsedCertificate::try_from(&der).map_err(bad)?;
        if !parsed.subject_public_key_info().ends_with(rcgen::PublicKeyData::der_bytes(&key)) {
            return Err(TlsError::BadAuthority("its certificate and its key do not belong together".to_owned()));
        }
        Self::new(certificate.into(), der, key)
    }

    fn new(certificate_pem: Box<str>, certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, TlsError> {
        let leaf_key = KeyPair::generate().map_err(bad)?;
        let private = PrivateKeyDer::try_from(leaf_key.serialize_der()).map_err(bad)?;
        let signer = super::provider().key_provider.load_private_key(private).map_err(bad)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(bad)?;
        Ok(Self { issuer, certificate, certificate_pem, leaf_key, signer })
    }

    /// The CA's certificate, for trust stores.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's key (PKCS#8 PEM), for `state` alone.
    #[must_use]
    pub fn key_pem(&self) -> Secret {
        Secret::new(self.issuer.key().serialize_pem())
    }

    /// A leaf for one DNS name or address. Its life should be short: a leaf is as good as the name it stands for.
    pub(super) fn mint(&self, name: &str, now: Timestamp, life: Duration) -> Result<Arc<CertifiedKey>, TlsError> {
        let failed = |why: String| TlsError::NotMinted { name: name.to_owned(), why };
        let san = match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.try_into().map_err(|error: rcgen::Error| failed(error.to_string()))?),
        };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        let mut subject = DistinguishedName::new();
        // A common name has 64 characters at most (RFC 5280 appendix A); what is verified is the alternative name.
        subject.push(DnType::CommonName, if name.len() <= 64 { name } else { "exeat interception" });
        params.distinguished_name = subject;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, life);
        let leaf = params.signed_by(&self.leaf_key, &self.issuer).map_err(|error| failed(error.to_string()))?;
        Ok(Arc::new(CertifiedKey::new(vec![leaf.into(), self.certificate.clone()], Arc::clone(&self.signer))))
    }
}

fn bad(error: impl std::fmt::Display) -> TlsError {
    TlsError::BadAuthority(error.to_string())
}

fn subtree(name: &str) -> GeneralSubtree {
    match name.parse::<IpAddr>() {
        Ok(ip) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, if ip.is_ipv4() { 32 } else { 128 })),
        Err(_) => GeneralSubtree::DnsName(name.to_owned()),
    }
}

/// Validity around `now`, and a serial number that no other certificate of this CA has.
fn validity(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + life;
    let mut serial = [0; 16];
    random(&mut serial);
    // Positive and without leading zeros (RFC 5280 section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_authority_is_the_same_authority() {
        let now = Timestamp::UNIX_EPOCH + Duration::from_hours(500_000);
        let made = Authority::generate(now, &[]).unwrap();
        let loaded = Authority::from_pem(made.certificate_pem(), &made.key_pem()).unwrap();
        assert_eq!(made.certificate, loaded.certificate);
        assert_eq!(loaded.mint("a.example", now, Duration::from_hours(24)).unwrap().cert.len(), 2);
        let other = Authority::generate(now, &[]).unwrap();
        let mixed = Authority::from_pem(made.certificate_pem(), &other.key_pem()).err().unwrap();
        assert_eq!(mixed.to_string(), "the interception CA cannot be used: its certificate and its key do not belong together");
        assert!(Authority::from_pem("", &made.key_pem()).is_err());
    }

    #[test]
    fn what_is_no_name_is_not_minted() {
        let authority = Authority::generate(Timestamp::UNIX_EPOCH, &[]).unwrap();
        assert!(matches!(authority.mint("ex\u{e4}mple", Timestamp::UNIX_EPOCH, Duration::from_hours(24)), Err(TlsError::NotMinted { .. })));
    }
}
