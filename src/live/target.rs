//! `Target`: what a revocation names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::identity::{SpiffeId, SpiffeIdError};

/// What is taken away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Every access of this exeat: the kill switch.
    Everything,
    /// Every access of one workload.
    Workload(SpiffeId),
    /// Every access to one upstream, by its name in the catalogue.
    Upstream(Arc<str>),
    /// Every access that takes this credential definition.
    Credential(Arc<str>),
    /// Every access that this rule allows, as `policy/rule`. No broader rule takes its place.
    Rule(Arc<str>),
    /// Every access under this lease.
    Lease(Arc<str>),
    /// One issue of a credential. Not a block: what asks anew gets another.
    Grant(Arc<str>),
}

/// Why a text names nothing that can be revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Another word, or nothing behind the word.
    #[error("write `everything`, or one of `workload ID`, `upstream NAME`, `credential NAME`, `rule POLICY/RULE`, `lease ID`, `grant ID`")]
    Form,
    /// A workload is a SPIFFE ID.
    #[error("a workload is a SPIFFE ID: {0}")]
    Workload(#[from] SpiffeIdError),
    /// Over 256 bytes, or with characters that no name has.
    #[error("a name has 1 to 256 of a-z, A-Z, 0-9, `.`, `-`, `_`, `:` and `/`")]
    Name,
}

impl Target {
    /// Reads the kind and the name as two words.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn of(kind: &str, name: &str) -> Result<Self, TargetError> {
        let named = |wrap: fn(Arc<str>) -> Self| if is_name(name) { Ok(wrap(name.into())) } else { Err(TargetError::Name) };
        match kind {
            "everything" if name.is_empty() => Ok(Self::Everything),
            "workload" => Ok(Self::Workload(SpiffeId::parse(name)?)),
            "upstream" => named(Self::Upstream),
            "credential" => named(Self::Credential),
            "rule" => named(Self::Rule),
            "lease" => named(Self::Lease),
            "grant" => named(Self::Grant),
            _ => Err(TargetError::Form),
        }
    }

    /// The kind, as operators write it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Workload(_) => "workload",
            Self::Upstream(_) => "upstream",
            Self::Credential(_) => "credential",
            Self::Rule(_) => "rule",
            Self::Lease(_) => "lease",
            Self::Grant(_) => "grant",
        }
    }

    /// The name; empty where the kind says all.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Everything => "",
            Self::Workload(id) => id.as_str(),
            Self::Upstream(name) | Self::Credential(name) | Self::Rule(name) | Self::Lease(name) | Self::Grant(name) => name,
        }
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'/');
    (1..=256).contains(&name.len()) && name.bytes().all(plain)
}

impl FromStr for Target {
    type Err = TargetError;

    /// `everything`, or the kind, one space and the name.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (kind, name) = text.split_once(' ').unwrap_or((text, ""));
        Self::of(kind, name.trim())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "" => f.write_str(self.kind()),
            name => write!(f, "{} {name}", self.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        for text in [
            "everything",
            "workload spiffe://prod.example/ns/billing/sa/app",
            "upstream ledger",
            "credential ledger-jwt",
            "rule billing/create-charge",
            "lease 0192f0c1",
            "grant 0192f0c1",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "everything else", "upstream", "upstream a b", "workload ledger", "grants x", "rule a\nb", "Everything"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        assert!(Target::of("upstream", &"x".repeat(257)).is_err());
    }
}
