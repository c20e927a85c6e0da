//! control: what changes a running exeat.
//!
//! Enters: events of the file system, SIGHUP. Leaves: a published configuration, or the old one and a text that says why.
//! It never publishes half of a change and never forgets a failure: [`LastReload`] tells readiness, metrics and people how it stands.

mod reload;
mod watch;

pub use reload::{Attempt, LastReload, Publish, Reload};
pub use watch::{Cause, Watch};
