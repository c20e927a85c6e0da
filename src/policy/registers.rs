//! Registers: what the walk over one reading found, and what several readings agree on.

use crate::refusal::Code;

/// A rank and its rule in one number: the lower the rank, the lower the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Best(u64);

impl Best {
    pub(super) const NONE: Self = Self(u64::MAX);

    pub(super) const fn new(rank: u32, rule: u32) -> Self {
        Self((rank as u64) << 32 | rule as u64)
    }

    /// Whether nothing of this rank could win any more.
    pub(super) const fn beats(self, rank: u32) -> bool {
        self.0 <= ((rank as u64) << 32 | u32::MAX as u64)
    }

    pub(super) const fn is_some(self) -> bool {
        self.0 != u64::MAX
    }

    /// The rule's number.
    pub(super) fn rule(self) -> Option<usize> {
        if self.is_some() { usize::try_from(self.0 & u64::from(u32::MAX)).ok() } else { None }
    }
}

/// What one register found for one reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) deny: Best,
    pub(super) require: Best,
    pub(super) allow: Best,
}

impl Default for Found {
    fn default() -> Self {
        Self { deny: Best::NONE, require: Best::NONE, allow: Best::NONE }
    }
}

/// Both registers of one reading: what is, and what would be if shadow rules had a say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registers {
    pub(super) real: Found,
    pub(super) would: Found,
    /// The best deny that holds in stage `observe` too.
    pub(super) floor: Best,
    /// A shadow rule matched.
    pub(super) shadow: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Self { real: Found::default(), would: Found::default(), floor: Best::NONE, shadow: false }
    }
}

/// What all readings of one register agree on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreement {
    deny: Best,
    require: Best,
    allow: Option<Best>,
    disagreed: bool,
}

impl Default for Agreement {
    fn default() -> Self {
        Self { deny: Best::NONE, require: Best::NONE, allow: None, disagreed: false }
    }
}

impl Agreement {
    /// Adds one reading: a denied one denies all, allowed ones must be allowed by one rule.
    pub(super) fn add(&mut self, found: Found) {
        self.deny = self.deny.min(found.deny);
        self.require = self.require.min(found.require);
        self.disagreed |= self.allow.is_some_and(|before| before.rule() != found.allow.rule());
        self.allow.get_or_insert(found.allow);
    }

    /// The rule that allows, or the code and the rule that refuses.
    pub(super) fn outcome(&self) -> Result<usize, (Code, Option<usize>)> {
        if self.deny.is_some() {
            return Err((Code::Denied, self.deny.rule()));
        }
        if self.require.is_some() {
            return Err((Code::Requirement, self.require.rule()));
        }
        if self.disagreed {
            return Err((Code::AmbiguousPath, None));
        }
        self.allow.and_then(Best::rule).ok_or((Code::NoRule, None))
    }
}
