//! `Pool`: one worker's lanes, found by a cheap hash and then by full equality.

use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;

use super::hop::Hop;
use super::lane::Lane;
use super::timers::Timers;
use crate::identity::Workload;

/// The hash only narrows the search; two keys that share it are still told apart. A borrowed key is looked up without a copy.
pub(super) struct Pool<B> {
    lanes: FxHashMap<u64, SmallVec<[Rc<Lane<B>>; 1]>>,
    timers: Rc<Timers>,
}

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Self { lanes: FxHashMap::default(), timers: Rc::default() }
    }
}

fn hash(hop: &Hop<'_>) -> u64 {
    let mut hasher = FxHasher::default();
    hop.destination.host.as_str().hash(&mut hasher);
    hasher.write_u16(hop.destination.port);
    hasher.write_u64(hop.generation);
    if let Some(workload) = hop.workload {
        workload.id.hash(&mut hasher);
    }
    hasher.finish()
}

impl<B> Pool<B> {
    /// The lane of this hop, made if there is none; `None` when there are too many lanes, or the destination cannot be an authority.
    pub(super) fn lane(&mut self, hop: &Hop<'_>, most: usize, now: Instant, idle: Duration) -> Option<Rc<Lane<B>>> {
        let hash = hash(hop);
        if let Some(found) = self.lanes.get(&hash).and_then(|lanes| lanes.iter().find(|lane| lane.serves(hop))) {
            return Some(Rc::clone(found));
        }
        // A new destination is not refused for the sake of ones that nobody asks: the longest idle go first.
        for idle in [idle, idle / 4, idle / 32, Duration::ZERO] {
            if self.lanes.len() >= most {
                self.sweep(now, idle);
            }
        }
        if self.lanes.len() >= most {
            return None;
        }
        // Connections that show a former certificate, or were opened by former bundles, are not only passed over: they are let go.
        self.lanes.retain(|_, lanes| {
            lanes.retain(|lane| !lane.is_superseded_by(hop));
            !lanes.is_empty()
        });
        let lane = Rc::new(Lane::new(hop, &self.timers)?);
        self.lanes.entry(hash).or_default().push(Rc::clone(&lane));
        Some(lane)
    }

    /// Lets go of idle connections and of lanes without any; whether a lane is left.
    pub(super) fn sweep(&mut self, now: Instant, idle: Duration) -> bool {
        self.lanes.retain(|_, lanes| {
            // A lane in use will get its connection back.
            lanes.retain(|lane| lane.sweep(now, idle) || Rc::strong_count(lane) > 1);
            !lanes.is_empty()
        });
        !self.lanes.is_empty()
    }

    /// Forgets the lanes that `doomed` names: their idle connections close with them, and what is in use comes back to none.
    pub(super) fn let_go(&mut self, doomed: &impl Fn(&str, Option<&Workload>) -> bool) {
        self.lanes.retain(|_, lanes| {
            lanes.retain(|lane| !lane.is_for(doomed));
            !lanes.is_empty()
        });
    }

    /// How many connections wait in all lanes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lanes.values().flatten().map(|lane| lane.held()).sum()
    }
}
