//! `Client`: one connection to an agent.

use std::marker::PhantomData;
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::endpoint::Endpoint;
use super::messages::{JwtBundles, JwtSvidRequest, JwtSvids, Nothing, X509Svids};

/// How one of an agent's APIs is spoken to.
#[derive(Debug, Clone, Copy)]
pub(in crate::identity) struct Dialect {
    /// Demanded of every call, so that no browser or confused proxy can make one.
    pub(in crate::identity) header: &'static str,
    /// What a status means.
    pub(in crate::identity) sort: fn(&Status) -> Fault,
}

/// SPIFFE Workload Endpoint, section 5.
const WORKLOAD_API: Dialect = Dialect { header: "workload.spiffe.io", sort: Fault::of_workload_api };
/// Longest wait for a connection.
pub(in crate::identity) const CONNECT: Duration = Duration::from_secs(5);
/// A peer that went away without a word is noticed within two of these.
const ALIVE: Duration = Duration::from_secs(20);

/// What went wrong, as far as its consequences differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::identity) enum Fault {
    /// The workload has no identity now: what was given is withdrawn.
    #[error("the agent gives this workload no identity ({0}); register it, or look at the agent's selectors")]
    Denied(String),
    /// The server takes this client for none: asking again cannot help (section 5).
    #[error("the agent refuses how it is asked: {0}")]
    Final(String),
    /// The server does not have this call.
    #[error("the agent does not offer this")]
    Unimplemented,
    /// Anything else: asked again after a while.
    #[error("{0}")]
    Lost(String),
    /// The connection broke: asked again after a while, on another.
    #[error("{0}")]
    Broken(String),
}

impl Fault {
    fn of_workload_api(status: &Status) -> Self {
        let text = text(status);
        #[expect(clippy::wildcard_enum_match_arm, reason = "all other codes mean: later")]
        match status.code() {
            Code::PermissionDenied => Self::Denied(text),
            Code::InvalidArgument => Self::Final(text),
            Code::Unimplemented => Self::Unimplemented,
            _ => Self::later(status, text),
        }
    }

    /// What the server did not say itself has another error as its source.
    pub(in crate::identity) fn later(status: &Status, text: String) -> Self {
        if std::error::Error::source(status).is_some() { Self::Broken(text) } else { Self::Lost(text) }
    }
}

/// What a status says.
pub(in crate::identity) fn text(status: &Status) -> String {
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}

/// A stream of whole states.
pub(in crate::identity) struct Stream<T> {
    messages: tonic::Streaming<T>,
    sort: fn(&Status) -> Fault,
}

impl<T> Stream<T> {
    /// The next one; `None` when the server ended the stream.
    pub(in crate::identity) async fn message(&mut self) -> Result<Option<T>, Fault> {
        self.messages.message().await.map_err(|status| (self.sort)(&status))
    }
}

/// One connection.
pub(in crate::identity) struct Client {
    channel: Channel,
    dialect: Dialect,
}

impl Client {
    pub(in crate::identity) async fn connect(endpoint: &Endpoint) -> Result<Self, Fault> {
        let uri = match endpoint {
            Endpoint::Unix(path) => format!("unix://{path}"),
            Endpoint::Tcp(address) => format!("http://{address}"),
        };
        let lost = |error: tonic::transport::Error| Fault::Lost(format!("{endpoint} cannot be reached: {}", chain(&error)));
        let channel = tonic::transport::Endpoint::from_shared(uri).map_err(|error| Fault::Lost(error.to_string()))?;
        tokio::time::timeout(CONNECT, kept_alive(channel).connect_timeout(CONNECT).connect())
            .await
            .map_err(|_| Fault::Lost(format!("{endpoint} did not take the connection within {CONNECT:?}")))?
            .map(|channel| Self::over(channel, WORKLOAD_API))
            .map_err(lost)
    }

    /// An open connection.
    pub(in crate::identity) const fn over(channel: Channel, dialect: Dialect) -> Self {
        Self { channel, dialect }
    }

    /// `FetchX509SVID`.
    pub(in crate::identity) async fn x509_svids(&self) -> Result<Stream<X509Svids>, Fault> {
        self.stream("/SpiffeWorkloadAPI/FetchX509SVID", Nothing {}).await
    }

    /// `FetchJWTBundles`.
    pub(in crate::identity) async fn jwt_bundles(&self) -> Result<Stream<JwtBundles>, Fault> {
        self.stream("/SpiffeWorkloadAPI/FetchJWTBundles", Nothing {}).await
    }

    /// `FetchJWTSVID` for one audience.
    pub(in crate::identity) async fn jwt_svid(&self, audience: &str, id: &str) -> Result<JwtSvids, Fault> {
        let asked = JwtSvidRequest { audience: vec![audience.to_owned()], spiffe_id: id.to_owned() };
        self.unary("/SpiffeWorkloadAPI/FetchJWTSVID", asked).await
    }

    /// One question, one answer.
    pub(in crate::identity) async fn unary<Q, A>(&self, path: &'static str, asked: Q) -> Result<A, Fault>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let answer = self.ready().await?.unary(self.with_header(asked), PathAndQuery::from_static(path), Messages::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|status| (self.dialect.sort)(&status))
    }

    /// One question, and the whole state whenever it changes.
    pub(in crate::identity) async fn stream<Q, T>(&self, path: &'static str, asked: Q) -> Result<Stream<T>, Fault>
    where
        Q: prost::Message + 'static,
        T: prost::Message + Default + 'static,
    {
        let (codec, sort) = (Messages::<Q, T>::default(), self.dialect.sort);
        let answer = self.ready().await?.server_streaming(self.with_header(asked), PathAndQuery::from_static(path), codec).await;
        answer.map(|answer| Stream { messages: answer.into_inner(), sort }).map_err(|status| sort(&status))
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, Fault> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Fault::Broken(chain(&error)))?;
        Ok(grpc)
    }

    fn with_header<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(self.dialect.header, MetadataValue::from_static("true"));
        request
    }
}

/// A peer that goes away without a word is noticed.
pub(in crate::identity) fn kept_alive(endpoint: tonic::transport::Endpoint) -> tonic::transport::Endpoint {
    endpoint.http2_keep_alive_interval(ALIVE).keep_alive_timeout(ALIVE).keep_alive_while_idle(true)
}

/// An error with its causes.
pub(in crate::identity) fn chain(error: &dyn std::error::Error) -> String {
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
