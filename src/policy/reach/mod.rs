//! reach: who can do what, told from the rules alone.
//!
//! Selectors are products of identity pattern, upstream, methods and path pattern, so that their intersections and differences are exact.
//! Conditions, windows and ends are opaque: they are named beside what they restrict. Paths are meant in their plain form; a path with
//! several readings is allowed only where all of them are, so that it never reaches further.

mod access;
mod cover;
mod diff;
mod region;
mod shape;

pub use access::{Access, Area, who_and_what};
pub(super) use cover::{Spot, firm, spots, terms};
pub use diff::{Change, Kind, Side, diff};
pub(super) use region::{Region, without};
pub(super) use shape::Shape;

#[cfg(test)]
mod against_patterns;
#[cfg(test)]
mod stories;
