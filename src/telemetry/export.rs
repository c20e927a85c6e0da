//! The exporter: one thread with a runtime of its own that carries batches to the collector. A collector that is down costs counters and
//! one log line per outage; requests never wait for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::watch;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::init::{Collector, Protocol, Settings, SettingsError};
use super::names::SCHEMA;
use super::otlp::Preamble;
use super::spans::{Chunk, Spans};

/// Sends one HTTP request of exeat's own and gives the whole, capped answer: joined to `outcall` by the composition root. Polled on the
/// exporter's runtime; the error is a text for the log, without secrets.
pub type Post = Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Result<Response<Bytes>, String>> + Send + Sync>;

/// Tries of one batch before an outage is declared; during an outage there is one.
const TRIES: u32 = 3;
/// Wait before the second try, doubled for the third.
const BACKOFF: Duration = Duration::from_millis(250);
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const USER_AGENT: &str = concat!("exeat/", env!("CARGO_PKG_VERSION"));

/// The running exporter.
pub struct Exporter {
    spans: Spans,
    stop: watch::Sender<bool>,
    done: Receiver<()>,
}

impl Exporter {
    /// Starts the thread; `None` where the settings name no collector or keep no trace.
    ///
    /// # Errors
    /// Certificates that cannot be read, a thread that cannot be started.
    pub fn start(settings: &Settings, post: Post) -> Result<Option<Self>, SettingsError> {
        let Some(collector) = settings.collector.clone() else { return Ok(None) };
        if settings.sampler == super::context::Sampler::AlwaysOff {
            return Ok(None);
        }
        let preamble = Preamble::new(&settings.resource, env!("CARGO_PKG_VERSION"), SCHEMA);
        let spans = Spans::new(settings.queue, settings.batch);
        let (stop, stopping) = watch::channel(false);
        let (finished, done) = sync_channel(1);
        let grpc = match collector.protocol {
            Protocol::Grpc => Some(endpoint(&collector)?),
            Protocol::Http => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SettingsError { name: "telemetry".to_owned(), why: error.to_string() })?;
        let (theirs, delay) = (spans.clone(), settings.delay);
        let run = move || {
            runtime.block_on(async move {
                let transport = match grpc {
                    Some(endpoint) => Transport::Grpc(endpoint.connect_lazy()),
                    None => Transport::Http(post),
                };
                let worker = Worker { spans: theirs, collector, preamble, transport, delay, stopping, out: false };
                worker.run().await;
            });
            if finished.send(()).is_err() {
                tracing::debug!(target: "exeat::telemetry", "the exporter ended after the one who asked had stopped waiting");
            }
        };
        std::thread::Builder::new()
            .name("exeat-otlp".to_owned())
            .spawn(run)
            .map_err(|error| SettingsError { name: "telemetry".to_owned(), why: error.to_string() })?;
        Ok(Some(Self { spans, stop, done }))
    }

    /// The queue that it empties.
    #[must_use]
    pub const fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Sends what waits and ends. Blocks for `deadline` at most; `false` when that was too short.
    #[must_use]
    pub fn stop(self, deadline: Duration) -> bool {
        self.stop.send_replace(true);
        self.done.recv_timeout(deadline).is_ok()
    }
}

enum Transport {
    Http(Post),
    Grpc(Channel),
}

struct Worker {
    spans: Spans,
    collector: Collector,
    preamble: Preamble,
    transport: Transport,
    delay: Duration,
    stopping: watch::Receiver<bool>,
    /// The last batch did not get through.
    out: bool,
}

/// Why one try failed.
struct Failure {
    why: String,
    /// Another try may get through (OTLP specification, failures).
    again: bool,
}

impl Worker {
    async fn run(mut self) {
        loop {
            let mut stopping = self.stopping.clone();
            let due = tokio::select! {
                () = self.spans.full() => false,
                () = tokio::time::sleep(self.delay) => true,
                _ = stopping.wait_for(|stop| *stop) => true,
            };
            while let Some(chunk) = self.spans.take(due) {
                self.deliver(chunk).await;
            }
            if *self.stopping.borrow() {
                return;
            }
        }
    }

    async fn deliver(&mut self, chunk: Chunk) {
        let body = self.preamble.request(chunk.bytes);
        let tries = if self.out || *self.stopping.borrow() { 1 } else { TRIES };
        for nth in 1..=tries {
            let sent = tokio::time::timeout(self.collector.timeout, self.send(body.clone()));
            let failure = match sent.await {
                Ok(Ok(())) => {
                    self.spans.taken(chunk.spans);
                    if std::mem::replace(&mut self.out, false) {
                        tracing::info!(target: "exeat::telemetry", endpoint = %self.collector.endpoint, "the collector takes spans again");
                    }
                    return;
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure { why: "no answer in time".to_owned(), again: true },
            };
            self.spans.failed();
            if failure.again && nth < tries {
                tokio::time::sleep(BACKOFF * 2_u32.pow(nth - 1)).await;
                continue;
            }
            self.spans.lost(chunk.spans);
            if !std::mem::replace(&mut self.out, true) {
                let endpoint = &self.collector.endpoint;
                tracing::warn!(target: "exeat::telemetry", %endpoint, "the collector does not take spans: {}; they are dropped and counted", failure.why);
            }
            return;
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), Failure> {
        match &self.transport {
            Transport::Http(post) => {
                let mut request = Request::new(body);
                *request.method_mut() = Method::POST;
                *request.uri_mut() = self.collector.endpoint.clone();
                *request.headers_mut() = self.collector.headers.clone();
                request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                request.headers_mut().insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
                let answer = post(request).await.map_err(|why| Failure { why, again: true })?;
                let status = answer.status();
                if status.is_success() {
                    return Ok(());
                }
                let again = matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                );
                Err(Failure { why: format!("it answered {status}"), again })
            }
            Transport::Grpc(channel) => {
                let mut client = tonic::client::Grpc::new(channel.clone());
                client.ready().await.map_err(|error| Failure { why: chain(&error), again: true })?;
                let mut request = tonic::Request::new(body);
                *request.metadata_mut() = MetadataMap::from_headers(self.collector.headers.clone());
                client.unary(request, PathAndQuery::from_static(EXPORT), Raw).await.map(|_| ()).map_err(|status| Failure {
                    why: format!("{}: {}", status.code(), status.message()),
                    again: !matches!(
                        status.code(),
                        tonic::Code::InvalidArgument
                            | tonic::Code::Unauthenticated
                            | tonic::Code::PermissionDenied
                            | tonic::Code::Unimplemented
                    ),
                })
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |text, error| format!("{text}: {error}"))
}

fn endpoint(collector: &Collector) -> Result<Endpoint, SettingsError> {
    let wrong = |error: &dyn std::error::Error| SettingsError { name: "OTLP collector".to_owned(), why: chain(error) };
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| SettingsError { name: path.display().to_string(), why: error.to_string() })
    };
    let endpoint = Endpoint::from(collector.endpoint.clone())
        .user_agent(USER_AGENT)
        .map_err(|error| wrong(&error))?
        .connect_timeout(Duration::from_secs(5))
        .timeout(collector.timeout);
    if collector.endpoint.scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let mut tls = match &collector.roots {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let Some((certificate, key)) = &collector.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    endpoint.tls_config(tls).map_err(|error| wrong(&error))
}

/// Messages as the bytes that they are.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}
