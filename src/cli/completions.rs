//! `exeat completions SHELL`.

use std::process::ExitCode;

pub(super) fn completions(shell: clap_complete::Shell) -> ExitCode {
    clap_complete::generate(shell, &mut super::args::command(), "exeat", &mut std::io::stdout());
    ExitCode::SUCCESS
}
