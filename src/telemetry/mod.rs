//! telemetry: the operator's log, spans and metrics.
//!
//! Enters: finished passages ([`Access`](crate::audit::Access)), counts. Leaves: OTLP spans, Prometheus text, log lines. It never
//! decides anything, never blocks a worker, prints no head and no secret. An exporter that is down costs a counter.

pub mod context;
mod export;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod init;
pub mod log;
mod metrics;
mod names;
mod observer;
mod otlp;
mod process;
pub mod redact;
mod spans;
mod tree;

pub use export::{Exporter, Post};
pub use init::{Collector, Protocol, Settings, SettingsError};
pub use metrics::{Edge, Metrics};
pub use observer::Observer;
pub use spans::{Recorder, SpanCounts, Spans};
pub use tree::{Seen, decode, tree};

#[cfg(test)]
mod tests;
