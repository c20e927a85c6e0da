//! `Shape`: a set of identities or of paths, closed under intersection and difference.

use std::collections::BTreeSet;
use std::fmt;

use crate::action::MAX_SEGMENTS;
use crate::policy::pattern::{Glob, IdentityPattern, PathPattern, Segment};

/// What one segment may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Class {
    One(Box<str>),
    /// Everything but these; the empty text stands for no name (a trailing slash).
    Not(BTreeSet<Box<str>>),
}

/// Every segment, also an empty one.
static ANY: Class = Class::Not(BTreeSet::new());

impl Class {
    fn of(segment: &Segment) -> Self {
        match segment {
            Segment::Literal(text) => Self::One(text.clone()),
            Segment::Star => Self::Not(BTreeSet::from(["".into()])),
        }
    }

    fn meet(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::One(one), Self::One(two)) => (one == two).then(|| self.clone()),
            (Self::One(one), Self::Not(names)) | (Self::Not(names), Self::One(one)) => {
                (!names.contains(one)).then(|| Self::One(one.clone()))
            }
            (Self::Not(one), Self::Not(two)) => Some(Self::Not(one.union(two).cloned().collect())),
        }
    }

    fn minus(&self, other: &Self) -> Vec<Self> {
        let rest = match other {
            Self::One(one) => vec![Self::Not(BTreeSet::from([one.clone()]))],
            Self::Not(names) => names.iter().map(|name| Self::One(name.clone())).collect(),
        };
        rest.iter().filter_map(|class| self.meet(class)).collect()
    }

    /// A segment that is meant.
    fn sample(&self) -> String {
        match self {
            Self::One(text) => text.to_string(),
            // one more name than are excluded is enough
            Self::Not(names) => {
                let tries = (0..=names.len()).map(|turn| if turn == 0 { "x".to_owned() } else { format!("x{turn}") });
                tries.into_iter().find(|name| !names.contains(name.as_str())).unwrap_or_default()
            }
        }
    }

    fn is_empty_name(&self) -> bool {
        matches!(self, Self::One(text) if text.is_empty())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(text) => f.write_str(text),
            Self::Not(names) => {
                let names: Vec<&str> = names.iter().map(|name| &**name).filter(|name| !name.is_empty()).collect();
                if names.is_empty() { f.write_str("*") } else { write!(f, "{{not {}}}", names.join(", ")) }
            }
        }
    }
}

/// Whose segments they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Of {
    Identity,
    Path,
}

/// A set of identities or of paths: segments one by one, and whether more may follow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::policy) struct Shape {
    of: Of,
    classes: Vec<Class>,
    open: bool,
}

impl Shape {
    fn new(of: Of, glob: &Glob) -> Self {
        Self { of, classes: glob.segments().iter().map(Class::of).collect(), open: glob.rest() }
    }

    pub(in crate::policy) fn identity(pattern: &IdentityPattern) -> Self {
        Self::new(Of::Identity, pattern.glob())
    }

    pub(in crate::policy) fn path(pattern: &PathPattern) -> Self {
        Self::new(Of::Path, pattern.glob())
    }

    /// One path and nothing else.
    #[expect(single_use_lifetimes, reason = "an anonymous lifetime is not stable in this place")]
    pub(in crate::policy) fn exactly<'t>(segments: impl Iterator<Item = &'t str>) -> Self {
        Self { of: Of::Path, classes: segments.map(|text| Class::One(text.into())).collect(), open: false }
    }

    /// Without wildcards: one identity, one path.
    pub(in crate::policy) fn is_one(&self) -> bool {
        !self.open && self.classes.iter().all(|class| matches!(class, Class::One(_)))
    }

    fn at(&self, position: usize) -> &Class {
        self.classes.get(position).unwrap_or(&ANY)
    }

    /// Whether anything of this form exists: identities have no empty segments and name more than a trust domain, plain paths have an
    /// empty segment only at their end.
    fn exists(&self) -> bool {
        match self.of {
            Of::Identity => !self.classes.iter().any(Class::is_empty_name) && (self.open || self.classes.len() > 1),
            Of::Path => {
                let inside = self.classes.iter().rev().skip(1).any(Class::is_empty_name);
                !inside && self.classes.len() <= MAX_SEGMENTS && (self.open || !self.classes.is_empty())
            }
        }
    }

    pub(in crate::policy) fn meet(&self, other: &Self) -> Option<Self> {
        let (ours, theirs) = (self.classes.len(), other.classes.len());
        if (!self.open && theirs > ours) || (!other.open && ours > theirs) {
            return None;
        }
        let classes = (0..ours.max(theirs)).map(|at| self.at(at).meet(other.at(at))).collect::<Option<Vec<_>>>()?;
        Some(Self { of: self.of, classes, open: self.open && other.open }).filter(Self::exists)
    }

    /// With at least so many segments.
    fn grown(&self, length: usize, open: bool) -> Self {
        let missing = length.saturating_sub(self.classes.len());
        let classes = self.classes.iter().cloned().chain(std::iter::repeat_n(ANY.clone(), missing)).collect();
        Self { of: self.of, classes, open }
    }

    /// What is left of it; the parts have nothing in common.
    pub(in crate::policy) fn minus(&self, other: &Self) -> Vec<Self> {
        if self.meet(other).is_none() {
            return vec![self.clone()];
        }
        let (ours, theirs) = (self.classes.len(), other.classes.len());
        let mut parts = Vec::new();
        if self.open {
            parts.extend((ours..theirs).map(|length| self.grown(length, false)));
            if !other.open {
                parts.push(self.grown(theirs + 1, true));
            }
        }
        let common = self.grown(theirs, self.open && other.open);
        for at in 0..common.classes.len() {
            for class in common.at(at).minus(other.at(at)) {
                let before = (0..at).map(|before| common.at(before).meet(other.at(before))).collect::<Option<Vec<_>>>();
                let Some(mut classes) = before else { continue };
                classes.push(class);
                classes.extend(common.classes.iter().skip(at + 1).cloned());
                parts.push(Self { of: self.of, classes, open: common.open });
            }
        }
        parts.retain(Self::exists);
        parts
    }

    pub(in crate::policy) fn includes(&self, other: &Self) -> bool {
        other.minus(self).is_empty()
    }

    /// One identity or path that is meant. Without a word about it, the trust domain is this one.
    pub(in crate::policy) fn witness(&self, trust_domain: &str) -> String {
        let mut names: Vec<String> = self.classes.iter().map(Class::sample).collect();
        match self.of {
            Of::Path => format!("/{}", names.join("/")),
            Of::Identity => {
                while names.len() < 2 {
                    names.push("x".to_owned());
                }
                let domain = self.at(0).meet(&Class::One(trust_domain.into()));
                if let (Some(Class::One(domain)), Some(first)) = (domain, names.first_mut()) {
                    *first = domain.to_string();
                }
                format!("spiffe://{}", names.join("/"))
            }
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Of::Identity if self.classes.is_empty() => return f.write_str("**"),
            Of::Identity => f.write_str("spiffe://")?,
            Of::Path => f.write_str("/")?,
        }
        let rest = if self.open { vec!["**".to_owned()] } else { Vec::new() };
        f.write_str(&self.classes.iter().map(ToString::to_string).chain(rest).collect::<Vec<_>>().join("/"))
    }
}
