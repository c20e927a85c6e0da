//! `World`: configuration and compiled policies, for commands that only read.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::args::{CONFIG, USAGE};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{self, Loaded};
use crate::policy::{self, Ground, PolicySet};
use crate::written::{self, Diagnostic, Report, Source, WrittenTime};

/// A configuration and its rules.
pub(super) struct World {
    pub(super) loaded: Loaded,
    pub(super) set: PolicySet,
}

impl World {
    /// Reads and compiles; mistakes are told on stderr.
    pub(super) fn load(path: &Path) -> Result<Self, ExitCode> {
        Self::read(path, &SystemClock).map_err(|mistakes| refused(&mistakes))
    }

    pub(super) fn read(path: &Path, clock: &dyn Clock) -> Result<Self, Vec<Diagnostic>> {
        let mut loaded = config::load(path, clock)?;
        let broken = std::mem::take(&mut loaded.policy_errors);
        if !broken.is_empty() {
            return Err(broken);
        }
        Self::compile(loaded, clock)
    }

    pub(super) fn compile(loaded: Loaded, clock: &dyn Clock) -> Result<Self, Vec<Diagnostic>> {
        let profiles = loaded.profiles.iter().map(|profile| (Arc::clone(&profile.name), Arc::clone(profile))).collect();
        let (set, _) = policy::compile(&loaded.policies, &loaded.catalogue, &profiles, &loaded.config.trust_domain, clock.now())?;
        Ok(Self { loaded, set })
    }

    pub(super) fn ground(&self) -> Ground<'_> {
        Ground { set: &self.set, catalogue: &self.loaded.catalogue, profiles: &self.loaded.profiles }
    }
}

/// A point in time as `--at` gives it; now, where it gives none.
pub(super) fn moment(at: Option<&str>) -> Result<Timestamp, ExitCode> {
    let Some(text) = at else { return Ok(SystemClock.now()) };
    let source = from_flags(&text.into());
    let written = written::parse::<WrittenTime>(&source).map_err(|mistakes| usage(&lines(&mistakes)))?;
    let mut report = Report::new(source);
    written.build(&mut report).ok_or_else(|| usage(&complaints(report)))
}

/// Says what is wrong with the command line.
pub(super) fn usage(why: &str) -> ExitCode {
    eprintln!("exeat: {why}");
    ExitCode::from(USAGE)
}

/// Says what is wrong with the configuration.
pub(super) fn refused(mistakes: &[Diagnostic]) -> ExitCode {
    for mistake in mistakes {
        eprintln!("{}\n", mistake.render());
    }
    ExitCode::from(CONFIG)
}

/// A value whose parts people wrote on the command line, read as the files' values are.
pub(super) fn from_flags(value: &serde_json::Value) -> Source {
    // JSON is YAML (YAML 1.2 section 1.3), so that flags and files have one reader
    Source::new("command line", value.to_string())
}

/// All that a report holds, as lines for people who look at a command line.
pub(super) fn complaints(report: Report) -> String {
    lines(&report.finish().0)
}

/// One line for each; a file's mistakes are shown with their place.
pub(super) fn lines(mistakes: &[Diagnostic]) -> String {
    let line = |mistake: &Diagnostic| match (&*mistake.file, &mistake.hint) {
        ("command line", Some(hint)) => format!("{} ({hint})", mistake.message),
        ("command line", None) => mistake.message.clone(),
        (_, _) => mistake.render(),
    };
    mistakes.iter().map(line).collect::<Vec<_>>().join("\n")
}
