//! condition: `when`, a closed and typed subset of CEL.
//!
//! Enters: the text of a condition, once, at load. Leaves: a [`Condition`] that is evaluated without allocating, in time that its text
//! bounds, to true, false or an error ([`Failed`]): what the error means is the rule's affair, never ours. The `cel` crate only parses.
//! Every accepted text means the same in any other CEL implementation.

#![expect(clippy::similar_names, reason = "tests of texts are what conditions are made of")]

#[cfg(test)]
mod against_cel;
mod check;
mod duration;
mod evaluate;
mod facts;
mod hidden;
mod lists;
mod operators;
mod parse;
mod pattern;
mod program;
mod query;
mod schema;

pub(super) use evaluate::Env;
pub use evaluate::Failed;
pub(super) use facts::{Facts, Selected};
pub(super) use parse::{Problem, parse_all};
pub(super) use program::Condition;
