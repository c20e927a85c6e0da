//! What the status server answers, and the form of every answer.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use serde_json::Value;

use super::health::Health;

/// An answer: status, content type, body.
pub type Answer = Response<Full<Bytes>>;

type Text = Arc<dyn Fn() -> String + Send + Sync>;
type Document = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// The status server: read-only, names nobody.
#[derive(Clone)]
pub struct Status {
    /// Named checks.
    pub health: Arc<Health>,
    /// The Prometheus exposition.
    pub metrics: Text,
    /// The JWK Set (RFC 7517).
    pub jwks: Document,
    /// The discovery document (`OpenID` Connect Discovery 1.0 section 3), when one issuer is served.
    pub discovery: Document,
}

impl Status {
    pub(super) fn answer(&self, method: &Method, uri: &Uri) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "read-only\n".into());
        }
        match uri.path() {
            "/livez" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" | "/healthz" | "/startupz" => {
                let status = if self.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, self.health.text(uri.query().is_some_and(|query| query.split('&').any(|key| key == "verbose"))))
            }
            "/metrics" => typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", (self.metrics)().into()),
            "/jwks" | "/.well-known/jwks.json" => keys((self.jwks)()),
            "/.well-known/openid-configuration" => keys((self.discovery)()),
            _ => text(StatusCode::NOT_FOUND, "livez, readyz, metrics, jwks\n".into()),
        }
    }
}

pub(super) fn text(status: StatusCode, body: String) -> Answer {
    typed(status, "text/plain; charset=utf-8", body.into())
}

pub(super) fn json(status: StatusCode, body: &Value) -> Answer {
    typed(status, "application/json", format!("{body:#}\n").into())
}

/// Keys and discovery may be kept by verifiers for five minutes: the key ring publishes a new key at least twice as long before its first use.
fn keys(body: Vec<u8>) -> Answer {
    let mut answer = typed(if body.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK }, "application/json", body.into());
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=300"));
    answer
}

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(ready: bool) -> Status {
        let health = Arc::new(Health::default());
        health.set("policy", if ready { Ok(()) } else { Err("no policy".into()) });
        Status { health, metrics: Arc::new(|| "# EOF\n".into()), jwks: Arc::new(|| b"{}".to_vec()), discovery: Arc::new(Vec::new) }
    }

    #[test]
    fn the_status_server_is_read_only_and_tells_readiness() {
        let code = |ready, method: Method, uri: &str| status(ready).answer(&method, &uri.parse().unwrap()).status().as_u16();
        assert_eq!(code(true, Method::GET, "/readyz"), 200);
        assert_eq!(code(false, Method::GET, "/readyz?verbose"), 503);
        assert_eq!(code(false, Method::GET, "/livez"), 200);
        assert_eq!(code(true, Method::HEAD, "/metrics"), 200);
        assert_eq!(code(true, Method::GET, "/jwks"), 200);
        assert_eq!(code(true, Method::GET, "/.well-known/openid-configuration"), 404, "no issuer is served");
        assert_eq!(code(true, Method::POST, "/readyz"), 405);
        assert_eq!(code(true, Method::GET, "/v1/status"), 404, "the admin's answers are not here");
    }
}
