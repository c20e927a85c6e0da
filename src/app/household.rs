//! The household's tasks: everything that is not a request. They run on a runtime of their own, so that none of them slows a worker.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::admin::{Admin, Health};
use crate::audit::{Event, GrantChange, Ledger};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::control::Reload;
use crate::credentials::providers::KeyRings;
use crate::credentials::{GrantEvent, Happening};
use crate::identity::{HeldSvid, Issuers, Pods};
use crate::snapshot::Current;
use crate::telemetry::Metrics;

/// Signing keys are looked after this often; a rotation has minutes to spare.
const TEND_KEYS: Duration = Duration::from_secs(30);
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
                    let why = trouble.unwrap_or_else(|| "the Workload API has given no other yet".to_owned());
                    ending.push(format!("`{name}`: its certificate ends at {}: {why}", svid.not_after));
                }
                Some(_) => ending.extend(trouble.map(|why| format!("`{name}`: {why}"))),
            }
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

/// Tells of issuers that do not answer: tokens that they signed can be verified only as long as their known keys are good.
pub(super) async fn watch_issuers(issuers: Arc<Issuers>, health: Arc<Health>) {
    loop {
        health.warn("issuers", issuers.warning());
        tokio::time::sleep(LOOK).await;
    }
}

/// What `exeat status` and the admin server show.
pub(super) struct Standing {
    pub(super) started: Timestamp,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: Config,
    pub(super) snapshots: Arc<Current>,
    pub(super) reload: Arc<Reload>,
    pub(super) ledger: Ledger,
    pub(super) health: Arc<Health>,
    pub(super) listeners: Vec<(Arc<str>, String)>,
}

impl Standing {
    fn document(&self) -> Value {
        let (snapshot, last, audit) = (self.snapshots.load(), self.reload.last(), self.ledger.standing());
        let listeners: Vec<Value> = self.listeners.iter().map(|(name, address)| json!({ "name": &**name, "address": address })).collect();
        let now = self.clock.now();
        let upstreams: Vec<Value> = snapshot.catalogue.all().iter().map(|upstream| upstream_standing(upstream, now)).collect();
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

fn upstream_standing(upstream: &crate::catalogue::Upstream, now: Timestamp) -> Value {
    use crate::catalogue::Stage;
    let stage = match upstream.stage {
        Stage::Observe { until } if now < until => format!("observe until {until}"),
        Stage::Observe { .. } | Stage::Enforce => "enforce".to_owned(),
    };
    json!({ "name": &*upstream.name, "owner": &*upstream.owner, "stage": stage, "intercept": upstream.intercept })
}

/// The admin server's answers.
pub(super) fn admin(standing: Standing, reload: mpsc::Sender<()>) -> Admin {
    let standing = Arc::new(standing);
    Admin {
        status: Arc::new(move || standing.document()),
        reload: Arc::new(move || {
            let _full_is_asked_already = reload.try_send(());
        }),
    }
}
