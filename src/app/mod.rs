//! app: the composition root.
//!
//! Enters: the path of a configuration. Leaves: a [`Running`] exeat, or [`Failed`] with the exit code that an operator expects. It builds the
//! rooms in flow order, joins their channels, supervises the household's tasks and drains. It decides nothing about requests.

mod build;
mod drain;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod household;
mod keys;
mod leases;
mod policies;
mod records;
mod revocations;
mod start;

pub use keys::{ca_certificate, open_state};
pub use start::{Failed, Running, Signals, start};
