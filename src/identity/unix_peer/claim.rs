//! `UnixClaim`: what must all be proven of a process for it to be a workload.

use std::sync::Arc;

use crate::capture::{Arrival, Peer, Process, Sha256};

/// What must all be proven; what is absent is not asked for. As an attestation: what was proven.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnixClaim {
    /// Its user.
    pub uid: Option<u32>,
    /// The program that it runs. Without a digest it must be the very file that exeat sees at this path.
    pub executable: Option<Arc<str>>,
    /// The content of that program.
    pub sha256: Option<Sha256>,
    /// Its control group, or one above it.
    pub cgroup: Option<Arc<str>>,
    /// The uid of its Kubernetes pod.
    pub pod: Option<Arc<str>>,
    /// The id of its container.
    pub container: Option<Arc<str>>,
}

/// What a connection says of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// All of it is proven.
    Proven,
    /// It is of another user.
    Stranger(String),
    /// Something of it is not so.
    Not(String),
    /// Something of it cannot be known, so neither can it be said that it is not so.
    Unknown(String),
}

impl UnixClaim {
    /// Whether it asks for more than the uid.
    #[must_use]
    pub const fn needs_process(&self) -> bool {
        self.executable.is_some() || self.sha256.is_some() || self.cgroup.is_some() || self.pod.is_some() || self.container.is_some()
    }

    /// Whether whoever proves `other` has proven this too.
    #[must_use]
    pub fn is_implied_by(&self, other: &Self) -> bool {
        fn within<T: PartialEq>(less: Option<&T>, more: Option<&T>) -> bool {
            less.is_none() || less == more
        }
        within(self.uid.as_ref(), other.uid.as_ref())
            && within(self.executable.as_ref(), other.executable.as_ref())
            && within(self.sha256.as_ref(), other.sha256.as_ref())
            && within(self.cgroup.as_ref(), other.cgroup.as_ref())
            && within(self.pod.as_ref(), other.pod.as_ref())
            && within(self.container.as_ref(), other.container.as_ref())
    }

    /// Whether a caller of this uid may be meant.
    pub(super) fn admits(&self, uid: Option<u32>) -> bool {
        self.uid.is_none() || self.uid == uid
    }

    /// Compares it with what the connection proves.
    pub(super) fn held(&self, arrival: &Arrival) -> Held {
        let uid = match arrival.peer {
            Peer::Unix { uid, .. } => Some(uid),
            Peer::Tcp { uid, .. } => uid,
        };
        if !self.admits(uid) {
            return Held::Stranger(uid.map_or_else(|| "the kernel named no owner".to_owned(), |uid| format!("uid {uid}")));
        }
        if !self.needs_process() {
            return Held::Proven;
        }
        match &arrival.process {
            Some(Ok(process)) => self.held_by(process),
            Some(Err(why)) => Held::Unknown((*why).to_owned()),
            None => Held::Unknown(match arrival.peer {
                Peer::Tcp { .. } => "TCP proves the uid only; connect through a unix socket".to_owned(),
                Peer::Unix { .. } => "nothing was asked about its process when it connected; it must connect again".to_owned(),
            }),
        }
    }

    fn held_by(&self, process: &Process) -> Held {
        if self.cgroup.as_ref().is_some_and(|group| !process.cgroups.is_in(group)) {
            return Held::Not(format!("process {} is in another control group", process.pid));
        }
        for (what, wanted, seen) in [("pod", &self.pod, process.cgroups.pod()), ("container", &self.container, process.cgroups.container())]
        {
            if wanted.as_ref().is_some_and(|wanted| seen != Some(wanted)) {
                return Held::Not(match seen {
                    Some(seen) => format!("process {} is of {what} {seen}", process.pid),
                    None => format!("the control groups of process {} name no {what}", process.pid),
                });
            }
        }
        let Some(wanted) = &self.executable else { return Held::Proven };
        let Some(seen) = &process.executable else {
            let next = "exeat needs the same user or CAP_SYS_PTRACE for that";
            return Held::Unknown(format!("the executable of process {} cannot be seen; {next}", process.pid));
        };
        if *seen.path != **wanted {
            return Held::Not(format!("process {} runs {}", process.pid, seen.path));
        }
        match (self.sha256, seen.sha256) {
            (None, _) if seen.here => Held::Proven,
            (None, _) => Held::Not(format!("process {} runs another file than the one that exeat sees at {wanted}", process.pid)),
            (Some(wanted), Some(seen)) if wanted == seen => Held::Proven,
            (Some(_), Some(seen)) => Held::Not(format!("the executable of process {} has sha256 {seen}", process.pid)),
            (Some(_), None) => {
                Held::Unknown("the content of its executable was not looked at when it connected; it must connect again".to_owned())
            }
        }
    }
}
