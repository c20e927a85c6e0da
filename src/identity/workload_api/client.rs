//! `Client`: one connection to the Workload API.

use std::marker::PhantomData;
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::endpoint::Endpoint;
use super::messages::{JwtBundles, JwtSvidRequest, JwtSvids, Nothing, X509Svids};

/// Demanded of every call, so that no browser or confused proxy can make one (SPIFFE Workload Endpoint, section 5).
const SECURITY_HEADER: &str = "workload.spiffe.io";
const CONNECT: Duration = Duration::from_secs(5);
/// A peer that went away without a word is noticed within two of these.
const ALIVE: Duration = Duration::from_secs(20);

/// What went wrong, as far as its consequences differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::identity) enum Fault {
    /// The workload has no identity now: what was given is withdrawn.
    #[error("the Workload API gives this workload no identity ({0}); register it, or look at the agent's selectors")]
    Denied(String),
    /// The server takes this client for none: asking again cannot help (section 5).
    #[error("the Workload API refuses how it is asked: {0}")]
    Final(String),
    /// The server does not have this call.
    #[error("the Workload API does not offer this")]
    Unimplemented,
    /// Anything else: asked again after a while.
    #[error("{0}")]
    Lost(String),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        let text = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
        #[expect(clippy::wildcard_enum_match_arm, reason = "all other codes mean: later")]
        match status.code() {
            Code::PermissionDenied => Self::Denied(text),
            Code::InvalidArgument => Self::Final(text),
            Code::Unimplemented => Self::Unimplemented,
            _ => Self::Lost(text),
        }
    }
}

/// A stream of whole states.
pub(in crate::identity) type Stream<T> = tonic::Streaming<T>;

/// One connection.
pub(in crate::identity) struct Client(Channel);

impl Client {
    pub(in crate::identity) async fn connect(endpoint: &Endpoint) -> Result<Self, Fault> {
        let uri = match endpoint {
            Endpoint::Unix(path) => format!("unix://{path}"),
            Endpoint::Tcp(address) => format!("http://{address}"),
        };
        let lost = |error: tonic::transport::Error| Fault::Lost(format!("{endpoint} cannot be reached: {}", chain(&error)));
        let channel = tonic::transport::Endpoint::from_shared(uri).map_err(|error| Fault::Lost(error.to_string()))?;
        let channel = channel.connect_timeout(CONNECT).http2_keep_alive_interval(ALIVE).keep_alive_timeout(ALIVE);
        tokio::time::timeout(CONNECT, channel.keep_alive_while_idle(true).connect())
            .await
            .map_err(|_| Fault::Lost(format!("{endpoint} did not take the connection within {CONNECT:?}")))?
            .map(Self)
            .map_err(lost)
    }

    /// `FetchX509SVID`.
    pub(in crate::identity) async fn x509_svids(&self) -> Result<Stream<X509Svids>, Fault> {
        self.stream("/SpiffeWorkloadAPI/FetchX509SVID").await
    }

    /// `FetchJWTBundles`.
    pub(in crate::identity) async fn jwt_bundles(&self) -> Result<Stream<JwtBundles>, Fault> {
        self.stream("/SpiffeWorkloadAPI/FetchJWTBundles").await
    }

    /// `FetchJWTSVID` for one audience.
    pub(in crate::identity) async fn jwt_svid(&self, audience: &str, id: &str) -> Result<JwtSvids, Fault> {
        let mut grpc = self.ready().await?;
        let asked = JwtSvidRequest { audience: vec![audience.to_owned()], spiffe_id: id.to_owned() };
        let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchJWTSVID");
        Ok(grpc.unary(with_header(asked), path, Messages::default()).await?.into_inner())
    }

    async fn stream<T: prost::Message + Default + 'static>(&self, path: &'static str) -> Result<Stream<T>, Fault> {
        let mut grpc = self.ready().await?;
        let codec = Messages::<Nothing, T>::default();
        Ok(grpc.server_streaming(with_header(Nothing {}), PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, Fault> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Fault::Lost(chain(&error)))?;
        Ok(grpc)
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |text, error| format!("{text}: {error}"))
}

/// prost's messages as tonic carries them.
struct Messages<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for Messages<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E: prost::Message + 'static, D: prost::Message + Default + 'static> Codec for Messages<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: prost::Message, D> Encoder for Messages<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<E, D: prost::Message + Default> Decoder for Messages<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        D::decode(from).map(Some).map_err(|error| Status::internal(format!("its message cannot be read: {error}")))
    }
}
