//! `Proof`: what a caller presents to the proxy itself, in `Proxy-Authorization` (RFC 9110 section 11.7.2).

use std::fmt;

use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;

use crate::secret::Secret;

/// The value of `Proxy-Authorization`, kept for the requests inside the tunnel that it opened: they carry none.
pub struct Proof(Secret);

impl Proof {
    /// Of a head that has exactly one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(PROXY_AUTHORIZATION).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        Some(Self(Secret::new(value.as_bytes())))
    }

    /// The value.
    #[must_use]
    pub const fn value(&self) -> &Secret {
        &self.0
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof")
    }
}
