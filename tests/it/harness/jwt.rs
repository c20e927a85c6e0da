//! Tokens as a resource server judges them: by the keys that exeat serves, never by exeat's own code.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

/// Verifies a token by the served keys, for this audience, and gives its claims.
pub fn verify(token: &str, keys: &str, audience: &str) -> Result<Value, String> {
    let keys: JwkSet = serde_json::from_str(keys).map_err(|error| format!("the JWKS: {error}"))?;
    let header = decode_header(token).map_err(|error| format!("the header: {error}"))?;
    if header.typ.as_deref() != Some("at+jwt") {
        return Err(format!("typ is {:?}, RFC 9068 wants at+jwt", header.typ));
    }
    let kid = header.kid.ok_or("no kid")?;
    let key = keys.find(&kid).ok_or_else(|| format!("no key {kid} in the JWKS"))?;
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
    validation.leeway = 0;
    let decoded = decode::<Value>(token, &DecodingKey::from_jwk(key).map_err(|error| error.to_string())?, &validation)
        .map_err(|error| format!("the token: {error}"))?;
    for claim in ["iat", "jti", "client_id"] {
        if decoded.claims.get(claim).is_none() {
            return Err(format!("no claim {claim}"));
        }
    }
    Ok(decoded.claims)
}

/// The claims, unverified, for tests that only compare.
pub fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).expect("a compact JWS");
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}
