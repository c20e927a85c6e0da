//! `Live`: what is revoked now, read by every judgement and every attempt, and the news of a change.
//!
//! A change is published first, so the next judgement sees it. Those who hold passages (the workers) follow: each is told, ends what the
//! change takes away, and says so. [`Live::settled`] waits for all of them: from then on no request judged before the change can still
//! be sent, because a worker checks and sends in one step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, watch};

use super::blocks::Blocks;
use super::lease::{Lease, LeaseError};
use super::leases::LeaseBook;
use super::limits::Limiter;
use crate::clock::Timestamp;

/// What is revoked now, the leases, and the counters of limits. One per process.
pub struct Live {
    blocks: ArcSwap<Blocks>,
    leases: LeaseBook,
    limits: Limiter,
    /// One change at a time.
    changing: Mutex<()>,
    news: watch::Sender<u64>,
    followers: Mutex<Vec<Weak<AtomicU64>>>,
    followed: Arc<Notify>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("blocks", &self.blocks.load().len()).finish_non_exhaustive()
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new(Blocks::default())
    }
}

impl Live {
    /// Starts with these blocks.
    #[must_use]
    pub fn new(blocks: Blocks) -> Self {
        Self {
            blocks: ArcSwap::from_pointee(blocks),
            leases: LeaseBook::default(),
            limits: Limiter::default(),
            changing: Mutex::default(),
            news: watch::Sender::new(0),
            followers: Mutex::default(),
            followed: Arc::default(),
        }
    }

    /// With the leases of this book.
    #[must_use]
    pub fn with_leases(self, leases: LeaseBook) -> Self {
        Self { leases, ..self }
    }

    /// The leases.
    #[must_use]
    pub const fn leases(&self) -> &LeaseBook {
        &self.leases
    }

    /// The counters of limits.
    #[must_use]
    pub const fn limits(&self) -> &Limiter {
        &self.limits
    }

    /// Ends a lease: refused from here on, told to those who hold passages, durable when this returns.
    ///
    /// # Errors
    /// As [`LeaseBook::end_lease`].
    pub fn end_lease(&self, id: &str, by: &str, now: Timestamp) -> Result<Arc<Lease>, LeaseError> {
        self.leases.end_lease(id, by, now, || {
            self.tell();
        })
    }

    /// Ends the leases whose time is over, and tells those who hold passages.
    #[must_use]
    pub fn expire_leases(&self, now: Timestamp) -> Vec<Arc<Lease>> {
        let over = self.leases.expire(now);
        if !over.is_empty() {
            self.tell();
        }
        over
    }

    /// What is revoked now; takes no lock.
    #[must_use]
    pub fn blocks(&self) -> Guard<Arc<Blocks>> {
        self.blocks.load()
    }

    /// Changes the blocks and publishes them. The number of this news, for [`Live::settled`]; `None` when `change` says that nothing
    /// changed.
    pub fn change(&self, change: impl FnOnce(&mut Blocks) -> bool) -> Option<u64> {
        let one = hold(&self.changing);
        let mut next = Blocks::clone(&self.blocks.load());
        if !change(&mut next) {
            return None;
        }
        self.blocks.store(Arc::new(next));
        let number = self.tell();
        drop(one);
        Some(number)
    }

    /// The number of the newest news.
    #[must_use]
    pub fn number(&self) -> u64 {
        *self.news.borrow()
    }

    /// Tells the followers to look again at what they hold. For whatever takes access away elsewhere: an identity source that lost an
    /// identity tells here, and the passages of connections whose workload it no longer names end. The number of this news.
    pub fn tell(&self) -> u64 {
        let mut number = 0;
        self.news.send_modify(|news| {
            *news += 1;
            number = *news;
        });
        number
    }

    /// Follows the news from here on.
    #[must_use]
    pub fn follow(&self) -> Follower {
        let receiver = self.news.subscribe();
        let seen = Arc::new(AtomicU64::new(*receiver.borrow()));
        let mut followers = hold(&self.followers);
        followers.retain(|known| known.strong_count() > 0);
        followers.push(Arc::downgrade(&seen));
        Follower { receiver, seen, followed: Arc::clone(&self.followed) }
    }

    /// Waits until every follower has dealt with this news; bounded by the caller.
    pub async fn settled(&self, number: u64) {
        loop {
            // Registered before looking, so that what happens in between wakes us.
            let next = self.followed.notified();
            let lagging = hold(&self.followers).iter().filter_map(Weak::upgrade).any(|seen| seen.load(Ordering::Acquire) < number);
            if !lagging {
                return;
            }
            next.await;
        }
    }
}

/// One who holds passages and ends them when the news says so.
pub struct Follower {
    receiver: watch::Receiver<u64>,
    seen: Arc<AtomicU64>,
    followed: Arc<Notify>,
}

impl Follower {
    /// The next news; `None` when there will be none any more.
    pub async fn changed(&mut self) -> Option<u64> {
        self.receiver.changed().await.ok()?;
        Some(*self.receiver.borrow_and_update())
    }

    /// Everything up to this news is dealt with.
    pub fn done(&self, number: u64) {
        self.seen.store(number, Ordering::Release);
        self.followed.notify_waiters();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Who is gone holds nothing any more: nobody waits for it.
        self.seen.store(u64::MAX, Ordering::Release);
        self.followed.notify_waiters();
    }
}

/// A poisoned lock guards plain values that are whole at every point where a panic could strike.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::task::Poll;

    use futures_util::poll;

    use super::*;
    use crate::clock::Timestamp;
    use crate::live::{Block, Target};

    fn kill(live: &Live) -> Option<u64> {
        let block = Block::new(Target::Everything, "drill", "test", Timestamp::UNIX_EPOCH);
        live.change(|blocks| blocks.add(block))
    }

    #[tokio::test]
    async fn a_change_is_settled_when_every_follower_has_dealt_with_it() {
        let live = Live::default();
        let (mut one, two) = (live.follow(), live.follow());
        let number = kill(&live).unwrap();
        assert!(!live.blocks().is_empty(), "published before anybody was told");
        assert_eq!(kill(&live), None, "nothing changed");
        let mut settled = std::pin::pin!(live.settled(number));
        assert!(poll!(settled.as_mut()).is_pending());
        assert_eq!(one.changed().await, Some(number));
        one.done(number);
        assert!(poll!(settled.as_mut()).is_pending());
        drop(two);
        assert_eq!(poll!(settled.as_mut()), Poll::Ready(()));
        live.settled(number).await;
    }

    /// Workers on threads of their own, each of which judges and holds in one step: when a revocation has settled, nobody holds what it took
    /// away, nobody begins it again, and what was not revoked is left alone.
    #[test]
    fn when_a_revocation_has_settled_no_thread_holds_what_it_took_away() {
        const WORKERS: usize = 3;
        const ROUNDS: u64 = 300;
        let target = |number: u64| Target::Lease(format!("l{number}").into());
        let live = Arc::new(Live::default());
        let held: Arc<Vec<Mutex<BTreeSet<u64>>>> = Arc::new((0..WORKERS).map(|_| Mutex::default()).collect());
        let over = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (live, held, over, mut follower) = (Arc::clone(&live), Arc::clone(&held), Arc::clone(&over), live.follow());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async {
                        while over.load(Ordering::SeqCst) < ROUNDS {
                            // What is about to be revoked, and what never is.
                            for wanted in [over.load(Ordering::SeqCst) + 1, ROUNDS + 1] {
                                let settled = over.load(Ordering::SeqCst);
                                if live.blocks().get(&target(wanted)).is_none() {
                                    assert!(wanted > settled, "{wanted} is admitted after {settled} were acknowledged");
                                    hold(&held[worker]).insert(wanted);
                                }
                            }
                            let news = tokio::select! {
                                biased;
                                news = follower.changed() => news,
                                () = tokio::task::yield_now() => continue,
                            };
                            hold(&held[worker]).retain(|one| live.blocks().get(&target(*one)).is_none());
                            follower.done(news.unwrap());
                        }
                    });
                })
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for number in 1..=ROUNDS {
            let block = Block::new(target(number), "drill", "test", Timestamp::UNIX_EPOCH);
            let news = live.change(|blocks| blocks.add(block)).unwrap();
            let settled = runtime.block_on(async { tokio::time::timeout(std::time::Duration::from_secs(20), live.settled(news)).await });
            settled.expect("every worker follows");
            for worker in held.iter() {
                let held = hold(worker);
                assert!(!held.contains(&number), "{number} is held after its revocation has settled");
            }
            over.store(number, Ordering::SeqCst);
        }
        for worker in workers {
            worker.join().unwrap();
        }
        assert!(held.iter().any(|held| hold(held).contains(&(ROUNDS + 1))), "what nobody revoked is held still");
    }
}
