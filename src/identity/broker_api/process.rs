//! `ProcessIdentity`: what the agent says of one process, for as long as that process lives and is connected.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::line::Line;
use crate::capture::{Hold, Process};
use crate::clock::{Clock, Timestamp};
use crate::identity::follow::{Malformed, Told, stay, take_svids};
use crate::identity::followed::{About, Followed, Heralds};
use crate::identity::jwt_svid::{self, JwtSvidFault};
use crate::identity::standing::Standing;
use crate::identity::workload_api::{Fault, Stream, X509Svids};
use crate::identity::{Attestation, Identified, SpiffeId};
use crate::secret::{Secret, random};

/// An agent that has said nothing at all of a process by then is asked again.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// A process that has no connection left is let go of after this: many open one for each request.
const LINGER: Duration = Duration::from_secs(5);
/// A stream stays open at least so long.
const SHORTEST: Duration = Duration::from_secs(1);
/// While exeat has no identity of its own, how soon a connection by the next one is looked for.
const WITHOUT: Duration = Duration::from_secs(5);

/// The process that exeat referred to, as it was when it connected.
#[derive(Debug)]
pub struct Referred {
    /// Its number.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Where the kernel says that its program stands; a path in its own view of the file system.
    pub executable: Option<Box<str>>,
    /// The uid of its Kubernetes pod.
    pub pod: Option<Box<str>>,
    /// The id of its container.
    pub container: Option<Box<str>>,
    gid: u32,
    hold: Arc<Hold>,
    said: Weak<ProcessIdentity>,
}

impl Referred {
    fn of(process: &Process, hold: Arc<Hold>, (uid, gid): (u32, u32), said: Weak<ProcessIdentity>) -> Self {
        let cgroups = &process.cgroups;
        Self {
            pid: process.pid,
            uid,
            executable: process.executable.as_ref().map(|executable| executable.path.clone()),
            pod: cgroups.pod().map(Into::into),
            container: cgroups.container().map(Into::into),
            gid,
            hold,
            said,
        }
    }

    /// What the agent says of it; `None` once it was let go of.
    pub(super) fn said(&self) -> Option<Arc<ProcessIdentity>> {
        self.said.upgrade().filter(|said| !said.is_over())
    }
}

/// One process is itself: nothing that it looks like makes two the same.
impl PartialEq for Referred {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Referred {}

/// Its connections, as far as they still last.
#[derive(Debug, Default)]
struct Connected {
    by: Vec<Weak<Process>>,
    /// Since when there is none.
    gone: Option<Instant>,
}

/// What the agent says of one process.
#[derive(Debug)]
pub(in crate::identity) struct ProcessIdentity {
    referred: Arc<Referred>,
    /// As it looked when it connected: a process that looks otherwise is asked about anew.
    look: Process,
    followed: Followed,
    line: Arc<Line>,
    connected: Mutex<Connected>,
    over: AtomicBool,
}

impl ProcessIdentity {
    /// Nothing was said yet.
    pub(super) fn new(
        name: Arc<str>,
        process: &Arc<Process>,
        hold: &Arc<Hold>,
        user: (u32, u32),
        line: Arc<Line>,
        heralds: Heralds,
    ) -> Arc<Self> {
        Arc::new_cyclic(|own| {
            let referred = Arc::new(Referred::of(process, Arc::clone(hold), user, Weak::clone(own)));
            let settings = line.settings();
            let about = About {
                name,
                place: format!("unix://{}", settings.socket).into(),
                hint: settings.hint.clone(),
                trust_domain: Arc::clone(&settings.own.trust_domain),
                attestation: Attestation::BrokerApi(Arc::clone(&referred)),
                first_word: FIRST_WORD,
                logged: false,
            };
            Self {
                referred,
                look: Process { hold: None, ..(**process).clone() },
                followed: Followed::new(about, heralds),
                line,
                connected: Mutex::new(Connected { by: vec![Arc::downgrade(process)], gone: None }),
                over: AtomicBool::new(false),
            }
        })
    }

    /// Whether it is the process of this connection, as it looks now. Both live at one moment and have one number, so they are one.
    pub(super) fn is(&self, process: &Process, hold: &Hold, (uid, gid): (u32, u32)) -> bool {
        let (pid, look) = (self.referred.pid, &self.look);
        let alike = (pid, self.referred.uid, self.referred.gid) == (process.pid, uid, gid)
            && look.executable == process.executable
            && look.cgroups == process.cgroups;
        // in this order: the one that connected now was there when the other was seen to live
        alike && !self.is_over() && self.referred.hold.lives().is_ok() && hold.lives().is_ok()
    }

    /// One connection more.
    pub(super) fn join(&self, process: &Arc<Process>) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.by.push(Arc::downgrade(process));
        connected.gone = None;
    }

    /// Since when no connection is left.
    fn gone_since(&self, now: Instant) -> Option<Instant> {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.by.retain(|process| process.strong_count() > 0);
        if connected.by.is_empty() { Some(*connected.gone.get_or_insert(now)) } else { None }
    }

    /// Whether another may take its place: nobody is connected, or the agent gives it no identity.
    pub(super) fn gives_way(&self, now: Instant) -> bool {
        self.gone_since(now).is_some() || self.followed.is_denied()
    }

    /// Looks after its end, and its certificate's. Whether it is to be let go of.
    pub(super) fn is_done(&self, clock: &dyn Clock) -> bool {
        if let Err(ended) = self.referred.hold.lives() {
            // Who still speaks on its connections is somebody else.
            self.followed.withdraw(ended);
            return true;
        }
        self.followed.expire(clock.now());
        let now = clock.instant();
        self.is_over() || self.gone_since(now).is_some_and(|since| now.saturating_duration_since(since) >= LINGER)
    }

    /// Nothing holds of it any more.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// That the process lives.
    pub(super) fn lives(&self) -> bool {
        !self.is_over() && self.referred.hold.lives().is_ok()
    }

    /// Whether it is this workload now.
    pub(super) fn is_workload(&self, id: &SpiffeId) -> bool {
        self.followed.is(id)
    }

    pub(super) fn standing(&self) -> Arc<Standing> {
        self.followed.standing()
    }

    /// Waits for the agent's first answer, or first failure.
    pub(super) async fn heard(&self) {
        self.followed.heard().await;
    }

    /// The verdict on its connections; that it lives was seen just now.
    pub(super) fn verdict(&self) -> Identified {
        match self.followed.workload() {
            Some(workload) => Identified::Attested(workload),
            None if !self.followed.is_heard() => Identified::Unsettled,
            None if self.followed.is_denied() => Identified::Rejected(format!("process {}: {}", self.referred.pid, self.followed.words())),
            None => Identified::NotReady(self.followed.words()),
        }
    }

    /// A JWT-SVID of this very workload for one audience.
    pub(in crate::identity) async fn jwt_svid(&self, audience: &str, now: Timestamp) -> Result<(Secret, Timestamp), JwtSvidFault> {
        let lives = || self.referred.hold.lives().map_err(|why| JwtSvidFault::NoIdentity(why.to_owned()));
        let workload = self.followed.workload().ok_or_else(|| JwtSvidFault::NoIdentity(self.followed.words()))?;
        let id = workload.id.as_str();
        lives()?;
        let answer = self.line.jwt_svid(self.referred.pid, audience, id).await.map_err(|fault| JwtSvidFault::Api(fault.to_string()))?;
        // Another process of that number may have been asked about since.
        lives()?;
        // Of the one trust domain that exeat is of too, so the keys are those that exeat was told itself.
        jwt_svid::judge(answer, &workload.id, audience, &self.line.pod().standing().bundles, now)
    }

    /// Follows what the agent says, until it is aborted.
    pub(super) async fn follow(self: Arc<Self>, clock: Arc<dyn Clock>) {
        let svids = ItsSvids(&self, &*clock);
        loop {
            tokio::select! {
                // the agent does not want to be asked about it again
                () = stay(&svids) => std::future::pending().await,
                () = tokio::time::sleep(self.renewal(&*clock)) => {}
            }
        }
    }

    /// A stream is opened anew before the certificate that opened it ends, each process in a moment of its own. What was said holds on.
    fn renewal(&self, clock: &dyn Clock) -> Duration {
        let Some(until) = self.line.until() else { return WITHOUT };
        let left = Duration::try_from(until.duration_since(clock.now())).unwrap_or_default();
        let mut jitter = [0];
        random(&mut jitter);
        (left * 3 / 4 + left * u32::from(jitter[0]) / 1024).max(SHORTEST)
    }
}

/// The SVIDs of one process.
struct ItsSvids<'a>(&'a ProcessIdentity, &'a dyn Clock);

impl Told for ItsSvids<'_> {
    type Message = X509Svids;
    const IDENTITY: bool = true;

    fn followed(&self) -> &Followed {
        &self.0.followed
    }

    async fn open(&self) -> Result<Stream<X509Svids>, Fault> {
        let referred = &self.0.referred;
        referred.hold.lives().map_err(|why| Fault::Final(why.to_owned()))?;
        self.0.line.x509_svids(referred.pid).await
    }

    /// The agent looked at the number between the question and this answer: all that time it must have been this process's.
    fn take(&self, message: X509Svids) -> Result<(), Malformed> {
        self.0.referred.hold.lives().map_err(Malformed::Ended)?;
        take_svids(self.followed(), message, self.1.now())
    }
}
