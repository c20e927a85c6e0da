//! credentials: the short-lived credential of the permit.
//!
//! Enters: a [`Permit`](crate::policy::Permit) whose plan is `Swap`. Leaves: a [`Credential`] of exactly those terms for exactly that
//! workload at exactly that upstream. It never gives an expired one, never one of another key, and fails to
//! `credential_unavailable`, `credential_refused` or `scope_exceeded`.
//!
//! One [`Broker`] serves all workers. What a worker was given it finds again without a lock; else the table of all keys is asked, and
//! a missing credential is issued once however many wait. Issues run on the household's runtime. Each grant leaves a
//! [`GrantEvent`], and its place is taken before the issuer is asked. An observed upstream may rehearse: its credentials are obtained
//! beside the traffic, now and then, and thrown away.

mod broker;
mod credential;
mod definition;
mod event;
mod flight;
#[cfg(test)]
mod model;
mod provider;
pub mod providers;
mod rehearsal;
mod slot;
#[cfg(test)]
mod tests;
mod worker_cache;

pub use broker::{Broker, Discarded, Grant, Limits};
pub use credential::{Credential, GrantId, IssueError};
pub use definition::{Definition, Definitions, Digest};
pub use event::{Cause, GrantEvent, Happening};
pub use provider::{CredentialProvider, IssueRequest, Issued, Issuing, Recall, SourceMark};
pub use rehearsal::Rehearsal;
pub use slot::Discard;
