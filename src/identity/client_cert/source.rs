//! `ClientCert`: asks the certificate again for each request, and its signatures now and then.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustls_pki_types::CertificateDer;

use crate::capture::Sha256;
use crate::clock::Timestamp;
use crate::identity::pod::Pod;
use crate::identity::svid::{Bundles, X509Svid};
use crate::identity::{Attestation, Caller, Identified, IdentitySource, Workload};

/// Most chains that one thread knows again; a full memory is emptied and fills by verifying.
const MOST: usize = 1_024;
/// A verdict is used for this long: then the whole chain is judged again, with every date in it.
const AGAIN: Duration = Duration::from_mins(1);

/// The certificate that proved a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Of its DER form: what an issuer's log can be asked for.
    pub sha256: Sha256,
    /// Until when it is valid.
    pub expires: Timestamp,
    /// As it was shown, leaf first: judged again before each attempt.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
}

/// A chain that was judged.
struct Known {
    workload: Arc<Workload>,
    until: Timestamp,
    /// By these; others judge again.
    bundles: Arc<Bundles>,
    /// Held so that no other chain can take its address.
    _chain: Arc<[CertificateDer<'static>]>,
}

/// Who vouches for the callers.
enum Vouching {
    Given(Arc<Bundles>),
    Followed(Arc<Pod>),
}

thread_local! {
    /// By source and the chain's address: a connection has one.
    static KNOWN: RefCell<FxHashMap<(u64, usize), Known>> = RefCell::default();
}

/// Workloads by X.509-SVID.
pub struct ClientCert {
    name: Arc<str>,
    number: u64,
    vouching: Vouching,
}

impl fmt::Debug for ClientCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCert").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ClientCert {
    /// Under the identity's name in the configuration. Another set of bundles is another source: its verdicts are its own.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, bundles: Arc<Bundles>) -> Self {
        Self::by(name.into(), Vouching::Given(bundles))
    }

    /// Trusts whom the Workload API says, from one request to the next.
    #[must_use]
    pub fn following(name: impl Into<Arc<str>>, pod: Arc<Pod>) -> Self {
        Self::by(name.into(), Vouching::Followed(pod))
    }

    fn by(name: Arc<str>, vouching: Vouching) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Self { name, number: NUMBER.fetch_add(1, Relaxed), vouching }
    }

    /// Who vouches now; the verdict on every caller where nobody does.
    fn bundles(&self) -> Result<Arc<Bundles>, Identified> {
        match &self.vouching {
            Vouching::Given(bundles) => Ok(Arc::clone(bundles)),
            Vouching::Followed(pod) => pod.trusted(),
        }
    }

    fn judge(&self, chain: &Arc<[CertificateDer<'static>]>, now: Timestamp) -> Identified {
        let bundles = match self.bundles() {
            Ok(bundles) => bundles,
            Err(nobody) => return nobody,
        };
        let key = (self.number, chain.as_ptr() as usize);
        let known = KNOWN.with_borrow_mut(|known| {
            let entry = known.get(&key)?;
            if now < entry.until && Arc::ptr_eq(&entry.bundles, &bundles) {
                return Some(Arc::clone(&entry.workload));
            }
            known.remove(&key);
            None
        });
        if let Some(workload) = known {
            return Identified::Attested(workload);
        }
        let svid = match X509Svid::verify(chain, &bundles, now) {
            Ok(svid) => svid,
            Err(why) => return Identified::Rejected(why.to_string()),
        };
        let until = svid.not_after.min(now + AGAIN);
        let sha256 = Sha256::of(chain.first().map_or(&[], |leaf| leaf.as_ref()));
        let attestation = Attestation::ClientCert(Arc::new(Certificate { sha256, expires: svid.not_after, chain: Arc::clone(chain) }));
        let workload = Arc::new(Workload { id: svid.id, attestation });
        let entry = Known { workload: Arc::clone(&workload), until, bundles, _chain: Arc::clone(chain) };
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(key, entry);
        });
        Identified::Attested(workload)
    }
}

impl IdentitySource for ClientCert {
    fn name(&self) -> &str {
        &self.name
    }

    fn admits(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<Result<(), String>> {
        let bundles = match self.bundles() {
            Ok(bundles) => bundles,
            Err(Identified::Rejected(why) | Identified::NotReady(why)) => return Some(Err(why)),
            Err(Identified::Attested(_) | Identified::NotApplicable | Identified::Unsettled) => return None,
        };
        Some(X509Svid::verify(chain, &bundles, now).map(drop).map_err(|why| why.to_string()))
    }

    fn identify(&self, caller: &Caller<'_>) -> Identified {
        match &caller.arrival.certificates {
            Some(chain) => self.judge(chain, caller.now),
            // The configuration lets it stand at TLS listeners alone, and those ask for a certificate.
            None => Identified::NotApplicable,
        }
    }

    fn still_attests(&self, workload: &Workload, now: Timestamp) -> bool {
        let Attestation::ClientCert(certificate) = &workload.attestation else { return false };
        matches!(self.judge(&certificate.chain, now), Identified::Attested(still) if still.id == workload.id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};

    use super::*;
    use crate::identity::svid::Bundle;

    fn params(uri: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params
    }

    /// A source that trusts one authority, and a chain of it that is good from 1970-01-02 to 1970-01-03.
    fn trusted() -> (ClientCert, Arc<[CertificateDer<'static>]>) {
        let mut authority = params("spiffe://t.example");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.not_before = rcgen::date_time_ymd(1970, 1, 1);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let mut leaf = params("spiffe://t.example/app");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(1970, 1, 2), rcgen::date_time_ymd(1970, 1, 3));
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap();
        let bundle = Bundle::from_der_list("t.example", authority.der()).unwrap();
        (ClientCert::new("mesh", Arc::new(std::iter::once(bundle).collect())), vec![leaf.der().clone()].into())
    }

    #[test]
    fn a_certificate_that_was_good_a_moment_ago_is_judged_again() {
        let (source, chain) = trusted();
        let day = Timestamp::UNIX_EPOCH + Duration::from_hours(24);
        let (good, over) = (day + Duration::from_hours(23), day + Duration::from_hours(24) + Duration::from_secs(1));
        let Identified::Attested(workload) = source.judge(&chain, good) else { panic!("it is good") };
        let Identified::Attested(again) = source.judge(&chain, good) else { panic!("it is good") };
        assert!(Arc::ptr_eq(&workload, &again), "known");
        assert!(source.still_attests(&workload, good));
        let Identified::Rejected(why) = source.judge(&chain, over) else { panic!("it has ended") };
        assert_eq!(why, "the certificate has expired");
        assert!(!source.still_attests(&workload, over));
        let (stranger, _) = trusted();
        assert!(!stranger.still_attests(&workload, good), "another authority of the same trust domain vouches for nobody of this one");
    }
}
