//! What exeat holds before a flood, and again behind it; and whether good requests go on meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{BOUND, Exeat, Wire};

/// Longest that nine of ten good requests may take beside a flood, and the tenth. A machine that others use as well is slower, and is measured
/// before.
const SOON: Duration = Duration::from_secs(1);
const STALLED: Duration = Duration::from_secs(5);

/// Descriptors, connections, passages and audit places.
#[derive(Debug)]
pub struct Baseline {
    descriptors: Option<usize>,
    pub memory: u64,
}

impl Baseline {
    pub fn of(exeat: &Exeat) -> Self {
        Self { descriptors: exeat.descriptors(), memory: exeat.memory("VmRSS") }
    }

    /// Waits until nothing is left of what was there since: no connection, no passage, no place of a record, no descriptor but those to
    /// upstreams that may be kept. Memory may have grown by `more` KiB.
    pub fn again(&self, exeat: &Exeat, kept: usize, more: u64) {
        let mut last = String::new();
        let began = Instant::now();
        loop {
            let gauges =
                ["exeat_connections", "exeat_passages", "exeat_audit_outstanding"].map(|name| exeat.metric(&[&format!("{name} ")]));
            let descriptors = exeat.descriptors().zip(self.descriptors).map_or(0, |(now, then)| now.saturating_sub(then));
            if gauges.iter().all(|gauge| *gauge < 0.5) && descriptors <= kept {
                break;
            }
            assert!(began.elapsed() < BOUND, "not as it was after {BOUND:?}: {last}");
            last = format!("connections, passages, records: {gauges:?}; {descriptors} descriptors more");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let now = exeat.memory("VmRSS");
        assert!(now < self.memory + more, "it holds {now} KiB, and {} before", self.memory);
    }
}

/// Asks good requests, each on a connection of its own, for as long as `during` takes: each is answered, nine of ten within a second.
pub fn good_requests_go_on<T>(exeat: &Exeat, host: &str, what: &str, during: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let port = exeat.port("mesh");
    let calm = (0..5)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(Wire::tcp(port).ask("GET", "/calm", host, &[("connection", "close")], b"").status, 200);
            began.elapsed()
        })
        .max()
        .unwrap_or_default();
    let (soon, stalled) = (SOON.max(20 * calm), STALLED.max(100 * calm));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut took = Vec::new();
            while took.len() < 10 || !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = Wire::tcp(port).ask("GET", "/good", host, &[("connection", "close")], b"");
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
                took.push(began.elapsed());
                std::thread::park_timeout(Duration::from_millis(10));
            }
            took
        });
        let done = during();
        over.store(true, Ordering::Relaxed);
        let mut took = asking.join().expect("good requests");
        took.sort_unstable();
        let (most, worst) = (took[took.len() * 9 / 10], took[took.len() - 1]);
        println!("{what}: {} good requests, nine of ten within {most:?}, the worst {worst:?}; {calm:?} before", took.len());
        assert!(most < soon && worst < stalled, "{what}: nine of ten good requests took {most:?}, the worst {worst:?}, {calm:?} before");
        done
    })
}
