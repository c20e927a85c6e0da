//! action: WHAT a request tries to do, in the protocol's own words.
//!
//! Enters: a request head that passed the head check. Leaves: [`Action`]: method, every plausible reading of the path, the gRPC
//! method. It never changes the bytes that are forwarded, and refuses (`ambiguous_path` is policy's, `malformed` is ours) what has
//! no bounded set of readings.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http_action;
mod readings;

pub use http_action::Action;
pub use readings::{MAX_SEGMENTS, Readings, segments};
