//! `Resolver`: names to checked addresses, on a few threads of its own because `getaddrinfo` blocks.
//!
//! One for the whole process: answers are kept for five seconds, one question is asked once however many wait for it, and every queue,
//! map and wait has a bound. What is kept is the raw answer; the check is made anew for each caller, since each has its own reach.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::check::{OwnListeners, Reach, check};
use super::error::AddressError;
use crate::clock::Clock;

/// What asks the system; tests put their own in its place.
pub type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Addresses that may be dialled as they are, in the order of trying (IPv6 and IPv4 in turn, RFC 8305 section 4).
pub type Pinned = SmallVec<[SocketAddr; 4]>;

type Answer = Result<Arc<[IpAddr]>, Arc<str>>;

const KEEP: Duration = Duration::from_secs(5);
const KEEP_FAILURE: Duration = Duration::from_secs(1);
const MOST_NAMES: usize = 1024;
const MOST_WAITING: usize = 4096;
/// Threads that ask the system; made when they are needed.
const MOST_THREADS: usize = 32;
/// How many of them ask at once for names under the same two last labels: servers of one zone that do not answer leave the others theirs.
const MOST_OF_A_ZONE: usize = 8;
const MOST_ADDRESSES: usize = 16;

/// Resolves, checks and pins.
pub struct Resolver {
    shared: Arc<Shared>,
    own: OwnListeners,
}

struct Shared {
    lookup: Box<Lookup>,
    clock: Arc<dyn Clock>,
    keep: Duration,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    names: FxHashMap<Arc<str>, Name>,
    queue: VecDeque<Arc<str>>,
    /// Zones that are being asked, each as often as it is.
    asking: SmallVec<[Box<str>; 8]>,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl State {
    /// The first name that somebody waits for and whose zone is not asked often enough already.
    fn next(&mut self) -> Option<Arc<str>> {
        loop {
            let free = |name: &Arc<str>| self.asking.iter().filter(|zone| ***zone == *zone_of(name)).count() < MOST_OF_A_ZONE;
            let next = self.queue.iter().position(free)?;
            let name = self.queue.remove(next)?;
            if self.names.get(&name).is_some_and(Name::is_waited_for) {
                self.asking.push(zone_of(&name).into());
                return Some(name);
            }
            self.names.remove(&name);
        }
    }

    /// Forgets the names in the queue that nobody waits for any more: a zone that does not answer must not fill the table.
    fn forget_abandoned(&mut self) {
        let Self { queue, names, .. } = self;
        queue.retain(|name| {
            let waits = names.get(name).is_some_and(Name::is_waited_for);
            if !waits {
                names.remove(name);
            }
            waits
        });
    }

    fn asked(&mut self, name: &str) {
        if let Some(place) = self.asking.iter().position(|zone| **zone == *zone_of(name)) {
            self.asking.swap_remove(place);
        }
    }
}

/// The two last labels of a name.
fn zone_of(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.');
    dots.nth(1).and_then(|(at, _)| name.get(at + 1..)).unwrap_or(name)
}

enum Name {
    Asked(Vec<oneshot::Sender<Answer>>),
    Known { until: Instant, answer: Answer },
}

impl Name {
    fn is_waited_for(&self) -> bool {
        matches!(self, Self::Asked(waiting) if waiting.iter().any(|tell| !tell.is_closed()))
    }
}

impl Resolver {
    /// With the system's resolver, whose answers are kept so long.
    #[must_use]
    pub fn system(own: OwnListeners, clock: Arc<dyn Clock>, keep: Duration) -> Self {
        Self::with(own, clock, keep, Box::new(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())))
    }

    /// With another look-up.
    #[must_use]
    pub fn new(own: OwnListeners, clock: Arc<dyn Clock>, lookup: Box<Lookup>) -> Self {
        Self::with(own, clock, KEEP, lookup)
    }

    fn with(own: OwnListeners, clock: Arc<dyn Clock>, keep: Duration, lookup: Box<Lookup>) -> Self {
        Self { shared: Arc::new(Shared { lookup, clock, keep, state: Mutex::default(), work: Condvar::new() }), own }
    }

    /// The listeners that no answer may lead to.
    #[must_use]
    pub const fn own_listeners(&self) -> &OwnListeners {
        &self.own
    }

    /// Every address of `host` (a canonical name or an address literal) that may be dialled at `port`; at least one.
    ///
    /// # Errors
    /// No answer, no answer in time, or no address that may be dialled.
    pub async fn resolve(&self, host: &str, port: u16, reach: Reach<'_>, within: Duration) -> Result<Pinned, AddressError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.pin(host, port, reach, &[ip]);
        }
        let answer = match self.shared.ask(host)? {
            Asked::Known(answer) => answer,
            Asked::Wait(answer) => match tokio::time::timeout(within, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => return Err(AddressError::Busy { host: host.to_owned() }),
                Err(_) => return Err(AddressError::Slow { host: host.to_owned(), after: within }),
            },
        };
        match answer {
            Ok(found) => self.pin(host, port, reach, &found),
            Err(why) => Err(AddressError::Unresolved { host: host.to_owned(), why: why.to_string() }),
        }
    }

    fn pin(&self, host: &str, port: u16, reach: Reach<'_>, found: &[IpAddr]) -> Result<Pinned, AddressError> {
        let mut refused = None;
        let (mut v6, mut v4) = (Pinned::new(), Pinned::new());
        for ip in found.iter().take(MOST_ADDRESSES).map(IpAddr::to_canonical) {
            match check(ip, port, reach, &self.own) {
                Ok(()) if ip.is_ipv6() => v6.push(SocketAddr::new(ip, port)),
                Ok(()) => v4.push(SocketAddr::new(ip, port)),
                Err(why) => refused = refused.or(Some(AddressError::Refused { host: host.to_owned(), ip, port, why })),
            }
        }
        let mut pinned = Pinned::new();
        let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
        loop {
            let before = pinned.len();
            pinned.extend(v6.next());
            pinned.extend(v4.next());
            if pinned.len() == before {
                break;
            }
        }
        if pinned.is_empty() {
            return Err(refused.unwrap_or_else(|| AddressError::Unresolved { host: host.to_owned(), why: "it has no address".to_owned() }));
        }
        Ok(pinned)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

enum Asked {
    Known(Answer),
    Wait(oneshot::Receiver<Answer>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(self: &Arc<Self>, host: &str) -> Result<Asked, AddressError> {
        let now = self.clock.instant();
        let busy = || AddressError::Busy { host: host.to_owned() };
        let mut state = self.lock();
        match state.names.get_mut(host) {
            Some(Name::Known { until, answer }) if *until > now => return Ok(Asked::Known(answer.clone())),
            Some(Name::Asked(waiting)) => {
                if waiting.len() >= MOST_WAITING {
                    waiting.retain(|tell| !tell.is_closed());
                }
                if waiting.len() >= MOST_WAITING {
                    return Err(busy());
                }
                let (tell, answer) = oneshot::channel();
                waiting.push(tell);
                return Ok(Asked::Wait(answer));
            }
            Some(Name::Known { .. }) | None => {}
        }
        if state.names.len() >= MOST_NAMES {
            state.forget_abandoned();
            state.names.retain(|_, name| matches!(name, Name::Known { until, .. } if *until > now) || matches!(name, Name::Asked(_)));
            if state.names.len() >= MOST_NAMES {
                return Err(busy());
            }
        }
        if state.idle == 0 && state.threads < MOST_THREADS {
            let shared = Arc::clone(self);
            let spawned = std::thread::Builder::new().name("resolver".to_owned()).spawn(move || shared.work());
            match spawned {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads == 0 => return Err(busy()),
                Err(_) => {}
            }
        }
        let (tell, answer) = oneshot::channel();
        let host: Arc<str> = host.into();
        state.names.insert(Arc::clone(&host), Name::Asked(vec![tell]));
        state.queue.push_back(host);
        drop(state);
        self.work.notify_one();
        Ok(Asked::Wait(answer))
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some(host) = state.next() else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            let answer: Answer = (self.lookup)(&host).map(Arc::from).map_err(|error| error.to_string().into());
            let keep = if answer.is_ok() { self.keep } else { self.keep.min(KEEP_FAILURE) };
            let known = Name::Known { until: self.clock.instant() + keep, answer: answer.clone() };
            state = self.lock();
            state.asked(&host);
            if let Some(Name::Asked(waiting)) = state.names.insert(host, known) {
                for tell in waiting {
                    // A waiter that gave up has dropped its end: nobody is left to tell.
                    drop(tell.send(answer.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::address::Blocked;
    use crate::clock::{ManualClock, Timestamp};

    const SOON: Duration = Duration::from_secs(5);

    fn resolver(clock: &Arc<ManualClock>, lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Resolver {
        Resolver::new(OwnListeners::default(), Arc::clone(clock) as Arc<dyn Clock>, Box::new(lookup))
    }

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH))
    }

    #[tokio::test]
    async fn a_rebound_name_is_checked_again_and_refused() {
        let clock = clock();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let resolver = resolver(&clock, move |_| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            Ok(vec![if first { "93.184.216.34" } else { "169.254.169.254" }.parse().unwrap()])
        });
        let first = resolver.resolve("rebind.example", 80, Reach::Public, SOON).await.unwrap();
        assert_eq!(first.as_slice(), ["93.184.216.34:80".parse().unwrap()]);
        assert_eq!(resolver.resolve("rebind.example", 80, Reach::Public, SOON).await.unwrap(), first, "kept: the name is not asked again");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        clock.advance(KEEP);
        let error = resolver.resolve("rebind.example", 80, Reach::Public, SOON).await.unwrap_err();
        assert!(matches!(error, AddressError::Refused { why: Blocked::Metadata, .. }), "{error}");
        assert_eq!(error.refusal().code, crate::refusal::Code::AddressRefused);
    }

    #[tokio::test]
    async fn an_answer_is_kept_as_long_as_the_operator_says() {
        for keep in [Duration::from_millis(1), KEEP, Duration::from_hours(1)] {
            let (clock, asked) = (clock(), Arc::new(AtomicUsize::new(0)));
            let count = Arc::clone(&asked);
            let lookup = move |_: &str| {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(vec!["1.1.1.1".parse().unwrap()])
            };
            let resolver = Resolver::with(OwnListeners::default(), Arc::clone(&clock) as Arc<dyn Clock>, keep, Box::new(lookup));
            for (step, questions) in [(Duration::ZERO, 1), (keep.saturating_sub(Duration::from_nanos(1)), 1), (Duration::from_nanos(1), 2)]
            {
                clock.advance(step);
                resolver.resolve("kept.example", 443, Reach::Public, SOON).await.unwrap();
                assert_eq!(asked.load(Ordering::SeqCst), questions, "{keep:?} and {step:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_left_out_and_families_take_turns() {
        let resolver = resolver(&clock(), |_| {
            Ok(["10.0.0.1", "1.1.1.1", "8.8.8.8", "2606:4700::1", "::1", "::ffff:9.9.9.9"].map(|text| text.parse().unwrap()).to_vec())
        });
        let pinned = resolver.resolve("mixed.example", 443, Reach::Public, SOON).await.unwrap();
        let expected = ["[2606:4700::1]:443", "1.1.1.1:443", "8.8.8.8:443", "9.9.9.9:443"].map(|text| text.parse().unwrap());
        assert_eq!(pinned.as_slice(), expected);
    }

    #[tokio::test]
    async fn one_question_serves_all_who_wait() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let (count, gate) = (Arc::clone(&asked), Mutex::new(gate));
        let resolver = Arc::new(resolver(&clock(), move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            gate.lock().unwrap().recv().ok();
            Ok(vec!["1.1.1.1".parse().unwrap()])
        }));
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move { resolver.resolve("one.example", 443, Reach::Public, SOON).await })
            })
            .collect();
        tokio::task::yield_now().await;
        open.send(()).unwrap();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().len(), 1);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_costs_the_deadline_and_literals_ask_nobody() {
        let (_open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let resolver = resolver(&clock(), move |_| {
            gate.lock().unwrap().recv().ok();
            Ok(Vec::new())
        });
        let error = resolver.resolve("slow.example", 443, Reach::Public, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, AddressError::Slow { .. }), "{error}");
        assert_eq!(resolver.resolve("1.1.1.1", 443, Reach::Public, SOON).await.unwrap().len(), 1);
        let error = resolver.resolve("127.0.0.1", 443, Reach::Public, SOON).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`127.0.0.1` leads to 127.0.0.1, port 443, which may not be dialled: it is a loopback address, and the upstream has no `reach`; \
             to allow it, list its network in the upstream's `reach: { networks: [127.0.0.1/32] }`"
        );
    }

    /// Names under `hangs.example` have no answer while the sender is there.
    fn with_a_zone_that_hangs() -> (Arc<Resolver>, std::sync::mpsc::Sender<()>) {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let lookup = move |name: &str| {
            if name.ends_with("hangs.example") {
                gate.lock().unwrap().recv().ok();
            }
            Ok(vec!["1.1.1.1".parse().unwrap()])
        };
        (Arc::new(resolver(&clock(), lookup)), open)
    }

    #[tokio::test]
    async fn a_zone_that_hangs_leaves_the_other_names_their_turn() {
        let (resolver, _open) = with_a_zone_that_hangs();
        let hanging: Vec<_> = (0..100)
            .map(|nth| {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move { resolver.resolve(&format!("n{nth}.a.hangs.example"), 443, Reach::Public, SOON).await })
            })
            .collect();
        tokio::task::yield_now().await;
        for name in ["one.other.example", "two.third.example", "bare"] {
            let answer = resolver.resolve(name, 443, Reach::Public, SOON).await;
            assert_eq!(answer.unwrap().len(), 1, "{name} waits for names that it has nothing to do with");
        }
        assert!(resolver.shared.lock().threads <= MOST_THREADS);
        hanging.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn names_that_nobody_waits_for_any_more_make_room() {
        let (resolver, _open) = with_a_zone_that_hangs();
        for round in 0..3 {
            for nth in 0..MOST_NAMES {
                let host = format!("n{round}-{nth}.hangs.example");
                // The waiter is gone as soon as it has asked.
                drop(resolver.shared.ask(&host));
            }
            let name = format!("n{round}.other.example");
            assert_eq!(resolver.resolve(&name, 443, Reach::Public, SOON).await.unwrap().len(), 1);
        }
        let waiting: Vec<_> = (0..MOST_WAITING).map(|_| resolver.shared.ask("one.hangs.example").is_ok()).collect();
        assert!(waiting.iter().all(|taken| *taken) && resolver.shared.ask("one.hangs.example").is_ok());
    }

    #[tokio::test]
    async fn failures_are_told_and_soon_forgotten() {
        let clock = clock();
        let asked = AtomicUsize::new(0);
        let resolver = resolver(&clock, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("no such name")),
            _ => Ok(vec!["1.1.1.1".parse().unwrap()]),
        });
        let error = resolver.resolve("new.example", 443, Reach::Public, SOON).await.unwrap_err();
        assert_eq!(error.to_string(), "`new.example` does not resolve: no such name; check the name and this machine's resolver");
        clock.advance(KEEP_FAILURE);
        assert!(resolver.resolve("new.example", 443, Reach::Public, SOON).await.is_ok());
    }
}
