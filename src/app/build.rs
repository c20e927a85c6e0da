//! From a loaded configuration to the snapshot that serves it: all or nothing.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;
use rustls::ServerConfig;

use crate::catalogue::{Catalogue, Protocol, Roots, Stage, StripOptions, TlsProfile, Upstream, UpstreamIndex};
use crate::clock::Clock;
use crate::config::{Config, ListenerSpec, ListenerTls, Loaded};
use crate::config::{CredentialKind, CredentialSpec, LocalJwt, SigningAlgorithm, Unlisted};
use crate::credentials::providers::{self, JwtSvidProvider, KeyRing, KeyRings, VendorSecret};
use crate::credentials::{CredentialProvider, Definition, Definitions};
use crate::identity::{BrokerIdentity, ClientCert, Identity, IdentitySource, Issuers, Pod, PodIdentity, Pods, Source};
use crate::jose::{Algorithm, SigningKey};
use crate::policy::{self, Ground, PolicySet};
use crate::secret::{FingerprintKey, Secret};
use crate::snapshot::Snapshot;
use crate::strip;
use crate::tls::{ClientJudge, OwnCertificate, Shown, listener_config};
use crate::written::{Diagnostic, Severity};

/// Who may prove to be whom, by listener.
type Sources = FxHashMap<Arc<str>, Arc<[Arc<dyn IdentitySource>]>>;

/// What handshakes ask.
struct Doors {
    /// Who judges a caller's certificate, by listener.
    judges: Sources,
    /// Whose SVID a listener shows.
    shown: FxHashMap<Arc<str>, Arc<Pod>>,
}

/// What a snapshot is built with, besides the configuration.
pub(super) struct Builder {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rings: Arc<KeyRings>,
    pub(super) fingerprints: Arc<FingerprintKey>,
    pub(super) issuers: Arc<Issuers>,
    /// Identities that live on the Workload API: they outlive snapshots.
    pub(super) pods: Arc<Pods>,
}

impl Builder {
    /// The whole configuration as one snapshot.
    ///
    /// # Errors
    /// Every mistake of the policies, and every key or secret that is not there.
    pub(super) fn snapshot(&self, loaded: Loaded, revision: u64) -> Result<Snapshot, Vec<Diagnostic>> {
        let policies = self.policies(&loaded)?;
        self.with_policies(loaded, revision, Ok(policies))
    }

    /// A snapshot that refuses everything with `not_ready`, because its policies are missing or wrong.
    ///
    /// # Errors
    /// Keys and secrets that are not there.
    pub(super) fn not_ready(&self, loaded: Loaded, why: &str) -> Result<Snapshot, Vec<Diagnostic>> {
        self.with_policies(loaded, 0, Err(why.into()))
    }

    /// The rules alone, after the tests that stand beside them.
    ///
    /// # Errors
    /// Every mistake of the policies, and every required test that fails.
    pub(super) fn policies(&self, loaded: &Loaded) -> Result<PolicySet, Vec<Diagnostic>> {
        let profiles = loaded.profiles.iter().map(|profile| (Arc::clone(&profile.name), Arc::clone(profile))).collect();
        let (set, mut told) =
            policy::compile(&loaded.policies, &loaded.catalogue, &profiles, &loaded.config.trust_domain, self.clock.now())?;
        let ground = Ground { set: &set, catalogue: &loaded.catalogue, profiles: &loaded.profiles };
        told.extend(policy::run_beside(&loaded.policy_tests, &ground, &loaded.config.trust_domain));
        let (failed, warnings): (Vec<_>, Vec<_>) = told.into_iter().partition(|told| told.severity == Severity::Error);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if failed.is_empty() { Ok(set) } else { Err(failed) }
    }

    /// A snapshot with rules that are compiled already, or with the reason why there are none.
    ///
    /// # Errors
    /// Keys and secrets that are not there.
    pub(super) fn with_policies(
        &self,
        loaded: Loaded,
        revision: u64,
        policies: Result<PolicySet, Arc<str>>,
    ) -> Result<Snapshot, Vec<Diagnostic>> {
        let (policies, not_ready) = match policies {
            Ok(policies) => (policies, None),
            Err(why) => (PolicySet::default(), Some(why)),
        };
        let unlisted = unlisted(&loaded.config, &loaded.catalogue);
        let rules = |upstream: &Arc<Upstream>| {
            let wrong =
                |error: strip::BadRule| vec![Diagnostic::file_error(format!("upstream `{}`", upstream.name), format!("strip: {error}"))];
            strip::Rules::of(upstream, &loaded.profiles).map_err(wrong)
        };
        let strip = loaded.catalogue.all().iter().chain(&unlisted).map(rules).collect::<Result<Vec<_>, Vec<_>>>()?;
        // last, since a pod that is named no more is let go of
        let definitions = self.definitions(&loaded.config.credentials)?;
        let doors = Arc::new(OnceLock::new());
        let tls = self.tls(&loaded.config, &doors)?;
        let (identities, shown) = self.identities(&loaded.config);
        // Nobody shakes hands with a snapshot that is not published yet.
        doors.get_or_init(|| Doors { judges: identities.clone(), shown });
        Ok(Snapshot { revision, catalogue: loaded.catalogue, strip, identities, tls, policies, definitions, unlisted, not_ready })
    }

    /// What listeners with TLS show. A client's certificate is judged in the handshake by the identities of the listener, and again for
    /// every request.
    fn tls(&self, config: &Config, doors: &Arc<OnceLock<Doors>>) -> Result<FxHashMap<Arc<str>, Arc<ServerConfig>>, Vec<Diagnostic>> {
        let mut all = FxHashMap::default();
        for listener in &config.listeners {
            let Some(tls) = &listener.tls else { continue };
            let wrong = |why: String| vec![Diagnostic::file_error(format!("listener `{}`", listener.name), why)];
            let by_certificate = listener.identities.iter().any(|identity| identity.kind == "client_cert");
            let judge = by_certificate.then(|| self.judge(&listener.name, doors));
            let shown: Shown = match tls {
                ListenerTls::Files { certificate, key } => {
                    let own = OwnCertificate::from_pem(certificate, &read_key(key).map_err(wrong)?);
                    let own = own.map_err(|error| wrong(format!("{error} (key: {})", key.display())))?;
                    Arc::new(move || Some(own.clone()))
                }
                ListenerTls::Svid { .. } => {
                    let (doors, listener) = (Arc::clone(doors), Arc::clone(&listener.name));
                    Arc::new(move || {
                        let standing = doors.get()?.shown.get(&listener)?.standing();
                        standing.svid.as_ref().map(|svid| svid.certificate.clone())
                    })
                }
            };
            let config = listener_config(shown, judge).map_err(|error| wrong(error.to_string()))?;
            all.insert(Arc::clone(&listener.name), config);
        }
        Ok(all)
    }

    fn judge(&self, listener: &Arc<str>, doors: &Arc<OnceLock<Doors>>) -> ClientJudge {
        let (clock, doors, listener) = (Arc::clone(&self.clock), Arc::clone(doors), Arc::clone(listener));
        Arc::new(move |chain| {
            let sources = doors.get().and_then(|doors| doors.judges.get(&listener)).map(AsRef::as_ref).unwrap_or_default();
            let said = sources.iter().find_map(|source| source.admits(chain, clock.now()));
            said.unwrap_or_else(|| Err("no identity of this listener takes certificates".to_owned()))
        })
    }

    /// In two steps, so that a configuration that is not taken leaves the key rings as they are.
    fn definitions(&self, specs: &[CredentialSpec]) -> Result<Definitions, Vec<Diagnostic>> {
        let (mut ready, mut wrong) = (Vec::new(), Vec::new());
        for spec in specs {
            match self.prepare(spec) {
                Ok(issuer) => ready.push((spec, issuer)),
                Err(why) => wrong.push(Diagnostic::file_error(format!("credential `{}`", spec.profile.name), why)),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let define = |(spec, issuer): (&CredentialSpec, Prepared)| {
            let name = Arc::clone(&spec.profile.name);
            self.definition(spec, issuer).map_err(|why| vec![Diagnostic::file_error(format!("credential `{name}`"), why)])
        };
        ready.into_iter().map(define).collect::<Result<Vec<_>, _>>().map(Definitions::new)
    }

    fn prepare(&self, spec: &CredentialSpec) -> Result<Prepared, String> {
        match &spec.kind {
            CredentialKind::LocalJwt(jwt) => self.ring(jwt),
            CredentialKind::JwtSvid => Ok(Prepared::JwtSvid),
            CredentialKind::Secret { source } => {
                if let Some(path) = source.file().map_err(|error| error.to_string())? {
                    Ok(Prepared::Secret(format!("file:{}", path.display()), providers::SecretSource::File(path)))
                } else {
                    let secret = source.read().map_err(|error| error.to_string())?;
                    // Another value is another credential: what was issued from the former goes out of use with the reload.
                    let shape = format!("{source} {}", secret.fingerprint(&self.fingerprints));
                    Ok(Prepared::Secret(shape, providers::SecretSource::Given(secret)))
                }
            }
        }
    }

    /// Who may prove to be whom, and whose SVID is shown, by listener. A pod that was there before is the same one; one that is named no
    /// more is let go of.
    fn identities(&self, config: &Config) -> (Sources, FxHashMap<Arc<str>, Arc<Pod>>) {
        let (mut named, mut brokers) = (Vec::new(), Vec::new());
        let mut source = |identity: &Identity| -> Arc<dyn IdentitySource> {
            match &identity.source {
                Source::Ready(source) => Arc::clone(source),
                Source::Kubernetes(spec) => spec.source(&identity.name, &self.issuers),
                Source::Pod(settings) => {
                    named.push(settings.clone());
                    Arc::new(PodIdentity::new(Arc::clone(&identity.name), self.pods.pod(&identity.name, settings)))
                }
                Source::Trust(settings) => {
                    named.push(settings.clone());
                    Arc::new(ClientCert::following(Arc::clone(&identity.name), self.pods.pod(&identity.name, settings)))
                }
                Source::Broker(settings) => {
                    brokers.push(settings.clone());
                    Arc::new(BrokerIdentity::new(Arc::clone(&identity.name), self.pods.broker_api(&identity.name, settings)))
                }
            }
        };
        let mut sources = |listener: &ListenerSpec| listener.identities.iter().map(&mut source).collect();
        let all = config.listeners.iter().map(|listener| (Arc::clone(&listener.name), sources(listener))).collect();
        let mut shown = FxHashMap::default();
        for listener in &config.listeners {
            if let Some(ListenerTls::Svid { identity, settings }) = &listener.tls {
                named.push(settings.clone());
                shown.insert(Arc::clone(&listener.name), self.pods.pod(identity, settings));
            }
        }
        self.pods.keep(&named, &brokers);
        (all, shown)
    }

    fn ring(&self, jwt: &LocalJwt) -> Result<Prepared, String> {
        let (algorithm, now) = (algorithm(jwt.algorithm), self.clock.now());
        let Some(path) = &jwt.key else {
            return self.rings.ring(&jwt.issuer, algorithm, now).map(Prepared::Kept).map_err(|error| error.to_string());
        };
        let key = SigningKey::from_pem(&read_key(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
        if key.public().algorithm() != algorithm {
            return Err(format!("{} is not a key for {}", path.display(), algorithm.name()));
        }
        KeyRing::fixed(Arc::clone(&jwt.issuer), key, Vec::new(), now).map(Prepared::Given).map_err(|error| error.to_string())
    }

    fn definition(&self, spec: &CredentialSpec, issuer: Prepared) -> Result<Definition, String> {
        let profile = Arc::clone(&spec.profile);
        let (ring, key) = match issuer {
            Prepared::Secret(shape, source) => {
                let provider = VendorSecret::new(Arc::clone(&profile.name), source);
                return Ok(Definition::new(profile, Arc::new(provider), &[shape.as_str()]));
            }
            Prepared::JwtSvid => {
                let audience = profile.audience.clone().unwrap_or_default();
                let provider = JwtSvidProvider::new(Arc::clone(&profile.name), audience, Arc::clone(&self.pods));
                return Ok(Definition::new(profile, Arc::new(provider), &[]));
            }
            Prepared::Kept(ring) => (ring, "kept"),
            Prepared::Given(ring) => (self.rings.place(ring), "given"),
        };
        let (issuer, algorithm) = (Arc::clone(ring.issuer()), ring.algorithm());
        let provider = providers::LocalJwt::new(Arc::clone(&profile), Arc::clone(&issuer), ring).map_err(|error| error.to_string())?;
        let provider: Arc<dyn CredentialProvider> = Arc::new(provider);
        Ok(Definition::new(profile, provider, &[&*issuer, algorithm.name(), key]))
    }
}

/// What issues a credential, read and checked, not yet in use.
enum Prepared {
    /// A ring whose keys the state keeps.
    Kept(Arc<KeyRing>),
    /// A ring of the operator's key, not yet placed.
    Given(KeyRing),
    /// The Workload API issues it.
    JwtSvid,
    /// What shapes it, and where the vendor's key is.
    Secret(String, providers::SecretSource),
}

fn read_key(path: &Path) -> Result<Secret, String> {
    std::fs::read(path).map(Secret::new).map_err(|error| format!("the key {} cannot be read: {error}", path.display()))
}

const fn algorithm(written: SigningAlgorithm) -> Algorithm {
    match written {
        SigningAlgorithm::ES256 => Algorithm::Es256,
        SigningAlgorithm::RS256 => Algorithm::Rs256,
    }
}

/// Stands for all destinations that no upstream lists, while they may be observed: tunnelled and recorded, public addresses only.
fn unlisted(config: &Config, catalogue: &Catalogue) -> Option<Arc<Upstream>> {
    let Unlisted::Observe { until } = config.unlisted else { return None };
    Some(Arc::new(Upstream {
        index: UpstreamIndex(u32::try_from(catalogue.all().len()).ok()?),
        name: "unlisted".into(),
        owner: "nobody".into(),
        origins: Vec::new(),
        reach: Vec::new(),
        tls: TlsProfile { roots: Roots::System, server_name: None, spiffe_id: None, client_certificate: false },
        protocol: Protocol::default(),
        credentials: Vec::new(),
        stage: Stage::Observe { until, rehearse: false, enforce_percent: 0 },
        intercept: false,
        strip: StripOptions::default(),
        response_remove: Vec::new(),
        deadlines: config.limits.deadlines(),
        body_limit: 0,
    }))
}
