//! Answers: exeat's own words for a refusal, and what changes on an upstream's head on its way back.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, RETRY_AFTER, UPGRADE,
};
use http::{Method, Response, StatusCode, Version};

use super::body::Answer;
use super::forward;
use crate::clock::Timestamp;
use crate::credentials::Credential;
use crate::inject;
use crate::refusal::{Code, Refusal};

/// The refusal's code; set by exeat alone, removed from every upstream's answer.
const REFUSAL: HeaderName = HeaderName::from_static("exeat-refusal");
/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a listener that takes tokens asks for: the first is what clients with `http://x:TOKEN@exeat` in `HTTP_PROXY` know to answer.
const CHALLENGES: [HeaderValue; 2] =
    [HeaderValue::from_static("Basic realm=\"exeat\", charset=\"UTF-8\""), HeaderValue::from_static("Bearer realm=\"exeat\"")];

/// What the answer to a refusal must know of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Version of the caller's leg.
    pub(super) version: Version,
    /// HEAD gets no body.
    pub(super) head: bool,
    /// gRPC gets trailers alone.
    pub(super) grpc: bool,
    /// The request's body may not be read to its end: an HTTP/1 connection cannot be used again (CVE-2025-4366 of another proxy).
    pub(super) unread: bool,
    /// Shown to the caller and in every record.
    pub(super) id: u128,
    /// When the request came.
    pub(super) time: Timestamp,
}

impl Asked {
    /// From a head.
    pub(super) fn of(parts: &http::request::Parts, unread: bool, id: u128, time: Timestamp) -> Self {
        let grpc = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let unread = unread || parts.method == Method::CONNECT;
        Self {
            version: parts.version,
            head: parts.method == Method::HEAD,
            grpc: grpc && parts.version == Version::HTTP_2,
            unread,
            id,
            time,
        }
    }
}

/// The answer to a refusal: problem+json (RFC 9457), or gRPC trailers alone. The caller learns the code, never policy's internals.
pub(super) fn refusal(refusal: &Refusal, asked: Asked) -> Response<Answer> {
    let code = refusal.code;
    let mut response = Response::new(Answer::Own(None));
    let headers = response.headers_mut();
    headers.insert(REFUSAL, HeaderValue::from_static(code.name()));
    let status = format!("exeat; error={}; details=\"{}\"", code.proxy_status(), code.name());
    if let Ok(status) = HeaderValue::try_from(status) {
        headers.insert(PROXY_STATUS, status);
    }
    if let Ok(date) = HeaderValue::try_from(asked.time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()) {
        headers.insert(DATE, date);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(wait) = refusal.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds(wait)));
    }
    if refusal.challenge {
        for challenge in CHALLENGES {
            headers.append(PROXY_AUTHENTICATE, challenge);
        }
    }
    if asked.unread && asked.version != Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if asked.grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code.grpc())));
        // What gRPC's own retries wait for (proposal A6), in milliseconds.
        if let Some(wait) = refusal.retry_after {
            headers.insert(GRPC_PUSHBACK, HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1)));
        }
        if let Ok(message) = HeaderValue::try_from(format!("exeat: {} ({})", code.text(), code.name())) {
            headers.insert(GRPC_MESSAGE, message);
        }
        return response;
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    *response.status_mut() = status_of(refusal);
    let body = problem(refusal, asked.id);
    if asked.head {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    } else {
        *response.body_mut() = Answer::Own(Some(Bytes::from(body)));
    }
    response
}

/// Whole seconds (RFC 9110 section 10.2.3), rounded up: who comes back then does not come too early.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// The whole answer to bytes that never became a request: what hyper would answer barely, and what a connection beyond the limit gets.
pub(super) fn raw(code: Code, id: u128) -> Vec<u8> {
    let body = problem(&Refusal::new(code, ""), id);
    format!(
        "HTTP/1.1 {status}\r\nexeat-refusal: {name}\r\nproxy-status: exeat; error={error}; details=\"{name}\"\r\ncache-control: no-store\r\n\
content-type: application/problem+json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}",
        status = code.status(),
        name = code.name(),
        error = code.proxy_status(),
        length = body.len(),
    )
    .into_bytes()
}

/// All values are ours: names and sentences without a character that JSON escapes.
/// The next step of a caller that may prove itself.
const PROVE: &str = "send the workload's token in Proxy-Authorization, as HTTP_PROXY=http://x:TOKEN@HOST:PORT does";

/// A refusal that asks for a proof is answered as RFC 9110 section 15.5.8 says.
const fn status_of(refusal: &Refusal) -> StatusCode {
    if refusal.challenge { StatusCode::PROXY_AUTHENTICATION_REQUIRED } else { refusal.code.status() }
}

fn problem(refusal: &Refusal, id: u128) -> String {
    let code = refusal.code;
    let mut text = String::with_capacity(320);
    let _written = write!(
        text,
        r#"{{"type":"urn:exeat:refusal:{name}","title":"{title}","status":{status},"code":"{name}","detail":"{next}","retry":{retry}{after},"request_id":"{id:032x}"}}"#,
        name = code.name(),
        title = code.text(),
        status = status_of(refusal).as_u16(),
        next = if refusal.challenge { PROVE } else { code.next_step() },
        retry = code.retry_helps(),
        after = refusal.retry_after.map_or_else(String::new, |wait| format!(",\"retry_after\":{}", seconds(wait))),
    );
    text.push('\n');
    text
}

/// 200 to a CONNECT.
pub(super) fn connected() -> Response<Answer> {
    Response::new(Answer::Own(None))
}

/// Changes an upstream's head: fields of its connection go, `exeat-*` is ours alone, and the credential that was put on does not come
/// back. Tells whether it did.
pub(super) fn clean(headers: &mut HeaderMap, credential: Option<&Credential>, keep_upgrade: bool, remove: &[HeaderName]) -> bool {
    let (mut hops, mut challenge, mut ours, mut reflected) = (forward::Hops::default(), false, false, false);
    for (name, value) in headers.iter_mut() {
        match name.as_str().as_bytes() {
            b"proxy-authenticate" => challenge = true,
            [b'e', b'x', b'e', b'a', b't', b'-', ..] => ours = true,
            name => {
                hops.note(name);
                reflected |= redact(value, credential);
            }
        }
    }
    let upgrade = keep_upgrade.then(|| headers.get(UPGRADE).cloned()).flatten();
    hops.remove(headers, Version::HTTP_11);
    if challenge {
        headers.remove(PROXY_AUTHENTICATE);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if ours {
        remove_ours(headers);
    }
    for name in remove {
        headers.remove(name);
    }
    reflected
}

fn remove_ours(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("exeat-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// The same for trailers.
pub(super) fn clean_trailers(trailers: &mut HeaderMap, credential: Option<&Credential>) -> bool {
    remove_ours(trailers);
    trailers.iter_mut().fold(false, |reflected, (_, value)| reflected | redact(value, credential))
}

fn redact(value: &mut HeaderValue, credential: Option<&Credential>) -> bool {
    match credential.and_then(|credential| inject::redacted(credential, value)) {
        Some(clean) => {
            *value = clean;
            true
        }
        None => false,
    }
}

/// Whether an upstream's status may be passed on at all: interim answers end in the engine, and a switch of protocols that nobody asked
/// for would make its bytes a stream that no one judged.
pub(super) fn is_final(status: StatusCode) -> bool {
    !status.is_informational()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::catalogue::{Placement, Profile};
    use crate::credentials::GrantId;
    use crate::policy::GrantTerms;
    use crate::secret::{FingerprintKey, Secret};

    fn asked(head: bool, grpc: bool, unread: bool, version: Version) -> Asked {
        Asked { version, head, grpc, unread, id: 0xabc, time: "2026-11-22T10:00:00Z".parse().unwrap() }
    }

    fn text(response: Response<Answer>) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        String::from_utf8(runtime.block_on(response.into_body().collect()).unwrap().to_bytes().to_vec()).unwrap()
    }

    fn credential() -> Credential {
        let profile = Profile {
            name: "key".into(),
            kind: "secret",
            audience: None,
            scopes: None,
            ttl: Duration::from_mins(1),
            placement: Placement::Bearer,
        };
        Credential {
            grant: GrantId("g".into()),
            terms: Arc::new(GrantTerms { profile: Arc::new(profile), scopes: None, ttl: Duration::from_mins(1) }),
            material: Secret::new(b"token-12345".to_vec()),
            rendered: None,
            fingerprint: FingerprintKey::ephemeral().fingerprint(b"token-12345"),
            issued: "2026-11-22T10:00:00Z".parse().unwrap(),
            not_after: None,
        }
    }

    #[test]
    fn every_code_gives_valid_problem_json() {
        for code in Code::ALL {
            let answer = refusal(&Refusal::new(*code, "rule billing/x at billing.yaml:3:1"), asked(false, false, false, Version::HTTP_11));
            assert_eq!(answer.status(), code.status());
            assert_eq!(answer.headers()["exeat-refusal"], code.name());
            assert!(!answer.headers().contains_key(CONNECTION));
            assert_eq!(answer.headers()[DATE], "Sun, 22 Nov 2026 10:00:00 GMT");
            let body = text(answer);
            assert!(!body.contains("billing"), "policy's internals stay inside: {body}");
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["code"], code.name());
            assert_eq!(json["request_id"], format!("{:032x}", 0xabc));
            assert_eq!(json["status"], code.status().as_u16());
        }
    }

    #[test]
    fn forms_of_a_refusal() {
        let no_rule = Refusal::new(Code::NoRule, "").retry_after(Duration::from_millis(10));
        let grpc = refusal(&no_rule, asked(false, true, true, Version::HTTP_2));
        assert_eq!((grpc.status(), grpc.headers()["grpc-status"].as_bytes()), (StatusCode::OK, &b"7"[..]));
        assert!(!grpc.headers().contains_key(CONNECTION) && http_body::Body::is_end_stream(grpc.body()));
        let head = refusal(&no_rule, asked(true, false, true, Version::HTTP_11));
        assert!(http_body::Body::is_end_stream(head.body()));
        assert_eq!((head.headers()[CONNECTION].as_bytes(), head.headers()[RETRY_AFTER].as_bytes()), (&b"close"[..], &b"1"[..]));
        assert_eq!(head.headers()[PROXY_STATUS], "exeat; error=http_request_denied; details=\"no_rule\"");
    }

    #[test]
    fn an_upstreams_head_is_cleaned() {
        let credential = credential();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-hop, content-type"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("exeat-refusal", "denied"),
            ("content-type", "text/plain"),
            ("x-echo", "Bearer token-12345"),
            ("set-cookie", "a=token-12345; Path=/"),
            ("set-cookie", "b=1"),
            ("server", "up"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert!(clean(&mut headers, Some(&credential), false, &[HeaderName::from_static("server")]));
        let mut left: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(
            left,
            ["content-type: text/plain", "set-cookie: a=[exeat:redacted]; Path=/", "set-cookie: b=1", "x-echo: Bearer [exeat:redacted]"]
        );
        let mut plain = HeaderMap::new();
        plain.insert("x-a", HeaderValue::from_static("token-1234"));
        assert!(!clean(&mut plain, Some(&credential), false, &[]) && !clean_trailers(&mut plain, Some(&credential)));
    }
}
