//! The lines: one JSON object each, written straight from the values, in a fixed order of fields. Absent means "there was none".
//! An `access` line begins with what its passage has in common with others (`circumstances`), then come `seq`, `prev` and what is its own.
//!
//! | field | of | meaning |
//! |---|---|---|
//! | `seq`, `prev`, `hash` | all | the chain (see `chain`) |
//! | `kind` | all | `access`, `opened`, `lost`, `abandoned`, `edge`, `gap`, `event`, `seal` |
//! | `time` | all | RFC 3339, UTC, microseconds: when the head was complete (`access`, `opened`), else when the line was written |
//! | `id` | access, opened, lost, abandoned | request id, 128 bits in hex; the caller sees it in refusals |
//! | `trace_id`, `span_id`, `parent_span_id` | access, opened | W3C Trace Context of the SERVER span |
//! | `listener`, `capture` | access, opened | name of the listener and how it takes traffic in: `route`, `host`, `forward` |
//! | `peer` | access, opened, edge | `{address, uid}` of TCP, `{uid, gid, pid}` of a unix socket |
//! | `workload` | access, opened | `{id, attestation, uid}`: SPIFFE ID and how it was proven |
//! | `upstream`, `owner`, `destination` | access, opened | catalogue's name, who answers for it, the exact origin |
//! | `version`, `method`, `path`, `grpc`, `tunnel` | access, opened | HTTP version of the caller's leg and what was asked; never the query |
//! | `outcome`, `decision` | access (`outcome` also edge) | `allowed`, `refused`, `aborted`; `allow`, `deny`, `shadow_deny`, `none` |
//! | `code`, `detail` | access, edge | stable code of a refusal; the operator's line |
//! | `rule` | access, opened | `{id, place, owner}` of the rule that decided |
//! | `lease` | access, opened | `{id, kind, uses_left}`: the lease that it went by, or that refused it; `uses_left` where uses are counted |
//! | `would_be` | access | `{outcome, code, rule, changed}`: what shadow rules or the stage `enforce` would have done |
//! | `stage` | access, opened | `enforce` or `observe` |
//! | `revision`, `policy` | access, opened | snapshot revision and content hash of the policy set |
//! | `findings` | access | static credentials met on the way: `[{kind, place, fingerprint, kept}]` |
//! | `credential` | access, opened | what was put on: `{grant, name, kind, audience, scopes, fingerprint, issued, expires, cached}` |
//! | `status` | access | HTTP status that the caller saw |
//! | `request_bytes`, `response_bytes` | access | body bytes from and to the caller |
//! | `durations` | access | microseconds: `{total, decided, obtained}`, the latter two since the head was complete |
//! | `attempts` | access | `[{span_id, began, ended, address, version, reused, connect, status, error}]`, microseconds since the head |
//! | `dropped_trailers`, `reflected` | access | HTTP/1 request trailers dropped; the injected value came back and was redacted |
//! | `opened` | lost | number of the `opened` line that no record followed |
//! | `count` | edge | bytes refused before they were a request: how often on this connection |
//! | `refused`, `edges`, `events` | gap | what could not be recorded while the ledger was unavailable |
//! | `event`, .. | event | `start`, `stop`, `reload`, `reload_failed`, `grant_issued`, `grant_refreshed`, `grant_discarded`, `grant_failed`,
//! | | | `grant_revoked`, `grant_revocation_failed`, `rehearsed`, `rehearse_failed`, `lease_opened`, `lease_renewed`, `lease_ended`,
//! | | | `revoked`, `restored`, `key` |
//! | `at`, `instance`, `version`, `cut`, `open`, `mac` | seal | `start`, `interval`, `rotate`, `segment`, `stop`; see `seal` |

use http::Version;

use super::access::{Access, Attempt, Outcome};
use super::addresses::Addresses;
use super::event::Event;
use super::json::{close_object, put, text};
use crate::capture::{Destination, Mode, Peer};
use crate::clock::Timestamp;
use crate::credentials::Credential;
use crate::identity::{Attestation, Workload};
use crate::policy::{Leased, RuleRef, WouldBe};
use crate::strip::Finding;

/// Seconds whose text is kept: the current one, and those of the credentials in use.
const KEPT: usize = 8;

/// Writes what stands between the chain's head and its tail. Keeps the text of a few seconds and addresses.
#[derive(Debug)]
pub(super) struct Scribe {
    kept: Vec<(i64, String)>,
    /// The one to be replaced next.
    oldest: usize,
    addresses: Addresses,
}

impl Scribe {
    pub(super) fn new() -> Self {
        Self { addresses: Addresses::keeping(), ..Self::brief() }
    }

    /// For one line: keeps no addresses.
    fn brief() -> Self {
        Self { kept: Vec::new(), oldest: 0, addresses: Addresses::default() }
    }

    /// `2026-11-21T10:00:00`.
    fn second(&mut self, second: i64) -> &str {
        let at = if let Some(at) = self.kept.iter().position(|(known, _)| *known == second) {
            at
        } else {
            let mut text = Timestamp::from_second(second).unwrap_or_default().to_string();
            text.pop();
            if self.kept.len() < KEPT {
                self.kept.push((second, text));
                self.kept.len() - 1
            } else {
                self.oldest = (self.oldest + 1) % KEPT;
                if let Some(slot) = self.kept.get_mut(self.oldest) {
                    *slot = (second, text);
                }
                self.oldest
            }
        };
        self.kept.get(at).map_or("", |(_, text)| text)
    }

    /// `"kind"` and `"time"`.
    pub(super) fn begin(&mut self, out: &mut Vec<u8>, kind: &'static str, time: Timestamp) {
        put!(out, "kind", word kind);
        out.extend_from_slice(b",\"time\":\"");
        self.time(out, time);
        out.push(b'"');
    }

    fn time(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        // Before 1970 the fraction counts backwards; no clock of ours is there, and the text is then that of the whole second.
        let micros = u32::try_from(time.subsec_microsecond()).unwrap_or(0);
        out.extend_from_slice(self.second(time.as_second()).as_bytes());
        let mut fraction = *b".000000Z";
        let mut rest = micros;
        for digit in fraction.iter_mut().take(7).skip(1).rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        out.extend_from_slice(&fraction);
    }

    /// What a finished passage has in common with others: the beginning of its line. Whatever is written here must be told apart by
    /// `circumstances`, since the text is kept.
    pub(super) fn circumstances(&mut self, out: &mut Vec<u8>, access: &Access) {
        out.extend_from_slice(b"{\"kind\":\"access\"");
        how(out, access);
        standing(out, access);
        put!(out, "outcome", word access.outcome.name());
        put!(out, "decision", word access.decision());
        if let Outcome::Refused(code) = access.outcome {
            put!(out, "code", word code.name());
        }
        if let Some(status) = access.status {
            put!(out, "status", number status.as_u16());
        }
        if !access.findings.is_empty() {
            list(out, b",\"findings\":[", &access.findings, finding);
        }
        if let Some(credential) = &access.credential {
            self.credential(out, credential, access.cached);
        }
    }

    /// What is a finished passage's own.
    pub(super) fn access(&mut self, out: &mut Vec<u8>, access: &Access) {
        out.extend_from_slice(b",\"time\":\"");
        self.time(out, access.time);
        out.push(b'"');
        asked(out, access, &mut self.addresses);
        if !access.detail.is_empty() {
            put!(out, "detail", text & access.detail);
        }
        if let Some(leased) = &access.lease {
            lease(out, leased);
        }
        if let Some(would) = &access.would_be {
            would_be(out, would);
        }
        put!(out, "request_bytes", number access.request_bytes);
        put!(out, "response_bytes", number access.response_bytes);
        out.extend_from_slice(b",\"durations\":{\"total\":");
        out.extend_from_slice(itoa::Buffer::new().format(micros(access.took)).as_bytes());
        put!(out, "decided", number micros(access.decided));
        if !access.obtained.is_zero() {
            put!(out, "obtained", number micros(access.obtained));
        }
        out.push(b'}');
        if !access.attempts.is_empty() {
            list(out, b",\"attempts\":[", &access.attempts, |out, tried| attempt(out, tried, &mut self.addresses));
        }
        if access.dropped_trailers > 0 {
            put!(out, "dropped_trailers", number access.dropped_trailers);
        }
        if access.reflected {
            put!(out, "reflected", flag true);
        }
    }

    /// A passage that goes on: what is known so far.
    pub(super) fn opened(&mut self, out: &mut Vec<u8>, access: &Opened) {
        self.begin(out, "opened", access.time);
        out.extend_from_slice(&access.fields);
    }

    /// A passage that was opened by a process that ended without closing it.
    pub(super) fn lost(&mut self, out: &mut Vec<u8>, now: Timestamp, id: &str, opened: u64) {
        self.begin(out, "lost", now);
        put!(out, "id", text id);
        put!(out, "opened", number opened);
    }

    /// A slot that was dropped unclosed: a bug of ours, shown instead of hidden.
    pub(super) fn abandoned(&mut self, out: &mut Vec<u8>, now: Timestamp, id: Option<u128>) {
        self.begin(out, "abandoned", now);
        if let Some(id) = id {
            put!(out, "id", hex id.to_be_bytes());
        }
        put!(out, "detail", word "a passage ended without its record: report this as a bug");
    }

    /// Bytes that were no request.
    pub(super) fn edge(&mut self, out: &mut Vec<u8>, now: Timestamp, edge: &Edge) {
        self.begin(out, "edge", now);
        put!(out, "listener", text & edge.listener);
        peer(out, &edge.peer, &mut self.addresses);
        put!(out, "count", number edge.count);
        put!(out, "outcome", word Outcome::Refused(edge.code).name());
        put!(out, "code", word edge.code.name());
        put!(out, "detail", text & edge.reason);
    }

    /// What could not be recorded.
    pub(super) fn gap(&mut self, out: &mut Vec<u8>, now: Timestamp, missing: Missing) {
        self.begin(out, "gap", now);
        put!(out, "refused", number missing.refused);
        put!(out, "edges", number missing.edges);
        put!(out, "events", number missing.events);
    }

    /// An event of the household.
    pub(super) fn event(&mut self, out: &mut Vec<u8>, now: Timestamp, event: &Event) {
        self.begin(out, "event", now);
        put!(out, "event", word event.name());
        match event {
            Event::Started { version, revision, policy } => {
                put!(out, "version", text version);
                put!(out, "revision", number * revision);
                put!(out, "policy", text policy);
            }
            Event::Stopping { cause } => put!(out, "cause", text cause),
            Event::Reloaded { revision, policy, cause } => {
                put!(out, "revision", number * revision);
                put!(out, "policy", text policy);
                put!(out, "cause", text cause);
            }
            Event::ReloadFailed { revision, diagnostic } => {
                put!(out, "revision", number * revision);
                put!(out, "detail", text diagnostic);
            }
            Event::Grant { change: _, grant, credential, workload, upstream, detail } => {
                if let Some(grant) = grant {
                    put!(out, "grant", text grant);
                }
                put!(out, "credential", text credential);
                put!(out, "workload", text workload);
                put!(out, "upstream", text upstream);
                if !detail.is_empty() {
                    put!(out, "detail", text detail);
                }
            }
            Event::Lease { change: _, lease, by, reason } => {
                put!(out, "lease", text & lease.id);
                put!(out, "lease_kind", text & lease.kind);
                put!(out, "workload", text lease.workload.as_str());
                if let Some(uid) = lease.uid {
                    put!(out, "uid", number uid);
                }
                if let Some(pod) = &lease.pod_uid {
                    put!(out, "pod_uid", text pod);
                }
                out.extend_from_slice(b",\"until\":\"");
                self.time(out, lease.until);
                out.push(b'"');
                if let Some(left) = lease.uses_left() {
                    put!(out, "uses_left", number left);
                }
                put!(out, "by", text by);
                if !reason.is_empty() {
                    put!(out, "detail", text reason);
                }
            }
            Event::Revoked { target, reason, by, passages, grants, durable } => {
                put!(out, "target", text target);
                put!(out, "reason", text reason);
                put!(out, "by", text by);
                put!(out, "passages", number * passages);
                put!(out, "grants", number * grants);
                put!(out, "durable", flag * durable);
            }
            Event::Restored { target, reason, by } => {
                put!(out, "target", text target);
                put!(out, "reason", text reason);
                put!(out, "by", text by);
            }
            Event::IdentityUpdated { .. } | Event::IdentityWithdrawn { .. } => own_identity(out, event),
            Event::KeyRotated { kid, change } => {
                put!(out, "kid", text kid);
                put!(out, "change", text change);
            }
        }
    }

    fn credential(&mut self, out: &mut Vec<u8>, credential: &Credential, cached: bool) {
        let profile = &credential.terms.profile;
        out.extend_from_slice(b",\"credential\":");
        let object = out.len();
        put!(out, "grant", text & credential.grant.0);
        put!(out, "name", text & profile.name);
        put!(out, "kind", text profile.kind);
        if let Some(audience) = &profile.audience {
            put!(out, "audience", text audience);
        }
        if let Some(scopes) = &credential.terms.scopes {
            list(out, b",\"scopes\":[", scopes, |out, scope| {
                out.push(b'"');
                text(out, scope);
                out.push(b'"');
            });
        }
        put!(out, "fingerprint", hex credential.fingerprint.bytes());
        out.extend_from_slice(b",\"issued\":\"");
        self.time(out, credential.issued);
        out.push(b'"');
        if let Some(expires) = credential.not_after {
            out.extend_from_slice(b",\"expires\":\"");
            self.time(out, expires);
            out.push(b'"');
        }
        put!(out, "cached", flag cached);
        close_object(out, object);
    }
}

/// What an `opened` line says: rendered on the worker, since the passage stays there.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) id: u128,
    time: Timestamp,
    fields: Vec<u8>,
}

impl Opened {
    pub(super) fn of(access: &Access) -> Self {
        let mut fields = Vec::with_capacity(512);
        asked(&mut fields, access, &mut Addresses::default());
        how(&mut fields, access);
        standing(&mut fields, access);
        if let Some(leased) = &access.lease {
            lease(&mut fields, leased);
        }
        if let Some(credential) = &access.credential {
            Scribe::brief().credential(&mut fields, credential, access.cached);
        }
        Self { id: access.id, time: access.time, fields }
    }
}

/// What an `edge` line says.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) listener: std::sync::Arc<str>,
    pub(super) peer: Peer,
    pub(super) count: u32,
    pub(super) code: crate::refusal::Code,
    pub(super) reason: std::borrow::Cow<'static, str>,
}

/// What could not be recorded, and is counted instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Passages refused with `audit_unavailable`.
    pub(super) refused: u64,
    /// Edge records.
    pub(super) edges: u64,
    /// Household events.
    pub(super) events: u64,
}

/// What this passage was, and nobody else's.
fn asked(out: &mut Vec<u8>, access: &Access, addresses: &mut Addresses) {
    put!(out, "id", hex access.id.to_be_bytes());
    put!(out, "trace_id", hex access.trace.trace);
    put!(out, "span_id", hex access.trace.span);
    if let Some(parent) = access.trace.parent {
        put!(out, "parent_span_id", hex parent);
    }
    peer(out, &access.peer, addresses);
    put!(out, "path", text & access.path);
    if access.grpc {
        put!(out, "grpc", flag true);
    }
    if access.tunnel {
        put!(out, "tunnel", flag true);
    }
}

/// How it was asked.
fn how(out: &mut Vec<u8>, access: &Access) {
    put!(out, "version", word version(access.version));
    put!(out, "method", text access.method.as_str());
}

/// Who came from where, where it goes, and what judged it.
fn standing(out: &mut Vec<u8>, access: &Access) {
    put!(out, "listener", text & access.listener);
    put!(out, "capture", word mode(access.mode));
    if let Some(by) = &access.workload {
        workload(out, by);
    }
    if let Some(upstream) = &access.upstream {
        put!(out, "upstream", text & upstream.name);
        put!(out, "owner", text & upstream.owner);
    }
    if let Some(to) = &access.destination {
        destination(out, to);
    }
    if let Some(by) = &access.rule {
        rule(out, by);
    }
    put!(out, "stage", word if access.observed { "observe" } else { "enforce" });
    put!(out, "revision", number access.revision);
    put!(out, "policy", text & access.policy);
}

/// Longer than any passage lasts.
fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A JSON array; `head` ends with its opening bracket.
fn list<T>(out: &mut Vec<u8>, head: &[u8], items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    out.extend_from_slice(head);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn peer(out: &mut Vec<u8>, peer: &Peer, addresses: &mut Addresses) {
    out.extend_from_slice(b",\"peer\":");
    let object = out.len();
    match peer {
        Peer::Tcp { address, uid } => {
            addresses.put(out, address);
            if let Some(uid) = uid {
                put!(out, "uid", number * uid);
            }
        }
        Peer::Unix { uid, gid, pid } => {
            put!(out, "uid", number * uid);
            put!(out, "gid", number * gid);
            if let Some(pid) = pid {
                put!(out, "pid", number * pid);
            }
        }
    }
    close_object(out, object);
}

fn workload(out: &mut Vec<u8>, workload: &Workload) {
    out.extend_from_slice(b",\"workload\":");
    let object = out.len();
    put!(out, "id", text workload.id.as_str());
    put!(out, "attestation", word workload.attestation.name());
    attestation(out, &workload.attestation);
    close_object(out, object);
}

/// What was proven, each as its configuration names it.
fn attestation(out: &mut Vec<u8>, attestation: &Attestation) {
    match attestation {
        Attestation::Fixed | Attestation::Spiffe => {}
        Attestation::UnixPeer(claim) => {
            if let Some(uid) = claim.uid {
                put!(out, "uid", number uid);
            }
            if let Some(executable) = &claim.executable {
                put!(out, "executable", text executable);
            }
            if let Some(sha256) = claim.sha256 {
                put!(out, "sha256", shown sha256);
            }
            if let Some(cgroup) = &claim.cgroup {
                put!(out, "cgroup", text cgroup);
            }
            if let Some(pod) = &claim.pod {
                put!(out, "pod_uid", text pod);
            }
            if let Some(container) = &claim.container {
                put!(out, "container", text container);
            }
        }
        Attestation::BrokerApi(process) => {
            put!(out, "pid", number process.pid);
            put!(out, "uid", number process.uid);
            if let Some(executable) = &process.executable {
                put!(out, "executable", text executable);
            }
            if let Some(pod) = &process.pod {
                put!(out, "pod_uid", text pod);
            }
            if let Some(container) = &process.container {
                put!(out, "container", text container);
            }
        }
        Attestation::ClientCert(certificate) => {
            put!(out, "certificate_sha256", shown certificate.sha256);
            put!(out, "expires", shown certificate.expires);
        }
        Attestation::Kubernetes(account) => {
            if let Some(pod) = &account.pod {
                put!(out, "pod", text & pod.name);
                put!(out, "pod_uid", text & pod.uid);
            }
            if let Some(node) = &account.node {
                put!(out, "node", text & node.name);
            }
            if let Some(token) = &account.token {
                put!(out, "token_id", text token);
            }
            put!(out, "expires", shown account.expires);
        }
    }
}

fn destination(out: &mut Vec<u8>, destination: &Destination) {
    out.extend_from_slice(b",\"destination\":\"");
    out.extend_from_slice(destination.scheme.as_str().as_bytes());
    out.extend_from_slice(b"://");
    let host = destination.host.as_str();
    let v6 = host.contains(':');
    if v6 {
        out.push(b'[');
    }
    text(out, host);
    if v6 {
        out.push(b']');
    }
    if destination.port != destination.scheme.default_port() {
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(destination.port).as_bytes());
    }
    out.push(b'"');
}

/// What became of exeat's own identity.
fn own_identity(out: &mut Vec<u8>, event: &Event) {
    #[expect(clippy::wildcard_enum_match_arm, reason = "asked for these two alone")]
    match event {
        Event::IdentityUpdated { identity, id, serial, sha256, not_after, trusts } => {
            put!(out, "identity", text identity);
            put!(out, "id", text id);
            put!(out, "serial", text serial);
            put!(out, "certificate_sha256", shown sha256);
            put!(out, "expires", shown not_after);
            put!(out, "trusts", text trusts);
        }
        Event::IdentityWithdrawn { identity, id, reason } => {
            put!(out, "identity", text identity);
            put!(out, "id", text id);
            put!(out, "reason", text reason);
        }
        _ => {}
    }
}

fn rule(out: &mut Vec<u8>, rule: &RuleRef) {
    out.extend_from_slice(b",\"rule\":");
    let object = out.len();
    put!(out, "id", text & rule.id);
    put!(out, "place", text & rule.place);
    put!(out, "owner", text & rule.owner);
    close_object(out, object);
}

fn lease(out: &mut Vec<u8>, leased: &Leased) {
    out.extend_from_slice(b",\"lease\":");
    let object = out.len();
    put!(out, "id", text & leased.lease.id);
    put!(out, "kind", text & leased.lease.kind);
    if let Some(left) = leased.uses_left {
        put!(out, "uses_left", number left);
    }
    close_object(out, object);
}

fn would_be(out: &mut Vec<u8>, would: &WouldBe) {
    out.extend_from_slice(b",\"would_be\":");
    let object = out.len();
    let by = match &would.outcome {
        Ok(by) => {
            put!(out, "outcome", word "allowed");
            Some(by)
        }
        Err(denied) => {
            put!(out, "outcome", word "refused");
            put!(out, "code", word denied.code.name());
            denied.rule.as_ref()
        }
    };
    if let Some(by) = by {
        rule(out, by);
    }
    put!(out, "changed", flag would.changed);
    close_object(out, object);
}

fn finding(out: &mut Vec<u8>, finding: &Finding) {
    let object = out.len();
    put!(out, "kind", word finding.kind.name());
    put!(out, "place", text & finding.place);
    put!(out, "fingerprint", hex finding.fingerprint.bytes());
    put!(out, "kept", flag finding.kept);
    close_object(out, object);
}

fn attempt(out: &mut Vec<u8>, attempt: &Attempt, addresses: &mut Addresses) {
    let object = out.len();
    put!(out, "span_id", hex attempt.span);
    put!(out, "began", number micros(attempt.began));
    put!(out, "ended", number micros(attempt.ended));
    if let Some(address) = &attempt.address {
        addresses.put(out, address);
    }
    put!(out, "version", word version(attempt.version));
    put!(out, "reused", flag attempt.reused);
    if let Some(shown) = attempt.certificate {
        put!(out, "certificate_sha256", shown shown);
    }
    if let Some(connect) = attempt.connect {
        put!(out, "connect", number micros(connect));
    }
    if let Some(status) = attempt.status {
        put!(out, "status", number status.as_u16());
    }
    if let Some(error) = attempt.error {
        put!(out, "error", text error);
    }
    close_object(out, object);
}

/// The word of a capture mode.
const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Route => "route",
        Mode::Host => "host",
        Mode::Forward => "forward",
    }
}

/// As in `network.protocol.version`.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
