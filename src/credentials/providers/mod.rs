//! providers: one file per kind of credential. Each knows how to ask or make, none knows of caches, requests or policy.

mod jwt_svid;
mod key_ring;
mod local_jwt;
mod render;
mod secret;

pub use jwt_svid::JwtSvidProvider;
pub use key_ring::{KeyRing, KeyRings, Rhythm, RingError};
pub use local_jwt::{LocalJwt, LocalJwtError};
pub(super) use render::render;
pub use secret::{SecretSource, VendorSecret};
