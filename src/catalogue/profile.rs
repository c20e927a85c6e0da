//! `Profile`: the terms of a credential definition that policy and injection need: what may be asked, for how long, where it goes.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// The kind of a credential that is the caller's own identity: only a caller that is exeat's pod may have it.
pub const JWT_SVID: &str = "jwt_svid";

/// Where a credential is put on a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Placement {
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
    /// `Authorization: Basic` with this user name (RFC 7617).
    Basic {
        /// The user name.
        user: Arc<str>,
    },
    /// The bare value in a header of its own.
    Header(HeaderName),
    /// The percent-encoded value of a query parameter.
    Query(Arc<str>),
}

/// A credential definition as its neighbours see it; what issues it stands in `credentials`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Profile {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The kind: `local_jwt`, `secret`, `jwt_svid`.
    pub kind: &'static str,
    /// The audience that is asked for, where the kind has one.
    pub audience: Option<Arc<str>>,
    /// Everything that a grant may ask for, sorted; `None` where the kind knows no scopes.
    pub scopes: Option<Arc<[Arc<str>]>>,
    /// Longest life of one credential.
    pub ttl: Duration,
    /// Where it is put.
    pub placement: Placement,
}
