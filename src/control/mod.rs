//! control: what changes a running exeat.
//!
//! Enters: events of the file system, SIGHUP, what operators revoke or give for a task. Leaves: a published configuration, or the old one and a text that says
//! why; and revocations, published, made durable and settled before they are acknowledged. It never publishes half of a change and never
//! forgets a failure: [`LastReload`] tells readiness, metrics and people how it stands.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod kept;
mod leasing;
mod recall;
mod reload;
mod revocation_file;
mod revoke;
mod watch;

pub use leasing::{EndedLease, Leasing};
pub use reload::{Attempt, LastReload, Publish, Reload};
pub use revoke::{Receipt, Restored, Revoke, Surroundings};
pub use watch::{Cause, Watch};
