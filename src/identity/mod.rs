//! identity: WHO is asking.
//!
//! Enters: a [`Caller`]: what a connection proves, and the fields of a request's head. Leaves: a proven [`Workload`] or a rejection with
//! its reason. It never believes a name or an environment of the caller, of its fields only a proof that somebody else has signed, and a
//! rejected proof never falls through to another source.

mod broker_api;
mod client_cert;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod config;
mod fixed;
mod follow;
mod followed;
mod jwt_svid;
mod kubernetes;
mod pod;
mod pods;
mod spiffe_id;
mod standing;
pub mod svid;
mod unix_peer;
mod workload;
mod workload_api;

pub use broker_api::{BrokerApi, BrokerApiSettings, BrokerIdentity, Referred};
pub use client_cert::{Certificate, ClientCert};
pub use config::{Around, BeyondTcp, Identity, IdentityConfig, Source};
pub use fixed::Fixed;
pub use followed::Turn;
pub use jwt_svid::JwtSvidFault;
#[cfg(any(test, fuzzing))]
pub(crate) use kubernetes::fuzz::service_account;
pub use kubernetes::{Bound, Issuers, Kubernetes, KubernetesSpec, ServiceAccount, TokenRefused};
pub use pod::{Pod, PodIdentity, PodSettings};
pub use pods::Pods;
pub use spiffe_id::{SpiffeId, SpiffeIdError, is_path_segment, is_trust_domain};
pub use standing::{HeldSvid, Standing};
pub use unix_peer::{UnixClaim, UnixPeer};
pub use workload::{Attestation, Caller, Identified, IdentitySource, Workload};
pub use workload_api::{Endpoint, EndpointError};
