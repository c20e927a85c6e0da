//! A rule in meaning form.

use std::fmt;
use std::sync::Arc;

use http::Method;

use super::decision::RuleRef;
use super::document::Effect;
use super::pattern::{IdentityPattern, PathPattern};
use super::permit::GrantTerms;
use super::window::Window;
use crate::clock::Timestamp;
use crate::live::{LeaseTerms, LimitTerms};

/// One compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: RuleRef,
    pub(super) effect: Effect,
    pub(super) shadow: bool,
    pub(super) floor: bool,
    pub(super) tunnel: bool,
    pub(super) from: Vec<IdentityPattern>,
    pub(super) to: Targets,
    pub(super) methods: Methods,
    pub(super) paths: Vec<PathPattern>,
    /// Position among the conditions.
    pub(super) condition: Option<u32>,
    pub(super) windows: Box<[Window]>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires: Option<Timestamp>,
    /// `None`: nothing is put on.
    pub(super) grant: Option<Arc<GrantTerms>>,
    /// The lease that an allowed request goes by.
    pub(super) lease: Option<LeaseTerms>,
    /// How often.
    pub(super) limits: Option<LimitTerms>,
    /// Why it exists.
    pub(super) reason: Arc<str>,
}

impl Rule {
    /// Whether its dates (not its windows) let it have a say at all.
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.expires.is_none_or(|until| now < until)
    }

    /// Whether there is a moment at which both are current.
    pub(super) fn meets_in_time(&self, other: &Self) -> bool {
        let begins = self.not_before.max(other.not_before);
        let ends = [self.expires, other.expires].into_iter().flatten().min();
        match (begins, ends) {
            (Some(begins), Some(ends)) => begins < ends,
            (None, _) | (_, None) => true,
        }
    }
}

/// Upstreams of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Targets {
    /// `*`.
    All,
    /// These, sorted: position in the catalogue and name.
    Named(Vec<(u32, Arc<str>)>),
}

impl Targets {
    pub(super) fn contains(&self, upstream: u32) -> bool {
        match self {
            Self::All => true,
            Self::Named(named) => named.iter().any(|(index, _)| *index == upstream),
        }
    }

    pub(super) fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Named(_), Self::All) => false,
            (Self::Named(_), Self::Named(named)) => named.iter().all(|(index, _)| self.contains(*index)),
        }
    }

    /// The keys under which the index holds them; `None` stands for every upstream.
    pub(super) fn keys(&self) -> impl Iterator<Item = Option<u32>> + '_ {
        let (all, named) = match self {
            Self::All => (Some(None), &[][..]),
            Self::Named(named) => (None, named.as_slice()),
        };
        all.into_iter().chain(named.iter().map(|(index, _)| Some(*index)))
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Named(named) => f.write_str(&named.iter().map(|(_, name)| &**name).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Methods, by the bits that a [`MethodTable`] gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Methods(pub(super) u64);

impl Methods {
    /// `*`.
    pub(super) const ALL: Self = Self(u64::MAX);

    pub(super) const fn is_all(self) -> bool {
        self.0 == u64::MAX
    }

    pub(super) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

const STANDARD: [Method; 9] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::CONNECT, Method::TRACE];

/// The bits of methods: the standard ones, then those that rules name. What no rule names shares the last bit.
#[derive(Debug, Clone, Default)]
pub(super) struct MethodTable(Vec<Method>);

impl MethodTable {
    const OTHER: u64 = 1 << 63;

    /// The bit of a request's method.
    pub(super) fn bit(&self, method: &Method) -> Methods {
        let bit = STANDARD.iter().chain(&self.0).position(|known| known == method);
        Methods(bit.map_or(Self::OTHER, |bit| 1 << bit))
    }

    /// The bit of a method that a rule names; `None` when there are too many.
    pub(super) fn learn(&mut self, method: &Method) -> Option<Methods> {
        let known = self.bit(method);
        if known.0 != Self::OTHER {
            return Some(known);
        }
        if self.0.len() >= 48 {
            return None;
        }
        self.0.push(method.clone());
        Some(self.bit(method))
    }

    /// The names behind the bits, for explanations.
    pub(super) fn names(&self, methods: Methods) -> Vec<&str> {
        if methods.is_all() {
            return vec!["*"];
        }
        STANDARD
            .iter()
            .chain(&self.0)
            .enumerate()
            .filter(|(bit, _)| methods.0 & (1 << bit) != 0)
            .map(|(_, method)| method.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_bits_of_their_own() {
        let mut table = MethodTable::default();
        let purge = Method::from_bytes(b"PURGE").unwrap();
        assert_eq!(table.bit(&purge), Methods(MethodTable::OTHER));
        let learned = table.learn(&purge).unwrap();
        assert_eq!(table.bit(&purge), learned);
        assert!(!learned.meets(table.bit(&Method::GET)));
        assert!(!learned.meets(table.bit(&Method::from_bytes(b"PURGED").unwrap())));
        assert!(Methods::ALL.meets(table.bit(&Method::from_bytes(b"X").unwrap())));
        assert_eq!(table.names(Methods(learned.0 | 1)), ["GET", "PURGE"]);
    }
}
