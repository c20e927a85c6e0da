//! `AuditSink`: where the lines go. A sink stores bytes; numbering, chaining and sealing are the writer's.

use std::fmt;

/// Why a sink cannot take or keep lines. For the operator: names the thing, the place and the next step.
#[derive(Debug, thiserror::Error)]
#[error("audit sink {place}: {why}")]
pub struct SinkError {
    /// The file or stream.
    pub place: String,
    /// What went wrong.
    pub why: String,
}

/// What a sink already holds when it is opened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The last complete line, without its line feed.
    pub last: Option<Vec<u8>>,
    /// Bytes of a line that a crash cut off, and that the sink has removed.
    pub cut: u64,
    /// Ids of `opened` lines of the last segments that no `access` line follows.
    pub orphans: Vec<Orphan>,
}

/// A passage that was opened and never closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Request id, as written.
    pub id: String,
    /// The number of its `opened` line.
    pub seq: u64,
}

/// Stores lines in order. Called by one thread only.
pub trait AuditSink: Send + fmt::Debug {
    /// What is there already; called once, before the first append.
    ///
    /// # Errors
    /// The store cannot be read, or what it ends with is no chain that can be continued.
    fn tail(&mut self) -> Result<Tail, SinkError>;

    /// Appends whole lines, each with its line feed. All or nothing: after an error the same bytes are offered again.
    ///
    /// # Errors
    /// The store took nothing; the ledger goes unavailable and tries again.
    fn append(&mut self, lines: &[u8]) -> Result<(), SinkError>;

    /// Makes what was appended durable, at once when `now`, else within the sink's own window; reports a failed earlier attempt.
    ///
    /// # Errors
    /// What was appended may not survive a power cut.
    fn sync(&mut self, now: bool) -> Result<(), SinkError>;

    /// Whether the current segment is full: the writer seals it and then calls [`rotate`](Self::rotate).
    fn full(&self) -> bool {
        false
    }

    /// Begins a new segment; the chain goes on in it.
    ///
    /// # Errors
    /// The old segment goes on.
    fn rotate(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}
