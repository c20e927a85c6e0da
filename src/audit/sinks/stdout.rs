//! Standard output: for containers whose platform keeps the lines. Each process begins a chain of its own; durability is the platform's.

use std::io::Write;

use crate::audit::sink::{AuditSink, SinkError, Tail};

/// Lines to standard output.
#[derive(Debug, Default)]
pub struct StdoutSink {
    /// A failed write may have left half a line: the next one begins on its own.
    torn: bool,
}

impl AuditSink for StdoutSink {
    fn tail(&mut self) -> Result<Tail, SinkError> {
        Ok(Tail::default())
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        let mut out = std::io::stdout().lock();
        let before: &[u8] = if self.torn { b"\n" } else { b"" };
        match out.write_all(before).and_then(|()| out.write_all(lines)).and_then(|()| out.flush()) {
            Ok(()) => {
                self.torn = false;
                Ok(())
            }
            Err(error) => {
                self.torn = true;
                Err(SinkError { place: "stdout".to_owned(), why: format!("{error}; is its reader gone?") })
            }
        }
    }

    fn sync(&mut self, _now: bool) -> Result<(), SinkError> {
        Ok(())
    }
}
