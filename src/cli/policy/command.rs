//! The subcommands of `exeat policy` as written.

use std::process::ExitCode;

use clap::Subcommand;

use super::{diff, explain, reach, test};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PolicyCommand {
    /// Explain one decision: every candidate, and the predicate that failed.
    Explain(explain::ExplainArgs),
    /// Run policy tests: files of `exeat: policytest/v1`.
    Test(test::TestArgs),
    /// Who can do this: every workload that a rule lets do it, and on which terms.
    WhoCan(reach::WhoCanArgs),
    /// What can this workload do.
    WhatCan(reach::WhatCanArgs),
    /// What a change of rules changes: who gains and who loses what.
    Diff(diff::DiffArgs),
}

/// Runs one.
pub(in crate::cli) fn run(command: &PolicyCommand) -> ExitCode {
    match command {
        PolicyCommand::Explain(args) => explain::explain(args),
        PolicyCommand::Test(args) => test::test(args),
        PolicyCommand::WhoCan(args) => reach::who_can(args),
        PolicyCommand::WhatCan(args) => reach::what_can(args),
        PolicyCommand::Diff(args) => diff::diff(args),
    }
}
