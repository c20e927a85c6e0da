//! `ServiceAccount`: what a projected service-account token proves, and every reason why one proves nothing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::jose::{ForeignKey, Jws, TokenFault};

/// Clock skew that is forgiven for `iat` and `nbf`; an expired token is expired.
const LEEWAY: i64 = 60;
/// Longest life of a token that is taken: the API server extends tokens for its own audience to a year, for nobody else's.
const LONGEST: Duration = Duration::from_hours(24);
const ALGORITHMS: &[&str] = &["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

/// An object that a token is bound to: with the object the token ends, at the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Its name.
    pub name: Arc<str>,
    /// Its uid, never given again.
    pub uid: Arc<str>,
}

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// The pod that the token was made for.
    pub pod: Option<Bound>,
    /// The node of that pod (Kubernetes 1.30).
    pub node: Option<Bound>,
    /// The token's id, for the cluster's own audit log.
    pub token: Option<Arc<str>>,
    /// Until when.
    pub expires: Timestamp,
    /// The caller presented it; else it is mounted beside exeat.
    pub presented: bool,
}

/// What a verifier demands of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demands {
    /// Exact `iss`.
    pub(super) issuer: Arc<str>,
    /// Must be `aud` or among it.
    pub(super) audience: Arc<str>,
    /// The token must be bound to a pod.
    pub(super) pod: bool,
    /// The token's pod must run on the node of this name.
    pub(super) node: Option<Arc<str>>,
}

/// Why a token proves nothing. Holds nothing of a token that is not verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// A header parameter beside `alg`, `kid` and `typ`.
    #[error("the token's header has more than alg, kid and typ: keys, or addresses of keys, are never taken from a token")]
    Header,
    /// Not one of RS, ES, PS.
    #[error("the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512")]
    Algorithm,
    /// `typ` is there and is not `JWT`.
    #[error("the token's typ is not JWT")]
    Typ,
    /// Another issuer.
    #[error("the token's issuer is not `{0}`; `kubectl create token` and the cluster's --service-account-issuer show what it is")]
    Issuer(Arc<str>),
    /// Another audience.
    #[error("the token is not meant for audience `{0}`; set `audience` in the pod's serviceAccountToken projection")]
    Audience(Arc<str>),
    /// Over.
    #[error("the token expired at {0}; the kubelet renews the mounted file, and the workload must read it again")]
    Expired(Timestamp),
    /// Too long a life.
    #[error("the token is valid for more than 24 h; use a projected token with `expirationSeconds`")]
    TooLong,
    /// Not of a service account.
    #[error("the token's subject is no service account (system:serviceaccount:NAMESPACE:NAME)")]
    Subject,
    /// `kubernetes.io` is missing or says another account than the subject.
    #[error("the token's claim `kubernetes.io` is missing or contradicts its subject; legacy tokens of secrets are not taken")]
    Claims,
    /// Not bound to a pod.
    #[error("the token is bound to no pod; use a projected token of the pod, or write `bound_to_pod: false`")]
    NoPod,
    /// Bound to another node, or to none.
    #[error("the token's pod is not bound to node `{0}`")]
    Node(Arc<str>),
    /// The rest.
    #[error("the token is refused: {0}")]
    Token(#[from] TokenFault),
}

impl ServiceAccount {
    /// Judges a token. The signature comes before anything of it is believed, and after what makes it worth verifying.
    ///
    /// # Errors
    /// See [`TokenRefused`].
    pub(super) fn verify(token: &[u8], keys: &[ForeignKey], demands: &Demands, now: Timestamp) -> Result<Self, TokenRefused> {
        let jws = Jws::open(token)?;
        check_header(&jws)?;
        if jws.text("iss")? != &*demands.issuer {
            return Err(TokenRefused::Issuer(Arc::clone(&demands.issuer)));
        }
        check_audience(&jws, &demands.audience)?;
        let expires = check_dates(&jws, now)?;
        let claims = jws.verify(keys)?;
        let account = Self::read(&claims, expires)?;
        if demands.pod && account.pod.is_none() {
            return Err(TokenRefused::NoPod);
        }
        match &demands.node {
            Some(node) if account.node.as_ref().is_none_or(|bound| bound.name != *node) => Err(TokenRefused::Node(Arc::clone(node))),
            Some(_) | None => Ok(account),
        }
    }

    fn read(claims: &Map<String, Value>, expires: Timestamp) -> Result<Self, TokenRefused> {
        let text = |object: &Map<String, Value>, name: &str| object.get(name).and_then(Value::as_str).map(Arc::<str>::from);
        let subject = text(claims, "sub").ok_or(TokenRefused::Subject)?;
        let account = subject.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let (namespace, name) = account.filter(|(_, name)| !name.contains(':')).ok_or(TokenRefused::Subject)?;
        let own = claims.get("kubernetes.io").and_then(Value::as_object).ok_or(TokenRefused::Claims)?;
        let said = own.get("serviceaccount").and_then(Value::as_object).and_then(|account| account.get("name")).and_then(Value::as_str);
        if own.get("namespace").and_then(Value::as_str) != Some(namespace) || said != Some(name) {
            return Err(TokenRefused::Claims);
        }
        let bound = |kind: &str| match own.get(kind) {
            None => Ok(None),
            Some(Value::Object(object)) => {
                let both = text(object, "name").zip(text(object, "uid")).filter(|(name, uid)| !name.is_empty() && !uid.is_empty());
                both.map(|(name, uid)| Some(Bound { name, uid })).ok_or(TokenRefused::Claims)
            }
            Some(_) => Err(TokenRefused::Claims),
        };
        let (pod, node) = (bound("pod")?, bound("node")?);
        Ok(Self { namespace: namespace.into(), name: name.into(), pod, node, token: text(claims, "jti"), expires, presented: false })
    }
}

fn check_header(jws: &Jws<'_>) -> Result<(), TokenRefused> {
    if jws.header().keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
        return Err(TokenRefused::Header);
    }
    if jws.header().get("typ").is_some_and(|typ| !typ.as_str().is_some_and(|typ| typ.eq_ignore_ascii_case("JWT"))) {
        return Err(TokenRefused::Typ);
    }
    let known = jws.header().get("alg").and_then(Value::as_str).is_some_and(|alg| ALGORITHMS.contains(&alg));
    if known { Ok(()) } else { Err(TokenRefused::Algorithm) }
}

fn check_audience(jws: &Jws<'_>, audience: &Arc<str>) -> Result<(), TokenRefused> {
    let meant = match jws.unverified().get("aud") {
        Some(Value::String(one)) => **audience == **one,
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => many.iter().any(|one| one.as_str() == Some(audience)),
        Some(_) | None => return Err(TokenFault::Claim("aud").into()),
    };
    if meant { Ok(()) } else { Err(TokenRefused::Audience(Arc::clone(audience))) }
}

fn check_dates(jws: &Jws<'_>, now: Timestamp) -> Result<Timestamp, TokenRefused> {
    let end = jws.date("exp")?.ok_or(TokenFault::Claim("exp"))?;
    let expires = Timestamp::from_second(end).map_err(|_| TokenFault::Claim("exp"))?;
    if expires <= now {
        return Err(TokenRefused::Expired(expires));
    }
    let began = jws.date("iat")?.ok_or(TokenFault::Claim("iat"))?;
    for at in [Some(began), jws.date("nbf")?].into_iter().flatten() {
        if at > now.as_second().saturating_add(LEEWAY) {
            return Err(TokenFault::NotYet.into());
        }
    }
    let longest = i64::try_from(LONGEST.as_secs()).unwrap_or(i64::MAX);
    if end.saturating_sub(began) > longest { Err(TokenRefused::TooLong) } else { Ok(expires) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jose::{Algorithm, SigningKey, jwks, parse_foreign_keys};

    const NOW: i64 = 1_800_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn demands() -> Demands {
        Demands { issuer: "https://cluster".into(), audience: "exeat".into(), pod: true, node: None }
    }

    fn good() -> Value {
        json!({
            "iss": "https://cluster", "aud": ["exeat"], "sub": "system:serviceaccount:billing:app",
            "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3600, "jti": "j-1",
            "kubernetes.io": {
                "namespace": "billing",
                "serviceaccount": { "name": "app", "uid": "u-1" },
                "pod": { "name": "app-0", "uid": "6b2f7a0e-8d1c-4c57-9a51-0d2f7c3b9e11" },
                "node": { "name": "n1", "uid": "u-3" },
            },
        })
    }

    fn with(path: &str, value: Value) -> Value {
        let mut claims = good();
        *claims.pointer_mut(path).unwrap() = value;
        claims
    }

    fn without(path: &str) -> Value {
        let mut claims = good();
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = if parent.is_empty() { &mut claims } else { claims.pointer_mut(parent).unwrap() };
        parent.as_object_mut().unwrap().remove(name).unwrap();
        claims
    }

    fn judge(key: &SigningKey, typ: &str, claims: &Value, demands: &Demands) -> Result<ServiceAccount, TokenRefused> {
        let keys = parse_foreign_keys(&jwks(std::slice::from_ref(key.public()))).unwrap();
        ServiceAccount::verify(key.sign(typ, claims).unwrap().expose(), &keys, demands, now())
    }

    #[test]
    fn a_projected_token_proves_account_pod_and_node() {
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let (key, _) = SigningKey::generate(algorithm).unwrap();
            let account = judge(&key, "JWT", &good(), &demands()).unwrap();
            assert_eq!((&*account.namespace, &*account.name, account.token.as_deref()), ("billing", "app", Some("j-1")));
            assert_eq!(account.pod.unwrap().name, "app-0".into());
            assert_eq!(account.node.unwrap().name, "n1".into());
            assert_eq!(account.expires.as_second(), NOW + 3600);
        }
        let (key, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let loose = Demands { pod: false, ..demands() };
        assert_eq!(judge(&key, "JWT", &without("/kubernetes.io/pod"), &loose).unwrap().pod, None);
        assert!(judge(&key, "JWT", &good(), &Demands { node: Some("n1".into()), ..demands() }).is_ok());
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn every_other_token_is_refused_with_the_operators_words() {
        let (key, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let mut told = Vec::new();
        let mut vectors = 0;
        let mut refuse = |what: &str, outcome: Result<ServiceAccount, TokenRefused>| {
            vectors += 1;
            told.push(format!("{what}: {}", outcome.expect_err(what)));
        };
        for (what, claims) in [
            ("another issuer", with("/iss", json!("https://cluster/"))),
            ("issuer of another type", with("/iss", json!(["https://cluster"]))),
            ("another audience", with("/aud", json!(["https://kubernetes.default.svc"]))),
            ("no audience", without("/aud")),
            ("a mixed audience", with("/aud", json!(["exeat", 1]))),
            ("expired", with("/exp", json!(NOW))),
            ("no end", without("/exp")),
            ("an end in words", with("/exp", json!("1800003600"))),
            ("an end beyond time", with("/exp", json!(9_007_199_254_740_992_i64))),
            ("no beginning", without("/iat")),
            ("issued in the future", with("/iat", json!(NOW + 61))),
            ("not yet valid", with("/nbf", json!(NOW + 61))),
            ("a year long", with("/exp", json!(NOW + 31_536_000))),
            ("a user", with("/sub", json!("alice@example.com"))),
            ("a node", with("/sub", json!("system:node:n1"))),
            ("a third part", with("/sub", json!("system:serviceaccount:billing:app:x"))),
            ("another name than the claim's", with("/sub", json!("system:serviceaccount:billing:admin"))),
            ("another namespace than the claim's", with("/kubernetes.io/namespace", json!("kube-system"))),
            ("a legacy token", without("/kubernetes.io")),
            ("no account in the claim", without("/kubernetes.io/serviceaccount")),
            ("no pod", without("/kubernetes.io/pod")),
            ("a pod without uid", without("/kubernetes.io/pod/uid")),
            ("a pod of another type", with("/kubernetes.io/pod", json!("app-0"))),
        ] {
            refuse(what, judge(&key, "JWT", &claims, &demands()));
        }
        refuse("another typ", judge(&key, "at+jwt", &good(), &demands()));
        let on = |node: &str| Demands { node: Some(node.into()), ..demands() };
        refuse("another node", judge(&key, "JWT", &good(), &on("n2")));
        refuse("no node", judge(&key, "JWT", &without("/kubernetes.io/node"), &on("n1")));
        let keys = parse_foreign_keys(&jwks(std::slice::from_ref(key.public()))).unwrap();
        let (other, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let token = |key: &SigningKey| String::from_utf8(key.sign("JWT", &good()).unwrap().expose().to_vec()).unwrap();
        let (mine, foreign) = (token(&key), token(&other));
        let verify = |text: &str| ServiceAccount::verify(text.as_bytes(), &keys, &demands(), now());
        refuse("a key of nobody", verify(&foreign));
        let (head, _) = mine.rsplit_once('.').unwrap();
        refuse("another's signature", verify(&format!("{head}.{}", foreign.rsplit('.').next().unwrap())));
        refuse("no signature", verify(&format!("{head}.")));
        refuse("no token", verify("secret-of-a-secret"));
        let b64 = |value: &Value| {
            use base64::Engine as _;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
        };
        let payload = mine.split('.').nth(1).unwrap();
        let kid = key.public().kid().to_string();
        for (what, header) in [
            ("alg none", json!({ "alg": "none", "kid": kid })),
            ("a shared secret", json!({ "alg": "HS256", "kid": kid })),
            ("EdDSA", json!({ "alg": "EdDSA", "kid": kid })),
            ("another alg than the key's", json!({ "alg": "RS256", "kid": kid })),
            ("the address of a key", json!({ "alg": "ES256", "kid": kid, "jku": "https://evil" })),
            ("a key of its own", json!({ "alg": "ES256", "kid": kid, "jwk": key.public().jwk() })),
            ("crit", json!({ "alg": "ES256", "kid": kid, "crit": ["exp"] })),
            ("no kid", json!({ "alg": "ES256" })),
        ] {
            refuse(what, verify(&format!("{}.{payload}.{}", b64(&header), mine.rsplit('.').next().unwrap())));
        }
        println!("vectors: {vectors} refused");
        assert!(vectors >= 38 && !told.concat().contains("secret-of-a-secret"));
        insta::assert_snapshot!(told.join("\n"), @"
        another issuer: the token's issuer is not `https://cluster`; `kubectl create token` and the cluster's --service-account-issuer show what it is
        issuer of another type: the token is refused: claim `iss` is missing or not of its type
        another audience: the token is not meant for audience `exeat`; set `audience` in the pod's serviceAccountToken projection
        no audience: the token is refused: claim `aud` is missing or not of its type
        a mixed audience: the token is refused: claim `aud` is missing or not of its type
        expired: the token expired at 2027-01-15T08:00:00Z; the kubelet renews the mounted file, and the workload must read it again
        no end: the token is refused: claim `exp` is missing or not of its type
        an end in words: the token is refused: claim `exp` is missing or not of its type
        an end beyond time: the token is refused: claim `exp` is missing or not of its type
        no beginning: the token is refused: claim `iat` is missing or not of its type
        issued in the future: the token is refused: it is not valid yet
        not yet valid: the token is refused: it is not valid yet
        a year long: the token is valid for more than 24 h; use a projected token with `expirationSeconds`
        a user: the token's subject is no service account (system:serviceaccount:NAMESPACE:NAME)
        a node: the token's subject is no service account (system:serviceaccount:NAMESPACE:NAME)
        a third part: the token's subject is no service account (system:serviceaccount:NAMESPACE:NAME)
        another name than the claim's: the token's claim `kubernetes.io` is missing or contradicts its subject; legacy tokens of secrets are not taken
        another namespace than the claim's: the token's claim `kubernetes.io` is missing or contradicts its subject; legacy tokens of secrets are not taken
        a legacy token: the token's claim `kubernetes.io` is missing or contradicts its subject; legacy tokens of secrets are not taken
        no account in the claim: the token's claim `kubernetes.io` is missing or contradicts its subject; legacy tokens of secrets are not taken
        no pod: the token is bound to no pod; use a projected token of the pod, or write `bound_to_pod: false`
        a pod without uid: the token's claim `kubernetes.io` is missing or contradicts its subject; legacy tokens of secrets are not taken
        a pod of another type: the token's claim `kubernetes.io` is missing or contradicts its subject; legacy tokens of secrets are not taken
        another typ: the token's typ is not JWT
        another node: the token's pod is not bound to node `n2`
        no node: the token's pod is not bound to node `n1`
        a key of nobody: the token is refused: its kid is unknown
        another's signature: the token is refused: its signature does not verify
        no signature: the token is refused: its signature does not verify
        no token: the token is refused: it is no compact JWS
        alg none: the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512
        a shared secret: the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512
        EdDSA: the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512
        another alg than the key's: the token is refused: its alg is not that of the key
        the address of a key: the token's header has more than alg, kid and typ: keys, or addresses of keys, are never taken from a token
        a key of its own: the token's header has more than alg, kid and typ: keys, or addresses of keys, are never taken from a token
        crit: the token's header has more than alg, kid and typ: keys, or addresses of keys, are never taken from a token
        no kid: the token is refused: its kid is unknown
        ");
    }
}
