//! `Clock`: the only source of time, so that every expiry and window can be told in a test.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::Context;
use std::time::{Duration, Instant, SystemTime};

pub use jiff::Timestamp;
use tokio::time::Sleep;

/// Wall time for what is written down and judged (expiry, windows), monotonic time for what is measured and waited for.
pub trait Clock: Send + Sync {
    /// Wall time.
    fn now(&self) -> Timestamp;
    /// Monotonic time.
    fn instant(&self) -> Instant;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        // What the clock counts is split as a timestamp is; the way through `Timestamp::now` costs twice as much. A clock before 1970 is
        // read as 1970.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let second = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let nanosecond = i32::try_from(since.subsec_nanos()).unwrap_or_default();
        Timestamp::new(second, nanosecond).unwrap_or(Timestamp::MAX)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// Whether `deadline` has passed; else the timer is set so that this task looks again by then. A timer that is set for sooner stays so: where
/// one serves many waits in turn, each for later than the last, setting it again when it fires costs nearly none of them anything.
pub fn passed(mut timer: Pin<&mut Sleep>, deadline: tokio::time::Instant, cx: &mut Context<'_>) -> bool {
    loop {
        if timer.is_elapsed() || timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        if tokio::time::Instant::now() >= deadline {
            return true;
        }
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock(Mutex<(Timestamp, Instant)>);

impl ManualClock {
    /// Starts at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new((now, SystemClock.instant())))
    }

    /// The wall clock is set, as an administrator or NTP does; the monotonic one does not notice.
    pub fn set(&self, now: Timestamp) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0 = now;
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut both = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        both.0 += by;
        both.1 += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn instant(&self) -> Instant {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }
}
