//! `Dialer`: one worker's way out.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::time::{Instant, timeout_at};

use super::body::{Outgoing, ResponseBody};
use super::connector::{Connector, sweep};
use super::counted::Tunnel;
use super::error::{DialError, Place};
use super::exchange::{Answered, Failed, accept, exchange};
use super::hop::{Facts, Hop};
use super::lane::{Lane, Met, Sender};
use super::pool::Pool;
use crate::address::Resolver;
use crate::catalogue::Protocol;
use crate::clock::Clock;
use crate::identity::Workload;
use crate::refusal::Refusal;
use crate::tls::ClientConfigs;

/// Asked before each further attempt: whether the request still stands.
pub type Again<'a> = &'a mut dyn FnMut() -> Result<(), Refusal>;

/// Dead pooled connections that one request may meet.
const MOST_STALE: u8 = 3;

/// How long a request waits for a place on a fresh HTTP/2 connection before it opens one more.
const PATIENCE: Duration = Duration::from_secs(1);
/// In so many turns the tasks of connections that are let go have seen it and given their places back; over HTTP/2 one tells another.
const TURNS_TO_CLOSE: u8 = 4;

/// Bounds of one worker's upstream side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that are open at once; beyond it requests are refused as `overloaded`.
    pub connections: usize,
    /// Connections that one key keeps for further requests. Below what its callers use at once, each of them would open its own.
    pub kept_per_key: usize,
    /// Keys that are remembered at once.
    pub keys: usize,
    /// An idle connection is closed after this: below the 60 s after which most servers close it, so that they rarely do it first.
    pub idle: Duration,
    /// An HTTP/2 connection whose peer takes nothing for so long ends.
    pub stalled: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096, kept_per_key: 1024, keys: 1024, idle: Duration::from_secs(55), stalled: Duration::from_mins(1) }
    }
}

/// Sends requests and keeps connections, for one thread. Cheap to clone: clones share the pool. Lives inside a `LocalSet`.
pub struct Dialer<B> {
    inner: Rc<Inner<B>>,
}

struct Inner<B> {
    connector: Connector,
    pool: Rc<RefCell<Pool<B>>>,
    sweeping: Rc<Cell<bool>>,
    limits: Limits,
}

impl<B> Clone for Dialer<B> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

/// The one request that opens a connection which others may share; they wait until it is dropped.
struct Opening<'a, B>(Option<&'a Lane<B>>);

impl<B> Drop for Opening<'_, B> {
    fn drop(&mut self) {
        if let Some(lane) = self.0 {
            lane.opening.set(false);
            lane.opened.notify_waiters();
        }
    }
}

impl<B> Dialer<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// A dialer without connections. Resolver and configurations are the process's, shared by all workers.
    #[must_use]
    pub fn new(resolver: Arc<Resolver>, tls: Arc<ClientConfigs>, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        let Limits { connections: most_open, stalled, .. } = limits;
        let connector = Connector { resolver, tls, clock, open: Arc::default(), most_open, stalled };
        Self { inner: Rc::new(Inner { connector, pool: Rc::default(), sweeping: Rc::default(), limits }) }
    }

    /// Sends a request and gives the response head and its body.
    ///
    /// The request is taken out. It comes with its final head: path and query in its URI, and the `Host` that shall leave (the
    /// destination's if there is none). Callbacks of `hyper::ext::on_informational` see interim responses, and `hyper::upgrade::on` works on a 101.
    ///
    /// A pooled connection that was dead before a byte was written is replaced by a fresh one, after asking `again`. Nothing else is
    /// sent twice; see [`DialError::may_resend`] for what a caller may decide itself.
    ///
    /// Where it is given up before its answer and its head may not have left, `again` is asked too: if it may not leave any more, its
    /// connection ends.
    ///
    /// # Errors
    /// See [`DialError`]; `facts` are filled in as far as it came.
    pub async fn send(
        &self,
        hop: &Hop<'_>,
        request: &mut Option<Request<Outgoing<B>>>,
        facts: &mut Facts,
        again: Again<'_>,
    ) -> Result<Response<ResponseBody>, DialError> {
        if hop.upgrade && hop.upstream.protocol == Protocol::H2 {
            return Err(DialError::NoUpgrade(Place::new(hop, facts)));
        }
        let limits = &self.inner.limits;
        let now = *facts.began.get_or_insert_with(|| self.inner.connector.clock.instant());
        let found = self.inner.pool.borrow_mut().lane(hop, limits.keys, now, limits.idle);
        let Some(lane) = found else {
            return Err(DialError::Full { place: Place::new(hop, facts), what: "destinations", most: limits.keys });
        };
        loop {
            // After one dead connection a fresh one is opened: the next pooled one is likely to have died with it.
            let pooled = if facts.stale == 0 { lane.take(now, limits.idle) } else { None };
            facts.reused = pooled.is_some();
            let (mut sender, met) = match pooled {
                Some(pooled) => pooled,
                None => Box::pin(self.fresh(&lane, hop, facts)).await?,
            };
            facts.address = Some(met.address);
            facts.key_exchange = met.key_exchange;
            facts.version = if matches!(sender, Sender::H2(..)) { Version::HTTP_2 } else { Version::HTTP_11 };
            match exchange(&mut sender, &lane, hop, facts, request, &*self.inner.connector.clock, again).await {
                Ok(answer) => return self.answered(&lane, sender, met, hop, facts, answer),
                Err(Failed::Unsent(_)) if facts.reused && facts.stale < MOST_STALE => {
                    facts.stale += 1;
                    again().map_err(DialError::NotAgain)?;
                }
                Err(Failed::Unsent(error) | Failed::Sent(error)) => return Err(error),
            }
        }
    }

    fn answered(
        &self,
        lane: &Lane<B>,
        sender: Sender<B>,
        met: Met,
        hop: &Hop<'_>,
        facts: &mut Facts,
        answer: Answered,
    ) -> Result<Response<ResponseBody>, DialError> {
        let (kept, seat) = match sender {
            Sender::H1(sender) => (Some(sender), None),
            Sender::H2(_, seat) => (None, Some(seat)),
        };
        let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let response = accept(answer, seat, hop, facts)?;
        if let Some(sender) = kept.filter(|_| !switched && !hop.upgrade) {
            let now = self.inner.connector.clock.instant();
            facts.ended = Some(now);
            lane.keep(sender, met, now, self.inner.limits.kept_per_key);
        }
        Ok(response)
    }

    /// A connection that is opened now, by this request or by another whose connection can be shared.
    async fn fresh(&self, lane: &Lane<B>, hop: &Hop<'_>, facts: &mut Facts) -> Result<(Sender<B>, Met), DialError> {
        if let Some(pooled) = self.of_another(lane).await {
            facts.reused = true;
            return Ok(pooled);
        }
        let connector = &self.inner.connector;
        let opening = Opening((lane.may_share() && !lane.opening.get()).then_some(lane));
        if opening.0.is_some() {
            lane.opening.set(true);
        }
        self.make_room().await;
        let opened = connector.open(lane, hop, facts).await;
        if opened.is_err() {
            lane.failures.set(lane.failures.get().wrapping_add(1));
        }
        drop(opening);
        self.start_sweeping();
        opened
    }

    /// A place on a connection that another request opens, or has just opened: those who come at one time share one, and who finds that it
    /// allows few streams waits a while for one of them.
    async fn of_another(&self, lane: &Lane<B>) -> Option<(Sender<B>, Met)> {
        let failures = lane.failures.get();
        let (mut waited, mut patience) = (false, None);
        while lane.may_share() && lane.failures.get() == failures {
            if lane.opening.get() {
                // Each opening has its deadlines, so this wait ends.
                lane.opened.notified().await;
            } else {
                let young = lane.young(waited)?;
                let until = *patience.get_or_insert_with(|| Instant::now() + PATIENCE);
                timeout_at(until, young.place()).await.ok()?;
            }
            waited = true;
            let pooled = lane.take(self.inner.connector.clock.instant(), self.inner.limits.idle);
            if pooled.is_some() {
                return pooled;
            }
        }
        None
    }

    /// When as many connections are open as may be, those that wait for further requests are let go, the longest idle first: a request is
    /// not refused for the sake of none.
    async fn make_room(&self) {
        let Inner { connector, pool, limits, .. } = &*self.inner;
        let now = connector.clock.instant();
        for idle in [limits.idle / 4, limits.idle / 32, Duration::ZERO] {
            for turn in 0..TURNS_TO_CLOSE {
                if connector.open.load(Relaxed) < limits.connections {
                    return;
                }
                if turn == 0 {
                    pool.borrow_mut().sweep(now, idle);
                }
                tokio::task::yield_now().await;
            }
        }
    }

    fn start_sweeping(&self) {
        if self.inner.sweeping.replace(true) {
            return;
        }
        let pool = Rc::downgrade(&self.inner.pool);
        let clock = Arc::clone(&self.inner.connector.clock);
        tokio::task::spawn_local(sweep(pool, Rc::clone(&self.inner.sweeping), clock, self.inner.limits.idle));
    }

    /// A checked TCP connection for a tunnel that is not intercepted: no TLS, no HTTP, not pooled, but counted as any.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn tunnel(&self, hop: &Hop<'_>, facts: &mut Facts) -> Result<Tunnel, DialError> {
        self.make_room().await;
        let counted = self.inner.connector.count(hop, facts)?;
        let began = self.inner.connector.clock.instant();
        let (stream, _) = self.inner.connector.tcp(hop, facts).await?;
        facts.connect = Some(self.inner.connector.clock.instant().saturating_duration_since(began));
        facts.sent = true;
        Ok(Tunnel::new(stream, counted))
    }

    /// Closes the idle connections to every upstream that `doomed` names; the workload is given where a connection was opened for one.
    /// Those in use end with what they carry, and are not kept.
    pub fn let_go(&self, doomed: impl Fn(&str, Option<&Workload>) -> bool) {
        self.inner.pool.borrow_mut().let_go(&doomed);
    }

    /// How many connections wait for further requests, in all lanes.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.inner.pool.borrow().held()
    }
}

#[cfg(test)]
#[path = "pool_model.rs"]
mod pool_model;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
#[cfg(test)]
#[path = "tests_frames.rs"]
mod tests_frames;
