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
    /// Obtain the credential of the would-be allow rule now and then (at most one a second), beside the traffic, and throw it away.
    rehearse: Option<Spanned<bool>>,
    /// Enforce for this share of the traffic, 1 to 99, chosen by a hash of the trace id.
    enforce_percent: Option<Spanned<u8>>,
}

impl StageConfig {
    /// Judges it; mistakes go to the report.
    pub fn build(&self, now: Timestamp, report: &mut Report) -> Option<Stage> {
        match self {
            Self::Enforce => Some(Stage::Enforce),
            Self::Observe(observe) => observe.stage(now, report),
        }
    }
}

impl ObserveConfig {
    /// Where its end stands.
    #[must_use]
    pub const fn at(&self) -> Place {
        self.until.at()
    }

    fn stage(&self, now: Timestamp, report: &mut Report) -> Option<Stage> {
        let rehearse = self.rehearse.as_ref().is_some_and(|rehearse| rehearse.value);
        let enforce_percent = match &self.enforce_percent {
            Some(percent) if !(1..=99).contains(&percent.value) => {
                let hint = "write `stage: enforce` for all of it, and leave the field out for none";
                report.error_hint(percent.at, "`enforce_percent` is a share from 1 to 99", hint);
                None
            }
            Some(percent) => Some(percent.value),
            None => Some(0),
        };
        let until = self.end(now, report)?;
        Some(Stage::Observe { until, rehearse, enforce_percent: enforce_percent? })
    }

    /// The end of an observation of what no upstream lists: there is nothing to rehearse and no rule to enforce.
    pub fn unlisted(&self, now: Timestamp, report: &mut Report) -> Option<Timestamp> {
        for (place, name) in
            [(self.rehearse.as_ref().map(|at| at.at), "rehearse"), (self.enforce_percent.as_ref().map(|at| at.at), "enforce_percent")]
        {
            if let Some(place) = place {
                let message = format!("`{name}` belongs to an upstream: no rule speaks of what is not listed");
                report.error_hint(place, message, "list the destination under `upstreams`, or remove the field");
            }
        }
        self.end(now, report)
    }

    /// The end of the observation, at most 30 days from now; one that has passed is a warning.
    fn end(&self, now: Timestamp, report: &mut Report) -> Option<Timestamp> {
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
