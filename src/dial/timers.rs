//! `Timers`: what the requests of one worker wait with for their answers.
//!
//! A timer of its own would be set and taken back by each request, and nearly all are answered long before. So the timer of a request that
//! was answered stays set and goes to the next: it fires once for all of them, and is set again for the one that has it then.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Sleep;

/// Timers that one worker keeps.
const MOST: usize = 256;

/// Timers that nobody waits with.
#[derive(Debug, Default)]
pub(super) struct Timers(RefCell<Vec<Pin<Box<Sleep>>>>);

impl Timers {
    /// One that is set for something before, or for `after` from now: to be asked by [`passed`](crate::clock::passed).
    pub(super) fn take(&self, after: Duration) -> Pin<Box<Sleep>> {
        let kept = self.0.borrow_mut().pop();
        kept.unwrap_or_else(|| Box::pin(tokio::time::sleep(after)))
    }

    /// For the next request. Until then it wakes nobody: a task that it could wake would keep its memory until it fires.
    pub(super) fn keep(&self, mut timer: Pin<Box<Sleep>>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < MOST {
            // Fired or not: the next request asks again.
            let _fired = timer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
            kept.push(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::{Poll, Wake};

    use tokio::time::Instant;

    use super::*;
    use crate::clock::passed;

    fn run(story: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(story);
    }

    /// Stands for a task: alive as long as somebody could wake it.
    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_kept_timer_holds_nothing_of_the_task_that_waited_with_it() {
        run(async {
            let (timers, task) = (Timers::default(), Arc::new(Task));
            let mut timer = timers.take(Duration::from_hours(1));
            let until = Instant::now() + Duration::from_hours(1);
            let waker = Waker::from(Arc::clone(&task));
            assert!(!passed(timer.as_mut(), until, &mut Context::from_waker(&waker)));
            drop(waker);
            assert_eq!(Arc::strong_count(&task), 2, "it would be woken");
            timers.keep(timer);
            assert_eq!(Arc::strong_count(&task), 1, "its request is over");
        });
    }

    #[test]
    fn a_worker_keeps_so_many_timers() {
        run(async {
            let timers = Timers::default();
            let taken: Vec<_> = (0..MOST + 9).map(|_| timers.take(Duration::from_hours(1))).collect();
            for timer in taken {
                timers.keep(timer);
            }
            assert_eq!(timers.0.borrow().len(), MOST);
        });
    }

    /// Set for sooner, it fires in between and is set again; set for later, it is set for sooner.
    #[test]
    fn a_timer_of_a_former_request_ends_the_next_one_at_its_own_time() {
        run(async {
            let timers = Timers::default();
            for (former, own) in [(5, 40), (3_600_000, 40)] {
                let mut timer = timers.take(Duration::from_millis(former));
                let until = Instant::now() + Duration::from_millis(former);
                assert!(!poll_fn(|cx| Poll::Ready(passed(timer.as_mut(), until, cx))).await);
                timers.keep(timer);
                let (began, mut timer) = (Instant::now(), timers.take(Duration::from_hours(1)));
                let until = began + Duration::from_millis(own);
                let ended = poll_fn(|cx| if passed(timer.as_mut(), until, cx) { Poll::Ready(Instant::now()) } else { Poll::Pending });
                let ended = tokio::time::timeout(Duration::from_mins(1), ended).await.expect("it ends by its own deadline");
                assert!(ended >= until);
            }
        });
    }
}
