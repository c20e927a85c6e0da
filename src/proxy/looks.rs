//! `Looks`: turns at looking at the other end of a connection, where that may wait for the disk.
//!
//! A look runs on a thread that may block, and such threads are few. Whoever connects chooses what is looked at: a program of a gigabyte that
//! nobody has seen, again and again, or one on a file system that never answers. So each user has a share of the turns, and whoever finds it
//! taken waits as a future, which holds no thread and is gone with its connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Looks of the whole process that run, or stand in a worker's queue for a thread.
const ALL: usize = 64;
/// Of these, looks of one user: half the threads of a worker, so that the other half is there for the others.
const SHARE: usize = super::listen::LOOKING / 2;

const TOO_LONG: &str = "the look at the process took too long";
const ENDED: &str = "the look at the process ended early";

/// The turns of one process.
pub(super) struct Looks {
    all: Arc<Semaphore>,
    /// Of each user that has a look under way or waits for one; `None`: whose it is shall be looked up.
    shares: Mutex<HashMap<Option<u32>, Weak<Semaphore>>>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL)), shares: Mutex::default() }
    }

    /// Takes this user's turn and looks. Whoever no longer waits costs nothing: his look does not begin. One that has begun keeps its turn to
    /// its end, also when nobody waits for it any more.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        uid: Option<u32>,
        within: Duration,
        look: impl FnOnce() -> Result<T, &'static str> + Send + 'static,
    ) -> Result<T, &'static str> {
        let waiter = Arc::new(());
        let waits = Arc::downgrade(&waiter);
        let looking = async {
            let own = self.share(uid).acquire_owned().await.map_err(|_| ENDED)?;
            let one = Arc::clone(&self.all).acquire_owned().await.map_err(|_| ENDED)?;
            let looked = tokio::task::spawn_blocking(move || {
                let _turn = (own, one);
                if waits.strong_count() == 0 { Err(TOO_LONG) } else { look() }
            });
            looked.await.map_err(|_| ENDED)?
        };
        let seen = tokio::time::timeout(within, looking).await.unwrap_or(Err(TOO_LONG));
        drop(waiter);
        seen
    }

    fn share(&self, uid: Option<u32>) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&uid).and_then(Weak::upgrade) {
            return share;
        }
        if shares.len() == shares.capacity() {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(SHARE));
        shares.insert(uid, Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::runtime::Runtime;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::proxy::listen::LOOKING;

    const LONG: Duration = Duration::from_secs(20);
    const HOSTILE: Option<u32> = Some(1001);
    const OTHER: Option<u32> = Some(1002);

    fn worker(threads: usize) -> Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(threads).build().unwrap()
    }

    /// Looks that go on until they are told to end.
    struct Slow {
        looks: Arc<Looks>,
        begun: Arc<AtomicUsize>,
        end: Sender<()>,
        ends: Arc<Mutex<Receiver<()>>>,
    }

    impl Slow {
        fn new() -> Self {
            let (end, ends) = channel();
            Self { looks: Arc::new(Looks::new()), begun: Arc::default(), end, ends: Arc::new(Mutex::new(ends)) }
        }

        fn ask(&self, uid: Option<u32>) -> JoinHandle<Result<(), &'static str>> {
            let (looks, begun, ends) = (Arc::clone(&self.looks), Arc::clone(&self.begun), Arc::clone(&self.ends));
            tokio::spawn(async move {
                let slow = move || {
                    begun.fetch_add(1, SeqCst);
                    ends.lock().unwrap_or_else(PoisonError::into_inner).recv().map_err(|_| ENDED)
                };
                looks.take(uid, LONG, slow).await
            })
        }

        async fn have_begun(&self, count: usize) {
            let begun = async {
                while self.begun.load(SeqCst) < count {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(LONG, begun).await.unwrap();
        }
    }

    #[test]
    fn who_floods_with_slow_looks_holds_up_nobody_else() {
        worker(LOOKING).block_on(async {
            let slow = Slow::new();
            let flood: Vec<_> = (0..1_000).map(|_| slow.ask(HOSTILE)).collect();
            slow.have_begun(SHARE).await;
            for _ in 0..100 {
                assert_eq!(slow.looks.take(OTHER, LONG, || Ok(7)).await, Ok(7));
            }
            assert_eq!((slow.begun.load(SeqCst), slow.looks.all.available_permits()), (SHARE, ALL - SHARE), "the rest holds no turn");
            for waiter in flood {
                waiter.abort();
                assert!(waiter.await.is_err());
            }
            // Whose look has begun and never ends has used up his own share, and hears so in time.
            assert_eq!(slow.looks.take(HOSTILE, Duration::from_millis(1), || Ok(8)).await, Err(TOO_LONG));
            (0..SHARE).for_each(|_| slow.end.send(()).unwrap());
            assert_eq!(slow.looks.take(HOSTILE, LONG, || Ok(9)).await, Ok(9));
            assert_eq!(slow.begun.load(SeqCst), SHARE, "nothing began of those that gave up");
        });
    }

    #[test]
    fn a_look_that_stands_in_the_queue_does_not_begin_when_its_waiter_is_gone() {
        worker(1).block_on(async {
            let slow = Slow::new();
            let first = slow.ask(HOSTILE);
            slow.have_begun(1).await;
            let second = slow.ask(OTHER);
            let queued = async {
                while slow.looks.all.available_permits() > ALL - 2 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(LONG, queued).await.unwrap();
            second.abort();
            assert!(second.await.is_err());
            slow.end.send(()).unwrap();
            assert_eq!(first.await.unwrap(), Ok(()));
            assert_eq!(slow.looks.take(OTHER, LONG, || Ok(7)).await, Ok(7), "its turn was given back");
            assert_eq!(slow.begun.load(SeqCst), 1);
        });
    }

    #[test]
    fn users_who_are_gone_are_forgotten() {
        worker(1).block_on(async {
            let looks = Looks::new();
            for uid in 0..10_000 {
                assert_eq!(looks.take(Some(uid), LONG, || Ok(())).await, Ok(()));
            }
            assert!(looks.shares.lock().unwrap().len() < 100);
        });
    }
}
