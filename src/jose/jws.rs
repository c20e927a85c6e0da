//! Our own keys and tokens: ES256 and RS256, signing, and strict verification of one profile.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::secret::Secret;

/// Largest token that is looked at, in bytes.
pub(super) const MAX_TOKEN: usize = 16 * 1024;
/// 9999-12-31: what is later is no date but an overflow in waiting.
const MAX_DATE: i64 = 253_402_300_799;

/// Signature algorithms (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, for verifiers that take nothing else.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    /// The `alg` value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Es256, Self::Rs256].into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Why a key or a token is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoseError {
    /// Not a private key that we sign with.
    #[error("the key is not usable: {0}; give an unencrypted PEM private key, P-256 or RSA of 2048 to 4096 bits")]
    Key(&'static str),
    /// The cryptographic library failed.
    #[error("the {0} operation failed in the cryptographic library")]
    Crypto(&'static str),
    /// Claims that are no JSON.
    #[error("the claims cannot be written as JSON")]
    Claims,
    /// A token that does not hold.
    #[error("the token is refused: {0}")]
    Token(TokenFault),
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Not three base64url parts with JSON objects of distinct names.
    #[error("it is no compact JWS")]
    Form,
    /// Another `typ` than expected (RFC 8725 section 3.11).
    #[error("its typ is not the expected one")]
    Typ,
    /// `crit`, `b64`, or a key or key address inside the header.
    #[error("its header asks for what is not supported")]
    Header,
    /// No key of that `kid`.
    #[error("its kid is unknown")]
    UnknownKey,
    /// Its `alg` is not that of the key.
    #[error("its alg is not that of the key")]
    Algorithm,
    /// The signature does not verify.
    #[error("its signature does not verify")]
    Signature,
    /// A claim is missing or of the wrong JSON type.
    #[error("claim `{0}` is missing or not of its type")]
    Claim(&'static str),
    /// Issued by somebody else.
    #[error("its issuer is not the expected one")]
    Issuer,
    /// Meant for somebody else.
    #[error("it is not meant for this audience")]
    Audience,
    /// Over.
    #[error("it has expired")]
    Expired,
    /// Not yet valid.
    #[error("it is not valid yet")]
    NotYet,
}

impl From<TokenFault> for JoseError {
    fn from(fault: TokenFault) -> Self {
        Self::Token(fault)
    }
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A private key, parsed once, with its public half as JWK.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

/// The public half of a key: what a JWKS lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Algorithm,
    kid: Arc<str>,
    parameters: Parameters,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Parameters {
    Ec { x: String, y: String },
    Rsa { n: String, e: String },
}

impl SigningKey {
    /// A new key, and its PKCS#8 form to keep.
    ///
    /// # Errors
    /// The library failed.
    pub fn generate(algorithm: Algorithm) -> Result<(Self, Secret), JoseError> {
        let failed = |_| JoseError::Crypto("key generation");
        let pkcs8 = match algorithm {
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
                Secret::new(pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec())
            }
            Algorithm::Rs256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
                Secret::new(pair.as_der().map_err(failed)?.as_ref().to_vec())
            }
        };
        Ok((Self::from_pkcs8(algorithm, &pkcs8)?, pkcs8))
    }

    /// From PKCS#8 DER, as [`SigningKey::generate`] gave it.
    ///
    /// # Errors
    /// Not such a key.
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: &Secret) -> Result<Self, JoseError> {
        Self::from_der(algorithm, pkcs8.expose())
    }

    /// From PEM (PKCS#8, SEC 1 or PKCS#1); the algorithm follows from the kind of key.
    ///
    /// # Errors
    /// Not an unencrypted P-256 or RSA private key.
    pub fn from_pem(pem: &Secret) -> Result<Self, JoseError> {
        let der = PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| JoseError::Key("there is no private key in PEM form"))?;
        let bytes = der.secret_der();
        Self::from_der(Algorithm::Es256, bytes).or_else(|_| Self::from_der(Algorithm::Rs256, bytes))
    }

    fn from_der(algorithm: Algorithm, der: &[u8]) -> Result<Self, JoseError> {
        match algorithm {
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
                    .map_err(|_| JoseError::Key("it is no P-256 key"))?;
                let public = PublicKey::ec(pair.public_key().as_ref())?;
                Ok(Self { pair: Pair::Ec(pair), public })
            }
            Algorithm::Rs256 => {
                let pair = RsaKeyPair::from_pkcs8(der)
                    .or_else(|_| RsaKeyPair::from_der(der))
                    .map_err(|_| JoseError::Key("it is neither a P-256 nor an RSA key"))?;
                if !(256..=512).contains(&pair.public_modulus_len()) {
                    return Err(JoseError::Key("an RSA key must have 2048 to 4096 bits"));
                }
                let half = pair.public_key();
                let public =
                    PublicKey::rsa(half.modulus().big_endian_without_leading_zero(), half.exponent().big_endian_without_leading_zero())?;
                Ok(Self { pair: Pair::Rsa(pair), public })
            }
        }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs claims into a compact JWS with `typ`, `alg` and `kid` in its header.
    ///
    /// # Errors
    /// Claims that are no JSON, or the library failed.
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<Secret, JoseError> {
        let header = json!({ "typ": typ, "alg": self.public.algorithm.name(), "kid": &*self.public.kid });
        let payload = Zeroizing::new(serde_json::to_vec(claims).map_err(|_| JoseError::Claims)?);
        // One allocation of the final size: a grown buffer would leave a copy of the token behind, unzeroed.
        let mut token = Zeroizing::new(String::with_capacity(header.to_string().len() * 2 + payload.len() * 2 + 700));
        B64.encode_string(header.to_string(), &mut token);
        token.push('.');
        B64.encode_string(&*payload, &mut token);
        let signature = self.signature(token.as_bytes())?;
        token.push('.');
        B64.encode_string(signature, &mut token);
        Ok(Secret::new(token.as_bytes().to_vec()))
    }

    /// Of this very message.
    pub(super) fn signature(&self, message: &[u8]) -> Result<Vec<u8>, JoseError> {
        let failed = |_| JoseError::Crypto("signing");
        match &self.pair {
            Pair::Ec(pair) => Ok(pair.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }

    /// Signs and verifies once: at start, so that a broken key or library is found before the first request.
    ///
    /// # Errors
    /// What we sign does not verify.
    pub fn self_test(&self, now: Timestamp) -> Result<(), JoseError> {
        let (iat, exp) = (now.as_second(), now.as_second().saturating_add(60));
        let claims = json!({ "iss": "exeat:self-test", "aud": "exeat:self-test", "sub": "exeat", "iat": iat, "exp": exp });
        let token = self.sign("self-test+jwt", &claims)?;
        let expected = Expected { typ: "self-test+jwt", issuer: "exeat:self-test", audience: "exeat:self-test", leeway: Duration::ZERO };
        verify(token.expose(), std::slice::from_ref(&self.public), &expected, now).map(drop)
    }
}

impl PublicKey {
    /// `None`: a key of a kind or for a use that is not ours.
    fn from_jwk(key: &Value) -> Result<Option<Self>, JoseError> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let number =
            |name: &str| B64.decode(text(name).unwrap_or_default()).map_err(|_| JoseError::Key("a number of a JWK is not base64url"));
        if text("use").is_some_and(|usage| usage != "sig") {
            return Ok(None);
        }
        match (text("kty"), text("crv"), text("alg")) {
            (Some("EC"), Some("P-256"), None | Some("ES256")) => {
                let point: Vec<u8> = std::iter::once(4).chain(number("x")?).chain(number("y")?).collect();
                Self::ec(&point).map(Some)
            }
            (Some("RSA"), None, None | Some("RS256")) => Self::rsa(&number("n")?, &number("e")?).map(Some),
            _ => Ok(None),
        }
    }

    fn ec(point: &[u8]) -> Result<Self, JoseError> {
        let (Some(4), Some(x), Some(y), 65) = (point.first(), point.get(1..33), point.get(33..65), point.len()) else {
            return Err(JoseError::Key("its public point is not in uncompressed form"));
        };
        Ok(Self::new(Algorithm::Es256, Parameters::Ec { x: B64.encode(x), y: B64.encode(y) }))
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, JoseError> {
        if modulus.len() < 256 {
            return Err(JoseError::Key("an RSA key must have 2048 to 4096 bits"));
        }
        Ok(Self::new(Algorithm::Rs256, Parameters::Rsa { n: B64.encode(modulus), e: B64.encode(exponent) }))
    }

    fn new(algorithm: Algorithm, parameters: Parameters) -> Self {
        // RFC 7638 section 3: required members only, in lexicographic order, without white space.
        let canonical = match &parameters {
            Parameters::Ec { x, y } => format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#),
            Parameters::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
        };
        Self { algorithm, kid: B64.encode(digest(&SHA256, canonical.as_bytes())).into(), parameters }
    }

    /// The RFC 7638 thumbprint (SHA-256), used as `kid`.
    #[must_use]
    pub const fn kid(&self) -> &Arc<str> {
        &self.kid
    }

    /// The one algorithm of this key.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// As JWK (RFC 7517).
    #[must_use]
    pub fn jwk(&self) -> Value {
        let (alg, kid) = (self.algorithm.name(), &*self.kid);
        match &self.parameters {
            Parameters::Ec { x, y } => json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": alg, "kid": kid }),
            Parameters::Rsa { n, e } => json!({ "kty": "RSA", "n": n, "e": e, "use": "sig", "alg": alg, "kid": kid }),
        }
    }

    fn decoding(&self) -> Result<(jsonwebtoken::Algorithm, jsonwebtoken::DecodingKey), JoseError> {
        let bad = |_| JoseError::Key("its public half is malformed");
        Ok(match &self.parameters {
            Parameters::Ec { x, y } => (jsonwebtoken::Algorithm::ES256, jsonwebtoken::DecodingKey::from_ec_components(x, y).map_err(bad)?),
            Parameters::Rsa { n, e } => {
                (jsonwebtoken::Algorithm::RS256, jsonwebtoken::DecodingKey::from_rsa_components(n, e).map_err(bad)?)
            }
        })
    }
}

/// A JWK Set (RFC 7517 section 5) of public keys.
#[must_use]
pub fn jwks(keys: &[PublicKey]) -> Vec<u8> {
    let keys: Vec<Value> = keys.iter().map(PublicKey::jwk).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

/// The public keys of a JWK Set that this house can verify with: P-256 for ES256, RSA for RS256, `use` absent or `sig`. Other keys are
/// passed over, as RFC 7517 section 5 asks; the `kid` is computed again, never believed.
///
/// # Errors
/// Not a JWK Set, or a key whose numbers are malformed.
pub fn parse_jwks(set: &[u8]) -> Result<Vec<PublicKey>, JoseError> {
    let set: Value = serde_json::from_slice(set).map_err(|_| JoseError::Key("the JWK Set is not JSON"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or(JoseError::Key("a JWK Set has `keys`"))?;
    keys.iter().filter_map(|key| PublicKey::from_jwk(key).transpose()).collect()
}

/// What a verifier demands.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// `typ`, with or without `application/` in the token: `at+jwt` for RFC 9068.
    pub typ: &'a str,
    /// Exact `iss`.
    pub issuer: &'a str,
    /// Must be `aud` or among it.
    pub audience: &'a str,
    /// Clock skew that is forgiven; at most 60 s is used.
    pub leeway: Duration,
}

/// Verifies a compact JWS strictly (RFC 8725, RFC 9068 section 4) and gives its claims.
///
/// # Errors
/// [`JoseError::Token`] with what is wrong; the token's bytes are in no message.
pub fn verify(token: &[u8], keys: &[PublicKey], expected: &Expected<'_>, now: Timestamp) -> Result<Map<String, Value>, JoseError> {
    let text = std::str::from_utf8(token).map_err(|_| TokenFault::Form)?;
    let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Form)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenFault::Form)?;
    if text.len() > MAX_TOKEN || payload.contains('.') {
        return Err(TokenFault::Form.into());
    }
    let header = object(header)?;
    check_typ(&header, expected.typ)?;
    if ["crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "enc"].iter().any(|name| header.contains_key(*name)) {
        return Err(TokenFault::Header.into());
    }
    let kid = text_of(&header, "kid").map_err(|_| TokenFault::UnknownKey)?;
    let key = keys.iter().find(|key| &*key.kid == kid).ok_or(TokenFault::UnknownKey)?;
    if text_of(&header, "alg").ok().and_then(Algorithm::parse) != Some(key.algorithm) {
        return Err(TokenFault::Algorithm.into());
    }
    let (algorithm, decoding) = key.decoding()?;
    if !jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &decoding, algorithm).map_err(|_| TokenFault::Signature)? {
        return Err(TokenFault::Signature.into());
    }
    let claims = object(payload)?;
    check_claims(&claims, expected, now)?;
    Ok(claims)
}

fn check_typ(header: &Map<String, Value>, expected: &str) -> Result<(), TokenFault> {
    let typ = text_of(header, "typ").map_err(|_| TokenFault::Typ)?;
    let bare = match typ.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        Some(_) | None => typ,
    };
    if bare.eq_ignore_ascii_case(expected) { Ok(()) } else { Err(TokenFault::Typ) }
}

fn check_claims(claims: &Map<String, Value>, expected: &Expected<'_>, now: Timestamp) -> Result<(), TokenFault> {
    if text_of(claims, "iss")? != expected.issuer {
        return Err(TokenFault::Issuer);
    }
    let meant = match claims.get("aud") {
        Some(Value::String(one)) => one == expected.audience,
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => many.iter().any(|one| one == expected.audience),
        Some(_) | None => return Err(TokenFault::Claim("aud")),
    };
    if !meant {
        return Err(TokenFault::Audience);
    }
    let leeway = i64::try_from(expected.leeway.as_secs().min(60)).unwrap_or(60);
    let now = now.as_second();
    if date(claims, "exp")?.ok_or(TokenFault::Claim("exp"))?.saturating_add(leeway) <= now {
        return Err(TokenFault::Expired);
    }
    for name in ["nbf", "iat"] {
        if date(claims, name)?.is_some_and(|at| at > now.saturating_add(leeway)) {
            return Err(TokenFault::NotYet);
        }
    }
    Ok(())
}

/// A `NumericDate` as a whole number of seconds. A string or an absurd number is a fault, never "absent": that confusion is how
/// expired tokens were once accepted (CVE-2026-25537).
pub(super) fn date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, TokenFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_i64().filter(|at| (0..=MAX_DATE).contains(at)).map(Some).ok_or(TokenFault::Claim(name)),
    }
}

pub(super) fn text_of<'a>(object: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, TokenFault> {
    object.get(name).and_then(Value::as_str).ok_or(TokenFault::Claim(name))
}

pub(super) fn object(part: &str) -> Result<Map<String, Value>, TokenFault> {
    let bytes = B64.decode(part).map_err(|_| TokenFault::Form)?;
    serde_json::from_slice::<Distinct>(&bytes).map(|distinct| distinct.0).map_err(|_| TokenFault::Form)
}

/// A JSON object without repeated names: two readers of one token must not see two values (RFC 7515 section 4).
struct Distinct(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Distinct {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Distinct;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut access: A) -> Result<Distinct, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("repeated name"));
                    }
                }
                Ok(Distinct(map))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected<'static> = Expected { typ: "at+jwt", issuer: "https://i", audience: "https://a", leeway: Duration::ZERO };

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn good() -> Value {
        json!({ "iss": "https://i", "aud": "https://a", "sub": "s", "iat": 1_800_000_000, "exp": 1_800_000_060 })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = good();
        claims[name] = value;
        claims
    }

    fn fault(key: &SigningKey, typ: &str, claims: &Value) -> Option<TokenFault> {
        match verify(key.sign(typ, claims).unwrap().expose(), std::slice::from_ref(key.public()), &EXPECTED, now()) {
            Ok(_) => None,
            Err(JoseError::Token(fault)) => Some(fault),
            Err(other) => panic!("{other}"),
        }
    }

    /// A token with a header of our choosing, signed by the key.
    fn forged(key: &SigningKey, header: &Value) -> Vec<u8> {
        let mut token = format!("{}.{}", B64.encode(header.to_string()), B64.encode(good().to_string()));
        let signature = key.signature(token.as_bytes()).unwrap();
        token.push('.');
        B64.encode_string(signature, &mut token);
        token.into_bytes()
    }

    #[test]
    fn both_algorithms_sign_and_verify() {
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let (key, pkcs8) = SigningKey::generate(algorithm).unwrap();
            key.self_test(now()).unwrap();
            assert_eq!(fault(&key, "at+jwt", &good()), None);
            assert_eq!(fault(&key, "application/AT+JWT", &good()), None);
            let again = SigningKey::from_pkcs8(algorithm, &pkcs8).unwrap();
            assert_eq!(again.public(), key.public());
            let pem = format!(
                "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
                base64::engine::general_purpose::STANDARD.encode(pkcs8.expose())
            );
            assert_eq!(SigningKey::from_pem(&Secret::new(pem)).unwrap().public(), key.public());
        }
    }

    #[test]
    fn claims_of_the_wrong_type_or_value_are_refused() {
        let (key, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        for (claims, expected) in [
            (with("exp", json!("1800000060")), TokenFault::Claim("exp")),
            (with("exp", json!(1_800_000_060.5)), TokenFault::Claim("exp")),
            (with("exp", json!(9_007_199_254_740_992_i64)), TokenFault::Claim("exp")),
            (with("exp", json!(-1)), TokenFault::Claim("exp")),
            (with("exp", Value::Null), TokenFault::Claim("exp")),
            (with("exp", json!(1_800_000_000)), TokenFault::Expired),
            (with("nbf", json!("0")), TokenFault::Claim("nbf")),
            (with("nbf", json!(1_800_000_001)), TokenFault::NotYet),
            (with("iat", json!(1_800_000_001)), TokenFault::NotYet),
            (with("iss", json!("https://other")), TokenFault::Issuer),
            (with("iss", json!(["https://i"])), TokenFault::Claim("iss")),
            (with("aud", json!("https://b")), TokenFault::Audience),
            (with("aud", json!(["https://b"])), TokenFault::Audience),
            (with("aud", json!(["https://a", 1])), TokenFault::Claim("aud")),
            (with("aud", Value::Null), TokenFault::Claim("aud")),
        ] {
            assert_eq!(fault(&key, "at+jwt", &claims), Some(expected), "{claims}");
        }
        assert_eq!(fault(&key, "JWT", &good()), Some(TokenFault::Typ));
        assert_eq!(fault(&key, "at+jwt", &with("aud", json!(["https://b", "https://a"]))), None);
        let mut endless = good();
        endless.as_object_mut().unwrap().remove("exp");
        assert_eq!(fault(&key, "at+jwt", &endless), Some(TokenFault::Claim("exp")));
    }

    #[test]
    fn the_algorithm_is_the_keys_and_never_the_tokens() {
        let (key, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let kid = &**key.public().kid();
        let keys = std::slice::from_ref(key.public());
        for (header, expected) in [
            (json!({ "typ": "at+jwt", "alg": "none", "kid": kid }), TokenFault::Algorithm),
            (json!({ "typ": "at+jwt", "alg": "HS256", "kid": kid }), TokenFault::Algorithm),
            (json!({ "typ": "at+jwt", "alg": "RS256", "kid": kid }), TokenFault::Algorithm),
            (json!({ "typ": "at+jwt", "alg": "es256", "kid": kid }), TokenFault::Algorithm),
            (json!({ "typ": "at+jwt", "kid": kid }), TokenFault::Algorithm),
            (json!({ "typ": "at+jwt", "alg": "ES256" }), TokenFault::UnknownKey),
            (json!({ "typ": "at+jwt", "alg": "ES256", "kid": "other" }), TokenFault::UnknownKey),
            (json!({ "alg": "ES256", "kid": kid }), TokenFault::Typ),
            (json!({ "typ": "at+jwt", "alg": "ES256", "kid": kid, "crit": ["exp"] }), TokenFault::Header),
            (json!({ "typ": "at+jwt", "alg": "ES256", "kid": kid, "jwk": key.public().jwk() }), TokenFault::Header),
            (json!({ "typ": "at+jwt", "alg": "ES256", "kid": kid, "jku": "https://evil" }), TokenFault::Header),
        ] {
            assert_eq!(verify(&forged(&key, &header), keys, &EXPECTED, now()), Err(expected.into()), "{header}");
        }
        let sound = json!({ "typ": "at+jwt", "alg": "ES256", "kid": kid });
        assert!(verify(&forged(&key, &sound), keys, &EXPECTED, now()).is_ok());
    }

    #[test]
    fn altered_tokens_are_refused() {
        let (key, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let (other, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let keys = std::slice::from_ref(key.public());
        let token = key.sign("at+jwt", &good()).unwrap();
        let text = std::str::from_utf8(token.expose()).unwrap();
        let mut parts: Vec<&str> = text.split('.').collect();
        let foreign = other.sign("at+jwt", &good()).unwrap();
        let foreign = std::str::from_utf8(foreign.expose()).unwrap().rsplit('.').next().unwrap();
        parts[2] = foreign;
        assert_eq!(verify(parts.join(".").as_bytes(), keys, &EXPECTED, now()), Err(TokenFault::Signature.into()));
        for text in
            [String::new(), "a.b".into(), "..".into(), format!("{text}."), format!("{text}.x"), text.replace('.', ""), format!(" {text}")]
        {
            assert!(verify(text.as_bytes(), keys, &EXPECTED, now()).is_err(), "{text}");
        }
        let twice = format!("{}.{}", B64.encode(r#"{"typ":"at+jwt","alg":"ES256","alg":"none","kid":"x"}"#), B64.encode("{}"));
        assert_eq!(verify(format!("{twice}.AA").as_bytes(), keys, &EXPECTED, now()), Err(TokenFault::Form.into()));
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let key = PublicKey::rsa(&B64.decode(n).unwrap(), &B64.decode("AQAB").unwrap()).unwrap();
        assert_eq!(&**key.kid(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        let listed: Value = serde_json::from_slice(&jwks(&[key])).unwrap();
        assert_eq!(listed["keys"][0]["kid"], "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn unfit_keys_are_refused() {
        for pem in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ] {
            assert!(matches!(SigningKey::from_pem(&Secret::new(pem)), Err(JoseError::Key(_))), "{pem}");
        }
    }
}
