//! Rules that no record names: neither as the one that decided nor as the one that would have.
//!
//! A mode of `suggest`, not of `check`: it needs a log and a window, and what it says is no mistake of the files. A deny or a require that
//! never had to act is not unused, so only allow rules are told; what ended or has not begun is `check`'s affair.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::log;
use crate::audit::Entry;
use crate::clock::Timestamp;
use crate::policy::{PolicySet, RuleRef};

/// What no record names.
pub(super) struct Unused {
    /// Passages that were looked at.
    pub(super) records: u64,
    /// The allow rules that none of them names.
    pub(super) rules: Vec<RuleRef>,
}

pub(super) fn find(paths: &[PathBuf], since: Timestamp, set: &PolicySet) -> Result<Unused, String> {
    let mut named: BTreeSet<Box<str>> = BTreeSet::new();
    let mut records = 0;
    log::each(paths, Some(since), |line| {
        if let Entry::Access(record) = &line.entry {
            records += 1;
            let would = record.would_be.as_ref().and_then(|would| would.rule.as_ref());
            for rule in record.rule.iter().chain(would) {
                if !named.contains(rule) {
                    named.insert(rule.clone());
                }
            }
        }
        Ok(())
    })?;
    let rules = set.allows().filter(|rule| !named.contains(&*rule.id)).cloned().collect();
    Ok(Unused { records, rules })
}
