//! argv -> cli; the process that holds credentials is neither dumpable nor traceable, and leaves no core.

use std::process::ExitCode;

/// The system's costs 3 k to 5 k user instructions more per request: see `load-tests/RESULTS.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exeat::cli::main()
}
