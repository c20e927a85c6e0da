//! audit: what is remembered, in a form that shows tampering.
//!
//! Enters: one [`Access`] per passage into a [`Slot`] that was reserved before the first upstream byte, and [`Event`]s of the household.
//! Leaves: JSON lines (fields: `record`), each with the hash of the former. It never blocks a worker and never drops a record: no slot,
//! no access. It fails to `audit_unavailable`. A `kill -9` loses what was handed over in the last 5 ms; passages that were open then are
//! closed as `lost` by the next start. A power cut loses 100 ms and the duration of one `fdatasync` more.

mod access;
mod addresses;
mod chain;
mod circumstances;
mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod json;
mod ledger;
mod read;
mod record;
mod recorded;
mod seal;
mod sink;
mod sinks;
mod verify;
mod writer;

pub use access::{Access, Attempt, Outcome, TraceIds};
pub use circumstances::{Circumstances, PerCircumstances};
pub use event::{Event, GrantChange};
pub(crate) use json::hex_pair;
pub use ledger::{Ledger, Options, Slot, Standing};
pub use read::Reader;
pub use recorded::{Entry, Line, Recorded, RecordedCredential, RecordedEvent, RecordedPeer, RecordedWouldBe, shown};
pub use sink::{AuditSink, Orphan, SinkError, Tail};
pub use sinks::{FileOptions, FileSink, StdoutSink};
pub use verify::{BadLine, Report, verify};

#[cfg(any(test, fuzzing))]
pub(crate) mod samples;
#[cfg(test)]
mod model;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod tests;
