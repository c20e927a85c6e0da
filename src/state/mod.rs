//! state: what outlives the process, in one directory of its own.
//!
//! Enters: named entries of bytes. Leaves: the same after a restart, private to one process, whole after a crash. An entry is replaced as
//! a file, or, where an acknowledgement waits for it, overwritten in place ([`State::overwrite`]).

mod directory;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod slots;

pub use directory::{State, StateError};
