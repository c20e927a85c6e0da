//! argv -> cli; the process that holds credentials is neither dumpable nor traceable, and leaves no core.

use std::process::ExitCode;

/// Still to be measured against the system's: see `load-tests/RESULTS.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exeat::cli::main()
}
