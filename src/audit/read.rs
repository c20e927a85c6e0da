//! Reading the log back, line by line: what replay, suggestion and promotion learn from.
//!
//! Evidence that was tampered with is none: each line's hash must hold and name the former line. (`exeat audit verify` does more: it
//! checks the seals.) Memory is bounded by the longest line; what `since` leaves out is skipped a whole segment at a time where that can
//! be told. A last line without its end is one that is being written now.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chain::{Head, Link};
use super::recorded::{Entry, Line, Recorded, RecordedEvent};
use super::sinks::segments;
use super::verify::BadLine;
use crate::clock::Timestamp;

/// No line of ours is longer: a head has at most 64 KiB.
pub(super) const LONGEST: u64 = 1 << 20;

/// The lines of one audit path in the order of the chain; an iterator that ends at the first bad line.
#[derive(Debug)]
pub struct Reader {
    files: VecDeque<PathBuf>,
    open: Option<Segment>,
    head: Option<Head>,
    since: Option<Timestamp>,
    line: Vec<u8>,
    failed: bool,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
}

#[derive(Deserialize)]
struct Any {
    kind: Box<str>,
    time: Timestamp,
}

impl Reader {
    /// Opens an audit path (a file, or a directory of segments). Lines of before `since` are left out.
    ///
    /// # Errors
    /// There is no audit file, or it cannot be read.
    pub fn open(path: &Path, since: Option<Timestamp>) -> Result<Self, BadLine> {
        let files = segments(path).map_err(|error| unreadable(path, error.to_string()))?;
        if files.is_empty() {
            return Err(unreadable(path, "no audit file is there".to_owned()));
        }
        let mut reader = Self { files: files.into(), open: None, head: None, since, line: Vec::new(), failed: false };
        reader.skip_old()?;
        Ok(reader)
    }

    /// A passage's time is that of its head, so all of a segment is at least as old as the first line of the next one.
    fn skip_old(&mut self) -> Result<(), BadLine> {
        let Some(since) = self.since else { return Ok(()) };
        while let Some(next) = self.files.get(1) {
            let mut segment = Segment::open(next.clone())?;
            let first = if segment.next(&mut self.line)? { serde_json::from_slice::<Any>(&self.line).ok() } else { None };
            if first.is_none_or(|first| first.time >= since) {
                break;
            }
            self.files.pop_front();
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Line>, BadLine> {
        loop {
            let segment = match &mut self.open {
                Some(segment) => segment,
                None => match self.files.pop_front() {
                    Some(path) => self.open.insert(Segment::open(path)?),
                    None => return Ok(None),
                },
            };
            if !segment.next(&mut self.line)? {
                self.open = None;
                continue;
            }
            let Some(text) = self.line.strip_suffix(b"\n") else {
                if self.files.is_empty() {
                    self.open = None;
                    continue;
                }
                return Err(segment.bad(self.head, "the line is cut off"));
            };
            let link = Link::read(text).ok_or_else(|| segment.bad(self.head, "it has not the form of an audit line"))?;
            if !link.holds() {
                return Err(segment.bad(self.head, "it was changed: its hash does not fit its text"));
            }
            if self.head.is_some_and(|head| head.next != link.seq || head.prev != link.prev) {
                return Err(segment.bad(self.head, "it does not follow the line before it: lines were removed, moved or replaced"));
            }
            self.head = link.head();
            let wrong = |error: serde_json::Error| segment.bad(Some(Head { next: link.seq, prev: [b'0'; 64] }), &error.to_string());
            let any: Any = serde_json::from_slice(text).map_err(wrong)?;
            if self.since.is_some_and(|since| any.time < since) {
                continue;
            }
            let entry = match &*any.kind {
                "access" => Entry::Access(Box::new(serde_json::from_slice::<Recorded>(text).map_err(wrong)?)),
                "event" => Entry::Event(serde_json::from_slice::<RecordedEvent>(text).map_err(wrong)?),
                _ => Entry::Other,
            };
            return Ok(Some(Line { seq: link.seq, time: any.time, entry }));
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Line, BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let stepped = self.step();
        self.failed = stepped.is_err();
        stepped.transpose()
    }
}

impl Segment {
    fn open(path: PathBuf) -> Result<Self, BadLine> {
        let file = File::open(&path).map_err(|error| unreadable(&path, error.to_string()))?;
        Ok(Self { path, reader: BufReader::with_capacity(256 * 1024, file), number: 0 })
    }

    /// Reads one line with its line feed; `false` at the end.
    fn next(&mut self, line: &mut Vec<u8>) -> Result<bool, BadLine> {
        line.clear();
        let read = self.reader.by_ref().take(LONGEST).read_until(b'\n', line).map_err(|error| unreadable(&self.path, error.to_string()))?;
        self.number += 1;
        if line.len() as u64 == LONGEST {
            return Err(self.bad(None, "it is longer than any line of exeat's"));
        }
        Ok(read > 0)
    }

    fn bad(&self, head: Option<Head>, why: &str) -> BadLine {
        BadLine { file: self.path.clone(), line: self.number, seq: head.map_or(0, |head| head.next), why: why.to_owned() }
    }
}

fn unreadable(file: &Path, why: String) -> BadLine {
    BadLine { file: file.to_owned(), line: 0, seq: 0, why }
}
