//! outcall: exeat's own calls: collectors, authorization servers, vaults.
//!
//! Enters: a complete request with an absolute URI that the operator wrote. Leaves: the whole answer, no larger than the operator allows, or an
//! [`OutcallError`] that names the origin and nothing of the request. Every call has one deadline for all of it, TLS is always verified,
//! a redirect is an answer like any other, and one idle connection per origin is kept. Callable from any runtime with net and time.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;

use crate::address::{self, AddressError, Reach, Resolver};
use crate::tls::{Alpn, ClientConfigs, HandshakeError, Trust, Wire};

/// Why a call of our own brought no answer. Names the origin only: a path or a query may hold what must not be seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutcallError {
    /// Not an absolute `http://` or `https://` URI without user information.
    #[error("the address of a call must be an absolute http or https URL without user information")]
    Url,
    /// The name gives no address.
    #[error("{origin}: {why}")]
    Address {
        /// Where to.
        origin: Arc<str>,
        /// The resolver's words.
        why: AddressError,
    },
    /// No connection, or it broke off.
    #[error("{origin} cannot be reached: {why}; check that it runs and that the network lets exeat through")]
    Unreachable {
        /// Where to.
        origin: Arc<str>,
        /// The system's words.
        why: String,
    },
    /// The server did not prove its name.
    #[error("{origin} did not prove who it is: {why}; check its certificate and the configured roots")]
    Untrusted {
        /// Where to.
        origin: Arc<str>,
        /// The verifier's words.
        why: String,
    },
    /// The deadline passed.
    #[error("{origin} did not answer within {after:?}")]
    Slow {
        /// Where to.
        origin: Arc<str>,
        /// The deadline.
        after: Duration,
    },
    /// The answer is larger than allowed.
    #[error("the answer of {origin} is larger than {most} bytes")]
    TooLarge {
        /// Where to.
        origin: Arc<str>,
        /// The limit.
        most: usize,
    },
}

/// How a call is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Who vouches for the server.
    pub trust: Trust,
    /// For everything, from resolving to the answer's last byte.
    pub deadline: Duration,
    /// The call may be sent twice: done once when a kept connection ends without an answer.
    pub repeatable: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { trust: Trust::System, deadline: Duration::from_secs(5), repeatable: false }
    }
}

type Sender = http1::SendRequest<Full<Bytes>>;

const MOST_ORIGINS: usize = 64;
const HEAD: usize = 64 << 10;

/// The caller of all calls of our own.
pub struct Outcall {
    resolver: Arc<Resolver>,
    tls: Arc<ClientConfigs>,
    most: usize,
    idle: Mutex<FxHashMap<(Arc<str>, Trust), Sender>>,
}

struct Target {
    origin: Arc<str>,
    tls: bool,
    host: Box<str>,
    port: u16,
}

enum Attempt {
    /// Nothing was sent, or the kept connection ended without an answer.
    Stale,
    Failed(OutcallError),
}

impl Outcall {
    /// With the process's resolver and configurations; no answer is larger than `most` bytes.
    #[must_use]
    pub fn new(resolver: Arc<Resolver>, tls: Arc<ClientConfigs>, most: usize) -> Self {
        Self { resolver, tls, most, idle: Mutex::default() }
    }

    /// Makes one call. `Host` is set from the URI.
    ///
    /// # Errors
    /// See [`OutcallError`]. Any status is an answer.
    pub async fn call(&self, request: Request<Bytes>, terms: &Terms) -> Result<Response<Bytes>, OutcallError> {
        let target = Target::of(request.uri())?;
        let origin = Arc::clone(&target.origin);
        let request = shape(request, &target)?;
        let called = tokio::time::timeout(terms.deadline, Box::pin(self.attempt(&target, &request, terms))).await;
        called.unwrap_or_else(|_| Err(OutcallError::Slow { origin, after: terms.deadline }))
    }

    async fn attempt(&self, target: &Target, request: &Request<Bytes>, terms: &Terms) -> Result<Response<Bytes>, OutcallError> {
        let key = (Arc::clone(&target.origin), terms.trust.clone());
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let mut answer = match kept.filter(Sender::is_ready) {
            Some(sender) => self.exchange(sender, target, request, terms, true).await,
            None => Err(Attempt::Stale),
        };
        if matches!(answer, Err(Attempt::Stale)) {
            let sender = self.connect(target, terms).await?;
            answer = self.exchange(sender, target, request, terms, false).await;
        }
        match answer {
            Ok((sender, answer)) => {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() >= MOST_ORIGINS {
                    idle.retain(|_, sender| !sender.is_closed());
                }
                if idle.len() < MOST_ORIGINS && !sender.is_closed() {
                    idle.insert(key, sender);
                }
                Ok(answer)
            }
            Err(Attempt::Failed(error)) => Err(error),
            Err(Attempt::Stale) => Err(target.unreachable("the connection closed at once")),
        }
    }

    async fn connect(&self, target: &Target, terms: &Terms) -> Result<Sender, OutcallError> {
        let resolving = self.resolver.resolve(&target.host, target.port, Reach::Operator, terms.deadline);
        let pinned = resolving.await.map_err(|why| OutcallError::Address { origin: Arc::clone(&target.origin), why })?;
        let (tcp, _) = address::connect(&pinned).await.map_err(|(_, error)| target.unreachable(error))?;
        let wire = if target.tls {
            let untrusted = |why: String| OutcallError::Untrusted { origin: Arc::clone(&target.origin), why };
            let config = self.tls.config(&terms.trust, Alpn::H1).map_err(|error| untrusted(error.to_string()))?;
            Wire::secure(tcp, config, &target.host).await.map_err(|error| match error {
                HandshakeError::Untrusted(why) => untrusted(why),
                HandshakeError::Protocol | HandshakeError::Broken(_) => target.unreachable(error),
            })?
        } else {
            Wire::Plain(tcp)
        };
        let mut options = http1::Builder::new();
        options.max_header_size(HEAD);
        let (sender, connection) = options.handshake(TokioIo::new(wire)).await.map_err(|error| target.unreachable(error))?;
        // How it ended is told to the call that was on it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn exchange(
        &self,
        mut sender: Sender,
        target: &Target,
        request: &Request<Bytes>,
        terms: &Terms,
        kept: bool,
    ) -> Result<(Sender, Response<Bytes>), Attempt> {
        let mut copy = Request::new(Full::new(request.body().clone()));
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        copy.headers_mut().clone_from(request.headers());
        let response = match sender.try_send_request(copy).await {
            Ok(response) => response,
            Err(mut error) => {
                let stale = error.take_message().is_some() || (kept && terms.repeatable);
                return Err(if kept && stale { Attempt::Stale } else { Attempt::Failed(target.unreachable(error.into_error())) });
            }
        };
        let (parts, body) = response.into_parts();
        match Limited::new(body, self.most).collect().await {
            Ok(whole) => Ok((sender, Response::from_parts(parts, whole.to_bytes()))),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(Attempt::Failed(OutcallError::TooLarge { origin: Arc::clone(&target.origin), most: self.most }))
            }
            Err(error) => Err(Attempt::Failed(target.unreachable(error))),
        }
    }
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, OutcallError> {
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(OutcallError::Url),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(OutcallError::Url)?;
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(OutcallError::Url);
        }
        let scheme = if tls { "https" } else { "http" };
        Ok(Self {
            origin: format!("{scheme}://{authority}").into(),
            tls,
            host: host.into(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        })
    }

    fn unreachable(&self, why: impl Into<Box<dyn Error + Send + Sync>>) -> OutcallError {
        let why = why.into();
        let mut text = why.to_string();
        let mut cause = why.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        OutcallError::Unreachable { origin: Arc::clone(&self.origin), why: text }
    }
}

/// Origin form and `Host` (RFC 9112 section 3.2.1).
fn shape(mut request: Request<Bytes>, target: &Target) -> Result<Request<Bytes>, OutcallError> {
    let authority = target.origin.split_once("://").map_or("", |(_, authority)| authority);
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority).map_err(|_| OutcallError::Url)?);
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::StatusCode;
    use hyper::server::conn::http1 as server;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;
    use crate::address::OwnListeners;
    use crate::clock::SystemClock;

    fn outcall() -> Outcall {
        bounded(1 << 20)
    }

    fn bounded(most: usize) -> Outcall {
        let resolver = Resolver::system(OwnListeners::default(), Arc::new(SystemClock), Duration::from_secs(5));
        Outcall::new(Arc::new(resolver), Arc::new(ClientConfigs::new()), most)
    }

    /// A server that answers `size` bytes with the path and host it saw, `requests` times per connection; counts its connections.
    async fn server(size: usize, requests: usize) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let left = AtomicUsize::new(requests);
                tokio::spawn(async move {
                    let service = service_fn(|request: Request<hyper::body::Incoming>| {
                        let mut response = Response::new(Full::new(Bytes::from(vec![b'x'; size])));
                        let host = request.headers().get(HOST).unwrap().clone();
                        response.headers_mut().insert("x-host", host);
                        response.headers_mut().insert("x-path", request.uri().to_string().parse().unwrap());
                        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                            response.headers_mut().insert("connection", HeaderValue::from_static("close"));
                        }
                        async move { Ok::<_, std::convert::Infallible>(response) }
                    });
                    server::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        (base, connections)
    }

    fn post(url: &str) -> Request<Bytes> {
        Request::post(url).body(Bytes::from_static(b"{}")).unwrap()
    }

    #[tokio::test]
    async fn one_connection_serves_many_calls_and_a_closed_one_is_replaced() {
        let (base, connections) = server(10, 3).await;
        let outcall = outcall();
        for _ in 0..3 {
            let answer = outcall.call(post(&format!("{base}/v1/traces?a=b")), &Terms::default()).await.unwrap();
            assert_eq!((answer.status(), answer.body().len()), (StatusCode::OK, 10));
            assert_eq!(answer.headers().get("x-path").unwrap(), "/v1/traces?a=b");
            assert_eq!(format!("http://{}", answer.headers().get("x-host").unwrap().to_str().unwrap()), base);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        outcall.call(post(&base), &Terms::default()).await.unwrap();
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn answers_have_a_size_and_calls_an_end() {
        let (base, _) = server(2000, 1).await;
        let error = bounded(1999).call(post(&base), &Terms::default()).await.unwrap_err();
        assert_eq!(error, OutcallError::TooLarge { origin: base.as_str().into(), most: 1999 });
        assert_eq!(bounded(2000).call(post(&base), &Terms::default()).await.unwrap().body().len(), 2000);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/?secret=1", silent.local_addr().unwrap());
        let error = outcall().call(post(&url), &Terms { deadline: Duration::from_millis(30), ..Terms::default() }).await.unwrap_err();
        assert!(matches!(error, OutcallError::Slow { .. }) && !error.to_string().contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_be_called_is_told() {
        for url in ["/relative", "ftp://a.example/", "http://user:pass@a.example/"] {
            assert_eq!(outcall().call(post(url), &Terms::default()).await.unwrap_err(), OutcallError::Url, "{url}");
        }
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = outcall().call(post(&format!("http://{closed}/")), &Terms::default()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "http://{closed} cannot be reached: Connection refused (os error 111); check that it runs and that the network lets exeat through"
            )
        );
    }
}
