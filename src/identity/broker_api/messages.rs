//! The requests of `brokerapi.proto`; field numbers are the protocol's. The answers are the Workload API's, field by field.

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `WorkloadPIDReference`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct WorkloadPidReference {
    #[prost(int32, tag = "1")]
    pub(super) pid: i32,
}

/// `WorkloadReference`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WorkloadReference {
    #[prost(message, optional, tag = "1")]
    pub(super) reference: Option<Any>,
}

impl WorkloadReference {
    const PID: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";

    /// To the process of this number.
    pub(super) fn to_process(pid: i32) -> Self {
        let value = prost::Message::encode_to_vec(&WorkloadPidReference { pid });
        Self { reference: Some(Any { type_url: Self::PID.to_owned(), value }) }
    }
}

/// `SubscribeToX509SVIDRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509SvidRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) reference: Option<WorkloadReference>,
}

/// `FetchJWTSVIDRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JwtSvidRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) reference: Option<WorkloadReference>,
    #[prost(string, repeated, tag = "2")]
    pub(super) audience: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) spiffe_id: String,
}
