//! dial: HOW we reach the upstream.
//!
//! Enters: a request as it shall leave, and the [`Hop`] it takes. Leaves: the upstream's response head and body, or a [`DialError`]
//! with a stable word. One [`Dialer`] per worker thread, without locks: every connection is one task of that thread's `LocalSet`, and
//! pooled by the full value of what it was opened for, compared field by field.
//!
//! It never dials an unchecked address, never speaks TLS without verifying a name, never follows a redirect, never sends a request
//! twice when a byte of it may have left, and never lends a connection that authenticates to another workload. It fails to
//! `address_refused`, `upstream_unreachable`, `upstream_untrusted` and `upstream_timeout`.

mod body;
mod connector;
mod counted;
mod dialer;
mod error;
mod exchange;
mod fair;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hop;
mod lane;
mod line;
mod paced;
mod pool;
mod timers;
mod trunk;

pub use body::{Outgoing, ResponseBody};
pub use counted::Tunnel;
pub use dialer::{Again, Dialer, Limits};
pub use error::{DialError, Place};
pub use fair::poll_write_together;
pub use hop::{Facts, Hop};
pub use line::Upload;
pub use trunk::holds_heads;
