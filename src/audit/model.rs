//! Completeness: whatever becomes of a passage, there is exactly one record of it, and a process that is killed loses none that it told of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::samples::{allowed, observed, refused};
use super::*;
use crate::clock::SystemClock;
use crate::refusal::Code;

const LONG: Duration = Duration::from_secs(20);

/// What becomes of a passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Allowed,
    Refused,
    Observed,
    /// It lives long, and ends.
    Opened,
    /// Its task went away without a word.
    Dropped,
    /// The same, after it was told of.
    OpenedAndDropped,
    /// The process is killed while it lives.
    Killed,
    /// The same, after it was told of.
    OpenedAndKilled,
}

const FATES: [Fate; 8] = [
    Fate::Allowed,
    Fate::Refused,
    Fate::Observed,
    Fate::Opened,
    Fate::Dropped,
    Fate::OpenedAndDropped,
    Fate::Killed,
    Fate::OpenedAndKilled,
];

fn start(path: &Path, outstanding: usize) -> Ledger {
    let sink = FileSink::open(path, FileOptions { segment: 20_000, ..FileOptions::default() }).unwrap();
    Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options { outstanding, ..Options::default() }).unwrap()
}

/// The lines that end something, as (kind, id), over all segments; and how many refusals the gaps tell of.
fn told(dir: &Path) -> (BTreeMap<(String, String), u32>, u64) {
    let (mut told, mut gaps) = (BTreeMap::new(), 0);
    for file in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        for line in fs::read_to_string(file).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let kind = line["kind"].as_str().unwrap();
            match kind {
                "access" | "lost" | "abandoned" => {
                    *told.entry((kind.to_owned(), line["id"].as_str().unwrap_or_default().to_owned())).or_insert(0) += 1;
                }
                "gap" => gaps += line["refused"].as_u64().unwrap(),
                _ => {}
            }
        }
    }
    (told, gaps)
}

/// Lines of passages that are there by now; the last one may be half written.
fn lines_of_passages(dir: &Path) -> usize {
    let files = fs::read_dir(dir).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap_or_default());
    let is_one = |line: &[u8]| {
        let kind = serde_json::from_slice::<Value>(line).ok().and_then(|line| Some(line["kind"].as_str()?.to_owned()));
        matches!(kind.as_deref(), Some("access" | "opened" | "abandoned"))
    };
    files.map(|text| text.split(|byte| *byte == b'\n').filter(|line| is_one(line)).count()).sum()
}

fn name(id: u128) -> String {
    format!("{id:032x}")
}

/// Goes through a passage; what is still alive is given back.
fn passage(ledger: &Ledger, id: u128, fate: Fate) -> Option<Slot> {
    let slot = ledger.reserve().ok()?;
    match fate {
        Fate::Allowed => slot.close(Box::new(allowed(id))),
        Fate::Refused => slot.close(Box::new(refused(id, Code::NoRule))),
        Fate::Observed => slot.close(Box::new(observed(id))),
        Fate::Opened => {
            slot.opened(&allowed(id));
            slot.close(Box::new(allowed(id)));
        }
        Fate::Dropped => drop(slot),
        Fate::OpenedAndDropped => {
            slot.opened(&allowed(id));
            drop(slot);
        }
        Fate::Killed => return Some(slot),
        Fate::OpenedAndKilled => {
            slot.opened(&allowed(id));
            return Some(slot);
        }
    }
    None
}

/// Copies the files as they are at one moment; not, where they changed meanwhile.
fn copied(from: &Path, to: &Path) -> bool {
    let listed = || {
        let entries = fs::read_dir(from).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name(), entry.metadata().map_or(0, |data| data.len()))).collect::<BTreeMap<_, _>>()
    };
    let before = listed();
    for entry in fs::read_dir(to).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let all = before.keys().all(|name| fs::copy(from.join(name), to.join(name)).is_ok());
    all && listed() == before
}

/// Waits for what the writer does within milliseconds.
fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if done() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    panic!("it did not happen within eight seconds");
}

#[test]
fn passages_of_many_threads_give_one_record_each_and_refusals_are_counted() {
    const THREADS: u128 = 4;
    const EACH: u128 = 400;
    let dir = tempfile::tempdir().unwrap();
    let ledger = start(dir.path(), 8);
    let workers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let ledger = ledger.clone();
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                for number in 0..EACH {
                    let id = 1 + thread * EACH + number;
                    let fate = FATES[usize::try_from((number * 7 + thread) % 6).unwrap()];
                    let before = ledger.standing();
                    assert!(before.outstanding <= before.limit + usize::try_from(THREADS).unwrap(), "{before:?}");
                    let Ok(slot) = ledger.reserve() else { continue };
                    kept.push((id, fate));
                    match fate {
                        Fate::Dropped => drop(slot),
                        Fate::OpenedAndDropped => {
                            slot.opened(&allowed(id));
                            drop(slot);
                        }
                        Fate::Opened => {
                            slot.opened(&allowed(id));
                            slot.close(Box::new(allowed(id)));
                        }
                        Fate::Allowed | Fate::Refused | Fate::Observed | Fate::Killed | Fate::OpenedAndKilled => {
                            slot.close(Box::new(allowed(id)));
                        }
                    }
                }
                kept
            })
        })
        .collect();
    let kept: Vec<_> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    let refusals = ledger.standing().refused;
    assert_eq!(kept.len() as u64 + refusals, u64::try_from(THREADS * EACH).unwrap());
    until(|| ledger.standing().outstanding == 0);
    assert!(ledger.stop(LONG));
    let (told, gaps) = told(dir.path());
    let closed = |fate: &Fate| !matches!(fate, Fate::Dropped | Fate::OpenedAndDropped);
    for (id, fate) in &kept {
        let records = told.get(&("access".to_owned(), name(*id))).copied().unwrap_or(0);
        assert_eq!(records, u32::from(closed(fate)), "{fate:?}");
    }
    let abandoned: u32 = told.iter().filter(|((kind, _), _)| kind == "abandoned").map(|(_, count)| count).sum();
    assert_eq!(abandoned as usize, kept.iter().filter(|(_, fate)| !closed(fate)).count(), "a passage without a word shows");
    assert_eq!(gaps, refusals, "what was refused for want of a record is counted in one");
    let report = verify(dir.path(), None).unwrap();
    assert!(report.sealed && report.lost == 0, "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Lives of one process after the other, each killed but the last; sometimes in the middle of a line.
    #[test]
    fn every_history_is_complete_over_kills(
        lives in proptest::collection::vec((proptest::collection::vec(0_usize..8, 0..40), 0_usize..300), 1..4),
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut dir = root.path().join("0");
        let (mut id, mut expected) = (0_u128, BTreeMap::new());
        let mut expect = |kind: &str, id: u128| {
            expected.insert((kind.to_owned(), name(id)), 1_u32);
        };
        for (number, (fates, cut)) in lives.iter().enumerate() {
            let ledger = start(&dir, 1_000);
            let begun = lines_of_passages(&dir);
            let (mut alive, mut lines) = (Vec::new(), 0);
            for fate in fates {
                id += 1;
                let fate = FATES[*fate];
                alive.extend(passage(&ledger, id, fate));
                lines += match fate {
                    Fate::Opened | Fate::OpenedAndDropped => 2,
                    Fate::Killed => 0,
                    Fate::Allowed | Fate::Refused | Fate::Observed | Fate::Dropped | Fate::OpenedAndKilled => 1,
                };
                match fate {
                    Fate::Allowed | Fate::Refused | Fate::Observed | Fate::Opened => expect("access", id),
                    Fate::OpenedAndDropped => expect("abandoned", id),
                    Fate::OpenedAndKilled => expect("lost", id),
                    Fate::Dropped | Fate::Killed => {}
                }
            }
            until(|| lines_of_passages(&dir) == begun + lines);
            // What a killed process leaves: the files as they are, and a part of a line that was being written.
            let next = root.path().join(format!("{}", number + 1));
            fs::create_dir(&next).unwrap();
            while !copied(&dir, &next) {}
            let active = next.join("audit.jsonl");
            let part = br#"{"kind":"access","id":"00","seq":7,"prev":"00000000000000000000000000000000"#;
            fs::write(&active, [fs::read(&active).unwrap_or_default(), part[..cut % part.len()].to_vec()].concat()).unwrap();
            drop(alive);
            prop_assert!(ledger.stop(LONG));
            dir = next;
        }
        prop_assert!(start(&dir, 1_000).stop(LONG));
        let (mut told, _) = told(&dir);
        // One that was dropped without ever being told of has no name.
        told.retain(|(_, id), _| !id.is_empty());
        let wrong: Vec<_> = told.iter().filter(|one| expected.get(one.0) != Some(one.1)).collect();
        let missing: Vec<_> = expected.keys().filter(|one| !told.contains_key(*one)).collect();
        prop_assert!(wrong.is_empty() && missing.is_empty(), "not expected: {wrong:?}; missing: {missing:?}");
        let report = verify(&dir, None).unwrap();
        prop_assert!(report.sealed);
        prop_assert_eq!(report.starts, lives.len() as u64 + 1);
    }
}
