//! sinks: where audit lines are stored. Each implements [`AuditSink`](super::AuditSink) and knows nothing of what the lines say.

mod file;
mod stdout;

pub(super) use file::segments;
pub use file::{FileOptions, FileSink};
pub use stdout::StdoutSink;
