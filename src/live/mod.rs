//! live: what revokes faster than a reload.
//!
//! Enters: what operators take away (a [`Target`]) while requests are under way. Leaves: [`Live`], which judgement and every further
//! attempt read without waiting, and the news of each change for those who hold passages. Nothing here opens access: without a block
//! the rules decide alone.

mod blocks;
mod board;
mod target;

pub use blocks::{Block, Blocks, Tally, Touched};
pub use board::{Follower, Live};
pub use target::{Target, TargetError};
