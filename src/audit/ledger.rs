//! `Ledger`: the workers' side. A slot is reserved before the first upstream byte, and every slot gives exactly one record.
//!
//! Workers share one counter and one lock-free queue. The queue holds two items per slot (`opened` and the record) and as many again
//! for edge records and events, so a hand-over always finds a place; it never waits and wakes nobody while the writer is busy.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::access::Access;
use super::circumstances::Circumstances;
use super::event::Event;
use super::record::{Edge, Missing, Opened};
use super::sink::{AuditSink, SinkError};
use super::writer::{Item, Parts, Writer};
use crate::capture::Peer;
use crate::clock::Clock;
use crate::refusal::{Code, Refusal};
use crate::secret::FingerprintKey;

/// How a ledger is kept.
pub struct Options {
    /// Slots that may be outstanding: live passages and records not yet written. Default 8,192.
    pub outstanding: usize,
    /// Keys the seals, so that a rewritten chain shows; one per installation.
    pub seal: Option<FingerprintKey>,
    /// This process, in every seal: host name or pod name.
    pub instance: Arc<str>,
}

impl Default for Options {
    fn default() -> Self {
        Self { outstanding: 8_192, seal: None, instance: "exeat".into() }
    }
}

/// Edge records and events that may be queued: what an attacker sends to the edge must not fill memory.
const EXTRAS: usize = 1_024;

/// Counters that workers, household and writer share.
#[derive(Debug, Default)]
pub(super) struct Counters {
    limit: usize,
    pub(super) outstanding: AtomicUsize,
    pub(super) extras: AtomicUsize,
    pub(super) written: AtomicU64,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
    refused: AtomicU64,
    lost_edges: AtomicU64,
    lost_events: AtomicU64,
}

impl Counters {
    pub(super) fn fail(&self, why: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn recover(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.failed.store(false, Ordering::Release);
    }

    pub(super) fn missing(&self) -> Missing {
        Missing {
            refused: self.refused.load(Ordering::Relaxed),
            edges: self.lost_edges.load(Ordering::Relaxed),
            events: self.lost_events.load(Ordering::Relaxed),
        }
    }

    /// Takes one place out of `limit`; how many were taken before.
    fn take(places: &AtomicUsize, limit: usize) -> Option<usize> {
        let before = places.fetch_add(1, Ordering::AcqRel);
        if before < limit {
            return Some(before);
        }
        places.fetch_sub(1, Ordering::AcqRel);
        None
    }

    /// The most that one workload may have once slots are scarce.
    fn half(&self) -> usize {
        self.limit.div_ceil(2)
    }
}

#[derive(Debug)]
struct Inner {
    queue: SyncSender<Item>,
    counters: Arc<Counters>,
}

impl Inner {
    /// The queue has a place for every slot and every extra, so this fails only when the writer is gone.
    fn send(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.counters.fail("the audit writer has ended".to_owned());
        }
    }
}

/// Handle to the one ledger of the process: cheap to clone, never blocks.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Inner>);

/// A reserved place for one passage's record. Dropping it unclosed is a bug and writes a record of its own.
#[derive(Debug)]
#[must_use]
pub struct Slot {
    ledger: Option<Arc<Inner>>,
    opened: OnceLock<u128>,
    scarce: bool,
}

/// How the ledger stands, for readiness, status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Records can be written.
    pub available: bool,
    /// Why not.
    pub failure: Option<String>,
    /// Slots in use.
    pub outstanding: usize,
    /// Slots there are.
    pub limit: usize,
    /// The number of the next line: lines written since the chain began.
    pub written: u64,
    /// Passages refused because no record could be kept.
    pub refused: u64,
}

impl Ledger {
    /// Opens the sink, continues its chain and starts the writer thread. `observer` sees every closed passage after its line is made, on
    /// that thread: spans and metrics.
    ///
    /// # Errors
    /// The sink cannot be read or written, or ends with a line that does not hold: exit code 78.
    pub fn start(
        sink: Box<dyn AuditSink>,
        observer: impl FnMut(&Circumstances<'_>) + Send + 'static,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<Self, SinkError> {
        let limit = options.outstanding.max(1);
        let counters = Arc::new(Counters { limit, ..Counters::default() });
        let (queue, items) = sync_channel(2 * limit + EXTRAS + 8);
        let parts = Parts { sink, clock, key: options.seal, instance: options.instance, counters: Arc::clone(&counters) };
        let writer = Writer::begin(parts, observer)?;
        std::thread::Builder::new()
            .name("exeat-audit".to_owned())
            .spawn(move || writer.run(&items))
            .map_err(|error| SinkError { place: "writer thread".to_owned(), why: error.to_string() })?;
        Ok(Self(Arc::new(Inner { queue, counters })))
    }

    /// Reserves the place of one passage's record.
    ///
    /// # Errors
    /// `audit_unavailable`: every slot is taken, or the sink has failed.
    pub fn reserve(&self) -> Result<Slot, Refusal> {
        let counters = &self.0.counters;
        let why = if counters.failed.load(Ordering::Acquire) {
            "the audit sink does not take records; the log names it"
        } else if let Some(before) = Counters::take(&counters.outstanding, counters.limit) {
            let scarce = before >= counters.half();
            return Ok(Slot { ledger: Some(Arc::clone(&self.0)), opened: OnceLock::new(), scarce });
        } else {
            "every audit slot is taken; the sink is too slow or limits.audit_queue too small"
        };
        counters.refused.fetch_add(1, Ordering::Relaxed);
        Err(Refusal::new(Code::AuditUnavailable, why))
    }

    /// Records an event of the household. When the queue of events is full it is counted, and a `gap` record tells the count.
    pub fn event(&self, event: Event) {
        if Counters::take(&self.0.counters.extras, EXTRAS).is_some() {
            self.0.send(Item::Event(Box::new(event)));
        } else {
            self.0.counters.lost_events.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records bytes that were refused before they were a request: one record per connection, with a count. As bounded as events.
    pub fn edge(&self, listener: &Arc<str>, peer: Peer, code: Code, count: u32, reason: impl Into<Cow<'static, str>>) {
        if Counters::take(&self.0.counters.extras, EXTRAS).is_some() {
            self.0.send(Item::Edge(Box::new(Edge { listener: Arc::clone(listener), peer, code, count, reason: reason.into() })));
        } else {
            self.0.counters.lost_edges.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let counters = &self.0.counters;
        Standing {
            available: !counters.failed.load(Ordering::Acquire),
            failure: counters.failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            outstanding: counters.outstanding.load(Ordering::Relaxed),
            limit: counters.limit,
            written: counters.written.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
        }
    }

    /// Writes what is queued, seals, makes it durable and ends the writer. Blocks for `deadline` at most; `false` when that was too short
    /// or the sink has failed.
    #[must_use]
    pub fn stop(&self, deadline: Duration) -> bool {
        let (answer, done) = sync_channel(1);
        self.0.queue.try_send(Item::Stop(answer)).is_ok() && done.recv_timeout(deadline).unwrap_or(false)
    }
}

impl Slot {
    /// Writes an `opened` line now: for upgrades, tunnels and requests older than 10 s. Only the first call counts.
    pub fn opened(&self, access: &Access) {
        if let Some(ledger) = &self.ledger
            && self.opened.set(access.id).is_ok()
        {
            ledger.send(Item::Opened(Box::new(Opened::of(access))));
        }
    }

    /// Whether [`opened`](Self::opened) was called.
    #[must_use]
    pub fn is_opened(&self) -> bool {
        self.opened.get().is_some()
    }

    /// How many passages of one workload may live, since half of the slots were taken when this one was: as many as that half. `None`: there
    /// were enough. A slot is held as long as its passage lives, so whoever sends many requests that wait would keep everybody else out.
    #[must_use]
    pub fn most_of_one(&self) -> Option<usize> {
        self.ledger.as_ref().filter(|_| self.scarce).map(|ledger| ledger.counters.half())
    }

    /// Gives the record. The passage is over.
    pub fn close(mut self, access: Box<Access>) {
        if let Some(ledger) = self.ledger.take() {
            ledger.send(Item::Close(access));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            ledger.send(Item::Abandoned(self.opened.get().copied().map(Box::new)));
        }
    }
}
