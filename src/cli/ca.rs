//! `exeat ca`: the interception CA's certificate, alone or behind the system's roots: most trust variables replace the roots, so a client
//! needs both in one file.

use std::process::ExitCode;

use super::args::{CONFIG, CaArgs};
use super::place;
use crate::state::State;

pub(super) fn ca(args: &CaArgs) -> ExitCode {
    let kept = place::state(&args.config).and_then(|path| {
        let state = State::look(&path).map_err(|error| error.to_string())?;
        crate::app::ca_certificate(&state).map_err(|error| error.to_string())
    });
    let certificate = match kept {
        Ok(certificate) => certificate,
        Err(why) => {
            eprintln!("exeat: {why}");
            return ExitCode::from(CONFIG);
        }
    };
    if args.bundle {
        match crate::tls::system_roots_pem() {
            Ok(roots) => print!("{roots}"),
            Err(error) => {
                eprintln!("exeat: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    print!("{}", String::from_utf8_lossy(&certificate));
    ExitCode::SUCCESS
}
