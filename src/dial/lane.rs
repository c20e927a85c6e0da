//! `Lane`: the connections of one exact key, and the key itself.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use http::uri::Authority;
use hyper::client::conn::{http1, http2};
use tokio::sync::Notify;

use super::body::Outgoing;
use super::hop::Hop;
use super::line::Held;
use super::timers::Timers;
use super::trunk::{Seat, Trunk};
use crate::capture::{Destination, Scheme};
use crate::catalogue::{Protocol, Upstream};
use crate::identity::Workload;

/// Everything that a connection was opened for, and the connections.
pub(super) struct Lane<B> {
    /// Replaced by an equal one after a reload, so that comparing stays one pointer.
    upstream: RefCell<Arc<Upstream>>,
    destination: Destination,
    generation: u64,
    workload: Option<Arc<Workload>>,
    upgrade: bool,
    /// The destination as `Host` and as `:authority`.
    pub(super) host: HeaderValue,
    pub(super) authority: Authority,
    /// HTTP/1.1 connections, the last used at the end; some still receive a body and are not ready.
    kept: RefCell<Vec<Kept<B>>>,
    /// HTTP/2 connections.
    shared: RefCell<Vec<Shared<B>>>,
    /// The peer has shown that it speaks HTTP/1.1: nobody waits for another's connection.
    pub(super) speaks_h1: Cell<bool>,
    pub(super) opening: Cell<bool>,
    pub(super) failures: Cell<u32>,
    pub(super) opened: Notify,
    /// The worker's, for all lanes.
    pub(super) timers: Rc<Timers>,
}

/// What is known of a connection beside its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    pub(super) address: SocketAddr,
    pub(super) key_exchange: Option<&'static str>,
}

struct Kept<B> {
    sender: Held<http1::SendRequest<Outgoing<B>>>,
    since: Instant,
    met: Met,
}

struct Shared<B> {
    sender: http2::SendRequest<Outgoing<B>>,
    trunk: Rc<Trunk>,
    used: Instant,
    met: Met,
}

/// A connection that can take a request now.
pub(super) enum Sender<B> {
    H1(Held<http1::SendRequest<Outgoing<B>>>),
    H2(http2::SendRequest<Outgoing<B>>, Rc<Seat>),
}

impl<B> Lane<B> {
    pub(super) fn new(hop: &Hop<'_>, timers: &Rc<Timers>) -> Option<Self> {
        let origin = hop.destination.to_string();
        let authority = origin.split_once("://").map_or(&*origin, |(_, authority)| authority);
        Some(Self {
            upstream: RefCell::new(Arc::clone(hop.upstream)),
            destination: hop.destination.clone(),
            generation: hop.generation,
            workload: hop.workload.map(Arc::clone),
            upgrade: hop.upgrade,
            host: HeaderValue::from_str(authority).ok()?,
            authority: authority.parse().ok()?,
            kept: RefCell::default(),
            shared: RefCell::default(),
            speaks_h1: Cell::new(false),
            opening: Cell::new(false),
            failures: Cell::new(0),
            opened: Notify::new(),
            timers: Rc::clone(timers),
        })
    }

    /// Full equality with what this hop needs. A reload that changed nothing of it keeps the lane.
    pub(super) fn serves(&self, hop: &Hop<'_>) -> bool {
        if self.generation != hop.generation || self.upgrade != hop.upgrade || self.destination != *hop.destination {
            return false;
        }
        let same_workload = match (&self.workload, hop.workload) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs) || ours == theirs,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same_workload {
            return false;
        }
        let mut ours = self.upstream.borrow_mut();
        if Arc::ptr_eq(&ours, hop.upstream) {
            return true;
        }
        let theirs = hop.upstream;
        let same = ours.name == theirs.name && ours.tls == theirs.tls && ours.protocol == theirs.protocol && ours.reach == theirs.reach;
        if same {
            *ours = Arc::clone(theirs);
        }
        same
    }

    /// Whether its connections are of those that are named.
    pub(super) fn is_for(&self, named: &impl Fn(&str, Option<&Workload>) -> bool) -> bool {
        named(&self.upstream.borrow().name, self.workload.as_deref())
    }

    /// Whether it is what this hop needs but for a former generation. Requests that are on it end on it.
    pub(super) fn is_superseded_by(&self, hop: &Hop<'_>) -> bool {
        let same_workload = self.workload.as_ref().map(|workload| &workload.id) == hop.workload.map(|workload| &workload.id);
        hop.standing.is_some()
            && (1..hop.generation).contains(&self.generation)
            && same_workload
            && self.destination == *hop.destination
            && self.upgrade == hop.upgrade
    }

    /// Whether a connection that another request is opening may carry this one too.
    pub(super) fn may_share(&self) -> bool {
        let upstream = self.upstream.borrow();
        let may_be_h2 = match upstream.protocol {
            Protocol::H2 => true,
            Protocol::H1 => false,
            Protocol::Auto => self.destination.scheme == Scheme::Https,
        };
        may_be_h2 && !self.upgrade && !self.speaks_h1.get()
    }

    /// The connection used last that can take a request now. Closed ones and those idle for too long are let go.
    pub(super) fn take(&self, now: Instant, idle: Duration) -> Option<(Sender<B>, Met)> {
        let mut kept = self.kept.borrow_mut();
        let mut at = kept.len();
        while let Some(below) = at.checked_sub(1) {
            at = below;
            let Some(entry) = kept.get(at) else { break };
            if entry.sender.is_ready() {
                let entry = kept.remove(at);
                if now.saturating_duration_since(entry.since) < idle {
                    return Some((Sender::H1(entry.sender), entry.met));
                }
            } else if entry.sender.is_closed() {
                kept.remove(at);
            }
        }
        drop(kept);
        let mut shared = self.shared.borrow_mut();
        if shared.is_empty() {
            return None;
        }
        shared.retain(|entry| !entry.trunk.is_over());
        let free = shared.iter_mut().find(|entry| entry.trunk.has_place())?;
        free.used = now;
        Some((Sender::H2(free.sender.clone(), free.trunk.sit(now)), free.met))
    }

    /// An HTTP/2 connection on which a place is worth waiting for: it has not yet said how many there are or, for a request that has waited
    /// already, it is the last that was opened.
    pub(super) fn young(&self, waited: bool) -> Option<Rc<Trunk>> {
        let shared = self.shared.borrow();
        let mut young = shared.iter().rev().filter(|entry| !entry.trunk.is_over() && (waited || !entry.trunk.is_heard()));
        young.next().map(|entry| Rc::clone(&entry.trunk))
    }

    /// Keeps an HTTP/1.1 connection for the next request; it becomes ready by itself when this response's body has ended.
    pub(super) fn keep(&self, sender: Held<http1::SendRequest<Outgoing<B>>>, met: Met, now: Instant, most: usize) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= most {
            // The one at the front has been waiting longest; if a body is still coming on it, it ends by itself after that.
            kept.remove(0);
        }
        kept.push(Kept { sender, since: now, met });
    }

    /// Adds an HTTP/2 connection and takes the first place on it.
    pub(super) fn share(&self, sender: http2::SendRequest<Outgoing<B>>, trunk: Rc<Trunk>, met: Met, now: Instant) -> Sender<B> {
        let seat = trunk.sit(now);
        self.shared.borrow_mut().push(Shared { sender: sender.clone(), trunk, used: now, met });
        Sender::H2(sender, seat)
    }

    /// Lets go of what is closed or idle for too long; whether anything is left, or on its way.
    pub(super) fn sweep(&self, now: Instant, idle: Duration) -> bool {
        let mut kept = self.kept.borrow_mut();
        kept.retain(|entry| {
            let Kept { sender, since, .. } = entry;
            if sender.is_ready() { now.saturating_duration_since(*since) < idle } else { !sender.is_closed() && !sender.is_clogged() }
        });
        let mut shared = self.shared.borrow_mut();
        shared.retain(|entry| !entry.trunk.is_over() && (entry.trunk.is_in_use() || now.saturating_duration_since(entry.used) < idle));
        self.opening.get() || !kept.is_empty() || !shared.is_empty()
    }

    /// How many connections wait here.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.kept.borrow().len() + self.shared.borrow().len()
    }
}
