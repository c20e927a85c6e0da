//! The collector of the story: takes OTLP over HTTP and keeps the spans.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use crate::telemetry::{self, Seen};

/// A running collector on a loopback port.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    spans: Arc<Mutex<Vec<Seen>>>,
}

impl Sink {
    pub(super) fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("demo-collector".into()).spawn(move || runtime.block_on(serve(listener, kept)))?;
        Ok(Self { address, spans })
    }

    /// The spans of one trace, when its SERVER span has arrived.
    pub(super) fn trace(&self, trace_id: &str) -> Option<Vec<Seen>> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let of_trace: Vec<Seen> = spans.iter().filter(|span| span.trace_id == trace_id).cloned().collect();
        of_trace.iter().any(|span| span.kind == "SERVER").then_some(of_trace)
    }
}

async fn serve(listener: TcpListener, kept: Arc<Mutex<Vec<Seen>>>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let kept = Arc::clone(&kept);
        tokio::spawn(async move {
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                let kept = Arc::clone(&kept);
                async move {
                    if let Ok(body) = Limited::new(request.into_body(), 4 << 20).collect().await {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).extend(telemetry::decode(&body.to_bytes()));
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            // A connection that breaks is the exporter's affair.
            drop(http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service).await);
        });
    }
}
