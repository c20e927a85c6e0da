//! cli: one file a subcommand. Output for people by default, `--json` or `--format` for programs.
//!
//! Exit codes: 0; 1 failure; 64 usage; 78 configuration (sysexits `EX_USAGE`, `EX_CONFIG`).

mod args;
mod audit;
mod ca;
mod check;
mod completions;
mod harden;
mod jwks;
mod place;
mod policy;
mod run;
mod sarif;
mod schema;
mod status;
mod version;

pub use args::main;
