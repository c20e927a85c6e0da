//! `Question`: one request to policy, made of what people wrote, and the answers to it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};

use super::ground::Ground;
use super::request::{LeaseWritten, PeerWritten, RequestWritten};
use crate::action::Action;
use crate::capture::{self, Destination, HeadLimits, Peer};
use crate::catalogue::{Stage, Upstream, parse_origin};
use crate::clock::{Clock, Timestamp};
use crate::identity::{Attestation, SpiffeId, Workload};
use crate::live::{Live, Opening};
use crate::policy::decision::Decision;
use crate::policy::document::OneOrMore;
use crate::policy::explain::Explanation;
use crate::policy::request::AccessRequest;
use crate::policy::set::PolicySet;
use crate::policy::trie::Cost;
use crate::refusal::{Code, Refusal};
use crate::secret::FingerprintKey;
use crate::strip;
use crate::written::{Entries, Place, Report, Spanned};

/// One request to policy, by itself: no connection, no listener.
#[derive(Debug)]
pub struct Question {
    workload: Arc<Workload>,
    upstream: Arc<Upstream>,
    destination: Destination,
    /// The head, or why there can be none: what the edge refuses never reaches policy.
    parts: Result<Parts, Refusal>,
    peer: Peer,
    tunnel: bool,
    strip: strip::Rules,
    /// What the workload holds.
    lease: Option<Opening>,
    /// When it is asked.
    pub at: Timestamp,
}

/// What policy says of a question.
#[derive(Debug)]
pub struct Answer {
    /// The decision of the index.
    pub decision: Decision,
    /// Its reasons, by a plain scan.
    pub explanation: Explanation,
    /// What the walk cost, for all readings of the path together.
    pub cost: Cost,
}

/// Layers of one request: the first that has a word says it.
struct Layers<'a>(&'a [&'a RequestWritten]);

impl<'a> Layers<'a> {
    fn find<T>(&self, field: impl Fn(&'a RequestWritten) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|layer| field(layer))
    }
}

impl Question {
    /// Makes a question of layers, the topmost first; mistakes go to the report, with `place` where no word stands that could be shown.
    pub fn read(layers: &[&RequestWritten], ground: &Ground<'_>, at: Option<Timestamp>, place: Place, report: &mut Report) -> Option<Self> {
        let written = Layers(layers);
        let at = match written.find(|layer| layer.at.as_ref()) {
            Some(time) => time.build(report),
            None => at,
        };
        let workload = workload(&written, place, report);
        let upstream = upstream(&written, ground, place, report)?;
        let destination = destination(&written, &upstream, ground, place, report);
        let tunnel = written.find(|layer| layer.tunnel.as_ref()).is_some_and(|tunnel| tunnel.value);
        let peer = peer(written.find(|layer| layer.source.as_ref()), report);
        let strip = match strip::Rules::of(&upstream, ground.profiles) {
            Ok(rules) => rules,
            Err(error) => {
                report.error(place, error.to_string());
                return None;
            }
        };
        let destination = destination?;
        let parts = parts(&written, &destination, tunnel, place, report)?;
        let (workload, at) = (workload?, at?);
        let lease = match written.find(|layer| layer.lease.as_ref()) {
            Some(written) => Some(lease(written, &workload, at, report)?),
            None => None,
        };
        Some(Self { workload, upstream, destination, parts, peer: peer?, tunnel, strip, lease, at })
    }

    /// The same question to rules in force: whatever the stage of the upstream, the rules are what is asked about.
    #[must_use]
    pub fn enforced(mut self) -> Self {
        Arc::make_mut(&mut self.upstream).stage = Stage::Enforce;
        self
    }

    /// Who asks.
    #[must_use]
    pub fn workload(&self) -> &SpiffeId {
        &self.workload.id
    }

    /// Where to.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Which of its origins.
    #[must_use]
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// `POST /v1/charges`, without the query.
    #[must_use]
    pub fn action(&self) -> String {
        match &self.parts {
            Ok(parts) if self.tunnel => format!("{} {}", parts.method, parts.uri),
            Ok(parts) => format!("{} {}", parts.method, parts.uri.path()),
            Err(refusal) => refusal.code.name().to_owned(),
        }
    }

    /// What the index decides.
    ///
    /// # Errors
    /// What is refused before policy is asked: `malformed`, `unsupported`, `head_too_large`.
    pub fn decide(&self, set: &PolicySet) -> Result<Decision, Refusal> {
        let live = self.live();
        self.with(|request, stripped| self.decided(set, request, stripped, &live))
    }

    /// Decides, explains and counts.
    ///
    /// # Errors
    /// As [`Question::decide`].
    pub fn answer(&self, set: &PolicySet) -> Result<Answer, Refusal> {
        let live = self.live();
        self.with(|request, stripped| {
            // First, since it charges nothing.
            let explanation = set.explain(request, stripped, &live, self.at);
            Answer { decision: self.decided(set, request, stripped, &live), explanation, cost: set.cost_of(request) }
        })
    }

    fn decided(&self, set: &PolicySet, request: &AccessRequest<'_>, stripped: &strip::Stripped, live: &Live) -> Decision {
        let decision = set.decide(request, stripped, live, self.at);
        let Some(want) = decision.unreserved.clone() else { return decision };
        // What the household does while a request waits.
        live.leases().want(want);
        if live.leases().tend(self.at).is_err() {
            return decision;
        }
        set.decide(request, stripped, live, self.at)
    }

    /// Nothing is revoked and no limit is used up where files alone are asked; the workload holds its lease.
    pub(super) fn live(&self) -> Live {
        let live = Live::default();
        if let Some(opening) = &self.lease {
            // It was opened once while the question was read.
            drop(live.leases().open_lease(opening.clone(), &[], "a test", self.at));
        }
        live
    }

    /// How long one decision takes, without the making of its question.
    ///
    /// # Errors
    /// As [`Question::decide`].
    pub fn timed(&self, set: &PolicySet, clock: &dyn Clock) -> Result<Duration, Refusal> {
        let live = self.live();
        self.with(|request, stripped| {
            let began = clock.instant();
            let decision = set.decide(request, stripped, &live, self.at);
            let took = clock.instant().saturating_duration_since(began);
            drop(decision);
            took
        })
    }

    pub(super) fn with<T>(&self, use_it: impl FnOnce(&AccessRequest<'_>, &strip::Stripped) -> T) -> Result<T, Refusal> {
        let parts = self.parts.as_ref().map_err(Clone::clone)?;
        capture::check(parts, HeadLimits::default())?;
        let action = Action::read(parts)?;
        // fingerprints of findings are not shown, so nobody needs the key that they are made with
        let stripped = strip::examine(parts, &self.strip, &FingerprintKey::new(&[0; 32]));
        let request = AccessRequest {
            workload: &self.workload,
            upstream: &self.upstream,
            destination: &self.destination,
            action: &action,
            parts,
            peer: &self.peer,
            tunnel: self.tunnel,
            // asked by hand: of an upstream that is enforced in part, the other part
            share: 99,
        };
        Ok(use_it(&request, &stripped))
    }
}

fn missing(report: &mut Report, place: Place, field: &str, hint: &str) {
    report.error_hint(place, format!("the request has no `{field}`"), hint);
}

/// A lease that can be opened, or a mistake.
fn lease(written: &LeaseWritten, workload: &Workload, at: Timestamp, report: &mut Report) -> Option<Opening> {
    let opening = Opening {
        workload: workload.id.to_string(),
        kind: written.kind.value.clone(),
        ttl: Duration::from_hours(1),
        uses: written.uses.as_ref().map(|uses| uses.value),
        attributes: written.attributes.iter().map(|(name, text)| (name.value.clone(), text.value.clone())).collect(),
        ..Opening::default()
    };
    match Live::default().leases().open_lease(opening.clone(), &[], "a test", at) {
        Ok(_) => Some(opening),
        Err(error) => {
            report.error(written.kind.at, error.to_string());
            None
        }
    }
}

fn workload(written: &Layers<'_>, place: Place, report: &mut Report) -> Option<Arc<Workload>> {
    let Some(from) = written.find(|layer| layer.from.as_ref()) else {
        missing(report, place, "from", "name one workload, as in `spiffe://prod.example/ns/billing/sa/app`");
        return None;
    };
    match SpiffeId::parse(&from.value) {
        Ok(id) => Some(Arc::new(Workload { id, attestation: Attestation::Fixed })),
        Err(error) => {
            report.error_hint(
                from.at,
                format!("`{}` is no workload: {error}", from.value),
                "a request comes from one workload, no pattern",
            );
            None
        }
    }
}

fn upstream(written: &Layers<'_>, ground: &Ground<'_>, place: Place, report: &mut Report) -> Option<Arc<Upstream>> {
    let Some(to) = written.find(|layer| layer.to.as_ref()) else {
        missing(report, place, "to", "name an upstream of the catalogue");
        return None;
    };
    let found = ground.catalogue.by_name(&to.value);
    if found.is_none() {
        let known: Vec<&str> = ground.catalogue.all().iter().map(|upstream| &*upstream.name).collect();
        report.unknown_name(to.at, "upstream", &to.value, &known);
    }
    found.cloned()
}

fn destination(written: &Layers<'_>, upstream: &Upstream, ground: &Ground<'_>, place: Place, report: &mut Report) -> Option<Destination> {
    let Some(origin) = written.find(|layer| layer.origin.as_ref()) else {
        let first = upstream.origins.iter().find_map(crate::catalogue::Origin::destination);
        if first.is_none() {
            missing(report, place, "origin", "this upstream has only patterns of hosts: name one host");
        }
        return first;
    };
    let fits = |destination: &Destination| ground.catalogue.find(destination).is_some_and(|found| found.index == upstream.index);
    let schemes = if origin.value.contains("://") { &[""][..] } else { &["https://", "http://"] };
    let named = schemes.iter().filter_map(|scheme| parse_origin(&format!("{scheme}{}", origin.value)).ok()?.destination());
    let found = named.clone().find(fits);
    if found.is_none() {
        let message = format!("`{}` is no origin of upstream `{}`", origin.value, upstream.name);
        report.error_hint(origin.at, message, "write `host:port` or a URL without path, as the catalogue lists it");
    }
    found
}

fn peer(written: Option<&PeerWritten>, report: &mut Report) -> Option<Peer> {
    let ip = match written.and_then(PeerWritten::address) {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(Ok(ip)) => ip,
        Some(Err(text)) => {
            report.error(text.at, format!("`{}` is no IP address", text.value));
            return None;
        }
    };
    let uid = written.and_then(|peer| peer.uid.as_ref()).map(|uid| uid.value);
    Some(Peer::Tcp { address: SocketAddr::new(ip, 0), uid })
}

/// The head. What no client library could send is no mistake of the file: it is what the edge would refuse.
fn parts(
    written: &Layers<'_>,
    destination: &Destination,
    tunnel: bool,
    place: Place,
    report: &mut Report,
) -> Option<Result<Parts, Refusal>> {
    let malformed = || Some(Err(Refusal::new(Code::Malformed, "the method or the path cannot stand in a request head")));
    let authority = format!("{}:{}", bracketed(destination.host.as_str()), destination.port);
    let (method, target) = if tunnel {
        (Method::CONNECT, Uri::try_from(authority.as_str()))
    } else {
        let method = written.find(|layer| layer.method.as_ref());
        let path = written.find(|layer| layer.path.as_ref());
        for (word, field, hint) in [(method, "method", "as in `method: POST`"), (path, "path", "as in `path: /v1/charges`")] {
            if word.is_none() {
                missing(report, place, field, hint);
            }
        }
        let (method, path) = (method?, path?);
        let Ok(method) = Method::from_bytes(method.value.as_bytes()) else { return malformed() };
        (method, Uri::try_from(with_query(&path.value, written.find(|layer| layer.query.as_ref()))))
    };
    let Ok(target) = target else { return malformed() };
    let Ok(request) = Request::builder().method(method).uri(target).body(()) else { return malformed() };
    let (mut parts, ()) = request.into_parts();
    for (name, values) in written.find(|layer| layer.headers.as_ref()).into_iter().flat_map(Entries::iter) {
        for value in OneOrMore::each(values) {
            field(&mut parts, name, &value, report)?;
        }
    }
    if !parts.headers.contains_key(http::header::HOST) {
        parts.headers.insert(http::header::HOST, HeaderValue::try_from(authority).ok()?);
    }
    if let Some(size) = written.find(|layer| layer.body_size.as_ref()) {
        parts.headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(size.value));
    }
    Some(Ok(parts))
}

fn field(parts: &mut Parts, name: &Spanned<String>, value: &Spanned<&str>, report: &mut Report) -> Option<()> {
    let Ok(header) = HeaderName::from_bytes(name.value.as_bytes()) else {
        report.error(name.at, format!("`{}` is no header name", name.value));
        return None;
    };
    let Ok(text) = HeaderValue::from_str(value.value) else {
        report.error(value.at, format!("the value of `{}` cannot stand in a header", name.value));
        return None;
    };
    parts.headers.append(header, text);
    Some(())
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The path with its query parameters, each escaped.
fn with_query(path: &str, query: Option<&Entries<Spanned<OneOrMore>>>) -> String {
    let mut target = path.to_owned();
    let mut sign = if path.contains('?') { '&' } else { '?' };
    for (key, values) in query.into_iter().flat_map(Entries::iter) {
        for value in OneOrMore::each(values) {
            target.push(sign);
            escape(&key.value, &mut target);
            target.push('=');
            escape(value.value, &mut target);
            sign = '&';
        }
    }
    target
}

/// RFC 3986 section 2.3: unreserved characters stand for themselves.
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            let _written = write!(into, "%{byte:02X}");
        }
    }
}
