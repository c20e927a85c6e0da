//! config: the whole file `exeat: config/v1`, from text to meaning.
//!
//! Enters: the path of one file. Leaves: [`Loaded`], the meaning form of everything in it and in the files that it names, with warnings,
//! or every mistake at once with file, line, caret and hint. It opens no socket and reads no secret; [`SecretSource::read`] does the
//! latter for those who need it, later. After it nobody reads a file, an environment variable or a host as a text again.
//! It fails to diagnostics, never to half a configuration.

mod credential;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod file;
mod limits;
mod listeners;
mod load;
mod names;
mod outputs;
mod policies;
mod restage;
mod restart;
mod schema;
mod secret_source;
mod servers;

pub use credential::{CredentialKind, CredentialSpec, LocalJwt, SigningAlgorithm};
pub use file::{Config, ListenerSpec, ListenerTls, StatePlace, Unlisted};
pub use limits::{Drain, Limits};
pub use load::{Digest, Loaded, Reading, Watched, digest_of, load, read};
pub use outputs::{Audit, Otlp, OtlpProtocol, Sampler, Telemetry, otel_environment};
pub use policies::{policies_in, tests_at};
pub use restage::restage;
pub use restart::restart_needed;
pub use schema::{PROVIDES, schema};
pub use secret_source::{SecretSource, SecretSourceError};
pub use servers::{Admin, AdminGuard, Status};

#[cfg(test)]
mod mistakes;
