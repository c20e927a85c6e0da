//! `BrokerApi`: all processes that one agent is asked about.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::config::BrokerApiSettings;
use super::line::Line;
use super::process::ProcessIdentity;
use crate::capture::{Hold, Process};
use crate::clock::Clock;
use crate::identity::followed::Heralds;
use crate::identity::pod::Pod;
use crate::identity::{Identified, SpiffeId};

/// Most processes that are followed at once.
pub(super) const MOST: usize = 1_024;
/// How often their ends are looked at: what a process proved ends with it, within twice this.
const LOOK: Duration = Duration::from_millis(50);

/// One process, and the task that follows it.
struct Follower {
    process: Arc<ProcessIdentity>,
    task: AbortHandle,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.process.end();
        self.task.abort();
    }
}

/// One Broker API. It outlives reloads that do not change its settings.
pub struct BrokerApi {
    name: Arc<str>,
    line: Arc<Line>,
    heralds: Heralds,
    clock: Arc<dyn Clock>,
    household: Handle,
    followers: Mutex<Vec<Follower>>,
}

impl fmt::Debug for BrokerApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerApi").field("name", &self.name).finish_non_exhaustive()
    }
}

impl BrokerApi {
    pub(in crate::identity) fn start(
        name: Arc<str>,
        settings: BrokerApiSettings,
        pod: Arc<Pod>,
        heralds: Heralds,
        clock: Arc<dyn Clock>,
        household: Handle,
    ) -> Arc<Self> {
        let line = Arc::new(Line::new(settings, pod, Arc::clone(&clock)));
        let api = Arc::new(Self { name, line, heralds, clock, household, followers: Mutex::default() });
        let weak = Arc::downgrade(&api);
        api.household.spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(api) = weak.upgrade() else { return };
                api.lock().retain(|follower| !follower.process.is_done(&*api.clock));
            }
        });
        api
    }

    /// The identity's name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Which Broker API, and who exeat is there.
    #[must_use]
    pub fn settings(&self) -> &BrokerApiSettings {
        self.line.settings()
    }

    /// Why the agent cannot be asked; `None` when it can, or when nobody had to be asked about yet.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.line.trouble()
    }

    /// How many processes are followed.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.lock().len()
    }

    /// exeat itself, as the agent knows it.
    pub(super) fn pod(&self) -> &Arc<Pod> {
        self.line.pod()
    }

    /// What the agent says of this process of this user and group; it is asked from now on, if it was not.
    pub(super) fn of(&self, process: &Arc<Process>, hold: &Arc<Hold>, user: (u32, u32)) -> Result<Arc<ProcessIdentity>, Identified> {
        let mut followers = self.lock();
        if let Some(known) = followers.iter().find(|known| known.process.is(process, hold, user)) {
            known.process.join(process);
            return Ok(Arc::clone(&known.process));
        }
        if followers.len() >= MOST {
            let now = self.clock.instant();
            let Some(at) = followers.iter().position(|known| known.process.gives_way(now)) else {
                return Err(Identified::NotReady(format!("{MOST} processes are connected already, more are not asked about")));
            };
            drop(followers.swap_remove(at));
        }
        let line = Arc::clone(&self.line);
        let known = ProcessIdentity::new(Arc::clone(&self.name), process, hold, user, line, self.heralds.clone());
        let task = self.household.spawn(Arc::clone(&known).follow(Arc::clone(&self.clock))).abort_handle();
        followers.push(Follower { process: Arc::clone(&known), task });
        Ok(known)
    }

    /// A process that is this workload now.
    pub(in crate::identity) fn process_of(&self, id: &SpiffeId) -> Option<Arc<ProcessIdentity>> {
        let all = self.lock();
        all.iter().map(|follower| &follower.process).find(|process| process.is_workload(id) && process.lives()).map(Arc::clone)
    }

    /// Lets go of all.
    pub(in crate::identity) fn end(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Cgroups, Executable};
    use crate::clock::SystemClock;
    use crate::identity::svid::Expected;
    use crate::identity::{Endpoint, PodSettings};

    fn api() -> Arc<BrokerApi> {
        let own =
            PodSettings { endpoint: Endpoint::parse("unix:///nowhere/own.sock").unwrap(), hint: None, trust_domain: "t.example".into() };
        let agent = Expected::parse("spiffe://t.example/spire/agent/**").unwrap();
        let settings = BrokerApiSettings { socket: "/nowhere/broker.sock".into(), agent, hint: None, own: own.clone() };
        let (turns, _told) = tokio::sync::mpsc::channel(1);
        let heralds = Heralds { changed: tokio::sync::watch::Sender::new(0), turns };
        let pod = Arc::new(Pod::new("host".into(), own, heralds.clone()));
        BrokerApi::start("host".into(), settings, pod, heralds, Arc::new(SystemClock), Handle::current())
    }

    /// This very process, looking like another program each time.
    fn looking(at: usize) -> (Arc<Process>, Arc<Hold>) {
        let (pid, uid) = (std::process::id().cast_signed(), nix::unistd::geteuid().as_raw());
        let hold = Arc::new(Hold::by_start(pid, uid).unwrap());
        let executable = Some(Executable { path: format!("/bin/program-{at}").into(), here: true, sha256: None });
        (Arc::new(Process { pid, executable, cgroups: Cgroups::parse(""), hold: Some(Arc::clone(&hold)) }), hold)
    }

    #[tokio::test]
    async fn as_many_processes_are_asked_about_as_may_be_and_who_is_gone_gives_way() {
        let (api, user) = (api(), (1, 1));
        let mut all: Vec<_> = (0..MOST).map(looking).collect();
        let first = api.of(&all[0].0, &all[0].1, user).unwrap();
        for (process, hold) in &all {
            assert!(api.of(process, hold, user).is_ok());
        }
        let (again, hold) = looking(0);
        assert!(Arc::ptr_eq(&first, &api.of(&again, &hold, user).unwrap()), "two connections of one process share what is said of it");
        let (one_more, its) = looking(MOST);
        let Err(Identified::NotReady(why)) = api.of(&one_more, &its, user) else { panic!("the table has a bound") };
        assert!(why.contains("1024 processes"), "{why}");
        // Its last connection ends: its place is another's at once.
        drop(all.pop());
        assert!(api.of(&one_more, &its, user).is_ok());
        assert_eq!(api.processes(), MOST);
        api.end();
        assert!(first.is_over() && api.processes() == 0);
    }

    #[tokio::test]
    async fn a_process_that_became_another_program_or_user_is_asked_about_anew() {
        let api = api();
        let ((was, hold), (is, its)) = (looking(0), looking(1));
        let first = api.of(&was, &hold, (1, 1)).unwrap();
        assert!(!Arc::ptr_eq(&first, &api.of(&is, &its, (1, 1)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &api.of(&was, &hold, (0, 1)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &api.of(&was, &hold, (1, 0)).unwrap()));
        assert!(Arc::ptr_eq(&first, &api.of(&was, &hold, (1, 1)).unwrap()));
        assert_eq!(api.processes(), 4);
    }
}
