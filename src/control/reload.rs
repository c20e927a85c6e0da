//! `Reload`: reads the configuration again and publishes it, all or nothing; remembers how it went.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::watch::{Cause, Watch};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Config, Digest, Loaded, Watched, restart_needed};
use crate::written::Diagnostic;

/// Builds a snapshot of what was read and publishes it, or says why not and changes nothing; a reading that failed is handed on, so that
/// every attempt has its record. Runs on a blocking thread.
pub type Publish = dyn Fn(Result<Loaded, Vec<Diagnostic>>, Cause) -> Result<(), Vec<Diagnostic>> + Send + Sync;

/// How the newest reload went, and what serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastReload {
    /// When it was tried.
    pub at: Timestamp,
    /// Why it changed nothing: the diagnostics as shown to people. `None` after a success.
    pub failure: Option<String>,
    /// Since when what serves serves.
    pub serving_since: Timestamp,
    /// Digest of what serves.
    pub serving: Digest,
    /// What the newest file changes and only a restart takes over.
    pub restart_needed: Vec<&'static str>,
    /// Reloads that succeeded.
    pub succeeded: u64,
    /// Reloads that failed.
    pub failed: u64,
}

/// What one reload read, and how it went.
#[derive(Debug)]
pub struct Attempt {
    /// What to watch from now on.
    pub watched: Watched,
    /// Digest of what was read.
    pub digest: Digest,
    /// Why nothing changed.
    pub outcome: Result<(), Vec<Diagnostic>>,
}

/// Reloads one configuration file.
pub struct Reload {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// What was set up at the start: sockets, threads, sinks. A restart is needed for as long as the file differs from it.
    started: Config,
    last: Mutex<LastReload>,
}

impl Reload {
    /// For a process that started with this configuration.
    #[must_use]
    pub fn new(path: PathBuf, clock: Arc<dyn Clock>, started: &Loaded) -> Self {
        let now = clock.now();
        let last = LastReload {
            at: now,
            failure: None,
            serving_since: now,
            serving: started.digest,
            restart_needed: Vec::new(),
            succeeded: 0,
            failed: 0,
        };
        Self { path, clock, started: started.config.clone(), last: Mutex::new(last) }
    }

    /// How the newest reload went.
    #[must_use]
    pub fn last(&self) -> LastReload {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file and publishes it. Blocks; call it from a thread that may.
    pub fn run(&self, publish: &Publish, cause: Cause) -> Attempt {
        let reading = config::read(&self.path, &*self.clock);
        let mut needed = Vec::new();
        let read = reading.outcome.and_then(|mut loaded| {
            needed = restart_needed(&self.started, &loaded.config);
            // a new set of rules without some of its files would be another set
            let errors = std::mem::take(&mut loaded.policy_errors);
            if errors.is_empty() { Ok(loaded) } else { Err(errors) }
        });
        let outcome = publish(read, cause);
        self.remember(reading.digest, &outcome, needed);
        Attempt { watched: reading.watched, digest: reading.digest, outcome }
    }

    fn remember(&self, digest: Digest, outcome: &Result<(), Vec<Diagnostic>>, needed: Vec<&'static str>) {
        let now = self.clock.now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.at = now;
        match outcome {
            Ok(()) => {
                last.failure = None;
                last.serving_since = now;
                last.serving = digest;
                last.succeeded += 1;
                last.restart_needed = needed;
                tracing::info!(%digest, "configuration reloaded");
                if !last.restart_needed.is_empty() {
                    tracing::warn!(changed = %last.restart_needed.join(", "), "needs a restart");
                }
            }
            Err(diagnostics) => {
                let text = diagnostics.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n");
                last.failed += 1;
                for diagnostic in diagnostics {
                    tracing::error!("{diagnostic}");
                }
                tracing::error!(mistakes = diagnostics.len(), "configuration not reloaded: the former one keeps serving");
                last.failure = Some(text);
            }
        }
    }

    /// Reloads on every change until it is dropped.
    pub async fn supervise(self: Arc<Self>, mut watch: Watch, publish: Arc<Publish>) {
        loop {
            let cause = watch.changed().await;
            tracing::info!(?cause, "reading the configuration again");
            let (reload, publish) = (Arc::clone(&self), Arc::clone(&publish));
            match tokio::task::spawn_blocking(move || reload.run(&*publish, cause)).await {
                Ok(attempt) => watch.follow(attempt.watched, attempt.digest),
                Err(error) => tracing::error!(%error, "the reload ended early: the former configuration keeps serving"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::clock::SystemClock;

    const GOOD: &str = r#"exeat: config/v1
state: ephemeral
trust_domain: t.example
listeners: { a: { address: "127.0.0.1:15001", capture: forward, identity: [me] } }
identities: { me: { fixed: { id: "spiffe://t.example/ns/a/sa/b" } } }
upstreams: { u: { owner: me, origins: ["https://a.example"] } }
"#;

    fn at(dir: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = dir.path().join("exeat.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_mistake_changes_nothing_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir, GOOD);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let first = config::load(&path, &*clock).unwrap();
        let reload = Reload::new(path, clock, &first);
        at(&dir, &GOOD.replace("fixed", "fixd"));
        let attempt = reload.run(&|read, _| read.map(|_| panic!("nothing is published")), Cause::Files);
        assert!(attempt.outcome.is_err() && attempt.digest != first.digest);
        let last = reload.last();
        assert_eq!((last.failed, last.succeeded, last.serving), (1, 0, first.digest));
        assert!(last.failure.unwrap().contains("did you mean `fixed`?"));
        at(&dir, &GOOD.replace("15001", "15002"));
        reload.run(&|read, _| read.map(drop), Cause::Files).outcome.unwrap();
        let last = reload.last();
        assert_eq!((last.succeeded, last.failure, last.restart_needed), (1, None, vec!["listeners"]));
        at(&dir, GOOD);
        let refused = reload.run(&|_, _| Err(vec![Diagnostic::file_error("exeat.yaml", "no")]), Cause::Files);
        assert!(refused.outcome.is_err() && reload.last().serving != refused.digest);
    }

    #[tokio::test]
    async fn every_change_is_published_and_a_broken_one_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir, GOOD);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let first = config::load(&path, &*clock).unwrap();
        let watch = Watch::new(first.watched.clone(), first.digest, Duration::from_millis(50));
        let reload = Arc::new(Reload::new(path, clock, &first));
        let (told, mut heard) = mpsc::channel(8);
        let publish: Arc<Publish> = Arc::new(move |read: Result<Loaded, Vec<Diagnostic>>, _| {
            let loaded = read?;
            told.blocking_send(loaded.catalogue.all()[0].owner.to_string()).unwrap();
            Ok(())
        });
        let task = tokio::spawn(Arc::clone(&reload).supervise(watch, publish));
        let mut next = async || tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.expect("published").unwrap();
        at(&dir, &GOOD.replace("owner: me", "owner: you"));
        assert_eq!(next().await, "you");
        at(&dir, "exeat: [");
        at(&dir, &GOOD.replace("owner: me", "owner: they"));
        assert_eq!(next().await, "they");
        // what is published is remembered right after
        let remembered = async {
            while reload.last().failure.is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), remembered).await.expect("remembered");
        task.abort();
    }
}
