//! Bounds: what the rules of one policy directory may speak of. The owner of the process sets them; a team cannot write itself past them.

use std::sync::Arc;

use super::pattern::IdentityPattern;

/// What the rules of one policy directory may speak of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bounds {
    /// Every workload, every upstream, `floor` and `from: ["**"]`.
    All,
    /// These workloads at these upstreams.
    Within {
        /// Patterns that include every `from` of every rule.
        identities: Vec<IdentityPattern>,
        /// Names of the catalogue.
        upstreams: Vec<Arc<str>>,
    },
}

impl Bounds {
    pub(super) fn allow_identity(&self, pattern: &IdentityPattern) -> bool {
        match self {
            Self::All => true,
            Self::Within { identities, .. } => identities.iter().any(|bound| bound.includes(pattern)),
        }
    }

    pub(super) fn allow_upstream(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Within { upstreams, .. } => upstreams.iter().any(|bound| **bound == *name),
        }
    }

    pub(super) const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}
