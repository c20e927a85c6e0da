//! argv -> cli; the process that holds credentials is neither dumpable nor traceable, and leaves no core.

use std::process::ExitCode;

// mimalloc takes the place of the system's `malloc`, for C code as well, and not the shape of a `#[global_allocator]`: that one asks for
// each block by its alignment, which takes a longer way. See "The allocator" in `load-tests/RESULTS.md`.
use mimalloc as _;

fn main() -> ExitCode {
    exeat::cli::main()
}
