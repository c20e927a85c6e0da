//! `Watch`: tells when the content of the configuration's files has changed.
//!
//! Events of the file system only say when to look; what counts is the digest of the content. So a ConfigMap's `..data` link that is
//! swapped, an editor's rename and a network file system without events all end in the same comparison, at the latest after one poll.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::config::{Digest, Watched, digest_of};

/// A change comes as several events; they are taken as one.
const SETTLE: Duration = Duration::from_millis(50);

/// Why the configuration should be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The content of a file is another.
    Files,
    /// SIGHUP.
    Signal,
    /// Somebody asked at the admin server.
    Admin,
}

impl Cause {
    /// The word in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Signal => "signal",
            Self::Admin => "admin",
        }
    }
}

/// Watches the files of one configuration.
pub struct Watch {
    watched: Watched,
    last: Digest,
    poll: Interval,
    /// One place is enough: a second event says nothing that the first did not.
    events: (mpsc::Sender<()>, mpsc::Receiver<()>),
    notifier: Option<RecommendedWatcher>,
    hangup: Option<Signal>,
    asked: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

impl Watch {
    /// Watches what was read, comparing with the digest of that reading. Needs a tokio runtime.
    ///
    /// Where the system gives no events (too many watches, a file system without), the poll alone remains.
    #[must_use]
    pub fn new(watched: Watched, digest: Digest, poll: Duration) -> Self {
        let mut interval = tokio::time::interval(poll);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = mpsc::channel(1);
        let notifier = notifier(&watched, events.0.clone());
        Self { watched, last: digest, poll: interval, events, notifier, hangup: signal(SignalKind::hangup()).ok(), asked: mpsc::channel(1) }
    }

    /// Asks for a reading; a full channel means that one is asked for already.
    #[must_use]
    pub fn ask(&self) -> mpsc::Sender<()> {
        self.asked.0.clone()
    }

    /// Waits for the next cause to read the configuration again. May be dropped and called again without losing one.
    pub async fn changed(&mut self) -> Cause {
        loop {
            let hangup = async {
                let heard = match &mut self.hangup {
                    Some(hangup) => hangup.recv().await.is_some(),
                    None => false,
                };
                if !heard {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = hangup => return Cause::Signal,
                _ = self.asked.1.recv() => return Cause::Admin,
                _ = self.events.1.recv() => {
                    tokio::time::sleep(SETTLE).await;
                    while self.events.1.try_recv().is_ok() {}
                }
                _ = self.poll.tick() => {}
            }
            let watched = self.watched.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || digest_of(&watched)).await else { continue };
            if now != self.last {
                self.last = now;
                return Cause::Files;
            }
        }
    }

    /// Goes on with what the newest reading read, whether it succeeded or not: a repair of a file that it named is noticed.
    pub fn follow(&mut self, watched: Watched, digest: Digest) {
        self.last = digest;
        // a swapped link may have moved the real files even where the names are the same
        self.notifier = notifier(&watched, self.events.0.clone());
        self.watched = watched;
    }

    /// Whether the system tells of changes; without, a change is noticed after one poll.
    #[must_use]
    pub const fn has_events(&self) -> bool {
        self.notifier.is_some()
    }
}

/// Watches directories, not files: a file that is replaced is another file, and its own watch would have gone with the old one.
fn notifier(watched: &Watched, nudge: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let interest = Interest::of(watched);
    let directories = interest.directories.clone();
    let heard = move |event: notify::Result<Event>| {
        let worth = event.as_ref().map_or(true, |event| interest.concerns(event));
        if worth {
            // full means that a look is due anyway
            let _full = nudge.try_send(());
        }
    };
    let mut notifier = match notify::recommended_watcher(heard) {
        Ok(notifier) => notifier,
        Err(error) => {
            tracing::warn!(%error, "no events of the file system: changes are noticed by polling");
            return None;
        }
    };
    for directory in &directories {
        if let Err(error) = notifier.watch(directory, RecursiveMode::NonRecursive) {
            tracing::debug!(directory = %directory.display(), %error, "not watched: changes there are noticed by polling");
        }
    }
    Some(notifier)
}

/// Which events are worth a look: the audit log may lie beside the configuration, and each of its lines is an event too.
struct Interest {
    directories: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    whole: BTreeSet<PathBuf>,
}

impl Interest {
    fn of(watched: &Watched) -> Self {
        let mut interest = Self { directories: BTreeSet::new(), files: BTreeSet::new(), whole: BTreeSet::new() };
        for file in &watched.files {
            interest.add_file(file);
        }
        for directory in &watched.directories {
            interest.add_file(directory);
            for place in [Some(directory.clone()), directory.canonicalize().ok()].into_iter().flatten() {
                interest.directories.insert(place.clone());
                interest.whole.insert(place);
            }
        }
        interest
    }

    fn add_file(&mut self, file: &Path) {
        for place in [Some(file.to_owned()), file.canonicalize().ok()].into_iter().flatten() {
            let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            self.directories.insert(parent.to_owned());
            self.files.insert(parent.join(place.file_name().unwrap_or_default()));
        }
    }

    fn concerns(&self, event: &Event) -> bool {
        // our own look opens and reads files: taking those for changes would never end
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
            return false;
        }
        event.need_rescan() || event.paths.iter().any(|path| self.names(path))
    }

    fn names(&self, path: &Path) -> bool {
        let link_of_a_config_map = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
        let watched_itself = self.directories.contains(path);
        link_of_a_config_map
            || watched_itself
            || self.files.contains(path)
            || path.parent().is_some_and(|parent| self.whole.contains(parent))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const LONG: Duration = Duration::from_mins(10);
    const BOUND: Duration = Duration::from_secs(20);

    /// A volume as the kubelet makes it: the files are links through `..data`, which is swapped in one rename.
    struct ConfigMap {
        dir: tempfile::TempDir,
        revision: u32,
    }

    impl ConfigMap {
        fn new(content: &str) -> Self {
            let mut map = Self { dir: tempfile::tempdir().unwrap(), revision: 0 };
            map.publish(content);
            symlink("..data/exeat.yaml", map.dir.path().join("exeat.yaml")).unwrap();
            map
        }

        fn publish(&mut self, content: &str) {
            self.revision += 1;
            let name = format!("..rev{}", self.revision);
            let root = self.dir.path();
            fs::create_dir(root.join(&name)).unwrap();
            fs::write(root.join(&name).join("exeat.yaml"), content).unwrap();
            symlink(&name, root.join("..data_tmp")).unwrap();
            fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
            if self.revision > 1 {
                fs::remove_dir_all(root.join(format!("..rev{}", self.revision - 1))).unwrap();
            }
        }

        fn watched(&self) -> Watched {
            Watched { files: [self.dir.path().join("exeat.yaml")].into(), directories: BTreeSet::new() }
        }
    }

    fn watch(watched: &Watched, poll: Duration) -> Watch {
        Watch::new(watched.clone(), digest_of(watched), poll)
    }

    async fn cause(watch: &mut Watch) -> Cause {
        tokio::time::timeout(BOUND, watch.changed()).await.expect("a change within the bound")
    }

    /// Looks once, now: the immediate first tick of the poll has been taken when this returns.
    async fn unchanged(watch: &mut Watch) {
        assert!(tokio::time::timeout(Duration::from_millis(300), watch.changed()).await.is_err(), "nothing changed");
    }

    #[tokio::test]
    async fn a_swapped_config_map_is_one_change_each_time() {
        let mut map = ConfigMap::new("a");
        let mut watch = watch(&map.watched(), LONG);
        assert!(watch.has_events());
        unchanged(&mut watch).await;
        for content in ["b", "c"] {
            map.publish(content);
            assert_eq!(cause(&mut watch).await, Cause::Files);
            let watched = map.watched();
            let digest = digest_of(&watched);
            watch.follow(watched, digest);
        }
        map.publish("c");
        unchanged(&mut watch).await;
    }

    #[tokio::test]
    async fn a_file_in_a_watched_directory_counts_and_its_neighbours_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let watched = Watched { files: BTreeSet::new(), directories: [dir.path().to_owned()].into() };
        let mut watch = watch(&watched, LONG);
        fs::write(dir.path().join("notes.txt"), "x").unwrap();
        unchanged(&mut watch).await;
        fs::write(dir.path().join("a.yaml"), "x").unwrap();
        assert_eq!(cause(&mut watch).await, Cause::Files);
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        assert_eq!(cause(&mut watch).await, Cause::Files);
    }

    #[tokio::test]
    async fn without_events_the_poll_notices() {
        let map = ConfigMap::new("a");
        let mut watch = watch(&map.watched(), Duration::from_millis(20));
        watch.notifier = None;
        fs::write(map.dir.path().join("..data/exeat.yaml"), "b").unwrap();
        assert_eq!(cause(&mut watch).await, Cause::Files);
    }

    #[tokio::test]
    async fn a_file_that_appears_later_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("late.pem");
        let mut watch = watch(&Watched { files: [file.clone()].into(), directories: BTreeSet::new() }, LONG);
        unchanged(&mut watch).await;
        fs::write(&file, "x").unwrap();
        assert_eq!(cause(&mut watch).await, Cause::Files);
    }

    #[test]
    fn the_noise_of_a_neighbour_is_not_worth_a_look() {
        let interest =
            Interest::of(&Watched { files: ["/etc/exeat/exeat.yaml".into()].into(), directories: ["/etc/exeat/policies".into()].into() });
        let event = |kind, path: &str| Event::new(kind).add_path(path.into());
        let modified = EventKind::Modify(notify::event::ModifyKind::Any);
        assert!(interest.concerns(&event(modified, "/etc/exeat/exeat.yaml")));
        assert!(interest.concerns(&event(modified, "/etc/exeat/..data")));
        assert!(interest.concerns(&event(modified, "/etc/exeat/policies/a.yaml")));
        assert!(!interest.concerns(&event(modified, "/etc/exeat/audit")));
        assert!(!interest.concerns(&event(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/etc/exeat/exeat.yaml")));
    }
}
