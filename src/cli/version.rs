//! `exeat version`: what this binary can do.

use std::process::ExitCode;

pub(super) fn version(json: bool) -> ExitCode {
    if json {
        let capabilities = crate::config::PROVIDES;
        println!("{}", serde_json::json!({ "name": "exeat", "version": env!("CARGO_PKG_VERSION"), "capabilities": capabilities }));
    } else {
        println!("exeat {}", env!("CARGO_PKG_VERSION"));
    }
    ExitCode::SUCCESS
}
