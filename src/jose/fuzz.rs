//! Nothing is believed that the key did not sign, and of what it signed nothing that is not as demanded.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};

use super::foreign::{ForeignKey, Jws, parse_foreign_keys};
use super::jws::{Algorithm, Expected, SigningKey, jwks, parse_jwks, verify};
use crate::clock::Timestamp;
use crate::fuzz::{Input, changed};

/// When it is, in seconds.
pub(crate) const NOW: i64 = 1_800_000_000;
const EXPECTED: Expected<'static> =
    Expected { typ: "at+jwt", issuer: "https://issuer.example", audience: "https://api.example", leeway: Duration::from_secs(30) };

/// A key of this process and a token of it. Every run has its own: no property depends on which.
pub(crate) struct Issuer {
    pub(crate) key: SigningKey,
    pub(crate) keys: Vec<ForeignKey>,
}

/// The one issuer of this process.
pub(crate) fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(|| {
        let key = SigningKey::generate(Algorithm::Es256).unwrap().0;
        let keys = parse_foreign_keys(&jwks(std::slice::from_ref(key.public()))).unwrap();
        Issuer { key, keys }
    })
}

impl Issuer {
    /// A compact token with this very header and payload, signed.
    pub(crate) fn sign(&self, header: &[u8], payload: &[u8]) -> Vec<u8> {
        let signed = format!("{}.{}", B64.encode(header), B64.encode(payload));
        let signature = self.key.signature(signed.as_bytes()).unwrap();
        format!("{signed}.{}", B64.encode(signature)).into_bytes()
    }

    /// A header with this type.
    pub(crate) fn header(&self, typ: &str) -> Value {
        json!({ "typ": typ, "alg": "ES256", "kid": &**self.key.public().kid() })
    }

    /// What a fuzzer makes of a sound token (or of nothing), and the only signed part that may be believed. `None`: any of its own making is.
    pub(crate) fn presented(&self, data: &[u8], sound: (&Value, &Value)) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut input = Input(data);
        match input.byte() % 4 {
            0 => (input.0.to_vec(), Some(Vec::new())),
            1 => {
                let token = self.sign(sound.0.to_string().as_bytes(), sound.1.to_string().as_bytes());
                let changed = changed(&token, &mut input);
                (changed, Some(signed_part(&token)))
            }
            2 => {
                let header = self.with_kid(input.line());
                (self.sign(&header, input.0), None)
            }
            _ => {
                let payload = changed(sound.1.to_string().as_bytes(), &mut input);
                (self.sign(sound.0.to_string().as_bytes(), &payload), None)
            }
        }
    }

    /// A fuzzer cannot know the key's name.
    fn with_kid(&self, header: &[u8]) -> Vec<u8> {
        String::from_utf8_lossy(header).replace("KID", self.key.public().kid()).into_bytes()
    }
}

/// All before the last dot.
pub(crate) fn signed_part(token: &[u8]) -> Vec<u8> {
    token[..token.iter().rposition(|byte| *byte == b'.').unwrap_or(0)].to_vec()
}

/// A token, and a set of keys.
pub fn jws(data: &[u8]) {
    let issuer = issuer();
    let claims =
        json!({ "iss": EXPECTED.issuer, "aud": [EXPECTED.audience, "x"], "sub": "a", "iat": NOW, "nbf": NOW, "exp": NOW + 60, "jti": "j" });
    let (token, only) = issuer.presented(data, (&issuer.header("at+jwt"), &claims));
    let now = Timestamp::from_second(NOW).unwrap();
    if let Ok(believed) = verify(&token, std::slice::from_ref(issuer.key.public()), &EXPECTED, now) {
        assert!(only.as_ref().is_none_or(|only| *only == signed_part(&token)), "believed what was not signed");
        let mut parts =
            token.split(|byte| *byte == b'.').map(|part| serde_json::from_slice::<Value>(&B64.decode(part).unwrap_or_default()));
        let header = parts.next().unwrap().unwrap();
        assert_eq!((header["alg"].as_str(), header["kid"].as_str()), (Some("ES256"), Some(&**issuer.key.public().kid())));
        assert!(header.as_object().unwrap().keys().all(|name| !matches!(name.as_str(), "crit" | "jwk" | "jku" | "x5u" | "x5c" | "b64")));
        assert_eq!(believed["iss"], EXPECTED.issuer);
        let aud = &believed["aud"];
        assert!(aud == EXPECTED.audience || aud.as_array().is_some_and(|all| all.iter().any(|one| one == EXPECTED.audience)), "{aud}");
        assert!(believed["exp"].as_i64().expect("a whole number") + 30 > NOW);
        assert!(["nbf", "iat"].iter().all(|name| believed.get(*name).is_none_or(|at| at.as_i64().expect("a whole number") <= NOW + 30)));
    }
    if let Ok(opened) = Jws::open(&token)
        && let Ok(claims) = opened.verify(&issuer.keys)
    {
        assert!(only.is_none_or(|only| only == signed_part(&token)), "believed what was not signed");
        assert!(claims.len() < token.len());
    }
    if let Ok(keys) = parse_jwks(data) {
        assert_eq!(parse_jwks(&jwks(&keys)).unwrap(), keys, "a set that is written is the set that was read");
        assert!(verify(&token, &keys, &EXPECTED, now).is_err(), "nobody else's key verifies it");
    }
    let _keys_or_a_mistake = parse_foreign_keys(data);
}
