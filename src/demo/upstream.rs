//! The upstream of the story: verifies each token by the served JWKS and remembers what reached it.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;

/// What reached the upstream, and what it made of it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    /// The token's claims, or why it was refused.
    pub(super) verdict: Result<serde_json::Value, String>,
}

/// A running upstream on a loopback port.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

/// Verifies a token for an audience.
pub(super) type Verify = Arc<dyn Fn(&str, &str) -> Result<serde_json::Value, String> + Send + Sync>;

impl Upstream {
    /// Listens and serves on a thread of its own until the process ends; its audience is its own origin.
    pub(super) fn start(verify: Verify) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let (log, audience): (_, Arc<str>) = (Arc::clone(&received), format!("http://{address}").into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("demo-upstream".into()).spawn(move || runtime.block_on(serve(listener, audience, verify, log)))?;
        Ok(Self { address, received })
    }

    /// The newest request, and forgets all.
    pub(super) fn take_last(&self) -> Option<Received> {
        std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner)).pop()
    }
}

async fn serve(listener: TcpListener, audience: Arc<str>, verify: Verify, log: Arc<Mutex<Vec<Received>>>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let (audience, verify, log) = (Arc::clone(&audience), Arc::clone(&verify), Arc::clone(&log));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &audience, &verify, &log);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A connection that breaks is the client's affair.
            drop(http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service).await);
        });
    }
}

fn answer(request: &Request<Incoming>, audience: &str, verify: &Verify, log: &Mutex<Vec<Received>>) -> Response<Full<Bytes>> {
    let token = request
        .headers()
        .get(http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let verdict = token.ok_or_else(|| "no bearer token".to_owned()).and_then(|token| verify(token, audience));
    let (status, body) = match &verdict {
        Ok(claims) => (StatusCode::OK, serde_json::json!({ "order": 42, "status": "shipped", "served_to": claims.get("sub") })),
        Err(why) => (StatusCode::UNAUTHORIZED, serde_json::json!({ "error": "invalid_token", "why": why })),
    };
    let headers =
        request.headers().iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    let received = Received { method: request.method().to_string(), target: request.uri().to_string(), headers, verdict };
    log.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
}
