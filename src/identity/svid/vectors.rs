//! Negative vectors: each breaks one rule, and each is refused with the words that the operator reads.

#![expect(clippy::too_many_lines, reason = "each table is one list: what is refused is seen at once")]

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as B64};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;

const NOW: i64 = 1_800_000_000;
const ID: &str = "spiffe://prod.example/ns/billing/sa/app";

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn at(params: &mut CertificateParams, from: i64, to: i64) {
    let date = |offset: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(NOW + offset).unwrap());
    (params.not_before, params.not_after) = (date(from), date(to));
}

/// A signing certificate: its DER, and what signs with it.
struct Signer {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn signer(name: &str, under: Option<&Signer>, change: impl FnOnce(&mut CertificateParams)) -> Signer {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    at(&mut params, -3600, 86_400);
    change(&mut params);
    let certificate = match under {
        Some(under) => params.signed_by(&key, &under.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Signer { der: certificate.into(), issuer: Issuer::new(params, key) }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A good leaf, changed.
fn leaf(under: &Signer, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(ID)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    at(&mut params, -60, 3600);
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), &under.issuer).unwrap().into()
}

fn bundle(domain: &str, signer: &Signer) -> Bundle {
    Bundle::from_der_list(domain, &signer.der).unwrap()
}

fn x509() -> Vec<(&'static str, String)> {
    let root = signer("prod root", None, |_| {});
    let foreign = signer("other root", None, |_| {});
    let stranger = signer("prod root", None, |_| {});
    let between = signer("between", Some(&root), |params| params.subject_alt_names = vec![uri("spiffe://prod.example")]);
    let outside = signer("outside", Some(&root), |params| params.subject_alt_names = vec![uri("spiffe://other.example")]);
    let walked = signer("walked", Some(&root), |params| params.subject_alt_names = vec![uri("spiffe://prod.example/ns/a/sa/b")]);
    let old = signer("old", Some(&root), |params| at(params, -7200, -3600));
    let narrow = signer("narrow", Some(&root), |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let too_deep = signer("deep", Some(&narrow), |_| {});
    let constrained = signer("constrained", Some(&root), |params| {
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: vec![GeneralSubtree::DnsName("prod.example".into())], excluded_subtrees: vec![] });
    });
    let uri_constrained = signer("uri constrained", Some(&root), |params| {
        // permittedSubtrees [0] { GeneralSubtree { uniformResourceIdentifier [6] "prod.example" } }
        let name = b"prod.example";
        let mut der = vec![0x30, 18, 0xa0, 16, 0x30, 14, 0x86, 12];
        der.extend_from_slice(name);
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    });
    let no_signer = leaf(&root, |_| {});
    let over = signer("over", None, |params| at(params, -7200, -3600));
    let bundles = Bundles::from_iter([bundle("prod.example", &root), bundle("other.example", &foreign), bundle("over.example", &over)]);
    let trusted = |chain: &[CertificateDer<'static>]| X509Svid::verify(chain, &bundles, now());
    let good = trusted(&[leaf(&root, |_| {})]).unwrap();
    assert_eq!((good.id.as_str(), good.not_after.as_second()), (ID, NOW + 3600));
    trusted(&[leaf(&between, |_| {}), between.der.clone()]).unwrap();
    trusted(&[leaf(&root, |params| params.subject_alt_names.push(SanType::DnsName("app.example".try_into().unwrap())))]).unwrap();
    trusted(&[leaf(&root, |params| params.extended_key_usages.clear())]).unwrap();

    let one = |change: &dyn Fn(&mut CertificateParams)| vec![leaf(&root, change)];
    let named = |text: &'static str| vec![leaf(&root, |params| params.subject_alt_names = vec![uri(text)])];
    let used = |usages: &[KeyUsagePurpose]| vec![leaf(&root, |params| params.key_usages = usages.to_vec())];
    let mut trailing = leaf(&root, |_| {}).to_vec();
    trailing.push(0);
    let mut flipped = leaf(&root, |_| {}).to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let broken_san = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 3, 0x86, 9, 0x61]);
    let many = std::iter::once(leaf(&root, |_| {})).chain(std::iter::repeat_n(between.der.clone(), 10)).collect();
    let chains: Vec<(&str, Vec<CertificateDer<'static>>)> = vec![
        ("no certificate", vec![]),
        ("no DER", vec![b"certificate".to_vec().into()]),
        ("a byte after the DER", vec![trailing.into()]),
        ("a signature with one bit changed", vec![flipped.into()]),
        ("eleven certificates", many),
        ("no alternative names", one(&|params| params.subject_alt_names.clear())),
        ("a DNS name alone", one(&|params| params.subject_alt_names = vec![SanType::DnsName("app.example".try_into().unwrap())])),
        ("two URIs", one(&|params| params.subject_alt_names.push(uri("spiffe://prod.example/ns/a/sa/b")))),
        ("two URIs, one of another scheme", one(&|params| params.subject_alt_names.push(uri("https://app.example")))),
        (
            "unreadable alternative names",
            one(&|params| {
                params.subject_alt_names.clear();
                params.custom_extensions.push(broken_san.clone());
            }),
        ),
        ("another scheme", named("https://prod.example/ns/billing/sa/app")),
        ("a scheme in capitals", named("SPIFFE://prod.example/ns/billing/sa/app")),
        ("the trust domain alone", named("spiffe://prod.example")),
        ("the root path", named("spiffe://prod.example/")),
        ("a trust domain in capitals", named("spiffe://Prod.example/app")),
        ("a port", named("spiffe://prod.example:8443/app")),
        ("user info", named("spiffe://me@prod.example/app")),
        ("a query", named("spiffe://prod.example/app?x=1")),
        ("a fragment", named("spiffe://prod.example/app#x")),
        ("percent-encoding", named("spiffe://prod.example/%61pp")),
        ("a dot segment", named("spiffe://prod.example/a/../b")),
        ("an empty segment", named("spiffe://prod.example//app")),
        ("a signing certificate as leaf", one(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("key usage keyCertSign", used(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign])),
        ("key usage cRLSign", used(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign])),
        ("key usage without digitalSignature", used(&[KeyUsagePurpose::KeyEncipherment])),
        ("no key usage", used(&[])),
        ("an extended key usage of mail", one(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection])),
        ("expired", one(&|params| at(params, -7200, -1))),
        ("not valid yet", one(&|params| at(params, 60, 3600))),
        ("a trust domain without a bundle", named("spiffe://nobody.example/app")),
        ("a trust domain whose root is over", vec![leaf(&over, |params| params.subject_alt_names = vec![uri("spiffe://over.example/a")])]),
        ("another trust domain's root", vec![leaf(&foreign, |_| {})]),
        ("a root of the same name", vec![leaf(&stranger, |_| {})]),
        ("its own root sent along", vec![leaf(&stranger, |_| {}), stranger.der.clone()]),
        ("self-signed", {
            let own = signer("self", None, |_| {});
            vec![leaf(&own, |_| {})]
        }),
        ("the signer between is missing", vec![leaf(&between, |_| {})]),
        ("the signer between is over", vec![leaf(&old, |_| {}), old.der.clone()]),
        ("a signer of another trust domain", vec![leaf(&outside, |_| {}), outside.der.clone()]),
        ("a signer that is a workload", vec![leaf(&walked, |_| {}), walked.der.clone()]),
        ("a leaf that signs", {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "leaf");
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            at(&mut params, -60, 3600);
            let der = params.signed_by(&key, &root.issuer).unwrap().into();
            let mid = Signer { der, issuer: Issuer::new(params, key) };
            vec![leaf(&mid, |_| {}), mid.der.clone()]
        }),
        ("a path longer than a signer allows", vec![leaf(&too_deep, |_| {}), too_deep.der.clone(), narrow.der.clone()]),
        (
            "a DNS name outside a signer's constraint",
            vec![
                leaf(&constrained, |params| params.subject_alt_names.push(SanType::DnsName("evil.example".try_into().unwrap()))),
                constrained.der.clone(),
            ],
        ),
        ("a URI constraint, which is never ignored", vec![leaf(&uri_constrained, |_| {}), uri_constrained.der.clone()]),
        ("a signer that is no DER", vec![no_signer, b"signer".to_vec().into()]),
    ];
    chains.into_iter().map(|(name, chain)| (name, trusted(&chain).map(|svid| svid.id).unwrap_err().to_string())).collect()
}

/// A key that signs tokens as its issuer does, and its JWK.
struct Token {
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    rsa: RsaKeyPair,
}

impl Token {
    fn new() -> Self {
        let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        Self {
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            rsa,
        }
    }

    fn jwks(&self) -> Vec<Value> {
        let ec = |pair: &EcdsaKeyPair, crv: &str, kid: &str| {
            let point = pair.public_key().as_ref();
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({ "kty": "EC", "use": "jwt-svid", "crv": crv, "kid": kid, "x": B64.encode(x), "y": B64.encode(y) })
        };
        let public = self.rsa.public_key();
        let (n, e) = (public.modulus().big_endian_without_leading_zero(), public.exponent().big_endian_without_leading_zero());
        vec![
            ec(&self.p256, "P-256", "p256"),
            ec(&self.p384, "P-384", "p384"),
            json!({ "kty": "RSA", "use": "jwt-svid", "kid": "rsa", "n": B64.encode(n), "e": B64.encode(e) }),
        ]
    }

    fn sign(&self, header: &Value, claims: &Value) -> Vec<u8> {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    fn sign_text(&self, header: &str, claims: &str) -> Vec<u8> {
        let signed = format!("{}.{}", B64.encode(header), B64.encode(claims));
        let random = SystemRandom::new();
        let alg = serde_json::from_str::<Value>(header).unwrap_or_default()["alg"].as_str().unwrap_or_default().to_owned();
        let signature = match alg.as_str() {
            "ES384" => self.p384.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            "RS256" | "PS256" => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                let padding: &dyn aws_lc_rs::signature::RsaEncoding = if alg == "RS256" { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
                self.rsa.sign(padding, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            "HS256" => {
                // The public key as the secret of an HMAC: the oldest confusion.
                let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, self.p256.public_key().as_ref());
                aws_lc_rs::hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
            }
            "none" => Vec::new(),
            _ => self.p256.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", B64.encode(signature)).into_bytes()
    }
}

fn jwt() -> Vec<(&'static str, String)> {
    let (keys, foreign) = (Token::new(), Token::new());
    let document = |token: &Token| json!({ "keys": token.jwks() }).to_string();
    let bundles = Bundles::from_iter([
        Bundle::parse("prod.example", document(&keys).as_bytes()).unwrap(),
        Bundle::parse("other.example", document(&foreign).as_bytes()).unwrap(),
    ]);
    let judged = |token: &[u8]| JwtSvid::verify(token, "https://ledger.example", &bundles, now(), Duration::from_hours(1));
    let protected = || json!({ "alg": "ES256", "kid": "p256", "typ": "JWT" });
    let claims = || json!({ "sub": ID, "aud": ["https://ledger.example"], "iat": NOW - 5, "exp": NOW + 300 });
    let with_parameter = |name: &str, value: Value| {
        let mut header = protected();
        header[name] = value;
        keys.sign(&header, &claims())
    };
    let claimed = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        keys.sign(&protected(), &claims)
    };
    let without = |name: &str| {
        let (mut header, mut claims) = (protected(), claims());
        let _header = header.as_object_mut().unwrap().remove(name);
        let _claim = claims.as_object_mut().unwrap().remove(name);
        keys.sign(&header, &claims)
    };
    assert_eq!(judged(&keys.sign(&protected(), &claims())).unwrap().id.as_str(), ID);
    for (alg, kid) in [("ES384", "p384"), ("RS256", "rsa"), ("PS256", "rsa")] {
        judged(&keys.sign(&json!({ "alg": alg, "kid": kid, "typ": "JOSE" }), &claims())).unwrap();
    }
    judged(&without("typ")).unwrap();
    judged(&claimed("exp", json!(NOW - 59))).unwrap();

    let good = String::from_utf8(keys.sign(&protected(), &claims())).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let swapped = format!("{}.{}.{}", parts[0], B64.encode(claims().to_string().replace("billing", "payroll")), parts[2]);
    let foreign_key = String::from_utf8(foreign.sign(&protected(), &claims())).unwrap();
    let tokens: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("not UTF-8", vec![0xff, b'.', 0xff]),
        ("two parts", parts[..2].join(".").into_bytes()),
        ("five parts (a JWE)", format!("{good}.x.y").into_bytes()),
        ("padded base64", format!("{}=.{}.{}", parts[0], parts[1], parts[2]).into_bytes()),
        ("the JSON serialisation", json!({ "payload": parts[1], "protected": parts[0], "signature": parts[2] }).to_string().into_bytes()),
        ("a header with a name twice", keys.sign_text(r#"{"alg":"ES256","kid":"p256","kid":"p256"}"#, &claims().to_string())),
        (
            "claims with a name twice",
            keys.sign_text(
                &protected().to_string(),
                &format!(r#"{{"sub":"{ID}","sub":"spiffe://prod.example/b","aud":"https://ledger.example","exp":{}}}"#, NOW + 300),
            ),
        ),
        ("claims that are a list", keys.sign_text(&protected().to_string(), "[]")),
        ("seventeen KiB", claimed("pad", json!("x".repeat(17 << 10)))),
        ("alg none", with_parameter("alg", json!("none"))),
        ("alg HS256 with the public key", with_parameter("alg", json!("HS256"))),
        ("alg EdDSA", with_parameter("alg", json!("EdDSA"))),
        ("alg in small letters", with_parameter("alg", json!("es256"))),
        ("no alg", without("alg")),
        ("typ at+jwt", with_parameter("typ", json!("at+jwt"))),
        ("typ wit+jwt", with_parameter("typ", json!("wit+jwt"))),
        ("typ that is no text", with_parameter("typ", json!(1))),
        ("a key in the header", with_parameter("jwk", foreign.jwks()[0].clone())),
        ("the address of a key", with_parameter("jku", json!("https://evil.example/jwks"))),
        ("a certificate in the header", with_parameter("x5c", json!(["MII="]))),
        ("the address of a certificate", with_parameter("x5u", json!("https://evil.example/cert"))),
        ("crit", with_parameter("crit", json!(["exp"]))),
        ("compression", with_parameter("zip", json!("DEF"))),
        ("no kid", without("kid")),
        ("an empty kid", with_parameter("kid", json!(""))),
        ("an unknown kid", with_parameter("kid", json!("p521"))),
        ("another key's kid", with_parameter("kid", json!("p384"))),
        ("an algorithm of another family", with_parameter("kid", json!("rsa"))),
        ("another trust domain's key", foreign_key.into_bytes()),
        ("a sub of another trust domain", claimed("sub", json!("spiffe://other.example/app"))),
        ("a trust domain without a bundle", claimed("sub", json!("spiffe://nobody.example/app"))),
        ("changed claims", swapped.into_bytes()),
        ("no signature", format!("{}.{}.", parts[0], parts[1]).into_bytes()),
        ("no sub", without("sub")),
        ("a sub that is no SPIFFE ID", claimed("sub", json!("app"))),
        ("a sub without a path", claimed("sub", json!("spiffe://prod.example"))),
        ("no aud", without("aud")),
        ("another aud", claimed("aud", json!(["https://other.example"]))),
        ("an aud that only begins alike", claimed("aud", json!("https://ledger.example.evil"))),
        ("an empty list of aud", claimed("aud", json!([]))),
        ("an aud that is a number", claimed("aud", json!(["https://ledger.example", 1]))),
        ("no exp", without("exp")),
        ("an exp that is a text", claimed("exp", json!("1900000000"))),
        ("an exp of 2^53", claimed("exp", json!(9_007_199_254_740_992_i64))),
        ("an exp with a fraction", claimed("exp", json!(1_900_000_000.5))),
        ("expired for 60 s", claimed("exp", json!(NOW - 60))),
        ("nbf in two minutes", claimed("nbf", json!(NOW + 120))),
        ("iat in two minutes", claimed("iat", json!(NOW + 120))),
    ];
    tokens.into_iter().map(|(name, token)| (name, judged(&token).map(|svid| svid.id).unwrap_err().to_string())).collect()
}

fn bundle_vectors() -> Vec<(&'static str, String)> {
    let root = signer("root", None, |_| {});
    let keys = Token::new().jwks();
    let encoded = STANDARD.encode(&root.der);
    let x509 = |x5c: Value| json!({ "use": "x509-svid", "kty": "EC", "x5c": x5c });
    let whole = Bundle::parse(
        "prod.example",
        json!({ "keys": [x509(json!([encoded])), keys[0], { "use": "wit-svid", "kty": "OKP" }, { "kty": "EC" }], "spiffe_refresh_hint": 300 })
            .to_string()
            .as_bytes(),
    )
    .unwrap();
    assert_eq!((whole.x509_authorities().len(), whole.jwt_keys().len(), whole.refresh_hint), (1, 1, Some(Duration::from_mins(5))));
    let with = |keys: Value| Bundle::parse("prod.example", json!({ "keys": keys }).to_string().as_bytes());
    let changed = |name: &str, value: Value| {
        let mut key = keys[0].clone();
        key[name] = value;
        with(json!([key]))
    };
    let plain = leaf(&root, |_| {});
    let judged: Vec<(&str, Result<Bundle, BundleFault>)> = vec![
        ("a name in capitals", Bundle::parse("Prod.example", b"{}")),
        ("no JSON", Bundle::parse("prod.example", b"-----BEGIN CERTIFICATE-----")),
        ("no keys", Bundle::parse("prod.example", b"{}")),
        ("two MiB", Bundle::parse("prod.example", &vec![b' '; 2 << 20])),
        ("300 keys", with(json!(vec![json!({}); 300]))),
        ("a key that is no object", with(json!(["x"]))),
        ("no x5c", with(json!([{ "use": "x509-svid", "kty": "EC" }]))),
        ("two certificates in one x5c", with(json!([x509(json!([encoded, encoded]))]))),
        ("an x5c that is not base64", with(json!([x509(json!(["*"]))]))),
        ("an x5c that is no certificate", with(json!([x509(json!(["AAAA"]))]))),
        ("a leaf as authority", with(json!([x509(json!([STANDARD.encode(&plain)]))]))),
        ("a JWT key without kid", changed("kid", json!(null))),
        ("a JWT key with half a point", changed("y", json!("AAAA"))),
        ("a JWT key of Ed25519", with(json!([{ "use": "jwt-svid", "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "AAAA" }]))),
        (
            "a JWT key of 1024 bits",
            with(json!([{ "use": "jwt-svid", "kty": "RSA", "kid": "a", "n": B64.encode([255; 128]), "e": "AQAB" }])),
        ),
        ("one kid twice", with(json!([keys[0], keys[0]]))),
        ("a DER list with garbage", Bundle::from_der_list("prod.example", &[root.der.as_ref(), b"x"].concat())),
        ("a leaf in a DER list", Bundle::from_der_list("prod.example", &plain)),
    ];
    judged.into_iter().map(|(name, bundle)| (name, bundle.unwrap_err().to_string())).collect()
}

fn table(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_vector_is_refused_with_its_reason() {
    let (x509, jwt, bundles) = (x509(), jwt(), bundle_vectors());
    insta::assert_snapshot!(table(&x509), @"
    no certificate: no certificate was presented
    no DER: certificate 1 of the chain is no DER certificate
    a byte after the DER: certificate 1 of the chain is no DER certificate
    a signature with one bit changed: the chain does not lead to the bundle of trust domain `prod.example`
    eleven certificates: the chain is too long: at most 10 certificates and 64 KiB are looked at
    no alternative names: the certificate names no SPIFFE ID: it has no URI in its subject alternative names
    a DNS name alone: the certificate names no SPIFFE ID: it has no URI in its subject alternative names
    two URIs: the certificate has 2 URIs in its subject alternative names, an X.509-SVID has exactly one
    two URIs, one of another scheme: the certificate has 2 URIs in its subject alternative names, an X.509-SVID has exactly one
    unreadable alternative names: the certificate's subject alternative names cannot be read
    another scheme: the certificate's URI is no SPIFFE ID of a workload: a SPIFFE ID begins with `spiffe://`
    a scheme in capitals: the certificate's URI is no SPIFFE ID of a workload: a SPIFFE ID begins with `spiffe://`
    the trust domain alone: the certificate's URI is no SPIFFE ID of a workload: the path is missing: a workload's SPIFFE ID names more than its trust domain
    the root path: the certificate's URI is no SPIFFE ID of a workload: the path is missing: a workload's SPIFFE ID names more than its trust domain
    a trust domain in capitals: the certificate's URI is no SPIFFE ID of a workload: the trust domain must be 1 to 255 of a-z, 0-9, `.`, `-` and `_`
    a port: the certificate's URI is no SPIFFE ID of a workload: the trust domain must be 1 to 255 of a-z, 0-9, `.`, `-` and `_`
    user info: the certificate's URI is no SPIFFE ID of a workload: the trust domain must be 1 to 255 of a-z, 0-9, `.`, `-` and `_`
    a query: the certificate's URI is no SPIFFE ID of a workload: path segments must be of a-z, A-Z, 0-9, `.`, `-` and `_`, not empty, not `.` or `..`, without a trailing slash
    a fragment: the certificate's URI is no SPIFFE ID of a workload: path segments must be of a-z, A-Z, 0-9, `.`, `-` and `_`, not empty, not `.` or `..`, without a trailing slash
    percent-encoding: the certificate's URI is no SPIFFE ID of a workload: path segments must be of a-z, A-Z, 0-9, `.`, `-` and `_`, not empty, not `.` or `..`, without a trailing slash
    a dot segment: the certificate's URI is no SPIFFE ID of a workload: path segments must be of a-z, A-Z, 0-9, `.`, `-` and `_`, not empty, not `.` or `..`, without a trailing slash
    an empty segment: the certificate's URI is no SPIFFE ID of a workload: path segments must be of a-z, A-Z, 0-9, `.`, `-` and `_`, not empty, not `.` or `..`, without a trailing slash
    a signing certificate as leaf: the certificate is a signing certificate (cA), an X.509-SVID's leaf is none
    key usage keyCertSign: the certificate's key usage has `keyCertSign`, which a leaf must not have
    key usage cRLSign: the certificate's key usage has `cRLSign`, which a leaf must not have
    key usage without digitalSignature: the certificate has no key usage `digitalSignature`
    no key usage: the certificate has no key usage `digitalSignature`
    an extended key usage of mail: the certificate's extended key usage allows neither side of TLS
    expired: the certificate has expired
    not valid yet: the certificate is not valid yet
    a trust domain without a bundle: no bundle of trust domain `nobody.example` is here: federate with it, or check the Workload API
    a trust domain whose root is over: the bundle of trust domain `over.example` has no X.509 authority that is valid now
    another trust domain's root: the chain does not lead to the bundle of trust domain `prod.example`
    a root of the same name: the chain does not lead to the bundle of trust domain `prod.example`
    its own root sent along: the chain does not lead to the bundle of trust domain `prod.example`
    self-signed: the chain does not lead to the bundle of trust domain `prod.example`
    the signer between is missing: the chain does not lead to the bundle of trust domain `prod.example`
    the signer between is over: the certificate has expired
    a signer of another trust domain: certificate 2 of the chain signs for `spiffe://other.example`, not for trust domain `prod.example`
    a signer that is a workload: certificate 2 of the chain signs for `spiffe://prod.example/ns/a/sa/b`, not for trust domain `prod.example`
    a leaf that signs: the chain does not verify: EndEntityUsedAsCa
    a path longer than a signer allows: the chain does not verify: PathLenConstraintViolated
    a DNS name outside a signer's constraint: the chain does not verify: NameConstraintViolation
    a URI constraint, which is never ignored: the chain does not verify: NameConstraintViolation
    a signer that is no DER: certificate 2 of the chain is no DER certificate
    ");
    insta::assert_snapshot!(table(&jwt), @"
    empty: the token is refused: it is no compact JWS
    not UTF-8: the token is refused: it is no compact JWS
    two parts: the token is refused: it is no compact JWS
    five parts (a JWE): the token is refused: it is no compact JWS
    padded base64: the token is refused: it is no compact JWS
    the JSON serialisation: the token is refused: it is no compact JWS
    a header with a name twice: the token is refused: it is no compact JWS
    claims with a name twice: the token is refused: it is no compact JWS
    claims that are a list: the token is refused: it is no compact JWS
    seventeen KiB: the token is refused: it is no compact JWS
    alg none: the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512
    alg HS256 with the public key: the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512
    alg EdDSA: the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512
    alg in small letters: the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512
    no alg: the token's alg is not one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 and PS512
    typ at+jwt: the token's typ is neither absent nor JWT nor JOSE
    typ wit+jwt: the token's typ is neither absent nor JWT nor JOSE
    typ that is no text: the token's typ is neither absent nor JWT nor JOSE
    a key in the header: the token's header has `jwk`; a JWT-SVID has alg, kid and typ alone
    the address of a key: the token's header has `jku`; a JWT-SVID has alg, kid and typ alone
    a certificate in the header: the token's header has `x5c`; a JWT-SVID has alg, kid and typ alone
    the address of a certificate: the token's header has `x5u`; a JWT-SVID has alg, kid and typ alone
    crit: the token's header has `crit`; a JWT-SVID has alg, kid and typ alone
    compression: the token's header has `zip`; a JWT-SVID has alg, kid and typ alone
    no kid: the token's kid is none of the JWT keys of trust domain `prod.example`
    an empty kid: the token's kid is none of the JWT keys of trust domain `prod.example`
    an unknown kid: the token's kid is none of the JWT keys of trust domain `prod.example`
    another key's kid: the token is refused: its alg is not that of the key
    an algorithm of another family: the token is refused: its alg is not that of the key
    another trust domain's key: the token is refused: its signature does not verify
    a sub of another trust domain: the token is refused: its signature does not verify
    a trust domain without a bundle: no bundle of trust domain `nobody.example` is here: federate with it, or check the Workload API
    changed claims: the token is refused: its signature does not verify
    no signature: the token is refused: its signature does not verify
    no sub: the token is refused: claim `sub` is missing or not of its type
    a sub that is no SPIFFE ID: the token's sub is no SPIFFE ID of a workload: a SPIFFE ID begins with `spiffe://`
    a sub without a path: the token's sub is no SPIFFE ID of a workload: the path is missing: a workload's SPIFFE ID names more than its trust domain
    no aud: the token is refused: claim `aud` is missing or not of its type
    another aud: the token is refused: it is not meant for this audience
    an aud that only begins alike: the token is refused: it is not meant for this audience
    an empty list of aud: the token is refused: claim `aud` is missing or not of its type
    an aud that is a number: the token is refused: claim `aud` is missing or not of its type
    no exp: the token is refused: claim `exp` is missing or not of its type
    an exp that is a text: the token is refused: claim `exp` is missing or not of its type
    an exp of 2^53: the token is refused: claim `exp` is missing or not of its type
    an exp with a fraction: the token is refused: claim `exp` is missing or not of its type
    expired for 60 s: the token is refused: it has expired
    nbf in two minutes: the token is refused: it is not valid yet
    iat in two minutes: the token is refused: it is not valid yet
    ");
    insta::assert_snapshot!(table(&bundles), @"
    a name in capitals: `Prod.example` is no trust domain
    no JSON: the bundle is no JSON object with `keys`
    no keys: the bundle is no JSON object with `keys`
    two MiB: the bundle is too large: at most 1 MiB and 256 keys are read
    300 keys: the bundle is too large: at most 1 MiB and 256 keys are read
    a key that is no object: key 1 of the bundle cannot be used: it is no object
    no x5c: key 1 of the bundle cannot be used: an `x509-svid` key has an `x5c` of exactly one certificate
    two certificates in one x5c: key 1 of the bundle cannot be used: an `x509-svid` key has an `x5c` of exactly one certificate
    an x5c that is not base64: key 1 of the bundle cannot be used: its `x5c` is not base64
    an x5c that is no certificate: certificate 1 of the list is no DER certificate
    a leaf as authority: certificate 1 of the bundle is no authority: its basic constraints do not say cA
    a JWT key without kid: key 1 of the bundle cannot be used: a JWT key needs a `kid`
    a JWT key with half a point: key 1 of the bundle cannot be used: the numbers of its key are malformed
    a JWT key of Ed25519: key 1 of the bundle cannot be used: it is neither an RSA nor a P-256, P-384 or P-521 key
    a JWT key of 1024 bits: key 1 of the bundle cannot be used: the numbers of its key are malformed
    one kid twice: two keys of the bundle have the kid `p256`
    a DER list with garbage: certificate 2 of the list is no DER certificate
    a leaf in a DER list: certificate 1 of the bundle is no authority: its basic constraints do not say cA
    ");
    let refused = x509.len() + jwt.len() + bundles.len();
    println!("vectors: {refused} refused");
    assert!(refused >= 60);
}

proptest! {
    #[test]
    fn foreign_bytes_are_refused_in_order(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let bundles = Bundles::default();
        prop_assert!(X509Svid::verify(&[CertificateDer::from(bytes.clone())], &bundles, now()).is_err());
        prop_assert!(JwtSvid::verify(&bytes, "a", &bundles, now(), Duration::ZERO).is_err());
        prop_assert!(Bundle::parse("prod.example", &bytes).is_err());
        prop_assert!(bytes.is_empty() || Bundle::from_der_list("prod.example", &bytes).is_err());
    }

    #[test]
    fn a_certificate_with_a_changed_byte_never_proves_another_identity(at in 0_usize..2000, bit in 0_u8..8) {
        let root = signer("root", None, |_| {});
        let mut der = leaf(&root, |_| {}).to_vec();
        let at = at % der.len();
        der[at] ^= 1 << bit;
        let bundles = Bundles::from_iter([bundle("prod.example", &root)]);
        prop_assert!(X509Svid::verify(&[der.into()], &bundles, now()).is_err());
    }
}

/// Who is believed to be an agent beneath a path: each differs in one thing from who is.
#[test]
fn a_server_is_whom_we_expect_by_whole_segments_of_the_same_trust_domain_or_gets_nothing() {
    use rustls::client::danger::ServerCertVerifier as _;
    let (root, other) = (signer("prod root", None, |_| {}), signer("other root", None, |_| {}));
    let bundles = Arc::new([bundle("prod.example", &root), bundle("other.example", &other)].into_iter().collect::<Bundles>());
    let beneath = Expected::parse("spiffe://prod.example/spire/agent/**").unwrap();
    let one = Expected::parse("spiffe://prod.example/spire/agent/k8s_psat/node-1").unwrap();
    assert_eq!(beneath.to_string(), "spiffe://prod.example/spire/agent/**");
    let told = |expected: &Expected, under: &Signer, id: &str| {
        let leaf = leaf(under, |params| params.subject_alt_names = vec![uri(id)]);
        let verifier = PeerVerifier::new(expected.clone(), Arc::clone(&bundles));
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(NOW.unsigned_abs()));
        verifier.verify_server_cert(&leaf, &[], &name, &[], time).map_or_else(|why| why.to_string(), |_| "believed".to_owned())
    };
    for id in ["spiffe://prod.example/spire/agent/k8s_psat/node-1", "spiffe://prod.example/spire/agent/x"] {
        assert_eq!(told(&beneath, &root, id), "believed", "{id}");
    }
    assert_eq!(told(&one, &root, "spiffe://prod.example/spire/agent/k8s_psat/node-1"), "believed");
    for (expected, under, id) in [
        (&beneath, &root, "spiffe://prod.example/spire/agent"),
        (&beneath, &root, "spiffe://prod.example/spire/agents/x"),
        (&beneath, &root, "spiffe://prod.example/spire/agent-x/y"),
        (&beneath, &root, "spiffe://prod.example/ns/spire/agent/x"),
        (&beneath, &root, "spiffe://prod.example/spire/Agent/x"),
        (&beneath, &other, "spiffe://other.example/spire/agent/x"),
        (&one, &root, "spiffe://prod.example/spire/agent/k8s_psat/node-10"),
        (&one, &root, "spiffe://prod.example/spire/agent/k8s_psat/node-1/x"),
    ] {
        assert_eq!(told(expected, under, id), format!("unexpected error: it is `{id}`"));
    }
    // The right name, vouched for by another trust domain; the right chain, and no SPIFFE ID at all.
    assert!(told(&beneath, &other, "spiffe://prod.example/spire/agent/x").contains("does not lead to the bundle"));
    assert!(told(&beneath, &root, "https://prod.example/spire/agent/x").contains("no SPIFFE ID"));
    for wide in ["spiffe://prod.example/**", "spiffe://**", "/**", "spiffe://prod.example/spire/**/agent", "spiffe://prod.example/spire/*"]
    {
        assert!(Expected::parse(wide).is_err(), "{wide}");
    }
}
