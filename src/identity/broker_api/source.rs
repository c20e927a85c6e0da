//! `BrokerIdentity`: asks what the agent says of the process at the other end.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::api::BrokerApi;
use super::process::ProcessIdentity;
use crate::capture::{Asks, Hold, Peer, Process};
use crate::clock::Timestamp;
use crate::identity::standing::Standing;
use crate::identity::{Attestation, Caller, Identified, IdentitySource, Workload};

/// Longest wait of a request for the agent's first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Most connections that one thread knows again; a full memory is emptied and fills by asking the table.
const MOST: usize = 1_024;

/// What is said of a connection's process. The memory that a [`Weak`] points at is not given to another, so an address is that of one API
/// or process for as long as it stands here.
struct Known {
    said: Weak<ProcessIdentity>,
    _api: Weak<BrokerApi>,
    _process: Weak<Process>,
}

thread_local! {
    /// By the API's address and the process's: a connection has one.
    static KNOWN: RefCell<FxHashMap<(usize, usize), Known>> = RefCell::default();
}

/// Workloads by what the agent says of their processes.
#[derive(Debug)]
pub struct BrokerIdentity {
    name: Arc<str>,
    api: Arc<BrokerApi>,
}

impl BrokerIdentity {
    /// Under the identity's name in the configuration.
    #[must_use]
    pub const fn new(name: Arc<str>, api: Arc<BrokerApi>) -> Self {
        Self { name, api }
    }

    /// What is said of the caller's process, or the verdict without it.
    fn said(&self, caller: &Caller<'_>) -> Result<Arc<ProcessIdentity>, Identified> {
        let Peer::Unix { uid, gid, .. } = caller.arrival.peer else { return Err(Identified::NotApplicable) };
        let rejected = |why: &str| Identified::Rejected(why.to_owned());
        let unasked = || rejected("nothing was asked about its process when it connected; it must connect again");
        let process = match &caller.arrival.process {
            Some(Ok(process)) => process,
            Some(Err(why)) => return Err(rejected(why)),
            None => return Err(unasked()),
        };
        let hold = process.hold.as_ref().ok_or_else(unasked)?;
        hold.lives().map_err(rejected)?;
        // Without an identity of its own exeat is no broker, and what it was told as one holds no longer.
        self.api.pod().trusted()?;
        self.known(process, hold, (uid, gid))
    }

    fn known(&self, process: &Arc<Process>, hold: &Arc<Hold>, user: (u32, u32)) -> Result<Arc<ProcessIdentity>, Identified> {
        let key = (Arc::as_ptr(&self.api) as usize, Arc::as_ptr(process) as usize);
        let known = KNOWN.with_borrow(|known| known.get(&key).and_then(|known| known.said.upgrade()));
        if let Some(said) = known.filter(|said| !said.is_over()) {
            return Ok(said);
        }
        let said = self.api.of(process, hold, user)?;
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= MOST {
                known.clear();
            }
            let entry = Known { said: Arc::downgrade(&said), _api: Arc::downgrade(&self.api), _process: Arc::downgrade(process) };
            known.insert(key, entry);
        });
        Ok(said)
    }
}

impl IdentitySource for BrokerIdentity {
    fn name(&self) -> &str {
        &self.name
    }

    fn asks(&self, peer: &Peer) -> Asks {
        match peer {
            Peer::Unix { .. } => Asks { uid: true, process: true, hash: false, hold: true },
            Peer::Tcp { .. } => Asks::default(),
        }
    }

    fn settle<'a>(&'a self, caller: &Caller<'a>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        let said = self.said(caller);
        Box::pin(async move {
            if let Ok(said) = said {
                // Who is still not told apart by then is refused by the next verdict.
                let _told = tokio::time::timeout(FIRST_ANSWER, said.heard()).await;
            }
        })
    }

    fn identify(&self, caller: &Caller<'_>) -> Identified {
        self.said(caller).map_or_else(|verdict| verdict, |said| said.verdict())
    }

    fn still_attests(&self, workload: &Workload, _now: Timestamp) -> bool {
        let Attestation::BrokerApi(process) = &workload.attestation else { return false };
        let proven = |said: Arc<ProcessIdentity>| said.is_workload(&workload.id) && said.lives();
        self.api.pod().trusted().is_ok() && process.said().is_some_and(proven)
    }

    fn standing(&self, workload: &Workload) -> Option<Arc<Standing>> {
        let Attestation::BrokerApi(process) = &workload.attestation else { return None };
        Some(process.said().map_or_else(|| Arc::new(Standing::nothing()), |said| said.standing()))
    }
}
