//! `Access`: everything that is remembered of one passage. The gate and the engine fill it in while the passage lives; audit line,
//! spans and metrics are all made from this one value, once, when the passage ends.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Version};
use smallvec::SmallVec;

use crate::capture::{Destination, Mode, Peer, Sha256};
use crate::catalogue::Upstream;
use crate::clock::Timestamp;
use crate::credentials::Credential;
use crate::identity::Workload;
use crate::policy::{Leased, RuleRef, WouldBe};
use crate::refusal::Code;
use crate::strip::Findings;

/// W3C Trace Context of a passage: our SERVER span, and the caller's span above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceIds {
    /// Continued from the caller or started here.
    pub trace: [u8; 16],
    /// The SERVER span of this passage.
    pub span: [u8; 8],
    /// The caller's span, where a valid `traceparent` came.
    pub parent: Option<[u8; 8]>,
    /// Whether spans of this passage are exported (our sampler's word, not the caller's).
    pub sampled: bool,
}

/// How a passage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Judged, forwarded, answered to the end.
    Allowed,
    /// Refused with this code; no byte reached the upstream unless an attempt says so.
    Refused(Code),
    /// Forwarded, but one side went away before the end.
    Aborted,
}

/// One try at the upstream: the CLIENT span.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its span.
    pub span: [u8; 8],
    /// Since the passage began.
    pub began: Duration,
    /// Since the passage began; zero while it runs.
    pub ended: Duration,
    /// The address that was dialled.
    pub address: Option<std::net::SocketAddr>,
    /// HTTP version of the upstream leg.
    pub version: Version,
    /// Took a pooled connection.
    pub reused: bool,
    /// exeat's own certificate, where the connection was opened with one.
    pub certificate: Option<Sha256>,
    /// How long resolving, connecting and the TLS handshake took, where they happened.
    pub connect: Option<Duration>,
    /// The answer's status.
    pub status: Option<StatusCode>,
    /// Why it failed, as a stable word (`connect`, `tls`, `timeout`, `reset`, `protocol`).
    pub error: Option<&'static str>,
}

/// One passage. Boxed once, moved to the ledger at the end.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a record of independent facts, not a state")]
pub struct Access {
    /// Request id, shown to the caller and in every record.
    pub id: u128,
    /// When the head was complete.
    pub time: Timestamp,
    /// The same moment for what is measured: every `Duration` here counts from it.
    pub began: std::time::Instant,
    /// Whole life of the passage; set at the end.
    pub took: Duration,
    /// Trace context.
    pub trace: TraceIds,
    /// The listener's name.
    pub listener: Arc<str>,
    /// How the listener takes traffic in.
    pub mode: Mode,
    /// The other end of the connection.
    pub peer: Peer,
    /// HTTP version of the caller's leg.
    pub version: Version,
    /// The proven caller.
    pub workload: Option<Arc<Workload>>,
    /// The method.
    pub method: Method,
    /// The path as written, without query; segments that look like credentials are replaced.
    pub path: Box<str>,
    /// gRPC service and method are the path's; this only says that it is one.
    pub grpc: bool,
    /// CONNECT to a tunnel that is not intercepted.
    pub tunnel: bool,
    /// Where it wanted to go.
    pub destination: Option<Destination>,
    /// The catalogue's entry.
    pub upstream: Option<Arc<Upstream>>,
    /// How it ended.
    pub outcome: Outcome,
    /// The internal line of a refusal or of an abort.
    pub detail: Cow<'static, str>,
    /// The rule that decided.
    pub rule: Option<RuleRef>,
    /// The lease that it went by, or that refused it.
    pub lease: Option<Leased>,
    /// What shadow rules or the stage `enforce` would have done.
    pub would_be: Option<WouldBe>,
    /// The upstream was in stage `observe`.
    pub observed: bool,
    /// Snapshot revision that judged it.
    pub revision: u64,
    /// Content hash of the policy set that judged it.
    pub policy: Arc<str>,
    /// Static credentials met on the way.
    pub findings: Findings,
    /// The credential that was put on.
    pub credential: Option<Arc<Credential>>,
    /// Deciding, obtaining: since the passage began.
    pub decided: Duration,
    /// Zero when nothing was obtained.
    pub obtained: Duration,
    /// The broker had it.
    pub cached: bool,
    /// Tries at the upstream.
    pub attempts: SmallVec<[Attempt; 1]>,
    /// The status that the caller saw.
    pub status: Option<StatusCode>,
    /// Body bytes from the caller.
    pub request_bytes: u64,
    /// Body bytes to the caller.
    pub response_bytes: u64,
    /// HTTP/1 request trailers that were dropped.
    pub dropped_trailers: u16,
    /// The injected value appeared in a response header or trailer and was redacted.
    pub reflected: bool,
}

impl Access {
    /// What was decided, as one word: `allow`; `deny` (identity, policy or the catalogue said no); `shadow_deny` (it passed, and would not
    /// if shadow rules and the stage `enforce` were in force); `none` (refused before or beside any judgement: malformed, overloaded).
    #[must_use]
    pub fn decision(&self) -> &'static str {
        match self.outcome {
            Outcome::Refused(code) if code.is_judgement() => "deny",
            Outcome::Refused(_) if self.rule.is_none() => "none",
            Outcome::Allowed | Outcome::Aborted | Outcome::Refused(_) => {
                if self.would_be.as_ref().is_some_and(|would| would.changed && would.outcome.is_err()) { "shadow_deny" } else { "allow" }
            }
        }
    }
}

impl Outcome {
    /// The word in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused(_) => "refused",
            Self::Aborted => "aborted",
        }
    }

    /// The code of a refusal.
    #[must_use]
    pub const fn code(self) -> Option<Code> {
        match self {
            Self::Refused(code) => Some(code),
            Self::Allowed | Self::Aborted => None,
        }
    }
}
