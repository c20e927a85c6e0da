//! The ways in for revocations: admin server and signal. The watched file is `control`'s own.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::start::Signals;
use crate::admin::{Question, Reply, Route};
use crate::control::{Receipt, Restored, Revoke};
use crate::live::{Block, Target};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    target: String,
    #[serde(default)]
    reason: String,
}

impl Wish {
    pub(super) fn of(question: &Question) -> Result<(Target, String), Reply> {
        let wish: Self = question.read()?;
        match wish.target.trim().parse() {
            Ok(target) => Ok((target, wish.reason)),
            Err(error) => Err(Reply::wrong(
                StatusCode::BAD_REQUEST,
                &format!("`{}` is no target", wish.target.chars().take(100).collect::<String>()),
                &format!("{error}"),
            )),
        }
    }
}

/// What the admin server can be asked about revocations.
pub(super) fn routes(revoke: &Arc<Revoke>) -> Vec<Route> {
    let (take, give, list) = (Arc::clone(revoke), Arc::clone(revoke), Arc::clone(revoke));
    vec![
        Route::change("/v1/revoke", move |question| {
            let revoke = Arc::clone(&take);
            async move {
                let (target, reason) = match Wish::of(&question) {
                    Ok(wish) => wish,
                    Err(reply) => return reply,
                };
                match revoke.revoke(target, &reason, question.by).await {
                    Ok(receipt) => Reply::ok(acknowledged(&receipt)),
                    Err(why) => Reply::wrong(StatusCode::CONFLICT, "not revoked", &why),
                }
            }
        }),
        Route::change("/v1/restore", move |question| {
            let revoke = Arc::clone(&give);
            async move {
                let (target, reason) = match Wish::of(&question) {
                    Ok(wish) => wish,
                    Err(reply) => return reply,
                };
                match revoke.restore(&target, &reason, question.by).await {
                    Ok(restored) => Reply::ok(lifted(&target, &restored)),
                    Err(why) => Reply::wrong(StatusCode::INTERNAL_SERVER_ERROR, "not restored, because it cannot be made durable", &why),
                }
            }
        }),
        Route::show("/v1/revocations", move |_| Reply::ok(json!({ "revocations": in_force(&list) }))),
    ]
}

/// The blocks in force, for people and programs.
pub(super) fn in_force(revoke: &Revoke) -> Vec<Value> {
    revoke.in_force().iter().map(shown).collect()
}

fn shown(block: &Block) -> Value {
    json!({
        "target": block.target.to_string(),
        "reason": &*block.reason,
        "by": &*block.by,
        "since": block.since.to_string(),
        "passages_ended": block.ended.count(),
    })
}

fn acknowledged(receipt: &Receipt) -> Value {
    json!({
        "target": receipt.target.to_string(),
        "revocation": shown(&receipt.block),
        "already": receipt.already,
        "passages_ended": receipt.passages,
        "grants": receipt.grants,
        "durable": receipt.durable.is_ok(),
        "not_durable_because": receipt.durable.as_ref().err(),
        "warnings": receipt.warnings,
        "took_us": u64::try_from(receipt.took.as_micros()).unwrap_or(u64::MAX),
    })
}

fn lifted(target: &Target, restored: &Restored) -> Value {
    json!({
        "target": target.to_string(),
        "restored": restored.lifted.is_some(),
        "revocation": restored.lifted.as_ref().map(shown),
        "warnings": restored.warnings,
    })
}

/// Hears SIGUSR1 from now on. Called before anything can be reached: unheard, it would end the process instead of revoking.
///
/// # Errors
/// The kernel refused the handler.
pub(super) fn listen(household: &Runtime, signals: Signals) -> std::io::Result<Option<Signal>> {
    match signals {
        Signals::Ignored => Ok(None),
        Signals::Heeded => household.block_on(async { signal(SignalKind::user_defined1()) }).map(Some),
    }
}

/// The kill switch for whoever can send a signal and nothing else.
pub(super) async fn heed(signal: Option<Signal>, revoke: Arc<Revoke>) {
    let Some(mut signal) = signal else { return };
    while signal.recv().await.is_some() {
        if let Err(why) = revoke.revoke(Target::Everything, "SIGUSR1", "signal SIGUSR1".into()).await {
            tracing::error!(why, "the signal SIGUSR1 revoked nothing");
        }
    }
}
