//! `exeat jwks`: the public keys that upstreams verify with, from the state directory; also beside a running exeat.

use std::process::ExitCode;

use super::args::{CONFIG, ConfigArg};
use super::place;
use crate::credentials::providers::KeyRings;
use crate::state::State;

pub(super) fn jwks(args: &ConfigArg) -> ExitCode {
    let kept = place::state(args).and_then(|path| {
        let state = State::look(&path).map_err(|error| error.to_string())?;
        KeyRings::jwks_kept(&state).map_err(|error| error.to_string())
    });
    match kept {
        Ok(keys) => {
            println!("{}", String::from_utf8_lossy(&keys));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("exeat: {why}");
            ExitCode::from(CONFIG)
        }
    }
}
