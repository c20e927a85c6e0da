//! `Region`: a product of identities, methods and paths at one upstream.

use super::shape::Shape;
use crate::policy::rule::MethodTable;

/// Most parts that a difference is cut into; what would need more is left whole, which says too much and never too little.
const MOST_PARTS: usize = 4096;

/// A product of identities, methods and paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::policy) struct Region {
    pub(in crate::policy) from: Shape,
    /// Bits of a [`MethodTable`].
    pub(in crate::policy) methods: u64,
    pub(in crate::policy) path: Shape,
}

impl Region {
    pub(in crate::policy) fn meet(&self, other: &Self) -> Option<Self> {
        let methods = self.methods & other.methods;
        if methods == 0 {
            return None;
        }
        Some(Self { from: self.from.meet(&other.from)?, methods, path: self.path.meet(&other.path)? })
    }

    /// What is left of it; the parts have nothing in common.
    pub(in crate::policy) fn minus(&self, other: &Self) -> Vec<Self> {
        let Some(both) = self.meet(other) else { return vec![self.clone()] };
        let mut parts: Vec<Self> = self.from.minus(&other.from).into_iter().map(|from| Self { from, ..self.clone() }).collect();
        let methods = self.methods & !other.methods;
        if methods != 0 {
            parts.push(Self { from: both.from.clone(), methods, path: self.path.clone() });
        }
        let paths = self.path.minus(&other.path).into_iter();
        parts.extend(paths.map(|path| Self { from: both.from.clone(), methods: both.methods, path }));
        parts
    }

    pub(in crate::policy) fn includes(&self, other: &Self) -> bool {
        self.methods & other.methods == other.methods && self.from.includes(&other.from) && self.path.includes(&other.path)
    }

    /// `POST, PUT`, or `every method but GET`.
    pub(in crate::policy) fn methods(&self, table: &MethodTable) -> String {
        methods(self.methods, table)
    }
}

/// Names of methods; what no rule names is meant by `*` alone.
fn methods(bits: u64, table: &MethodTable) -> String {
    let names = |bits: u64| table.names(crate::policy::rule::Methods(bits)).join(", ");
    if bits == u64::MAX {
        "*".to_owned()
    } else if bits >> 63 == 1 {
        format!("every method but {}", names(!bits))
    } else {
        names(bits)
    }
}

/// What is left of regions.
#[expect(single_use_lifetimes, reason = "an anonymous lifetime is not stable in this place")]
pub(in crate::policy) fn without<'r>(mut left: Vec<Region>, taken: impl Iterator<Item = &'r Region>) -> Vec<Region> {
    for other in taken {
        if left.is_empty() || left.len() > MOST_PARTS {
            break;
        }
        left = left.iter().flat_map(|region| region.minus(other)).collect();
    }
    left
}
