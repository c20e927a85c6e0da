//! A workload's own JWT-SVID, as an agent gave it, judged as its receiver would.

use std::time::Duration;

use super::spiffe_id::SpiffeId;
use super::svid::{Bundles, JwtFault, JwtSvid};
use super::workload_api::JwtSvids;
use crate::clock::Timestamp;
use crate::secret::Secret;

/// Skew that is forgiven in a token that was asked for just now.
const LEEWAY: Duration = Duration::from_mins(1);

/// Why there is no JWT-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtSvidFault {
    /// No agent gives exeat this workload's identity now.
    #[error("there is no identity now: {0}")]
    NoIdentity(String),
    /// The agent did not give one.
    #[error("{0}")]
    Api(String),
    /// The agent gave another workload's.
    #[error("the agent gave a token of another identity")]
    Other,
    /// One audience was asked for.
    #[error("the agent gave a token of more than the one audience that was asked for")]
    MoreAudiences,
    /// The token would be refused by whoever receives it.
    #[error(transparent)]
    Token(#[from] JwtFault),
}

/// The token of this workload for this audience alone, and its end.
pub(super) fn judge(
    answer: JwtSvids,
    id: &SpiffeId,
    audience: &str,
    bundles: &Bundles,
    now: Timestamp,
) -> Result<(Secret, Timestamp), JwtSvidFault> {
    let entry = answer.svids.into_iter().find(|entry| entry.spiffe_id == id.as_str()).ok_or(JwtSvidFault::Other)?;
    let token = entry.svid.into_bytes();
    let judged = JwtSvid::verify(&token, audience, bundles, now, LEEWAY);
    let token = Secret::new(token);
    let svid = judged?;
    if svid.id != *id {
        return Err(JwtSvidFault::Other);
    }
    if svid.claims.get("aud").and_then(serde_json::Value::as_array).is_some_and(|all| all.len() > 1) {
        return Err(JwtSvidFault::MoreAudiences);
    }
    Ok((token, svid.expires))
}
