//! gate: the whole story of a request, engine-free.
//!
//! Enters: a connection's arrival, a request head and the snapshot of now. Leaves: a [`Clearance`] or a refusal; everything learnt on the
//! way stands in the passage's `Access`. It never touches a socket and never judges by more than one snapshot.

mod clearance;
mod pass;

pub use clearance::Clearance;
pub use pass::{Connect, Gate};

#[cfg(test)]
mod refusals;
