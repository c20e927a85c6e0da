//! What outlives the process: the state directory, the fingerprint key, the interception CA.

use std::sync::Arc;
use std::time::Duration;

use super::start::Failed;
use crate::clock::Timestamp;
use crate::config::{Config, StatePlace};
use crate::live::Live;
use crate::state::State;
use crate::tls::Authority;

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
/// A predecessor that drains has this long to hand the state over.
const HAND_OVER: Duration = Duration::from_secs(30);

/// Opens the state for this process alone.
///
/// # Errors
/// Exit code 78: the directory cannot be used.
pub fn open_state(config: &Config) -> Result<Arc<State>, Failed> {
    let state = match &config.state {
        StatePlace::Ephemeral => State::ephemeral(),
        StatePlace::Directory(path) => State::open(path, HAND_OVER).map_err(|error| Failed::config(format!("state: {error}")))?,
    };
    Ok(Arc::new(state))
}

/// The exact numbers of uses of leases, written when the last passage has ended: the state was released when the drain began, and is taken
/// again for this, unless a successor has it.
pub(super) fn after_the_drain(config: &Config, live: Arc<Live>) -> Box<dyn FnOnce() + Send> {
    let place = config.state.clone();
    Box::new(move || {
        let StatePlace::Directory(path) = place else { return };
        let written = State::open(&path, Duration::ZERO).and_then(|state| live.leases().settle(&state));
        if let Err(error) = written {
            tracing::warn!(%error, "uses of leases that were reserved and not used are lost");
        }
    })
}

/// The interception CA that the state keeps; made on first use.
///
/// # Errors
/// Exit code 78: what is kept is damaged, or cannot be written.
pub(super) fn authority(state: &State, now: Timestamp) -> Result<Authority, Failed> {
    let kept = |error: crate::state::StateError| Failed::config(format!("interception CA: {error}"));
    let broken = |error: crate::tls::TlsError| Failed::config(format!("interception CA: {error}"));
    if let (Some(certificate), Some(key)) = (state.read(CA_CERTIFICATE).map_err(kept)?, state.read_secret(CA_KEY).map_err(kept)?) {
        let certificate = String::from_utf8(certificate)
            .map_err(|_| Failed::config("interception CA: ca.pem in the state is not PEM; restore or remove it".into()))?;
        return Authority::from_pem(&certificate, &key).map_err(broken);
    }
    let authority = Authority::generate(now, &[]).map_err(broken)?;
    // The key first: a certificate without its key would be trusted and useless.
    state.write_secret(CA_KEY, &authority.key_pem()).map_err(kept)?;
    state.write(CA_CERTIFICATE, authority.certificate_pem().as_bytes()).map_err(kept)?;
    Ok(authority)
}

/// The interception CA's certificate as a state keeps it, for trust stores.
///
/// # Errors
/// The state cannot be read, or no exeat ran with it yet.
pub fn ca_certificate(state: &State) -> Result<Vec<u8>, Failed> {
    let read = state.read(CA_CERTIFICATE).map_err(|error| Failed::config(error.to_string()))?;
    read.ok_or_else(|| Failed::failure("this state holds no CA yet: `exeat run` makes it at its first start".into()))
}
