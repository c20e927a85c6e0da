//! What was counted, and the line that says it.

use std::time::{Duration, Instant};

/// Counters of a run. Only what is answered inside the measured window counts, but for `all`.
#[derive(Debug)]
pub(crate) struct Report {
    /// Start and end of the measured window.
    pub(crate) from: Instant,
    pub(crate) until: Instant,
    /// Every response, the warm-up's too: what the proxy's CPU time is divided by.
    pub(crate) all: u64,
    pub(crate) ok: u64,
    pub(crate) non2xx: u64,
    pub(crate) errors: u64,
    pub(crate) connects: u64,
    /// Requests whose bytes were handed to a connection.
    pub(crate) sent: u64,
    /// CONNECTs whose bytes were handed to a connection.
    pub(crate) tunnels: u64,
    /// Answers by the first digit of their status, the warm-up's too.
    classes: [u64; 6],
    pub(crate) last_error: String,
    /// Tenths of a microsecond.
    latencies: Vec<u32>,
}

impl Report {
    pub(crate) fn new(from: Instant, until: Instant) -> Self {
        let latencies = Vec::with_capacity(1 << 20);
        Report {
            from,
            until,
            all: 0,
            ok: 0,
            non2xx: 0,
            errors: 0,
            connects: 0,
            sent: 0,
            tunnels: 0,
            classes: [0; 6],
            last_error: String::new(),
            latencies,
        }
    }

    fn measures(&self, now: Instant) -> bool {
        now >= self.from && now < self.until
    }

    /// A response to a request that was due at `due`.
    pub(crate) fn answered(&mut self, now: Instant, due: Instant, status: u16) {
        self.all += 1;
        self.classes[usize::from(status / 100).min(5)] += 1;
        if self.measures(now) {
            match status {
                200..300 => self.ok += 1,
                _ => self.non2xx += 1,
            }
            self.waited(now - due);
        }
    }

    /// A latency; also that of a request still unanswered at the end, as far as it had waited.
    pub(crate) fn waited(&mut self, latency: Duration) {
        self.latencies.push(u32::try_from(latency.as_nanos() / 100).unwrap_or(u32::MAX));
    }

    pub(crate) fn failed(&mut self, now: Instant, why: String) {
        if self.measures(now) {
            self.errors += 1;
            self.last_error = why;
        }
    }

    /// One JSON object. `bytes` were received in the window, `backlog` requests were due and never sent.
    pub(crate) fn line(mut self, bytes: u64, backlog: usize) -> String {
        self.latencies.sort_unstable();
        let seconds = (self.until - self.from).as_secs_f64();
        let requests = self.ok + self.non2xx;
        let [p50, p90, p99, p999, max] = [0.5, 0.9, 0.99, 0.999, 1.0].map(|share| quantile(&self.latencies, share));
        format!(
            "{{\"requests\":{requests},\"all\":{},\"rps\":{:.1},\"non2xx\":{},\"errors\":{},\"connects\":{},\"mb_s\":{:.2},\
             \"backlog\":{backlog},\"p50_us\":{p50:.1},\"p90_us\":{p90:.1},\"p99_us\":{p99:.1},\"p999_us\":{p999:.1},\
             \"max_us\":{max:.1},\"sent\":{},\"tunnels\":{},\"classes\":{:?},\"last_error\":\"{}\"}}",
            self.all,
            requests as f64 / seconds,
            self.non2xx,
            self.errors,
            self.connects,
            bytes as f64 / seconds / 1e6,
            self.sent,
            self.tunnels,
            self.classes,
            self.last_error.replace(['"', '\\'], "'"),
        )
    }
}

/// Microseconds at this share of the sorted latencies.
fn quantile(sorted: &[u32], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).map_or(0.0, |tenths| f64::from(*tenths) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts_and_quantiles_are_ranks() {
        let from = Instant::now();
        let mut report = Report::new(from, from + Duration::from_secs(1));
        for millis in 1..=100 {
            report.answered(from + Duration::from_millis(millis), from, 200);
        }
        report.answered(from + Duration::from_secs(2), from, 200);
        report.failed(from + Duration::from_millis(5), "a \"quoted\" reason".into());
        let line = report.line(1_000_000, 3);
        assert!(line.starts_with("{\"requests\":100,\"all\":101,\"rps\":100.0,"), "{line}");
        assert!(line.contains("\"mb_s\":1.00,\"backlog\":3,\"p50_us\":50000.0,\"p90_us\":90000.0,"), "{line}");
        assert!(line.contains("\"sent\":0,\"tunnels\":0,\"classes\":[0, 0, 101, 0, 0, 0],"), "{line}");
        assert!(line.ends_with("\"last_error\":\"a 'quoted' reason\"}"), "{line}");
    }
}
