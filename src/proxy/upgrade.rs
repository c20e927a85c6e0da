//! WebSocket (RFC 6455), HTTP/1.1 on both legs. No byte after the request passes before an answer that proves the switch.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderName, Method, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::body::Answer;
use super::passage::Guard;
use super::respond;
use super::service::taken_over;
use super::tunnel::{carry, raw};
use crate::credentials::Credential;
use crate::dial::ResponseBody;
use crate::refusal::{Code, Refusal};

/// RFC 6455 section 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Checks the opening handshake (section 4.2.1).
///
/// # Errors
/// `malformed`.
pub(super) fn check_request(head: &Parts) -> Result<(), Refusal> {
    let key_is_nonce = only(&head.headers, &SEC_WEBSOCKET_KEY).and_then(|key| STANDARD.decode(key).ok()).is_some_and(|key| key.len() == 16);
    let plain = head.method == Method::GET
        && key_is_nonce
        && only(&head.headers, &SEC_WEBSOCKET_VERSION) == Some(b"13")
        && !head.headers.contains_key(CONTENT_LENGTH);
    if plain { Ok(()) } else { Err(Refusal::new(Code::Malformed, "the WebSocket handshake breaks RFC 6455 section 4.2.1")) }
}

/// Checks a 101 (section 4.1): without the proof, what follows could be anything.
///
/// # Errors
/// `upstream_unreachable`: the upstream does not speak WebSocket as asked.
pub(super) fn check_response(head: &Parts, answer: &HeaderMap) -> Result<(), Refusal> {
    let expected = only(&head.headers, &SEC_WEBSOCKET_KEY).map(accept);
    let upgraded = only(answer, &UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    let nominated = answer
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.as_bytes().split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade")));
    let proven = expected.is_some_and(|expected| only(answer, &SEC_WEBSOCKET_ACCEPT) == Some(expected.as_bytes()));
    if upgraded && nominated && proven {
        Ok(())
    } else {
        Err(Refusal::new(Code::UpstreamUnreachable, "the upstream's 101 does not prove a WebSocket (RFC 6455 section 4.1)"))
    }
}

fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(MAGIC);
    STANDARD.encode(context.finish())
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

/// Passes the 101 on and carries the frames.
pub(super) fn switch(
    guard: Guard,
    mut response: Response<ResponseBody>,
    credential: Option<&Credential>,
    takeover: Option<OnUpgrade>,
) -> Response<Answer> {
    let upstream = hyper::upgrade::on(&mut response);
    let (mut parts, _no_body) = response.into_parts();
    if respond::clean(&mut parts.headers, credential, true, &[]) {
        guard.note(|access| access.reflected = true);
    }
    guard.answered(parts.status);
    guard.open();
    tokio::task::spawn_local(async move {
        let Ok(upstream) = upstream.await else {
            guard.broke("the upstream left after its 101");
            return;
        };
        if let Some(caller) = taken_over(takeover).await.and_then(raw) {
            carry(&guard, caller, TokioIo::new(upstream)).await;
        }
    });
    parts.version = http::Version::HTTP_11;
    Response::from_parts(parts, Answer::Own(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn head(fields: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().uri("/chat");
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn proves(fields: &[(&str, &str)]) -> bool {
        let asked = head(&[("sec-websocket-key", KEY), ("sec-websocket-version", "13")]);
        check_request(&asked).unwrap();
        check_response(&asked, &head(fields).headers).is_ok()
    }

    #[test]
    fn only_a_proof_switches() {
        let (connection, upgrade) = (("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"));
        assert!(proves(&[connection, upgrade, ("sec-websocket-accept", ACCEPT)]));
        assert!(!proves(&[connection, upgrade, ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo")]));
        assert!(!proves(&[connection, upgrade, ("sec-websocket-accept", ACCEPT), ("sec-websocket-accept", ACCEPT)]));
        assert!(!proves(&[connection, upgrade]));
        assert!(!proves(&[upgrade, ("sec-websocket-accept", ACCEPT)]));
        assert!(!proves(&[connection, ("upgrade", "h2c"), ("sec-websocket-accept", ACCEPT)]));
    }

    #[test]
    fn a_handshake_is_whole_or_refused() {
        for fields in [
            &[("sec-websocket-key", KEY)][..],
            &[("sec-websocket-version", "13")],
            &[("sec-websocket-key", "c2hvcnQ="), ("sec-websocket-version", "13")],
            &[("sec-websocket-key", KEY), ("sec-websocket-version", "8")],
            &[("sec-websocket-key", KEY), ("sec-websocket-key", KEY), ("sec-websocket-version", "13")],
            &[("sec-websocket-key", KEY), ("sec-websocket-version", "13"), ("content-length", "5")],
        ] {
            assert_eq!(check_request(&head(fields)).unwrap_err().code, Code::Malformed, "{fields:?}");
        }
    }
}
