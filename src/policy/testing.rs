//! The world of this room's tests: a small catalogue, its credentials, and requests made from one line.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a world of tests and fuzz targets fails loudly")]

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::request::Parts;
use rustc_hash::FxHashMap;

use super::{AccessRequest, Bounds, Decision, Explanation, IdentityPattern, PolicyFile, PolicySet, compile};
use crate::action::Action;
use crate::capture::{Destination, Host, Peer, Scheme};
use crate::catalogue::{
    Catalogue, Deadlines, HostPattern, Origin, Placement, Profile, Protocol, Roots, Stage, StripOptions, TlsProfile, Upstream,
    UpstreamIndex,
};
use crate::clock::Timestamp;
use crate::identity::{Attestation, SpiffeId, Workload};
use crate::secret::FingerprintKey;
use crate::strip::{Rules, examine};
use crate::written::{Diagnostic, Source};

/// A Monday noon in UTC.
pub(super) const NOW: &str = "2026-11-23T12:00:00Z";
pub(super) const BILLING: &str = "spiffe://prod.example/ns/billing/sa/billing-app";

pub(super) fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn upstream(index: u32, name: &str, scheme: Scheme, host: &str, credentials: &[&str]) -> Upstream {
    Upstream {
        index: UpstreamIndex(index),
        name: name.into(),
        owner: "owner@example.com".into(),
        origins: vec![Origin { scheme, host: HostPattern::Exact(Host::parse(host).unwrap()), port: scheme.default_port() }],
        reach: Vec::new(),
        tls: TlsProfile { roots: Roots::System, server_name: None, spiffe_id: None, client_certificate: false },
        protocol: Protocol::Auto,
        credentials: credentials.iter().map(|name| (*name).into()).collect(),
        stage: Stage::Enforce,
        intercept: true,
        strip: StripOptions::default(),
        response_remove: Vec::new(),
        deadlines: Deadlines::default(),
        body_limit: 65536,
    }
}

/// `stripe`, `ledger`, `vendor` (a tunnel), `legacy` (plaintext), `trial` (observed until December), `bare` (an address).
pub(super) fn catalogue() -> Catalogue {
    let mut all = vec![
        upstream(0, "stripe", Scheme::Https, "api.payments.example", &["stripe-restricted", "stripe-readonly"]),
        upstream(1, "ledger", Scheme::Https, "ledger.internal.example", &["jwt-ledger"]),
        upstream(2, "vendor", Scheme::Https, "vendor.example", &[]),
        upstream(3, "legacy", Scheme::Http, "legacy.internal.example", &["jwt-ledger"]),
        upstream(4, "trial", Scheme::Https, "trial.example", &["jwt-ledger"]),
        upstream(5, "bare", Scheme::Https, "203.0.113.7", &["jwt-ledger"]),
    ];
    all[2].intercept = false;
    all[4].stage = Stage::Observe { until: "2026-12-01T00:00:00Z".parse().unwrap(), rehearse: true, enforce_percent: 10 };
    Catalogue::new(all.into_iter().map(Arc::new).collect()).unwrap()
}

pub(super) fn profiles() -> FxHashMap<Arc<str>, Arc<Profile>> {
    let profile = |name: &str, scopes: Option<&[&str]>| {
        let scopes = scopes.map(|scopes| scopes.iter().map(|scope| Arc::from(*scope)).collect());
        let profile = Profile {
            name: name.into(),
            kind: "local_jwt",
            audience: None,
            scopes,
            ttl: Duration::from_mins(5),
            placement: Placement::Bearer,
        };
        (Arc::clone(&profile.name), Arc::new(profile))
    };
    FxHashMap::from_iter([
        profile("stripe-restricted", None),
        profile("stripe-readonly", None),
        profile("jwt-ledger", Some(&["entries:read", "entries:write"])),
    ])
}

/// Compiles files, each given as name and text.
pub(super) fn compiled(files: &[(&str, &str, Bounds)]) -> Result<(PolicySet, Vec<Diagnostic>), Vec<Diagnostic>> {
    let files: Vec<_> =
        files.iter().map(|(name, text, bounds)| PolicyFile { source: Source::new(*name, *text), bounds: bounds.clone() }).collect();
    compile(&files, &catalogue(), &profiles(), "prod.example", now())
}

/// A file's head, so that tests only write rules.
pub(super) fn with_head(rules: &str) -> String {
    format!(
        "exeat: policy/v1\nname: billing\ndefaults: {{ owner: team-billing@example.com, reason: PAY-812, expires: 2027-03-01, from: [billing], to: [stripe] }}\nidentities:\n  billing: {{ k8s: {{ namespace: billing, service_account: billing-app }} }}\nrules:\n{rules}"
    )
}

/// One set of rules, which must be sound.
pub(super) fn set(rules: &str) -> PolicySet {
    let text = with_head(rules);
    match compiled(&[("billing.yaml", &text, Bounds::All)]) {
        Ok((set, _)) => set,
        Err(errors) => panic!("{}", errors.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n")),
    }
}

pub(super) fn within(identities: &[&str], upstreams: &[&str]) -> Bounds {
    Bounds::Within {
        identities: identities.iter().map(|text| IdentityPattern::parse(text).unwrap()).collect(),
        upstreams: upstreams.iter().map(|name| Arc::from(*name)).collect(),
    }
}

/// One request, to be asked about.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) workload: Arc<Workload>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) destination: Destination,
    pub(super) parts: Parts,
    pub(super) peer: Peer,
    pub(super) tunnel: bool,
    pub(super) now: Timestamp,
    pub(super) share: u8,
}

/// `METHOD /path?query` to an upstream, by the billing application.
pub(super) fn ask(upstream: &str, line: &str) -> Ask {
    let catalogue = catalogue();
    let upstream = Arc::clone(catalogue.by_name(upstream).unwrap());
    let (method, target) = line.split_once(' ').unwrap();
    let (parts, ()) = Request::builder().method(method).uri(target).body(()).unwrap().into_parts();
    Ask {
        workload: workload(BILLING),
        destination: upstream.origins[0].destination().unwrap(),
        tunnel: method == "CONNECT",
        upstream,
        parts,
        peer: Peer::Tcp { address: "10.1.2.3:4711".parse().unwrap(), uid: Some(1001) },
        now: now(),
        share: 99,
    }
}

/// A lease of the billing application for 20 minutes; its name.
pub(super) fn lease(live: &crate::live::Live, kind: &str, uses: Option<u32>) -> Arc<str> {
    lease_with(live, kind, uses, &[])
}

/// The same with attributes.
pub(super) fn lease_with(live: &crate::live::Live, kind: &str, uses: Option<u32>, attributes: &[(&str, &str)]) -> Arc<str> {
    let opening = crate::live::Opening {
        workload: BILLING.to_owned(),
        kind: kind.to_owned(),
        ttl: Duration::from_mins(20),
        uses,
        attributes: attributes.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        ..crate::live::Opening::default()
    };
    Arc::clone(&live.leases().open_lease(opening, &[], "uid 0", now()).unwrap().id)
}

pub(super) fn workload(id: &str) -> Arc<Workload> {
    Arc::new(Workload { id: SpiffeId::parse(id).unwrap(), attestation: Attestation::Fixed })
}

impl Ask {
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        self.parts.headers.append(name, value.parse().unwrap());
        self
    }

    pub(super) fn by(mut self, id: &str) -> Self {
        self.workload = workload(id);
        self
    }

    pub(super) fn at(mut self, time: &str) -> Self {
        self.now = time.parse().unwrap();
        self
    }

    pub(super) fn with<T>(&self, use_it: impl FnOnce(&AccessRequest<'_>, &crate::strip::Stripped) -> T) -> T {
        let action = Action::read(&self.parts).unwrap();
        let stripped = examine(&self.parts, &Rules::new(&StripOptions::default()).unwrap(), &FingerprintKey::new(&[0; 32]));
        let request = AccessRequest {
            workload: &self.workload,
            upstream: &self.upstream,
            destination: &self.destination,
            action: &action,
            parts: &self.parts,
            peer: &self.peer,
            tunnel: self.tunnel,
            share: self.share,
        };
        use_it(&request, &stripped)
    }

    pub(super) fn decide(&self, set: &PolicySet) -> Decision {
        self.decide_with(set, &crate::live::Live::default())
    }

    pub(super) fn decide_with(&self, set: &PolicySet, live: &crate::live::Live) -> Decision {
        // What the household does while a request waits.
        for _ in 0..4 {
            let decision = self.with(|request, stripped| set.decide(request, stripped, live, self.now));
            let Some(want) = &decision.unreserved else { return decision };
            live.leases().want(want.clone());
            live.leases().tend(self.now).unwrap();
        }
        self.with(|request, stripped| set.decide(request, stripped, live, self.now))
    }

    pub(super) fn explain(&self, set: &PolicySet) -> Explanation {
        self.explain_with(set, &crate::live::Live::default())
    }

    pub(super) fn explain_with(&self, set: &PolicySet, live: &crate::live::Live) -> Explanation {
        self.with(|request, stripped| set.explain(request, stripped, live, self.now))
    }

    /// The decision in one line: `allow RULE PLAN`, `CODE RULE`, and what would be.
    pub(super) fn line(&self, set: &PolicySet) -> String {
        line(&self.decide(set))
    }
}

pub(super) fn line(decision: &Decision) -> String {
    use super::{Denied, Plan, RuleRef};
    let short = |rule: &RuleRef| rule.id.rsplit('/').next().unwrap().to_owned();
    let denied = |denied: &Denied| format!("{} {}", denied.code.name(), denied.rule.as_ref().map_or("-".to_owned(), short));
    let outcome = match &decision.outcome {
        Ok(permit) => {
            let plan = match permit.plan() {
                Plan::AsIs => "as-is",
                Plan::Bare => "bare",
                Plan::Swap(terms) => &terms.profile.name,
            };
            format!("allow {} {plan}", permit.rule().map_or("-".to_owned(), short))
        }
        Err(refused) => denied(refused),
    };
    match &decision.would_be {
        None => outcome,
        Some(would) => {
            let mark = if would.changed { "!" } else { "=" };
            format!("{outcome} ~{mark} {}", would.outcome.as_ref().map_or_else(denied, |rule| format!("allow {}", short(rule))))
        }
    }
}
