//! The subcommands of `exeat policy` as written.

use std::process::ExitCode;

use clap::Subcommand;

use super::{diff, explain, promote, reach, replay, suggest, test};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PolicyCommand {
    /// Explain one decision: every candidate, and the predicate that failed.
    Explain(explain::ExplainArgs),
    /// Decide recorded traffic again by a candidate set of rules.
    Replay(replay::ReplayArgs),
    /// Enforce an upstream that was observed, where its traffic speaks for it; or take that back.
    Promote(promote::PromoteArgs),
    /// Write the least rules that recorded traffic needs, as shadows to be signed.
    Suggest(suggest::SuggestArgs),
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
        PolicyCommand::Replay(args) => replay::replay(args),
        PolicyCommand::Promote(args) => promote::promote(args),
        PolicyCommand::Suggest(args) => suggest::suggest(args),
        PolicyCommand::Test(args) => test::test(args),
        PolicyCommand::WhoCan(args) => reach::who_can(args),
        PolicyCommand::WhatCan(args) => reach::what_can(args),
        PolicyCommand::Diff(args) => diff::diff(args),
    }
}
