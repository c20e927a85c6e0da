//! `exeat audit verify`: checks the hash chain of an audit log.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args::VerifyArgs;
use crate::audit;
use crate::state::State;

/// How long the rest of a line is waited for.
const REST: Duration = Duration::from_millis(200);

pub(super) fn verify(args: &VerifyArgs) -> ExitCode {
    let key = match &args.state {
        None => None,
        Some(path) => match key(path) {
            Ok(key) => Some(key),
            Err(why) => {
                eprintln!("exeat: {why}");
                return ExitCode::FAILURE;
            }
        },
    };
    let verified = audit::verify(&args.path, key.as_ref()).or_else(|bad| {
        // The last line of a process that runs may be on its way; a process that was killed leaves it so.
        std::thread::sleep(REST);
        audit::verify(&args.path, key.as_ref()).map_err(|_| bad)
    });
    match verified {
        Ok(report) => {
            println!(
                "{} lines in {} segments: {} passages, {} lost, {} starts, {} without a stop before them, {} keyed seals",
                report.lines, report.segments, report.accesses, report.lost, report.starts, report.seams, report.keyed
            );
            println!(
                "head {} at line {}{}",
                report.head,
                report.last,
                if report.sealed { ", sealed" } else { ", not sealed: the process runs, or ended without a stop" }
            );
            ExitCode::SUCCESS
        }
        Err(bad) => {
            eprintln!("exeat: {bad}");
            ExitCode::FAILURE
        }
    }
}

fn key(path: &Path) -> Result<crate::secret::FingerprintKey, String> {
    let state = State::look(path).map_err(|error| error.to_string())?;
    state.fingerprint_key().map_err(|error| error.to_string())
}
