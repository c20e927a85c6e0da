//! `Worker`: what the connections of one thread share. It never leaves its thread, so nothing in it is locked.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use http::Version;
use hyper::server::conn::{http1, http2};
use rustc_hash::FxHashMap;

use super::body::Body;
use super::connection::Conn;
use super::forward::Via;
use super::in_flight::Live;
use super::limits::Limits;
use super::looks::Looks;
use super::passage::drive_stream;
use super::shares::{OwnShares, Share, Shares};
use crate::address::Resolver;
use crate::audit::Ledger;
use crate::capture::Destination;
use crate::clock::Clock;
use crate::dial::{self, Dialer};
use crate::gate::Gate;
use crate::identity::SpiffeId;
use crate::snapshot::{Current, Snapshot};
use crate::telemetry::Metrics;
use crate::telemetry::context::{Ids, Sampler};
use crate::tls::{ClientConfigs, Interceptor};

/// What all workers share: handles that are read without waiting.
pub struct Shared {
    pub(super) limits: Limits,
    pub(super) snapshots: Arc<Current>,
    pub(super) gate: Gate,
    pub(super) ledger: Ledger,
    pub(super) metrics: Metrics,
    pub(super) sampler: Sampler,
    pub(super) interceptor: Arc<Interceptor>,
    pub(super) via: Via,
    pub(super) spoken: Spoken,
    pub(super) looks: Looks,
    pub(super) shares: Shares,
    /// Moves whenever what an identity lives on has changed.
    resolver: Arc<Resolver>,
    tls: Arc<ClientConfigs>,
    open: AtomicUsize,
}

impl Shared {
    /// Joins the handles: where snapshots come from, who judges, remembers and counts, which passages give spans, who ends TLS inside
    /// tunnels, and what each worker's way out is made of.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one call, in the composition root; each is a different thing")]
    pub fn new(
        limits: Limits,
        snapshots: Arc<Current>,
        gate: Gate,
        ledger: Ledger,
        metrics: Metrics,
        sampler: Sampler,
        interceptor: Arc<Interceptor>,
        resolver: Arc<Resolver>,
        tls: Arc<ClientConfigs>,
    ) -> Self {
        let (via, spoken, looks, shares) = (Via::new(), Spoken::default(), Looks::new(), Shares::default());
        let open = AtomicUsize::new(0);
        Self { limits, snapshots, gate, ledger, metrics, sampler, interceptor, via, spoken, looks, shares, resolver, tls, open }
    }

    /// Connections of all listeners that are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }
}

/// Which origins were seen to speak HTTP/2: what the interception may offer to callers.
#[derive(Debug, Default)]
pub(super) struct Spoken(Mutex<FxHashMap<Destination, Version>>);

impl Spoken {
    /// More are not remembered: a wildcard origin must not fill memory.
    const MOST: usize = 4096;

    /// A fresh connection to that origin speaks this version.
    pub(super) fn learn(&self, origin: &Destination, version: Version) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen.get_mut(origin) {
            *known = version;
        } else if seen.len() < Self::MOST {
            seen.insert(origin.clone(), version);
        }
    }

    /// Whether that origin spoke HTTP/2 when it was last connected to.
    pub(super) fn is_http2(&self, origin: &Destination) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(origin) == Some(&Version::HTTP_2)
    }
}

/// A place among the connections that may be open; given back when dropped.
pub(super) struct Seat(Arc<Shared>);

impl Seat {
    /// Takes one, unless all are taken.
    pub(super) fn take(shared: &Arc<Shared>) -> Option<Self> {
        if shared.open.fetch_add(1, Relaxed) >= shared.limits.connections {
            shared.open.fetch_sub(1, Relaxed);
            return None;
        }
        shared.metrics.connection_opened();
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.metrics.connection_closed();
    }
}

/// Spawns the streams of an HTTP/2 connection on this thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here;

impl<F> hyper::rt::Executor<F> for Here
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(drive_stream(Box::pin(future)));
    }
}

/// What the connections of one thread share.
pub(super) struct Worker {
    shared: Arc<Shared>,
    dialer: Dialer<Body>,
    ids: RefCell<Ids>,
    live: Live,
    shares: OwnShares,
    connections: RefCell<Vec<Weak<Conn>>>,
    draining: Cell<bool>,
    no_policy: Arc<str>,
    http1: http1::Builder,
    http2: http2::Builder<Here>,
}

/// HTTP/1 as it is read here.
pub(super) fn http1(limits: &Limits) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    // Deadlines of heads are the connection's (see `connection`), so hyper needs no timer, and none per request.
    http1.keep_alive(true).half_close(false).pipeline_flush(false).auto_date_header(false).max_buf_size(limits.head.bytes.max(8192));
    http1
}

/// HTTP/2 as it is read here. What it comes to for each connection: docs/limits.md, "What all of it may hold".
pub(super) fn http2(limits: &Limits) -> http2::Builder<Here> {
    let mut http2 = http2::Builder::new(Here);
    http2
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_list)
        .max_pending_accept_reset_streams(limits.resets)
        .max_local_error_reset_streams(limits.resets)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .auto_date_header(false);
    http2
}

impl Worker {
    /// Made on the thread that it will stay on.
    pub(super) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let limits = shared.limits;
        Rc::new(Self {
            dialer: Dialer::new(
                Arc::clone(&shared.resolver),
                Arc::clone(&shared.tls),
                Arc::clone(&shared.gate.clock),
                dial::Limits { connections: limits.upstream_connections, ..dial::Limits::default() },
            ),
            ids: RefCell::new(Ids::new()),
            live: Live::new(shared.gate.clock.instant()),
            shares: OwnShares::default(),
            connections: RefCell::default(),
            draining: Cell::new(false),
            no_policy: "".into(),
            http1: http1(&limits),
            http2: http2(&limits),
            shared,
        })
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.shared.gate.clock
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshots.load()
    }

    pub(super) const fn dialer(&self) -> &Dialer<Body> {
        &self.dialer
    }

    /// What stands for the policy of a request that was never judged.
    pub(super) fn no_policy(&self) -> Arc<str> {
        Arc::clone(&self.no_policy)
    }

    pub(super) const fn ids(&self) -> &RefCell<Ids> {
        &self.ids
    }

    pub(super) const fn live(&self) -> &Live {
        &self.live
    }

    /// Where the passages of this workload are counted.
    pub(super) fn share(&self, id: &SpiffeId) -> Rc<Share> {
        self.shares.of(id, &self.shared.shares)
    }

    pub(super) const fn http1(&self) -> &http1::Builder {
        &self.http1
    }

    pub(super) const fn http2(&self) -> &http2::Builder<Here> {
        &self.http2
    }

    pub(super) const fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Remembers a connection, so that a drain reaches it.
    pub(super) fn remember(&self, conn: &Rc<Conn>) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() == connections.capacity() {
            connections.retain(|known| known.strong_count() > 0);
        }
        connections.push(Rc::downgrade(conn));
    }

    /// From now on connections end when their requests are answered.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        let connections: Vec<_> = self.connections.borrow().iter().filter_map(Weak::upgrade).collect();
        for conn in connections {
            conn.close();
        }
    }

    /// Connections that are still open.
    pub(super) fn connections(&self) -> usize {
        self.connections.borrow().iter().filter(|known| known.strong_count() > 0).count()
    }
}
