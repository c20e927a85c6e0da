//! identity: WHO is asking.
//!
//! Enters: a connection's [`Peer`](crate::capture::Peer). Leaves: a proven [`Workload`] or a rejection with its reason. It never
//! believes a header, a name or an environment of the caller, and a rejected proof never falls through to another source.

mod config;
mod fixed;
mod follow;
mod pod;
mod spiffe_id;
mod standing;
pub mod svid;
mod unix_peer;
mod workload;
mod workload_api;

pub use config::{Around, Identity, IdentityConfig, Source};
pub use fixed::Fixed;
pub use follow::follow;
pub use pod::{Pod, PodFault, PodIdentity, PodSettings, Pods};
pub use spiffe_id::{SpiffeId, SpiffeIdError, is_path_segment, is_trust_domain};
pub use standing::{HeldSvid, Standing};
pub use unix_peer::UnixPeer;
pub use workload::{Attestation, Identified, IdentitySource, Workload};
pub use workload_api::{Endpoint, EndpointError};
