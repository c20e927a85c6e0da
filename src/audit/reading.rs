//! The log read back: what was written is what is read, and what was changed is not evidence.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::samples::{allowed, observed, refused};
use super::*;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::refusal::Code;

fn write(path: &Path, options: FileOptions, records: impl IntoIterator<Item = Access>) {
    let sink = FileSink::open(path, options).unwrap();
    let ledger = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options::default()).unwrap();
    for access in records {
        ledger.reserve().unwrap().close(Box::new(access));
    }
    assert!(ledger.stop(Duration::from_secs(20)));
}

fn accesses(path: &Path, since: Option<Timestamp>) -> Vec<(Timestamp, Recorded)> {
    let lines = Reader::open(path, since).unwrap().map(Result::unwrap);
    let access = |line: Line| match line.entry {
        Entry::Access(access) => Some((line.time, *access)),
        Entry::Event(_) | Entry::Other => None,
    };
    lines.filter_map(access).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn what_was_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    write(&file, FileOptions::default(), [allowed(1), refused(2, Code::NoRule), observed(3)]);
    let found = accesses(&file, None);
    assert_eq!(found.len(), 3);
    let (time, first) = &found[0];
    assert_eq!(time.to_string(), "2026-11-06T21:20:00.001234Z");
    assert_eq!(first.workload.as_deref(), Some("spiffe://prod.example/ns/billing/sa/app"));
    assert_eq!((first.peer.uid, first.peer.address.map(|address| address.port())), (Some(1001), Some(40312)));
    assert_eq!((first.upstream.as_deref(), first.destination.as_deref()), (Some("ledger"), Some("https://ledger.internal.example:8443")));
    assert_eq!((&*first.method, &*first.path, &*first.decision), ("POST", "/v1/entries", "allow"));
    assert_eq!(first.rule.as_deref(), Some("billing/read-entries"));
    assert_eq!((first.status, first.credential.as_ref().map(|credential| &*credential.name)), (Some(201), Some("ledger-jwt")));
    assert_eq!((&*found[1].1.decision, found[1].1.code.as_deref()), ("deny", Some("no_rule")));
    let would = found[2].1.would_be.as_ref().unwrap();
    assert_eq!((&*would.outcome, would.code.as_deref(), found[2].1.stage.as_deref()), ("refused", Some("no_rule"), Some("observe")));
}

#[test]
fn a_window_of_time_skips_whole_segments_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records");
    let began = SystemClock.now().as_second();
    // Written now, of requests that began at any time: only a record's own time counts.
    let records = (0..3_000_u32).map(|at| Access { time: self::at(began - 3_000 + i64::from(at)), ..allowed(u128::from(at)) });
    for batch in records.collect::<Vec<_>>().chunks_mut(500) {
        let batch = batch.iter().map(|access| Access { time: access.time, ..allowed(access.id) });
        write(&path, FileOptions { segment: 64 * 1024, ..FileOptions::default() }, batch);
    }
    assert!(fs::read_dir(&path).unwrap().count() > 3, "several segments");
    assert_eq!(accesses(&path, None).len(), 3_000);
    assert_eq!(accesses(&path, Some(at(began - 100))).len(), 100);
    assert_eq!(accesses(&path, Some(at(began + 1_000))).len(), 0);
}

#[test]
fn what_was_changed_is_no_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    write(&file, FileOptions::default(), (0..5).map(allowed));
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let bad = |text: String| {
        let forged = dir.path().join("forged.jsonl");
        fs::write(&forged, text).unwrap();
        Reader::open(&forged, None).unwrap().find_map(Result::err).map(|bad| (bad.line, bad.why))
    };
    assert_eq!(bad(text.clone()), None);
    assert_eq!(bad(text.replacen("/v1/entries", "/v1/secrets", 1)).unwrap().0, 2);
    let without: Vec<&str> = lines.iter().enumerate().filter(|(at, _)| *at != 3).map(|(_, line)| *line).collect();
    assert_eq!(bad(without.join("\n") + "\n").unwrap().0, 4, "a removed line");
    assert_eq!(bad(format!("{text}{{\"seq\":9,\"prev\":\"00")), None, "a line that is being written");
    assert_eq!(bad(format!("{text}not a line\n")).unwrap().1, "it has not the form of an audit line");
    assert!(bad(text + &"x".repeat(2 << 20)).unwrap().1.contains("longer"));
    assert!(verify(&dir.path().join("forged.jsonl"), None).unwrap_err().why.contains("longer"), "whoever verifies it is no more patient");
    assert!(Reader::open(&dir.path().join("absent.jsonl"), None).unwrap_err().to_string().contains("no audit file"));
}

#[test]
fn what_hides_in_a_text_is_shown() {
    assert_eq!(shown("/v1/a b"), "/v1/a b");
    assert_eq!(shown("/\u{1b}[2J\n\u{202e}x"), "/\\u{1b}[2J\\u{a}\\u{202e}x");
    assert_eq!(shown("/größe"), "/größe");
}

proptest! {
    #[test]
    fn bytes_of_anybody_break_no_reader(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        fs::write(&file, bytes).unwrap();
        prop_assert!(Reader::open(&file, None).unwrap().filter_map(Result::ok).count() == 0);
    }

    #[test]
    fn what_is_shown_never_steers_a_terminal(text in "\\PC*|.*") {
        let shown = shown(&text).into_owned();
        prop_assert!(!shown.chars().any(char::is_control));
    }
}
