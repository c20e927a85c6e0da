//! `Line`: the one connection to an agent's Broker API, on which both sides prove who they are.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::config::BrokerApiSettings;
use super::messages::{JwtSvidRequest, WorkloadReference, X509SvidRequest};
use super::namespace;
use crate::clock::{Clock, Timestamp};
use crate::identity::pod::Pod;
use crate::identity::standing::HeldSvid;
use crate::identity::svid::{Bundles, PeerVerifier};
use crate::identity::workload_api::{CONNECT, Client, Dialect, Fault, JwtSvids, Stream, X509Svids, chain, kept_alive, text};
use crate::tls::{Alpn, ClientConfigs, Peer, server_name};

/// After a connection that failed, all who ask hear of that failure for so long, instead of trying one after the other.
const AGAIN: Duration = Duration::from_millis(250);

/// SPIFFE Broker Endpoint, section 3.
const BROKER_API: Dialect = Dialect { header: "broker.spiffe.io", sort };

/// SPIFFE Broker API, section 4.8; SPIFFE Broker Endpoint, section 6.
fn sort(status: &Status) -> Fault {
    let text = text(status);
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other codes mean: later")]
    match status.code() {
        Code::PermissionDenied | Code::NotFound => Fault::Denied(text),
        Code::InvalidArgument => Fault::Final(text),
        Code::Unimplemented => Fault::Unimplemented,
        _ => Fault::later(status, text),
    }
}

/// An open connection.
struct Open {
    channel: Channel,
    /// Of exeat's own certificate that opened it: the next certificate opens the next connection.
    generation: u64,
    number: u64,
}

#[derive(Default)]
struct Held {
    open: Option<Open>,
    failed: Option<(Instant, Fault)>,
    opened: u64,
}

/// One connection for all processes. Each call is about one of them.
pub(super) struct Line {
    settings: BrokerApiSettings,
    pod: Arc<Pod>,
    clock: Arc<dyn Clock>,
    held: tokio::sync::Mutex<Held>,
    /// Why there is no connection; empty when all is well.
    trouble: Mutex<Box<str>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn new(settings: BrokerApiSettings, pod: Arc<Pod>, clock: Arc<dyn Clock>) -> Self {
        Self { settings, pod, clock, held: tokio::sync::Mutex::default(), trouble: Mutex::default() }
    }

    pub(super) const fn settings(&self) -> &BrokerApiSettings {
        &self.settings
    }

    /// exeat itself, as the agent knows it.
    pub(super) const fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Why there is no connection; `None` when there is, or when none was needed yet.
    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        (!trouble.is_empty()).then(|| trouble.to_string())
    }

    /// `SubscribeToX509SVID` for the process of this number.
    pub(super) async fn x509_svids(&self, pid: i32) -> Result<Stream<X509Svids>, Fault> {
        self.call(|client| async move {
            let asked = X509SvidRequest { reference: Some(WorkloadReference::to_process(pid)) };
            client.stream("/spiffe.broker.API/SubscribeToX509SVID", asked).await
        })
        .await
    }

    /// `FetchJWTSVID` for the process of this number and one audience.
    pub(super) async fn jwt_svid(&self, pid: i32, audience: &str, id: &str) -> Result<JwtSvids, Fault> {
        let (audience, spiffe_id) = (vec![audience.to_owned()], id.to_owned());
        let asked = JwtSvidRequest { reference: Some(WorkloadReference::to_process(pid)), audience, spiffe_id };
        self.call(|client| {
            let asked = asked.clone();
            async move { client.unary("/spiffe.broker.API/FetchJWTSVID", asked).await }
        })
        .await
    }

    /// When what opens connections now ends: an agent that was proven to by a certificate that is over was proven nothing.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.pod.standing().svid.as_ref().map(|svid| svid.not_after)
    }

    /// A connection that broke is noticed by who uses it: then once more on a fresh one.
    async fn call<T, F: Future<Output = Result<T, Fault>>>(&self, ask: impl Fn(Client) -> F) -> Result<T, Fault> {
        let (channel, number, fresh) = self.channel().await?;
        match ask(Client::over(channel, BROKER_API)).await {
            Err(Fault::Broken(_)) if !fresh => {
                self.forget(number).await;
                let (channel, number, _) = self.channel().await?;
                self.told(number, ask(Client::over(channel, BROKER_API)).await).await
            }
            told => self.told(number, told).await,
        }
    }

    async fn told<T>(&self, number: u64, told: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(Fault::Broken(why)) = &told {
            self.forget(number).await;
            self.say(why);
        }
        told
    }

    async fn forget(&self, number: u64) {
        let mut held = self.held.lock().await;
        if held.open.as_ref().is_some_and(|open| open.number == number) {
            held.open = None;
        }
    }

    /// The connection of exeat's present certificate, and whether it was opened for this call.
    async fn channel(&self) -> Result<(Channel, u64, bool), Fault> {
        let mut held = self.held.lock().await;
        let standing = self.pod.standing();
        let Some(svid) = &standing.svid else {
            let why = self.pod.trouble().unwrap_or_default();
            return Err(Fault::Lost(format!("exeat itself has no identity to ask with: {why}")));
        };
        if let Some(open) = held.open.as_ref().filter(|open| open.generation == standing.generation) {
            return Ok((open.channel.clone(), open.number, false));
        }
        let now = self.clock.instant();
        if let Some((_, fault)) = held.failed.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < AGAIN) {
            return Err(fault.clone());
        }
        match self.connect(svid, &standing.bundles).await {
            Ok(channel) => {
                held.opened = held.opened.wrapping_add(1);
                held.failed = None;
                held.open = Some(Open { channel: channel.clone(), generation: standing.generation, number: held.opened });
                self.say("");
                Ok((channel, held.opened, true))
            }
            Err(why) => {
                self.say(&why);
                held.failed = Some((self.clock.instant(), Fault::Lost(why.clone())));
                Err(Fault::Lost(why))
            }
        }
    }

    async fn connect(&self, svid: &HeldSvid, bundles: &Arc<Bundles>) -> Result<Channel, String> {
        let connecting = async {
            let stream = self.secure(svid, bundles).await?;
            let endpoint = kept_alive(Endpoint::from_static("http://broker"));
            endpoint.connect_with_connector(Once(Some(stream))).await.map_err(|error| chain(&error))
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(format!("unix://{} did not take the connection within {CONNECT:?}", self.settings.socket)),
        }
    }

    /// The agent must be in exeat's pid namespace and prove to be the agent; exeat shows its own SVID.
    async fn secure(&self, svid: &HeldSvid, bundles: &Arc<Bundles>) -> Result<TlsStream<UnixStream>, String> {
        let place = || format!("unix://{}", self.settings.socket);
        let stream =
            UnixStream::connect(&*self.settings.socket).await.map_err(|error| format!("{} cannot be reached: {error}", place()))?;
        namespace::is_shared(&stream)
            .map_err(|why| format!("{}: {why}; run both with the host's pid namespace (`hostPID: true`)", place()))?;
        let peer = Peer::Judged(Arc::new(PeerVerifier::new(self.settings.agent.clone(), Arc::clone(bundles))));
        let config = ClientConfigs::new().authenticated(peer, Some(&svid.certificate), Alpn::H2).map_err(|error| error.to_string())?;
        // An address, so that no name is sent: the agent is known by its SPIFFE ID.
        let name = server_name("127.0.0.1").map_err(|error| error.to_string())?;
        let expected = &self.settings.agent;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        stream.map_err(|error| format!("{} did not prove to be `{expected}`, or did not take exeat as a broker: {error}", place()))
    }

    fn say(&self, trouble: &str) {
        let mut held = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if **held != *trouble {
            if trouble.is_empty() {
                tracing::info!(identity = %self.pod.name(), "the Broker API answers at unix://{}", self.settings.socket);
            } else {
                tracing::warn!(identity = %self.pod.name(), "the Broker API: {trouble}");
            }
        }
        *held = trouble.into();
    }
}

/// A connection that is open already: tonic asks for it once. What it would open afterwards nobody would have judged.
struct Once(Option<TlsStream<UnixStream>>);

impl tower_service::Service<Uri> for Once {
    type Response = TokioIo<TlsStream<UnixStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let taken = self.0.take().map(TokioIo::new).ok_or_else(|| io::Error::other("the connection is over"));
        Box::pin(std::future::ready(taken))
    }
}
