//! Tokens and keys of other issuers: every asymmetric algorithm of RFC 7518 section 3.1, and a `kid` as the issuer wrote it.

use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::{Map, Value};

use super::jws::{JoseError, MAX_TOKEN, TokenFault, date, object, text_of};

/// Most keys of one set: what is longer is no key set but a burden.
const MAX_KEYS: usize = 256;

/// A public key of another issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// As its issuer names it; empty when it does not.
    pub kid: Arc<str>,
    /// The JWK's `use`.
    pub usage: Option<Box<str>>,
    /// The JWK's `alg`: then no other is taken.
    alg: Option<Box<str>>,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// The one algorithm of its curve, and the point in uncompressed form.
    Ec(&'static str, Box<[u8]>),
    Rsa {
        n: Box<[u8]>,
        e: Box<[u8]>,
    },
}

impl ForeignKey {
    /// From a JWK (RFC 7517). `None`: a kind of key that verifies none of these algorithms.
    ///
    /// # Errors
    /// Numbers that are no base64url or have the wrong length.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Option<Self>, JoseError> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let number = |name: &str| match B64.decode(text(name).unwrap_or_default()) {
            Ok(bytes) if !bytes.is_empty() => Ok(bytes),
            Ok(_) | Err(_) => Err(JoseError::Key("a number of a JWK is missing or not base64url")),
        };
        let kind = match (text("kty"), text("crv")) {
            (Some("EC"), Some(curve)) => {
                let (alg, size) = match curve {
                    "P-256" => ("ES256", 32),
                    "P-384" => ("ES384", 48),
                    "P-521" => ("ES512", 66),
                    _ => return Ok(None),
                };
                let (x, y) = (number("x")?, number("y")?);
                if x.len() != size || y.len() != size {
                    return Err(JoseError::Key("the coordinates of a JWK have not the length of its curve"));
                }
                Kind::Ec(alg, std::iter::once(4).chain(x).chain(y).collect())
            }
            (Some("RSA"), _) => {
                let (n, e) = (number("n")?, number("e")?);
                if !(256..=1024).contains(&n.len()) {
                    return Err(JoseError::Key("an RSA key must have 2048 to 8192 bits"));
                }
                Kind::Rsa { n: n.into(), e: e.into() }
            }
            _ => return Ok(None),
        };
        let owned = |name: &str| text(name).map(Box::from);
        Ok(Some(Self { kid: text("kid").unwrap_or_default().into(), usage: owned("use"), alg: owned("alg"), kind }))
    }

    fn verify(&self, alg: &str, message: &[u8], signature: &[u8]) -> Result<(), TokenFault> {
        if self.alg.as_deref().is_some_and(|own| own != alg) {
            return Err(TokenFault::Algorithm);
        }
        let verified = match &self.kind {
            Kind::Ec(own, _) if *own != alg => return Err(TokenFault::Algorithm),
            Kind::Ec(own, point) => {
                let parameters = match *own {
                    "ES256" => &ECDSA_P256_SHA256_FIXED,
                    "ES384" => &ECDSA_P384_SHA384_FIXED,
                    _ => &ECDSA_P521_SHA512_FIXED,
                };
                UnparsedPublicKey::new(parameters, point).verify(message, signature)
            }
            Kind::Rsa { n, e } => {
                let parameters = rsa(alg).ok_or(TokenFault::Algorithm)?;
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
        };
        verified.map_err(|_| TokenFault::Signature)
    }
}

fn rsa(alg: &str) -> Option<&'static RsaParameters> {
    Some(match alg {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// The keys of a JWK Set (RFC 7517 section 5) as their issuer names them; kinds that verify nothing here are passed over.
///
/// # Errors
/// Not a JWK Set, too many keys, or a key whose numbers are malformed.
pub fn parse_foreign_keys(set: &[u8]) -> Result<Vec<ForeignKey>, JoseError> {
    let set: Value = serde_json::from_slice(set).map_err(|_| JoseError::Key("the JWK Set is not JSON"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or(JoseError::Key("a JWK Set has `keys`"))?;
    if keys.len() > MAX_KEYS {
        return Err(JoseError::Key("a JWK Set has at most 256 keys"));
    }
    let read = |key: &Value| key.as_object().map_or(Err(JoseError::Key("a key of a JWK Set is no object")), ForeignKey::from_jwk);
    keys.iter().filter_map(|key| read(key).transpose()).collect()
}

/// A compact JWS that was taken apart, not yet verified: nothing in it is true before [`Jws::verify`].
#[derive(Debug)]
pub struct Jws<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Takes a token apart; at most 16 KiB, three parts, JSON objects with distinct names.
    ///
    /// # Errors
    /// [`TokenFault::Form`].
    pub fn open(token: &'a [u8]) -> Result<Self, TokenFault> {
        let text = std::str::from_utf8(token).map_err(|_| TokenFault::Form)?;
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenFault::Form)?;
        if text.len() > MAX_TOKEN || payload.contains('.') {
            return Err(TokenFault::Form);
        }
        let signature = B64.decode(signature).map_err(|_| TokenFault::Form)?;
        Ok(Self { header: object(header)?, claims: object(payload)?, signed, signature })
    }

    /// The header's parameters.
    #[must_use]
    pub const fn header(&self) -> &Map<String, Value> {
        &self.header
    }

    /// The claims, for choosing whose keys may verify them.
    #[must_use]
    pub const fn unverified(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// A claim that must be a text.
    ///
    /// # Errors
    /// [`TokenFault::Claim`].
    pub fn text(&self, name: &'static str) -> Result<&str, TokenFault> {
        text_of(&self.claims, name)
    }

    /// A claim that must be a date in whole seconds, where it is there.
    ///
    /// # Errors
    /// [`TokenFault::Claim`].
    pub fn date(&self, name: &'static str) -> Result<Option<i64>, TokenFault> {
        date(&self.claims, name)
    }

    /// Verifies the signature with the one key of the token's `kid` among these, and gives the claims. The algorithm must be one of the
    /// key's own.
    ///
    /// # Errors
    /// [`TokenFault::UnknownKey`], [`TokenFault::Algorithm`] or [`TokenFault::Signature`].
    pub fn verify(self, keys: &[ForeignKey]) -> Result<Map<String, Value>, TokenFault> {
        let kid = text_of(&self.header, "kid").ok().filter(|kid| !kid.is_empty()).ok_or(TokenFault::UnknownKey)?;
        let alg = text_of(&self.header, "alg").map_err(|_| TokenFault::Algorithm)?;
        let key = keys.iter().find(|key| &*key.kid == kid).ok_or(TokenFault::UnknownKey)?;
        key.verify(alg, self.signed.as_bytes(), &self.signature)?;
        Ok(self.claims)
    }
}
