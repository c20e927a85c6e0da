//! Story: what an upstream answers reaches the caller, but for what would forge exeat's word or give the credential away.

use crate::harness::exeat::{Capture, allow_all, audience, policy_head};
use crate::harness::{House, Upstream, h2, jwt, run};

#[test]
fn exeats_own_fields_cannot_be_forged_and_the_credential_does_not_come_back() {
    let (one, two) = (Upstream::http(), Upstream::https());
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("one", &one)
        .upstream("two", &two)
        .policy("base.yaml", &allow_all(&["one", "two"]))
        .start();
    for (upstream, scheme) in [(&one, "http"), (&two, "https")] {
        let answer = exeat.ask("mesh", "GET", "/answer-fields", &upstream.authority(), &[("te", "trailers"), ("connection", "te")]);
        let token = upstream.wait_for("/answer-fields").bearer().expect("a token").to_owned();
        let h2 = run(async {
            let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
            client
                .ask(h2::request("GET", scheme, &upstream.authority(), "/answer-fields?2", &[("te", "trailers")]), b"", None)
                .await
                .expect("answered")
        });
        for answer in [answer, h2] {
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.text(), "body");
            assert!(!answer.fields.0.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("exeat-")), "{:?}", answer.fields);
            assert_eq!(answer.fields.get("x-honest"), Some("kept"));
            assert!(!answer.fields.has("x-hop") && !answer.fields.has("keep-alive"), "{:?}", answer.fields);
            let all = format!("{:?} {:?}", answer.fields, answer.trailers);
            assert!(!all.contains(&token), "the injected value came back: {all}");
            assert!(answer.fields.get("x-reflected").is_some_and(|value| value.contains("[exeat:redacted]")), "{:?}", answer.fields);
            assert!(answer.fields.get("x-reflected-inside").is_some_and(|value| value.contains("[exeat:redacted]")), "{:?}", answer.fields);
        }
    }
    let record = exeat.record("the reflection", |record| record["path"] == "/answer-fields");
    assert_eq!(record["reflected"], true, "{record}");
}

#[test]
fn a_401_is_asked_once_more_at_most_and_then_passed_on() {
    let up = Upstream::http();
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    // A credential younger than five seconds is not the reason for a 401: it is passed on.
    let answer = exeat.ask("mesh", "GET", "/once401/young", &up.authority(), &[]);
    assert_eq!((answer.status, answer.refusal()), (401, None), "{answer:?}");
    assert_eq!(up.matching("/once401/young").len(), 1);
    let answer = exeat.ask("mesh", "GET", "/status/401", &up.authority(), &[]);
    assert_eq!(answer.status, 401);
    assert!(up.matching("/status/401").len() <= 2);
}

#[test]
fn redirects_are_the_callers_to_follow() {
    let (up, other) = (Upstream::http(), Upstream::http());
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .upstream("other", &other)
        .policy("base.yaml", &allow_all(&["up"]))
        .start();
    up.file(
        "raw:elsewhere",
        format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/stolen\r\nContent-Length: 0\r\n\r\n", other.authority()),
    );
    let answer = exeat.ask("mesh", "GET", "/raw/elsewhere", &up.authority(), &[]);
    assert_eq!(answer.status, 307);
    assert!(answer.fields.get("location").is_some_and(|place| place.ends_with("/stolen")));
    assert_eq!(other.connections().len(), 0, "exeat follows nothing");
}

#[test]
fn trace_is_refused_in_every_protocol() {
    let up = Upstream::http();
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    exeat.ask("mesh", "TRACE", "/x", &up.authority(), &[]).must_refuse(501, "unsupported");
    run(async {
        let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
        client
            .ask(h2::request("TRACE", "http", &up.authority(), "/x", &[]), b"", None)
            .await
            .expect("answered")
            .must_refuse(501, "unsupported");
    });
    assert_eq!(up.wire_bytes(), 0);
}

#[test]
fn a_grant_of_none_goes_out_bare() {
    let up = Upstream::http();
    let policy = policy_head("base") + "  - { id: bare, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: none }\n";
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &policy).start();
    assert_eq!(
        exeat.ask("mesh", "GET", "/bare", &up.authority(), &[("authorization", "Bearer static"), ("cookie", "session=static")]).status,
        200
    );
    let seen = up.wait_for("/bare");
    assert!(!seen.fields.has("authorization") && !seen.text().contains("static"), "{}", seen.text());
}

#[test]
fn credentials_go_where_their_definition_says() {
    let up = Upstream::http();
    let mut house = House::new().listener("mesh", Capture::Host);
    let key = house.path().join("vendor.key");
    std::fs::write(&key, "vendor/secret+1\n").expect("written");
    let secret = format!("secret: {{ value: \"${{file:{}}}\" }}", key.display());
    for (name, inject) in [
        ("as-bearer", "bearer"),
        ("as-basic", "{ basic: { user: svc } }"),
        ("as-header", "{ header: x-vendor-key }"),
        ("as-query", "{ query: key }"),
    ] {
        house = house.credential(name, &format!("{{ {secret}, inject: {inject} }}"));
    }
    let rules = ["bearer", "basic", "header", "query"]
        .map(|how| format!("  - {{ id: {how}, effect: allow, to: [up], methods: [GET], paths: [/{how}], grant: as-{how} }}\n"))
        .concat();
    let exeat = house
        .raw_upstream("up", &format!("{{ owner: t@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, credentials: [as-bearer, as-basic, as-header, as-query] }}", up.origin()))
        .policy("base.yaml", &(policy_head("base") + &rules))
        .start();
    for how in ["bearer", "basic", "header", "query"] {
        let answer = exeat.ask(
            "mesh",
            "GET",
            &format!("/{how}?a=1&key=static&b=%2F"),
            &up.authority(),
            &[("x-vendor-key", "static"), ("authorization", "Basic c3RhdGljOnN0YXRpYw==")],
        );
        assert_eq!(answer.status, 200, "{how}: {}", answer.text());
    }
    assert_eq!(up.wait_for("/bearer").fields.get("authorization"), Some("Bearer vendor/secret+1"));
    assert_eq!(up.wait_for("/basic").fields.get("authorization"), Some("Basic c3ZjOnZlbmRvci9zZWNyZXQrMQ=="));
    assert_eq!(up.wait_for("/header").fields.get("x-vendor-key"), Some("vendor/secret+1"));
    let target = up.wait_for("/query").target;
    assert!(target.contains("key=vendor%2Fsecret%2B1") && target.contains("a=1") && target.contains("b=%2F"), "{target}");
    for seen in up.seen() {
        assert!(!seen.text().contains("static"), "{}", seen.text());
    }
}

#[test]
fn a_grant_only_narrows() {
    let up = Upstream::http();
    let policy = policy_head("base")
        + "  - { id: read, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: { credential: up-jwt, scope: [read], ttl: 20s } }\n"
        + "  - { id: write, effect: allow, to: [up], methods: [POST], paths: [\"/**\"], grant: up-jwt }\n";
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &policy).start();
    for (method, scope, life) in [("GET", "read", 20), ("POST", "read write", 60)] {
        assert_eq!(exeat.ask("mesh", method, &format!("/{method}"), &up.authority(), &[]).status, 200);
        let seen = up.wait_for(&format!("/{method}"));
        let claims = jwt::verify(seen.bearer().expect("a token"), &exeat.jwks(), &audience("up")).expect("a good token");
        assert_eq!(claims["scope"], scope, "{claims}");
        let lives = claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat");
        assert!(lives <= life, "{lives} seconds, {life} at most");
    }
}
