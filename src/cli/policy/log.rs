//! Which part of which audit logs a command reads.

use std::path::PathBuf;

use super::world::{complaints, from_flags, lines};
use crate::audit::{Line, Reader};
use crate::clock::Timestamp;
use crate::config::{Audit, Config};
use crate::written::{self, Report, WrittenDuration, WrittenTime};

/// No window is longer.
const LONGEST: std::time::Duration = std::time::Duration::from_hours(24 * 3_650);

/// The logs, as paths.
pub(super) fn paths(given: &[PathBuf], config: &Config) -> Result<Vec<PathBuf>, String> {
    match &config.audit {
        _ if !given.is_empty() => Ok(given.to_vec()),
        Audit::File(path) => Ok(vec![path.clone()]),
        Audit::Stdout => Err("this configuration writes its audit to stdout: name the file that keeps it with --audit".to_owned()),
    }
}

/// `14d` ago, or a date or time.
pub(super) fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let source = from_flags(&text.into());
    let mut report = Report::new(source.clone());
    let at = if text.contains('-') {
        written::parse::<WrittenTime>(&source).map_err(|mistakes| lines(&mistakes))?.build(&mut report)
    } else {
        let length = written::parse::<WrittenDuration>(&source).map_err(|mistakes| lines(&mistakes))?;
        length.build(&mut report, std::time::Duration::from_secs(1), LONGEST).and_then(|length| now.checked_sub(length).ok())
    };
    at.ok_or_else(|| format!("--since {text}: {}", complaints(report)))
}

/// Hands over every line of every log, the first mistake ends it.
pub(super) fn each(paths: &[PathBuf], since: Option<Timestamp>, mut look: impl FnMut(&Line) -> Result<(), String>) -> Result<(), String> {
    for path in paths {
        for line in Reader::open(path, since).map_err(|bad| bad.to_string())? {
            look(&line.map_err(|bad| bad.to_string())?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_length_or_a_moment() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let told = |text: &str| since(text, now).map(|at| at.to_string());
        assert_eq!(told("14d").unwrap(), "2026-11-11T12:00:00Z");
        assert_eq!(told("2026-11-01").unwrap(), "2026-11-01T00:00:00Z");
        assert_eq!(told("2026-11-01T06:00:00+02:00").unwrap(), "2026-11-01T04:00:00Z");
        for wrong in ["", "fortnight", "14", "2026-13-01", "-3d"] {
            assert!(told(wrong).is_err(), "{wrong}");
        }
    }
}
