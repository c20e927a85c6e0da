//! The process at the other end of a unix socket, looked at once, before its first byte is read.
//!
//! A pid is a number that the kernel gives again, so what `/proc/PID` says may be said of another process. `SO_PEERPIDFD` (Linux 6.5) gives
//! a handle of the very process that connected; it is taken at accept and held while `/proc` is read, and if that process still lives
//! afterwards, its number cannot have been given again in between. Older kernels have no such handle: there the process's start time and
//! owner are read before and after, which leaves the moment between its `connect` and our first look.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use aws_lc_rs::digest;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

use crate::capture::{Asks, Cgroups, Executable, Hold, Process, Sha256};

/// Largest executable whose content is looked at, in bytes.
const MOST: u64 = 1 << 30;
/// Digests that are remembered.
const REMEMBERED: usize = 256;

/// What accept knows of the process at the other end.
pub(super) struct Witness {
    pid: Option<i32>,
    uid: u32,
    handle: Option<Arc<OwnedFd>>,
}

impl Witness {
    /// Takes hold of the process that connected.
    pub(super) fn take(stream: &UnixStream, pid: Option<i32>, uid: u32) -> Result<Self, &'static str> {
        let handle = match getsockopt(stream, sockopt::PeerPidfd) {
            Ok(handle) => Some(Arc::new(handle)),
            // a kernel before 6.5
            Err(Errno::ENOPROTOOPT) => None,
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENODATA) => return Err("the process that connected has ended"),
            Err(_) => return Err("the kernel gave no handle of the process that connected"),
        };
        Ok(Self { pid, uid, handle })
    }

    /// Whose it was when it connected.
    pub(super) const fn uid(&self) -> u32 {
        self.uid
    }

    /// Looks at the process. Blocks: call it from a thread that may.
    pub(super) fn look(&self, asks: Asks) -> Result<Arc<Process>, &'static str> {
        let Some(pid) = self.pid.filter(|pid| *pid > 0) else {
            return Err("the kernel named no process: it runs in a pid namespace that exeat does not see");
        };
        let hold = match &self.handle {
            Some(handle) => Hold::by_handle(pid, Arc::clone(handle)),
            None => Hold::by_start(pid, self.uid)?,
        };
        hold.lives()?;
        let place = PathBuf::from(format!("/proc/{pid}"));
        let table = std::fs::read_to_string(place.join("cgroup")).map_err(|_| "its control groups cannot be read from /proc")?;
        let executable = executable(&place.join("exe"), asks.hash.then_some(self.uid))?;
        if hold.lives().is_err() {
            return Err("the process that connected ended while it was looked at");
        }
        let hold = asks.hold.then(|| Arc::new(hold));
        Ok(Arc::new(Process { pid, executable, cgroups: Cgroups::parse(&table), hold }))
    }
}

/// `None`: exeat may not see it, which matters only to a workload that names one. Its content is read for a user.
fn executable(link: &Path, hash_for: Option<u32>) -> Result<Option<Executable>, &'static str> {
    const CHANGED: &str = "its executable changed while it was looked at";
    let (Ok(path), Ok(file)) = (std::fs::read_link(link), File::open(link)) else { return Ok(None) };
    let Ok(meta) = file.metadata() else { return Ok(None) };
    let here = std::fs::metadata(&path).is_ok_and(|found| same(&found, &meta));
    let sha256 = hash_for.map(|uid| content(file, &meta, uid)).transpose()?;
    // exec may have come in between: path, file and digest must be of one program
    if !std::fs::metadata(link).is_ok_and(|now| same(&now, &meta)) || std::fs::read_link(link).ok().as_ref() != Some(&path) {
        return Err(CHANGED);
    }
    Ok(path.to_str().map(|path| Executable { path: path.into(), here, sha256 }))
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// A file as it stood: whoever changes its content changes this.
type Standing = (u64, u64, u64, (i64, i64), (i64, i64));

fn standing(meta: &Metadata) -> Standing {
    (meta.dev(), meta.ino(), meta.size(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
}

/// Digests of files as they stood, each with the user for whom it was read.
#[derive(Default)]
struct Digests(HashMap<Standing, (Sha256, u32)>);

impl Digests {
    fn get(&self, key: &Standing) -> Option<Sha256> {
        self.0.get(key).map(|(digest, _)| *digest)
    }

    /// When there is no more room, whoever has the most makes it: a user who runs one new program after another pushes out his own.
    fn keep(&mut self, key: Standing, digest: Sha256, uid: u32) {
        if self.0.len() >= REMEMBERED {
            let mut counts = HashMap::<u32, usize>::new();
            self.0.values().for_each(|(_, uid)| *counts.entry(*uid).or_default() += 1);
            let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(uid, _)| uid);
            self.0.retain(|_, (_, uid)| Some(*uid) != most);
        }
        self.0.insert(key, (digest, uid));
    }
}

/// The digest of a file, read once for as long as the file stands as it does. How many are read at one time is the callers' to bound: one
/// lock for all would let whoever runs a large program hold up everybody.
fn content(mut file: File, meta: &Metadata, uid: u32) -> Result<Sha256, &'static str> {
    static KNOWN: LazyLock<Mutex<Digests>> = LazyLock::new(Mutex::default);
    let key = standing(meta);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known().get(&key) {
        return Ok(found);
    }
    if meta.size() > MOST {
        return Err("its executable is larger than 1 GiB, which is not read");
    }
    let digest = sha256(&mut file).map_err(|_| "its executable cannot be read")?;
    if file.metadata().map(|now| standing(&now)).ok() != Some(key) {
        return Err("its executable changed while it was read");
    }
    known().keep(key, digest, uid);
    Ok(digest)
}

fn sha256(file: &mut File) -> io::Result<Sha256> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    Ok(Sha256(out))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    const ALL: Asks = Asks { uid: true, process: true, hash: true, hold: false };

    /// Straight to the descriptor: what `println!` and `eprintln!` write is kept from the log of a test that passes.
    fn skipped(why: &str) {
        let _unless_closed = io::stderr().write_all(format!("skipped: {why}\n").as_bytes());
    }

    /// A program that connects to a socket and then does what the script says.
    fn connected(dir: &tempfile::TempDir, then: &str) -> Option<(std::process::Child, UnixStream)> {
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let script = format!("import socket,sys,os\ns=socket.socket(socket.AF_UNIX)\ns.connect({:?})\n{then}", path.display().to_string());
        let child = Command::new("python3").args(["-c", &script]).stdin(Stdio::piped()).spawn().ok()?;
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        Some((child, UnixStream::from_std(stream).unwrap()))
    }

    fn witness(stream: &UnixStream) -> Result<Witness, &'static str> {
        let told = stream.peer_cred().unwrap();
        Witness::take(stream, told.pid(), told.uid())
    }

    #[tokio::test]
    async fn this_very_process_is_told_with_its_executable() {
        let (near, _far) = UnixStream::pair().unwrap();
        let seen = witness(&near).unwrap().look(ALL).unwrap();
        let own = std::fs::read_link("/proc/self/exe").unwrap();
        let executable = seen.executable.clone().unwrap();
        assert_eq!((seen.pid, Path::new(&*executable.path), executable.here), (std::process::id().cast_signed(), own.as_path(), true));
        assert_eq!(executable.sha256, sha256(&mut File::open(&own).unwrap()).ok());
        assert_eq!(seen.cgroups, Cgroups::parse(&std::fs::read_to_string("/proc/self/cgroup").unwrap()));
    }

    #[tokio::test]
    async fn a_process_that_has_ended_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut child, stream)) = connected(&dir, "sys.stdin.read()") else { return skipped("python3 not present") };
        let held = witness(&stream).unwrap();
        assert_eq!(held.look(ALL).unwrap().pid, child.id().cast_signed());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(held.look(ALL).is_err(), "its number may be another's by now");
        let told = stream.peer_cred().unwrap();
        assert!(Witness::take(&stream, told.pid(), told.uid()).and_then(|late| late.look(ALL)).is_err());
    }

    /// The process that connected is gone and its number is another's: only the handle tells. `ns_last_pid` gives the number again.
    #[tokio::test]
    async fn a_number_that_is_given_again_borrows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut child, stream)) = connected(&dir, "sys.stdin.read()") else { return skipped("python3 not present") };
        let held = witness(&stream).unwrap();
        let pid = child.id();
        drop(child.stdin.take());
        child.wait().unwrap();
        for _ in 0..200 {
            if std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
                return skipped("setting the next pid needs root");
            }
            let Ok(mut borrower) = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn() else {
                return skipped("cat not present");
            };
            let again = borrower.id() == pid;
            if again {
                assert!(Path::new(&format!("/proc/{pid}")).exists());
                assert_eq!(held.look(ALL), Err("the process that connected has ended"));
            }
            drop(borrower.stdin.take());
            borrower.wait().unwrap();
            if again {
                return;
            }
        }
        skipped("the number was not given again");
    }

    #[test]
    fn who_runs_many_programs_pushes_out_his_own() {
        let mut digests = Digests::default();
        let key = |inode: u64| (1, inode, 1, (0, 0), (0, 0));
        digests.keep(key(0), Sha256::of(b"quiet"), 1002);
        for inode in 1..5_000 {
            digests.keep(key(inode), Sha256::of(b"noisy"), 1001);
            assert!(digests.0.len() <= REMEMBERED);
        }
        assert_eq!(digests.get(&key(0)), Some(Sha256::of(b"quiet")));
        assert_eq!(digests.get(&key(4_999)), Some(Sha256::of(b"noisy")), "the newest is there");
    }

    #[tokio::test]
    async fn a_hold_is_kept_where_it_was_asked_for() {
        let (near, _far) = UnixStream::pair().unwrap();
        let held = witness(&near).unwrap();
        assert_eq!(held.look(ALL).unwrap().hold, None);
        let seen = held.look(Asks { hold: true, ..ALL }).unwrap();
        drop(held);
        assert_eq!(seen.hold.as_ref().unwrap().lives(), Ok(()), "it outlives the look");
        assert_eq!(seen.hold.as_ref().unwrap().pid(), seen.pid);
    }

    #[test]
    fn a_look_without_a_handle_is_at_a_process_of_the_same_owner() {
        let own = Witness { pid: Some(std::process::id().cast_signed()), uid: nix::unistd::geteuid().as_raw(), handle: None };
        assert!(own.look(ALL).is_ok());
        let other = Witness { uid: own.uid.wrapping_add(1), ..own };
        assert!(other.look(ALL).unwrap_err().contains("another user's"));
        assert!(Witness { pid: None, ..other }.look(ALL).unwrap_err().contains("pid namespace"));
    }
}
