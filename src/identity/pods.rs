//! `Pods`: all that exeat is told by agents, whatever the configuration's revision: who it is itself, and who its callers are.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::broker_api::{BrokerApi, BrokerApiSettings};
use super::follow::follow;
use super::followed::{Heralds, Turn};
use super::jwt_svid::JwtSvidFault;
use super::pod::{Pod, PodSettings};
use super::spiffe_id::SpiffeId;
use crate::clock::{Clock, Timestamp};
use crate::secret::Secret;

/// Most changes that wait for the audit.
const MOST_TURNS: usize = 1_024;

/// All Workload APIs and Broker APIs that the configuration names: one for each settings, however often they are written.
pub struct Pods {
    clock: Arc<dyn Clock>,
    household: Handle,
    known: Mutex<Vec<(Arc<Pod>, AbortHandle)>>,
    brokers: Mutex<Vec<Arc<BrokerApi>>>,
    heralds: Heralds,
}

impl Pods {
    /// None yet, and what will become of them. They are followed on `household`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, household: Handle) -> (Self, mpsc::Receiver<Turn>) {
        let (turns, told) = mpsc::channel(MOST_TURNS);
        let heralds = Heralds { changed: watch::Sender::new(0), turns };
        (Self { clock, household, known: Mutex::default(), brokers: Mutex::default(), heralds }, told)
    }

    /// The pod of these settings, followed from now on; the one that is there, if it is.
    #[must_use]
    pub fn pod(&self, name: &Arc<str>, settings: &PodSettings) -> Arc<Pod> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((pod, _)) = known.iter().find(|(pod, _)| pod.settings() == settings) {
            return Arc::clone(pod);
        }
        let pod = Arc::new(Pod::new(Arc::clone(name), settings.clone(), self.heralds.clone()));
        let task = self.household.spawn(follow(Arc::clone(&pod), Arc::clone(&self.clock))).abort_handle();
        known.push((Arc::clone(&pod), task));
        pod
    }

    /// The Broker API of these settings, asked on exeat's own behalf; the one that is there, if it is.
    #[must_use]
    pub fn broker_api(&self, name: &Arc<str>, settings: &BrokerApiSettings) -> Arc<BrokerApi> {
        let pod = self.pod(name, &settings.own);
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(api) = brokers.iter().find(|api| api.settings() == settings) {
            return Arc::clone(api);
        }
        let (clock, household) = (Arc::clone(&self.clock), self.household.clone());
        let api = BrokerApi::start(Arc::clone(name), settings.clone(), pod, self.heralds.clone(), clock, household);
        brokers.push(Arc::clone(&api));
        api
    }

    /// Lets go of all that the configuration no longer names.
    pub fn keep(&self, named: &[PodSettings], brokers: &[BrokerApiSettings]) {
        let mut gone = false;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|(pod, task)| {
            let kept = named.contains(pod.settings()) || brokers.iter().any(|broker| broker.own == *pod.settings());
            if !kept {
                task.abort();
                gone = true;
            }
            kept
        });
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner).retain(|api| {
            let kept = brokers.contains(api.settings());
            if !kept {
                api.end();
                gone = true;
            }
            kept
        });
        if gone {
            self.heralds.tell();
        }
    }

    /// A JWT-SVID of this very workload, which exeat is itself or which is a caller that an agent told exeat of.
    ///
    /// # Errors
    /// See [`JwtSvidFault`].
    pub async fn jwt_svid(&self, workload: &SpiffeId, audience: &str, now: Timestamp) -> Result<(Secret, Timestamp), JwtSvidFault> {
        if let Some(pod) = self.all().into_iter().find(|pod| pod.is(workload)) {
            return pod.jwt_svid(audience, now).await;
        }
        let process = self.brokers().into_iter().find_map(|api| api.process_of(workload));
        let Some(process) = process else {
            return Err(JwtSvidFault::NoIdentity(format!("no agent says now that exeat may speak as `{workload}`")));
        };
        process.jwt_svid(audience, now).await
    }

    /// All pods.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(pod, _)| Arc::clone(pod)).collect()
    }

    /// All Broker APIs.
    #[must_use]
    pub fn brokers(&self) -> Vec<Arc<BrokerApi>> {
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hears of every change of any of them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.heralds.changed.subscribe()
    }
}
