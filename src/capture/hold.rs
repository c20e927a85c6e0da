//! `Hold`: of one very process, and not of its number, which the kernel gives again.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const ENDED: &str = "the process that connected has ended";

/// One very process. While [`Hold::lives`] says that it lives, its number is its own.
#[derive(Debug)]
pub struct Hold {
    pid: i32,
    by: By,
}

#[derive(Debug)]
enum By {
    /// A pidfd, `pidfd_open(2)`.
    Handle(Arc<OwnedFd>),
    /// Start time and owner: a kernel without handles of peers. A process of the same owner that took the number within the same tick
    /// cannot be told from it.
    Start { ticks: u64, uid: u32 },
}

impl Hold {
    /// Of the process that this handle is of, whose number is `pid`.
    #[must_use]
    pub const fn by_handle(pid: i32, handle: Arc<OwnedFd>) -> Self {
        Self { pid, by: By::Handle(handle) }
    }

    /// Of the process that has the number `pid` now, if it is this user's.
    ///
    /// # Errors
    /// There is none, or it is somebody else's.
    pub fn by_start(pid: i32, uid: u32) -> Result<Self, &'static str> {
        let ticks = started(pid, uid)?;
        Ok(Self { pid, by: By::Start { ticks, uid } })
    }

    /// Its number in exeat's pid namespace.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// That the process lives.
    ///
    /// # Errors
    /// It has ended, or the kernel does not say.
    pub fn lives(&self) -> Result<(), &'static str> {
        match &self.by {
            By::Handle(handle) => {
                // readable means that it has ended (pidfd_open(2))
                let mut polled = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
                match poll(&mut polled, PollTimeout::ZERO) {
                    Ok(0) => Ok(()),
                    Ok(_) => Err(ENDED),
                    Err(_) => Err("the kernel does not say whether the process that connected still lives"),
                }
            }
            By::Start { ticks, uid } if started(self.pid, *uid)? == *ticks => Ok(()),
            By::Start { .. } => Err(ENDED),
        }
    }
}

/// A hold is the same as itself alone: two of one number may be of two processes.
impl PartialEq for Hold {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Hold {}

/// When the process of this number started, in ticks since boot, if it is this user's.
fn started(pid: i32, uid: u32) -> Result<u64, &'static str> {
    let owner = std::fs::metadata(format!("/proc/{pid}")).map_err(|_| ENDED)?.uid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| ENDED)?;
    let ticks = start_time(&stat).ok_or(ENDED)?;
    if owner == uid { Ok(ticks) } else { Err("the process of that number is another user's: the one that connected has ended") }
}

/// Field 22 of `/proc/PID/stat` (proc(5)); the name in field 2 may hold anything, so counting begins behind its last bracket.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_handle_the_owner_and_the_start_must_agree() {
        let (own, uid) = (std::process::id().cast_signed(), nix::unistd::geteuid().as_raw());
        let held = Hold::by_start(own, uid).unwrap();
        assert_eq!(held.lives(), Ok(()));
        assert!(Hold::by_start(own, uid.wrapping_add(1)).unwrap_err().contains("another user's"));
        let By::Start { ticks, .. } = held.by else { panic!() };
        let later = Hold { pid: own, by: By::Start { ticks: ticks + 1, uid } };
        assert_eq!(later.lives(), Err(ENDED));
        assert_eq!(start_time("7 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"), Some(4711));
    }
}
