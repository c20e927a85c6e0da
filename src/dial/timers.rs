//! `Timers`: what the requests of one lane wait with for their answers.
//!
//! A timer of its own would be set and taken back by each request, and nearly all are answered long before. So the timer of a request that
//! was answered stays set and goes to the next: it fires once for all of them, and is set again for the one that has it then.

use std::cell::RefCell;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Sleep;

/// Timers that one lane keeps.
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

    /// For the next request.
    pub(super) fn keep(&self, timer: Pin<Box<Sleep>>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < MOST {
            kept.push(timer);
        }
    }
}
