//! evidence: what recorded traffic teaches.
//!
//! Enters: lines of the audit log and a compiled set of rules. Leaves: what a candidate would change ([`Replay`]), the least rules that
//! would have let the recorded traffic through ([`Lessons`], [`Draft`]), and what stands against enforcing an upstream ([`Case`]).
//! It decides by the rules alone, says which decisions a record is not enough for, and widens nothing in silence. It never runs on a
//! request's way; memory is bounded by what it groups by ([`Full`] when that is too much).

mod case;
mod draft;
mod learn;
mod question;
mod replay;
mod shape;
mod standing;
mod tally;
mod trie;

#[cfg(test)]
mod scenario;

pub use case::{Case, Objection, Rehearsed};
pub use draft::{Draft, Terms, Verified};
pub use learn::{Full, Lessons, Scope};
pub use question::{Questions, Unasked};
pub use replay::{Change, Kind, Replay, Verdict};
pub use standing::Observations;
pub use tally::Tally;
