//! An upstream's stage as written: `enforce`, or `observe` with its end.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::catalogue::Stage;
use crate::clock::Timestamp;
use crate::written::{Place, Report, Spanned, WrittenTime};

/// Longest observation ahead of now.
const LONGEST: Duration = Duration::from_hours(30 * 24);

/// What happens to an upstream's traffic.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageConfig {
    /// Strip, decide, inject.
    Enforce,
    /// Traffic passes with what the application sent; would-be decisions are recorded.
    Observe(ObserveConfig),
}

/// An observation and its end.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObserveConfig {
    /// A date (its first moment in UTC) or a time, 30 days ahead at most. From then on the rules hold.
    until: WrittenTime,
    #[schemars(skip)]
    rehearse: Option<Spanned<bool>>,
}

impl StageConfig {
    /// Judges it; mistakes go to the report.
    pub fn build(&self, now: Timestamp, report: &mut Report) -> Option<Stage> {
        match self {
            Self::Enforce => Some(Stage::Enforce),
            Self::Observe(observe) => observe.build(now, report).map(|until| Stage::Observe { until }),
        }
    }
}

impl ObserveConfig {
    /// Where its end stands.
    #[must_use]
    pub const fn at(&self) -> Place {
        self.until.at()
    }

    /// The end of the observation, at most 30 days from now; one that has passed is a warning.
    pub fn build(&self, now: Timestamp, report: &mut Report) -> Option<Timestamp> {
        if let Some(rehearse) = &self.rehearse {
            let hint = "remove the field; would-be decisions are recorded without it";
            report.error_hint(rehearse.at, "this binary does not know `rehearse`: it comes with a later version", hint);
        }
        let until = self.until.build(report)?;
        if until.duration_since(now) > jiff::SignedDuration::try_from(LONGEST).unwrap_or(jiff::SignedDuration::MAX) {
            let latest = jiff::SignedDuration::try_from(LONGEST).ok().and_then(|longest| now.checked_add(longest).ok()).unwrap_or(now);
            let hint = format!("the latest end is {}; move it on while you still learn", latest.strftime("%Y-%m-%d"));
            report.error_hint(self.at(), "an observation ends within 30 days", hint);
            return None;
        }
        if until <= now {
            report.warning("observation-ended", self.at(), "this observation has ended: the rules hold now", "write `enforce`");
        }
        Some(until)
    }
}
