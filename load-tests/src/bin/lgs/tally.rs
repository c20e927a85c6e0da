//! What was counted, and the line that says it.

use std::time::{Duration, Instant};

/// Counters of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Streams that were begun: each is one passage of the proxy.
    pub(crate) opened: u64,
    /// Streams that ended as they should.
    pub(crate) ended: u64,
    /// Streams that did not.
    pub(crate) failed: u64,
    /// Answers with another status than 2xx.
    pub(crate) non2xx: u64,
    pub(crate) last_error: String,
    /// Tenths of a microsecond, one for each message that came back.
    latencies: Vec<u32>,
}

impl Tally {
    /// A message, or an answer, came back.
    pub(crate) fn echoed(&mut self, took: Duration) {
        self.latencies.push(u32::try_from(took.as_nanos() / 100).unwrap_or(u32::MAX));
    }

    /// How a stream ended.
    pub(crate) fn stream<E: ToString>(&mut self, ended: Result<(), E>) {
        match ended {
            Ok(()) => self.ended += 1,
            Err(why) => {
                self.failed += 1;
                self.last_error = why.to_string();
            }
        }
    }

    /// One JSON object. `all` and `rps` are of messages, so that the harness divides the proxy's time by them.
    pub(crate) fn line(&mut self, began: Instant) -> String {
        self.latencies.sort_unstable();
        let (seconds, all) = (began.elapsed().as_secs_f64(), self.latencies.len());
        let at = |share: f64| {
            self.latencies.get((all.saturating_sub(1) as f64 * share) as usize).map_or(0.0, |tenths| f64::from(*tenths) / 10.0)
        };
        format!(
            "{{\"requests\":{all},\"all\":{all},\"rps\":{:.1},\"non2xx\":{},\"errors\":{},\"streams\":{},\"ended\":{},\"p50_us\":{:.1},\
             \"p99_us\":{:.1},\"p999_us\":{:.1},\"last_error\":\"{}\"}}",
            all as f64 / seconds,
            self.non2xx,
            self.failed,
            self.opened,
            self.ended,
            at(0.5),
            at(0.99),
            at(0.999),
            self.last_error.replace(['"', '\\', '\n'], "'"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_messages_are_counted_apart() {
        let mut tally = Tally { opened: 2, ..Tally::default() };
        tally.echoed(Duration::from_micros(10));
        tally.echoed(Duration::from_micros(30));
        tally.stream(Ok::<(), String>(()));
        tally.stream(Err("reset"));
        let line = tally.line(Instant::now());
        assert!(
            line.starts_with("{\"requests\":2,\"all\":2,") && line.contains("\"errors\":1,\"streams\":2,\"ended\":1,\"p50_us\":10.0"),
            "{line}"
        );
    }
}
