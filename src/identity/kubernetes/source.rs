//! `Kubernetes`: asks for the token, verifies it once, and knows it again by its keyed digest.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustc_hash::FxHashMap;

use super::config::KubernetesSpec;
use super::issuer::{Issuer, Issuers, KeySet};
use super::mounted::TokenFile;
use super::presented;
use super::token::{Demands, ServiceAccount, TokenRefused};
use crate::clock::Timestamp;
use crate::identity::{Attestation, Caller, Identified, IdentitySource, SpiffeId, Workload};
use crate::jose::TokenFault;
use crate::secret::FingerprintKey;

/// Most tokens that one thread knows again; a full memory is emptied and fills by verifying.
const MOST: usize = 1_024;

/// A token that was verified. The token itself is not kept.
struct Known {
    workload: Arc<Workload>,
    expires: Timestamp,
    /// Verified with these: keys that the issuer withdraws take with them what they signed.
    keys: KeySet,
}

thread_local! {
    /// By source and keyed digest of the token. A request never waits for another thread, and no thread for a signature twice.
    static KNOWN: RefCell<FxHashMap<(u64, [u8; 32]), Known>> = RefCell::default();
}

/// Service accounts by token.
pub struct Kubernetes {
    name: Arc<str>,
    number: u64,
    trust_domain: Arc<str>,
    demands: Demands,
    issuer: Arc<Issuer>,
    mounted: Option<Arc<TokenFile>>,
    digests: FingerprintKey,
}

impl Kubernetes {
    /// Under the identity's name in the configuration.
    pub(in crate::identity) fn new(name: Arc<str>, spec: &KubernetesSpec, issuers: &Issuers) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Self {
            name,
            number: NUMBER.fetch_add(1, Relaxed),
            trust_domain: Arc::clone(&spec.trust_domain),
            demands: spec.demands.clone(),
            issuer: issuers.issuer(&spec.keys),
            mounted: spec.token_file.as_deref().map(|path| issuers.token_file(path)),
            digests: FingerprintKey::ephemeral(),
        }
    }

    fn judge(&self, token: &[u8], now: Timestamp) -> Identified {
        let Some(keys) = self.issuer.keys(now) else {
            if self.issuer.ask() {
                return Identified::Unsettled;
            }
            let why = self.issuer.failure().unwrap_or_else(|| "its keys are being fetched".into());
            return Identified::NotReady(format!("{why}; no token can be verified"));
        };
        let key = (self.number, self.digests.digest(token));
        if let Some(workload) = known(&key, &keys, now) {
            return Identified::Attested(workload);
        }
        match ServiceAccount::verify(token, &keys, &self.demands, now) {
            Ok(account) => self.attest(account, key, Arc::clone(&keys)),
            // A key that is not known may be new.
            Err(TokenRefused::Token(TokenFault::UnknownKey)) if self.issuer.ask() => Identified::Unsettled,
            Err(why) => Identified::Rejected(why.to_string()),
        }
    }

    fn attest(&self, account: ServiceAccount, key: (u64, [u8; 32]), keys: KeySet) -> Identified {
        let id = match SpiffeId::parse(&format!("spiffe://{}/ns/{}/sa/{}", self.trust_domain, account.namespace, account.name)) {
            Ok(id) => id,
            Err(why) => return Identified::Rejected(format!("its namespace and name make no SPIFFE ID: {why}")),
        };
        let account = ServiceAccount { presented: self.mounted.is_none(), ..account };
        let expires = account.expires;
        let workload = Arc::new(Workload { id, attestation: Attestation::Kubernetes(Arc::new(account)) });
        let entry = Known { workload: Arc::clone(&workload), expires, keys };
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(key, entry);
        });
        Identified::Attested(workload)
    }
}

fn known(key: &(u64, [u8; 32]), keys: &KeySet, now: Timestamp) -> Option<Arc<Workload>> {
    KNOWN.with_borrow_mut(|known| {
        let entry = known.get(key)?;
        if now < entry.expires && Arc::ptr_eq(&entry.keys, keys) {
            return Some(Arc::clone(&entry.workload));
        }
        known.remove(key);
        None
    })
}

impl IdentitySource for Kubernetes {
    fn name(&self) -> &str {
        &self.name
    }

    fn challenges(&self) -> bool {
        self.mounted.is_none()
    }

    fn identify(&self, caller: &Caller<'_>) -> Identified {
        let Some(file) = &self.mounted else {
            return presented::with_token(caller, |token| self.judge(token, caller.now))
                .unwrap_or_else(|why| Identified::Rejected(why.to_owned()));
        };
        match file.token() {
            Some(token) => self.judge(token.expose(), caller.now),
            None if !file.is_read() => Identified::Unsettled,
            None => Identified::NotReady(file.failure().unwrap_or_default().to_string()),
        }
    }

    fn settle<'a>(&'a self, _caller: &Caller<'a>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async {
            if let Some(file) = &self.mounted {
                file.was_read().await;
            }
            self.issuer.answered().await;
        })
    }
}
