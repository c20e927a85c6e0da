//! The operator's log: one line per event on standard error, as text for people or as JSON for machines.
//!
//! `-v` raises the level of exeat's own targets only. Everybody else is capped at warnings, also what comes through the `log` facade: HTTP
//! libraries print whole heads at `debug` and `trace`, and a head holds credentials.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The log is already set up.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot be set up: {0}")]
pub struct LogError(String);

/// What may be printed: `verbosity` 0 is info, 1 debug, 2 and above trace, for exeat alone.
fn targets(verbosity: u8) -> Targets {
    let own = match verbosity {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    Targets::new().with_default(LevelFilter::WARN).with_target("exeat", own)
}

/// Sets up the log of the process; once, before any thread.
///
/// # Errors
/// Another log is already in place.
pub fn init(verbosity: u8, format: LogFormat) -> Result<(), LogError> {
    tracing_log::LogTracer::builder().with_max_level(log::LevelFilter::Warn).init().map_err(|error| LogError(error.to_string()))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(true);
    let layer = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(targets(verbosity))).try_init().map_err(|error| LogError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn only_our_own_targets_grow_louder() {
        for verbosity in 0..4 {
            let targets = targets(verbosity);
            for foreign in ["hyper::proto::h1", "h2::codec", "rustls::conn", "log", "pingora_core"] {
                assert!(!targets.would_enable(foreign, &Level::INFO), "{foreign}");
                assert!(targets.would_enable(foreign, &Level::WARN));
            }
            assert_eq!(targets.would_enable("exeat::proxy", &Level::DEBUG), verbosity >= 1);
            assert_eq!(targets.would_enable("exeat::proxy", &Level::TRACE), verbosity >= 2);
        }
    }
}
