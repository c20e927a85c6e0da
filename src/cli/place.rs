//! Where a running exeat keeps things, by its configuration: for commands that stand beside it.

use std::path::PathBuf;

use super::args::ConfigArg;
use crate::clock::SystemClock;
use crate::config::{self, Config, StatePlace};
use crate::written::Diagnostic;

/// The configuration; every mistake as text.
pub(super) fn config(args: &ConfigArg) -> Result<Config, String> {
    let mistakes = |mistakes: Vec<Diagnostic>| mistakes.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n");
    config::load(&args.config, &SystemClock).map(|loaded| loaded.config).map_err(mistakes)
}

/// The state directory.
pub(super) fn state(args: &ConfigArg) -> Result<PathBuf, String> {
    match config(args)?.state {
        StatePlace::Directory(path) => Ok(path),
        StatePlace::Ephemeral => Err("`state: ephemeral` keeps nothing; ask the status server of the running exeat instead (/jwks)".into()),
    }
}
