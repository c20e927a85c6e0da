//! live: what changes faster than a reload: revocations, leases, counters of limits.
//!
//! Enters: what operators take away (a [`Target`]) or give for a task (a [`Lease`]) while requests are under way, and each charge of a
//! passage. Leaves: [`Live`], which judgement and every further attempt read without waiting, and the news of each change for those who
//! hold passages. Nothing here opens access: the rules decide, and say what they want a lease or a limit for.

mod blocks;
mod board;
mod lease;
mod leases;
mod limits;
mod register;
mod target;

pub use blocks::{Block, Blocks, Tally, Touched};
pub use board::{Follower, Live};
pub use lease::{
    Binding, CEILING as LEASE_CEILING, End, HEADER as LEASE_HEADER, Lease, LeaseError, LeaseTerms, MOST_USES, MaxUses, Missing, Opening,
    Taken, bindings, is_name as is_attribute,
};
pub use leases::{Change, LeaseBook, Want};
pub use limits::{Bound, LimitTerms, Limiter, Per, Quota, Rate, Reached, Register, Whose};
pub use register::{Claim, Leases, Named};
pub use target::{Target, TargetError};
