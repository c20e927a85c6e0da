//! Limits and drain as written, with the defaults of docs/limits.md; each has bounds of its own, and none can be turned off.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::catalogue::Deadlines;
use crate::written::{Report, Spanned, WrittenDuration, WrittenSize};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);

/// A plain number with bounds, beside durations and sizes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
struct WrittenCount(Spanned<usize>);

impl WrittenCount {
    fn build(&self, report: &mut Report, least: usize, most: usize) -> Option<usize> {
        if (least..=most).contains(&self.0.value) {
            return Some(self.0.value);
        }
        let message = format!("`{}` is out of bounds: at least {least}, at most {most}", self.0.value);
        report.error_hint(self.0.at, message, "everything is bounded; there is no way to write `unlimited`");
        None
    }
}

/// One table gives the written form, the meaning form, the defaults and the bounds, so that they cannot drift apart.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $written:ty => $meaning:ty = $default:expr, $least:expr, $most:expr;)+) => {
        /// Limits that differ from their defaults.
        #[derive(Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct LimitsConfig {
            $($(#[doc = $doc])+ $name: Option<$written>,)+
        }

        /// Every limit of the house; each field says what it bounds.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $name: $meaning,)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl LimitsConfig {
            pub(super) fn build(&self, report: &mut Report) -> Limits {
                let mut limits = Limits::default();
                $(if let Some(value) = self.$name.as_ref().and_then(|written| written.build(report, $least, $most)) {
                    limits.$name = value;
                })+
                limits
            }
        }

        #[cfg(test)]
        impl Limits {
            const NAMES: &[&str] = &[$(stringify!($name)),+];

            fn within_their_own_bounds(&self) -> bool {
                $(self.$name >= $least && self.$name <= $most)&&+
            }
        }
    };
}

limits! {
    /// Bytes of a request head (request line and fields). Default 64KiB.
    head_size: WrittenSize => usize = 64 * KIB, KIB, MIB;
    /// Fields of a request head. Default 100.
    head_fields: WrittenCount => usize = 100, 1, 1000;
    /// From the first byte of a request head to its end. Default 10s.
    head_time: WrittenDuration => Duration = 10 * SECOND, 100 * MILLISECOND, 60 * SECOND;
    /// How long an idle keep-alive connection stays open. Default 60s.
    keep_alive: WrittenDuration => Duration = 60 * SECOND, 100 * MILLISECOND, HOUR;
    /// Bytes in a second that a body must at least bring, once `body_grace` is over. Default 1KiB.
    body_rate: WrittenSize => usize = KIB, 1, MIB;
    /// How long a body may be slower than `body_rate`. Default 10s.
    body_grace: WrittenDuration => Duration = 10 * SECOND, 100 * MILLISECOND, HOUR;
    /// Connections of workloads at a time. Default 4096.
    connections: WrittenCount => usize = 4096, 1, 1_000_000;
    /// Concurrent streams of one HTTP/2 connection. Default 100.
    h2_streams: WrittenCount => usize = 100, 1, 1000;
    /// Bytes of an HTTP/2 header list. Default 64KiB.
    h2_header_list: WrittenSize => usize = 64 * KIB, KIB, MIB;
    /// From dialling an upstream to an established TCP connection. Default 5s.
    connect: WrittenDuration => Duration = 5 * SECOND, MILLISECOND, 60 * SECOND;
    /// TLS handshake, on both sides. Default 5s.
    tls: WrittenDuration => Duration = 5 * SECOND, MILLISECOND, 60 * SECOND;
    /// From the end of a request to the head of the response. Default 60s.
    response_head: WrittenDuration => Duration = 60 * SECOND, MILLISECOND, HOUR;
    /// Longest silence of a stream, tunnel or WebSocket. Default 1h.
    stream_idle: WrittenDuration => Duration = HOUR, MILLISECOND, 24 * HOUR;
    /// Longest wait for a credential. Default 5s.
    obtain: WrittenDuration => Duration = 5 * SECOND, MILLISECOND, 60 * SECOND;
    /// Bytes of an answer to exeat's own calls. Default 1MiB.
    answer_size: WrittenSize => usize = MIB, KIB, 16 * MIB;
    /// Credentials that are kept. Default 10000.
    credential_cache: WrittenCount => usize = 10_000, 1, 1_000_000;
    /// Interception certificates that are kept. Default 1024.
    leaves: WrittenCount => usize = 1024, 1, 65_536;
    /// Life of an interception certificate. Default 24h.
    leaf_life: WrittenDuration => Duration = 24 * HOUR, 300 * SECOND, 7 * 24 * HOUR;
    /// Audit records that may wait to be written. Default 8192.
    audit_queue: WrittenCount => usize = 8192, 1, 1_000_000;
    /// Spans that may wait to be exported; more are dropped and counted. Default 4096.
    span_queue: WrittenCount => usize = 4096, 1, 1_000_000;
    /// How often files are looked at when no event tells of a change. Default 5s.
    file_poll: WrittenDuration => Duration = 5 * SECOND, 100 * MILLISECOND, HOUR;
    /// How long an answer of DNS is kept. Default 5s.
    dns_keep: WrittenDuration => Duration = 5 * SECOND, MILLISECOND, HOUR;
}

impl Limits {
    /// The deadlines of an upstream that says nothing.
    #[must_use]
    pub const fn deadlines(&self) -> Deadlines {
        Deadlines { connect: self.connect, tls: self.tls, response_head: self.response_head, idle: self.stream_idle }
    }
}

/// How exeat stops, as written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainConfig {
    /// How long new connections are still accepted after SIGTERM, while readyz says 503. Default 5s.
    delay: Option<WrittenDuration>,
    /// From SIGTERM to the end of everything. Default 25s; less than the pod's grace period.
    deadline: Option<WrittenDuration>,
}

/// How exeat stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// From SIGTERM to the end of accepting.
    pub delay: Duration,
    /// From SIGTERM to the end of everything.
    pub deadline: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: 5 * SECOND, deadline: 25 * SECOND }
    }
}

impl DrainConfig {
    pub(super) fn build(&self, report: &mut Report) -> Drain {
        let mut drain = Drain::default();
        if let Some(delay) = self.delay.as_ref().and_then(|written| written.build(report, Duration::ZERO, HOUR)) {
            drain.delay = delay;
        }
        if let Some(deadline) = self.deadline.as_ref().and_then(|written| written.build(report, Duration::ZERO, 24 * HOUR)) {
            drain.deadline = deadline;
        }
        if drain.deadline < drain.delay
            && let Some(at) = self.deadline.as_ref().or(self.delay.as_ref()).map(WrittenDuration::at)
        {
            let message = format!("the deadline ({:?}) ends before the delay ({:?})", drain.deadline, drain.delay);
            report.error_hint(at, message, "both count from SIGTERM; in-flight work needs the time between them");
        }
        drain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_design_and_lie_within_their_bounds() {
        let limits = Limits::default();
        assert!(limits.within_their_own_bounds());
        assert_eq!(Limits::NAMES.len(), 22);
        assert_eq!(limits.deadlines(), Deadlines::default());
        assert_eq!((limits.head_size, limits.head_fields, limits.connections), (65_536, 100, 4096));
        assert_eq!((limits.audit_queue, limits.span_queue, limits.leaves), (8192, 4096, 1024));
        assert_eq!(Drain::default(), Drain { delay: Duration::from_secs(5), deadline: Duration::from_secs(25) });
    }
}
