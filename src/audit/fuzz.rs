//! The log read back: what was changed is never taken for what was written.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::chain::{Head, Link};
use super::samples::{allowed, observed, refused};
use super::{FileOptions, FileSink, Ledger, Options, Reader, shown, verify};
use crate::clock::SystemClock;
use crate::fuzz::{Input, changed};
use crate::refusal::Code;

/// A directory of this process, and the log that it wrote there.
fn world() -> &'static (PathBuf, Vec<u8>) {
    static WORLD: OnceLock<(PathBuf, Vec<u8>)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("exeat-fuzz-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("genuine.jsonl");
        let _none_before = fs::remove_file(&file);
        let sink = FileSink::open(&file, FileOptions::default()).unwrap();
        let ledger = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options::default()).unwrap();
        for access in [allowed(1), refused(2, Code::NoRule), observed(3)] {
            ledger.reserve().unwrap().close(Box::new(access));
        }
        assert!(ledger.stop(Duration::from_secs(20)));
        let text = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        (dir, text)
    })
}

/// A log that somebody changed, lines of somebody's own in a sound chain, or any bytes; the first byte says which.
pub fn audit(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte() % 3;
    let (dir, genuine) = world();
    let text = match how {
        0 => changed(genuine, &mut input),
        1 => chained(input.0),
        _ => input.0.to_vec(),
    };
    let file = dir.join(format!("{:?}.jsonl", std::thread::current().id()).replace(['(', ')'], ""));
    fs::write(&file, &text).unwrap();
    let verified = verify(&file, None);
    let mut read = 0_u64;
    let mut failed = None;
    for line in Reader::open(&file, None).expect("it is there") {
        match line {
            Ok(_) => read += 1,
            Err(bad) => failed = Some(bad),
        }
    }
    fs::remove_file(&file).unwrap();
    if let Ok(report) = &verified {
        assert!(report.lines >= read && (failed.is_some() || report.lines == read), "{report:?}, of which {read} are read");
        assert_eq!(report.lines, u64::try_from(memchr::memchr_iter(b'\n', &text).count()).unwrap());
    }
    if how == 0 {
        let is_beginning = genuine.starts_with(&text) && (text.is_empty() || text.ends_with(b"\n"));
        assert!(verified.is_err() || is_beginning, "a log that was changed is verified");
        let whole_lines = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        assert!(
            failed.is_some() || ends_of(genuine).any(|from| genuine[from..].starts_with(&text[..whole_lines])),
            "a log that was changed is read"
        );
    }
    for line in text.split(|byte| *byte == b'\n').take(64) {
        if let Some(link) = Link::read(line) {
            assert!(link.body.len() < line.len() && link.prev.len() == 64 && link.hash.len() == 64);
        }
        assert!(!shown(&String::from_utf8_lossy(line)).chars().any(char::is_control));
    }
}

/// Where lines begin.
fn ends_of(text: &[u8]) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(memchr::memchr_iter(b'\n', text).map(|at| at + 1))
}

/// Each line as the rest of a line of a sound chain.
fn chained(data: &[u8]) -> Vec<u8> {
    let mut head = Head::START;
    let mut text = Vec::new();
    for line in data.split(|byte| *byte == b'\n').take(32) {
        let from = text.len();
        head.begin(&mut text);
        text.extend_from_slice(line);
        head.end(&mut text, from);
    }
    text
}
