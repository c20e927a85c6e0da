//! `Live`: the live passages of one worker, and the sweep that looks after them.
//!
//! One sweep per worker stands for all timers of its passages: idle streams, slow bodies, the `opened` line, rules that expire, and
//! the judgement of long passages by a new snapshot. It sleeps while nothing lives.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::passage::{Ended, Passage};
use super::worker::Worker;

/// How often the sweep runs while anything lives: a revoked passage ends within two of these.
const EVERY: Duration = Duration::from_millis(400);
/// Empty sweeps before it sleeps, so that steady traffic does not wake it for every request.
const EMPTY_BEFORE_SLEEP: u32 = 8;
/// Younger passages are not judged again: they end by themselves.
const JUDGED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The live passages of one worker.
pub(super) struct Live {
    passages: RefCell<Vec<Rc<Passage>>>,
    tick: Cell<Instant>,
    asleep: Cell<bool>,
    wake: Notify,
}

impl Live {
    pub(super) fn new(now: Instant) -> Self {
        Self { passages: RefCell::default(), tick: Cell::new(now), asleep: Cell::new(false), wake: Notify::new() }
    }

    /// The time of the last sweep: what passages take for `now` without asking the clock.
    pub(super) const fn tick(&self) -> Instant {
        self.tick.get()
    }

    /// How many live.
    pub(super) fn count(&self) -> usize {
        self.passages.borrow().len()
    }

    /// A passage began.
    pub(super) fn add(&self, passage: &Rc<Passage>) {
        let mut passages = self.passages.borrow_mut();
        passage.place.set(passages.len());
        passages.push(Rc::clone(passage));
        if self.asleep.replace(false) {
            self.tick.set(passage.began());
            self.wake.notify_one();
        }
    }

    /// A passage ended.
    pub(super) fn remove(&self, passage: &Rc<Passage>) {
        let mut passages = self.passages.borrow_mut();
        let place = passage.place.replace(usize::MAX);
        if passages.get(place).is_some_and(|found| Rc::ptr_eq(found, passage)) {
            passages.swap_remove(place);
            if let Some(moved) = passages.get(place) {
                moved.place.set(place);
            }
        }
    }

    /// Ends all that live.
    pub(super) fn end_all(&self, why: Ended) {
        self.passages.borrow().iter().for_each(|passage| passage.end(why));
    }

    /// Runs as long as the worker does.
    pub(super) async fn sweep(worker: Rc<Worker>) {
        let live = worker.live();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut empty = 0;
        loop {
            ticks.tick().await;
            live.tick.set(worker.clock().instant());
            if live.count() > 0 {
                empty = 0;
                worker.look_after();
            } else {
                empty += 1;
                if empty >= EMPTY_BEFORE_SLEEP {
                    live.asleep.set(true);
                    live.wake.notified().await;
                    ticks.reset();
                    empty = 0;
                }
            }
        }
    }
}

impl Worker {
    /// Whenever an identity changes, ends what it no longer proves: a withdrawal waits for no sweep.
    pub(super) async fn follow_identities(self: Rc<Self>, mut changes: watch::Receiver<u64>) {
        while changes.changed().await.is_ok() {
            let snapshot = self.snapshot();
            for passage in self.live().passages.borrow().iter().filter(|passage| passage.ended().get().is_none()) {
                let mut proven = None;
                passage.note(|access| proven.clone_from(&access.workload));
                if proven.is_some_and(|workload| !self.gate().still_proves(&snapshot, passage.conn().arrival(), passage.head(), &workload))
                {
                    passage.end(Ended::Denied);
                }
            }
        }
    }

    /// One sweep. Ending only wakes tasks, so nothing leaves the list while it is walked.
    fn look_after(&self) {
        let now = self.live().tick();
        let snapshot = self.snapshot();
        let wall = self.clock().now();
        for passage in self.live().passages.borrow().iter() {
            if passage.ended().get().is_some() {
                // Told before, and still there: its task waits for a caller that neither reads nor writes.
                passage.conn().abort();
                continue;
            }
            let age = now.saturating_duration_since(passage.began());
            if age > self.limits().opened_after {
                passage.open();
            }
            if passage.is_too_slow(now) {
                passage.end(Ended::TooSlow);
            } else if passage.silent(now) > passage.idle.get() {
                passage.end(Ended::Idle);
            } else if passage.until.get().is_some_and(|until| until <= wall) {
                passage.end(Ended::Expired);
            } else if age > JUDGED_AGAIN_AFTER && passage.judged.get().is_some_and(|revision| revision != snapshot.revision) {
                passage.judged.set(Some(snapshot.revision));
                let tunnel = passage.head().method == http::Method::CONNECT;
                if self.gate().rejudge(&snapshot, passage.conn().arrival(), passage.head(), tunnel).is_err() {
                    passage.end(Ended::Denied);
                }
            }
        }
    }
}
