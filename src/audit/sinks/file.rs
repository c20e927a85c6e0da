//! A file, or a directory of segments.
//!
//! `DIR/audit.jsonl` (or `NAME.EXT` where the path is a file) is written; a full one becomes `audit-SEQ.jsonl`, SEQ being the number of its
//! first line in 20 digits, so that names sort as the chain goes. Files are 0600, the directory 0700, one process holds the lock.
//! Durability: what is appended survives the process at once; a thread of the sink calls `fdatasync` at most every 100 ms, so a power
//! cut loses that window and the call's own duration. Nothing is ever deleted: a full disk refuses requests, it does not forget.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::audit::chain::Link;
use crate::audit::sink::{AuditSink, Orphan, SinkError, Tail};

/// How a [`FileSink`] keeps its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOptions {
    /// A segment of this many bytes is full. Default 64 MiB.
    pub segment: u64,
    /// Shortest time between two calls of `fdatasync`. Default 100 ms.
    pub window: Duration,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { segment: 64 << 20, window: Duration::from_millis(100) }
    }
}

/// Where the segments are and how they are called.
#[derive(Debug, Clone)]
struct Names {
    dir: PathBuf,
    stem: String,
    extension: String,
}

impl Names {
    /// A path that is a directory, or that has no extension and is no file, is a directory.
    fn of(path: &Path) -> Self {
        let part = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        match (part(path.file_stem()), part(path.extension())) {
            (Some(stem), extension) if path.is_file() || (extension.is_some() && !path.is_dir()) => Self {
                dir: path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned(),
                stem,
                extension: extension.map_or_else(String::new, |extension| format!(".{extension}")),
            },
            _ => Self { dir: path.to_owned(), stem: "audit".to_owned(), extension: ".jsonl".to_owned() },
        }
    }

    fn active(&self) -> PathBuf {
        self.dir.join(format!("{}{}", self.stem, self.extension))
    }

    fn closed(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{}-{first:020}{}", self.stem, self.extension))
    }

    /// Closed segments in the order of the chain.
    fn all_closed(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let number = name.strip_prefix(&format!("{}-", self.stem)).and_then(|rest| rest.strip_suffix(&self.extension));
            if number.is_some_and(|number| number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit())) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// All segments of an audit path in the order of the chain, the one that is written last.
pub(in crate::audit) fn segments(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let names = Names::of(path);
    let mut all = names.all_closed()?;
    if names.active().exists() {
        all.push(names.active());
    }
    Ok(all)
}

/// The sink.
#[derive(Debug)]
pub struct FileSink {
    names: Names,
    file: Arc<File>,
    /// Bytes that are whole lines of ours.
    length: u64,
    /// A failed append may have left part of a batch behind `length`.
    torn: bool,
    /// Number of the segment's first line.
    first: Option<u64>,
    options: FileOptions,
    syncer: Syncer,
}

impl FileSink {
    /// Opens or creates the file and takes its lock.
    ///
    /// # Errors
    /// The directory cannot be made, the file cannot be opened, or another process writes it.
    pub fn open(path: &Path, options: FileOptions) -> Result<Self, SinkError> {
        let names = Names::of(path);
        DirBuilder::new().recursive(true).mode(0o700).create(&names.dir).map_err(|error| wrong(&names.dir, &error))?;
        let file = Arc::new(open(&names.active())?);
        let length = file.metadata().map_err(|error| wrong(&names.active(), &error))?.len();
        let syncer = Syncer::start(Arc::clone(&file), options.window).map_err(|error| wrong(&names.active(), &error))?;
        Ok(Self { names, file, length, torn: false, first: None, options, syncer })
    }

    fn use_file(&mut self, file: File) {
        self.file = Arc::new(file);
        self.length = 0;
        self.torn = false;
        self.first = None;
        self.syncer.watch(Arc::clone(&self.file));
    }

    /// The path still leads to our file: a removed or replaced one is begun anew, and the chain shows the seam.
    fn check_place(&mut self) -> Result<(), SinkError> {
        let active = self.names.active();
        let ours = self.file.metadata().map_err(|error| wrong(&active, &error))?;
        match fs::symlink_metadata(&active) {
            Ok(there) if there.ino() == ours.ino() && there.dev() == ours.dev() => {
                if there.len() != self.length && !self.torn {
                    tracing::error!(target: "exeat::audit", file = %active.display(), "the audit file was changed by somebody else");
                    self.length = there.len();
                }
                Ok(())
            }
            Ok(_) | Err(_) => {
                tracing::error!(target: "exeat::audit", file = %active.display(), "the audit file was removed or replaced: a new one is begun");
                self.use_file(open(&active)?);
                self.length = self.file.metadata().map_err(|error| wrong(&active, &error))?.len();
                Ok(())
            }
        }
    }
}

fn wrong(place: &Path, error: &std::io::Error) -> SinkError {
    SinkError { place: place.display().to_string(), why: error.to_string() }
}

fn open(path: &Path) -> Result<File, SinkError> {
    let file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(|error| wrong(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(SinkError { place: path.display().to_string(), why: "another process writes it: give each its own audit file".to_owned() })
        }
        Err(TryLockError::Error(error)) => Err(wrong(path, &error)),
    }
}

/// What one pass over a segment finds.
#[derive(Default)]
struct Scan {
    last: Option<Vec<u8>>,
    first: Option<u64>,
    whole: u64,
    cut: u64,
    open: FxHashMap<String, u64>,
}

fn scan(path: &Path) -> std::io::Result<Scan> {
    let mut scan = Scan::default();
    let mut reader = BufReader::with_capacity(256 * 1024, File::open(path)?);
    let (mut line, mut last) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if line.pop() != Some(b'\n') {
            scan.cut = u64::try_from(read).unwrap_or(0);
            break;
        }
        scan.whole += u64::try_from(read).unwrap_or(0);
        if let Some(link) = Link::read(&line) {
            scan.first.get_or_insert(link.seq);
            follow(&mut scan.open, &link);
        }
        std::mem::swap(&mut line, &mut last);
    }
    scan.last = Some(last).filter(|last| !last.is_empty());
    Ok(scan)
}

/// Keeps the passages that are open behind this line.
fn follow(open: &mut FxHashMap<String, u64>, link: &Link<'_>) {
    match link.kind() {
        b"opened" => {
            if let Some(id) = link.word("id") {
                open.insert(id.to_owned(), link.seq);
            }
        }
        b"access" | b"lost" | b"abandoned" if !open.is_empty() => {
            if let Some(id) = link.word("id") {
                open.remove(id);
            }
        }
        b"seal" => {
            let Ok(seal) = serde_json::from_slice::<OpenIds>(&[b"{\"seq\":0", link.rest, b"}"].concat()) else { return };
            for id in seal.open {
                open.insert(id, link.seq);
            }
        }
        _ => {}
    }
}

#[derive(serde::Deserialize)]
struct OpenIds {
    #[serde(default)]
    open: Vec<String>,
}

impl AuditSink for FileSink {
    fn tail(&mut self) -> Result<Tail, SinkError> {
        let active = self.names.active();
        let found = scan(&active).map_err(|error| wrong(&active, &error))?;
        if found.cut > 0 {
            self.file.set_len(found.whole).map_err(|error| wrong(&active, &error))?;
        }
        self.length = found.whole;
        self.first = found.first;
        let (mut last, mut open) = (found.last, found.open);
        if last.is_none()
            && let Some(former) = self.names.all_closed().map_err(|error| wrong(&self.names.dir, &error))?.pop()
        {
            // Killed between two segments: the new one does not tell yet what was open in the former.
            let former = scan(&former).map_err(|error| wrong(&former, &error))?;
            (last, open) = (former.last, former.open);
        }
        let mut orphans: Vec<Orphan> = open.into_iter().map(|(id, seq)| Orphan { id, seq }).collect();
        orphans.sort_by_key(|orphan| orphan.seq);
        Ok(Tail { last, cut: found.cut, orphans })
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        self.check_place()?;
        let active = self.names.active();
        if self.torn {
            self.file.set_len(self.length).map_err(|error| wrong(&active, &error))?;
            self.torn = false;
        }
        if self.first.is_none() {
            self.first = lines.split(|byte| *byte == b'\n').next().and_then(Link::read).map(|link| link.seq);
        }
        if let Err(error) = (&*self.file).write_all(lines) {
            self.torn = true;
            return Err(wrong(&active, &error));
        }
        self.length += u64::try_from(lines.len()).unwrap_or(0);
        self.syncer.mark();
        Ok(())
    }

    fn sync(&mut self, now: bool) -> Result<(), SinkError> {
        let failed = self.syncer.failure();
        if now {
            return self.file.sync_data().map_err(|error| wrong(&self.names.active(), &error));
        }
        failed.map_or(Ok(()), |why| Err(SinkError { place: self.names.active().display().to_string(), why }))
    }

    fn full(&self) -> bool {
        self.length >= self.options.segment
    }

    fn rotate(&mut self) -> Result<(), SinkError> {
        let active = self.names.active();
        let closed = self.names.closed(self.first.unwrap_or(0));
        self.file.sync_data().map_err(|error| wrong(&active, &error))?;
        fs::rename(&active, &closed).map_err(|error| wrong(&closed, &error))?;
        match open(&active) {
            Ok(file) => self.use_file(file),
            Err(error) => {
                fs::rename(&closed, &active).map_err(|error| wrong(&closed, &error))?;
                return Err(error);
            }
        }
        File::open(&self.names.dir).and_then(|dir| dir.sync_all()).map_err(|error| wrong(&self.names.dir, &error))
    }
}

/// Calls `fdatasync` beside the writer, so that a slow disk does not hold up records.
#[derive(Debug)]
struct Syncer {
    shared: Arc<(Mutex<SyncState>, Condvar)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct SyncState {
    file: Arc<File>,
    dirty: bool,
    stop: bool,
    failure: Option<String>,
}

impl Syncer {
    fn start(file: Arc<File>, window: Duration) -> std::io::Result<Self> {
        let state = SyncState { file, dirty: false, stop: false, failure: None };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("exeat-audit-sync".to_owned()).spawn(move || Self::run(&theirs, window))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn run((state, bell): &(Mutex<SyncState>, Condvar), window: Duration) {
        let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            guard = bell.wait_while(guard, |state| !state.dirty && !state.stop).unwrap_or_else(PoisonError::into_inner);
            if guard.stop {
                return;
            }
            guard.dirty = false;
            let file = Arc::clone(&guard.file);
            drop(guard);
            let result = file.sync_data();
            guard = state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = result {
                guard.failure = Some(error.to_string());
            }
            guard = bell.wait_timeout_while(guard, window, |state| !state.stop).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn with(&self, change: impl FnOnce(&mut SyncState) -> bool) {
        let mut state = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if change(&mut state) {
            self.shared.1.notify_one();
        }
    }

    fn mark(&self) {
        self.with(|state| !std::mem::replace(&mut state.dirty, true));
    }

    fn watch(&self, file: Arc<File>) {
        self.with(|state| {
            state.file = file;
            false
        });
    }

    fn failure(&self) -> Option<String> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).failure.take()
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.with(|state| {
            state.stop = true;
            true
        });
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(target: "exeat::audit", "the thread that makes audit records durable had panicked");
        }
    }
}
