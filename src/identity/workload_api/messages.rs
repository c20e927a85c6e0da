//! The messages of `workload.proto`; field numbers are the protocol's. What holds a key or a token has no `Debug` of its own.

use std::collections::HashMap;
use std::fmt;

/// A request without fields: `X509SVIDRequest`, `JWTBundlesRequest`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::identity) struct Nothing {}

/// `X509SVIDResponse`: the whole state; what is absent is withdrawn.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::identity) struct X509Svids {
    /// In the order of the server: the first is the default identity.
    #[prost(message, repeated, tag = "1")]
    pub(in crate::identity) svids: Vec<X509SvidEntry>,
    /// DER, by the SPIFFE ID of the trust domain.
    #[prost(map = "string, bytes", tag = "3")]
    pub(in crate::identity) federated_bundles: HashMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(in crate::identity) struct X509SvidEntry {
    #[prost(string, tag = "1")]
    pub(in crate::identity) spiffe_id: String,
    /// DER, leaf first.
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::identity) x509_svid: Vec<u8>,
    /// PKCS#8 DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(in crate::identity) x509_svid_key: Vec<u8>,
    /// DER of the trust domain's authorities.
    #[prost(bytes = "vec", tag = "4")]
    pub(in crate::identity) bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(in crate::identity) hint: String,
}

impl fmt::Debug for X509SvidEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509SvidEntry").field("spiffe_id", &self.spiffe_id).field("hint", &self.hint).finish_non_exhaustive()
    }
}

/// `JWTBundlesResponse`: the whole state.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::identity) struct JwtBundles {
    /// JWK Sets, by the SPIFFE ID of the trust domain.
    #[prost(map = "string, bytes", tag = "1")]
    pub(in crate::identity) bundles: HashMap<String, Vec<u8>>,
}

/// `JWTSVIDRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::identity) struct JwtSvidRequest {
    #[prost(string, repeated, tag = "1")]
    pub(in crate::identity) audience: Vec<String>,
    #[prost(string, tag = "2")]
    pub(in crate::identity) spiffe_id: String,
}

/// `JWTSVIDResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::identity) struct JwtSvids {
    #[prost(message, repeated, tag = "1")]
    pub(in crate::identity) svids: Vec<JwtSvidEntry>,
}

/// `JWTSVID`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(in crate::identity) struct JwtSvidEntry {
    #[prost(string, tag = "1")]
    pub(in crate::identity) spiffe_id: String,
    #[prost(string, tag = "2")]
    pub(in crate::identity) svid: String,
}

impl fmt::Debug for JwtSvidEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvidEntry").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}
