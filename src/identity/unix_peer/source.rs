//! `UnixPeer`: asks the claims of its workloads in order.

use std::sync::Arc;

use super::claim::{Held, UnixClaim};
use crate::capture::{Asks, Peer};
use crate::identity::{Attestation, Caller, Identified, IdentitySource, SpiffeId, Workload};

/// Workloads by what the kernel tells: `SO_PEERCRED` and the process on a unix socket, the owner of the peer's socket on TCP loopback.
#[derive(Debug)]
pub struct UnixPeer {
    name: Arc<str>,
    workloads: Vec<(UnixClaim, Arc<Workload>)>,
}

impl UnixPeer {
    /// Under the identity's name in the configuration; no claim is implied by one after it.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, workloads: impl IntoIterator<Item = (UnixClaim, SpiffeId)>) -> Self {
        let workload =
            |(claim, id): (UnixClaim, SpiffeId)| (claim.clone(), Arc::new(Workload { id, attestation: Attestation::UnixPeer(claim) }));
        Self { name: name.into(), workloads: workloads.into_iter().map(workload).collect() }
    }

    /// The first claim of which all is proven. What cannot be known ends the search: a workload that asks for less must not be found
    /// because exeat could not look.
    fn find(&self, caller: &Caller<'_>) -> Identified {
        let mut nearest = None;
        for (claim, workload) in &self.workloads {
            match claim.held(caller.arrival) {
                Held::Proven => return Identified::Attested(Arc::clone(workload)),
                Held::Unknown(why) => return Identified::Rejected(why),
                Held::Not(why) => nearest = Some(why),
                Held::Stranger(why) => nearest = nearest.or(Some(why)),
            }
        }
        Identified::Rejected(format!("{} is not listed in identity `{}`", nearest.unwrap_or_default(), self.name))
    }
}

impl IdentitySource for UnixPeer {
    fn name(&self) -> &str {
        &self.name
    }

    /// A stranger's process is not looked at: only one that may be meant costs the reading of its executable.
    fn asks(&self, peer: &Peer) -> Asks {
        let Peer::Unix { uid, .. } = peer else { return Asks { uid: true, ..Asks::default() } };
        let meant = || self.workloads.iter().map(|(claim, _)| claim).filter(|claim| claim.admits(Some(*uid)));
        Asks { uid: true, process: meant().any(UnixClaim::needs_process), hash: meant().any(|claim| claim.sha256.is_some()), hold: false }
    }

    fn identify(&self, caller: &Caller<'_>) -> Identified {
        match &caller.arrival.peer {
            Peer::Unix { .. } | Peer::Tcp { uid: Some(_), .. } => self.find(caller),
            // from this host a proof had to be there; without it nobody else is asked
            Peer::Tcp { uid: None, address } if address.ip().to_canonical().is_loopback() => {
                Identified::Rejected(format!("the kernel named no owner of the socket at {address}"))
            }
            Peer::Tcp { uid: None, .. } => Identified::NotApplicable,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::capture::{Arrival, Cgroups, Executable, Mode, Process, Sha256};
    use crate::clock::Timestamp;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://prod.example/{name}")).unwrap()
    }

    fn uid(uid: u32) -> UnixClaim {
        UnixClaim { uid: Some(uid), ..UnixClaim::default() }
    }

    fn unix(uid: u32) -> Peer {
        Peer::Unix { uid, gid: 7, pid: None }
    }

    fn tcp(uid: Option<u32>, address: &str) -> Peer {
        Peer::Tcp { address: address.parse().unwrap(), uid }
    }

    fn told(source: &UnixPeer, peer: Peer, process: Option<Result<Process, &'static str>>) -> Identified {
        let process = process.map(|known| known.map(Arc::new));
        let arrival = Arrival {
            listener: "l".into(),
            mode: Mode::Forward,
            route: None,
            peer,
            process,
            certificates: None,
            proof: None,
            tunnel: None,
            sni: None,
        };
        source.identify(&Caller { arrival: &arrival, headers: &HeaderMap::new(), now: Timestamp::UNIX_EPOCH })
    }

    /// The workload's path, or why not.
    fn who(source: &UnixPeer, peer: Peer, process: Option<Result<Process, &'static str>>) -> String {
        match told(source, peer, process) {
            Identified::Attested(workload) => workload.id.path().to_owned(),
            Identified::Rejected(why) => why,
            Identified::NotApplicable => "not applicable".to_owned(),
            Identified::Unsettled | Identified::NotReady(_) => panic!("the kernel has told all that it tells"),
        }
    }

    fn process(path: &str, here: bool, digest: u8, group: &str) -> Process {
        let executable = Executable { path: path.into(), here, sha256: Some(Sha256([digest; 32])) };
        Process { pid: 42, executable: Some(executable), cgroups: Cgroups::parse(&format!("0::{group}\n")), hold: None }
    }

    #[test]
    fn a_listed_uid_is_its_workload_on_both_transports() {
        let app = UnixPeer::new("local", [(uid(1001), id("app"))]);
        for peer in [unix(1001), tcp(Some(1001), "127.0.0.1:4")] {
            let Identified::Attested(workload) = told(&app, peer, None) else { panic!("{peer:?}") };
            assert_eq!(workload.attestation, Attestation::UnixPeer(uid(1001)));
        }
        assert_eq!(app.asks(&unix(1001)), Asks { uid: true, process: false, hash: false, hold: false });
    }

    #[test]
    fn an_unlisted_or_unnamed_uid_is_rejected_and_another_network_is_not_applicable() {
        let app = UnixPeer::new("local", [(uid(1001), id("app"))]);
        assert_eq!(who(&app, unix(0), None), "uid 0 is not listed in identity `local`");
        for address in ["127.0.0.1:4", "[::ffff:127.0.0.1]:4"] {
            assert!(who(&app, tcp(None, address), None).contains("named no owner"));
        }
        assert_eq!(who(&app, tcp(None, "10.0.0.1:4"), None), "not applicable");
    }

    #[test]
    fn what_is_written_must_all_be_proven() {
        let claim = UnixClaim {
            executable: Some("/usr/bin/app".into()),
            sha256: Some(Sha256([1; 32])),
            cgroup: Some("/system.slice/app.service".into()),
            ..uid(1001)
        };
        let source = UnixPeer::new("local", [(claim, id("strict")), (uid(1002), id("other"))]);
        let good = || process("/usr/bin/app", false, 1, "/system.slice/app.service");
        assert_eq!(who(&source, unix(1001), Some(Ok(good()))), "/strict");
        let wrong = [
            (process("/usr/bin/sh", true, 1, "/system.slice/app.service"), "process 42 runs /usr/bin/sh"),
            (process("/usr/bin/app", true, 2, "/system.slice/app.service"), "has sha256 0202"),
            (process("/usr/bin/app", true, 1, "/system.slice/app"), "another control group"),
        ];
        for (process, why) in wrong {
            let told = who(&source, unix(1001), Some(Ok(process)));
            assert!(told.contains(why) && told.ends_with("is not listed in identity `local`"), "{told}");
        }
        let unseen = Process { executable: None, ..good() };
        assert!(who(&source, unix(1001), Some(Ok(unseen))).contains("CAP_SYS_PTRACE"));
        assert!(who(&source, unix(1001), Some(Err("it ended"))).contains("it ended"));
        assert!(who(&source, unix(1001), None).contains("connect again"));
        assert!(who(&source, tcp(Some(1001), "127.0.0.1:4"), None).contains("TCP proves the uid only"));
        assert_eq!(who(&source, unix(1002), None), "/other", "nothing is asked of a process that cannot be meant");
        assert_eq!(source.asks(&unix(1001)), Asks { uid: true, process: true, hash: true, hold: false });
        assert_eq!(source.asks(&unix(1002)), Asks { uid: true, process: false, hash: false, hold: false });
    }

    #[test]
    fn a_path_without_a_digest_is_the_file_that_exeat_sees_there() {
        let claim = UnixClaim { executable: Some("/usr/bin/app".into()), ..uid(1) };
        let source = UnixPeer::new("local", [(claim, id("app"))]);
        assert_eq!(who(&source, unix(1), Some(Ok(process("/usr/bin/app", true, 9, "/")))), "/app");
        let mounted_over = who(&source, unix(1), Some(Ok(process("/usr/bin/app", false, 9, "/"))));
        assert!(mounted_over.contains("another file than the one that exeat sees at /usr/bin/app"), "{mounted_over}");
    }

    #[test]
    fn pod_and_container_come_from_the_control_groups() {
        let (pod, container) = ("6b2f7a0e-8d1c-4c57-9a51-0d2f7c3b9e11", "ab".repeat(32));
        let claim = UnixClaim { pod: Some(pod.into()), container: Some(container.as_str().into()), ..UnixClaim::default() };
        let source = UnixPeer::new("local", [(claim, id("app"))]);
        let of = |group: &str| who(&source, unix(0), Some(Ok(process("/x", true, 0, group))));
        assert_eq!(of(&format!("/kubepods/pod{pod}/{container}")), "/app");
        assert!(of(&format!("/kubepods/pod{pod}/{}", "cd".repeat(32))).contains("is of container cdcd"));
        assert!(of("/user.slice").contains("name no pod"));
        let Identified::Attested(workload) =
            told(&source, unix(0), Some(Ok(process("/x", true, 0, &format!("/kubepods/pod{pod}/{container}")))))
        else {
            panic!()
        };
        assert_eq!(workload.attestation.pod(), Some(pod));
    }

    #[test]
    fn what_cannot_be_known_never_gives_a_lesser_workload() {
        let strict = UnixClaim { executable: Some("/usr/bin/app".into()), ..uid(1) };
        let source = UnixPeer::new("local", [(strict, id("strict")), (uid(1), id("lesser"))]);
        assert_eq!(who(&source, unix(1), Some(Ok(process("/usr/bin/sh", true, 0, "/")))), "/lesser");
        assert_eq!(who(&source, unix(1), Some(Err("it ended"))), "it ended");
    }
}
