//! `State`: one directory for what must outlive the process: keys, revocations, the last good policy.
//!
//! Enters: named bytes. Leaves: the same bytes, whole or not at all: a write goes to a temporary file, is synced, renamed over the old
//! one, and the directory is synced. The directory is 0700, files are 0600, links are not followed. Or nothing at all is kept
//! ([`State::ephemeral`]).
//!
//! One process writes. The lock file is held (`flock`) while the state is open; a second process gets [`StateError::Locked`]. For an
//! upgrade without downtime the new process opens with a wait, and the old one calls [`State::release`] when it hands its
//! listeners over: from then on it only reads what it holds in memory, and drains. `exeat jwks` and others look on with
//! [`State::look`], which takes no lock and writes nothing.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::slots::{self, Writing};
use crate::secret::{FingerprintKey, Secret, random};

/// What is written in `schema`: a directory of another version is refused, never guessed at.
const SCHEMA: &str = "exeat-state/v1\n";
const SCHEMA_FILE: &str = "schema";
const LOCK_FILE: &str = "lock";
/// Largest entry, in bytes: nothing of ours is near it, and a planted giant file must not fill memory.
const MAX_ENTRY: u64 = 16 * 1024 * 1024;
/// How often a waiting process tries the lock.
const LOCK_POLL: Duration = Duration::from_millis(25);

/// The one place for what must outlive the process.
pub struct State {
    place: Place,
}

enum Place {
    Directory {
        path: PathBuf,
        /// `None` once released, or when only looking on: nothing is written then.
        lock: Mutex<Option<File>>,
    },
    Memory(Mutex<BTreeMap<String, Secret>>),
}

/// Why the state cannot be used. Each message names the path and the next step.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system said no.
    #[error("state {path}: cannot {doing}: {source}; check that the directory exists, is writable and belongs to the user that runs exeat")]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// Others may read or write what must be private.
    #[error(
        "state {path} has mode {mode:o} and must be {wanted:o}: run `chmod {wanted:o} {path}`, or name a directory below it for exeat to create"
    )]
    Permissions {
        /// Where.
        path: PathBuf,
        /// As found.
        mode: u32,
        /// As it must be.
        wanted: u32,
    },
    /// Another process holds it.
    #[error("state {path} is in use by another exeat ({holder}): stop it, or give this one a state directory of its own")]
    Locked {
        /// Where.
        path: PathBuf,
        /// Its process id as it wrote it down.
        holder: String,
    },
    /// Written by another version.
    #[error("state {path} has schema `{found}`, this exeat reads `exeat-state/v1`: use the exeat that wrote it, or another directory")]
    Schema {
        /// Where.
        path: PathBuf,
        /// As found.
        found: String,
    },
    /// A name that could leave the directory or hide in it.
    #[error(
        "`{name}` is no name of a state entry: lower-case letters, digits, `.`, `-` and `_`, at most 100, beginning with a letter or digit"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// More than 16 MiB.
    #[error("state {path} is larger than 16 MiB: move it away and restart")]
    TooLarge {
        /// Where.
        path: PathBuf,
    },
    /// The lock was given to a successor, or never taken.
    #[error("state {path} belongs to another exeat now: nothing is written from here")]
    Released {
        /// Where.
        path: PathBuf,
    },
    /// An entry that this version cannot read.
    #[error("state entry {entry} cannot be read: {why}; restore it from a backup, or remove it to begin anew")]
    Damaged {
        /// The entry's name.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl State {
    /// Opens a directory for this process alone, creating it where it is missing; waits up to `wait` for a predecessor to release it.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: &Path, wait: Duration) -> Result<Self, StateError> {
        let io = |doing| move |source| StateError::Io { path: path.to_owned(), doing, source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("create the directory"))?;
        let mode = fs::metadata(path).map_err(io("look at the directory"))?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 && fs::set_permissions(path, Permissions::from_mode(0o700)).is_err() {
            return Err(StateError::Permissions { path: path.to_owned(), mode, wanted: 0o700 });
        }
        let lock = take_lock(path, wait)?;
        let state = Self { place: Place::Directory { path: path.to_owned(), lock: Mutex::new(Some(lock)) } };
        remove_leftovers(path).map_err(io("remove files of an interrupted write"))?;
        match read_file(&path.join(SCHEMA_FILE))? {
            Some(found) => check_schema(path, &found)?,
            None => state.put(path, SCHEMA_FILE, SCHEMA.as_bytes())?,
        }
        Ok(state)
    }

    /// Looks on without the lock: reads, never writes. For commands that run beside the process.
    ///
    /// # Errors
    /// No directory, or one of another schema.
    pub fn look(path: &Path) -> Result<Self, StateError> {
        let Some(found) = read_file(&path.join(SCHEMA_FILE))? else {
            let source = io::Error::new(io::ErrorKind::NotFound, "no state of exeat is here");
            return Err(StateError::Io { path: path.to_owned(), doing: "read the schema", source });
        };
        check_schema(path, &found)?;
        Ok(Self { place: Place::Directory { path: path.to_owned(), lock: Mutex::new(None) } })
    }

    /// Memory only: keys are new after each start, and revocations do not outlive the process.
    #[must_use]
    pub const fn ephemeral() -> Self {
        Self { place: Place::Memory(Mutex::new(BTreeMap::new())) }
    }

    /// Whether nothing outlives the process.
    #[must_use]
    pub const fn is_ephemeral(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// An entry that is no secret; `None` where there is none.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.read_secret(name)?.map(|secret| secret.expose().to_vec()))
    }

    /// An entry that is a secret; `None` where there is none.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn read_secret(&self, name: &str) -> Result<Option<Secret>, StateError> {
        check_name(name)?;
        match &self.place {
            Place::Directory { path, .. } => Ok(read_file(&path.join(name))?.map(Secret::new)),
            Place::Memory(entries) => Ok(hold(entries).get(name).map(|secret| Secret::new(secret.expose().to_vec()))),
        }
    }

    /// Replaces an entry; durable when this returns.
    ///
    /// # Errors
    /// See [`StateError`]; the former entry stands then.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        check_name(name)?;
        match &self.place {
            Place::Directory { path, .. } => self.put(path, name, bytes),
            Place::Memory(entries) => {
                hold(entries).insert(name.to_owned(), Secret::new(bytes.to_vec()));
                Ok(())
            }
        }
    }

    /// Overwrites an entry in place; durable when this returns, without waiting for what else is being written to the disk. Such an
    /// entry is read with [`State::read_overwritten`], and has one writer at a time.
    ///
    /// # Errors
    /// See [`StateError`]; the former entry stands then.
    pub fn overwrite(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        check_name(name)?;
        let Place::Directory { path, lock } = &self.place else { return self.write(name, bytes) };
        let target = path.join(name);
        let (content, offset) = match slots::plan(&read_file(&target)?.unwrap_or_default(), bytes) {
            Writing::Anew(file) if file.len() as u64 > MAX_ENTRY => return Err(StateError::TooLarge { path: target }),
            Writing::Anew(file) => return self.put(path, name, &file),
            Writing::InPlace(content, offset) => (content, offset),
        };
        // Held while writing, as in `put`.
        let held = hold(lock);
        if held.is_none() {
            return Err(StateError::Released { path: path.clone() });
        }
        let opened = OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&target);
        let written = opened.and_then(|file| slots::write(&file, &content, offset));
        written.map_err(|source| StateError::Io { path: target, doing: "overwrite the entry", source })
    }

    /// An entry that is overwritten in place; `None` where there is none.
    ///
    /// # Errors
    /// See [`StateError`]; damaged when none of its slots is whole.
    pub fn read_overwritten(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        match &self.place {
            Place::Memory(_) => Ok(Some(bytes)),
            Place::Directory { .. } => match slots::newest(&bytes) {
                Some(slot) => Ok(Some(slot.bytes.to_vec())),
                None => Err(StateError::Damaged { entry: name.to_owned(), why: "none of its slots is whole" }),
            },
        }
    }

    /// Replaces a secret entry; durable when this returns.
    ///
    /// # Errors
    /// See [`StateError`]; the former entry stands then.
    pub fn write_secret(&self, name: &str, secret: &Secret) -> Result<(), StateError> {
        self.write(name, secret.expose())
    }

    /// The names that begin with `prefix`, sorted.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn names(&self, prefix: &str) -> Result<Vec<String>, StateError> {
        match &self.place {
            Place::Directory { path, .. } => {
                let io = |source| StateError::Io { path: path.clone(), doing: "list the directory", source };
                let mut names = Vec::new();
                for entry in fs::read_dir(path).map_err(io)? {
                    let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
                    if name.starts_with(prefix) && check_name(&name).is_ok() {
                        names.push(name);
                    }
                }
                names.sort_unstable();
                Ok(names)
            }
            Place::Memory(entries) => Ok(hold(entries).keys().filter(|name| name.starts_with(prefix)).cloned().collect()),
        }
    }

    /// The installation's fingerprint key, made on first use: the same secret has the same fingerprint as long as the state lives.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn fingerprint_key(&self) -> Result<FingerprintKey, StateError> {
        const NAME: &str = "fingerprint-key";
        if let Some(kept) = self.read_secret(NAME)? {
            let bytes: &[u8; 32] =
                kept.expose().try_into().map_err(|_| StateError::Damaged { entry: NAME.to_owned(), why: "it must be 32 bytes" })?;
            return Ok(FingerprintKey::new(bytes));
        }
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        random(&mut *bytes);
        self.write(NAME, &*bytes)?;
        Ok(FingerprintKey::new(&bytes))
    }

    /// Gives the directory to a successor: the lock is free, and nothing is written from here any more.
    pub fn release(&self) {
        if let Place::Directory { lock, .. } = &self.place {
            drop(hold(lock).take());
        }
    }

    /// Writes one file so that a crash leaves the old or the new bytes, never a mixture.
    fn put(&self, directory: &Path, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let Place::Directory { lock, .. } = &self.place else { return Ok(()) };
        // Held while writing: a release in the middle of a write would let the successor read behind us.
        let held = hold(lock);
        if held.is_none() {
            return Err(StateError::Released { path: directory.to_owned() });
        }
        let target = directory.join(name);
        let temporary = directory.join(format!(".{name}.tmp"));
        let written =
            write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, &target)).and_then(|()| File::open(directory)?.sync_all());
        written.map_err(|source| {
            drop(fs::remove_file(&temporary));
            StateError::Io { path: target, doing: "write the entry", source }
        })
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Directory { path, .. } => f.debug_tuple("State").field(path).finish(),
            Place::Memory(_) => f.write_str("State(ephemeral)"),
        }
    }
}

/// A poisoned lock guards plain values that are whole at every point where a panic could strike.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_name(name: &str) -> Result<(), StateError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ok = name.len() <= 100
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'-' | b'_'))
        && name != LOCK_FILE
        && name != SCHEMA_FILE;
    if ok { Ok(()) } else { Err(StateError::Name { name: name.to_owned() }) }
}

fn check_schema(path: &Path, found: &[u8]) -> Result<(), StateError> {
    if found == SCHEMA.as_bytes() {
        return Ok(());
    }
    let found = String::from_utf8_lossy(found).trim().chars().take(40).collect();
    Err(StateError::Schema { path: path.to_owned(), found })
}

fn take_lock(directory: &Path, wait: Duration) -> Result<File, StateError> {
    let path = directory.join(LOCK_FILE);
    let io = |source| StateError::Io { path: path.clone(), doing: "lock the directory", source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&path)
        .map_err(io)?;
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if waited < wait => {
                std::thread::sleep(LOCK_POLL);
                waited += LOCK_POLL;
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = (&mut file).take(32).read_to_string(&mut holder);
                let holder =
                    if read.is_ok() && !holder.trim().is_empty() { format!("pid {}", holder.trim()) } else { "pid unknown".to_owned() };
                return Err(StateError::Locked { path: directory.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

/// Temporary files of a write that a crash cut short: their entries were never renamed, so they say nothing.
fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let io = |doing| move |source| StateError::Io { path: path.to_owned(), doing, source };
    let file = match OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open the entry")(error)),
    };
    let about = file.metadata().map_err(io("look at the entry"))?;
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::Permissions { path: path.to_owned(), mode, wanted: 0o600 });
    }
    if about.len() > MAX_ENTRY {
        return Err(StateError::TooLarge { path: path.to_owned() });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or_default() + 1);
    file.take(MAX_ENTRY + 1).read_to_end(&mut bytes).map_err(io("read the entry"))?;
    if bytes.len() as u64 > MAX_ENTRY { Err(StateError::TooLarge { path: path.to_owned() }) } else { Ok(Some(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn entries_survive_a_restart_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state");
        {
            let state = State::open(&path, NOW).unwrap();
            state.write("one", b"first").unwrap();
            state.write("one", b"second").unwrap();
            state.write_secret("key", &Secret::new(b"k".to_vec())).unwrap();
        }
        let state = State::open(&path, NOW).unwrap();
        assert_eq!(state.read("one").unwrap().unwrap(), b"second");
        assert!(state.read_secret("key").unwrap().unwrap().same_as(b"k"));
        assert_eq!(state.read("none").unwrap(), None);
        assert_eq!(
            state.names("").unwrap(),
            ["key", "lock", "one", "schema"].into_iter().filter(|n| check_name(n).is_ok()).collect::<Vec<_>>()
        );
        assert_eq!((mode(&path), mode(&path.join("one")), mode(&path.join("key"))), (0o700, 0o600, 0o600));
    }

    #[test]
    fn one_process_writes_and_a_successor_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let old = State::open(dir.path(), NOW).unwrap();
        old.write("one", b"1").unwrap();
        let error = State::open(dir.path(), NOW).unwrap_err();
        assert!(matches!(error, StateError::Locked { .. }) && error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert_eq!(State::look(dir.path()).unwrap().read("one").unwrap().unwrap(), b"1");
        assert!(matches!(State::look(dir.path()).unwrap().write("one", b"x"), Err(StateError::Released { .. })));
        old.release();
        let new = State::open(dir.path(), NOW).unwrap();
        new.write("one", b"2").unwrap();
        assert!(matches!(old.write("one", b"3"), Err(StateError::Released { .. })));
        assert_eq!(old.read("one").unwrap().unwrap(), b"2");
    }

    #[test]
    fn an_entry_that_is_overwritten_is_durable_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), NOW).unwrap();
        assert_eq!(state.read_overwritten("live").unwrap(), None);
        for content in [&b"one"[..], b"two", b""] {
            state.overwrite("live", content).unwrap();
            assert_eq!(state.read_overwritten("live").unwrap().unwrap(), content);
        }
        assert_eq!(mode(&dir.path().join("live")), 0o600);
        state.release();
        assert!(matches!(state.overwrite("live", b"three"), Err(StateError::Released { .. })));
        fs::write(dir.path().join("live"), b"garbage").unwrap();
        assert!(matches!(State::look(dir.path()).unwrap().read_overwritten("live"), Err(StateError::Damaged { .. })));
        let memory = State::ephemeral();
        memory.overwrite("live", b"one").unwrap();
        assert_eq!(memory.read_overwritten("live").unwrap().unwrap(), b"one");
    }

    #[test]
    fn a_write_cut_short_leaves_the_old_entry() {
        let dir = tempfile::tempdir().unwrap();
        drop(State::open(dir.path(), NOW).map(|state| state.write("one", b"whole").unwrap()));
        fs::write(dir.path().join(".one.tmp"), b"ha").unwrap();
        let state = State::open(dir.path(), NOW).unwrap();
        assert_eq!(state.read("one").unwrap().unwrap(), b"whole");
        assert!(!dir.path().join(".one.tmp").exists());
    }

    #[test]
    fn what_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), NOW).unwrap();
        state.write("one", b"x").unwrap();
        fs::set_permissions(dir.path().join("one"), Permissions::from_mode(0o644)).unwrap();
        let error = state.read("one").unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("two")).unwrap();
        assert!(matches!(state.read("two"), Err(StateError::Io { .. })));
    }

    #[test]
    fn other_schemas_and_odd_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), NOW).unwrap();
        for name in ["", "../x", ".x", "a/b", "A", "lock", "schema", "-a"] {
            assert!(matches!(state.write(name, b""), Err(StateError::Name { .. })), "{name}");
        }
        drop(state);
        fs::write(dir.path().join(SCHEMA_FILE), "exeat-state/v9\n").unwrap();
        let error = State::open(dir.path(), NOW).unwrap_err();
        assert!(matches!(&error, StateError::Schema { found, .. } if found == "exeat-state/v9"), "{error}");
    }

    #[test]
    fn fingerprints_stay_the_same_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = State::open(dir.path(), NOW).unwrap().fingerprint_key().unwrap().fingerprint(b"x");
        let again = State::open(dir.path(), NOW).unwrap().fingerprint_key().unwrap().fingerprint(b"x");
        assert_eq!(first, again);
        assert_ne!(State::ephemeral().fingerprint_key().unwrap().fingerprint(b"x"), first);
    }

    #[test]
    fn memory_keeps_as_long_as_it_lives() {
        let state = State::ephemeral();
        state.write("one", b"1").unwrap();
        assert_eq!(state.read("one").unwrap().unwrap(), b"1");
        assert_eq!(state.names("o").unwrap(), ["one"]);
        assert!(state.is_ephemeral());
    }
}
