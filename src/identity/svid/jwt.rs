//! `JwtSvid`: the identity that a token proves.

use std::time::Duration;

use serde_json::{Map, Value};

use super::bundle::Bundles;
use crate::clock::Timestamp;
use crate::identity::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::jose::{Jws, TokenFault};

/// `alg` values that a JWT-SVID may have (JWT-SVID section 2.1).
const ALGORITHMS: &[&str] = &["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];
/// Skew that is forgiven at most.
const MOST_LEEWAY: Duration = Duration::from_mins(1);

/// Why a token proves no identity. Holds nothing of the token but its trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtFault {
    /// A header parameter that a JWT-SVID does not have: a key, or the address of one, is never taken from a token.
    #[error("the token's header has `{0}`; a JWT-SVID has alg, kid and typ alone")]
    Header(Box<str>),
    /// Not one of RS, ES, PS.
    #[error("the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512")]
    Algorithm,
    /// Another `typ`.
    #[error("the token's typ is neither absent nor JWT nor JOSE")]
    Typ,
    /// `sub` is no SPIFFE ID.
    #[error("the token's sub is no SPIFFE ID of a workload: {0}")]
    Subject(SpiffeIdError),
    /// Nobody vouches for that trust domain.
    #[error("no bundle of trust domain `{0}` is here: federate with it, or check the Workload API")]
    NoBundle(Box<str>),
    /// `kid` is not of that trust domain's JWT keys.
    #[error("the token's kid is none of the JWT keys of trust domain `{0}`")]
    UnknownKey(Box<str>),
    /// The rest.
    #[error("the token is refused: {0}")]
    Token(#[from] TokenFault),
}

/// What a verified token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSvid {
    /// Who.
    pub id: SpiffeId,
    /// Until when.
    pub expires: Timestamp,
    /// All claims.
    pub claims: Map<String, Value>,
}

/// One rule of a token that nobody vouches for yet.
type Rule = fn(&Jws<'_>) -> Result<(), JwtFault>;

/// What the standard asks of the header (JWT-SVID section 2).
const HEADER: &[Rule] = &[only_known_parameters, asymmetric, of_a_known_typ];

impl JwtSvid {
    /// Judges a compact token that is meant for `audience`, with the JWT keys of the trust domain that its `sub` names. At most 60 s of
    /// `leeway` are used. Pure: no clock, no I/O.
    ///
    /// # Errors
    /// See [`JwtFault`].
    pub fn verify(token: &[u8], audience: &str, bundles: &Bundles, now: Timestamp, leeway: Duration) -> Result<Self, JwtFault> {
        let jws = Jws::open(token)?;
        HEADER.iter().try_for_each(|rule| rule(&jws))?;
        let id = SpiffeId::parse(jws.text("sub")?).map_err(JwtFault::Subject)?;
        let expires = within(&jws, now, leeway)?;
        meant_for(&jws, audience)?;
        let domain = id.trust_domain();
        let bundle = bundles.get(domain).ok_or_else(|| JwtFault::NoBundle(domain.into()))?;
        let claims = jws
            .verify(bundle.jwt_keys())
            .map_err(|fault| if fault == TokenFault::UnknownKey { JwtFault::UnknownKey(domain.into()) } else { fault.into() })?;
        Ok(Self { id, expires, claims })
    }
}

fn only_known_parameters(jws: &Jws<'_>) -> Result<(), JwtFault> {
    match jws.header().keys().find(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
        Some(other) => Err(JwtFault::Header(other.chars().filter(char::is_ascii_graphic).take(32).collect())),
        None => Ok(()),
    }
}

fn asymmetric(jws: &Jws<'_>) -> Result<(), JwtFault> {
    let known = jws.header().get("alg").and_then(Value::as_str).is_some_and(|alg| ALGORITHMS.contains(&alg));
    if known { Ok(()) } else { Err(JwtFault::Algorithm) }
}

fn of_a_known_typ(jws: &Jws<'_>) -> Result<(), JwtFault> {
    match jws.header().get("typ") {
        None => Ok(()),
        Some(Value::String(typ)) if matches!(typ.as_str(), "JWT" | "JOSE") => Ok(()),
        Some(_) => Err(JwtFault::Typ),
    }
}

fn meant_for(jws: &Jws<'_>, audience: &str) -> Result<(), JwtFault> {
    let meant = match jws.unverified().get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(many)) if !many.is_empty() && many.iter().all(Value::is_string) => many.iter().any(|one| one == audience),
        Some(_) | None => return Err(TokenFault::Claim("aud").into()),
    };
    if meant && !audience.is_empty() { Ok(()) } else { Err(TokenFault::Audience.into()) }
}

fn within(jws: &Jws<'_>, now: Timestamp, leeway: Duration) -> Result<Timestamp, JwtFault> {
    let leeway = i64::try_from(leeway.min(MOST_LEEWAY).as_secs()).unwrap_or(60);
    let now = now.as_second();
    let end = jws.date("exp")?.ok_or(TokenFault::Claim("exp"))?;
    if end.saturating_add(leeway) <= now {
        return Err(TokenFault::Expired.into());
    }
    for name in ["nbf", "iat"] {
        if jws.date(name)?.is_some_and(|at| at > now.saturating_add(leeway)) {
            return Err(TokenFault::NotYet.into());
        }
    }
    Timestamp::from_second(end).map_err(|_| TokenFault::Claim("exp").into())
}
