//! Passages for tests of this room and of the rooms that read it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a world of tests and fuzz targets fails loudly")]

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Version};
use smallvec::smallvec;

use super::access::{Access, Attempt, Outcome, TraceIds};
use crate::capture::{Destination, Host, Mode, Peer, Scheme};
use crate::catalogue::{Deadlines, Placement, Profile, Protocol, Roots, Stage, StripOptions, TlsProfile, Upstream, UpstreamIndex};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::credentials::{Credential, GrantId};
use crate::identity::{Attestation, SpiffeId, UnixClaim, Workload};
use crate::policy::{Denied, GrantTerms, RuleRef, WouldBe};
use crate::refusal::Code;
use crate::secret::{FingerprintKey, Secret};
use crate::strip::{Finding, Kind};

/// Must appear in no output.
pub(crate) const CANARY: &str = "sk-live-canary-7f3a";

pub(crate) fn rule() -> RuleRef {
    RuleRef { id: "billing/read-entries".into(), place: "billing.yaml:14:5".into(), owner: "team-billing@example.com".into() }
}

pub(crate) fn upstream() -> Arc<Upstream> {
    Arc::new(Upstream {
        index: UpstreamIndex(0),
        name: "ledger".into(),
        owner: "team-ledger@example.com".into(),
        origins: Vec::new(),
        reach: Vec::new(),
        tls: TlsProfile { roots: Roots::System, server_name: None, spiffe_id: None, client_certificate: false },
        protocol: Protocol::Auto,
        credentials: vec!["ledger-jwt".into()],
        stage: Stage::Enforce,
        intercept: true,
        strip: StripOptions::default(),
        response_remove: Vec::new(),
        deadlines: Deadlines::default(),
        body_limit: 65_536,
    })
}

pub(crate) fn credential() -> Arc<Credential> {
    let key = FingerprintKey::new(&[7; 32]);
    let profile = Profile {
        name: "ledger-jwt".into(),
        kind: "local_jwt",
        audience: Some("https://ledger.internal.example".into()),
        scopes: Some(Arc::from(["entries:read".into(), "entries:write".into()])),
        ttl: Duration::from_mins(1),
        placement: Placement::Bearer,
    };
    let terms = GrantTerms { profile: Arc::new(profile), scopes: Some(Arc::from(["entries:read".into()])), ttl: Duration::from_mins(1) };
    let material = Secret::new(CANARY.as_bytes());
    Arc::new(Credential {
        grant: GrantId("g-01".into()),
        terms: Arc::new(terms),
        fingerprint: material.fingerprint(&key),
        material,
        rendered: Some(http::HeaderValue::from_static(CANARY)),
        issued: Timestamp::from_second(1_794_000_000).unwrap(),
        not_after: Timestamp::from_second(1_794_000_060).ok(),
    })
}

/// Allowed, one attempt, everything filled in.
pub(crate) fn allowed(id: u128) -> Access {
    let key = FingerprintKey::new(&[7; 32]);
    Access {
        id,
        time: Timestamp::from_microsecond(1_794_000_000_001_234).unwrap(),
        began: SystemClock.instant(),
        took: Duration::from_micros(2_500),
        trace: TraceIds { trace: [0xa1; 16], span: [0xb2; 8], parent: Some([0xc3; 8]), sampled: true },
        listener: "egress".into(),
        mode: Mode::Forward,
        peer: Peer::Tcp { address: "127.0.0.1:40312".parse().unwrap(), uid: Some(1001) },
        version: Version::HTTP_11,
        workload: Some(Arc::new(Workload {
            id: SpiffeId::parse("spiffe://prod.example/ns/billing/sa/app").unwrap(),
            attestation: Attestation::UnixPeer(UnixClaim { uid: Some(1001), ..UnixClaim::default() }),
        })),
        method: Method::POST,
        path: "/v1/entries".into(),
        grpc: false,
        tunnel: false,
        destination: Some(Destination { scheme: Scheme::Https, host: Host::parse("ledger.internal.example").unwrap(), port: 8443 }),
        upstream: Some(upstream()),
        outcome: Outcome::Allowed,
        detail: "".into(),
        rule: Some(rule()),
        lease: None,
        would_be: None,
        observed: false,
        revision: 7,
        policy: "5f2c9a01".into(),
        findings: smallvec![Finding {
            kind: Kind::Bearer,
            place: "header:authorization".into(),
            fingerprint: key.fingerprint(CANARY.as_bytes()),
            kept: false
        }],
        credential: Some(credential()),
        decided: Duration::from_micros(12),
        obtained: Duration::from_micros(300),
        cached: true,
        attempts: smallvec![Attempt {
            span: [0xd4; 8],
            began: Duration::from_micros(320),
            ended: Duration::from_micros(2_400),
            address: "10.0.0.5:8443".parse().ok(),
            version: Version::HTTP_2,
            certificate: None,
            reused: false,
            connect: Some(Duration::from_micros(900)),
            status: Some(StatusCode::CREATED),
            error: None,
        }],
        status: Some(StatusCode::CREATED),
        request_bytes: 120,
        response_bytes: 640,
        dropped_trailers: 0,
        reflected: false,
    }
}

/// Refused before any upstream byte.
pub(crate) fn refused(id: u128, code: Code) -> Access {
    Access {
        outcome: Outcome::Refused(code),
        detail: "rule billing/never at billing.yaml:20:5".into(),
        status: Some(code.status()),
        credential: None,
        attempts: smallvec![],
        ..allowed(id)
    }
}

/// Passed in stage `observe`, and would not in `enforce`.
pub(crate) fn observed(id: u128) -> Access {
    let denied = Denied { code: Code::NoRule, rule: None, block: None, lease: None, wait: None, why: None };
    Access { observed: true, rule: None, would_be: Some(WouldBe { outcome: Err(denied), changed: true }), credential: None, ..allowed(id) }
}
