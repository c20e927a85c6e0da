//! `Passage`: one request's way through, from its head to its record.
//!
//! It owns the request head and what is remembered, is shared by the two bodies and the sweep, and gives exactly one record: when its
//! [`Guard`] is dropped, whoever drops it. A future that hyper throws away because the caller left drops its guard too.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::connection::Conn;
use super::shares::Share;
use crate::audit::{Access, Outcome, Slot};
use crate::clock::Timestamp;
use crate::dial::Upload;
use crate::identity::Workload;
use crate::live::{Block, Blocks, Touched};
use crate::policy::share_of;
use crate::refusal::{Code, Refusal};
use crate::snapshot::Snapshot;
use crate::strip::{Finding, Findings};

/// Why a live passage is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The rule's time is over.
    Expired,
    /// A reload under which it would now be denied.
    Denied,
    /// Something that it hangs on was revoked.
    Revoked,
    /// The lease that it went by is over.
    Lease,
    /// Its connection no longer proves its workload.
    Withdrawn,
    /// Silence longer than allowed.
    Idle,
    /// The request body came too slowly.
    TooSlow,
    /// The process stops.
    Drained,
}

impl Ended {
    /// The word in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Lease => "lease_ended",
            Self::Withdrawn => "identity_withdrawn",
            Self::Idle => "idle",
            Self::TooSlow => "too_slow",
            Self::Drained => "drained",
        }
    }

    /// For the record.
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Expired => "ended: the rule that allowed it expired or its window closed",
            Self::Denied => "ended: after a reload policy denies it",
            Self::Revoked => "ended: revoked",
            Self::Lease => "ended: the lease that it went by is over",
            Self::Withdrawn => "ended: its connection no longer proves its workload",
            Self::Idle => "ended: longer silent than a stream may be",
            Self::TooSlow => "ended: the request body came slower than the minimum rate",
            Self::Drained => "ended: exeat stopped and the drain deadline passed",
        }
    }
}

/// Who waits to hear that the passage is ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    /// The request body, polled by the upstream's connection.
    Request,
    /// The response body or the tunnel, polled by the caller's connection.
    Response,
}

thread_local! {
    /// The passage that began in the HTTP/2 stream's task that is being polled; it is taken as soon as that poll ends.
    static BEGUN: Cell<Option<Rc<Passage>>> = const { Cell::new(None) };
}

/// Drives one HTTP/2 stream, unless its passage is cut. The engine polls no body while the peer gives no flow-control window, so a caller
/// that stops reading could hold a stream for ever; dropping the stream's future resets it and leaves its connection alone.
///
/// Boxed at once: a task is moved several times until it stands in its place, and the engine's future of a stream is several KiB.
pub(super) async fn drive_stream<F: Future>(mut stream: Pin<Box<F>>) {
    let mut passage: Option<Rc<Passage>> = None;
    std::future::poll_fn(|cx| {
        if passage.as_ref().is_some_and(|passage| passage.cut.get()) {
            return Poll::Ready(());
        }
        let polled = stream.as_mut().poll(cx);
        if let Some(begun) = BEGUN.take() {
            passage = Some(begun);
        }
        if polled.is_pending()
            && let Some(passage) = &passage
        {
            passage.wake_when_ended(Side::Response, cx);
        }
        polled.map(drop)
    })
    .await;
}

/// How long the caller of a request body was waited for.
#[derive(Debug, Clone, Copy, Default)]
struct Waited {
    before: Duration,
    since: Option<Instant>,
}

/// One request's way through.
pub(super) struct Passage {
    conn: Rc<Conn>,
    head: Parts,
    began: Instant,
    access: Cell<Option<Box<Access>>>,
    slot: Cell<Option<Slot>>,
    /// How many passages its workload may have, if that was a question when it began.
    most: Option<usize>,
    /// Where it is counted, once it is known whose it is.
    share: Cell<Option<Rc<Share>>>,
    request_bytes: Cell<u64>,
    response_bytes: Cell<u64>,
    touched: Cell<Instant>,
    waited: Cell<Waited>,
    answering: Cell<bool>,
    complete: Cell<bool>,
    ended: Cell<Option<Ended>>,
    /// The block that ended it.
    block: RefCell<Option<Arc<Block>>>,
    /// It was told and did not end: its HTTP/2 stream is dropped.
    cut: Cell<bool>,
    /// It is recorded: whatever of its request's body is left goes nowhere.
    over: Cell<bool>,
    /// The answer is out and the request body is still on its way: the passage ends when that does.
    rest: RefCell<Option<(Guard, Upload)>>,
    /// Of the request's side and of the response's.
    wakers: RefCell<(Option<Waker>, Option<Waker>)>,
    /// Judged and let through by this snapshot revision: only these are judged again.
    pub(super) judged: Cell<Option<u64>>,
    /// When the rule expires or its window closes.
    pub(super) until: Cell<Option<Timestamp>>,
    /// Longest silence.
    pub(super) idle: Cell<Duration>,
    /// Its index among the live passages of the worker.
    pub(super) place: Cell<usize>,
}

/// What is remembered, on loan: it goes back when the loan ends, also when the borrower's future is thrown away.
pub(super) struct Lent<'a> {
    passage: &'a Passage,
    access: Option<Box<Access>>,
}

impl Deref for Lent<'_> {
    type Target = Option<Box<Access>>;

    fn deref(&self) -> &Self::Target {
        &self.access
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.access
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.passage.access.set(self.access.take());
    }
}

/// Ends the passage and gives its record when dropped.
pub(super) struct Guard(Rc<Passage>);

impl Guard {
    /// The passage is registered as live here.
    pub(super) fn new(conn: &Rc<Conn>, head: Parts, access: Box<Access>, slot: Slot) -> Self {
        let began = access.began;
        let passage = Rc::new(Passage {
            conn: Rc::clone(conn),
            head,
            began,
            access: Cell::new(Some(access)),
            most: slot.most_of_one(),
            share: Cell::default(),
            slot: Cell::new(Some(slot)),
            request_bytes: Cell::new(0),
            response_bytes: Cell::new(0),
            touched: Cell::new(began),
            waited: Cell::default(),
            answering: Cell::new(false),
            complete: Cell::new(false),
            ended: Cell::new(None),
            block: RefCell::default(),
            cut: Cell::new(false),
            over: Cell::new(false),
            rest: RefCell::default(),
            wakers: RefCell::default(),
            judged: Cell::new(None),
            until: Cell::new(None),
            idle: Cell::new(conn.worker().limits().stream_idle),
            place: Cell::new(usize::MAX),
        });
        conn.passage_began();
        conn.worker().live().add(&passage);
        conn.worker().shared().metrics.passage_began();
        if conn.is_http2() {
            BEGUN.set(Some(Rc::clone(&passage)));
        }
        Self(passage)
    }

    /// The passage itself, for those who share it.
    pub(super) const fn passage(&self) -> &Rc<Passage> {
        &self.0
    }

    /// The answer is out before the request's body is: what the caller sends goes on to the upstream, and both connections may carry
    /// further requests. Not for a passage that was ended, nor for more than its connection may have: there the body is cut.
    pub(super) fn outlast(self, upload: Upload) {
        if self.ended.get().is_some() || !self.conn.upload_begins() {
            return;
        }
        let passage = Rc::clone(&self.0);
        passage.touch();
        passage.rest.replace(Some((self, upload)));
    }
}

impl Deref for Guard {
    type Target = Passage;

    fn deref(&self) -> &Passage {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let worker = self.0.conn.worker();
        self.0.over.set(true);
        worker.live().remove(&self.0);
        if let Some(share) = self.0.share.take() {
            share.ends();
        }
        worker.shared().metrics.passage_ended();
        let now = worker.clock().instant();
        self.0.conn.passage_ended(now);
        self.0.record(now);
    }
}

impl Passage {
    /// The head as it was judged.
    pub(super) const fn head(&self) -> &Parts {
        &self.head
    }

    /// The caller's connection.
    pub(super) const fn conn(&self) -> &Rc<Conn> {
        &self.conn
    }

    /// When the head was complete.
    pub(super) const fn began(&self) -> Instant {
        self.began
    }

    /// When its judgement was over, the wait for its credential included.
    pub(super) fn judged_at(&self) -> Option<Instant> {
        self.lend().as_ref().map(|access| self.began + access.decided.max(access.obtained))
    }

    /// Where its trace falls, of a hundred.
    pub(super) fn share(&self) -> u8 {
        self.lend().as_ref().map_or(99, |access| share_of(&access.trace.trace))
    }

    /// Borrows what is remembered.
    pub(super) fn lend(&self) -> Lent<'_> {
        Lent { passage: self, access: self.access.take() }
    }

    /// Counts it as one of its workload's. Where audit slots are scarce a workload that has half of them gets no more: whatever it waits for,
    /// the others go on.
    pub(super) fn admit(&self, snapshot: &Snapshot, workload: &Workload) -> Result<(), Refusal> {
        let share = self.conn.share(&workload.id);
        share.begins();
        self.share.set(Some(share));
        let Some(most) = self.most else { return Ok(()) };
        if self.conn.worker().shared().shares.live(&workload.id) <= most || snapshot.is_of_one() {
            return Ok(());
        }
        let why = format!("{most} requests of `{}` are under way, half of limits.audit_queue: the other half is for others", workload.id);
        Err(Refusal::new(Code::Overloaded, why))
    }

    /// Changes what is remembered.
    pub(super) fn note(&self, change: impl FnOnce(&mut Access)) {
        if let Some(access) = self.lend().as_mut() {
            change(access);
        }
    }

    /// The passage is answered by a refusal.
    pub(super) fn refuse(&self, refusal: &Refusal) {
        self.complete.set(true);
        self.note(|access| {
            access.outcome = Outcome::Refused(refusal.code);
            access.detail.clone_from(&refusal.detail);
        });
    }

    /// The answer's head is known; from here on the request body's rate no longer counts (both may stream).
    pub(super) fn answered(&self, status: http::StatusCode) {
        self.answering.set(true);
        self.note(|access| access.status = Some(status));
    }

    /// The answer was given to its end.
    pub(super) fn complete(&self) {
        self.complete.set(true);
    }

    /// The passage broke off.
    pub(super) fn broke(&self, detail: impl Into<Cow<'static, str>>) {
        self.complete.set(false);
        let detail = detail.into();
        self.note(|access| {
            if access.detail.is_empty() {
                access.detail = detail;
            }
        });
    }

    /// Bytes came from the caller.
    pub(super) fn count_request(&self, bytes: usize) {
        self.request_bytes.set(self.request_bytes.get().saturating_add(bytes as u64));
        self.touch();
    }

    /// Bytes went to the caller.
    pub(super) fn count_response(&self, bytes: usize) {
        self.response_bytes.set(self.response_bytes.get().saturating_add(bytes as u64));
        self.touch();
    }

    /// Something moved, as precisely as the worker's sweep ticks.
    fn touch(&self) {
        self.touched.set(self.conn.worker().live().tick());
    }

    /// HTTP/1 request trailers were dropped.
    pub(super) fn dropped_trailers(&self, count: usize) {
        self.note(|access| access.dropped_trailers = access.dropped_trailers.saturating_add(u16::try_from(count).unwrap_or(u16::MAX)));
    }

    /// The trailers that must not go on: none at an observed upstream, all when the upstream is no longer in the catalogue.
    pub(super) fn strip_trailers(&self, trailers: &HeaderMap) -> (SmallVec<[HeaderName; 2]>, Findings) {
        let worker = self.conn.worker();
        let lent = self.lend();
        match lent.as_ref() {
            Some(access) if access.observed => (SmallVec::new(), SmallVec::new()),
            Some(access) if access.upstream.is_some() => {
                let upstream = access.upstream.as_ref();
                upstream.map(|upstream| worker.gate().trailers(&worker.snapshot(), upstream, trailers)).unwrap_or_default()
            }
            Some(_) | None => (trailers.keys().cloned().collect(), SmallVec::new()),
        }
    }

    /// Static credentials were met in the trailers.
    pub(super) fn found(&self, findings: impl IntoIterator<Item = Finding>) {
        self.note(|access| access.findings.extend(findings));
    }

    /// The request body waits for the caller, or no longer does.
    pub(super) fn waits(&self, waits: bool) {
        let mut waited = self.waited.get();
        match (waits, waited.since) {
            (true, None) => waited.since = Some(self.conn.worker().clock().instant()),
            (false, Some(since)) => {
                waited.before += self.conn.worker().clock().instant().saturating_duration_since(since);
                waited.since = None;
            }
            (true, Some(_)) | (false, None) => return,
        }
        self.waited.set(waited);
    }

    /// Whether the request body is slower than it may be.
    pub(super) fn is_too_slow(&self, now: Instant) -> bool {
        !self.answering.get() && self.is_slow(now)
    }

    /// Whether nothing comes of a request body that goes on behind its answer.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.uploads_on() && (self.is_slow(now) || self.silent(now) > self.conn.worker().limits().body_grace)
    }

    /// Whether the request body goes on behind its answer.
    pub(super) fn uploads_on(&self) -> bool {
        self.rest.borrow().is_some()
    }

    /// Whether a frame of the request's body may still go out.
    pub(super) fn may_send(&self) -> bool {
        !self.over.get() && self.ended.get().is_none()
    }

    /// The request body has ended, or nobody takes it any more.
    pub(super) fn sent(&self) {
        if let Some((guard, upload)) = self.rest.take() {
            upload.ended();
            self.rested(guard);
        }
    }

    /// Lets go of a request body that goes on behind its answer; the answer was given, and so it is recorded.
    pub(super) fn give_up(&self) {
        self.wake();
        if let Some((guard, upload)) = self.rest.take() {
            drop(upload);
            self.rested(guard);
        }
    }

    /// The caller's connection looks at its deadlines again: it may have waited for this alone.
    fn rested(&self, guard: Guard) {
        drop(guard);
        self.conn.upload_ended();
    }

    fn is_slow(&self, now: Instant) -> bool {
        let limits = self.conn.worker().limits();
        let waited = self.waited.get();
        let waited = waited.before + waited.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        waited > limits.body_grace && self.request_bytes.get() < waited.as_secs().saturating_mul(u64::from(limits.body_rate))
    }

    /// How long nothing moved.
    pub(super) fn silent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.touched.get())
    }

    /// Writes the `opened` line, once.
    pub(super) fn open(&self) {
        let Some(slot) = self.slot.take() else { return };
        if !slot.is_opened()
            && let Some(access) = self.lend().as_deref()
        {
            slot.opened(access);
        }
        self.slot.set(Some(slot));
    }

    /// The block on anything that this passage hangs on. One that is still being judged has nothing yet, and will see the block itself.
    pub(super) fn blocked(&self, blocks: &Blocks) -> Option<Arc<Block>> {
        let lent = self.lend();
        let access = lent.as_deref()?;
        let credential = access.credential.as_deref();
        let touched = Touched {
            workload: &access.workload.as_ref()?.id,
            upstream: &access.upstream.as_ref()?.name,
            credential: credential.map(|credential| &*credential.terms.profile.name),
            rule: access.rule.as_ref().map(|rule| &*rule.id),
            lease: access.lease.as_ref().map(|leased| &*leased.lease.id),
            grant: credential.map(|credential| &*credential.grant.0),
        };
        blocks.on(&touched).cloned()
    }

    /// Who it was judged as, once that is known.
    pub(super) fn workload(&self) -> Option<Arc<Workload>> {
        self.lend().as_ref()?.workload.clone()
    }

    /// Ends the passage because of a block.
    pub(super) fn end_by(&self, block: Arc<Block>) {
        if self.ended.get().is_none() {
            block.ended.add();
            self.block.replace(Some(block));
        }
        self.end(Ended::Revoked);
    }

    /// Ends the passage from outside: both sides wake up to find it so.
    pub(super) fn end(&self, why: Ended) {
        if self.ended.get().is_none() {
            self.ended.set(Some(why));
            self.conn.worker().shared().metrics.passage_ended_by(why.name());
        }
        if let Some((_, upload)) = &*self.rest.borrow() {
            upload.cut();
        }
        self.wake();
    }

    /// It was told to end and is still there: its task waits for a caller that neither reads nor writes. An HTTP/2 stream is reset;
    /// HTTP/1 has nothing but its connection.
    pub(super) fn cut(&self) {
        self.cut.set(true);
        // Behind its answer the connection may serve another request already.
        if !self.conn.is_http2() && !self.uploads_on() {
            self.conn.abort();
        }
        self.give_up();
    }

    fn wake(&self) {
        let (request, response) = std::mem::take(&mut *self.wakers.borrow_mut());
        request.into_iter().chain(response).for_each(Waker::wake);
    }

    /// Why it was ended from outside, if it was.
    pub(super) const fn ended(&self) -> &Cell<Option<Ended>> {
        &self.ended
    }

    /// Wakes this task when the passage is ended from outside.
    pub(super) fn wake_when_ended(&self, side: Side, cx: &Context<'_>) {
        let mut wakers = self.wakers.borrow_mut();
        let slot = match side {
            Side::Request => &mut wakers.0,
            Side::Response => &mut wakers.1,
        };
        if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
    }

    /// The name of the lease that it goes by.
    pub(super) fn lease(&self) -> Option<Arc<str>> {
        self.lend().as_ref()?.lease.as_ref().map(|leased| Arc::clone(&leased.lease.id))
    }

    fn record(&self, now: Instant) {
        let (Some(mut access), Some(slot)) = (self.access.take(), self.slot.take()) else { return };
        access.took = now.saturating_duration_since(self.began);
        access.request_bytes = self.request_bytes.get();
        access.response_bytes = self.response_bytes.get();
        if let Some(ended) = self.ended.get() {
            access.outcome = Outcome::Aborted;
            access.detail = match self.block.borrow().as_deref() {
                Some(block) => format!("{}: {} by {}", ended.detail(), block.target, block.by).into(),
                None => ended.detail().into(),
            };
        } else if !self.complete.get() {
            access.outcome = Outcome::Aborted;
            if access.detail.is_empty() {
                access.detail = "the caller went away before the answer's end".into();
            }
        }
        slot.close(access);
    }
}
