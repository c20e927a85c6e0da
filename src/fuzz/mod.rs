//! fuzz: a target for every parser of foreign bytes.
//!
//! Enters: any bytes. Leaves: nothing; a target panics where a property of its parser does not hold. The targets stand beside their parsers
//! (`fuzz.rs` of each room); this is their table. `tests/fuzz` hands them to libFuzzer, and a test of this room replays the committed
//! corpora and changes them for a moment (see `tests/fuzz/README.md`). No build that users have holds any of it.

mod input;
#[cfg(test)]
mod replay;
mod targets;

pub(crate) use input::{Input, changed};
pub use targets::{TARGETS, run};
