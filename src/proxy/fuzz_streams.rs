//! A caller that speaks HTTP/2: what is judged is what its fields say, each of them once.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::fuzz::judged;
use super::limits::Limits;
use super::worker::http2;
use crate::action::Action;
use crate::capture::{Arrival, HeadLimits, Mode, Peer, Target, check, parse_authority, target};
use crate::fuzz::Input;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Heads, each as lines of `name: value` up to an empty one, pseudo fields as `:path: /`; or, where the first byte is odd, frames as they
/// are. Through the engine as exeat sets it.
pub fn h2_head(data: &[u8]) {
    let mut input = Input(data);
    let raw = input.byte() & 1 == 1;
    let (sent, heads) = if raw { (input.0.to_vec(), Vec::new()) } else { written(input) };
    let served = Cell::new(0_usize);
    let seen = |parts: &Parts| {
        let from = served.get();
        if check(parts, HeadLimits::default()).is_ok() {
            // A stream that is malformed is reset and never seen; those that are come in their order.
            let found = heads.iter().skip(from).position(|head| head.agrees(parts));
            assert!(raw || found.is_some(), "no head says this: {parts:?}");
            served.set(from + found.map_or(0, |at| at + 1));
            judged(parts);
            placed(parts);
        }
    };
    serve([PREFACE, &sent].concat(), &seen);
}

fn serve(sent: Vec<u8>, seen: &dyn Fn(&Parts)) {
    thread_local!(static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().build().unwrap());
    let service = service_fn(|request: Request<Incoming>| {
        seen(&request.into_parts().0);
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    let caller = Caller { sent, at: 0, waits: 4 };
    // How the connection ended is the engine's affair.
    RUNTIME.with(|runtime| drop(LocalSet::new().block_on(runtime, http2(&Limits::default()).serve_connection(caller, service))));
}

/// A caller that says all that it has, waits a little, and is gone.
struct Caller {
    sent: Vec<u8>,
    at: usize,
    waits: u8,
}

impl Read for Caller {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let left = &self.sent[self.at..];
        if left.is_empty() && self.waits > 0 {
            self.waits -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Caller {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The fields of one stream, in their order.
#[derive(Debug, Default)]
struct Head(Vec<(Vec<u8>, Vec<u8>)>);

impl Head {
    /// The value of a pseudo field; `None` where there is none, or an empty one.
    fn of(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..]).filter(|value| !value.is_empty())
    }

    fn agrees(&self, parts: &Parts) -> bool {
        let plain = |name: &[u8]| !name.starts_with(b":");
        // Without an authority the engine has no place for a scheme, and exeat no use for one.
        let scheme = parts
            .uri
            .authority()
            .map_or_else(|| self.of(b":scheme"), |_| parts.uri.scheme_str().map(str::as_bytes).filter(|scheme| !scheme.is_empty()));
        let pseudo = [(&b":method"[..], Some(parts.method.as_str().as_bytes())), (b":scheme", scheme)];
        // A fragment is cut off by the engine: neither judged nor sent on.
        let path = self
            .of(b":path")
            .and_then(|path| path.split(|byte| *byte == b'#').next())
            .map(|path| if path.is_empty() { b"/" } else { path });
        let repeated = self.0.iter().enumerate().any(|(at, (name, _))| !plain(name) && self.0[..at].iter().any(|(other, _)| other == name));
        !repeated
            && pseudo.iter().all(|(name, read)| self.of(name) == *read)
            && self.of(b":authority") == parts.uri.authority().map(|authority| authority.as_str().as_bytes())
            && path == parts.uri.path_and_query().map(|target| target.as_str().as_bytes())
            && self.0.iter().filter(|(name, _)| plain(name)).count() == parts.headers.len()
            && parts.headers.keys().all(|name| {
                let said = self.0.iter().filter(|(known, _)| known == name.as_str().as_bytes()).map(|(_, value)| &value[..]);
                said.eq(parts.headers.get_all(name).iter().map(HeaderValue::as_bytes))
            })
    }
}

fn written(mut input: Input<'_>) -> (Vec<u8>, Vec<Head>) {
    let (mut heads, mut bytes) = (vec![Head::default()], Vec::new());
    while !input.is_empty() && heads.len() < 8 {
        let line = input.line();
        if line.is_empty() {
            heads.push(Head::default());
        } else if let Some(colon) = line.windows(2).position(|pair| pair == b": ") {
            heads.last_mut().unwrap().0.push((line[..colon].to_vec(), line[colon + 2..].to_vec()));
        }
    }
    for (head, stream) in heads.iter().zip((1_u32..).step_by(2)) {
        let block: Vec<u8> = head.0.iter().flat_map(|(name, value)| [&[0][..], &text(name), &text(value)].concat()).collect();
        // A block in one frame: longer ones have their continuations from who writes frames.
        let length = u32::try_from(block.len()).unwrap().to_be_bytes();
        bytes.extend([length[1], length[2], length[3], 1, 5]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(block);
    }
    (bytes, heads)
}

/// A string literal of HPACK (RFC 7541 section 5.2).
fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(mut left) = bytes.len().checked_sub(127) {
        out.push(127);
        while left >= 128 {
            out.push(u8::try_from(left % 128 + 128).unwrap());
            left /= 128;
        }
        out.push(u8::try_from(left).unwrap());
    } else {
        out.push(u8::try_from(bytes.len()).unwrap());
    }
    out.extend_from_slice(bytes);
    out
}

/// Whatever passed the check is for the server that its authority names, else its Host, and never for one that the two disagree on.
fn placed(parts: &Parts) {
    assert!(parts.version == Version::HTTP_2 && parts.method != Method::CONNECT && parts.method != Method::TRACE);
    let arrival = Arrival {
        listener: "fuzz".into(),
        mode: Mode::Host,
        route: None,
        peer: Peer::Unix { uid: 1, gid: 1, pid: None },
        process: None,
        certificates: None,
        proof: None,
        tunnel: None,
        sni: None,
    };
    let Ok(Target::Named { host, port, .. }) = target(&arrival, parts) else { return };
    let names = parts.uri.authority().map(http::uri::Authority::as_str).into_iter();
    for name in names.chain(parts.headers.get_all("host").iter().map(|host| host.to_str().unwrap())) {
        let (other, its) = parse_authority(name).expect("who was let through has a name that can be read");
        assert_eq!(other, host, "{name}");
        assert!(its == port || its.is_none_or(|port| matches!(port, 80 | 443)), "{name} and {port:?}");
    }
    if let Ok(action) = Action::read(parts) {
        assert_eq!(action.path.as_written(), parts.uri.path());
    }
}
