//! `X509Svid`: the identity that a certificate chain proves.

use std::fmt::Write as _;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::bundle::Bundles;
use crate::clock::Timestamp;
use crate::identity::spiffe_id::{SpiffeId, SpiffeIdError};

/// Most certificates of one chain.
const MAX_CHAIN: usize = 10;
/// Largest chain that is looked at, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Why a certificate chain proves no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum X509Fault {
    /// Nothing was presented.
    #[error("no certificate was presented")]
    Empty,
    /// Over the bounds.
    #[error("the chain is too long: at most 10 certificates and 64 KiB are looked at")]
    Size,
    /// Not DER.
    #[error("certificate {0} of the chain is no DER certificate")]
    Der(usize),
    /// An extension that cannot be read, or that is there twice.
    #[error("the certificate's {0} cannot be read")]
    Extension(&'static str),
    /// No URI in the subject alternative names.
    #[error("the certificate names no SPIFFE ID: it has no URI in its subject alternative names")]
    NoUri,
    /// More than one (X.509-SVID section 2).
    #[error("the certificate has {0} URIs in its subject alternative names, an X.509-SVID has exactly one")]
    ManyUris(usize),
    /// The URI is no SPIFFE ID of a workload.
    #[error("the certificate's URI is no SPIFFE ID of a workload: {0}")]
    Id(SpiffeIdError),
    /// A signing certificate (X.509-SVID section 4.1).
    #[error("the certificate is a signing certificate (cA), an X.509-SVID's leaf is none")]
    Authority,
    /// No key usage (X.509-SVID section 4.3).
    #[error("the certificate has no key usage `digitalSignature`")]
    NoSignature,
    /// `keyCertSign` or `cRLSign`.
    #[error("the certificate's key usage has `{0}`, which a leaf must not have")]
    Signs(&'static str),
    /// Nobody vouches for that trust domain.
    #[error("no bundle of trust domain `{0}` is here: federate with it, or check the Workload API")]
    NoBundle(Box<str>),
    /// A bundle without certificates that are valid now.
    #[error("the bundle of trust domain `{0}` has no X.509 authority that is valid now")]
    NoAuthority(Box<str>),
    /// A certificate on the way names another trust domain.
    #[error("certificate {number} of the chain signs for `{id}`, not for trust domain `{trust_domain}`")]
    ForeignSigner {
        /// Its place, from 1 for the leaf.
        number: usize,
        /// What it names.
        id: Box<str>,
        /// Whom it should sign for.
        trust_domain: Box<str>,
    },
    /// Over.
    #[error("the certificate has expired")]
    Expired,
    /// Not yet.
    #[error("the certificate is not valid yet")]
    NotYet,
    /// No path to the bundle.
    #[error("the chain does not lead to the bundle of trust domain `{0}`")]
    UnknownIssuer(Box<str>),
    /// Its purpose is neither client nor server.
    #[error("the certificate's extended key usage allows neither side of TLS")]
    Purpose,
    /// Anything else that RFC 5280 section 6 asks.
    #[error("the chain does not verify: {0}")]
    Path(String),
}

/// What a verified chain proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Svid {
    /// Who.
    pub id: SpiffeId,
    /// From when.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// The leaf's serial number in hex, as its issuer logs it.
    pub serial: Box<str>,
}

/// One rule of a leaf.
type Rule = fn(&X509Certificate<'_>) -> Result<(), X509Fault>;

/// What the standard asks of a leaf beside its SPIFFE ID (X.509-SVID section 5.2).
const LEAF: &[Rule] = &[not_an_authority, signs_no_certificates];

impl X509Svid {
    /// Judges a chain, leaf first, against the bundle of the trust domain that the leaf names. Pure: no clock, no I/O.
    ///
    /// # Errors
    /// See [`X509Fault`].
    pub fn verify(chain: &[CertificateDer<'_>], bundles: &Bundles, now: Timestamp) -> Result<Self, X509Fault> {
        let svid = Self::read(chain)?;
        let domain = svid.id.trust_domain();
        let bundle = bundles.get(domain).ok_or_else(|| X509Fault::NoBundle(domain.into()))?;
        let anchors = bundle.anchors(now);
        if anchors.is_empty() {
            return Err(X509Fault::NoAuthority(domain.into()));
        }
        let [leaf, signers @ ..] = chain else { return Err(X509Fault::Empty) };
        for (at, signer) in signers.iter().enumerate() {
            signs_for(signer, at + 2, domain)?;
        }
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| sort(&error, domain))?;
        let algorithms = crate::tls::provider().signature_verification_algorithms.all;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default()));
        // An SVID with an extended key usage carries both sides of TLS (X.509-SVID section 4.4); asking for one is enough to tell it
        // from a certificate that was issued for something else.
        let verified = leaf.verify_for_usage(algorithms, &anchors, signers, time, KeyUsage::client_auth(), None, None);
        verified.map_err(|error| sort(&error, domain))?;
        Ok(svid)
    }

    /// What the leaf says, before anybody vouches for it.
    pub(super) fn read(chain: &[CertificateDer<'_>]) -> Result<Self, X509Fault> {
        let leaf = chain.first().ok_or(X509Fault::Empty)?;
        if chain.len() > MAX_CHAIN || chain.iter().map(|der| der.len()).sum::<usize>() > MAX_BYTES {
            return Err(X509Fault::Size);
        }
        let leaf = parse(leaf, 1)?;
        let id = SpiffeId::parse(the_uri(&leaf)?).map_err(X509Fault::Id)?;
        LEAF.iter().try_for_each(|rule| rule(&leaf))?;
        let date = |at: i64| Timestamp::from_second(at).map_err(|_| X509Fault::Extension("validity"));
        let validity = leaf.validity();
        let (not_before, not_after) = (date(validity.not_before.timestamp())?, date(validity.not_after.timestamp())?);
        let serial = leaf.raw_serial().iter().fold(String::new(), |mut text, byte| {
            let _written = write!(text, "{byte:02x}");
            text
        });
        let serial = serial.into_boxed_str();
        Ok(Self { id, not_before, not_after, serial })
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>, number: usize) -> Result<X509Certificate<'a>, X509Fault> {
    match X509Certificate::from_der(der) {
        Ok((&[], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(X509Fault::Der(number)),
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, X509Fault> {
    let bad = X509Fault::Extension("subject alternative names");
    let names = certificate.subject_alternative_name().map_err(|_| bad.clone())?;
    let mut found = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        if let GeneralName::URI(uri) = name {
            found.push(*uri);
        } else if let GeneralName::Invalid(..) = name {
            return Err(bad);
        }
    }
    Ok(found)
}

fn the_uri<'a>(leaf: &'a X509Certificate<'_>) -> Result<&'a str, X509Fault> {
    match uris(leaf)?.as_slice() {
        [] => Err(X509Fault::NoUri),
        [one] => Ok(one),
        many => Err(X509Fault::ManyUris(many.len())),
    }
}

fn not_an_authority(leaf: &X509Certificate<'_>) -> Result<(), X509Fault> {
    let constraints = leaf.basic_constraints().map_err(|_| X509Fault::Extension("basic constraints"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) { Err(X509Fault::Authority) } else { Ok(()) }
}

fn signs_no_certificates(leaf: &X509Certificate<'_>) -> Result<(), X509Fault> {
    let usage = leaf.key_usage().map_err(|_| X509Fault::Extension("key usage"))?.ok_or(X509Fault::NoSignature)?.value;
    if usage.key_cert_sign() {
        return Err(X509Fault::Signs("keyCertSign"));
    }
    if usage.crl_sign() {
        return Err(X509Fault::Signs("cRLSign"));
    }
    if usage.digital_signature() { Ok(()) } else { Err(X509Fault::NoSignature) }
}

/// A signing certificate needs no SPIFFE ID; one that has it must name this trust domain and no workload (X.509-SVID section 4.1).
fn signs_for(der: &CertificateDer<'_>, number: usize, trust_domain: &str) -> Result<(), X509Fault> {
    let signer = parse(der, number)?;
    for uri in uris(&signer)? {
        if uri.strip_prefix("spiffe://").is_some_and(|named| named != trust_domain) {
            return Err(X509Fault::ForeignSigner { number, id: uri.into(), trust_domain: trust_domain.into() });
        }
    }
    Ok(())
}

fn sort(error: &webpki::Error, trust_domain: &str) -> X509Fault {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, growing list: what has no word of its own is shown in its own words")]
    match error {
        webpki::Error::CertExpired { .. } => X509Fault::Expired,
        webpki::Error::CertNotValidYet { .. } => X509Fault::NotYet,
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => X509Fault::UnknownIssuer(trust_domain.into()),
        webpki::Error::RequiredEkuNotFoundContext(_) => X509Fault::Purpose,
        other => X509Fault::Path(format!("{other:?}")),
    }
}
