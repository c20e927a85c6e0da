//! `Issuer`: the keys of a cluster, fetched, kept and fetched again; `Issuers`: all of them, kept over reloads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, HeaderValue};
use http::{Request, Response, Uri};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::mounted::TokenFile;
use crate::clock::{Clock, Timestamp};
use crate::jose::{ForeignKey, JoseError, parse_foreign_keys};
use crate::outcall::{Outcall, Terms};
use crate::tls::Trust;

/// Keys are asked for again when they are older than this, by the request that finds them so, which does not wait.
const REFRESH: i64 = 300;
/// An unknown `kid`, and a failure, are followed by no other question for this long: tokens cost nothing to make up.
const PAUSE: Duration = Duration::from_secs(5);
/// How long keys are good without word from the issuer, where it says nothing (`Cache-Control: max-age`); and what is heard of that.
const GOOD_FOR: i64 = 3_600;
const GOOD_AT_LEAST: i64 = 600;
const GOOD_AT_MOST: i64 = 86_400;
/// Longest wait of a request for keys.
const WAIT: Duration = Duration::from_secs(5);

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeysFrom {
    /// In the configuration's own files: read again with it.
    File(Arc<[ForeignKey]>),
    /// Where `ISSUER/.well-known/openid-configuration` says (`OpenID` Connect Discovery 1.0 section 4).
    Discovery,
    /// Here.
    Url(Arc<str>),
}

/// How an issuer's keys are had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySource {
    pub(super) issuer: Arc<str>,
    pub(super) from: KeysFrom,
    /// Who vouches for the server.
    pub(super) trust: Trust,
    /// What exeat shows to the issuer itself.
    pub(super) token_file: Option<PathBuf>,
}

/// Keys that were fetched, in one value: what was verified with another is verified again.
pub(super) type KeySet = Arc<[ForeignKey]>;

struct Trying {
    running: bool,
    last: Option<Instant>,
    failure: Option<Arc<str>>,
}

/// The keys of one cluster.
pub(super) struct Issuer {
    source: KeySource,
    keys: ArcSwap<KeySet>,
    /// Seconds of the epoch: when they were fetched, and until when they are good.
    fetched: AtomicI64,
    good_until: AtomicI64,
    /// Before this nobody needs to look whether it is time to ask: a request takes no lock while an issuer is silent.
    ask_from: AtomicI64,
    trying: Mutex<Trying>,
    tried: watch::Sender<u64>,
    outcall: Arc<Outcall>,
    clock: Arc<dyn Clock>,
    household: Handle,
}

/// All issuers, and the tokens that are mounted beside exeat. They outlive a reload, so that none forgets what it knows.
pub struct Issuers {
    outcall: Arc<Outcall>,
    clock: Arc<dyn Clock>,
    household: Handle,
    known: Mutex<Vec<Weak<Issuer>>>,
    files: Mutex<Vec<Weak<TokenFile>>>,
}

impl Issuers {
    /// None yet. Keys and files are read on the household's runtime.
    #[must_use]
    pub fn new(outcall: Arc<Outcall>, clock: Arc<dyn Clock>, household: Handle) -> Self {
        Self { outcall, clock, household, known: Mutex::default(), files: Mutex::default() }
    }

    /// The issuer of this source; a new one is asked for its keys at once.
    pub(super) fn issuer(&self, source: &KeySource) -> Arc<Issuer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.strong_count() > 0);
        if let Some(one) = known.iter().filter_map(Weak::upgrade).find(|one| one.source == *source) {
            return one;
        }
        let (keys, good) = match &source.from {
            KeysFrom::File(keys) => (Arc::clone(keys), i64::MAX),
            KeysFrom::Discovery | KeysFrom::Url(_) => (KeySet::default(), 0),
        };
        let issuer = Arc::new(Issuer {
            source: source.clone(),
            keys: ArcSwap::from_pointee(keys),
            fetched: AtomicI64::new(good),
            good_until: AtomicI64::new(good),
            ask_from: AtomicI64::new(0),
            trying: Mutex::new(Trying { running: false, last: None, failure: None }),
            tried: watch::Sender::new(0),
            outcall: Arc::clone(&self.outcall),
            clock: Arc::clone(&self.clock),
            household: self.household.clone(),
        });
        issuer.ask();
        known.push(Arc::downgrade(&issuer));
        issuer
    }

    /// The token that is mounted at this path, read again as the kubelet renews it.
    pub(super) fn token_file(&self, path: &std::path::Path) -> Arc<TokenFile> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|one| one.strong_count() > 0);
        if let Some(one) = files.iter().filter_map(Weak::upgrade).find(|one| one.path() == path) {
            return one;
        }
        let file = TokenFile::open(path.to_owned(), &self.household);
        files.push(Arc::downgrade(&file));
        file
    }

    /// What somebody should look at: issuers whose newest answer was none, mounted tokens that cannot be read.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let known: Vec<_> = self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        let files: Vec<_> = self.files.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        let failures: Vec<_> = known.iter().filter_map(|one| one.failure()).chain(files.iter().filter_map(|file| file.failure())).collect();
        (!failures.is_empty()).then(|| failures.join("; "))
    }
}

impl Issuer {
    /// The keys that are good now. Whoever finds them old asks for new ones and does not wait.
    pub(super) fn keys(self: &Arc<Self>, now: Timestamp) -> Option<arc_swap::Guard<Arc<KeySet>>> {
        let now = now.as_second();
        if now.saturating_sub(self.fetched.load(Relaxed)) >= REFRESH && now >= self.ask_from.load(Relaxed) {
            self.ask();
        }
        (now < self.good_until.load(Relaxed)).then(|| self.keys.load())
    }

    /// Asks the issuer, unless it was asked just now. Whether an answer is on its way.
    pub(super) fn ask(self: &Arc<Self>) -> bool {
        if matches!(self.source.from, KeysFrom::File(_)) {
            return false;
        }
        let mut trying = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.instant();
        if trying.running {
            return true;
        }
        if trying.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return false;
        }
        (trying.running, trying.last) = (true, Some(now));
        self.ask_from.store(self.clock.now().as_second().saturating_add(1 + PAUSE.as_secs().cast_signed()), Relaxed);
        drop(trying);
        let issuer = Arc::clone(self);
        self.household.spawn(async move { issuer.fetch().await });
        true
    }

    /// Waits for the answer that is on its way, if one is.
    pub(super) async fn answered(&self) {
        let mut tried = self.tried.subscribe();
        if !self.trying.lock().unwrap_or_else(PoisonError::into_inner).running {
            return;
        }
        // Late or gone: the question is put again either way.
        let _either = tokio::time::timeout(WAIT, tried.changed()).await;
    }

    /// Why the newest question brought nothing.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.trying.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }

    async fn fetch(&self) {
        let outcome = self.download().await;
        let failure = match outcome {
            Ok((keys, good_for)) => {
                let now = self.clock.now().as_second();
                if **self.keys.load() != keys {
                    tracing::info!(issuer = %self.source.issuer, keys = keys.len(), "the issuer's keys were fetched");
                    self.keys.store(Arc::new(keys));
                }
                self.fetched.store(now, Relaxed);
                self.good_until.store(now.saturating_add(good_for), Relaxed);
                None
            }
            Err(why) => {
                tracing::warn!(issuer = %self.source.issuer, error = %why, "the issuer's keys cannot be fetched; those that are known stay until their time");
                Some(format!("the keys of issuer `{}` cannot be fetched: {why}", self.source.issuer).into())
            }
        };
        let mut trying = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
        (trying.running, trying.failure) = (false, failure);
        drop(trying);
        self.tried.send_modify(|count| *count += 1);
    }

    async fn download(&self) -> Result<(KeySet, i64), String> {
        let token = match &self.source.token_file {
            Some(path) => Some(read_token(path).await?),
            None => None,
        };
        let issuer = self.source.issuer.trim_end_matches('/');
        let (url, own) = match &self.source.from {
            KeysFrom::Url(url) => (url.to_string(), true),
            KeysFrom::Discovery | KeysFrom::File(_) => {
                let place = format!("{issuer}/.well-known/openid-configuration");
                let document = self.get(&place, token.as_ref()).await?;
                let document: Value = serde_json::from_slice(document.body()).map_err(|_| "the discovery document is not JSON")?;
                if document.get("issuer").and_then(Value::as_str) != Some(&*self.source.issuer) {
                    return Err("the discovery document names another issuer".to_owned());
                }
                let url = document.get("jwks_uri").and_then(Value::as_str).ok_or("the discovery document has no jwks_uri")?;
                if issuer.starts_with("https:") && !url.starts_with("https:") {
                    return Err("the discovery document of an https issuer names keys that are not at https".to_owned());
                }
                // what exeat shows to the issuer is for nobody that the document names
                (url.to_owned(), same_origin(url, &place))
            }
        };
        let answer = self.get(&url, token.as_ref().filter(|_| own)).await?;
        let keys = parse_keys(answer.body())?;
        let keys: KeySet = keys.into_iter().filter(|key| key.usage.as_deref().is_none_or(|usage| usage == "sig")).collect();
        if keys.is_empty() { Err("the issuer lists no key that verifies a token".to_owned()) } else { Ok((keys, good_for(&answer))) }
    }

    async fn get(&self, url: &str, token: Option<&HeaderValue>) -> Result<Response<Bytes>, String> {
        let mut request = Request::get(url).body(Bytes::new()).map_err(|_| "the address of its keys is no URL".to_owned())?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let terms = Terms { trust: self.source.trust.clone(), repeatable: true, ..Terms::default() };
        let answer = self.outcall.call(request, &terms).await.map_err(|error| error.to_string())?;
        match answer.status().as_u16() {
            200 => Ok(answer),
            status @ (401 | 403) => Err(format!(
                "it answers {status}: exeat may not read its keys; give `keys: {{ token_file }}`, or bind system:service-account-issuer-discovery"
            )),
            status => Err(format!("it answers {status}")),
        }
    }
}

/// The keys of a JWK Set, or what is wrong with it.
pub(super) fn parse_keys(set: &[u8]) -> Result<Vec<ForeignKey>, String> {
    parse_foreign_keys(set).map_err(|error| match error {
        JoseError::Key(why) => why.to_owned(),
        JoseError::Crypto(_) | JoseError::Claims | JoseError::Token(_) => error.to_string(),
    })
}

async fn read_token(path: &std::path::Path) -> Result<HeaderValue, String> {
    let token = zeroize::Zeroizing::new(tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))?);
    let mut bearer = zeroize::Zeroizing::new(b"Bearer ".to_vec());
    bearer.extend_from_slice(token.trim_ascii());
    let mut value = HeaderValue::from_bytes(&bearer).map_err(|_| format!("{}: it holds no token", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn same_origin(one: &str, other: &str) -> bool {
    let parts = |text: &str| text.parse::<Uri>().ok().map(|uri| (uri.scheme().cloned(), uri.authority().cloned()));
    parts(one).is_some() && parts(one) == parts(other)
}

/// `Cache-Control: max-age`, within bounds.
fn good_for(answer: &Response<Bytes>) -> i64 {
    let said = answer.headers().get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let age = said.and_then(|said| said.split(',').find_map(|part| part.trim().strip_prefix("max-age=")?.parse::<i64>().ok()));
    age.map_or(GOOD_FOR, |age| age.clamp(GOOD_AT_LEAST, GOOD_AT_MOST))
}
