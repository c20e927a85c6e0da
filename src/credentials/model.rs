//! The broker against a plain model, through random schedules: requests that wait, issuers that fail and recover, 401s, revocations,
//! reloads, ends of leases and the passing of time, while issues are under way.
//!
//! What must hold after every step: nothing is served that has ended, that is another's, or that was taken out of use; one issue at a time
//! for one key; an issuer that fails is not asked again within a second; at most one forced refresh in thirty; and no grant without its
//! event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use super::tests::{profile, terms, upstream, workload};
use super::worker_cache::Ask;
use super::*;
use crate::catalogue::Upstream;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::identity::Workload;
use crate::live::{Lease, LeaseBook, Opening};
use crate::policy::GrantTerms;
use crate::secret::{FingerprintKey, Secret};

const TTL: Duration = Duration::from_secs(100);
/// What is left of a life when it is no longer used, of shorter ones a fifth; also the age below which a 401 says nothing.
const SKEW: Duration = Duration::from_secs(5);

/// A workload and an upstream, as both stand in the token: one broker's key here.
type Name = (String, String);

/// One call of the issuer.
#[derive(Debug)]
struct Call {
    of: Name,
    at: Timestamp,
    /// How it went, once it has.
    went: Option<bool>,
    /// What it is for was taken out of use meanwhile.
    in_vain: bool,
}

/// Answers when a place is given, and fails while it is down.
struct Issuer {
    places: Semaphore,
    down: AtomicBool,
    calls: Mutex<Vec<Call>>,
    wrong: Mutex<Vec<String>>,
    /// The broker has room for every key: it forgets no failure.
    remembered: bool,
}

impl Issuer {
    fn calls(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, of: &Name, at: Timestamp) -> usize {
        let mut calls = self.calls();
        let mut own = calls.iter().filter(|call| call.of == *of && !call.in_vain);
        let say = |what: &str| self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what}: {of:?} at {at}"));
        if own.clone().any(|call| call.went.is_none()) {
            say("two issues at a time");
        }
        if self.remembered && own.next_back().is_some_and(|last| last.went == Some(false) && at < last.at + Duration::from_secs(1)) {
            say("asked again at once after a failure");
        }
        calls.push(Call { of: of.clone(), at, went: None, in_vain: false });
        calls.len() - 1
    }
}

impl CredentialProvider for Issuer {
    fn issue(&self, request: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
        Box::pin(async move {
            let of = (request.workload.path().to_owned(), request.upstream.to_string());
            let call = self.asked(&of, request.now);
            self.places.acquire().await.unwrap().forget();
            let up = !self.down.load(Ordering::SeqCst);
            self.calls()[call].went = Some(up);
            if !up {
                return Err(IssueError::Unavailable { credential: Arc::clone(&request.terms.profile.name), why: "told to".into() });
            }
            Ok(Issued { material: Secret::new(format!("{}-{}", of.0, of.1)), not_after: Some(request.now + TTL), source: None })
        })
    }
}

/// One key of the broker: the last one goes by a lease.
struct Who {
    workload: Arc<Workload>,
    upstream: Arc<Upstream>,
    lease: Option<Arc<Lease>>,
}

impl Who {
    fn name(&self) -> Name {
        (self.workload.id.path().to_owned(), self.upstream.name.to_string())
    }
}

/// What is known of a grant from its events.
#[derive(Debug)]
struct Known {
    of: Name,
    /// Taken out of use.
    gone: bool,
}

/// A request that waits for a credential.
struct Waiting {
    who: usize,
    /// What it waits for was taken out of use.
    in_vain: bool,
    task: JoinHandle<Result<Arc<Credential>, IssueError>>,
}

struct Play {
    broker: Arc<Broker>,
    events: Receiver<GrantEvent>,
    clock: Arc<ManualClock>,
    issuer: Arc<Issuer>,
    definition: Arc<Definition>,
    terms: Arc<GrantTerms>,
    keys: Vec<Arc<Who>>,
    waiting: Vec<Waiting>,
    grants: BTreeMap<GrantId, Known>,
    forced: BTreeMap<Name, Timestamp>,
    last: BTreeMap<usize, Arc<Credential>>,
    /// Room for every key: none is forgotten.
    roomy: bool,
}

impl Play {
    fn begin(entries: usize) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let issuer = Arc::new(Issuer {
            places: Semaphore::new(0),
            down: AtomicBool::new(false),
            calls: Mutex::default(),
            wrong: Mutex::default(),
            remembered: entries > 4,
        });
        let profile = profile(TTL);
        let definition = Arc::new(Definition::new(Arc::clone(&profile), Arc::clone(&issuer) as Arc<dyn CredentialProvider>, &["v1"]));
        let limits = Limits { entries, ..Limits::default() };
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let (broker, events) = Broker::new(shared, tokio::runtime::Handle::current(), Arc::new(FingerprintKey::new(&[1; 32])), limits);
        let opening = Opening { workload: "spiffe://t/l".into(), kind: "task".into(), ttl: Duration::from_secs(70), ..Opening::default() };
        let lease = LeaseBook::default().open_lease(opening, &[], "uid 0", clock.now()).unwrap();
        let key = |who: &str, to: &str, lease| Arc::new(Who { workload: workload(who), upstream: upstream(to, "u.example"), lease });
        let keys = vec![key("a", "u", None), key("b", "u", None), key("a", "v", None), key("l", "u", Some(lease))];
        let terms = terms(&profile, &["a"]);
        let roomy = entries > keys.len();
        Self {
            broker: Arc::new(broker),
            events,
            clock,
            issuer,
            definition,
            terms,
            keys,
            waiting: Vec::new(),
            grants: BTreeMap::new(),
            forced: BTreeMap::new(),
            last: BTreeMap::new(),
            roomy,
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn ask<'a>(&'a self, who: &'a Who) -> Ask<'a> {
        Ask {
            workload: &who.workload,
            upstream: &who.upstream,
            terms: &self.terms,
            definition: &self.definition,
            lease: who.lease.as_ref(),
        }
    }

    async fn step(&mut self, what: u8, who: usize, seconds: u64) {
        let key = Arc::clone(&self.keys[who]);
        match what {
            0 => self.clock.advance(Duration::from_secs(seconds)),
            1 => drop(self.issuer.down.fetch_xor(true, Ordering::SeqCst)),
            2 | 3 => self.request(who),
            4 => self.issuer.places.add_permits(1 + usize::from(seconds > 20) * 3),
            5 => self.rejected(who),
            6 => self.taken_away(Cause::Revoked, |name| *name == key.name()),
            7 => self.taken_away(Cause::Lease, |name| name.0 == "/l"),
            _ => {
                let served = self.broker.cached_for(self.ask(&key), self.now());
                if let Some(served) = served {
                    self.judge(who, served);
                }
            }
        }
        self.settle().await;
    }

    fn request(&mut self, who: usize) {
        let (broker, key, terms, definition) =
            (Arc::clone(&self.broker), Arc::clone(&self.keys[who]), Arc::clone(&self.terms), Arc::clone(&self.definition));
        let task = tokio::spawn(async move {
            let ask =
                Ask { workload: &key.workload, upstream: &key.upstream, terms: &terms, definition: &definition, lease: key.lease.as_ref() };
            broker.obtain_for(ask).await
        });
        self.waiting.push(Waiting { who, in_vain: false, task });
    }

    /// An upstream answers 401 to what was last put on.
    fn rejected(&mut self, who: usize) {
        let (key, now) = (Arc::clone(&self.keys[who]), self.now());
        let Some(used) = self.last.get(&who).map(Arc::clone) else { return };
        let said = self.broker.discard_for(self.ask(&key), &used, now);
        if said != Discard::Discarded {
            return;
        }
        assert!(now >= used.issued + SKEW, "a young one is not refused for its age");
        let known = self.grants.get_mut(&used.grant).expect("a grant that was served has its event");
        assert!(!known.gone, "discarded twice");
        known.gone = true;
        let before = self.forced.insert(key.name(), now);
        assert!(!self.roomy || before.is_none_or(|before| now >= before + Duration::from_secs(30)), "forced twice within 30 s");
    }

    /// An operator, or the end of a lease.
    fn taken_away(&mut self, cause: Cause, doomed: impl Fn(&Name) -> bool) {
        let discarded = self.broker.discard_where(cause, |grant| doomed(&(grant.workload.path().to_owned(), grant.upstream.to_owned())));
        for one in &discarded {
            assert!(!self.grants[&one.credential.grant].gone, "taken away twice");
        }
        self.grants.values_mut().filter(|known| doomed(&known.of)).for_each(|known| known.gone = true);
        self.issuer.calls().iter_mut().filter(|call| doomed(&call.of)).for_each(|call| call.in_vain = true);
        self.forced.retain(|name, _| !doomed(name));
        for waiting in &mut self.waiting {
            waiting.in_vain |= doomed(&self.keys[waiting.who].name());
        }
    }

    /// Lets everything that can move, move; then nothing moves by itself.
    async fn settle(&mut self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        while let Ok(event) = self.events.try_recv() {
            self.heard(event);
        }
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().partition(|one| one.task.is_finished());
        self.waiting = waiting;
        for one in done {
            match one.task.await.unwrap() {
                Ok(served) => {
                    assert!(!one.in_vain, "what was taken away while it was issued serves somebody");
                    self.judge(one.who, served);
                }
                // One that was on its way for longer than it lives is of no use to anybody.
                Err(IssueError::Refused { why, .. }) => assert!(why.contains("already expired"), "{why}"),
                Err(error) => assert!(matches!(error, IssueError::Unavailable { .. }), "{error}"),
            }
        }
        let wrong = self.issuer.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    fn heard(&mut self, event: GrantEvent) {
        let of = (event.workload.path().to_owned(), event.upstream.to_string());
        match event.what {
            Happening::Issued { .. } | Happening::Refreshed { .. } => {
                assert!(self.grants.insert(event.grant, Known { of, gone: false }).is_none(), "two events for one grant");
            }
            // What came in vain is told right behind its issue.
            Happening::Discarded { cause } if cause != Cause::Evicted => {
                self.grants.get_mut(&event.grant).expect("issued before it is discarded").gone = true;
            }
            // What was evicted may be remembered by a worker for a second more.
            Happening::Discarded { .. } | Happening::Failed { .. } | Happening::Rehearsed { .. } | Happening::RehearseFailed { .. } => {}
        }
    }

    fn judge(&mut self, who: usize, served: Arc<Credential>) {
        let (key, now) = (&self.keys[who], self.now());
        let name = key.name();
        assert!(served.material.same_as(format!("{}-{}", name.0, name.1).as_bytes()), "another's credential");
        let ends = key.lease.as_ref().map_or(Timestamp::MAX, |lease| lease.until).min(served.not_after.unwrap());
        let life = Duration::try_from(ends.duration_since(served.issued)).unwrap();
        assert!(now < ends - SKEW.min(life / 5), "served at {now}, which ends at {ends}");
        let known = self.grants.get(&served.grant).expect("no grant without its event");
        assert_eq!(known.of, name);
        assert!(!known.gone, "served after it was taken out of use");
        self.last.insert(who, served);
    }

    /// When all is well again, everybody is served again, but by a lease that is over.
    async fn all_is_well(&mut self) {
        self.issuer.down.store(false, Ordering::SeqCst);
        self.issuer.places.add_permits(10_000);
        self.settle().await;
        assert!(self.waiting.is_empty(), "somebody waits for nothing");
        self.clock.advance(Duration::from_secs(31));
        let mut served = BTreeSet::new();
        for who in 0..self.keys.len() {
            self.request(who);
            let before = self.last.remove(&who);
            self.settle().await;
            if self.last.contains_key(&who) {
                served.insert(who);
            }
            drop(before);
        }
        let lives = self.keys[3].lease.as_ref().is_some_and(|lease| self.now() + SKEW * 2 < lease.until);
        assert!(served.len() >= 3 + usize::from(lives), "served again: {served:?}");
        assert_eq!(self.broker.lost_events(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn outages_rejections_and_revocations_in_any_order_keep_the_brokers_promises(
        steps in proptest::collection::vec((0_u8..9, 0_usize..4, 1_u64..40), 1..120), entries in proptest::sample::select(vec![2_usize, 3, 100]),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut play = Play::begin(entries);
            for (what, who, seconds) in steps {
                play.step(what, who, seconds).await;
            }
            play.all_is_well().await;
        });
    }
}

/// Threads that ask, and one that revokes: what a revocation has named is served by no call that begins after it was acknowledged.
#[test]
fn nothing_is_served_on_any_thread_after_its_revocation_was_acknowledged() {
    const THREADS: usize = 4;
    const REVOCATIONS: u64 = 200;
    let household = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let play = household.block_on(async { Play::begin(100) });
    play.issuer.places.add_permits(1_000_000);
    let Play { broker, mut events, clock, definition, terms, keys, .. } = play;
    household.spawn(async move { while events.recv().await.is_some() {} });
    // The revocations that are acknowledged, in their order, and how many there are.
    let (over, acknowledged) = (Arc::new(Mutex::new(BTreeMap::<GrantId, u64>::new())), Arc::new(AtomicU64::new(0)));
    let served = Arc::new(AtomicU64::new(0));
    let asking: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (broker, clock, definition, terms, key) =
                (Arc::clone(&broker), Arc::clone(&clock), Arc::clone(&definition), Arc::clone(&terms), Arc::clone(&keys[thread % 2]));
            let (over, acknowledged, served) = (Arc::clone(&over), Arc::clone(&acknowledged), Arc::clone(&served));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let ask = Ask { workload: &key.workload, upstream: &key.upstream, terms: &terms, definition: &definition, lease: None };
                loop {
                    let began = acknowledged.load(Ordering::SeqCst);
                    if began == REVOCATIONS {
                        return;
                    }
                    let cached = broker.cached_for(ask, clock.now());
                    let Some(credential) = cached.or_else(|| runtime.block_on(broker.obtain_for(ask)).ok()) else { continue };
                    served.fetch_add(1, Ordering::SeqCst);
                    let ended = over.lock().unwrap().get(&credential.grant).copied();
                    assert!(ended.is_none_or(|ended| ended > began), "revocation {ended:?} was acknowledged before the call, at {began}");
                }
            })
        })
        .collect();
    for number in 1..=REVOCATIONS {
        let before = served.load(Ordering::SeqCst);
        while served.load(Ordering::SeqCst) == before && asking.iter().any(|thread| !thread.is_finished()) {
            std::thread::yield_now();
        }
        let gone = broker.discard_where(Cause::Revoked, |_| true);
        over.lock().unwrap().extend(gone.into_iter().map(|one| (one.credential.grant.clone(), number)));
        acknowledged.store(number, Ordering::SeqCst);
    }
    for thread in asking {
        thread.join().unwrap();
    }
    assert!(over.lock().unwrap().len() > 100);
}
