//! Listeners and worker threads: the part of the edge that pingora's server starts and stops.
//!
//! Everything is bound before the server runs, so that a taken port ends the process with 1. Each worker accepts from sockets of its
//! own: TCP with `SO_REUSEPORT`, unix sockets by a duplicated descriptor.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::attest::Witness;
use super::connection;
use super::in_flight::Live;
use super::passage::Ended;
use super::peer::{self, Ends, Owner};
use super::respond;
use super::stream::{Stream, Transport};
use super::worker::{Seat, Shared, Worker};
use crate::capture::{Arrival, Asks, ListenAddress, Mode, Peer, Process};
use crate::config::ListenerSpec;
use crate::refusal::Code;

/// How long the server's end waits for a worker's last records.
const LAST_RECORDS: Duration = Duration::from_millis(800);

/// Threads of one worker that look at processes.
pub(super) const LOOKING: usize = 4;

/// One listener's facts, the same for each of its connections.
#[derive(Debug, Clone)]
struct Door {
    name: Arc<str>,
    mode: Mode,
    route: Option<Arc<str>>,
}

impl Door {
    /// What the identities that the listener has now want to know of a new connection.
    fn asks(&self, worker: &Worker, peer: &Peer) -> Asks {
        let snapshot = worker.snapshot();
        let sources = snapshot.identities.get(&self.name).map(AsRef::as_ref).unwrap_or_default();
        sources.iter().fold(Asks::default(), |asks, source| asks.or(source.asks(peer)))
    }
}

enum Bound {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// All listeners, bound, with a socket of each for each worker.
pub struct Listeners {
    workers: Vec<Vec<(Door, Bound)>>,
    addresses: Vec<(Arc<str>, Option<SocketAddr>)>,
}

impl Listeners {
    /// Binds all listeners for so many workers.
    ///
    /// # Errors
    /// The first that cannot be bound, with its name and address.
    pub fn bind(specs: &[ListenerSpec], workers: usize) -> io::Result<Self> {
        let mut bound = Self { workers: (0..workers.max(1)).map(|_| Vec::new()).collect(), addresses: Vec::new() };
        for spec in specs {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("listener `{}` cannot listen on {}: {error}", spec.name, place(spec)))
            };
            bound.add(spec).map_err(named)?;
        }
        Ok(bound)
    }

    /// TCP addresses as bound (port 0 filled in), by listener: what upstreams may never resolve to. `None` for unix sockets.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, Option<SocketAddr>)> {
        self.addresses.clone()
    }

    fn add(&mut self, spec: &ListenerSpec) -> io::Result<()> {
        let door = Door { name: Arc::clone(&spec.name), mode: spec.mode, route: spec.route.clone() };
        match &spec.address {
            ListenAddress::Tcp(address) => {
                let several = self.workers.len() > 1;
                if several && address.port() != 0 {
                    // With SO_REUSEPORT two processes of one user could share the port in silence: first see that it is free.
                    drop(tcp(*address, false)?);
                }
                let mut address = *address;
                for worker in &mut self.workers {
                    let socket = tcp(address, several)?;
                    address = socket.local_addr()?;
                    worker.push((door.clone(), Bound::Tcp(socket)));
                }
                self.addresses.push((Arc::clone(&spec.name), Some(address)));
            }
            ListenAddress::Unix(path) => {
                let socket = unix(path, spec.permissions)?;
                for worker in &mut self.workers {
                    worker.push((door.clone(), Bound::Unix(socket.try_clone()?)));
                }
                self.addresses.push((Arc::clone(&spec.name), None));
            }
        }
        Ok(())
    }
}

fn place(spec: &ListenerSpec) -> String {
    match &spec.address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix://{}", path.display()),
    }
}

fn tcp(address: SocketAddr, shared: bool) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit it: no call per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A socket file that nobody listens on was left by a process that is gone.
fn unix(path: &Path, permissions: u32) -> io::Result<StdUnixListener> {
    if let Ok(found) = path.symlink_metadata() {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        if StdUnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = StdUnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(permissions))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// How far the workers are with stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Accept and serve.
    Serve,
    /// Serve what is there.
    Drain,
    /// End what is left.
    End,
}

/// The worker threads, as a service of pingora's server.
pub struct Workers {
    shared: Arc<Shared>,
    listeners: Vec<Vec<(Door, Bound)>>,
    drain: watch::Receiver<bool>,
}

/// Running threads. Dropping it ends them and waits for their last records: pingora drops a service's future, it does not finish it.
struct Running {
    phase: watch::Sender<Phase>,
    ended: Vec<Receiver<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::End);
        for worker in &self.ended {
            // Its sender is gone when the thread is: both mean that it has ended.
            let _ended = worker.recv_timeout(LAST_RECORDS);
        }
    }
}

impl Workers {
    /// Not yet running. When `drain` says so they stop accepting and end what is idle; when the server stops they end everything.
    #[must_use]
    pub fn new(shared: Arc<Shared>, listeners: Listeners, drain: watch::Receiver<bool>) -> Self {
        Self { shared, listeners: listeners.workers, drain }
    }

    fn start(&mut self) -> io::Result<Running> {
        let mut running = Running { phase: watch::Sender::new(Phase::Serve), ended: Vec::new() };
        for (number, doors) in std::mem::take(&mut self.listeners).into_iter().enumerate() {
            let (shared, phase) = (Arc::clone(&self.shared), running.phase.subscribe());
            let (tell, told) = sync_channel(1);
            std::thread::Builder::new().name(format!("exeat-worker-{number}")).spawn(move || {
                if let Err(error) = work(shared, doors, phase) {
                    tracing::error!("worker {number} cannot run: {error}; the process needs more file descriptors or memory");
                }
                // Nobody listens any more when the server did not wait.
                let _heard = tell.send(());
            })?;
            running.ended.push(told);
        }
        Ok(running)
    }
}

#[async_trait::async_trait]
impl Service for Workers {
    async fn start_service(&mut self, _fds: Option<ListenFds>, mut shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        let running = match self.start() {
            Ok(running) => running,
            Err(error) => {
                tracing::error!("a worker thread cannot be started: {error}");
                return;
            }
        };
        let stopping = async {
            if self.drain.wait_for(|drain| *drain).await.is_ok() {
                running.phase.send_replace(Phase::Drain);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stopping => {}
            // An error means that the server is gone: the same as its word to stop.
            _stop = shutdown.changed() => {}
        }
    }

    fn name(&self) -> &'static str {
        "workers"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// One worker thread, from its first to its last task.
fn work(shared: Arc<Shared>, doors: Vec<(Door, Bound)>, phase: watch::Receiver<Phase>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(LOOKING).build()?;
    LocalSet::new().block_on(&runtime, run(shared, doors, phase))
}

async fn run(shared: Arc<Shared>, doors: Vec<(Door, Bound)>, mut phase: watch::Receiver<Phase>) -> io::Result<()> {
    let worker = Worker::new(shared);
    let follower = worker.gate().live.follow();
    spawn_local(Rc::clone(&worker).follow(follower));
    spawn_local(Live::sweep(Rc::clone(&worker)));
    let mut accepting: Vec<JoinHandle<()>> = Vec::new();
    for (door, bound) in doors {
        accepting.push(match bound {
            Bound::Tcp(socket) => spawn_local(accept_tcp(Rc::clone(&worker), door, TcpListener::from_std(socket)?)),
            Bound::Unix(socket) => spawn_local(accept_unix(Rc::clone(&worker), door, UnixListener::from_std(socket)?)),
        });
    }
    // An error means that the service is gone: the same as its word to end.
    drop(phase.wait_for(|phase| *phase != Phase::Serve).await);
    accepting.iter().for_each(JoinHandle::abort);
    worker.drain();
    let idle = async {
        while worker.connections() > 0 || worker.live().count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = idle => {}
        _ended = phase.wait_for(|phase| *phase == Phase::End) => {
            worker.live().end_all(Ended::Drained);
            // Their tasks see it, and give their records, in this turn or the next; those that do not are dropped with the thread.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn accept_tcp(worker: Rc<Worker>, door: Door, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let Some(seat) = Seat::take(worker.shared()) else {
                    refuse(&worker, &door, Peer::Tcp { address, uid: None }, |answer| stream.try_write(answer));
                    continue;
                };
                let asks_uid = door.asks(&worker, &Peer::Tcp { address, uid: None }).uid;
                let owner = if asks_uid { peer::owner(&stream, address, stream.local_addr().ok()) } else { Owner::Known(None) };
                let (worker, mut arrival) = (Rc::clone(&worker), arrival(&door, peer::tcp(address, None)));
                match owner {
                    Owner::Known(uid) => {
                        arrival.peer = peer::tcp(address, uid);
                        spawn_local(connection::serve(worker, arrival, Rc::new(seat), Stream::new(Transport::Tcp(stream))));
                    }
                    Owner::InTables(ends) => {
                        spawn_local(async move {
                            arrival.peer = peer::tcp(address, read(&worker, &stream, ends).await);
                            connection::serve(worker, arrival, Rc::new(seat), Stream::new(Transport::Tcp(stream))).await;
                        });
                    }
                }
            }
            Err(error) => after_error(&door, &error).await,
        }
    }
}

async fn accept_unix(worker: Rc<Worker>, door: Door, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without the kernel's word there is no peer to judge.
                let Ok(credentials) = stream.peer_cred() else { continue };
                let peer = Peer::Unix { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() };
                let Some(seat) = Seat::take(worker.shared()) else {
                    refuse(&worker, &door, peer, |answer| stream.try_write(answer));
                    continue;
                };
                let asks = door.asks(&worker, &peer);
                let witness = asks.process.then(|| Witness::take(&stream, credentials.pid(), credentials.uid()));
                let (worker, mut arrival) = (Rc::clone(&worker), arrival(&door, peer));
                spawn_local(async move {
                    if let Some(witness) = witness {
                        arrival.process = Some(look(&worker, witness, asks).await);
                    }
                    connection::serve(worker, arrival, Rc::new(seat), Stream::new(Transport::Unix(stream))).await;
                });
            }
            Err(error) => after_error(&door, &error).await,
        }
    }
}

/// Looks at a process from a thread that may wait for the disk.
async fn look(worker: &Worker, witness: Result<Witness, &'static str>, asks: Asks) -> Result<Arc<Process>, &'static str> {
    let witness = witness?;
    worker.shared().looks.take(Some(witness.uid()), worker.limits().head_deadline, move || witness.look(asks)).await
}

/// Reads the kernel's tables from a thread that may take long over it.
async fn read(worker: &Worker, stream: &TcpStream, ends: Ends) -> Option<u32> {
    let owner = worker.shared().looks.take(None, worker.limits().head_deadline, move || Ok(ends.read())).await;
    owner.ok().flatten().filter(|_| peer::stands(stream))
}

fn arrival(door: &Door, peer: Peer) -> Arrival {
    Arrival {
        listener: Arc::clone(&door.name),
        mode: door.mode,
        route: door.route.clone(),
        peer,
        process: None,
        certificates: None,
        proof: None,
        tunnel: None,
        sni: None,
    }
}

fn refuse(worker: &Worker, door: &Door, peer: Peer, tell: impl FnOnce(&[u8]) -> io::Result<usize>) {
    let shared = worker.shared();
    let id = worker.ids().borrow_mut().request();
    shared.ledger.edge(
        &door.name,
        peer,
        Code::Overloaded,
        1,
        format!("overloaded: as many connections are open as may be; request {id:032x}"),
    );
    shared.metrics.edge(&door.name, 1);
    // The caller may not hear it; the connection closes either way.
    let _told = tell(&respond::raw(Code::Overloaded, id));
}

/// A connection that failed before it was accepted costs nothing; a process without file descriptors must not spin.
async fn after_error(door: &Door, error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted) {
        tracing::warn!("listener `{}` cannot accept: {error}", door.name);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
