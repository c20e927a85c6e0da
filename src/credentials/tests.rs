//! The broker's promises, told with a provider that counts and a clock that moves when told to.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Notify, Semaphore};

use super::worker_cache::Ask;
use super::*;
use crate::capture::{Host, Scheme};
use crate::catalogue::{
    Deadlines, HostPattern, Origin, Placement, Profile, Protocol, Roots, Stage, StripOptions, TlsProfile, Upstream, UpstreamIndex,
};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::identity::{Attestation, SpiffeId, Workload};
use crate::policy::GrantTerms;
use crate::secret::{FingerprintKey, Secret};

/// Counts its issues, and fails, waits or changes its source when told to.
#[derive(Default)]
struct Counting {
    issues: AtomicUsize,
    fails: AtomicBool,
    life: Option<Duration>,
    gate: Option<Semaphore>,
    asked: Notify,
    mark: Option<AtomicU64>,
    /// What the issuer took back; `None`: it takes nothing.
    recalled: Option<Mutex<Vec<GrantId>>>,
}

impl CredentialProvider for Counting {
    fn issue(&self, request: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
        Box::pin(async move {
            let number = self.issues.fetch_add(1, Ordering::SeqCst) + 1;
            self.asked.notify_one();
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            if self.fails.load(Ordering::SeqCst) {
                return Err(IssueError::Unavailable { credential: Arc::clone(&request.terms.profile.name), why: "told to".into() });
            }
            let material = Secret::new(format!("token-{number}-{}-{}", request.workload.path(), request.upstream));
            let source = self.mark.as_ref().map(|mark| SourceMark(mark.load(Ordering::SeqCst)));
            Ok(Issued { material, not_after: self.life.map(|life| request.now + life), source })
        })
    }

    fn source(&self) -> Issuing<'_, Option<SourceMark>> {
        Box::pin(async move { self.mark.as_ref().map(|mark| SourceMark(mark.load(Ordering::SeqCst))) })
    }

    fn revokes(&self) -> bool {
        self.recalled.is_some()
    }

    fn revoke(&self, recall: Recall) -> Issuing<'_, Result<(), IssueError>> {
        Box::pin(async move {
            self.recalled.as_ref().unwrap().lock().unwrap().push(recall.credential.grant.clone());
            self.asked.notify_one();
            Ok(())
        })
    }
}

const TTL: Duration = Duration::from_secs(100);

struct House {
    broker: Broker,
    events: Receiver<GrantEvent>,
    clock: Arc<ManualClock>,
    provider: Arc<Counting>,
    definition: Arc<Definition>,
    workload: Arc<Workload>,
    upstream: Arc<Upstream>,
    terms: Arc<GrantTerms>,
}

pub(super) fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload { id: SpiffeId::parse(&format!("spiffe://t/{name}")).unwrap(), attestation: Attestation::Fixed })
}

pub(super) fn upstream(name: &str, host: &str) -> Arc<Upstream> {
    Arc::new(Upstream {
        index: UpstreamIndex(0),
        name: name.into(),
        owner: "o".into(),
        origins: vec![Origin { scheme: Scheme::Https, host: HostPattern::Exact(Host::parse(host).unwrap()), port: 443 }],
        reach: Vec::new(),
        tls: TlsProfile { roots: Roots::System, server_name: None, spiffe_id: None, client_certificate: false },
        protocol: Protocol::Auto,
        credentials: vec!["c".into()],
        stage: Stage::Enforce,
        intercept: true,
        strip: StripOptions::default(),
        response_remove: Vec::new(),
        deadlines: Deadlines::default(),
        body_limit: 0,
    })
}

pub(super) fn profile(ttl: Duration) -> Arc<Profile> {
    let scopes: Arc<[Arc<str>]> = Arc::from(["a".into(), "b".into()]);
    Arc::new(Profile { name: "c".into(), kind: "test", audience: None, scopes: Some(scopes), ttl, placement: Placement::Bearer })
}

pub(super) fn terms(profile: &Arc<Profile>, scopes: &[&str]) -> Arc<GrantTerms> {
    let scopes: Arc<[Arc<str>]> = scopes.iter().map(|scope| Arc::from(*scope)).collect();
    Arc::new(GrantTerms { profile: Arc::clone(profile), scopes: Some(scopes), ttl: profile.ttl })
}

impl House {
    fn with(provider: Counting, household: tokio::runtime::Handle, limits: Limits) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let provider = Arc::new(provider);
        let profile = profile(TTL);
        let shared: Arc<dyn CredentialProvider> = Arc::clone(&provider) as Arc<dyn CredentialProvider>;
        let definition = Arc::new(Definition::new(Arc::clone(&profile), shared, &["v1"]));
        let fingerprints = Arc::new(FingerprintKey::new(&[1; 32]));
        let (broker, events) = Broker::new(Arc::clone(&clock) as Arc<dyn Clock>, household, fingerprints, limits);
        let terms = terms(&profile, &["a"]);
        Self { broker, events, clock, provider, definition, workload: workload("w"), upstream: upstream("u", "u.example"), terms }
    }

    fn new(provider: Counting) -> Self {
        Self::with(provider, tokio::runtime::Handle::current(), Limits::default())
    }

    fn ask(&self) -> Ask<'_> {
        Ask { workload: &self.workload, upstream: &self.upstream, terms: &self.terms, definition: &self.definition, lease: None }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn cached(&self) -> Option<Arc<Credential>> {
        self.broker.cached_for(self.ask(), self.now())
    }

    async fn obtain(&self) -> Result<Arc<Credential>, IssueError> {
        self.broker.obtain_for(self.ask()).await
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn issues(&self) -> usize {
        self.provider.issues.load(Ordering::SeqCst)
    }

    /// The next event, which the background makes.
    async fn event(&mut self) -> GrantEvent {
        self.events.recv().await.unwrap()
    }

    fn in_flight(&self) -> bool {
        self.broker.0.table().values().any(|slot| slot.flight.is_some())
    }

    async fn landed(&self) {
        while self.in_flight() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_hit_needs_no_issue_and_no_wait() {
    let house = House::new(Counting::default());
    assert!(house.cached().is_none());
    let first = house.obtain().await.unwrap();
    assert!(first.material.same_as(b"token-1-/w-u"));
    assert_eq!(first.rendered.as_ref().unwrap(), "Bearer token-1-/w-u");
    for _ in 0..3 {
        assert_eq!(house.cached().unwrap().grant, first.grant);
    }
    assert_eq!(house.issues(), 1);
}

#[test]
fn ten_thousand_misses_on_many_threads_are_one_issue() {
    const THREADS: usize = 4;
    const EACH: usize = 2_500;
    let household = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let house = Arc::new(House::with(
        Counting { gate: Some(Semaphore::new(0)), ..Counting::default() },
        household.handle().clone(),
        Limits::default(),
    ));
    let done = Arc::new(Notify::new());
    let workers: Vec<_> = (0..THREADS)
        .map(|_| {
            let house = Arc::clone(&house);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let all = runtime.block_on(futures_util::future::join_all((0..EACH).map(|_| house.obtain())));
                all.into_iter().map(|one| one.unwrap().grant.clone()).collect::<std::collections::BTreeSet<_>>()
            })
        })
        .collect();
    let (ended, watching) = (Arc::clone(&done), Arc::clone(&house));
    let opener = std::thread::spawn(move || {
        let waiting = || {
            watching.broker.0.table().values().next().and_then(|slot| slot.flight.as_ref().map(|flight| flight.outcome.receiver_count()))
        };
        while waiting() != Some(THREADS * EACH) {
            std::thread::yield_now();
        }
        watching.provider.gate.as_ref().unwrap().add_permits(1);
        let grants: std::collections::BTreeSet<_> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        ended.notify_one();
        grants
    });
    household.block_on(done.notified());
    assert_eq!(opener.join().unwrap().len(), 1);
    assert_eq!(house.issues(), 1);
}

#[tokio::test]
async fn nothing_is_shared_between_workloads_upstreams_terms_and_definitions() {
    let house = House::new(Counting::default());
    let (other_workload, other_upstream, moved) = (workload("x"), upstream("v", "v.example"), upstream("u", "elsewhere.example"));
    let profile = Arc::clone(&house.terms.profile);
    let (wider, same) = (terms(&profile, &["a", "b"]), terms(&profile, &["a"]));
    let shorter = Arc::new(GrantTerms { profile, scopes: house.terms.scopes.clone(), ttl: Duration::from_secs(30) });
    let redefined =
        Arc::new(Definition::new(Arc::clone(&house.terms.profile), Arc::clone(&house.provider) as Arc<dyn CredentialProvider>, &["v2"]));
    let base = house.ask();
    let asks = [
        base,
        Ask { workload: &other_workload, ..base },
        Ask { upstream: &other_upstream, ..base },
        Ask { upstream: &moved, ..base },
        Ask { terms: &wider, ..base },
        Ask { terms: &shorter, ..base },
        Ask { definition: &redefined, ..base },
    ];
    let mut grants = std::collections::BTreeSet::new();
    for ask in asks {
        grants.insert(house.broker.obtain_for(ask).await.unwrap().grant.clone());
    }
    assert_eq!(grants.len(), asks.len());
    for ask in asks {
        assert!(grants.contains(&house.broker.cached_for(ask, house.now()).unwrap().grant));
    }
    // Equal terms of another load are the same credential.
    assert_eq!(house.broker.obtain_for(Ask { terms: &same, ..base }).await.unwrap().grant, house.obtain().await.unwrap().grant);
    assert_eq!(house.issues(), asks.len());
}

#[tokio::test]
async fn it_is_renewed_behind_a_good_one_and_never_served_past_its_end() {
    let mut house = House::new(Counting { life: Some(TTL), ..Counting::default() });
    let first = house.obtain().await.unwrap();
    assert_eq!(house.event().await.what.name(), "grant_issued");
    house.pass(49);
    assert_eq!(house.cached().unwrap().grant, first.grant);
    assert!(!house.in_flight(), "before half of its life nothing is renewed");
    house.pass(32);
    assert_eq!(house.cached().unwrap().grant, first.grant, "renewing does not wait");
    let event = house.event().await;
    assert!(matches!(event.what, Happening::Refreshed { ref former, .. } if *former == first.grant));
    house.landed().await;
    house.pass(1);
    let second = house.cached().unwrap();
    assert_eq!((second.grant == first.grant, second.grant == event.grant), (false, true));
    house.pass(93);
    assert_eq!(house.cached().unwrap().grant, second.grant, "renewal under way, still good");
    house.landed().await;
    house.pass(200);
    assert!(house.cached().is_none());
    assert_ne!(house.obtain().await.unwrap().grant, second.grant);
}

#[tokio::test]
async fn nothing_is_served_within_the_skew_of_its_end() {
    let house = House::new(Counting { life: Some(TTL), ..Counting::default() });
    house.obtain().await.unwrap();
    house.provider.fails.store(true, Ordering::SeqCst);
    house.pass(94);
    assert!(house.cached().is_some());
    house.landed().await;
    house.pass(1);
    assert!(house.cached().is_none(), "5 s before its end");
}

#[tokio::test]
async fn an_outage_is_outlived_until_the_end_and_then_refused() {
    let mut house = House::new(Counting { life: Some(TTL), ..Counting::default() });
    let first = house.obtain().await.unwrap();
    house.event().await;
    house.provider.fails.store(true, Ordering::SeqCst);
    house.pass(85);
    assert_eq!(house.obtain().await.unwrap().grant, first.grant);
    assert_eq!(house.event().await.what.name(), "grant_failed");
    house.landed().await;
    assert_eq!(house.obtain().await.unwrap().grant, first.grant);
    assert_eq!(house.issues(), 2, "no new try within the backoff");
    house.pass(20);
    let error = house.obtain().await.unwrap_err();
    assert!(matches!(error, IssueError::Unavailable { .. }), "{error}");
    house.provider.fails.store(false, Ordering::SeqCst);
    house.pass(30);
    assert!(house.obtain().await.is_ok());
}

#[tokio::test]
async fn a_clock_that_is_set_back_or_forward_serves_nothing_from_another_time() {
    const HOURS: Duration = Duration::from_hours(3);
    let house = House::new(Counting { life: Some(TTL), ..Counting::default() });
    let first = house.obtain().await.unwrap();
    let noon = house.now();
    house.clock.set(noon - Duration::from_secs(2));
    assert_eq!(house.cached().unwrap().grant, first.grant, "clocks are put right by seconds all the time");
    house.clock.set(noon - HOURS);
    assert!(house.cached().is_none(), "its life would be three hours too long");
    let second = house.obtain().await.unwrap();
    assert!(second.grant != first.grant && second.not_after.unwrap() < noon);
    house.clock.set(noon + HOURS);
    assert!(house.cached().is_none());
    assert_ne!(house.obtain().await.unwrap().grant, second.grant);
    // What failed in the other time is asked again, too.
    house.provider.fails.store(true, Ordering::SeqCst);
    house.pass(200);
    house.obtain().await.unwrap_err();
    house.provider.fails.store(false, Ordering::SeqCst);
    house.clock.set(noon);
    house.obtain().await.unwrap();
}

#[tokio::test]
async fn failures_are_kept_with_growing_backoff_up_to_thirty_seconds() {
    let house = House::new(Counting { fails: AtomicBool::new(true), ..Counting::default() });
    let mut issues = 0;
    for wait in [1, 2, 4, 8, 16, 30, 30] {
        assert!(house.obtain().await.is_err());
        issues += 1;
        assert_eq!(house.issues(), issues);
        house.clock.advance(Duration::from_millis(wait * 1_000 - 1));
        assert!(house.obtain().await.is_err());
        assert_eq!(house.issues(), issues, "asked again within {wait} s");
        house.clock.advance(Duration::from_millis(1));
    }
    house.provider.fails.store(false, Ordering::SeqCst);
    assert!(house.obtain().await.is_ok());
}

#[tokio::test]
async fn the_table_is_bounded_and_the_least_used_goes() {
    let limits = Limits { entries: 20, ..Limits::default() };
    let house = House::with(Counting::default(), tokio::runtime::Handle::current(), limits);
    let workloads: Vec<_> = (0..60).map(|n| workload(&format!("w{n}"))).collect();
    for workload in &workloads {
        house.pass(1);
        house.broker.obtain_for(Ask { workload, ..house.ask() }).await.unwrap();
        assert!(house.broker.len() <= 20, "{}", house.broker.len());
    }
    assert!(house.broker.cached_for(Ask { workload: &workloads[59], ..house.ask() }, house.now()).is_some());
    let issues = house.issues();
    house.broker.obtain_for(Ask { workload: &workloads[50], ..house.ask() }).await.unwrap();
    assert_eq!(house.issues(), issues, "a recent one was kept");
}

#[tokio::test]
async fn a_table_full_of_flights_refuses_instead_of_growing() {
    let limits = Limits { entries: 2, obtain: Duration::from_millis(20), ..Limits::default() };
    let house = House::with(Counting { gate: Some(Semaphore::new(0)), ..Counting::default() }, tokio::runtime::Handle::current(), limits);
    let (a, b, c) = (workload("a"), workload("b"), workload("c"));
    let ask = |workload| house.broker.obtain_for(Ask { workload, ..house.ask() });
    let (first, second, third) = tokio::join!(ask(&a), ask(&b), ask(&c));
    assert!(third.unwrap_err().to_string().contains("as many credentials"));
    assert!(first.is_err() && second.is_err(), "the deadline holds");
    assert_eq!(house.broker.len(), 2);
}

#[tokio::test]
async fn a_rejected_one_is_gone_from_every_worker_at_once() {
    let mut house = House::new(Counting::default());
    let first = house.obtain().await.unwrap();
    house.event().await;
    assert!(house.cached().is_some());
    let discard = |house: &House, used: &Credential| house.broker.discard_for(house.ask(), used, house.now());
    assert_eq!(discard(&house, &first), Discard::TooYoung);
    house.pass(5);
    assert_eq!(discard(&house, &first), Discard::Discarded);
    assert!(house.cached().is_none(), "what this worker remembered is void");
    assert_eq!(house.event().await.what, Happening::Discarded { cause: Cause::Rejected });
    let second = house.obtain().await.unwrap();
    assert_eq!(discard(&house, &first), Discard::Superseded);
    house.pass(6);
    assert_eq!(discard(&house, &second), Discard::TooSoon);
    assert_eq!(house.cached().unwrap().grant, second.grant, "it stays in use");
    house.pass(30);
    assert_eq!(discard(&house, &second), Discard::Discarded);
}

#[tokio::test]
async fn a_reload_voids_what_was_issued_under_changed_definitions() {
    let house = House::new(Counting::default());
    let first = house.obtain().await.unwrap();
    let definitions = |version: &str| {
        let provider = Arc::clone(&house.provider) as Arc<dyn CredentialProvider>;
        Definitions::new([Definition::new(Arc::clone(&house.terms.profile), provider, &[version])])
    };
    assert_eq!(house.broker.reloaded(&definitions("v1")), 0);
    assert_eq!(house.cached().unwrap().grant, first.grant);
    assert_eq!(house.broker.reloaded(&definitions("v2")), 1);
    assert!(house.cached().is_none());
    house.obtain().await.unwrap();
    assert_eq!(house.broker.reloaded(&Definitions::default()), 1);
    assert!(house.broker.is_empty());
}

#[tokio::test]
async fn what_is_revoked_while_it_is_issued_serves_nobody() {
    let house = House::new(Counting { gate: Some(Semaphore::new(0)), recalled: Some(Mutex::default()), ..Counting::default() });
    let revoke = async {
        house.provider.asked.notified().await;
        house.broker.discard_where(Cause::Revoked, |grant| grant.workload == &house.workload.id);
        house.provider.gate.as_ref().unwrap().add_permits(1);
    };
    let (obtained, ()) = tokio::join!(house.obtain(), revoke);
    assert!(obtained.unwrap_err().to_string().contains("revoked"));
    assert!(house.cached().is_none());
    house.provider.asked.notified().await;
    assert_eq!(house.provider.recalled.as_ref().unwrap().lock().unwrap().len(), 1, "its issuer was asked to take it back");
}

#[tokio::test]
async fn a_changed_source_is_noticed_and_an_unchanged_one_costs_no_issue() {
    let mut house = House::new(Counting { mark: Some(AtomicU64::new(1)), ..Counting::default() });
    let first = house.obtain().await.unwrap();
    house.event().await;
    for _ in 0..4 {
        house.pass(6);
        assert_eq!(house.cached().unwrap().grant, first.grant);
        house.landed().await;
    }
    assert_eq!(house.issues(), 1);
    house.provider.mark.as_ref().unwrap().store(2, Ordering::SeqCst);
    house.pass(6);
    house.cached().unwrap();
    house.landed().await;
    assert_eq!(house.issues(), 2);
    assert_ne!(house.cached().unwrap().grant, first.grant, "no worker serves the former one any more");
}

#[tokio::test]
async fn no_grant_without_a_place_for_its_record() {
    let limits = Limits { events: 1, obtain: Duration::from_millis(20), ..Limits::default() };
    let mut house = House::with(Counting::default(), tokio::runtime::Handle::current(), limits);
    house.obtain().await.unwrap();
    let other = workload("x");
    let error = house.broker.obtain_for(Ask { workload: &other, ..house.ask() }).await.unwrap_err();
    assert!(matches!(error, IssueError::Unavailable { .. }));
    assert_eq!(house.issues(), 1, "the issuer was not even asked");
    house.event().await;
    house.pass(60);
    assert!(house.broker.obtain_for(Ask { workload: &other, ..house.ask() }).await.is_ok());
}

/// A provider that panics.
struct Broken;

impl CredentialProvider for Broken {
    fn issue(&self, _: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
        Box::pin(async { panic!("told to") })
    }
}

#[tokio::test]
async fn a_provider_that_panics_leaves_an_error_and_no_waiters() {
    let house = House::new(Counting::default());
    let definition = Arc::new(Definition::new(Arc::clone(&house.terms.profile), Arc::new(Broken), &["broken"]));
    let error = house.broker.obtain_for(Ask { definition: &definition, ..house.ask() }).await.unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    assert!(!house.in_flight());
}

#[tokio::test]
async fn an_issue_goes_on_when_the_one_who_asked_goes_away() {
    let house = House::new(Counting { gate: Some(Semaphore::new(0)), ..Counting::default() });
    {
        let asking = std::pin::pin!(house.obtain());
        let asked = std::pin::pin!(house.provider.asked.notified());
        futures_util::future::select(asking, asked).await;
    }
    house.provider.gate.as_ref().unwrap().add_permits(1);
    house.landed().await;
    assert!(house.cached().is_some());
    assert_eq!(house.issues(), 1);
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens in whatever order: what is served is of the asking workload, and neither expired nor discarded.
    #[test]
    fn what_is_served_is_ones_own_alive_and_not_discarded(steps in proptest::collection::vec((0_usize..6, 0_usize..3, 1_u64..40), 1..60)) {
        block_on(async {
            let house = House::new(Counting { life: Some(TTL), ..Counting::default() });
            let workloads = [workload("a"), workload("b"), workload("c")];
            let gone: Mutex<Vec<GrantId>> = Mutex::default();
            for (what, who, seconds) in steps {
                let ask = Ask { workload: &workloads[who], ..house.ask() };
                let now = house.now();
                let served = match what {
                    0 => { house.pass(seconds); None }
                    1 => { house.provider.fails.fetch_xor(true, Ordering::SeqCst); None }
                    2 => {
                        if let Some(used) = house.broker.cached_for(ask, now)
                            && house.broker.discard_for(ask, &used, now) == Discard::Discarded
                        {
                            gone.lock().unwrap().push(used.grant.clone());
                        }
                        None
                    }
                    3 => {
                        house.broker.discard_where(Cause::Revoked, |grant| {
                            let doomed = grant.workload == &workloads[who].id;
                            if doomed {
                                gone.lock().unwrap().push(grant.id.clone());
                            }
                            doomed
                        });
                        None
                    }
                    4 => house.broker.cached_for(ask, now),
                    _ => house.broker.obtain_for(ask).await.ok(),
                };
                if let Some(served) = served {
                    let value = served.rendered.as_ref().unwrap().to_str().unwrap().to_owned();
                    assert!(value.contains(workloads[who].id.path()), "{value}");
                    assert!(house.now() < served.not_after.unwrap() - Duration::from_secs(5));
                    assert!(!gone.lock().unwrap().contains(&served.grant));
                }
                house.landed().await;
            }
        });
    }
}

#[tokio::test]
async fn a_rehearsal_is_thrown_away_and_seldom() {
    let mut house = House::new(Counting::default());
    let rehearse = |house: &House| rehearsal::rehearse(&house.broker.0, house.ask(), house.now());
    rehearse(&house);
    let event = house.event().await;
    assert!(matches!(event.what, Happening::Rehearsed { .. }), "{event:?}");
    house.rehearsed(1, 0).await;
    assert_eq!(house.issues(), 1);
    assert!(house.broker.is_empty() && house.cached().is_none(), "it is in no cache");
    for _ in 0..100 {
        rehearse(&house);
        house.pass(1);
        tokio::task::yield_now().await;
        if house.issues() > 1 {
            break;
        }
    }
    assert_eq!(house.issues(), 2, "what was had is tried again after a minute");
    house.event().await;
    house.rehearsed(2, 0).await;
    // Another credential of the same upstream waits for its second, not for the minute.
    house.terms = terms(&house.definition.profile, &["a", "b"]);
    rehearse(&house);
    house.event().await;
    house.terms = terms(&house.definition.profile, &["b"]);
    rehearse(&house);
    tokio::task::yield_now().await;
    assert_eq!(house.issues(), 3, "at most one a second for one upstream");
}

#[tokio::test]
async fn a_rehearsal_that_fails_says_why_and_delays_nobody() {
    let mut house = House::new(Counting { fails: true.into(), gate: Some(Semaphore::new(0)), ..Counting::default() });
    rehearsal::rehearse(&house.broker.0, house.ask(), house.now());
    house.provider.asked.notified().await;
    house.pass(5);
    rehearsal::rehearse(&house.broker.0, house.ask(), house.now());
    tokio::task::yield_now().await;
    assert_eq!(house.issues(), 1, "one at a time, however long it takes");
    house.provider.gate.as_ref().unwrap().add_permits(1);
    let event = house.event().await;
    assert!(matches!(&event.what, Happening::RehearseFailed { error: IssueError::Unavailable { .. } }), "{event:?}");
    house.rehearsed(0, 1).await;
    let report = &house.broker.rehearsals("u")[0];
    assert_eq!(report.failure.as_deref(), Some("credential `c` cannot be issued now: told to"));
    assert_eq!(report.scopes.as_deref().map(<[Arc<str>]>::len), Some(1));
    // A failed rehearsal is no failure of the real thing: the next request asks the issuer.
    house.provider.fails.store(false, Ordering::SeqCst);
    house.provider.gate.as_ref().unwrap().add_permits(1);
    assert!(house.obtain().await.is_ok());
    house.broker.reloaded(&Definitions::new(Vec::new()));
    assert!(house.broker.rehearsals("u").is_empty(), "what was rehearsed under a definition that is gone says nothing");
}

impl House {
    async fn rehearsed(&self, obtained: u64, failed: u64) {
        let done = || self.broker.rehearsals("u").first().map(|one| (one.obtained, one.failed)) == Some((obtained, failed));
        for _ in 0..10_000 {
            if done() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{:?}", self.broker.rehearsals("u"));
    }
}
