//! The writer: one thread that turns what the workers hand over into lines, numbers and chains them, and keeps the sink alive.
//!
//! It wakes itself: while records come it looks every [`POLL`], so that a worker's hand-over never wakes a thread; after [`QUIET`] empty
//! looks it waits to be woken. What a `kill -9` can lose is therefore what was handed over in the last [`POLL`] plus one batch;
//! what a power cut can lose is the sink's window on top of that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;

use super::access::Access;
use super::chain::Head;
use super::circumstances::{Circumstances, PerCircumstances};
use super::event::Event;
use super::ledger::Counters;
use super::record::{Edge, Missing, Opened, Scribe};
use super::seal::{At, Seal};
use super::sink::{AuditSink, SinkError, Tail};
use crate::clock::Clock;
use crate::secret::FingerprintKey;

/// How often the writer looks while records come.
pub(super) const POLL: Duration = Duration::from_millis(5);
/// Empty looks after which it waits to be woken.
const QUIET: u32 = 200;
/// How often a failed sink is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How often a chain that moves is sealed.
const SEAL_EVERY: Duration = Duration::from_mins(1);
/// Bytes of one batch; a longer one is written in parts.
const BATCH: usize = 256 * 1024;

/// What workers and household hand over. Two words, so that the queue stays small.
#[derive(Debug)]
pub(super) enum Item {
    /// A passage is over; releases its slot.
    Close(Box<Access>),
    /// A slot was dropped unclosed; releases it.
    Abandoned(Option<Box<u128>>),
    /// A passage goes on.
    Opened(Box<Opened>),
    /// Bytes that were no request.
    Edge(Box<Edge>),
    /// An event.
    Event(Box<Event>),
    /// The process ends; answered when everything is durable.
    Stop(SyncSender<bool>),
}

/// What `Ledger::start` gives the thread.
pub(super) struct Parts {
    pub(super) sink: Box<dyn AuditSink>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) key: Option<FingerprintKey>,
    pub(super) instance: Arc<str>,
    pub(super) counters: Arc<Counters>,
}

/// The thread's state.
pub(super) struct Writer<O> {
    parts: Parts,
    observer: O,
    head: Head,
    scribe: Scribe,
    beginnings: PerCircumstances<Beginning>,
    buffer: Vec<u8>,
    /// Slots and extras whose lines are in the buffer.
    held: Held,
    /// Passages that were opened and not closed: named again at the head of a new segment.
    open: FxHashSet<u128>,
    sealed_at: u64,
    seal_due: Instant,
    broken: bool,
    told: Missing,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    slots: usize,
    extras: usize,
}

/// What `access` lines of the same circumstances begin with.
struct Beginning {
    text: Box<[u8]>,
    hashed: blake3::Hasher,
}

impl Beginning {
    fn new(scribe: &mut Scribe, access: &Access) -> Self {
        let mut text = Vec::with_capacity(1024);
        scribe.circumstances(&mut text, access);
        let mut hashed = blake3::Hasher::new();
        hashed.update(&text);
        Self { text: text.into(), hashed }
    }
}

/// How one look at the queue ended.
enum Look {
    Nothing,
    Some,
    /// The batch is full: there is more.
    More,
    Stop(Option<SyncSender<bool>>),
}

impl<O: FnMut(&Circumstances<'_>)> Writer<O> {
    /// Continues the sink's chain: a seal, then the orphans of the former process, all durable before this returns.
    pub(super) fn begin(mut parts: Parts, observer: O) -> Result<Self, SinkError> {
        let tail = parts.sink.tail()?;
        let head = match &tail.last {
            None => Head::START,
            Some(line) => {
                super::chain::Link::read(line).filter(super::chain::Link::holds).and_then(|link| link.head()).ok_or_else(|| SinkError {
                    place: format!("{:?}", parts.sink),
                    why: "its last line does not hold: `exeat audit verify` shows where; move the file away to begin a new chain"
                        .to_owned(),
                })?
            }
        };
        let now = parts.clock.instant();
        let mut writer = Self {
            parts,
            observer,
            head,
            scribe: Scribe::new(),
            beginnings: PerCircumstances::default(),
            buffer: Vec::with_capacity(BATCH + BATCH / 4),
            held: Held::default(),
            open: FxHashSet::default(),
            sealed_at: 0,
            seal_due: now + SEAL_EVERY,
            broken: false,
            told: Missing::default(),
        };
        writer.seal(At::Start, tail.cut);
        writer.close_orphans(&tail);
        writer.sealed_at = writer.head.next;
        writer.parts.sink.append(&writer.buffer)?;
        writer.parts.sink.sync(true)?;
        writer.buffer.clear();
        writer.parts.counters.written.store(writer.head.next, Ordering::Relaxed);
        Ok(writer)
    }

    /// The thread.
    pub(super) fn run(mut self, queue: &Receiver<Item>) {
        let mut quiet = 0;
        loop {
            let look = if self.broken { Look::Nothing } else { self.look(queue) };
            if let Look::Stop(answer) = look {
                return self.finish(answer);
            }
            if !self.store() {
                thread::sleep(RETRY);
                continue;
            }
            self.maintain();
            match look {
                Look::More | Look::Stop(_) => {}
                Look::Some => {
                    quiet = 0;
                    thread::sleep(POLL);
                }
                Look::Nothing if quiet < QUIET => {
                    quiet += 1;
                    thread::sleep(POLL);
                }
                Look::Nothing => match queue.recv_timeout(Duration::from_secs(1)) {
                    Ok(Item::Stop(answer)) => return self.finish(Some(answer)),
                    Ok(item) => {
                        self.take(item);
                        quiet = 0;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return self.finish(None),
                },
            }
        }
    }

    fn look(&mut self, queue: &Receiver<Item>) -> Look {
        let mut look = Look::Nothing;
        while self.buffer.len() < BATCH {
            match queue.try_recv() {
                Ok(Item::Stop(answer)) => return Look::Stop(Some(answer)),
                Ok(item) => {
                    self.take(item);
                    look = Look::Some;
                }
                Err(TryRecvError::Empty) => return look,
                Err(TryRecvError::Disconnected) => return Look::Stop(None),
            }
        }
        Look::More
    }

    /// One line, from `fill`, into the buffer.
    fn line(&mut self, fill: impl FnOnce(&mut Scribe, &mut Vec<u8>)) {
        let from = self.buffer.len();
        self.head.begin(&mut self.buffer);
        fill(&mut self.scribe, &mut self.buffer);
        self.head.end(&mut self.buffer, from);
    }

    /// The line of a finished passage; of what it has in common with others, text and hash are at hand.
    fn close(&mut self, passage: &Circumstances<'_>) {
        let Self { buffer, head, scribe, beginnings, .. } = self;
        let beginning = beginnings.of(passage, || Beginning::new(scribe, passage));
        buffer.extend_from_slice(&beginning.text);
        let from = buffer.len();
        head.go_on(buffer);
        scribe.access(buffer, passage);
        head.end_behind(beginning.hashed.clone(), buffer, from);
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Close(access) => {
                let passage = Circumstances::of(&access);
                self.close(&passage);
                if !self.open.is_empty() {
                    self.open.remove(&access.id);
                }
                self.held.slots += 1;
                (self.observer)(&passage);
            }
            Item::Abandoned(id) => {
                let (now, id) = (self.parts.clock.now(), id.map(|id| *id));
                self.line(|scribe, out| scribe.abandoned(out, now, id));
                if let Some(id) = id {
                    self.open.remove(&id);
                }
                self.held.slots += 1;
                tracing::error!(target: "exeat::audit", "a passage ended without its record; please report this as a bug");
            }
            Item::Opened(opened) => {
                self.line(|scribe, out| scribe.opened(out, &opened));
                self.open.insert(opened.id);
            }
            Item::Edge(edge) => {
                let now = self.parts.clock.now();
                self.line(|scribe, out| scribe.edge(out, now, &edge));
                self.held.extras += 1;
            }
            Item::Event(event) => {
                let now = self.parts.clock.now();
                self.line(|scribe, out| scribe.event(out, now, &event));
                self.held.extras += 1;
            }
            // Taken by `look` and `run`.
            Item::Stop(_) => {}
        }
    }

    /// Gives the buffer to the sink and frees the slots; `false` while the sink does not take it.
    fn store(&mut self) -> bool {
        match self.try_store() {
            Ok(()) => {
                if self.broken {
                    self.broken = false;
                    self.parts.counters.recover();
                    tracing::info!(target: "exeat::audit", "the audit sink takes records again");
                }
                true
            }
            Err(error) => {
                if !self.broken {
                    self.broken = true;
                    tracing::error!(target: "exeat::audit", "{error}: requests are refused with audit_unavailable until it recovers");
                }
                self.parts.counters.fail(error.to_string());
                false
            }
        }
    }

    fn try_store(&mut self) -> Result<(), SinkError> {
        if !self.buffer.is_empty() {
            self.parts.sink.append(&self.buffer)?;
            self.buffer.clear();
            let counters = &self.parts.counters;
            counters.outstanding.fetch_sub(self.held.slots, Ordering::AcqRel);
            counters.extras.fetch_sub(self.held.extras, Ordering::AcqRel);
            counters.written.store(self.head.next, Ordering::Relaxed);
            self.held = Held::default();
        }
        self.parts.sink.sync(self.broken)
    }

    /// What is due between batches: the gap record, a seal, a new segment.
    fn maintain(&mut self) {
        let missing = self.parts.counters.missing();
        if missing != self.told {
            let now = self.parts.clock.now();
            let new = Missing {
                refused: missing.refused.saturating_sub(self.told.refused),
                edges: missing.edges.saturating_sub(self.told.edges),
                events: missing.events.saturating_sub(self.told.events),
            };
            self.told = missing;
            self.line(|scribe, out| scribe.gap(out, now, new));
        }
        let instant = self.parts.clock.instant();
        if self.parts.sink.full() && instant >= self.seal_due.checked_sub(SEAL_EVERY).unwrap_or(instant) {
            self.rotate();
        } else if instant >= self.seal_due {
            self.seal_due = instant + SEAL_EVERY;
            if self.head.next > self.sealed_at {
                self.seal(At::Interval, 0);
            }
        }
    }

    fn rotate(&mut self) {
        self.seal(At::Rotate, 0);
        if !self.store() {
            return;
        }
        if let Err(error) = self.parts.sink.rotate() {
            // The old segment goes on; not tried again before the next seal is due.
            self.seal_due = self.parts.clock.instant() + 2 * SEAL_EVERY;
            tracing::error!(target: "exeat::audit", "{error}: the segment goes on");
            return;
        }
        self.seal(At::Segment, 0);
        self.store();
    }

    fn seal(&mut self, at: At, cut: u64) {
        let now = self.parts.clock.now();
        let open = if at == At::Segment { self.open.iter().copied().collect() } else { Vec::new() };
        let from = self.buffer.len();
        self.head.begin(&mut self.buffer);
        self.scribe.begin(&mut self.buffer, "seal", now);
        Seal { at, instance: &self.parts.instance, cut, open }.write(&mut self.buffer, from, self.parts.key.as_ref());
        self.head.end(&mut self.buffer, from);
        self.sealed_at = self.head.next;
        let shown = std::str::from_utf8(&self.head.prev).unwrap_or_default();
        tracing::info!(target: "exeat::audit", seq = self.head.next - 1, head = shown, at = at.name(), "audit sealed");
    }

    fn close_orphans(&mut self, tail: &Tail) {
        let now = self.parts.clock.now();
        for orphan in &tail.orphans {
            self.line(|scribe, out| scribe.lost(out, now, &orphan.id, orphan.seq));
        }
        if !tail.orphans.is_empty() {
            tracing::warn!(target: "exeat::audit", count = tail.orphans.len(), "passages of the former process were closed as lost");
        }
    }

    fn finish(mut self, answer: Option<SyncSender<bool>>) {
        self.seal(At::Stop, 0);
        let mut kept = self.store();
        if kept && let Err(error) = self.parts.sink.sync(true) {
            tracing::error!(target: "exeat::audit", "{error}: the last records may not survive a power cut");
            kept = false;
        }
        self.parts.counters.fail("the ledger is closed".to_owned());
        // The next process may take the sink over as soon as the asker is told.
        drop(self);
        if answer.is_some_and(|answer| answer.send(kept).is_err()) {
            tracing::warn!(target: "exeat::audit", "the ledger was closed after the one who asked had stopped waiting");
        }
    }
}
