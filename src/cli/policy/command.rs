//! The subcommands of `exeat policy` as written.

use std::process::ExitCode;

use clap::Subcommand;

use super::explain;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PolicyCommand {
    /// Explain one decision: every candidate, and the predicate that failed.
    Explain(explain::ExplainArgs),
}

/// Runs one.
pub(in crate::cli) fn run(command: &PolicyCommand) -> ExitCode {
    match command {
        PolicyCommand::Explain(args) => explain::explain(args),
    }
}
