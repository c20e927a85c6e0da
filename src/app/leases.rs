//! What the admin server can be asked about leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{Question, Reply, Route};
use crate::control::Leasing;
use crate::live::{Lease, LeaseError, Opening};
use crate::written;

/// `POST /v1/leases`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    workload: String,
    kind: String,
    ttl: String,
    uses: Option<u32>,
    uid: Option<u32>,
    pod_uid: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    reason: String,
}

/// `POST /v1/leases/{id}/renew`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Longer {
    ttl: String,
}

/// All routes.
pub(super) fn routes(leasing: &Arc<Leasing>) -> Vec<Route> {
    let [list, one, open, renew, end] = std::array::from_fn(|_| Arc::clone(leasing));
    vec![
        Route::show("/v1/leases", move |_| {
            let leases: Vec<Value> = list.all().iter().map(|lease| shown(lease, list.is_live(lease))).collect();
            Reply::ok(json!({ "leases": leases }))
        }),
        Route::show("/v1/leases/{id}", move |question| match one.get(question.parameter("id")) {
            Some(lease) => Reply::ok(shown(&lease, one.is_live(&lease))),
            None => refused(&LeaseError::Unknown(question.parameter("id").chars().take(100).collect())),
        }),
        Route::change("/v1/leases", move |question| {
            let leasing = Arc::clone(&open);
            async move {
                let opening = match opening(&question) {
                    Ok(opening) => opening,
                    Err(reply) => return reply,
                };
                match leasing.open(opening, question.by).await {
                    Ok(lease) => Reply { status: StatusCode::CREATED, body: shown(&lease, true) },
                    Err(error) => refused(&error),
                }
            }
        }),
        Route::change("/v1/leases/{id}/renew", move |question| {
            let leasing = Arc::clone(&renew);
            async move {
                let ttl = match longer(&question) {
                    Ok(ttl) => ttl,
                    Err(reply) => return reply,
                };
                match leasing.renew(question.parameter("id").to_owned(), ttl, Arc::clone(&question.by)).await {
                    Ok(lease) => Reply::ok(shown(&lease, true)),
                    Err(error) => refused(&error),
                }
            }
        }),
        Route::change("/v1/leases/{id}/end", move |question| {
            let leasing = Arc::clone(&end);
            async move {
                match leasing.end(question.parameter("id").to_owned(), Arc::clone(&question.by)).await {
                    Ok(ended) => Reply::ok(json!({
                        "lease": shown(&ended.lease, false),
                        "grants": ended.grants,
                        "warnings": ended.warnings,
                        "took_us": u64::try_from(ended.took.as_micros()).unwrap_or(u64::MAX),
                    })),
                    Err(error) => refused(&error),
                }
            }
        }),
    ]
}

pub(super) fn opening(question: &Question) -> Result<Opening, Reply> {
    let Wish { workload, kind, ttl: time, uses, uid, pod_uid, attributes, reason } = question.read()?;
    Ok(Opening { ttl: ttl(&time)?, workload, kind, uses, uid, pod_uid, attributes, reason })
}

pub(super) fn longer(question: &Question) -> Result<Duration, Reply> {
    ttl(&question.read::<Longer>()?.ttl)
}

fn ttl(text: &str) -> Result<Duration, Reply> {
    let wrong = || Reply::wrong(StatusCode::BAD_REQUEST, "`ttl` is no length of time", "write a whole number and a unit: 90s, 20m, 8h");
    written::duration(text).ok_or_else(wrong)
}

fn refused(error: &LeaseError) -> Reply {
    let (status, next_step) = match error {
        LeaseError::Unknown(_) => (StatusCode::NOT_FOUND, "GET /v1/leases"),
        LeaseError::Ended(_) | LeaseError::TooManyOfOne | LeaseError::TooMany => (StatusCode::CONFLICT, "GET /v1/leases shows what is"),
        LeaseError::NotDurable { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "mend the state directory, then try again"),
        LeaseError::Workload(_)
        | LeaseError::Kind
        | LeaseError::Ttl
        | LeaseError::Uses
        | LeaseError::Attributes
        | LeaseError::Pod
        | LeaseError::Reason
        | LeaseError::Later { .. } => (StatusCode::BAD_REQUEST, "mend the question"),
    };
    Reply::wrong(status, &error.to_string(), next_step)
}

/// A lease, for people and programs.
fn shown(lease: &Lease, live: bool) -> Value {
    json!({
        "id": &*lease.id,
        "kind": &*lease.kind,
        "workload": lease.workload.as_str(),
        "uid": lease.uid,
        "pod_uid": lease.pod_uid.as_deref(),
        "attributes": &*lease.attributes,
        "reason": &*lease.reason,
        "by": &*lease.by,
        "opened": lease.opened.to_string(),
        "until": lease.until.to_string(),
        "live": live,
        "ended": lease.ended.as_ref().map(|end| json!({ "at": end.at.to_string(), "by": &*end.by })),
        "uses": lease.uses,
        "uses_left": lease.uses_left(),
    })
}
