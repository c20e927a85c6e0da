//! `Live`: the live passages of one worker, and the sweep that looks after them.
//!
//! One sweep per worker stands for all timers of its passages: idle streams, slow bodies, the `opened` line, rules that expire, and
//! the judgement of passages by a new snapshot. It sleeps while nothing lives. What is taken away (a revocation, an identity) does not wait
//! for the sweep: the worker follows that news, and what does not end at once is cut soon after.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::passage::{Ended, Passage};
use super::worker::Worker;
use crate::dial;
use crate::live::Follower;

/// How often the sweep runs while anything lives: a passage whose rule expired ends within one of these.
const EVERY: Duration = Duration::from_millis(400);
/// Empty sweeps before it sleeps, so that steady traffic does not wake it for every request.
const EMPTY_BEFORE_SLEEP: u32 = 8;
/// Younger passages are not judged again: they end by themselves, and a reload breaks no short request. With the sweep after it, a longer
/// one ends within a second of the reload that denies it.
const JUDGED_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A passage that was told to end, and whose task waits for a caller that neither reads nor writes, is cut after this.
const CUT_AFTER: Duration = Duration::from_millis(25);

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

    /// Some of them, held, so that they may leave the list.
    fn those(&self, wanted: impl Fn(&Passage) -> bool) -> SmallVec<[Rc<Passage>; 4]> {
        self.passages.borrow().iter().filter(|passage| wanted(passage)).map(Rc::clone).collect()
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
    /// Ends what is taken away as soon as it is, and says so; runs as long as the worker does. `follower` follows since before the first
    /// connection, so that no news is missed.
    pub(super) async fn follow(self: Rc<Self>, mut follower: Follower) {
        while let Some(news) = follower.changed().await {
            // A request that was checked and handed to an engine's queue just before the news is written by the time this task's turn comes
            // again; whatever is checked from the news on sees it.
            tokio::task::yield_now().await;
            let ended = self.end_what_is_taken_away();
            if ended && dial::holds_heads() {
                // Their tasks hear of it in this turn: an upstream connection that still holds a head of theirs ends before the news is done.
                tokio::task::yield_now().await;
            }
            follower.done(news);
            if ended {
                self.cut_soon();
            }
        }
    }

    /// Cuts what was ended and does not end by itself.
    fn cut_soon(self: &Rc<Self>) {
        let worker = Rc::clone(self);
        drop(tokio::task::spawn_local(async move {
            tokio::time::sleep(CUT_AFTER).await;
            let ended = worker.live().those(|passage| passage.ended().get().is_some());
            ended.iter().for_each(|passage| passage.cut());
        }));
    }

    /// Whether anything had to be ended. From here on nothing more is sent for it: its tasks find it ended before they go on.
    fn end_what_is_taken_away(&self) -> bool {
        let (snapshot, blocks, wall) = (self.snapshot(), self.gate().live.blocks(), self.clock().now());
        let leases = self.gate().live.leases().leases();
        let mut any = false;
        for passage in self.live().passages.borrow().iter().filter(|passage| passage.ended().get().is_none()) {
            if let Some(block) = passage.blocked(&blocks) {
                passage.end_by(block);
            } else if passage.lease().is_some_and(|id| !leases.get(&id).is_some_and(|lease| lease.is_live(wall))) {
                passage.end(Ended::Lease);
            } else if passage
                .workload()
                .is_some_and(|workload| !self.gate().still_proves(&snapshot, passage.conn().arrival(), passage.head(), &workload))
            {
                passage.end(Ended::Withdrawn);
            }
            any |= passage.ended().get().is_some();
        }
        self.dialer().let_go(|upstream, workload| blocks.close(upstream, workload.map(|workload| &workload.id)));
        any
    }

    /// One sweep. Ending only wakes tasks, so nothing leaves the list while it is walked.
    fn look_after(self: &Rc<Self>) {
        let now = self.live().tick();
        let snapshot = self.snapshot();
        let wall = self.clock().now();
        let leases = self.gate().live.leases().leases();
        let mut ended = false;
        for passage in self.live().passages.borrow().iter().filter(|passage| passage.ended().get().is_none()) {
            let age = now.saturating_duration_since(passage.began());
            if age > self.limits().opened_after {
                passage.open();
            }
            if passage.is_too_slow(now) {
                passage.end(Ended::TooSlow);
            } else if passage.silent(now) > passage.idle.get() && !passage.uploads_on() {
                passage.end(Ended::Idle);
            } else if passage.until.get().is_some_and(|until| until <= wall) {
                passage.end(Ended::Expired);
            } else if passage.lease().is_some_and(|id| !leases.get(&id).is_some_and(|lease| lease.is_live(wall))) {
                // The news comes sooner; this stands behind it.
                passage.end(Ended::Lease);
            } else if age > JUDGED_AGAIN_AFTER && passage.judged.get().is_some_and(|revision| revision != snapshot.revision) {
                passage.judged.set(Some(snapshot.revision));
                let tunnel = passage.head().method == http::Method::CONNECT;
                let lease = passage.lease();
                match self.gate().rejudge(&snapshot, passage.conn().arrival(), passage.head(), tunnel, lease.as_deref(), passage.share()) {
                    Ok(permit) => passage.until.set(permit.until_by_rule()),
                    Err(_) => passage.end(Ended::Denied),
                }
            }
            ended |= passage.ended().get().is_some();
        }
        if ended {
            self.cut_soon();
        }
        self.live().those(|passage| passage.is_stuck(now)).iter().for_each(|passage| passage.give_up());
    }
}
