//! `exeat run`: the proxy.

use std::process::ExitCode;

use super::args::{LogFormat, RunArgs};
use crate::app::{self, Signals};
use crate::telemetry::log;

pub(super) fn run(args: &RunArgs) -> ExitCode {
    let format = match args.log_format {
        LogFormat::Json => log::LogFormat::Json,
        LogFormat::Text => log::LogFormat::Text,
    };
    if let Err(error) = log::init(args.verbose, format) {
        eprintln!("exeat: {error}");
    }
    super::harden::open_files();
    match app::start(&args.config.config, Signals::Heeded) {
        Ok(running) => {
            if running.wait() {
                ExitCode::SUCCESS
            } else {
                eprintln!("exeat: the last audit records could not be written before the end");
                ExitCode::FAILURE
            }
        }
        Err(failed) => {
            eprintln!("exeat: {failed}");
            ExitCode::from(failed.exit)
        }
    }
}
