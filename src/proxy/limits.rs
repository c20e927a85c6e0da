//! `Limits`: every bound of the edge, with the defaults of the documentation.

use std::time::Duration;

use crate::capture::HeadLimits;
use crate::config;
use crate::dial;

/// Bounds of connections, heads, bodies and streams. Each has its row in docs/limits.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size and number of fields of a request head.
    pub head: HeadLimits,
    /// From the first byte of a head to its end; also the longest silence of a new connection, and of a tunnel before its first byte.
    pub head_deadline: Duration,
    /// Longest silence between two requests of a kept-alive connection.
    pub idle: Duration,
    /// A request body may take this long before its rate counts.
    pub body_grace: Duration,
    /// Bytes per second that a request body must bring once the grace is over, counted over the time that we waited for the caller.
    pub body_rate: u32,
    /// Connections of all listeners together.
    pub connections: usize,
    /// Connections to upstreams, of each worker.
    pub upstream_connections: usize,
    /// Concurrent HTTP/2 streams of one connection.
    pub streams: u32,
    /// HTTP/2 header list, in bytes.
    pub header_list: u32,
    /// HTTP/2 streams that the peer reset and that still await their end (CVE-2023-44487).
    pub resets: usize,
    /// TLS handshake of an intercepted tunnel.
    pub handshake: Duration,
    /// Longest silence of a stream, tunnel or WebSocket.
    pub stream_idle: Duration,
    /// A passage older than this is recorded as `opened` while it lives.
    pub opened_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            head: HeadLimits::default(),
            head_deadline: seconds(10),
            idle: seconds(60),
            body_grace: seconds(10),
            body_rate: 1024,
            connections: 4096,
            upstream_connections: dial::Limits::default().connections,
            streams: 100,
            header_list: 64 * 1024,
            resets: 20,
            handshake: seconds(5),
            stream_idle: seconds(3600),
            opened_after: seconds(10),
        }
    }
}

/// Descriptors that connections leave alone: the two servers' connections, sinks, state, exeat's own calls.
const OTHERS: usize = 192;

impl Limits {
    /// The same for a process that may open so many files and has so many workers: without a descriptor nothing can be accepted, not even to
    /// be refused, and no probe is answered.
    #[must_use]
    pub fn within(self, descriptors: usize, workers: usize) -> Self {
        let left = descriptors - OTHERS.min(descriptors / 2);
        let connections = self.connections.min(left / 2);
        let upstream_connections = self.upstream_connections.min((left - connections) / workers.max(1));
        Self { connections, upstream_connections, ..self }
    }
}

impl From<&config::Limits> for Limits {
    fn from(limits: &config::Limits) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            head: HeadLimits { bytes: limits.head_size, fields: limits.head_fields },
            head_deadline: limits.head_time,
            idle: limits.keep_alive,
            body_grace: limits.body_grace,
            body_rate: number(limits.body_rate),
            connections: limits.connections,
            streams: number(limits.h2_streams),
            header_list: number(limits.h2_header_list),
            handshake: limits.tls,
            stream_idle: limits.stream_idle,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_descriptor_for_each_connection_that_may_be_open() {
        for (descriptors, workers, expected) in [(20_000, 2, (4096, 4096)), (1024, 1, (416, 416)), (1024, 4, (416, 104)), (64, 1, (16, 16))]
        {
            let limits = Limits::default().within(descriptors, workers);
            assert_eq!((limits.connections, limits.upstream_connections), expected, "{descriptors} descriptors, {workers} workers");
        }
    }
}
