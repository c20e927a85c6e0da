//! Spans of a finished passage, written at once: a SERVER span, a CLIENT child for each attempt, and INTERNAL children only where they
//! took time (obtaining a credential that was not there, connecting). They wait in a bounded queue; what finds no place is counted.
//! Attributes that follow from the circumstances of a passage are encoded once and put into every span of the same circumstances.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode, Version};
use tokio::sync::Notify;

use super::context::Ids;
use super::names as n;
use super::otlp::{HEADROOM, Head, Kind, Span};
use crate::audit::{Access, Attempt, Circumstances, Outcome, PerCircumstances};
use crate::capture::{Destination, Mode, Peer};

/// Encoded spans behind [`HEADROOM`] free bytes, and how many.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) spans: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    full: VecDeque<Chunk>,
    current: Chunk,
    spans: usize,
}

/// Handle to the span queue and its counters; cheap to clone.
#[derive(Debug, Clone)]
pub struct Spans(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    limit: usize,
    batch: usize,
    bell: Notify,
    dropped: AtomicU64,
    exported: AtomicU64,
    failures: AtomicU64,
}

/// What became of spans since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpanCounts {
    /// Waiting for the exporter.
    pub queued: usize,
    /// Taken by the collector.
    pub exported: u64,
    /// Lost: the queue was full, or the collector did not take them.
    pub dropped: u64,
    /// Export requests that failed.
    pub failures: u64,
}

impl Spans {
    pub(super) fn new(limit: usize, batch: usize) -> Self {
        Self(Arc::new(Shared {
            waiting: Mutex::default(),
            limit: limit.max(1),
            batch: batch.max(1),
            bell: Notify::new(),
            dropped: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }))
    }

    /// The counters.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        SpanCounts {
            queued: self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).spans,
            exported: self.0.exported.load(Ordering::Relaxed),
            dropped: self.0.dropped.load(Ordering::Relaxed),
            failures: self.0.failures.load(Ordering::Relaxed),
        }
    }

    /// The side that writes; one per thread that observes passages.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        let (scratch, shown) = (Vec::with_capacity(2_048), String::with_capacity(64));
        Recorder { spans: self.clone(), ids: Ids::new(), kept: PerCircumstances::default(), scratch, shown }
    }

    /// The next chunk; what is not full yet only when `rest`.
    pub(super) fn take(&self, rest: bool) -> Option<Chunk> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let chunk = match waiting.full.pop_front() {
            Some(chunk) => chunk,
            None if rest && waiting.current.spans > 0 => std::mem::take(&mut waiting.current),
            None => return None,
        };
        waiting.spans = waiting.spans.saturating_sub(chunk.spans);
        Some(chunk)
    }

    /// Ends when a chunk is full.
    pub(super) async fn full(&self) {
        self.0.bell.notified().await;
    }

    pub(super) fn taken(&self, spans: usize) {
        self.0.exported.fetch_add(spans as u64, Ordering::Relaxed);
    }

    pub(super) fn lost(&self, spans: usize) {
        self.0.dropped.fetch_add(spans as u64, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
    }
}

/// Encoded attributes of all spans of the same circumstances.
struct Recurring {
    server: Box<[u8]>,
    client: Box<[u8]>,
    /// The destination, before the path of `url.full`.
    origin: Box<str>,
}

impl Recurring {
    fn of(access: &Access) -> Self {
        let (mut server, mut client, mut shown) = (Vec::with_capacity(1_024), Vec::with_capacity(256), String::new());
        let mut span = Span::attributes(&mut server);
        asked(&mut span, access);
        span.text(n::NETWORK_PROTOCOL_VERSION, version(access.version));
        if let Some(status) = access.status {
            span.number(n::HTTP_RESPONSE_STATUS_CODE, u64::from(status.as_u16()));
        }
        if let Some(to) = &access.destination {
            span.text(n::URL_SCHEME, to.scheme.as_str());
            destination(&mut span, to);
        }
        span.text(n::LISTENER, &access.listener);
        span.text(n::CAPTURE, mode(access.mode));
        judgement(&mut span, access);
        credentials(&mut span, access, &mut shown);
        match access.outcome {
            Outcome::Refused(code) => span.parts(n::ERROR_TYPE, &["exeat.", code.name()]),
            Outcome::Aborted => span.text(n::ERROR_TYPE, "exeat.aborted"),
            Outcome::Allowed => {}
        }
        shown.clear();
        let mut span = Span::attributes(&mut client);
        asked(&mut span, access);
        if let Some(to) = &access.destination {
            destination(&mut span, to);
            show(&mut shown, to);
        }
        if let Some(upstream) = &access.upstream {
            span.text(n::SERVICE_PEER_NAME, &upstream.name);
        }
        Self { server: server.into(), client: client.into(), origin: shown.into() }
    }
}

/// Writes the spans of passages.
pub struct Recorder {
    spans: Spans,
    ids: Ids,
    kept: PerCircumstances<Recurring>,
    scratch: Vec<u8>,
    shown: String,
}

impl Recorder {
    /// Writes the spans of one finished passage, if it is sampled and the queue has a place.
    pub fn record(&mut self, access: &Circumstances<'_>) {
        if !access.trace.sampled {
            return;
        }
        let shared = Arc::clone(&self.spans.0);
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = 1 + access.attempts.len();
        if waiting.spans + expected > shared.limit {
            drop(waiting);
            self.spans.lost(expected);
            return;
        }
        let start = u64::try_from(access.time.as_nanosecond()).unwrap_or(0);
        let batch = &mut waiting.current.bytes;
        if batch.is_empty() {
            batch.resize(HEADROOM, 0);
        }
        let mut written = 1;
        self.server(access, start, batch);
        for (nth, attempt) in access.attempts.iter().enumerate() {
            self.client(access, attempt, nth, start, batch);
            written += 1;
            if let Some(connect) = attempt.connect.filter(|_| !attempt.reused) {
                let window = (attempt.began, attempt.began.saturating_add(connect));
                self.internal(access, "connect", attempt.span, start, window, batch);
                written += 1;
            }
        }
        if !access.cached && access.obtained > access.decided {
            self.internal(access, "obtain credential", access.trace.span, start, (access.decided, access.obtained), batch);
            written += 1;
        }
        waiting.current.spans += written;
        waiting.spans += written;
        if waiting.current.spans >= shared.batch {
            let room = waiting.current.bytes.len() + 4_096;
            let full = std::mem::replace(&mut waiting.current, Chunk { bytes: Vec::with_capacity(room), spans: 0 });
            waiting.full.push_back(full);
            shared.bell.notify_one();
        }
    }

    fn server(&mut self, access: &Circumstances<'_>, start: u64, batch: &mut Vec<u8>) {
        let (method, original) = method(&access.method);
        let mut span = Span::begin(
            &mut self.scratch,
            &Head {
                trace: access.trace.trace,
                span: access.trace.span,
                parent: access.trace.parent,
                remote: access.trace.parent.is_some(),
                name: if original.is_some() { "HTTP" } else { method },
                kind: Kind::Server,
                start,
                end: later(start, access.took),
            },
        );
        span.text(n::URL_PATH, &access.path);
        span.put(&self.kept.of(access, || Recurring::of(access)).server);
        if let Peer::Tcp { address, .. } = access.peer {
            show_ip(&mut self.shown, address.ip());
            span.text(n::CLIENT_ADDRESS, &self.shown);
            peer(&mut span, &self.shown, address);
        }
        span.number(n::HTTP_REQUEST_BODY_SIZE, access.request_bytes);
        span.number(n::HTTP_RESPONSE_BODY_SIZE, access.response_bytes);
        span.hex(n::REQUEST_ID, access.id.to_be_bytes());
        own(&mut span, access);
        let failed = match access.outcome {
            Outcome::Refused(code) => code.status().is_server_error(),
            Outcome::Aborted => true,
            Outcome::Allowed => status_error(&mut span, access.status.filter(StatusCode::is_server_error)),
        };
        if failed {
            span.error();
        }
        span.end(batch);
    }

    fn client(&mut self, access: &Circumstances<'_>, attempt: &Attempt, nth: usize, start: u64, batch: &mut Vec<u8>) {
        let (method, original) = method(&access.method);
        let mut span = Span::begin(
            &mut self.scratch,
            &Head {
                trace: access.trace.trace,
                span: attempt.span,
                parent: Some(access.trace.span),
                remote: false,
                name: if original.is_some() { "HTTP" } else { method },
                kind: Kind::Client,
                start: later(start, attempt.began),
                end: later(start, attempt.ended.max(attempt.began)),
            },
        );
        let recurring = self.kept.of(access, || Recurring::of(access));
        span.put(&recurring.client);
        if access.destination.is_some() {
            span.parts(n::URL_FULL, &[&recurring.origin, &access.path]);
        }
        span.text(n::NETWORK_PROTOCOL_VERSION, version(attempt.version));
        if let Some(address) = attempt.address {
            show_ip(&mut self.shown, address.ip());
            peer(&mut span, &self.shown, address);
        }
        if let Some(status) = attempt.status {
            span.number(n::HTTP_RESPONSE_STATUS_CODE, u64::from(status.as_u16()));
        }
        if nth > 0 {
            span.number(n::HTTP_REQUEST_RESEND_COUNT, nth as u64);
        }
        span.flag(n::CONNECTION_REUSED, attempt.reused);
        let failed = match attempt.error {
            Some(error) => {
                span.text(n::ERROR_TYPE, error);
                true
            }
            None => status_error(&mut span, attempt.status.filter(|status| status.is_client_error() || status.is_server_error())),
        };
        if failed {
            span.error();
        }
        span.end(batch);
    }

    fn internal(
        &mut self,
        access: &Access,
        name: &'static str,
        parent: [u8; 8],
        start: u64,
        (began, ended): (Duration, Duration),
        batch: &mut Vec<u8>,
    ) {
        let head = Head {
            trace: access.trace.trace,
            span: self.ids.span(),
            parent: Some(parent),
            remote: false,
            name,
            kind: Kind::Internal,
            start: later(start, began),
            end: later(start, ended),
        };
        Span::begin(&mut self.scratch, &head).end(batch);
    }
}

fn later(start: u64, by: Duration) -> u64 {
    start.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX))
}

fn show(shown: &mut String, value: impl std::fmt::Display) {
    shown.clear();
    if write!(shown, "{value}").is_err() {
        shown.clear();
    }
}

/// As `Display` shows it.
fn show_ip(shown: &mut String, ip: IpAddr) {
    let IpAddr::V4(v4) = ip else { return show(shown, ip) };
    shown.clear();
    let mut digits = itoa::Buffer::new();
    for octet in v4.octets() {
        shown.push_str(digits.format(octet));
        shown.push('.');
    }
    shown.pop();
}

fn asked(span: &mut Span<'_>, access: &Access) {
    let (method, original) = method(&access.method);
    span.text(n::HTTP_REQUEST_METHOD, method);
    if let Some(original) = original {
        span.text(n::HTTP_REQUEST_METHOD_ORIGINAL, original);
    }
}

fn destination(span: &mut Span<'_>, to: &Destination) {
    span.text(n::SERVER_ADDRESS, to.host.as_str());
    span.number(n::SERVER_PORT, u64::from(to.port));
}

fn peer(span: &mut Span<'_>, ip: &str, address: SocketAddr) {
    span.text(n::NETWORK_PEER_ADDRESS, ip);
    span.number(n::NETWORK_PEER_PORT, u64::from(address.port()));
}

fn status_error(span: &mut Span<'_>, status: Option<StatusCode>) -> bool {
    if let Some(status) = status {
        span.text(n::ERROR_TYPE, status.as_str());
    }
    status.is_some()
}

/// What follows from the circumstances: who, where, which rule.
fn judgement(span: &mut Span<'_>, access: &Access) {
    if let Some(workload) = &access.workload {
        span.text(n::IDENTITY_ID, workload.id.as_str());
        span.text(n::IDENTITY_ATTESTED_BY, workload.attestation.name());
    }
    if let Some(upstream) = &access.upstream {
        span.text(n::UPSTREAM, &upstream.name);
        span.text(n::UPSTREAM_OWNER, &upstream.owner);
    }
    span.text(n::OUTCOME, access.outcome.name());
    span.text(n::DECISION, access.decision());
    if let Some(code) = access.outcome.code() {
        span.text(n::CODE, code.name());
    }
    if let Some(rule) = &access.rule {
        span.text(n::POLICY_RULE, &rule.id);
        span.text(n::POLICY_RULE_PLACE, &rule.place);
        span.text(n::POLICY_RULE_OWNER, &rule.owner);
        span.text(n::SECURITY_RULE_NAME, &rule.id);
        span.text(n::SECURITY_RULE_RULESET_NAME, &access.policy);
    }
    span.number(n::POLICY_REVISION, access.revision);
    span.text(n::STAGE, if access.observed { "observe" } else { "enforce" });
}

/// What a judgement says of this passage alone.
fn own(span: &mut Span<'_>, access: &Access) {
    if let Some(leased) = &access.lease {
        span.text(n::LEASE_ID, &leased.lease.id);
        span.text(n::LEASE_KIND, &leased.lease.kind);
    }
    if let Some(would) = &access.would_be {
        let (word, rule) = match &would.outcome {
            Ok(rule) => ("allowed", Some(rule)),
            Err(denied) => (denied.code.name(), denied.rule.as_ref()),
        };
        span.text(n::WOULD_BE, word);
        if let Some(rule) = rule {
            span.text(n::WOULD_BE_RULE, &rule.id);
        }
    }
    if access.grpc {
        span.flag(n::GRPC, true);
    }
    if access.tunnel {
        span.flag(n::TUNNEL, true);
    }
    if access.reflected {
        span.flag(n::CREDENTIAL_REFLECTED, true);
    }
}

fn credentials(span: &mut Span<'_>, access: &Access, shown: &mut String) {
    let removed = access.findings.iter().filter(|finding| !finding.kept);
    if removed.clone().next().is_some() {
        span.texts(n::CREDENTIAL_STRIPPED, removed.clone().map(|finding| finding.kind.name()));
        span.texts(n::CREDENTIAL_STRIPPED_PLACES, removed.map(|finding| &*finding.place));
    }
    if let Some(credential) = &access.credential {
        let profile = &credential.terms.profile;
        span.text(n::CREDENTIAL_NAME, &profile.name);
        span.text(n::CREDENTIAL_KIND, profile.kind);
        span.text(n::CREDENTIAL_ID, &credential.grant.0);
        if let Some(scopes) = &credential.terms.scopes {
            span.texts(n::CREDENTIAL_SCOPE, scopes.iter().map(|scope| &**scope));
        }
        if let Some(audience) = &profile.audience {
            span.text(n::CREDENTIAL_AUDIENCE, audience);
        }
        span.number(n::CREDENTIAL_TTL, credential.terms.ttl.as_secs());
        span.text(n::CREDENTIAL_CACHE, if access.cached { "hit" } else { "miss" });
        show(shown, credential.fingerprint);
        span.text(n::CREDENTIAL_FINGERPRINT, shown);
    }
}

/// The known methods of RFC 9110 and PATCH; others are `_OTHER` and told beside it.
pub(super) fn method(method: &Method) -> (&'static str, Option<&str>) {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).map_or_else(|| ("_OTHER", Some(method.as_str())), |known| (known, None))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Route => "route",
        Mode::Host => "host",
        Mode::Forward => "forward",
    }
}
