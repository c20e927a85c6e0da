//! `kubernetes`: a service account proves itself with a token that the cluster signed for this audience.
//!
//! The token is presented with each request (`Proxy-Authorization`, what `http://x:TOKEN@exeat` in `HTTP_PROXY` makes of it), with the
//! CONNECT of a tunnel, or is mounted beside exeat. It is verified with the issuer's keys alone: nothing in a token says where keys are.

mod config;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod issuer;
mod mounted;
mod presented;
mod source;
mod token;

pub(super) use config::KubernetesConfig;
pub use config::KubernetesSpec;
pub use issuer::Issuers;
pub use source::Kubernetes;
pub use token::{Bound, ServiceAccount, TokenRefused};
