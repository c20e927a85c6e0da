//! The stop: readyz says 503, new connections are still taken for the drain delay, in-flight work ends by the deadline.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Duration, timeout};

use super::start::Signals;
use crate::admin::Health;
use crate::audit::{Event, Ledger};
use crate::config::Drain;
use crate::state::State;

/// Waits for the wish to stop, drains, and only then tells the chassis to end.
pub(super) struct DrainThenStop {
    pub(super) heard: watch::Receiver<Heard>,
    /// Set by `Running::stop`.
    pub(super) wish: watch::Receiver<bool>,
    /// Tells the workers to stop accepting and to end what is idle.
    pub(super) workers: watch::Sender<bool>,
    /// Connections that are still open.
    pub(super) open: Arc<dyn Fn() -> usize + Send + Sync>,
    pub(super) health: Arc<Health>,
    pub(super) state: Arc<State>,
    /// Hears that the stop began.
    pub(super) ledger: Ledger,
    pub(super) drain: Drain,
}

#[async_trait]
impl ShutdownSignalWatch for DrainThenStop {
    async fn recv(&self) -> ShutdownSignal {
        let cause = self.wished().await;
        self.ledger.event(Event::Stopping { cause: cause.into() });
        tracing::info!(cause, delay = ?self.drain.delay, deadline = ?self.drain.deadline, "stopping");
        self.health.set("draining", Err("exeat is stopping".into()));
        // A successor may take the state over while this process only ends what it has begun.
        self.state.release();
        tokio::select! {
            () = self.drained() => tracing::info!("drained"),
            () = self.wished_again() => tracing::warn!("stopping at once"),
        }
        // Graceful, so that the workers hear of it and give the last records before their runtime ends.
        ShutdownSignal::GracefulTerminate
    }
}

impl DrainThenStop {
    /// Waits for the wish to stop; what wished it.
    async fn wished(&self) -> &'static str {
        let mut wish = self.wish.clone();
        let asked = async {
            if wish.wait_for(|wish| *wish).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = asked => "command",
            name = self.heard_times(1) => name,
        }
    }

    async fn wished_again(&self) {
        self.heard_times(2).await;
    }

    /// Waits until so many stop signals came; the name of the newest.
    async fn heard_times(&self, times: u32) -> &'static str {
        let mut heard = self.heard.clone();
        // Without a sender no signal is heeded.
        match heard.wait_for(|heard| heard.times >= times).await.map(|heard| heard.newest) {
            Ok(newest) => newest,
            Err(_) => std::future::pending().await,
        }
    }

    async fn drained(&self) {
        tokio::time::sleep(self.drain.delay).await;
        self.workers.send_replace(true);
        let rest = self.drain.deadline.saturating_sub(self.drain.delay);
        let idle = async {
            while (self.open)() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(rest, idle).await.is_err() {
            tracing::warn!(open = (self.open)(), "the drain deadline ended connections that were still open");
        }
    }
}

/// Stop signals since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heard {
    times: u32,
    newest: &'static str,
}

/// Hears SIGTERM and SIGINT from now on. Called before anything can be reached: a signal that comes before somebody listens ends the
/// process without a drain.
///
/// # Errors
/// The kernel refused the handlers.
pub(super) fn listen(household: &Runtime, signals: Signals) -> io::Result<watch::Receiver<Heard>> {
    let (tell, heard) = watch::channel(Heard::default());
    if signals == Signals::Ignored {
        return Ok(heard);
    }
    let both = async { Ok::<_, io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)) };
    let (mut terminate, mut interrupt) = household.block_on(both)?;
    household.spawn(async move {
        loop {
            let newest = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tell.send_modify(|heard| *heard = Heard { times: heard.times.saturating_add(1), newest });
        }
    });
    Ok(heard)
}
