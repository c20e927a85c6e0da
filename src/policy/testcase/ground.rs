//! `Ground`: what questions stand on.

use std::sync::Arc;

use crate::catalogue::{Catalogue, Profile};
use crate::policy::set::PolicySet;

/// What questions stand on: the rules and what surrounds them.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The rules.
    pub set: &'a PolicySet,
    /// Which upstreams there are.
    pub catalogue: &'a Catalogue,
    /// What credentials there are: their slots are stripped before a condition looks.
    pub profiles: &'a [Arc<Profile>],
}
