//! jose: JWT signing and strict verification, JWKS, thumbprints.
//!
//! Enters: claims and a key. Leaves: a compact JWS (RFC 7515), or verified claims. ES256 by default, RS256 for verifiers that know nothing
//! else. The algorithm comes from the key, never from the token (RFC 8725 section 3.1): `none`, HMAC and keys carried inside a token
//! do not exist here. Signing holds parsed keys; verifying goes through another implementation, so the self-test at start proves
//! that what we sign is what others read. Time is passed in. Tokens of other issuers ([`Jws`]) are read with their own [`ForeignKey`]s,
//! of every RS, ES and PS algorithm (RFC 7518 section 3.1).

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod foreign;
mod jws;

pub use foreign::{ForeignKey, Jws, parse_foreign_keys};
pub use jws::{Algorithm, Expected, JoseError, PublicKey, SigningKey, TokenFault, jwks, parse_jwks, verify};
