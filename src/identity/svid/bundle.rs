//! `Bundle`: what one trust domain vouches with; `Bundles`: all that are trusted now.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde_json::{Map, Value};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::clock::Timestamp;
use crate::identity::spiffe_id::is_trust_domain;
use crate::jose::ForeignKey;

/// Largest bundle that is looked at, in bytes.
const MAX_BUNDLE: usize = 1 << 20;
/// Most keys or certificates of one bundle.
const MAX_KEYS: usize = 256;

/// Why a bundle is not taken. The former one stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleFault {
    /// Its name is none.
    #[error("`{0}` is no trust domain")]
    TrustDomain(Box<str>),
    /// Over the bounds.
    #[error("the bundle is too large: at most 1 MiB and 256 keys are read")]
    Size,
    /// Not JSON with `keys`.
    #[error("the bundle is no JSON object with `keys`")]
    Form,
    /// An entry that cannot be read.
    #[error("key {number} of the bundle cannot be used: {why}")]
    Entry {
        /// Its place, from 1.
        number: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Two JWT keys of one `kid`.
    #[error("two keys of the bundle have the kid `{0}`")]
    TwiceKid(Box<str>),
    /// DER that is no list of certificates.
    #[error("certificate {0} of the list is no DER certificate")]
    Der(usize),
    /// A certificate that may not sign others.
    #[error("certificate {0} of the bundle is no authority: its basic constraints do not say cA")]
    NoAuthority(usize),
}

/// A certificate that vouches for a trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    der: Arc<[u8]>,
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

/// What one trust domain vouches with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: Arc<str>,
    pub(super) authorities: Vec<Authority>,
    pub(super) jwt_keys: Vec<ForeignKey>,
    /// How often to ask again where it was asked for, as its issuer wishes.
    pub refresh_hint: Option<Duration>,
    /// Counts up with each change, where its issuer counts.
    pub sequence: Option<u64>,
}

impl Bundle {
    /// A bundle that vouches for nothing.
    ///
    /// # Errors
    /// The name is no trust domain.
    pub fn empty(trust_domain: &str) -> Result<Self, BundleFault> {
        if !is_trust_domain(trust_domain) {
            return Err(BundleFault::TrustDomain(trust_domain.into()));
        }
        Ok(Self { trust_domain: trust_domain.into(), authorities: Vec::new(), jwt_keys: Vec::new(), refresh_hint: None, sequence: None })
    }

    /// From a SPIFFE bundle in JSON (SPIFFE Trust Domain and Bundle, section 4). The trust domain's name is the caller's: nothing inside
    /// chooses it. Entries of another `use` are passed over, as the standard asks; a malformed entry of ours spoils the whole bundle.
    ///
    /// # Errors
    /// See [`BundleFault`].
    pub fn parse(trust_domain: &str, json: &[u8]) -> Result<Self, BundleFault> {
        let mut bundle = Self::empty(trust_domain)?;
        if json.len() > MAX_BUNDLE {
            return Err(BundleFault::Size);
        }
        let document: Value = serde_json::from_slice(json).map_err(|_| BundleFault::Form)?;
        let keys = document.get("keys").and_then(Value::as_array).ok_or(BundleFault::Form)?;
        if keys.len() > MAX_KEYS {
            return Err(BundleFault::Size);
        }
        for (at, key) in keys.iter().enumerate() {
            let number = at + 1;
            let entry = |why| BundleFault::Entry { number, why };
            let key = key.as_object().ok_or(entry("it is no object"))?;
            match key.get("use").and_then(Value::as_str) {
                Some("x509-svid") => bundle.authorities.push(authority(&x5c(key).map_err(entry)?, number)?),
                Some("jwt-svid") => bundle.add_jwt_key(key, number)?,
                Some(_) | None => {}
            }
        }
        bundle.refresh_hint = document.get("spiffe_refresh_hint").and_then(Value::as_u64).map(Duration::from_secs);
        bundle.sequence = document.get("spiffe_sequence").and_then(Value::as_u64);
        Ok(bundle)
    }

    /// From concatenated DER certificates, as the Workload API gives them.
    ///
    /// # Errors
    /// See [`BundleFault`].
    pub fn from_der_list(trust_domain: &str, list: &[u8]) -> Result<Self, BundleFault> {
        let mut bundle = Self::empty(trust_domain)?;
        for (at, der) in certificates(list)?.iter().enumerate() {
            bundle.authorities.push(authority(der, at + 1)?);
        }
        Ok(bundle)
    }

    /// From a plain JWK Set of JWT keys, as the Workload API gives it (section 6.2.3): an entry may leave `use` out.
    ///
    /// # Errors
    /// See [`BundleFault`].
    pub fn from_jwk_set(trust_domain: &str, json: &[u8]) -> Result<Self, BundleFault> {
        let mut bundle = Self::empty(trust_domain)?;
        if json.len() > MAX_BUNDLE {
            return Err(BundleFault::Size);
        }
        let document: Value = serde_json::from_slice(json).map_err(|_| BundleFault::Form)?;
        let keys = document.get("keys").and_then(Value::as_array).ok_or(BundleFault::Form)?;
        if keys.len() > MAX_KEYS {
            return Err(BundleFault::Size);
        }
        for (at, key) in keys.iter().enumerate() {
            let key = key.as_object().ok_or(BundleFault::Entry { number: at + 1, why: "it is no object" })?;
            if key.get("use").and_then(Value::as_str).is_none_or(|usage| usage == "jwt-svid") {
                bundle.add_jwt_key(key, at + 1)?;
            }
        }
        Ok(bundle)
    }

    fn add_jwt_key(&mut self, key: &Map<String, Value>, number: usize) -> Result<(), BundleFault> {
        let entry = |why| BundleFault::Entry { number, why };
        let read = ForeignKey::from_jwk(key).map_err(|_| entry("the numbers of its key are malformed"))?;
        let key = read.ok_or(entry("it is neither an RSA nor a P-256, P-384 or P-521 key"))?;
        if key.kid.is_empty() {
            return Err(entry("a JWT key needs a `kid`"));
        }
        if self.jwt_keys.iter().any(|known| known.kid == key.kid) {
            return Err(BundleFault::TwiceKid(key.kid.as_ref().into()));
        }
        self.jwt_keys.push(key);
        Ok(())
    }

    /// The same trust domain's X.509 authorities from one bundle, its JWT keys from another.
    #[must_use]
    pub fn joined(x509: &Self, jwt: &Self) -> Self {
        Self { jwt_keys: jwt.jwt_keys.clone(), ..x509.clone() }
    }

    /// Whom it is of.
    #[must_use]
    pub const fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    /// Its X.509 authorities in DER.
    #[must_use]
    pub fn x509_authorities(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.authorities.iter().map(|authority| &*authority.der)
    }

    /// Its JWT keys.
    #[must_use]
    pub fn jwt_keys(&self) -> &[ForeignKey] {
        &self.jwt_keys
    }

    /// The X.509 authorities that vouch at this time: one that is over vouches for nobody.
    pub(super) fn anchors(&self, now: Timestamp) -> Vec<TrustAnchor<'static>> {
        let now = now.as_second();
        self.authorities.iter().filter(|own| own.not_before <= now && now <= own.not_after).map(|own| own.anchor.clone()).collect()
    }
}

/// The bundles that are trusted now, by trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles(FxHashMap<Arc<str>, Arc<Bundle>>);

impl Bundles {
    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &str) -> Option<&Arc<Bundle>> {
        self.0.get(trust_domain)
    }

    /// Trusts one more, or another one of the same trust domain.
    pub fn insert(&mut self, bundle: Bundle) {
        self.0.insert(Arc::clone(&bundle.trust_domain), Arc::new(bundle));
    }

    /// These X.509 authorities with the JWT keys of the others, by trust domain.
    #[must_use]
    pub fn joined(x509: &Self, jwt: &Self) -> Self {
        let mut all = jwt.clone();
        for name in x509.trust_domains() {
            let Some(authorities) = x509.get(name) else { continue };
            let joined = jwt.get(name).map_or_else(|| (**authorities).clone(), |keys| Bundle::joined(authorities, keys));
            all.insert(joined);
        }
        all
    }

    /// Without JWT keys.
    #[must_use]
    pub fn x509_only(&self) -> Self {
        let all = self.0.values().filter(|bundle| !bundle.authorities.is_empty());
        all.map(|bundle| Bundle { jwt_keys: Vec::new(), ..(**bundle).clone() }).collect()
    }

    /// Without X.509 authorities.
    #[must_use]
    pub fn jwt_only(&self) -> Self {
        let all = self.0.values().filter(|bundle| !bundle.jwt_keys.is_empty());
        all.map(|bundle| Bundle { authorities: Vec::new(), ..(**bundle).clone() }).collect()
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The trust domains, in order.
    #[must_use]
    pub fn trust_domains(&self) -> Vec<&Arc<str>> {
        let mut names: Vec<_> = self.0.keys().collect();
        names.sort_unstable();
        names
    }
}

impl FromIterator<Bundle> for Bundles {
    fn from_iter<T: IntoIterator<Item = Bundle>>(bundles: T) -> Self {
        let mut all = Self::default();
        bundles.into_iter().for_each(|bundle| all.insert(bundle));
        all
    }
}

/// The single certificates of concatenated DER.
///
/// # Errors
/// [`BundleFault::Der`] or [`BundleFault::Size`].
pub(in crate::identity) fn certificates(mut list: &[u8]) -> Result<Vec<CertificateDer<'static>>, BundleFault> {
    if list.len() > MAX_BUNDLE {
        return Err(BundleFault::Size);
    }
    let mut found = Vec::new();
    while !list.is_empty() {
        let (rest, certificate) = X509Certificate::from_der(list).map_err(|_| BundleFault::Der(found.len() + 1))?;
        found.push(CertificateDer::from(certificate.as_raw().to_vec()));
        if found.len() > MAX_KEYS {
            return Err(BundleFault::Size);
        }
        list = rest;
    }
    Ok(found)
}

fn x5c(key: &Map<String, Value>) -> Result<Vec<u8>, &'static str> {
    match key.get("x5c").and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::String(one)]) => STANDARD.decode(one).map_err(|_| "its `x5c` is not base64"),
        Some(_) | None => Err("an `x509-svid` key has an `x5c` of exactly one certificate"),
    }
}

fn authority(der: &[u8], number: usize) -> Result<Authority, BundleFault> {
    let bad = BundleFault::Der(number);
    let Ok((&[], certificate)) = X509Certificate::from_der(der) else { return Err(bad) };
    if !certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca) {
        return Err(BundleFault::NoAuthority(number));
    }
    let validity = certificate.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let der = CertificateDer::from_slice(der);
    let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|_| bad)?.to_owned();
    Ok(Authority { der: der.as_ref().into(), anchor, not_before, not_after })
}
