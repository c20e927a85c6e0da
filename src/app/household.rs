//! The household's tasks: everything that is not a request. They run on a runtime of their own, so that none of them slows a worker.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::admin::{Health, Reply, Route};
use crate::audit::{Event, GrantChange, Ledger};
use crate::catalogue::{Stage, Upstream};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::control::{Reload, Revoke};
use crate::credentials::providers::KeyRings;
use crate::credentials::{Broker, GrantEvent, Happening, Rehearsal};
use crate::evidence::Observations;
use crate::identity::{HeldSvid, Issuers, Pods, Turn};
use crate::live::Live;
use crate::snapshot::Current;
use crate::telemetry::{Edge, Metrics};

/// Signing keys are looked after this often; a rotation has minutes to spare.
const TEND_KEYS: Duration = Duration::from_secs(30);
/// Memory that nobody uses goes back to the system this often.
const GIVE_BACK: Duration = Duration::from_secs(5);
/// Audit and readiness are compared this often.
const LOOK: Duration = Duration::from_millis(500);

/// Joins the broker's events to the audit: no grant without a record.
pub(super) async fn record_grants(mut events: mpsc::Receiver<GrantEvent>, ledger: Ledger, metrics: Metrics) {
    while let Some(event) = events.recv().await {
        let (change, detail) = match &event.what {
            Happening::Issued { took } => (GrantChange::Issued, format!("took {} us", took.as_micros())),
            Happening::Refreshed { former, took } => {
                (GrantChange::Refreshed, format!("in the place of {former}, took {} us", took.as_micros()))
            }
            Happening::Discarded { cause } => (GrantChange::Discarded, cause.name().to_owned()),
            Happening::Rehearsed { took } => {
                let scopes = event.terms.scopes.as_deref().map(|scopes| scopes.join(" ")).unwrap_or_default();
                (GrantChange::Rehearsed, format!("took {} us, scopes [{scopes}] as asked, thrown away", took.as_micros()))
            }
            Happening::RehearseFailed { error } => (GrantChange::RehearseFailed, error.to_string()),
            Happening::Failed { error, retry_at } => (GrantChange::Failed, format!("{error}; next try at {retry_at}")),
        };
        metrics.grant(&event.terms.profile.name, change);
        ledger.event(Event::Grant {
            change,
            grant: Some(event.grant.0),
            credential: Arc::clone(&event.terms.profile.name),
            workload: event.workload.shared(),
            upstream: event.upstream,
            detail: detail.into(),
        });
    }
}

/// Joins what becomes of exeat's own identities to the audit.
pub(super) async fn record_identities(mut turns: mpsc::Receiver<Turn>, ledger: Ledger) {
    while let Some(Turn { identity, id, what }) = turns.recv().await {
        let id = id.shared();
        let event = match what.as_ref().map(|standing| (standing, standing.svid.as_ref())) {
            Ok((standing, Some(svid))) => {
                let trusts: Vec<&str> = standing.bundles.trust_domains().into_iter().map(AsRef::as_ref).collect();
                let (serial, trusts) = (svid.serial.clone(), trusts.join(" ").into());
                Event::IdentityUpdated { identity, id, serial, sha256: svid.sha256, not_after: svid.not_after, trusts }
            }
            Ok((_, None)) => Event::IdentityWithdrawn { identity, id, reason: Box::default() },
            Err(why) => Event::IdentityWithdrawn { identity, id, reason: why.clone() },
        };
        ledger.event(event);
    }
}

/// Rotates signing keys when their time has come.
pub(super) async fn tend_keys(rings: Arc<KeyRings>, clock: Arc<dyn Clock>, health: Arc<Health>) {
    loop {
        let (tended, now) = (Arc::clone(&rings), clock.now());
        // Making an RSA key takes a second or two: not on this runtime's only thread.
        let outcome = tokio::task::spawn_blocking(move || tended.tend(now)).await;
        match outcome {
            Ok((_, failed)) if failed.is_empty() => health.set("signing_keys", Ok(())),
            Ok((_, failed)) => {
                let why = failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                tracing::error!(error = %why, "signing keys cannot be rotated");
                health.set("signing_keys", Err(why));
            }
            Err(error) => tracing::error!(%error, "looking after the signing keys ended early"),
        }
        tokio::time::sleep(TEND_KEYS).await;
    }
}

/// Keeps readiness and metrics true to the identities of the Workload API.
pub(super) async fn watch_identities(pods: Arc<Pods>, clock: Arc<dyn Clock>, health: Arc<Health>, metrics: Metrics) {
    let mut changes = pods.changes();
    loop {
        let (mut missing, mut ending) = (Vec::new(), Vec::new());
        for pod in pods.all() {
            let (standing, name) = (pod.standing(), pod.name());
            let svid = standing.svid.as_ref();
            metrics.identity(name, svid.map(|svid| svid.not_after.as_second()), pod.updates());
            let trouble = pod.trouble();
            match svid {
                None => missing.push(format!("`{name}`: {}", trouble.unwrap_or_default())),
                Some(svid) if is_late(svid, clock.now()) => {
                    let why = trouble.unwrap_or_else(|| "the agent has given no other yet".to_owned());
                    ending.push(format!("`{name}`: its certificate ends at {}: {why}", svid.not_after));
                }
                Some(_) => ending.extend(trouble.map(|why| format!("`{name}`: {why}"))),
            }
        }
        for api in pods.brokers() {
            metrics.processes(api.name(), api.processes());
            ending.extend(api.trouble().map(|why| format!("`{}`: {why}", api.name())));
        }
        health.set("identity", if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) });
        health.warn("identity", (!ending.is_empty()).then(|| ending.join("; ")));
        // Time alone makes a certificate late.
        let moved = tokio::time::timeout(LOOK, changes.changed()).await;
        if moved.is_ok_and(|moved| moved.is_err()) {
            return;
        }
    }
}

/// Past three quarters of its life: agents renew at half of it.
fn is_late(svid: &HeldSvid, now: Timestamp) -> bool {
    let life = svid.not_after.duration_since(svid.not_before);
    svid.not_after.duration_since(now) < life / 4
}

/// Keeps readiness true to the ledger.
pub(super) async fn watch_audit(ledger: Ledger, health: Arc<Health>) {
    loop {
        let standing = ledger.standing();
        health.set(
            "audit",
            if standing.available { Ok(()) } else { Err(standing.failure.unwrap_or_else(|| "no record can be written".into())) },
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets the memory of a burst go back to the system when it is over. The allocator gives free pages back a second after they became free,
/// but only when it next lets go of a page: a process that has become quiet would keep its peak. A block of a page's size, never
/// touched, is that next one.
pub(super) async fn give_memory_back() {
    loop {
        tokio::time::sleep(GIVE_BACK).await;
        drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
    }
}

/// Tells of issuers that do not answer: tokens that they signed can be verified only as long as their known keys are good.
pub(super) async fn watch_issuers(issuers: Arc<Issuers>, health: Arc<Health>) {
    loop {
        health.warn("issuers", issuers.warning());
        tokio::time::sleep(LOOK).await;
    }
}

/// An identity that changed is news for those who hold passages: what it no longer proves ends at once.
pub(super) async fn tell_identities(mut changes: watch::Receiver<u64>, live: Arc<Live>) {
    while changes.changed().await.is_ok() {
        live.tell();
    }
}

/// What `exeat status` and the admin server show.
pub(super) struct Standing {
    pub(super) started: Timestamp,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: Config,
    pub(super) snapshots: Arc<Current>,
    pub(super) reload: Arc<Reload>,
    pub(super) revoke: Arc<Revoke>,
    pub(super) live: Arc<Live>,
    pub(super) ledger: Ledger,
    pub(super) broker: Arc<Broker>,
    pub(super) observations: Arc<Observations>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Metrics,
    pub(super) listeners: Vec<(Arc<str>, String)>,
}

impl Standing {
    fn document(&self) -> Value {
        let (snapshot, last, audit) = (self.snapshots.load(), self.reload.last(), self.ledger.standing());
        let listeners: Vec<Value> = self.listeners.iter().map(|(name, address)| json!({ "name": &**name, "address": address })).collect();
        let now = self.clock.now();
        let upstreams: Vec<Value> = snapshot.catalogue.all().iter().map(|upstream| self.upstream(upstream, now)).collect();
        let checks: Vec<Value> = self
            .health
            .checks()
            .into_iter()
            .map(|(name, standing)| json!({ "check": name, "ok": standing.is_ok(), "why": standing.err() }))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": now.duration_since(self.started).as_secs(),
            "ready": self.health.is_ready(),
            "checks": checks,
            "revision": snapshot.revision,
            "policy": snapshot.policies.revision(),
            "trust_domain": &*self.config.trust_domain,
            "revocations": super::revocations::in_force(&self.revoke),
            "leases": { "live": self.live.leases().leases().live(now), "held": self.live.leases().leases().len() },
            "limits": { "counters": self.live.limits().counters(now) },
            "listeners": listeners,
            "upstreams": upstreams,
            "reload": {
                "last": last.at.to_string(),
                "failure": last.failure,
                "serving_since": last.serving_since.to_string(),
                "serving": last.serving.to_string(),
                "needs_restart": last.restart_needed,
                "succeeded": last.succeeded,
                "failed": last.failed,
            },
            "audit": {
                "available": audit.available,
                "failure": audit.failure,
                "outstanding": audit.outstanding,
                "limit": audit.limit,
                "written": audit.written,
                "refused": audit.refused,
            },
        })
    }
}

impl Standing {
    fn upstream(&self, upstream: &Upstream, now: Timestamp) -> Value {
        let mut told = json!({ "name": &*upstream.name, "owner": &*upstream.owner, "stage": "enforce", "intercept": upstream.intercept });
        if let Stage::Observe { until, rehearse, enforce_percent } = upstream.stage
            && now < until
            && let Some(told) = told.as_object_mut()
        {
            told.insert("stage".to_owned(), format!("observe until {until}").into());
            told.insert("enforce_percent".to_owned(), enforce_percent.into());
            told.insert("would_be".to_owned(), self.observations.of(&upstream.name));
            if rehearse {
                let rehearsals = self.broker.rehearsals(&upstream.name);
                told.insert("rehearsals".to_owned(), rehearsals.iter().map(rehearsal).collect());
            }
        }
        told
    }
}

fn rehearsal(one: &Rehearsal) -> Value {
    json!({
        "credential": &*one.credential,
        "workload": one.workload.as_str(),
        "scopes": one.scopes.as_deref().map(|scopes| scopes.iter().map(|scope| &**scope).collect::<Vec<_>>()),
        "obtained": one.obtained,
        "failed": one.failed,
        "last": one.last.to_string(),
        "failure": one.failure.as_deref(),
    })
}

fn edge(edge: &Edge) -> Value {
    let (passages, failed) = edge.counts();
    json!({ "workload": &*edge.workload, "upstream": &*edge.upstream, "passages": passages, "failed": failed })
}

/// What the admin server can be asked about the household itself.
pub(super) fn routes(standing: Standing, reload: mpsc::Sender<()>) -> Vec<Route> {
    let metrics = standing.metrics.clone();
    vec![
        Route::show("/v1/status", move |_| Reply::ok(standing.document())),
        Route::show("/v1/edges", move |_| Reply::ok(json!({ "edges": metrics.edges().iter().map(edge).collect::<Vec<_>>() }))),
        Route::change("/v1/reload", move |_| {
            let _full_is_asked_already = reload.try_send(());
            let asked = json!({ "reload": "asked", "next_step": "GET /v1/status tells how it ended" });
            std::future::ready(Reply { status: StatusCode::ACCEPTED, body: asked })
        }),
    ]
}
