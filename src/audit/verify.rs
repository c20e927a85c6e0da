//! Verifying a chain: reads every line of every segment and names the first one that is bad.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::chain::{Head, Link};
use super::read::LONGEST;
use super::seal::{At, mac_holds};
use super::sinks::segments;
use crate::secret::FingerprintKey;

/// What a whole chain holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files read.
    pub segments: u64,
    /// Lines in them.
    pub lines: u64,
    /// Number of the first line: above 0 when older segments were moved away.
    pub first: u64,
    /// Number of the last line.
    pub last: u64,
    /// Hash of the last line: the operator's log and `exeat status` show what it was when the process still ran.
    pub head: String,
    /// Finished passages.
    pub accesses: u64,
    /// Passages that a process left unfinished.
    pub lost: u64,
    /// Starts of a process.
    pub starts: u64,
    /// Starts that did not find a `stop` seal: a crash, or lines that were cut off.
    pub seams: u64,
    /// Seals whose `mac` was checked and holds.
    pub keyed: u64,
    /// The last line is a `stop` seal. If not, the process still runs, was killed, or the end was cut off.
    pub sealed: bool,
}

/// The first bad line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: record {seq} is bad: {why}", file.display())]
pub struct BadLine {
    /// The segment.
    pub file: PathBuf,
    /// Its line, from 1; 0 when the file itself cannot be read.
    pub line: u64,
    /// The number that the chain has at this place.
    pub seq: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Verifies the chain at an audit path (a file or a directory of segments); with the installation's key also the seals.
///
/// # Errors
/// The first line that does not fit, or a file that cannot be read.
pub fn verify(path: &Path, key: Option<&FingerprintKey>) -> Result<Report, BadLine> {
    let (files, active) = listed(path)?;
    let mut active = Some(active);
    let mut walk = Walk { key, head: None, report: Report::default(), former: None };
    let last = files.len().saturating_sub(1);
    for (nth, file) in files.into_iter().enumerate() {
        walk.report.segments += 1;
        let opened = active.take_if(|_| nth == last).map_or_else(|| File::open(&file), Ok);
        let mut reader = BufReader::new(opened.map_err(|error| unreadable(&file, &error))?);
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            // A file that somebody else wrote must not fill the memory of whoever looks at it.
            if reader.by_ref().take(LONGEST).read_until(b'\n', &mut line).map_err(|error| unreadable(&file, &error))? == 0 {
                break;
            }
            number += 1;
            if line.len() as u64 == LONGEST {
                let seq = walk.head.map_or(0, |head| head.next);
                return Err(BadLine { file, line: number, seq, why: "it is longer than any line of exeat's".to_owned() });
            }
            walk.step(&file, number, &line)?;
        }
    }
    Ok(walk.report)
}

fn unreadable(file: &Path, why: &dyn std::fmt::Display) -> BadLine {
    BadLine { file: file.to_owned(), line: 0, seq: 0, why: why.to_string() }
}

/// The files of a chain in order, the last of them opened: while a process writes, it closes that one under its name and begins another, and
/// what was listed before would be looked for in the wrong place.
fn listed(path: &Path) -> Result<(Vec<PathBuf>, File), BadLine> {
    let found = || segments(path).map_err(|error| unreadable(path, &error));
    let mut files = found()?;
    loop {
        let Some(last) = files.last() else { return Err(unreadable(path, &"no audit file is there")) };
        let active = File::open(last);
        let again = found()?;
        if again == files {
            let active = active.map_err(|error| unreadable(last, &error))?;
            return Ok((files, active));
        }
        files = again;
    }
}

struct Walk<'a> {
    key: Option<&'a FingerprintKey>,
    head: Option<Head>,
    report: Report,
    /// Where the former line stands.
    former: Option<(PathBuf, u64)>,
}

impl Walk<'_> {
    fn step(&mut self, file: &Path, number: u64, text: &[u8]) -> Result<(), BadLine> {
        let expected = self.head.map_or(0, |head| head.next);
        let bad = |why: &str| BadLine { file: file.to_owned(), line: number, seq: expected, why: why.to_owned() };
        let Some(text) = text.strip_suffix(b"\n") else { return Err(bad("the line is cut off")) };
        let link = Link::read(text).ok_or_else(|| bad("it has not the form of an audit line"))?;
        if !link.holds() {
            return Err(bad("it was changed: its hash does not fit its text"));
        }
        self.check_place(&link, &bad)?;
        self.count(&link, &bad)?;
        self.head = link.head();
        self.former = Some((file.to_owned(), number));
        self.report.lines += 1;
        self.report.last = link.seq;
        self.report.head = String::from_utf8_lossy(link.hash).into_owned();
        Ok(())
    }

    fn check_place(&mut self, link: &Link<'_>, bad: &impl Fn(&str) -> BadLine) -> Result<(), BadLine> {
        let Some(head) = self.head else {
            let begins = link.kind() == b"seal" && [At::Start.name(), At::Segment.name()].contains(&link.word("at").unwrap_or_default());
            self.report.first = link.seq;
            return if begins && (link.seq > 0 || link.prev == Head::START.prev) {
                Ok(())
            } else {
                Err(bad("the chain does not begin with a seal: what stood before was removed"))
            };
        };
        if link.seq > head.next {
            return Err(bad(&format!("it is missing: record {} stands in its place", link.seq)));
        }
        if link.seq < head.next {
            return Err(bad(&format!("record {} stands in its place: repeated or moved", link.seq)));
        }
        if link.prev == head.prev {
            return Ok(());
        }
        let (file, number) = self.former.clone().unwrap_or_default();
        let why = "it was replaced: the next record names another hash".to_owned();
        Err(BadLine { file, line: number, seq: head.next.saturating_sub(1), why })
    }

    fn count(&mut self, link: &Link<'_>, bad: &impl Fn(&str) -> BadLine) -> Result<(), BadLine> {
        let report = &mut self.report;
        let was_sealed = std::mem::replace(&mut report.sealed, false);
        match link.kind() {
            b"access" => report.accesses += 1,
            b"lost" => report.lost += 1,
            b"seal" => {
                let at = link.word("at").unwrap_or_default();
                if at == At::Start.name() {
                    report.starts += 1;
                    report.seams += u64::from(!was_sealed && self.head.is_some());
                }
                report.sealed = at == At::Stop.name();
                match self.key.and_then(|key| mac_holds(link.body, key)) {
                    Some(true) => report.keyed += 1,
                    Some(false) => return Err(bad("its seal is not of this installation's key")),
                    None => {}
                }
            }
            _ => {}
        }
        Ok(())
    }
}
