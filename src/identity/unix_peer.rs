//! `UnixPeer`: the kernel names the uid at the other end, the configuration names that uid's workload.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::spiffe_id::SpiffeId;
use super::workload::{Attestation, Identified, IdentitySource, Workload};
use crate::capture::Peer;

/// Workloads by uid: `SO_PEERCRED` on a unix socket, the owner of the peer's socket on TCP loopback.
#[derive(Debug)]
pub struct UnixPeer {
    name: Arc<str>,
    workloads: FxHashMap<u32, Arc<Workload>>,
}

impl UnixPeer {
    /// Under the identity's name in the configuration; uids are unique.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, workloads: impl IntoIterator<Item = (u32, SpiffeId)>) -> Self {
        let workload = |(uid, id)| (uid, Arc::new(Workload { id, attestation: Attestation::UnixPeer { uid } }));
        Self { name: name.into(), workloads: workloads.into_iter().map(workload).collect() }
    }

    fn of(&self, uid: u32) -> Identified {
        self.workloads.get(&uid).map_or_else(
            || Identified::Rejected(format!("uid {uid} is not listed in identity `{}`", self.name)),
            |workload| Identified::Attested(Arc::clone(workload)),
        )
    }
}

impl IdentitySource for UnixPeer {
    fn name(&self) -> &str {
        &self.name
    }

    fn identify(&self, peer: &Peer) -> Identified {
        match peer {
            Peer::Unix { uid, .. } | Peer::Tcp { uid: Some(uid), .. } => self.of(*uid),
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
    use super::*;

    fn app() -> UnixPeer {
        UnixPeer::new("local", [(1001, SpiffeId::parse("spiffe://prod.example/ns/billing/sa/app").unwrap())])
    }

    #[test]
    fn a_listed_uid_is_its_workload_on_both_transports() {
        let unix = Peer::Unix { uid: 1001, gid: 7, pid: None };
        let tcp = Peer::Tcp { address: "127.0.0.1:4".parse().unwrap(), uid: Some(1001) };
        for peer in [unix, tcp] {
            let Identified::Attested(workload) = app().identify(&peer) else { panic!("{peer:?}") };
            assert_eq!(workload.attestation, Attestation::UnixPeer { uid: 1001 });
        }
    }

    #[test]
    fn an_unlisted_or_unnamed_uid_is_rejected_and_another_network_is_not_applicable() {
        let rejected = |peer| matches!(app().identify(&peer), Identified::Rejected(_));
        assert!(rejected(Peer::Unix { uid: 0, gid: 0, pid: None }));
        assert!(rejected(Peer::Tcp { address: "127.0.0.1:4".parse().unwrap(), uid: None }));
        assert!(rejected(Peer::Tcp { address: "[::ffff:127.0.0.1]:4".parse().unwrap(), uid: None }));
        let far = Peer::Tcp { address: "10.0.0.1:4".parse().unwrap(), uid: None };
        assert!(matches!(app().identify(&far), Identified::NotApplicable));
    }
}
