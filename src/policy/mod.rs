//! policy: MAY it.
//!
//! Enters: policy files at load, then an [`AccessRequest`], the [`Stripped`](crate::strip::Stripped) proof, what is live now and a time. Leaves: a
//! [`PolicySet`] or all mistakes at once, then a [`Decision`], whose [`Permit`] only this room can make. It never blocks, never allocates
//! on the way to an allow, and fails closed: no rule, a doubt or an error is a refusal. What it could not evaluate within budget it
//! refuses at load.
//!
//! Deny overrides require overrides the most specific allow; the order of files and rules changes nothing. A condition that has no value
//! is false for an allow, true for a deny, unmet for a require.

mod bounds;
mod certificate;
mod compile;
mod condition;
mod cost;
mod decision;
mod document;
mod explain;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod going;
mod index;
mod pattern;
mod permit;
mod redecide;
mod reach;
mod registers;
mod request;
mod rule;
mod set;
mod settle;
mod testcase;
mod trie;
mod window;

#[cfg(test)]
mod decisions;
#[cfg(test)]
mod denials;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod mistakes;
#[cfg(any(test, fuzzing))]
mod testing;

pub use bounds::Bounds;
pub use certificate::{BUDGET, Certificate};
pub use compile::{PolicyFile, compile};
pub use condition::Failed;
pub use decision::{Decision, Denied, RuleRef, WouldBe, revoked};
pub use document::{Document, Effect};
pub use explain::{Candidate, Explanation, Miss};
pub use pattern::{IdentityPattern, PatternError, is_path_literal};
pub use permit::{GrantTerms, Leased, Permit, Plan};
pub use reach::{Access, Area, Change, Kind, Side, diff, who_and_what};
pub use redecide::{Undecided, Which};
pub use request::{AccessRequest, share_of};
pub use set::PolicySet;
pub use testcase::{Answer, Failure, Ground, Outcome, Question, RequestWritten, Suite, TestDocument, TestFile, TestResult, run_beside};
pub use trie::Cost;
