//! compile: policy files to a [`PolicySet`](super::PolicySet), or everything that is wrong with them at once.
//!
//! All or nothing: one error in one file and nothing is loaded. What only deserves a look comes as warnings beside the set.

mod conditions;
mod conflicts;
mod contradictions;
mod driver;
mod grant;
mod lints;
mod names;
mod rules;
mod unused;

pub use driver::{PolicyFile, compile};
