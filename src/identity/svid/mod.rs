//! svid: SPIFFE Verifiable Identity Documents, judged strictly and without I/O.
//!
//! Enters: a certificate chain or a token that somebody presents, and the [`Bundles`] that are trusted now. Leaves: the SPIFFE ID that it
//! proves, or the fault that the operator reads. A document of a trust domain is verified by that domain's bundle alone; nothing that a
//! document says of where keys are is ever followed (X.509-SVID section 5, JWT-SVID sections 2 to 4).

mod bundle;
mod jwt;
mod peer;
#[cfg(test)]
mod vectors;
mod x509;

pub(super) use bundle::certificates;
pub use bundle::{Bundle, BundleFault, Bundles};
pub use jwt::{JwtFault, JwtSvid};
pub use peer::{Expected, PeerVerifier};
pub use x509::{X509Fault, X509Svid};
