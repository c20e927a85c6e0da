//! How often, from when to when, and which traces show it.

use crate::clock::Timestamp;

/// Traces that are named.
const SAMPLES: usize = 3;

/// Evidence of one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many requests.
    pub count: u64,
    /// The first one's time.
    pub first: Option<Timestamp>,
    /// The last one's time.
    pub last: Option<Timestamp>,
    /// Trace ids of the first few.
    pub traces: Vec<Box<str>>,
}

impl Tally {
    /// One more request.
    pub fn add(&mut self, time: Timestamp, trace: &str) {
        self.count += 1;
        self.span(time, time);
        if self.traces.len() < SAMPLES {
            self.traces.push(trace.into());
        }
    }

    /// All of another's.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        if let (Some(first), Some(last)) = (other.first, other.last) {
            self.span(first, last);
        }
        let free = SAMPLES.saturating_sub(self.traces.len());
        self.traces.extend(other.traces.iter().take(free).cloned());
    }

    fn span(&mut self, first: Timestamp, last: Timestamp) {
        self.first = Some(self.first.map_or(first, |known| known.min(first)));
        self.last = Some(self.last.map_or(last, |known| known.max(last)));
    }

    /// `812 requests, 2026-11-10T08:00:00Z to 2026-11-23T17:59:12Z`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let requests = if self.count == 1 { "request" } else { "requests" };
        let second = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        format!("{} {requests}, {} to {}", self.count, second(self.first), second(self.last))
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
        serde_json::json!({ "count": self.count, "first": text(self.first), "last": text(self.last), "traces": self.traces })
    }
}
