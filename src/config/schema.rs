//! JSON Schema of the file, and the names that `requires` may list.

use super::file::File;

/// What this binary provides: `requires: [..]` is refused when it lists anything else.
pub const PROVIDES: &[&str] = &[
    "capture.forward",
    "capture.host",
    "capture.route",
    "credential.jwt_svid",
    "credential.local_jwt",
    "credential.secret",
    "identity.broker_api",
    "identity.client_cert",
    "identity.client_cert.workload_api",
    "identity.fixed",
    "identity.kubernetes",
    "identity.spiffe",
    "identity.unix_peer",
    "inject.basic",
    "inject.bearer",
    "inject.header",
    "inject.query",
    "policy.v1",
    "revocations.file",
    "stage.enforce_percent",
    "stage.observe",
    "stage.rehearse",
    "tls.client_certificate.svid",
    "tls.listener.svid",
    "tls.spiffe_id",
];

/// The JSON Schema (draft 2020-12) of `exeat: config/v1`, for editors and for `exeat schema`.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(File).to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), "exeat: config/v1".into());
    }
    schema
}
