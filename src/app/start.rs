//! `start`: builds the rooms in flow order and sets them going; `Running` is what came of it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::build::Builder;
use super::drain::{self, DrainThenStop};
use super::household::{self, Standing};
use super::{keys, leases, policies, records, revocations};
use crate::address::{OwnListeners, Resolver};
use crate::admin::{self, Admin, Door, Guard, Health};
use crate::audit::{Event, Ledger};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, AdminGuard, Config, Loaded};
use crate::control::{self, Cause, Leasing, Publish, Reload, Revoke, Watch};
use crate::credentials::providers::{KeyRings, Rhythm};
use crate::credentials::{self, Broker};
use crate::evidence::Observations;
use crate::gate::Gate;
use crate::identity::{Issuers, Pods};
use crate::live::{LeaseBook, Live};
use crate::outcall::Outcall;
use crate::proxy::{Limits, Listeners, Shared, Workers};
use crate::secret::Secret;
use crate::snapshot::{Current, Snapshot};
use crate::state::State;
use crate::telemetry::Metrics;
use crate::tls::{ClientConfigs, Interceptor, Leaves};
use crate::written::Diagnostic;

/// Why exeat did not start, with the exit code that tells a wrong configuration from a failure.
#[derive(Debug)]
pub struct Failed {
    /// 1, or 78 for configuration, key, state and audit (sysexits `EX_CONFIG`).
    pub exit: u8,
    text: String,
}

impl Failed {
    pub(super) const fn config(text: String) -> Self {
        Self { exit: 78, text }
    }

    pub(super) const fn failure(text: String) -> Self {
        Self { exit: 1, text }
    }

    fn diagnostics(mistakes: &[Diagnostic]) -> Self {
        Self::config(mistakes.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n"))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether SIGTERM and SIGINT drain and stop this exeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    /// A process of its own.
    Heeded,
    /// Part of another program.
    Ignored,
}

/// A running exeat.
pub struct Running {
    listeners: Vec<(Arc<str>, Option<SocketAddr>)>,
    status: Option<SocketAddr>,
    wish: watch::Sender<bool>,
    chassis: JoinHandle<()>,
    ledger: Ledger,
    spans: records::Spans,
    /// What is written when the last passage has ended.
    last: Box<dyn FnOnce() + Send>,
    // Dropped last: its tasks end with it.
    _household: Runtime,
}

impl Running {
    /// The TCP address of a listener (port 0 in the configuration has become a port).
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|(known, _)| &**known == name).and_then(|(_, address)| *address)
    }

    /// The TCP address of the status server.
    #[must_use]
    pub const fn status(&self) -> Option<SocketAddr> {
        self.status
    }

    /// Drains and stops.
    pub fn stop(self) {
        self.wish.send_replace(true);
        self.wait();
    }

    /// Waits until the process has been told to stop and has drained; flushes audit and spans. `false` when something was lost.
    pub fn wait(self) -> bool {
        let ended = self.chassis.join().is_ok();
        (self.last)();
        let flushed = self.ledger.stop(Duration::from_secs(5));
        self.spans.stop();
        ended && flushed
    }
}

/// Starts exeat with a configuration file.
///
/// # Errors
/// What an operator has to mend, with its exit code.
#[expect(clippy::too_many_lines, reason = "the composition root is one list in flow order: what is joined to what is seen at once")]
pub fn start(path: &Path, signals: Signals) -> Result<Running, Failed> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let started = clock.now();
    let loaded = config::load(path, &*clock).map_err(|mistakes| Failed::diagnostics(&mistakes))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = loaded.config.clone();
    let state = keys::open_state(&config)?;
    let fingerprints = Arc::new(state.fingerprint_key().map_err(|error| Failed::config(error.to_string()))?);
    let authority = keys::authority(&state, started)?;
    let household = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("household")
        .enable_all()
        .build()
        .map_err(|error| Failed::failure(format!("no thread can be started: {error}")))?;
    let heard = drain::listen(&household, signals).map_err(|error| Failed::failure(format!("signals cannot be heard: {error}")))?;
    let kill = revocations::listen(&household, signals).map_err(|error| Failed::failure(format!("signals cannot be heard: {error}")))?;
    let health = Arc::new(Health::default());
    let own = OwnListeners::default();
    let resolver = Arc::new(Resolver::system(own.clone(), Arc::clone(&clock), config.limits.dns_keep));
    let tls = Arc::new(ClientConfigs::new());
    let outcall = Arc::new(Outcall::new(Arc::clone(&resolver), Arc::clone(&tls), config.limits.answer_size));

    let metrics = Metrics::new();
    let spans = records::Spans::start(&config, Arc::clone(&outcall))?;
    let observations = Arc::new(Observations::default());
    let ledger = records::ledger(&config, &state, &spans, &metrics, &observations, &clock)?;
    let (broker, grants) = Broker::new(
        Arc::clone(&clock),
        household.handle().clone(),
        Arc::clone(&fingerprints),
        credentials::Limits { entries: config.limits.credential_cache, obtain: config.limits.obtain, ..credentials::Limits::default() },
    );
    let broker = Arc::new(broker);
    let leases = LeaseBook::open(Arc::clone(&state), started).map_err(|error| Failed::config(error.to_string()))?;
    let live = Arc::new(Live::default().with_leases(leases));
    let rings = Arc::new(KeyRings::new(Arc::clone(&state), Rhythm::default()));
    let issuers = Arc::new(Issuers::new(outcall, Arc::clone(&clock), household.handle().clone()));
    let (pods, turns) = Pods::new(Arc::clone(&clock), household.handle().clone());
    let pods = Arc::new(pods);
    let house = Arc::new(House {
        builder: Builder {
            clock: Arc::clone(&clock),
            rings: Arc::clone(&rings),
            fingerprints: Arc::clone(&fingerprints),
            issuers: Arc::clone(&issuers),
            pods: Arc::clone(&pods),
        },
        snapshots: Arc::new(Current::new(Snapshot::empty("exeat is starting"))),
        broker: Arc::clone(&broker),
        live: Arc::clone(&live),
        ledger: ledger.clone(),
        metrics: metrics.clone(),
        health: Arc::clone(&health),
        state: Arc::clone(&state),
        revision: AtomicU64::new(0),
        publishing: Mutex::new(()),
    });
    let (watched, digest) = (loaded.watched.clone(), loaded.digest);
    let reload = Arc::new(Reload::new(path.to_owned(), Arc::clone(&clock), &loaded));
    house.first(loaded)?;
    let revoke = house.revocations(config.revocations.clone())?;
    let leasing = Arc::new(Leasing::new(house.surroundings()));

    let bounds = Leaves { most: config.limits.leaves, life: config.limits.leaf_life };
    let interceptor = Interceptor::new(authority, Arc::clone(&clock), bounds).map_err(|error| Failed::config(error.to_string()))?;
    let threads = config.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, std::num::NonZeroUsize::get);
    let bound = Listeners::bind(&config.listeners, threads).map_err(|error| Failed::failure(error.to_string()))?;
    let listeners: Vec<(Arc<str>, Option<SocketAddr>)> = bound.addresses();
    listeners.iter().filter_map(|(_, address)| *address).for_each(|address| own.add(address));
    let admin_socket = config.admin.as_ref().map(|admin| socket("admin", &admin.address)).transpose()?;
    let status_socket = config.status.as_ref().map(|status| socket("status", &status.address)).transpose()?;
    let status = status_socket.as_ref().and_then(admin::Socket::address);
    [admin_socket.as_ref().and_then(admin::Socket::address), status].into_iter().flatten().for_each(|address| own.add(address));

    let shared = Arc::new(Shared::new(
        fitting(&config, threads),
        Arc::clone(&house.snapshots),
        Gate { broker, clock: Arc::clone(&clock), live: Arc::clone(&live), fingerprints },
        ledger.clone(),
        metrics.clone(),
        spans.sampler(),
        Arc::new(interceptor),
        resolver,
        Arc::clone(&tls),
    ));
    let (stop_workers, workers_stop) = watch::channel(false);
    let workers = Workers::new(Arc::clone(&shared), bound, workers_stop);

    let watch = household.block_on(async { Watch::new(watched, digest, config.limits.file_poll) });
    let ask = watch.ask();
    let publish: Arc<Publish> = {
        let house = Arc::clone(&house);
        Arc::new(move |read, cause| house.publish(read, cause))
    };
    household.spawn(household::record_grants(grants, ledger.clone(), metrics.clone()));
    household.spawn(household::tend_keys(Arc::clone(&rings), Arc::clone(&clock), Arc::clone(&health)));
    household.spawn(household::record_identities(turns, ledger.clone()));
    household.spawn(household::tell_identities(pods.changes(), Arc::clone(&live)));
    household.spawn(household::watch_issuers(issuers, Arc::clone(&health)));
    household.spawn(household::watch_identities(pods, Arc::clone(&clock), Arc::clone(&health), metrics.clone()));
    household.spawn(household::give_memory_back());
    household.spawn_blocking({
        // Beside the first requests: reading 140 certificates takes longer than all else of a start. One that needs them waits for this.
        let tls = Arc::clone(&tls);
        move || {
            if let Err(error) = tls.load_system_roots() {
                tracing::warn!(%error, "upstreams with `roots: system` cannot be verified");
            }
        }
    });
    household.spawn(household::watch_audit(ledger.clone(), Arc::clone(&health)));
    household.spawn(Arc::clone(&reload).supervise(watch, publish));
    let watch = household.block_on(async { revoke.watch(config.limits.file_poll) });
    household.spawn(Arc::clone(&revoke).supervise(watch));
    household.spawn(Arc::clone(&leasing).supervise());
    household.spawn(revocations::heed(kill, Arc::clone(&revoke)));
    if let Some(socket) = status_socket {
        let door = Door::Status(records::status(&health, &metrics, &rings));
        household.spawn(admin::serve(socket, door, Guard::Open));
    }
    if let (Some(socket), Some(admin)) = (admin_socket, &config.admin) {
        let guard = guard(&admin.guard)?;
        let standing = Standing {
            started,
            clock: Arc::clone(&clock),
            config: config.clone(),
            snapshots: Arc::clone(&house.snapshots),
            reload,
            revoke: Arc::clone(&revoke),
            live: Arc::clone(&live),
            ledger: ledger.clone(),
            broker: Arc::clone(&house.broker),
            observations,
            health: Arc::clone(&health),
            metrics: metrics.clone(),
            listeners: config.listeners.iter().map(|listener| (Arc::clone(&listener.name), listener.address.to_string())).collect(),
        };
        let mut routes = household::routes(standing, ask);
        routes.extend(revocations::routes(&revoke));
        routes.extend(leases::routes(&leasing));
        household.spawn(admin::serve(socket, Door::Admin(Admin::new(routes)), guard));
    }
    let (wish, wished) = watch::channel(false);
    let stop = DrainThenStop {
        heard,
        wish: wished,
        workers: stop_workers,
        open: Arc::new(move || shared.open_connections()),
        health,
        state,
        ledger: ledger.clone(),
        drain: config.drain,
    };
    let chassis = chassis(workers, stop).map_err(|error| Failed::failure(format!("no thread can be started: {error}")))?;
    ledger.event(Event::Started {
        version: env!("CARGO_PKG_VERSION"),
        revision: house.snapshots.load().revision,
        policy: house.snapshots.load().policies.shared_revision(),
    });
    for (name, address) in &listeners {
        let address = address.map_or_else(|| "a unix socket".to_owned(), |address| address.to_string());
        tracing::info!(listener = %name, address, "listening");
    }
    let last = keys::after_the_drain(&config, live);
    Ok(Running { listeners, status, wish, chassis, ledger, spans, last, _household: household })
}

/// The limits, fitted to the files that the process may open.
fn fitting(config: &Config, workers: usize) -> Limits {
    let written = Limits::from(&config.limits);
    let Ok((descriptors, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return written };
    let limits = written.within(usize::try_from(descriptors).unwrap_or(usize::MAX), workers);
    if limits.connections < written.connections {
        tracing::warn!(
            "{} connections are taken at most, not the {} of `limits.connections`: the process may open {descriptors} files only; raise that \
             limit (ulimit -n, LimitNOFILE)",
            limits.connections,
            written.connections
        );
    }
    limits
}

fn socket(what: &str, address: &crate::capture::ListenAddress) -> Result<admin::Socket, Failed> {
    admin::bind(address).map_err(|error| Failed::failure(format!("{what} cannot listen on {address}: {error}; is another exeat running?")))
}

fn guard(written: &AdminGuard) -> Result<Guard, Failed> {
    match written {
        AdminGuard::Uids(Some(uids)) => Ok(Guard::Uids(uids.clone())),
        AdminGuard::Uids(None) => Ok(Guard::Uids(vec![nix::unistd::geteuid().as_raw()])),
        AdminGuard::TokenFile(path) => {
            let token =
                std::fs::read(path).map_err(|error| Failed::config(format!("admin token {} cannot be read: {error}", path.display())))?;
            let token = token.trim_ascii_end();
            if token.len() < 16 {
                return Err(Failed::config(format!(
                    "admin token {} has fewer than 16 bytes; make one with `head -c 32 /dev/urandom | base64`",
                    path.display()
                )));
            }
            Ok(Guard::Token(Secret::new(token)))
        }
    }
}

/// pingora's server owns the process's services; ours is the workers. It ends when the stop says so.
fn chassis(workers: Workers, stop: DrainThenStop) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("chassis".into()).spawn(move || {
        let conf =
            ServerConf { threads: 1, grace_period_seconds: Some(0), graceful_shutdown_timeout_seconds: Some(1), ..ServerConf::default() };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        server.add_service(workers);
        server.run(RunArgs { shutdown_signal: Box::new(stop) });
    })
}

/// What publishing a configuration touches.
struct House {
    builder: Builder,
    snapshots: Arc<Current>,
    broker: Arc<Broker>,
    live: Arc<Live>,
    ledger: Ledger,
    metrics: Metrics,
    health: Arc<Health>,
    state: Arc<State>,
    revision: AtomicU64,
    /// One publication at a time.
    publishing: Mutex<()>,
}

impl House {
    /// The first snapshot: with the files' policies, else with the last good ones, else one that refuses everything.
    fn first(&self, mut loaded: Loaded) -> Result<(), Failed> {
        let broken = std::mem::take(&mut loaded.policy_errors);
        let mistakes = if broken.is_empty() {
            match self.builder.policies(&loaded) {
                Ok(rules) => {
                    let kept = loaded.policies.clone();
                    let snapshot =
                        self.builder.with_policies(loaded, self.next(), Ok(rules)).map_err(|mistakes| Failed::diagnostics(&mistakes))?;
                    policies::keep(&self.state, &kept, &*self.builder.clock);
                    self.serve(snapshot);
                    self.health.set("policy", Ok(()));
                    return Ok(());
                }
                Err(mistakes) => mistakes,
            }
        } else {
            broken
        };
        let why = mistakes.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n");
        for mistake in &mistakes {
            tracing::error!("{mistake}");
        }
        if let Some((files, taken)) = policies::last_good(&self.state) {
            // they passed their tests when they were taken; the files' tests are about other rules
            let fallback = Loaded { policies: files, policy_tests: Vec::new(), ..loaded };
            if let Ok(rules) = self.builder.policies(&fallback) {
                let snapshot =
                    self.builder.with_policies(fallback, self.next(), Ok(rules)).map_err(|mistakes| Failed::diagnostics(&mistakes))?;
                tracing::error!(%taken, "the policies are wrong: the last good ones serve");
                self.serve(snapshot);
                self.health.set("policy", Ok(()));
                let warning = format!("the last good policies of {taken} serve, because the files are wrong:\n{why}");
                self.health.warn("policy_files", Some(warning));
                return Ok(());
            }
            loaded = Loaded { policies: Vec::new(), ..fallback };
        }
        let snapshot = self.builder.not_ready(loaded, &why).map_err(|mistakes| Failed::diagnostics(&mistakes))?;
        self.health.set("policy", Err(why));
        self.snapshots.publish(snapshot);
        Ok(())
    }

    /// Puts into force what was revoked before; from here on more can be.
    fn revocations(&self, file: Option<PathBuf>) -> Result<Arc<Revoke>, Failed> {
        Revoke::open(self.surroundings(), file).map(Arc::new).map_err(|error| Failed::config(error.to_string()))
    }

    fn surroundings(&self) -> control::Surroundings {
        let health = Arc::clone(&self.health);
        control::Surroundings {
            live: Arc::clone(&self.live),
            broker: Arc::clone(&self.broker),
            snapshots: Arc::clone(&self.snapshots),
            state: Arc::clone(&self.state),
            ledger: self.ledger.clone(),
            metrics: self.metrics.clone(),
            clock: Arc::clone(&self.builder.clock),
            warn: Arc::new(move |about, why| health.warn(about, why)),
        }
    }

    fn publish(&self, read: Result<Loaded, Vec<Diagnostic>>, cause: Cause) -> Result<(), Vec<Diagnostic>> {
        let one = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = read.and_then(|loaded| {
            let files = loaded.policies.clone();
            Ok((self.builder.snapshot(loaded, self.revision.load(Ordering::Relaxed) + 1)?, files))
        });
        match outcome {
            Ok((snapshot, files)) => {
                let revision = self.next();
                policies::keep(&self.state, &files, &*self.builder.clock);
                let policy = snapshot.policies.shared_revision();
                self.serve(snapshot);
                // After it serves: a request of the former snapshot could issue again in between.
                self.broker.reloaded(&self.snapshots.load().definitions);
                // Passages of an identity that is not there any more end now; those that a rule denies, with the next sweep.
                self.live.tell();
                self.health.set("policy", Ok(()));
                self.health.warn("policy_files", None);
                self.health.warn("reload", None);
                self.ledger.event(Event::Reloaded { revision, policy, cause: cause.name().into() });
                drop(one);
                Ok(())
            }
            Err(mistakes) => {
                self.metrics.reload_failed();
                let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
                self.health.warn("reload", Some(format!("the former configuration serves, because the files are wrong: {first}")));
                self.ledger.event(Event::ReloadFailed { revision: self.revision.load(Ordering::Relaxed), diagnostic: first });
                Err(mistakes)
            }
        }
    }

    fn serve(&self, snapshot: Snapshot) {
        let revision = snapshot.revision;
        self.snapshots.publish(snapshot);
        self.metrics.reloaded(revision, self.builder.clock.now().as_second());
    }

    fn next(&self) -> u64 {
        self.revision.fetch_add(1, Ordering::Relaxed) + 1
    }
}
