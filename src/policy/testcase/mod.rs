//! testcase: policy asked without traffic, by files and command lines.
//!
//! Enters: a request as people write it ([`RequestWritten`]), or a whole test file (`exeat: policytest/v1`), and the [`Ground`] that it is
//! asked on. Leaves: a [`Question`] that is decided by the same index as traffic, or the outcome of every row and invariant. It opens no
//! socket, reads no file and starts nothing, so that a reload can run it.

mod document;
mod ground;
mod invariant;
mod outcome;
mod question;
mod request;
mod row;
mod suite;

pub use document::TestDocument;
pub use ground::Ground;
pub use outcome::{Failure, Outcome, TestResult};
pub use question::{Answer, Question};
pub use request::RequestWritten;
pub use suite::{Suite, TestFile, run_beside};

#[cfg(test)]
mod stories;
