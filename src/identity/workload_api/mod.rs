//! The SPIFFE Workload API's own words, and nobody's judgement.
//!
//! Enters: an [`Endpoint`]. Leaves: its streams of X.509-SVIDs and JWT bundles, and single JWT-SVIDs (SPIFFE Workload API, sections 4 to 6).
//! What comes over it is foreign until [`svid`](crate::identity::svid) has judged it. Messages are written by hand from the protocol's
//! definition: nine short messages need no code generator at build time.

mod client;
mod endpoint;
mod messages;

pub(super) use client::{CONNECT, Client, Dialect, Fault, Stream, chain, kept_alive, text};
pub use endpoint::{Endpoint, EndpointError};
pub(super) use messages::{JwtBundles, JwtSvids, X509Svids};
#[cfg(any(test, fuzzing))]
pub(super) use messages::{JwtSvidEntry, X509SvidEntry};
