//! The pool against a plain model, over real sockets: a connection is used for nothing but what it was opened for, through bursts,
//! revocations while answers are under way, changes of generation, servers that hang up and the passing of time.
#![allow(clippy::future_not_send, reason = "a worker's futures stay on their thread")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use futures_util::future::join_all;
use http::header::CONNECTION;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use super::tests::{TestBody, destination, dialer, get, hop, upstream, whole};
use super::*;
use crate::capture::{Destination, Scheme};
use crate::catalogue::Upstream;
use crate::clock::ManualClock;
use crate::identity::{Attestation, SpiffeId, Workload};

/// What a connection is opened for: workload, generation, upstream, host, upgrade.
type Key = (usize, u64, usize, usize, bool);

const HOSTS: [&str; 2] = ["ledger.example", "archive.example"];

/// Serves on a fresh port; every answer is its connection's number. `/bye` hangs up after it, `/held` waits until it may go.
async fn numbered(go: watch::Receiver<u64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn_local(async move {
        for number in 1_u64.. {
            let (stream, _) = listener.accept().await.unwrap();
            let go = go.clone();
            spawn_local(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let mut go = go.clone();
                    go.mark_unchanged();
                    async move {
                        if request.uri().path() == "/held" {
                            go.changed().await.ok();
                        }
                        let mut answer = Response::new(Full::new(Bytes::from(number.to_string())));
                        if request.uri().path() == "/bye" {
                            answer.headers_mut().insert(CONNECTION, "close".parse().unwrap());
                        }
                        Ok::<_, Infallible>(answer)
                    }
                });
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    port
}

struct Play {
    clock: Arc<ManualClock>,
    dialer: Dialer<TestBody>,
    go: watch::Sender<u64>,
    workloads: [Option<Arc<Workload>>; 3],
    upstreams: [Arc<Upstream>; 2],
    places: [Destination; 2],
    /// What each connection was opened for.
    opened: BTreeMap<u64, Key>,
    /// Let go, or told to end: used no more.
    over: BTreeSet<u64>,
}

impl Play {
    async fn begin() -> Self {
        let go = watch::Sender::new(0);
        let port = numbered(go.subscribe()).await;
        let (clock, dialer) = dialer();
        let workload = |name: &str| Some(Arc::new(Workload { id: SpiffeId::parse(name).unwrap(), attestation: Attestation::Fixed }));
        Self {
            clock,
            dialer,
            go,
            workloads: [None, workload("spiffe://td.example/a"), workload("spiffe://td.example/b")],
            upstreams: [upstream(|_| {}), upstream(|upstream| upstream.name = "other".into())],
            places: HOSTS.map(|host| destination(Scheme::Http, host, port)),
            opened: BTreeMap::new(),
            over: BTreeSet::new(),
        }
    }

    async fn ask(&self, key: Key, path: &str) -> (Key, bool, u64) {
        let (workload, generation, upstream, place, upgrade) = key;
        let base = hop(&self.upstreams[upstream], &self.places[place]);
        let hop = Hop { generation, workload: self.workloads[workload].as_ref(), upgrade, ..base };
        let mut facts = Facts::default();
        let answer = self.dialer.send(&hop, &mut Some(whole(get(path))), &mut facts, &mut || Ok(())).await.unwrap();
        let body = answer.collect().await.unwrap().to_bytes();
        (key, facts.reused, std::str::from_utf8(&body).unwrap().parse().unwrap())
    }

    /// Requests at one time, each for its key.
    async fn burst(&mut self, keys: &[Key], path: &str) -> Vec<u64> {
        let answers = join_all(keys.iter().map(|key| self.ask(*key, path))).await;
        answers.into_iter().map(|answer| self.judge(answer)).collect()
    }

    fn judge(&mut self, (key, reused, number): (Key, bool, u64)) -> u64 {
        if let Some(known) = self.opened.get(&number) {
            assert_eq!(*known, key, "connection {number} is shared");
            assert!(reused, "connection {number} was there and is called new");
            assert!(!self.over.contains(&number), "connection {number} was let go and is used");
        } else {
            assert!(!reused, "connection {number} is new and is called used");
            self.opened.insert(number, key);
        }
        if key.4 {
            self.over.insert(number);
        }
        number
    }

    /// What is revoked is let go while answers are under way on it.
    async fn revoke_under_way(&mut self, keys: &[Key], workload: usize) {
        let named = self.workloads[workload].clone();
        let let_go = || self.dialer.let_go(|_, one| one.map(|one| &one.id) == named.as_ref().map(|named| &named.id));
        let revoke = async {
            // The requests are on their way by then.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let_go();
            for _ in 0..200 {
                self.go.send_modify(|turn| *turn += 1);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let answers = {
            let mut asking = std::pin::pin!(join_all(keys.iter().map(|key| self.ask(*key, "/held"))));
            tokio::select! {
                answers = &mut asking => answers,
                () = revoke => asking.await,
            }
        };
        let_go();
        for answer in answers {
            self.judge(answer);
        }
        self.over_for(|key| key.0 == workload);
    }

    fn over_for(&mut self, doomed: impl Fn(&Key) -> bool) {
        let gone = self.opened.iter().filter(|(_, key)| doomed(key)).map(|(number, _)| *number);
        self.over.extend(gone);
    }

    async fn step(&mut self, (what, keys): (u8, Vec<Key>)) {
        match what {
            0..=3 => drop(self.burst(&keys, "/").await),
            4 => {
                let ended = self.burst(&keys, "/bye").await;
                self.over.extend(ended);
            }
            5 => {
                let name = Arc::clone(&self.upstreams[keys[0].2].name);
                self.dialer.let_go(|upstream, _| *upstream == *name);
                self.over_for(|key| key.2 == keys[0].2);
            }
            6 => self.revoke_under_way(&keys, keys[0].0).await,
            _ => {
                self.clock.advance(Limits::default().idle);
                self.over_for(|_| true);
            }
        }
    }
}

fn key() -> impl Strategy<Value = Key> {
    (0_usize..3, 1_u64..4, 0_usize..2, 0_usize..2, prop::bool::weighted(0.1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_connection_serves_nothing_but_what_it_was_opened_for(
        steps in proptest::collection::vec((0_u8..8, proptest::collection::vec(key(), 1..6)), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            let mut play = Play::begin().await;
            for step in steps {
                play.step(step).await;
            }
        }));
    }
}
