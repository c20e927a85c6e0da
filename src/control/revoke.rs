//! `Revoke`: takes access away while requests are under way, and gives it back.
//!
//! The order of a revocation: published (the next judgement and the next attempt see it), then at once made durable, grants discarded, and
//! passages ended by the workers that hold them; acknowledged when all of that is done. After the acknowledgement no request is admitted.
//! A restoration opens, so its order is the reverse: durable first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::kept::{Kept, MOST, Set};
use super::recall::{self, Recalled};
use super::revocation_file::{self, reason_of};
use super::watch::Watch;
use crate::audit::{Event, Ledger};
use crate::clock::{Clock, Timestamp};
use crate::config::{Watched, digest_of};
use crate::credentials::Broker;
use crate::live::{Block, Live, Target};
use crate::snapshot::{Current, Snapshot};
use crate::state::{State, StateError};
use crate::telemetry::Metrics;
use crate::written::suggest;

/// A worker that has not ended its passages by then is told of: something blocks its thread.
const SETTLE: Duration = Duration::from_secs(1);
/// A write that failed is tried again this often.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// A revoked grant is remembered this long: no credential lives longer.
const GRANT_LIFE: Duration = Duration::from_mins(20);

/// Says that something is wrong, or all right again, under a name.
pub(super) type Warn = dyn Fn(&'static str, Option<String>) + Send + Sync;

/// What revocations and leases touch.
#[derive(Clone)]
pub struct Surroundings {
    /// What judgement reads, and whom the workers follow.
    pub live: Arc<Live>,
    /// Holds the grants.
    pub broker: Arc<Broker>,
    /// Which names exist, and who issues.
    pub snapshots: Arc<Current>,
    /// Keeps revocations over a restart.
    pub state: Arc<State>,
    /// Remembers who revoked what.
    pub ledger: Ledger,
    /// Counts.
    pub metrics: Metrics,
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
    /// Readiness, which is told and not changed: an exeat that refuses everything as it was told to is well.
    pub warn: Arc<Warn>,
}

/// One per process; see the module.
pub struct Revoke {
    around: Surroundings,
    file: Option<PathBuf>,
    /// One write at a time. What is kept, and whether the newest of it is not durable.
    kept: Mutex<(Kept, bool)>,
}

/// A revocation, acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What it names.
    pub target: Target,
    /// The block in force; of a target that was revoked before, the former.
    pub block: Block,
    /// It was revoked before.
    pub already: bool,
    /// Passages that this call ended.
    pub passages: u64,
    /// What became of grants.
    pub grants: Recalled,
    /// Why it would not outlive the process; a revoked grant needs not to.
    pub durable: Result<(), String>,
    /// What the operator should know beside it.
    pub warnings: Vec<String>,
    /// From the receipt of the question to here.
    pub took: Duration,
}

/// A restoration, done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The block that was lifted; `None`: there was none.
    pub lifted: Option<Block>,
    /// What still stands against it.
    pub warnings: Vec<String>,
}

impl Revoke {
    /// Puts into force what the state keeps and what the file names. Call it before any listener accepts. Blocks.
    ///
    /// # Errors
    /// What is kept cannot be read: starting would let through what was revoked.
    pub fn open(around: Surroundings, file: Option<PathBuf>) -> Result<Self, StateError> {
        let mut kept = Kept::read(&around.state)?;
        match &file {
            None => kept.file.clear(),
            Some(path) => {
                let (set, wrong) = named(path, &kept.file, around.clock.now());
                kept.file = set;
                (around.warn)("revocations_file", wrong);
            }
        }
        around.live.change(|blocks| kept.all().filter(|block| blocks.add(Block::clone(block))).count() > 0);
        let in_force = around.live.blocks().len();
        if in_force > 0 {
            tracing::warn!(in_force, "revocations are in force: `exeat revoke --list` shows them");
        }
        let revoke = Self { around, file, kept: Mutex::new((kept, false)) };
        revoke.tell_standing();
        Ok(revoke)
    }

    /// The file that is watched, with the digest of its content now.
    #[must_use]
    pub fn watch(&self, poll: Duration) -> Option<Watch> {
        let watched = Watched { files: [self.file.clone()?].into(), ..Watched::default() };
        let digest = digest_of(&watched);
        Some(Watch::new(watched, digest, poll))
    }

    /// Revokes a target. Never refused because of a name that is unknown: the block holds for when there is one.
    ///
    /// # Errors
    /// As many blocks are in force as may be.
    pub async fn revoke(&self, target: Target, reason: &str, by: Arc<str>) -> Result<Receipt, String> {
        let (live, clock) = (&self.around.live, &self.around.clock);
        let began = clock.instant();
        let block = Block::new(target.clone(), reason_of(reason), by, clock.now());
        let full = |blocks: &crate::live::Blocks| target != Target::Everything && blocks.len().max(blocks.grants()) >= MOST;
        if full(&live.blocks()) && live.blocks().get(&target).is_none() {
            return Err(format!("{MOST} revocations are in force: revoke a broader target, or `everything`"));
        }
        let before = live.blocks().get(&target).map_or(0, |known| known.ended.count());
        let number = self.publish(&block);
        self.tell_standing();
        let in_force = live.blocks().get(&target).map_or_else(|| block.clone(), |block| Block::clone(block));
        let already = number.is_none();
        let snapshot = self.around.snapshots.load();
        let discarded = recall::discard(&[&block], &self.around.broker, &snapshot);
        let number = number.unwrap_or_else(|| live.number());
        let (settled, durable) = tokio::join!(tokio::time::timeout(SETTLE, live.settled(number)), self.keep(&in_force));
        let mut warnings = unknown(&target, &snapshot).into_iter().collect::<Vec<_>>();
        if settled.is_err() {
            warnings.push("a worker has not ended its passages within 1 s; see the log, and restart exeat if that goes on".to_owned());
        }
        let grants = recall::recall(discarded, &snapshot, &self.around.ledger, &self.around.metrics);
        let receipt = Receipt {
            target,
            passages: in_force.ended.count().saturating_sub(before),
            block: in_force,
            already,
            grants,
            durable,
            warnings,
            took: clock.instant().saturating_duration_since(began),
        };
        self.record(&receipt, &block.by);
        Ok(receipt)
    }

    /// Puts a block into force; `None` when one with its target is.
    fn publish(&self, block: &Block) -> Option<u64> {
        let life = Timestamp::checked_sub(block.since, jiff::SignedDuration::try_from(GRANT_LIFE).unwrap_or_default());
        self.around.live.change(|blocks| {
            blocks.forget_grants(life.unwrap_or(Timestamp::MIN));
            blocks.add(block.clone())
        })
    }

    /// Makes a block durable.
    async fn keep(&self, block: &Block) -> Result<(), String> {
        if matches!(block.target, Target::Grant(_)) {
            return Ok(());
        }
        let mut kept = self.kept.lock().await;
        let new = kept.0.own.insert(block.target.clone(), block.clone()).is_none();
        // A restoration of the same target may have gone between the publication and here: this is the later word.
        self.publish(block);
        if new || kept.1 {
            self.write(&mut kept)?;
        }
        if self.around.state.is_ephemeral() { Err("`state: ephemeral` keeps nothing".to_owned()) } else { Ok(()) }
    }

    /// Writes what is kept; remembers and tells when it cannot be.
    fn write(&self, kept: &mut (Kept, bool)) -> Result<(), String> {
        let outcome = self.put(&kept.0.bytes());
        kept.1 = outcome.is_err();
        let told = |why: &String| format!("a revocation is in force and not durable, a restart would lift it: {why}");
        (self.around.warn)("revocations_durable", outcome.as_ref().err().map(told));
        if let Err(error) = &outcome {
            tracing::error!(%error, "a revocation is in force and not durable: a restart would lift it");
        }
        outcome
    }

    fn put(&self, bytes: &[u8]) -> Result<(), String> {
        // Here and not on another thread: an acknowledgement waits, and handing it over and back costs two wake-ups on a busy machine.
        let state = &self.around.state;
        tokio::task::block_in_place(|| Kept::write(state, bytes)).map_err(|error| error.to_string())
    }

    /// Lifts a block that an operator set.
    ///
    /// # Errors
    /// It cannot be made durable: the block stays.
    pub async fn restore(&self, target: &Target, reason: &str, by: Arc<str>) -> Result<Restored, String> {
        if matches!(target, Target::Grant(_)) {
            let warnings = vec!["a revoked grant stays revoked; the next request gets another".to_owned()];
            return Ok(Restored { lifted: None, warnings });
        }
        let mut kept = self.kept.lock().await;
        let mut next = kept.0.clone();
        let lifted = next.own.remove(target);
        if lifted.is_some() {
            self.put(&next.bytes())?;
            *kept = (next, false);
            (self.around.warn)("revocations_durable", None);
            let file = kept.0.file.get(target).cloned();
            self.around.live.change(|blocks| {
                let removed = blocks.remove(target).is_some();
                file.is_some_and(|block| blocks.add(block)) || removed
            });
        }
        let warnings = still_against(target, &kept.0);
        drop(kept);
        if lifted.is_some() {
            tracing::warn!(%target, %by, "restored");
            self.around.ledger.event(Event::Restored { target: target.to_string(), reason: reason_of(reason).into(), by });
        }
        self.tell_standing();
        Ok(Restored { lifted, warnings })
    }

    /// Every block in force, sorted by target.
    #[must_use]
    pub fn in_force(&self) -> Vec<Block> {
        self.around.live.blocks().all().into_iter().map(|block| Block::clone(block)).collect()
    }

    /// Follows the watched file, and tries again what could not be made durable; runs as long as the process does.
    pub async fn supervise(self: Arc<Self>, mut watch: Option<Watch>) {
        let mut again = tokio::time::interval(TRY_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => drop(watch.changed().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => self.read_file(watch.as_mut()).await,
                _ = again.tick() => {
                    let mut kept = self.kept.lock().await;
                    if kept.1 && self.write(&mut kept).is_ok() {
                        tracing::warn!("the revocations in force are durable now");
                    }
                }
            }
        }
    }

    async fn read_file(&self, watch: Option<&mut Watch>) {
        let Some(path) = self.file.clone() else { return };
        let mut kept = self.kept.lock().await;
        let (last, now) = (kept.0.file.clone(), self.around.clock.now());
        let read = tokio::task::spawn_blocking(move || {
            let watched = Watched { files: [path.clone()].into(), ..Watched::default() };
            // Before the reading: a change in between is noticed again.
            let digest = digest_of(&watched);
            (named(&path, &last, now), watched, digest)
        });
        let Ok(((set, wrong), watched, digest)) = read.await else { return };
        if let Some(watch) = watch {
            watch.follow(watched, digest);
        }
        if let Some(wrong) = &wrong {
            tracing::error!(error = %wrong, "the file of revocations");
        }
        (self.around.warn)("revocations_file", wrong);
        let former = std::mem::replace(&mut kept.0.file, set);
        self.take_over(&mut kept, &former).await;
        drop(kept);
        self.tell_standing();
    }

    /// Puts into force what the file names now and did not before, and lifts what it names no more.
    async fn take_over(&self, kept: &mut (Kept, bool), former: &Set) {
        let came: Vec<Block> = kept.0.file.values().filter(|block| !former.contains_key(&block.target)).cloned().collect();
        let gone: Vec<Block> = former.values().filter(|block| !kept.0.file.contains_key(&block.target)).cloned().collect();
        if came.is_empty() && gone.is_empty() {
            return;
        }
        let own = &kept.0.own;
        let number = self.around.live.change(|blocks| {
            let lifted = gone.iter().filter(|block| !own.contains_key(&block.target) && blocks.remove(&block.target).is_some()).count();
            let added = came.iter().filter(|block| blocks.add(Block::clone(block))).count();
            lifted + added > 0
        });
        let snapshot = self.around.snapshots.load();
        let discarded = recall::discard(&came.iter().collect::<Vec<_>>(), &self.around.broker, &snapshot);
        let grants = recall::recall(discarded, &snapshot, &self.around.ledger, &self.around.metrics);
        let number = number.unwrap_or_else(|| self.around.live.number());
        let settled = tokio::time::timeout(SETTLE, self.around.live.settled(number));
        let durable = self.write(kept);
        drop(settled.await);
        for block in came {
            tracing::warn!(target = %block.target, by = %block.by, "revoked");
            self.around.ledger.event(Event::Revoked {
                target: block.target.to_string(),
                reason: Arc::clone(&block.reason),
                by: Arc::clone(&block.by),
                passages: block.ended.count(),
                grants: grants.discarded,
                durable: durable.is_ok(),
            });
        }
        for block in gone {
            tracing::warn!(target = %block.target, by = %block.by, "restored: it left the file");
            let reason = "it left the file".into();
            self.around.ledger.event(Event::Restored { target: block.target.to_string(), reason, by: block.by });
        }
    }

    fn record(&self, receipt: &Receipt, by: &Arc<str>) {
        tracing::warn!(target = %receipt.target, %by, passages = receipt.passages, took = ?receipt.took, "revoked");
        self.around.ledger.event(Event::Revoked {
            target: receipt.target.to_string(),
            reason: Arc::clone(&receipt.block.reason),
            by: Arc::clone(by),
            passages: receipt.passages,
            grants: receipt.grants.discarded,
            durable: receipt.durable.is_ok(),
        });
    }

    fn tell_standing(&self) {
        let blocks = self.around.live.blocks();
        self.around.metrics.revocations(blocks.len());
        let everything = blocks.get(&Target::Everything);
        let told = |since: Timestamp| {
            format!("everything is revoked since {since:.0}: every request is refused; `exeat restore everything` lifts it")
        };
        (self.around.warn)("revocations", everything.map(|block| told(block.since)));
    }
}

/// The file's set, and what is wrong with the file: then nothing that it named before is lifted.
fn named(path: &std::path::Path, last: &Set, now: Timestamp) -> (Set, Option<String>) {
    let by: Arc<str> = format!("file {}", path.display()).into();
    match revocation_file::read(path) {
        Err(error) => {
            let wrong = format!(
                "{} cannot be read ({error}); its last known set of {} stays in force: write it again, or empty, to lift that",
                path.display(),
                last.len()
            );
            (last.clone(), Some(wrong))
        }
        Ok(lines) => {
            let mut set = if lines.mistake.is_some() { last.clone() } else { Set::new() };
            for (target, reason) in lines.named {
                // Since when it is revoked does not change with every edit of the file.
                let known = last.get(&target).cloned();
                set.entry(target.clone()).or_insert_with(|| known.unwrap_or_else(|| Block::new(target, reason, Arc::clone(&by), now)));
            }
            let wrong = lines.mistake.map(|why| {
                format!("{}: {why}; the other lines hold, and nothing that it named before is lifted until it is mended", path.display())
            });
            (set, wrong)
        }
    }
}

/// A name that nothing has: most likely a typing error, and the block holds nevertheless.
fn unknown(target: &Target, snapshot: &Snapshot) -> Option<String> {
    if snapshot.not_ready.is_some() {
        return None;
    }
    let known: Vec<&str> = match target {
        Target::Upstream(_) => snapshot.catalogue.all().iter().map(|upstream| &*upstream.name).collect(),
        Target::Credential(_) => snapshot.definitions.all().iter().map(|definition| &*definition.profile.name).collect(),
        Target::Rule(_) => snapshot.policies.rule_names().collect(),
        Target::Everything | Target::Workload(_) | Target::Lease(_) | Target::Grant(_) => return None,
    };
    if known.contains(&target.name()) {
        return None;
    }
    let near = suggest(target.name(), known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    Some(format!("there is no {target} now: the block holds and meets nothing until there is{near}"))
}

fn still_against(target: &Target, kept: &Kept) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(block) = kept.get(target) {
        warnings.push(format!("{target} is still revoked by {}: take its line away", block.by));
    }
    if *target != Target::Everything && kept.get(&Target::Everything).is_some() {
        warnings.push("everything is still revoked; `exeat restore everything` lifts that".to_owned());
    }
    warnings
}
