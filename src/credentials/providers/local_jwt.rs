//! `local_jwt`: a JWT access token (RFC 9068) that exeat signs itself, for upstreams that trust its issuer.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::key_ring::KeyRing;
use crate::catalogue::Profile;
use crate::clock::Timestamp;
use crate::credentials::{CredentialProvider, IssueError, IssueRequest, Issued, Issuing};

/// Why a definition of this kind is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalJwtError {
    /// RFC 9068 section 2.2: `iss` is an RFC 8414 issuer.
    #[error("the issuer must be an https URL without query and fragment")]
    Issuer,
    /// RFC 9068 section 2.2: `aud` is required.
    #[error("the audience is missing")]
    Audience,
    /// RFC 6749 section 3.3.
    #[error("scope `{0}` holds a space, a quote, a backslash or a character that is not visible ASCII")]
    Scope(Arc<str>),
}

/// The provider.
pub struct LocalJwt {
    profile: Arc<Profile>,
    audience: Arc<str>,
    issuer: Arc<str>,
    ring: Arc<KeyRing>,
}

/// RFC 9068 section 2.2, in its order.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    exp: i64,
    aud: &'a str,
    sub: &'a str,
    client_id: &'a str,
    iat: i64,
    jti: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

impl LocalJwt {
    /// For one definition.
    ///
    /// # Errors
    /// See [`LocalJwtError`].
    pub fn new(profile: Arc<Profile>, issuer: Arc<str>, ring: Arc<KeyRing>) -> Result<Self, LocalJwtError> {
        let host = issuer.strip_prefix("https://").ok_or(LocalJwtError::Issuer)?;
        if host.is_empty() || host.starts_with('/') || !host.bytes().all(|byte| byte.is_ascii_graphic()) || host.contains(['?', '#']) {
            return Err(LocalJwtError::Issuer);
        }
        let audience = profile.audience.as_ref().filter(|audience| !audience.is_empty()).map(Arc::clone).ok_or(LocalJwtError::Audience)?;
        let token = |scope: &str| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        if let Some(bad) = profile.scopes.iter().flat_map(|scopes| scopes.iter()).find(|scope| !token(scope)) {
            return Err(LocalJwtError::Scope(Arc::clone(bad)));
        }
        Ok(Self { profile, audience, issuer, ring })
    }

    fn make(&self, request: &IssueRequest) -> Result<Issued, IssueError> {
        let credential = || Arc::clone(&self.profile.name);
        let known = |scope: &Arc<str>| self.profile.scopes.as_ref().is_some_and(|all| all.contains(scope));
        if let Some(scope) = request.terms.scopes.iter().flat_map(|scopes| scopes.iter()).find(|scope| !known(scope)) {
            let why = format!("scope `{scope}` is not among those of the definition").into();
            return Err(IssueError::ScopeExceeded { credential: credential(), why });
        }
        let ttl = request.terms.ttl.min(self.profile.ttl).max(Duration::from_secs(1));
        let iat = request.now.as_second();
        let exp = iat.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
        // Down to the whole second: it never outlives the lease.
        let exp = request.ends.map_or(exp, |ends| exp.min(ends.as_second()));
        if exp <= iat {
            let why = "the lease ends before it could be used; renew the lease".into();
            return Err(IssueError::Unavailable { credential: credential(), why });
        }
        let scope = request.terms.scopes.as_ref().filter(|scopes| !scopes.is_empty()).map(|scopes| scopes.join(" "));
        let claims = Claims {
            iss: &self.issuer,
            exp,
            aud: &self.audience,
            sub: request.workload.as_str(),
            client_id: request.workload.as_str(),
            iat,
            jti: &request.grant.0,
            scope,
        };
        let unavailable = |why: String| IssueError::Unavailable { credential: credential(), why: why.into() };
        let key = self.ring.signer(request.now).ok_or_else(|| unavailable("its key ring holds no key; check the state".to_owned()))?;
        let material = key.sign("at+jwt", &claims).map_err(|error| unavailable(error.to_string()))?;
        Ok(Issued { material, not_after: Timestamp::from_second(exp).ok(), source: None })
    }
}

impl CredentialProvider for LocalJwt {
    fn issue(&self, request: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
        Box::pin(async move { self.make(&request) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Placement;
    use crate::credentials::GrantId;
    use crate::credentials::providers::Rhythm;
    use crate::identity::SpiffeId;
    use crate::jose::{Algorithm, Expected, verify};
    use crate::policy::GrantTerms;
    use crate::state::State;

    fn profile(audience: Option<&str>, scopes: &[&str]) -> Arc<Profile> {
        Arc::new(Profile {
            name: "c".into(),
            kind: "local_jwt",
            audience: audience.map(Into::into),
            scopes: Some(scopes.iter().map(|scope| Arc::from(*scope)).collect()),
            ttl: Duration::from_mins(1),
            placement: Placement::Bearer,
        })
    }

    fn ring(algorithm: Algorithm) -> Arc<KeyRing> {
        Arc::new(KeyRing::open(&Arc::new(State::ephemeral()), "https://i".into(), algorithm, Rhythm::default(), now()).unwrap())
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn request(profile: &Arc<Profile>, scopes: &[&str], ttl: u64) -> IssueRequest {
        let scopes: Arc<[Arc<str>]> = scopes.iter().map(|scope| Arc::from(*scope)).collect();
        IssueRequest {
            grant: GrantId("0123".into()),
            workload: SpiffeId::parse("spiffe://t/ns/a/sa/b").unwrap(),
            upstream: "u".into(),
            terms: Arc::new(GrantTerms { profile: Arc::clone(profile), scopes: Some(scopes), ttl: Duration::from_secs(ttl) }),
            now: now(),
            ends: None,
        }
    }

    #[tokio::test]
    async fn tokens_pass_a_strict_rfc_9068_verifier() {
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let profile = profile(Some("https://api"), &["a:read", "b:write"]);
            let ring = ring(algorithm);
            let provider = LocalJwt::new(Arc::clone(&profile), "https://i".into(), Arc::clone(&ring)).unwrap();
            let issued = provider.issue(request(&profile, &["a:read", "b:write"], 30)).await.unwrap();
            let expected = Expected { typ: "at+jwt", issuer: "https://i", audience: "https://api", leeway: Duration::ZERO };
            let claims = verify(issued.material.expose(), &ring.public_keys(), &expected, now()).unwrap();
            assert_eq!(claims["sub"], "spiffe://t/ns/a/sa/b");
            assert_eq!(claims["client_id"], claims["sub"]);
            assert_eq!((&claims["jti"], &claims["scope"]), (&"0123".into(), &"a:read b:write".into()));
            assert_eq!((claims["iat"].as_i64(), claims["exp"].as_i64()), (Some(1_800_000_000), Some(1_800_000_030)));
            assert_eq!(issued.not_after.map(Timestamp::as_second), Some(1_800_000_030));
        }
    }

    #[tokio::test]
    async fn a_grant_only_narrows() {
        let profile = profile(Some("https://api"), &["a"]);
        let provider = LocalJwt::new(Arc::clone(&profile), "https://i".into(), ring(Algorithm::Es256)).unwrap();
        let error = provider.issue(request(&profile, &["a", "admin"], 30)).await.err().unwrap();
        assert!(matches!(error, IssueError::ScopeExceeded { .. }) && error.to_string().contains("admin"), "{error}");
        let longer = provider.issue(request(&profile, &["a"], 9_999)).await.unwrap();
        assert_eq!(longer.not_after.map(Timestamp::as_second), Some(1_800_000_060));
    }

    #[test]
    fn definitions_that_no_verifier_accepts_are_refused() {
        let made =
            |audience, scopes: &[&str], issuer: &str| LocalJwt::new(profile(audience, scopes), issuer.into(), ring(Algorithm::Es256)).err();
        for issuer in ["", "http://i", "https://", "https:///x", "https://i?x", "https://i#x", "https://i x"] {
            assert_eq!(made(Some("a"), &[], issuer), Some(LocalJwtError::Issuer), "{issuer}");
        }
        assert_eq!(made(None, &[], "https://i"), Some(LocalJwtError::Audience));
        assert_eq!(made(Some("a"), &["a b"], "https://i"), Some(LocalJwtError::Scope("a b".into())));
        assert_eq!(made(Some("a"), &["a:b/*"], "https://i/path"), None);
    }
}
