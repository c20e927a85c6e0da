//! The harness: a real exeat process, real upstreams that record what reached them, and clients that send exactly the bytes they are told.
//!
//! Nothing here knows exeat's code: it starts the binary, writes its files and looks at its sockets. Nothing sleeps: every wait is for a
//! condition, with a bound, and says what it waited for.

pub mod answers;
pub mod broker_api;
pub mod clients;
pub mod exeat;
pub mod h1;
pub mod h2;
pub mod jwt;
pub mod otlp;
pub mod pki;
pub mod spiffe;
pub mod upstream;
pub mod wire;

use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use exeat::{Exeat, House};
pub use upstream::{Seen, Upstream};
pub use wire::{Answer, Wire};

/// Longest wait for anything that should happen at once; generous, because a shared machine may stall for seconds.
pub const BOUND: Duration = Duration::from_secs(20);

/// Runs a future to its end on a runtime of its own.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Looks again and again until there is something, or fails naming what was waited for.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < BOUND, "waited {BOUND:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(3));
    }
}

/// A loopback port that nobody listens on. Taken from below the range of ephemeral ports, each once a process, so that neither another
/// test nor an outgoing connection takes it before exeat binds it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 200).expect("small") * 60;
    loop {
        let port = 15_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Says why a story was not told. Straight to the descriptor: what `println!` and `eprintln!` write is kept from the log of a test that passes.
pub fn skipped(why: &str) {
    let _unless_closed = std::io::stderr().write_all(format!("skipped: {why}\n").as_bytes());
}

/// Whether these tests run as root.
pub fn root() -> bool {
    nix::unistd::geteuid().is_root()
}
