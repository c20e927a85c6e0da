//! Nobody is anybody whom the right authority does not vouch for.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::follow::{take_jwt, take_svids};
use super::jwt_svid;
use super::pod::{Pod, PodSettings};
use super::spiffe_id::SpiffeId;
use super::svid::{Bundle, Bundles, JwtSvid, X509Svid, certificates};
use super::workload_api::{Endpoint, JwtBundles, JwtSvidEntry, JwtSvids, X509SvidEntry, X509Svids};
use crate::clock::Timestamp;
use crate::fuzz::{Input, changed};
use crate::jose::fuzz::{NOW, issuer, signed_part};
use crate::jose::jwks;

const ID: &str = "spiffe://prod.example/ns/billing/sa/app";

/// An authority of this process, one between, a workload under each, and the key of the first.
struct World {
    chains: [Vec<u8>; 2],
    key: Vec<u8>,
    root: Vec<u8>,
    bundles: Bundles,
}

fn dated(params: &mut CertificateParams, to: i64) {
    let date = |offset: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(NOW + offset).unwrap());
    (params.not_before, params.not_after) = (date(-60), date(to));
}

fn signer(under: Option<&Issuer<'static, KeyPair>>) -> (Vec<u8>, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    dated(&mut params, 86_400);
    let made = match under {
        Some(under) => params.signed_by(&key, under),
        None => params.self_signed(&key),
    };
    (made.unwrap().der().to_vec(), Issuer::new(params, key))
}

fn leaf(under: &Issuer<'static, KeyPair>) -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    dated(&mut params, 3600);
    (params.signed_by(&key, under).unwrap().der().to_vec(), key.serialize_der())
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (root, issuing) = signer(None);
        let (between, second) = signer(Some(&issuing));
        let ((one, key), (two, _)) = (leaf(&issuing), leaf(&second));
        let x509 = Bundle::from_der_list("prod.example", &root).unwrap();
        let jwt = Bundle::from_jwk_set("prod.example", &jwt_keys()).unwrap();
        let bundles = Bundles::from_iter([Bundle::joined(&x509, &jwt)]);
        World { chains: [one, [two, between].concat()], key, root, bundles }
    })
}

fn jwt_keys() -> Vec<u8> {
    let mut keys: Value = serde_json::from_slice(&jwks(std::slice::from_ref(issuer().key.public()))).unwrap();
    keys["keys"][0]["use"] = "jwt-svid".into();
    keys.to_string().into_bytes()
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// The part that an authority signs, of each certificate.
fn signed(chain: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    chain.iter().map(|der| X509Certificate::from_der(der).unwrap().1.tbs_certificate.as_ref().to_vec()).collect()
}

/// A chain, a token or a bundle: the first byte says which.
pub fn svid(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 4 {
        0 => chain(&mut input),
        1 => token(input.0),
        2 => bundle(input.0),
        _ => id(input.0),
    }
}

fn chain(input: &mut Input<'_>) {
    let world = world();
    let how = input.byte();
    let sound = &world.chains[usize::from(how & 1)];
    let bytes = if how & 2 == 0 { changed(sound, input) } else { input.0.to_vec() };
    let Ok(chain) = certificates(&bytes) else { return };
    let Ok(svid) = X509Svid::verify(&chain, &world.bundles, now()) else { return };
    assert_eq!(svid.id.as_str(), ID);
    let genuine: Vec<Vec<u8>> = world.chains.iter().flat_map(|chain| signed(&certificates(chain).unwrap())).collect();
    assert!(genuine.contains(&signed(&chain)[0]), "a leaf is believed that nobody signed");
    assert!(svid.not_before <= now() && now() <= svid.not_after);
    let elsewhere = Bundles::from_iter([Bundle::from_der_list("other.example", &world.root).unwrap()]);
    assert!(X509Svid::verify(&chain, &elsewhere, now()).is_err(), "another trust domain's bundle vouches for it");
}

fn token(data: &[u8]) {
    let claims = json!({ "sub": ID, "aud": ["exeat"], "exp": NOW + 60, "iat": NOW });
    let (token, only) = issuer().presented(data, (&issuer().header("JWT"), &claims));
    let bundles = &world().bundles;
    let Ok(svid) = JwtSvid::verify(&token, "exeat", bundles, now(), Duration::from_hours(1)) else { return };
    assert!(only.is_none_or(|only| only == signed_part(&token)), "believed what was not signed");
    assert_eq!(svid.claims["sub"], svid.id.as_str());
    assert_eq!(svid.id.trust_domain(), "prod.example", "one trust domain's keys vouch for another");
    assert!(svid.expires.as_second() + 60 > NOW, "the skew that is forgiven has a bound");
    assert!(JwtSvid::verify(&token, "other", bundles, now(), Duration::ZERO).is_err() || svid.claims["aud"].to_string().contains("other"));
}

fn bundle(data: &[u8]) {
    for bundle in
        [Bundle::parse("prod.example", data), Bundle::from_jwk_set("prod.example", data), Bundle::from_der_list("prod.example", data)]
    {
        let Ok(bundle) = bundle else { continue };
        assert_eq!(&**bundle.trust_domain(), "prod.example", "nothing inside chooses whom it is of");
        let authorities: Vec<u8> = bundle.x509_authorities().flatten().copied().collect();
        assert!(authorities.len() <= data.len() && bundle.jwt_keys().len() <= 256);
        let again = Bundle::from_der_list("prod.example", &authorities).expect("authorities that were read are read again");
        assert!(again.x509_authorities().eq(bundle.x509_authorities()));
        assert!(bundle.jwt_keys().iter().all(|key| !key.kid.is_empty()));
        let trusted = Bundles::from_iter([bundle]);
        let chain = certificates(&world().chains[0]).unwrap();
        assert!(X509Svid::verify(&chain, &trusted, now()).is_err(), "a stranger's bundle vouches for ours");
    }
}

fn id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        assert!(
            !text.contains("//ns//")
                && !id.path().ends_with('/')
                && id.path().split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
        );
        let uri: http::Uri = text.parse().expect("a SPIFFE ID is a URI");
        assert_eq!((uri.host(), uri.path(), uri.query()), (Some(id.trust_domain()), id.path(), None));
    }
    if let Ok(endpoint) = Endpoint::parse(text) {
        assert_eq!(Endpoint::parse(&endpoint.to_string()).as_ref(), Ok(&endpoint));
    }
}

/// A message of the Workload API: whole or not at all, and never another trust domain's identity.
pub fn workload_api(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let world = world();
    let settings = PodSettings {
        endpoint: Endpoint::parse("unix:///run/agent.sock").unwrap(),
        hint: (how & 4 == 4).then(|| "h".into()),
        trust_domain: "prod.example".into(),
    };
    let pod = Pod::alone("fuzz".into(), settings);
    let sound = message(world);
    take_svids(pod.followed(), sound.clone(), now()).expect("a sound message is taken");
    let before = pod.standing();
    assert_eq!(before.svid.as_ref().map(|svid| svid.workload.id.as_str()), Some(ID));
    let bytes = match how % 4 {
        0 => input.0.to_vec(),
        1 => changed(&sound.encode_to_vec(), &mut input),
        2 => return keys(&pod, input.0),
        _ => {
            let mut message = sound;
            let entry = &mut message.svids[0];
            for part in [&mut entry.x509_svid, &mut entry.x509_svid_key, &mut entry.bundle] {
                let only_some = input.byte() & 1 == 1;
                if only_some {
                    *part = changed(part, &mut input);
                }
            }
            message.encode_to_vec()
        }
    };
    let Ok(message) = X509Svids::decode(&bytes[..]) else { return };
    assert!(X509Svids::decode(&message.encode_to_vec()[..]).is_ok_and(|again| again == message), "written and read again");
    assert!(!format!("{message:?}").contains("x509_svid_key"));
    let taken = take_svids(pod.followed(), message.clone(), now());
    let after = pod.standing();
    match &after.svid {
        _ if taken.is_err() => assert!(Arc::ptr_eq(&before, &after) || after.svid.is_none(), "half of a message was taken"),
        None => assert!(message.svids.is_empty() || how & 4 == 4, "withdrawn by a message that gives an identity"),
        Some(svid) => {
            let id = &svid.workload.id;
            assert_eq!(id.trust_domain(), "prod.example");
            assert!(message.svids.iter().any(|entry| entry.spiffe_id == id.as_str()), "not the identity that the message names");
            assert!(svid.not_after >= now());
            // Whatever stands around it, the number itself is the certificate's own.
            let number = private_number(&world.key);
            let own = message.svids.iter().any(|entry| memchr::memmem::find(&entry.x509_svid_key, number).is_some());
            assert!(own || svid.certificate.chain()[0].as_ref() != &world.chains[0][..], "a certificate without its key");
        }
    }
}

/// The private number of a P-256 key in PKCS#8 (RFC 5915: version 1, then an OCTET STRING of 32 bytes).
fn private_number(pkcs8: &[u8]) -> &[u8] {
    let at = memchr::memmem::find(pkcs8, &[2, 1, 1, 4, 32]).expect("a P-256 key") + 5;
    &pkcs8[at..at + 32]
}

fn message(world: &World) -> X509Svids {
    let entry = X509SvidEntry {
        spiffe_id: ID.to_owned(),
        x509_svid: world.chains[0].clone(),
        x509_svid_key: world.key.clone(),
        bundle: world.root.clone(),
        hint: "h".to_owned(),
    };
    X509Svids {
        svids: vec![entry],
        federated_bundles: std::iter::once(("spiffe://other.example".to_owned(), world.root.clone())).collect(),
    }
}

fn keys(pod: &Pod, data: &[u8]) {
    let before = pod.standing();
    let Ok(message) = JwtBundles::decode(data) else { return };
    let taken = take_jwt(pod.followed(), &message);
    let after = pod.standing();
    assert!(taken.is_ok() || Arc::ptr_eq(&before, &after), "half of a message was taken");
    assert_eq!(after.generation, before.generation, "keys of tokens end no connection");
    assert_eq!(after.bundles.x509_only(), before.bundles.x509_only(), "a message of JWT keys changes who vouches for certificates");
}

/// An answer about a process, of the Broker API or the Workload API: a token of this very workload, for this audience alone, or none.
pub fn broker_api(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let (world, id) = (world(), SpiffeId::parse(ID).unwrap());
    let bytes = if how & 1 == 1 {
        input.0.to_vec()
    } else {
        let name = if how & 2 == 2 { String::from_utf8_lossy(input.line()).into_owned() } else { ID.to_owned() };
        let audiences = if how & 4 == 4 { json!(["exeat", "other"]) } else { json!(["exeat"]) };
        let claims = json!({ "sub": if how & 8 == 8 { &name } else { ID }, "aud": audiences, "exp": NOW + 60, "iat": NOW });
        let (token, _) = issuer().presented(input.0, (&issuer().header("JWT"), &claims));
        let entry = JwtSvidEntry { spiffe_id: name, svid: String::from_utf8_lossy(&token).into_owned() };
        let other = JwtSvidEntry { spiffe_id: "spiffe://prod.example/other".to_owned(), svid: entry.svid.clone() };
        JwtSvids { svids: if how & 16 == 16 { vec![other, entry] } else { vec![entry] } }.encode_to_vec()
    };
    let Ok(message) = JwtSvids::decode(&bytes[..]) else { return };
    assert!(JwtSvids::decode(&message.encode_to_vec()[..]).is_ok_and(|again| again == message), "written and read again");
    let named = |text: &str| message.svids.iter().any(|entry| entry.spiffe_id.contains(text));
    let shown = format!("{message:?}");
    assert!(
        message.svids.iter().all(|entry| entry.svid.len() < 32 || named(&entry.svid) || !shown.contains(&entry.svid)),
        "a token is shown"
    );
    let given: Vec<String> = message.svids.iter().filter(|entry| entry.spiffe_id == ID).map(|entry| entry.svid.clone()).collect();
    let Ok((token, expires)) = jwt_svid::judge(message, &id, "exeat", &world.bundles, now()) else { return };
    let token = given.iter().find(|text| token.same_as(text.as_bytes())).expect("a token that was given for another workload");
    assert!(expires.as_second() + 60 > NOW, "the skew that is forgiven has a bound");
    let judged =
        JwtSvid::verify(token.as_bytes(), "exeat", &world.bundles, now(), Duration::from_mins(1)).expect("its receiver believes it");
    assert_eq!((judged.id.as_str(), judged.expires), (ID, expires));
    assert!(matches!(&judged.claims["aud"], Value::String(one) if one == "exeat") || judged.claims["aud"] == json!(["exeat"]));
}
