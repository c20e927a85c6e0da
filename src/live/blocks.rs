//! `Blocks`: everything that is revoked at one moment, as one immutable value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;

use super::target::Target;
use crate::clock::Timestamp;
use crate::identity::SpiffeId;

/// One revocation, in force until it is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What is taken away.
    pub target: Target,
    /// Why, in the operator's words.
    pub reason: Arc<str>,
    /// Who did it: `uid 0`, `file /etc/exeat/revoked`, `signal SIGUSR1`.
    pub by: Arc<str>,
    /// When.
    pub since: Timestamp,
    /// Passages that it ended.
    pub ended: Tally,
}

impl Block {
    /// One that has ended nothing yet.
    pub fn new(target: Target, reason: impl Into<Arc<str>>, by: impl Into<Arc<str>>, since: Timestamp) -> Self {
        Self { target, reason: reason.into(), by: by.into(), since, ended: Tally::default() }
    }
}

/// A count that followers of several threads add to. Two blocks are the same whatever they have ended.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<AtomicU64>);

impl Tally {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for Tally {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Tally {}

/// What one access touches, so that a block on any of it is found.
#[derive(Debug, Clone, Copy)]
pub struct Touched<'a> {
    /// Who.
    pub workload: &'a SpiffeId,
    /// Where.
    pub upstream: &'a str,
    /// The credential definition that is put on.
    pub credential: Option<&'a str>,
    /// The rule that allowed it.
    pub rule: Option<&'a str>,
    /// The lease that it is under.
    pub lease: Option<&'a str>,
    /// The issue of the credential that it carries, once it has one.
    pub grant: Option<&'a str>,
}

/// All revocations of one moment. Nothing revoked costs one comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocks {
    everything: Option<Arc<Block>>,
    workloads: FxHashMap<SpiffeId, Arc<Block>>,
    upstreams: FxHashMap<Arc<str>, Arc<Block>>,
    credentials: FxHashMap<Arc<str>, Arc<Block>>,
    rules: FxHashMap<Arc<str>, Arc<Block>>,
    leases: FxHashMap<Arc<str>, Arc<Block>>,
    /// Revoked grants, until their credentials have ended by themselves. No blocks: they are not counted, shown or kept.
    grants: FxHashMap<Arc<str>, Arc<Block>>,
    count: usize,
}

impl Blocks {
    /// How many are in force.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// No block is in force.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Revoked grants that are still remembered.
    #[must_use]
    pub fn grants(&self) -> usize {
        self.grants.len()
    }

    /// Forgets the grants that were revoked before this: their credentials have ended.
    pub fn forget_grants(&mut self, before: Timestamp) {
        self.grants.retain(|_, block| block.since >= before);
    }

    /// The block on anything that this access touches.
    #[must_use]
    pub fn on(&self, touched: &Touched<'_>) -> Option<&Arc<Block>> {
        if self.is_empty() && self.grants.is_empty() {
            return None;
        }
        let named = |blocks: &'_ FxHashMap<Arc<str>, Arc<Block>>, name: Option<&str>| name.is_some_and(|name| blocks.contains_key(name));
        if let Some(block) = &self.everything {
            return Some(block);
        }
        if let Some(block) = self.workloads.get(touched.workload) {
            return Some(block);
        }
        [
            (&self.upstreams, Some(touched.upstream)),
            (&self.credentials, touched.credential),
            (&self.rules, touched.rule),
            (&self.leases, touched.lease),
            (&self.grants, touched.grant),
        ]
        .into_iter()
        .find(|(blocks, name)| named(blocks, *name))
        .and_then(|(blocks, name)| blocks.get(name?))
    }

    /// Whether a connection to this upstream, opened for this workload where it is one's own, serves nobody any more.
    #[must_use]
    pub fn close(&self, upstream: &str, workload: Option<&SpiffeId>) -> bool {
        self.everything.is_some()
            || self.upstreams.contains_key(upstream)
            || workload.is_some_and(|workload| self.workloads.contains_key(workload))
    }

    /// The block with exactly this target.
    #[must_use]
    pub fn get(&self, target: &Target) -> Option<&Arc<Block>> {
        match target {
            Target::Everything => self.everything.as_ref(),
            Target::Workload(id) => self.workloads.get(id),
            Target::Upstream(name) => self.upstreams.get(name),
            Target::Credential(name) => self.credentials.get(name),
            Target::Rule(name) => self.rules.get(name),
            Target::Lease(name) => self.leases.get(name),
            Target::Grant(name) => self.grants.get(name),
        }
    }

    /// Adds one; the earlier of two with one target stands. `false` when there was one.
    pub fn add(&mut self, block: Block) -> bool {
        if self.get(&block.target).is_some() {
            return false;
        }
        let block = Arc::new(block);
        match &block.target {
            Target::Everything => self.everything = Some(block),
            Target::Workload(id) => drop(self.workloads.insert(id.clone(), block)),
            Target::Upstream(name) => drop(self.upstreams.insert(Arc::clone(name), block)),
            Target::Credential(name) => drop(self.credentials.insert(Arc::clone(name), block)),
            Target::Rule(name) => drop(self.rules.insert(Arc::clone(name), block)),
            Target::Lease(name) => drop(self.leases.insert(Arc::clone(name), block)),
            Target::Grant(name) => {
                self.grants.insert(Arc::clone(name), block);
                return true;
            }
        }
        self.count += 1;
        true
    }

    /// Lifts one.
    pub fn remove(&mut self, target: &Target) -> Option<Arc<Block>> {
        let removed = match target {
            Target::Everything => self.everything.take(),
            Target::Workload(id) => self.workloads.remove(id),
            Target::Upstream(name) => self.upstreams.remove(name),
            Target::Credential(name) => self.credentials.remove(name),
            Target::Rule(name) => self.rules.remove(name),
            Target::Lease(name) => self.leases.remove(name),
            Target::Grant(name) => return self.grants.remove(name),
        };
        self.count -= usize::from(removed.is_some());
        removed
    }

    /// All, sorted by target.
    #[must_use]
    pub fn all(&self) -> Vec<&Arc<Block>> {
        let named = [&self.upstreams, &self.credentials, &self.rules, &self.leases];
        let mut all: Vec<_> = self.everything.iter().chain(self.workloads.values()).collect();
        for blocks in named {
            all.extend(blocks.values());
        }
        all.sort_by(|a, b| a.target.cmp(&b.target));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(target: &str) -> Block {
        Block {
            target: target.parse().unwrap(),
            reason: "drill".into(),
            by: "uid 0".into(),
            since: Timestamp::UNIX_EPOCH,
            ended: Tally::default(),
        }
    }

    #[test]
    fn a_revoked_grant_is_no_block_and_is_forgotten_with_its_credential() {
        let id = SpiffeId::parse("spiffe://prod.example/ns/billing/sa/app").unwrap();
        let asks = Touched { workload: &id, upstream: "ledger", credential: Some("jwt"), rule: None, lease: None, grant: None };
        let carries = Touched { grant: Some("g1"), ..asks };
        let mut blocks = Blocks::default();
        assert!(blocks.add(block("grant g1")) && blocks.is_empty() && blocks.all().is_empty());
        assert!(blocks.on(&carries).is_some() && blocks.on(&asks).is_none(), "what asks anew gets another");
        blocks.forget_grants(Timestamp::UNIX_EPOCH);
        assert_eq!(blocks.grants(), 1);
        blocks.forget_grants(Timestamp::from_second(1).unwrap());
        assert!(blocks.on(&carries).is_none());
    }

    #[test]
    fn a_block_on_anything_touched_is_found() {
        let id = SpiffeId::parse("spiffe://prod.example/ns/billing/sa/app").unwrap();
        let touched =
            Touched { workload: &id, upstream: "ledger", credential: Some("jwt"), rule: Some("a/b"), lease: Some("l1"), grant: None };
        let bare = Touched { credential: None, rule: None, lease: None, ..touched };
        for (target, hits, hits_bare) in [
            ("everything", true, true),
            ("workload spiffe://prod.example/ns/billing/sa/app", true, true),
            ("workload spiffe://prod.example/ns/billing/sa/other", false, false),
            ("upstream ledger", true, true),
            ("upstream stripe", false, false),
            ("credential jwt", true, false),
            ("rule a/b", true, false),
            ("lease l1", true, false),
            ("lease l2", false, false),
        ] {
            let mut blocks = Blocks::default();
            assert!(blocks.on(&touched).is_none());
            assert!(blocks.add(block(target)) && !blocks.add(block(target)), "one block a target");
            assert_eq!((blocks.on(&touched).is_some(), blocks.on(&bare).is_some(), blocks.len()), (hits, hits_bare, 1), "{target}");
            let target = target.parse().unwrap();
            assert!(blocks.remove(&target).is_some() && blocks.remove(&target).is_none() && blocks.is_empty());
        }
    }
}
