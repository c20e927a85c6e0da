//! The ledger from the outside: slots, order, orphans, failure, tampering.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::samples::{CANARY, allowed, observed, refused};
use super::*;
use crate::capture::Peer;
use crate::clock::SystemClock;
use crate::refusal::Code;
use crate::secret::FingerprintKey;

const LONG: Duration = Duration::from_secs(20);

fn start(path: &Path, options: FileOptions, key: Option<FingerprintKey>) -> Ledger {
    let sink = FileSink::open(path, options).unwrap();
    Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options { seal: key, ..Options::default() }).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits for something that the writer does within milliseconds; no test depends on how long it takes.
fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    panic!("it did not happen within ten seconds");
}

fn kinds(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_passage_gives_one_line_with_its_fields() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let seen = Arc::new(AtomicUsize::new(0));
    let observer = Arc::clone(&seen);
    let sink = FileSink::open(&file, FileOptions::default()).unwrap();
    let observer = move |_: &Circumstances<'_>| {
        observer.fetch_add(1, Ordering::Relaxed);
    };
    let ledger = Ledger::start(Box::new(sink), observer, Arc::new(SystemClock), Options::default()).unwrap();
    ledger.event(Event::Started { version: "0.1.0", revision: 1, policy: "p".into() });
    for access in [allowed(1), refused(2, Code::Denied), observed(3)] {
        ledger.reserve().unwrap().close(Box::new(access));
    }
    ledger.edge(&"egress".into(), Peer::Unix { uid: 1, gid: 2, pid: Some(3) }, Code::Malformed, 4, "head: \"\u{1}\"");
    assert!(ledger.stop(LONG));
    assert_eq!(kinds(&file), ["seal", "event", "access", "access", "access", "edge", "seal"]);
    let lines = lines(&file);
    let line = &lines[2];
    assert_eq!(line["id"], "00000000000000000000000000000001");
    assert_eq!(line["time"], "2026-11-06T21:20:00.001234Z");
    assert_eq!(line["workload"]["id"], "spiffe://prod.example/ns/billing/sa/app");
    assert_eq!(line["destination"], "https://ledger.internal.example:8443");
    assert_eq!(line["rule"]["place"], "billing.yaml:14:5");
    assert_eq!(line["credential"]["scopes"], serde_json::json!(["entries:read"]));
    assert_eq!(line["credential"]["expires"], "2026-11-06T21:21:00.000000Z");
    assert_eq!(line["findings"][0]["place"], "header:authorization");
    assert_eq!(line["attempts"][0]["address"], "10.0.0.5:8443");
    assert_eq!(line["durations"]["total"], 2500);
    assert_eq!((&line["outcome"], &line["decision"]), (&"allowed".into(), &"allow".into()));
    assert_eq!((&lines[3]["code"], &lines[3]["decision"]), (&"denied".into(), &"deny".into()));
    assert_eq!((&lines[4]["decision"], &lines[4]["would_be"]["code"]), (&"shadow_deny".into(), &"no_rule".into()));
    assert_eq!((&lines[5]["count"], &lines[5]["outcome"], &lines[5]["code"]), (&4.into(), &"refused".into(), &"malformed".into()));
    assert_eq!(lines[5]["detail"], "head: \"\u{1}\"");
    assert_eq!(seen.load(Ordering::Relaxed), 3);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(CANARY), "no secret in any line");
    let report = verify(&file, None).unwrap();
    assert_eq!((report.lines, report.accesses, report.sealed, report.seams), (7, 3, true, 0));
}

#[test]
fn a_file_is_for_its_owner_and_for_one_process() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records");
    let ledger = start(&path, FileOptions::default(), None);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("audit.jsonl"))), (0o700, 0o600));
    let second = FileSink::open(&path, FileOptions::default()).unwrap_err().to_string();
    assert!(second.contains("another process writes it"), "{second}");
    assert!(ledger.stop(LONG));
}

#[test]
fn slots_are_scarce_once_half_of_them_are_taken() {
    for (outstanding, expected) in [(1, vec![None]), (2, vec![None, Some(1)]), (5, vec![None, None, None, Some(3), Some(3)])] {
        let dir = tempfile::tempdir().unwrap();
        let sink = FileSink::open(dir.path(), FileOptions::default()).unwrap();
        let ledger = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options { outstanding, ..Options::default() }).unwrap();
        let slots: Vec<_> = (0..outstanding).map(|_| ledger.reserve().unwrap()).collect();
        assert_eq!(slots.iter().map(Slot::most_of_one).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn slots_are_bounded_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let sink = FileSink::open(dir.path(), FileOptions::default()).unwrap();
    let options = Options { outstanding: 2, ..Options::default() };
    let ledger = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), options).unwrap();
    let (first, second) = (ledger.reserve().unwrap(), ledger.reserve().unwrap());
    assert_eq!(ledger.reserve().unwrap_err().code, Code::AuditUnavailable);
    assert_eq!(ledger.standing().outstanding, 2);
    first.close(Box::new(allowed(1)));
    until(|| ledger.standing().outstanding == 1);
    drop(ledger.reserve().unwrap());
    second.close(Box::new(allowed(2)));
    assert!(ledger.stop(LONG));
    assert!(ledger.reserve().is_err(), "a closed ledger admits nobody");
    let found = kinds(&dir.path().join("audit.jsonl"));
    assert_eq!(found.iter().filter(|kind| *kind == "abandoned").count(), 1, "a dropped slot shows");
    assert_eq!(found.iter().filter(|kind| *kind == "gap").count(), 1, "a refusal without a record is counted in one");
}

#[test]
fn open_passages_of_a_killed_process_are_closed_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let ledger = start(&file, FileOptions::default(), None);
    let (closed, open) = (ledger.reserve().unwrap(), ledger.reserve().unwrap());
    closed.opened(&allowed(1));
    open.opened(&allowed(2));
    open.opened(&allowed(2));
    closed.close(Box::new(allowed(1)));
    until(|| kinds(&file).len() == 4);
    // What the process leaves behind when it is killed in the middle of a line.
    let killed = dir.path().join("killed.jsonl");
    fs::write(&killed, [fs::read(&file).unwrap(), b"{\"seq\":4,\"prev\":\"00".to_vec()].concat()).unwrap();
    open.close(Box::new(allowed(2)));
    assert!(ledger.stop(LONG));

    let cut = verify(&killed, None).unwrap_err();
    assert_eq!((cut.seq, cut.line), (4, 5), "{cut}");
    let again = start(&killed, FileOptions::default(), None);
    assert_eq!(again.standing().written, 6, "what a former process wrote, and the start's own lines, are counted from the beginning");
    assert!(again.stop(LONG));
    let lines = lines(&killed);
    assert_eq!((&lines[4]["at"], &lines[4]["cut"]), (&"start".into(), &19.into()));
    assert_eq!((&lines[5]["kind"], &lines[5]["opened"]), (&"lost".into(), &2.into()));
    assert_eq!(lines[5]["id"], "00000000000000000000000000000002");
    let report = verify(&killed, None).unwrap();
    assert_eq!((report.lost, report.seams, report.starts, report.sealed), (1, 1, 2, true));
}

#[test]
fn a_kill_between_two_segments_loses_no_open_passage() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = start(&dir.path().join("audit.jsonl"), FileOptions::default(), None);
    let open = ledger.reserve().unwrap();
    open.opened(&allowed(7));
    until(|| kinds(&dir.path().join("audit.jsonl")).len() == 2);
    // The full segment has its new name, and the next one has no line yet.
    let killed = dir.path().join("killed");
    fs::create_dir(&killed).unwrap();
    fs::copy(dir.path().join("audit.jsonl"), killed.join("audit-00000000000000000000.jsonl")).unwrap();
    open.close(Box::new(allowed(7)));
    assert!(ledger.stop(LONG));
    assert!(start(&killed, FileOptions::default(), None).stop(LONG));
    let lines = lines(&killed.join("audit.jsonl"));
    assert_eq!((&lines[1]["kind"], &lines[1]["id"]), (&"lost".into(), &"00000000000000000000000000000007".into()));
    assert_eq!(verify(&killed, None).unwrap().lost, 1);
}

#[test]
fn full_segments_are_closed_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileOptions { segment: 3_000, ..FileOptions::default() };
    let ledger = start(dir.path(), options, None);
    let tunnel = ledger.reserve().unwrap();
    tunnel.opened(&allowed(99));
    for id in 0..12 {
        let written = ledger.standing().written;
        ledger.reserve().unwrap().close(Box::new(allowed(id)));
        until(|| ledger.standing().written > written);
    }
    until(|| dir.path().read_dir().unwrap().count() >= 3);
    tunnel.close(Box::new(allowed(99)));
    assert!(ledger.stop(LONG));
    let report = verify(dir.path(), None).unwrap();
    assert!(report.segments >= 3 && report.sealed, "{report:?}");
    assert_eq!(report.accesses, 13);
    let last = lines(&dir.path().join("audit.jsonl"));
    assert_eq!((&last[0]["at"], &last[0]["open"][0]), (&"segment".into(), &"00000000000000000000000000000063".into()));
    let ledger = start(dir.path(), options, None);
    assert!(ledger.stop(LONG));
    let again = verify(dir.path(), None).unwrap();
    assert_eq!((again.starts, again.seams, again.lost), (2, 0, 0));
}

#[test]
fn a_log_is_verified_while_its_segments_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = start(dir.path(), FileOptions { segment: 3_000, ..FileOptions::default() }, None);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in (0..20_000).take_while(|_| !stop.load(Ordering::Relaxed)) {
                if let Ok(slot) = ledger.reserve() {
                    slot.close(Box::new(allowed(id)));
                }
            }
        });
        until(|| dir.path().read_dir().unwrap().count() >= 3);
        for _ in 0..20 {
            match verify(dir.path(), None) {
                Ok(report) => assert!(report.first == 0 && report.lines > 0),
                // Its end was on its way.
                Err(bad) => assert_eq!(bad.why, "the line is cut off"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(ledger.stop(LONG));
    assert!(verify(dir.path(), None).unwrap().segments > 10);
}

/// Fails as long as it is told to.
#[derive(Debug, Clone, Default)]
struct Flaky {
    broken: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl AuditSink for Flaky {
    fn tail(&mut self) -> Result<Tail, SinkError> {
        Ok(Tail::default())
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(SinkError { place: "disk".into(), why: "no space left".into() });
        }
        self.kept.lock().unwrap().extend_from_slice(lines);
        Ok(())
    }

    fn sync(&mut self, _now: bool) -> Result<(), SinkError> {
        Ok(())
    }
}

#[test]
fn a_failed_sink_refuses_and_recovers_without_losing_a_record() {
    let sink = Flaky::default();
    let ledger = Ledger::start(Box::new(sink.clone()), |_| {}, Arc::new(SystemClock), Options::default()).unwrap();
    let (one, two) = (ledger.reserve().unwrap(), ledger.reserve().unwrap());
    sink.broken.store(true, Ordering::Release);
    one.close(Box::new(allowed(1)));
    until(|| !ledger.standing().available);
    assert_eq!(ledger.standing().failure.as_deref(), Some("audit sink disk: no space left"));
    assert_eq!(ledger.reserve().unwrap_err().code, Code::AuditUnavailable);
    two.close(Box::new(allowed(2)));
    sink.broken.store(false, Ordering::Release);
    until(|| ledger.standing().available);
    ledger.reserve().unwrap().close(Box::new(allowed(3)));
    assert!(ledger.stop(LONG));
    let text = String::from_utf8(sink.kept.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| line["kind"] == "access").count(), 3);
    let gap = lines.iter().find(|line| line["kind"] == "gap").unwrap();
    assert_eq!(gap["refused"], 1);
    assert_eq!(ledger.standing().outstanding, 0);
}

#[test]
fn a_removed_file_is_begun_anew_and_the_seam_shows() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let ledger = start(&file, FileOptions::default(), None);
    fs::remove_file(&file).unwrap();
    ledger.reserve().unwrap().close(Box::new(allowed(1)));
    assert!(ledger.stop(LONG));
    let bad = verify(&file, None).unwrap_err();
    assert!(bad.why.contains("what stood before was removed"), "{bad}");
}

#[test]
fn a_chain_that_does_not_hold_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    assert!(start(&file, FileOptions::default(), None).stop(LONG));
    let text = fs::read_to_string(&file).unwrap().replace("\"at\":\"stop\"", "\"at\":\"stop!\"");
    fs::write(&file, text).unwrap();
    let sink = FileSink::open(&file, FileOptions::default()).unwrap();
    let error = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options::default()).unwrap_err();
    assert!(error.to_string().contains("exeat audit verify"), "{error}");
}

fn chain_of_ten(dir: &Path, key: [u8; 32]) -> Vec<String> {
    let file = dir.join("whole.jsonl");
    let ledger = start(&file, FileOptions::default(), Some(FingerprintKey::new(&key)));
    for id in 1..9 {
        ledger.reserve().unwrap().close(Box::new(allowed(id)));
    }
    assert!(ledger.stop(LONG));
    fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn tampering_is_named_at_its_first_index() {
    let dir = tempfile::tempdir().unwrap();
    let whole = chain_of_ten(dir.path(), [1; 32]);
    assert_eq!(whole.len(), 10);
    let file = dir.path().join("tampered.jsonl");
    let judge = |lines: &[String]| {
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        verify(&file, None)
    };
    assert!(judge(&whole).unwrap().sealed);
    for at in 0..10 {
        let mut changed = whole.clone();
        changed[at] = changed[at].replacen("2026-", "2025-", 1).replacen("\"seal\"", "\"leas\"", 1);
        assert_eq!(judge(&changed).unwrap_err().seq, at as u64, "altered {at}");
        let mut prev = whole.clone();
        let from = prev[at].find("\"prev\":\"").unwrap() + 8;
        prev[at].replace_range(from..=from, "z");
        assert_eq!(judge(&prev).unwrap_err().seq, at as u64, "prev of {at}");
        let mut doubled = whole.clone();
        doubled.insert(at, whole[at].clone());
        assert_eq!(judge(&doubled).unwrap_err().seq, at as u64 + 1, "doubled {at}");
        let mut less = whole.clone();
        less.remove(at);
        match judge(&less) {
            Err(bad) => assert_eq!(bad.seq, at as u64, "removed {at}"),
            Ok(report) => assert!(at == 9 && !report.sealed, "only the end can go, and then the seal is gone"),
        }
        if at < 9 {
            let mut swapped = whole.clone();
            swapped.swap(at, at + 1);
            assert_eq!(judge(&swapped).unwrap_err().seq, at as u64, "swapped {at}");
        }
        let mut cut = whole.clone();
        cut.truncate(at + 1);
        let half = cut[at].len() / 2;
        cut[at].truncate(half);
        assert_eq!(judge(&cut).unwrap_err().seq, at as u64, "cut inside {at}");
        if (1..9).contains(&at) {
            assert!(!judge(&whole[..at]).unwrap().sealed, "cut behind {at}");
        }
        if at > 0 {
            assert_eq!(judge(&whole[at..]).unwrap_err().seq, 0, "began at {at}");
        }
    }
}

#[test]
fn a_line_written_anew_is_named_by_its_successor_and_a_chain_written_anew_by_its_seals() {
    let dir = tempfile::tempdir().unwrap();
    let whole = chain_of_ten(dir.path(), [1; 32]);
    let file = dir.path().join("forged.jsonl");
    // A forger who knows the format: new text, new hash, and on to the end.
    let forge = |until: usize| {
        let mut forged: Vec<String> = whole.clone();
        let mut prev = None::<String>;
        for line in forged.iter_mut().take(until).skip(4) {
            let mut body = line.split_at(line.rfind(",\"hash\"").unwrap()).0.replace("entries", "secrets");
            if let Some(prev) = &prev {
                let from = body.find("\"prev\":\"").unwrap() + 8;
                body.replace_range(from..from + 64, prev);
            }
            let hash = blake3::hash(body.as_bytes()).to_hex().to_string();
            *line = format!("{body},\"hash\":\"{hash}\"}}");
            prev = Some(hash);
        }
        fs::write(&file, forged.join("\n") + "\n").unwrap();
    };
    forge(5);
    assert_eq!(verify(&file, None).unwrap_err().seq, 4);
    forge(10);
    assert!(verify(&file, None).is_ok(), "without the key nothing is left to see");
    let key = FingerprintKey::new(&[1; 32]);
    let bad = verify(&file, Some(&key)).unwrap_err();
    assert_eq!(bad.seq, 9);
    assert!(bad.why.contains("key"), "{bad}");
    assert_eq!(verify(&dir.path().join("whole.jsonl"), Some(&key)).unwrap().keyed, 2);
}

#[test]
fn hands_of_many_workers_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = start(dir.path(), FileOptions::default(), None);
    std::thread::scope(|scope| {
        for worker in 0..4_u128 {
            let ledger = ledger.clone();
            scope.spawn(move || {
                for id in 0..250 {
                    let slot = loop {
                        if let Ok(slot) = ledger.reserve() {
                            break slot;
                        }
                    };
                    slot.close(Box::new(allowed(worker << 64 | id)));
                }
            });
        }
    });
    assert!(ledger.stop(LONG));
    let found = lines(&dir.path().join("audit.jsonl"));
    let ids: std::collections::BTreeSet<_> = found.iter().filter_map(|line| line["id"].as_str()).collect();
    assert_eq!(ids.len(), 1_000);
    assert_eq!(verify(dir.path(), None).unwrap().accesses, 1_000);
}
