//! `TokenFile`: the projected token of the workload itself, mounted beside exeat and renewed by the kubelet.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// How often the file is read: the kubelet renews it long before it expires.
const EVERY: Duration = Duration::from_secs(5);
/// Largest file that is read, in bytes.
const MOST: usize = 16 * 1024;

/// A token in a file.
pub(super) struct TokenFile {
    path: PathBuf,
    token: ArcSwapOption<Secret>,
    failure: ArcSwapOption<String>,
    read: watch::Sender<bool>,
}

impl TokenFile {
    /// Reads it now and then for as long as anybody holds it.
    pub(super) fn open(path: PathBuf, household: &Handle) -> Arc<Self> {
        let file = Arc::new(Self { path, token: ArcSwapOption::empty(), failure: ArcSwapOption::empty(), read: watch::Sender::new(false) });
        household.spawn(look_again(Arc::downgrade(&file)));
        file
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What stands there.
    pub(super) fn token(&self) -> Option<Arc<Secret>> {
        self.token.load_full()
    }

    /// Why nothing does.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failure.load_full().map(|why| why.as_str().into())
    }

    /// Waits until it was read once.
    pub(super) async fn was_read(&self) {
        let mut read = self.read.subscribe();
        // An error would mean that the file is gone, and we hold it.
        let _either = tokio::time::timeout(EVERY, read.wait_for(|read| *read)).await;
    }

    /// Whether it was read once.
    pub(super) fn is_read(&self) -> bool {
        *self.read.borrow()
    }

    async fn look(&self) {
        match tokio::fs::read(&self.path).await.map(Zeroizing::new) {
            Ok(bytes) if bytes.len() <= MOST && !bytes.trim_ascii().is_empty() => {
                let fresh = bytes.trim_ascii();
                if !self.token.load().as_ref().is_some_and(|known| known.same_as(fresh)) {
                    self.token.store(Some(Arc::new(Secret::new(fresh))));
                }
                self.failure.store(None);
            }
            // A token that cannot be read any more is used until it expires: the kubelet replaces the file by a rename.
            Ok(_) => self.fail("it holds no token"),
            Err(error) => self.fail(&error.to_string()),
        }
        self.read.send_replace(true);
    }

    fn fail(&self, why: &str) {
        let why = format!("the mounted token {}: {why}", self.path.display());
        if self.failure.load().as_ref().is_none_or(|known| **known != why) {
            tracing::warn!(error = %why, "a mounted token cannot be read");
            self.failure.store(Some(Arc::new(why)));
        }
    }
}

async fn look_again(file: Weak<TokenFile>) {
    loop {
        let Some(held) = file.upgrade() else { return };
        held.look().await;
        drop(held);
        tokio::time::sleep(EVERY).await;
    }
}
