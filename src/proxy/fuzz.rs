//! The bytes of a caller: what the engine reads is what a plain, strict reader reads, however the bytes come.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;

use super::connection::{First, tell};
use super::limits::Limits;
use super::scan::Scan;
use super::worker::http1;
use crate::action::Action;
use crate::capture::{Arrival, Destination, HeadLimits, Host, Mode, Peer, Scheme, Target, check, parse_authority, target};
use crate::fuzz::Input;
use crate::secret::FingerprintKey;
use crate::strip::{Rules, examine};

/// The bytes of an HTTP/1 connection, in pieces of a size that the first byte says.
pub fn head(data: &[u8]) {
    let mut input = Input(data);
    let piece = usize::from(input.byte()).max(1);
    let bytes = input.0;
    let scan = Rc::new(RefCell::new(Scan::new()));
    let connection = Caller { left: bytes, piece, scan: Rc::clone(&scan) };
    let plain = read_plainly(bytes);
    let served = Cell::new(0);
    let service = service_fn(async |request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let at = served.get();
        served.set(at + 1);
        let sound = scan.borrow().fault().is_none() && usize::try_from(scan.borrow().heads()).unwrap() > at;
        if sound && check(&parts, HeadLimits::default()).is_ok() {
            let expected = plain.get(at).unwrap_or_else(|| panic!("head {at} is none to a plain reader: {parts:?}"));
            assert_eq!(expected.agrees(&parts), Ok(()), "{parts:?}");
            judged(&parts);
        }
        // The next head begins where this body ends.
        let _whole = body.collect().await;
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut serving = pin!(http1(&Limits::default()).serve_connection(connection, service));
    let mut context = Context::from_waker(Waker::noop());
    // The caller is always ready, so each turn moves on.
    assert!((0..100_000).any(|_| serving.as_mut().poll(&mut context).is_ready()), "the connection never ends");
}

/// The same bytes in other pieces: the same verdict, from the scan and from whoever tells the protocol.
pub fn wire(data: &[u8]) {
    let mut input = Input(data);
    let piece = usize::from(input.byte()).max(1);
    let bytes = input.0;
    let run = |piece: usize| {
        let mut scan = Scan::new();
        let (mut fault, mut heads) = (None, 0);
        for piece in bytes.chunks(piece) {
            scan.follow(piece);
            assert!(fault.is_none() || scan.fault() == fault, "a fault is for good");
            assert!(scan.heads() >= heads && !(scan.in_head() && scan.between()));
            (fault, heads) = (scan.fault(), scan.heads());
        }
        // Of two faults in one line, which is seen first is no matter.
        (fault.is_some(), heads, fault.is_none() && scan.in_head(), fault.is_none() && scan.between())
    };
    let whole = run(bytes.len().max(1));
    assert_eq!(run(piece), whole, "in pieces of {piece}");
    assert_eq!(run(1), whole, "byte by byte");
    let first = tell(bytes);
    for end in 0..bytes.len().min(32) {
        assert!(tell(&bytes[..end]).is_none_or(|earlier| Some(earlier) == first), "{end} bytes tell another protocol");
    }
    hello(bytes, first);
}

/// A name in a `ClientHello` is one that exeat reads as that name or not at all.
fn hello(bytes: &[u8], first: Option<First>) {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut left = bytes;
    while !left.is_empty() && acceptor.read_tls(&mut left).is_ok_and(|count| count > 0) {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                assert_eq!(first, Some(First::Tls), "a handshake that is told as something else");
                if let Some(name) = accepted.client_hello().server_name()
                    && let Ok(host) = Host::parse(name)
                {
                    assert!(name.trim_end_matches('.').eq_ignore_ascii_case(host.as_str()), "{name} is read as {host}");
                }
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// A caller that gives its bytes in pieces and forgets all answers.
struct Caller<'a> {
    left: &'a [u8],
    piece: usize,
    scan: Rc<RefCell<Scan>>,
}

impl Read for Caller<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.left.split_at(self.piece.min(self.left.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.left = later;
        self.scan.borrow_mut().follow(now);
        Poll::Ready(Ok(()))
    }
}

impl Write for Caller<'_> {
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

/// A head as a plain reader splits it.
struct Plain {
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
}

impl Plain {
    fn agrees(&self, parts: &Parts) -> Result<(), String> {
        if self.method != parts.method.as_str() {
            return Err(format!("method {}", self.method));
        }
        let read = if self.target.starts_with('/') || self.target == "*" {
            parts.uri.path_and_query().map(ToString::to_string)
        } else {
            // The engine writes out an empty path; nothing else may differ.
            let whole = parts.uri.to_string();
            Some(if self.target.parse::<Uri>().is_ok_and(|uri| uri == parts.uri) { self.target.clone() } else { whole })
        };
        if read.as_deref() != Some(&self.target) {
            return Err(format!("target {:?}, read as {read:?}", self.target));
        }
        if self.fields.len() != parts.headers.len() {
            return Err(format!("{} fields", self.fields.len()));
        }
        for name in parts.headers.keys() {
            let ours: Vec<_> = parts.headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
            let theirs: Vec<_> = self.fields.iter().filter(|(field, _)| field == name.as_str()).map(|(_, value)| &value[..]).collect();
            if ours != theirs {
                return Err(format!("{name}: {theirs:?}"));
            }
        }
        Ok(())
    }
}

/// All heads of a connection by the letter of RFC 9112, up to the first doubt.
fn read_plainly(mut bytes: &[u8]) -> Vec<Plain> {
    let mut heads = Vec::new();
    while let Some((head, rest)) = one_plainly(bytes) {
        let value = |name: &str| head.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
        let length = value("content-length").and_then(|value| String::from_utf8(value).ok()?.parse::<usize>().ok());
        let chunked = value("transfer-encoding").is_some();
        let connect = head.method == "CONNECT";
        heads.push(head);
        let after = if chunked { behind_chunks(rest) } else { rest.get(length.unwrap_or(0)..) };
        match after {
            Some(after) if !connect || chunked || length.is_some() => bytes = after,
            Some(_) | None => break,
        }
    }
    heads
}

fn one_plainly(bytes: &[u8]) -> Option<(Plain, &[u8])> {
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let bytes = &bytes[begin..];
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = String::from_utf8(lines.next()?.to_vec()).ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8(line[..colon].to_ascii_lowercase()).ok()?;
        let value = &line[colon + 1..];
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let from = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
        let to = value.iter().rposition(|byte| !blank(byte)).map_or(from, |last| last + 1);
        Some((name, value[from..to].to_vec()))
    };
    let fields: Option<Vec<_>> = lines.map(field).collect();
    Some((Plain { method, target, fields: fields? }, &bytes[end + 4..]))
}

fn behind_chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    let line = |bytes: &[u8]| bytes.windows(2).position(|window| window == b"\r\n");
    loop {
        let end = line(bytes)?;
        let text = std::str::from_utf8(&bytes[..end]).ok()?;
        let size = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
        bytes = &bytes[end + 2..];
        if size > 0 {
            bytes = bytes.get(size.checked_add(2)?..)?;
            continue;
        }
        loop {
            let end = line(bytes)?;
            bytes = &bytes[end + 2..];
            if end == 0 {
                return Some(bytes);
            }
        }
    }
}

/// A head that passed the check, on its way to policy: one destination whatever listener it came through, and nothing that strip finds
/// twice.
pub(super) fn judged(parts: &Parts) {
    for arrival in arrivals() {
        let Ok(Target::Named { host, port, .. }) = target(&arrival, parts) else { continue };
        assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host));
        assert_ne!(port, Some(0));
        if let Some(tunnel) = &arrival.tunnel {
            assert_eq!((&host, port), (&tunnel.host, Some(tunnel.port)), "out of the tunnel");
        }
        // Whoever reads Host alone goes to the same server.
        if let Some(named) = parts.headers.get("host")
            && let Ok((named, _)) = parse_authority(named.to_str().expect("checked"))
        {
            assert_eq!(named, host);
        }
    }
    if let Ok(action) = Action::read(parts) {
        assert!(parts.method == Method::CONNECT || action.path.as_written() == parts.uri.path());
    }
    let (rules, key) = (Rules::default(), FingerprintKey::new(&[7; 32]));
    let stripped = examine(parts, &rules, &key);
    let mut after = parts.clone();
    stripped.edits().clone().apply(&mut after.headers);
    after.uri = Uri::from(
        stripped
            .edits()
            .target()
            .cloned()
            .unwrap_or_else(|| parts.uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"))),
    );
    // A path that was a fragment alone is `/` to who reads it, and nothing to who writes it.
    let path = Some(after.uri.path()).filter(|path| !path.is_empty()).unwrap_or("/");
    assert_eq!(path, if parts.method == Method::CONNECT { "/" } else { parts.uri.path() });
    for name in ["authorization", "proxy-authorization", "x-api-key", "exeat-lease"] {
        assert!(!after.headers.contains_key(name), "{name}");
    }
    // A jar without a crumb holds nothing.
    let empty = |value: &http::HeaderValue| value.as_bytes().iter().all(|byte| matches!(byte, b';' | b' ' | b'\t'));
    assert!(after.headers.get_all("cookie").iter().all(empty), "a cookie left");
    // A word that marks the next subprotocol as a token marks another one once that is gone.
    let again = examine(&after, &rules, &key);
    let left = again.findings().iter().find(|finding| &*finding.place != "subprotocol");
    assert!(left.is_none(), "still there: {left:?}");
}

fn arrivals() -> impl Iterator<Item = Arrival> {
    let tunnel = |scheme| Some(Destination { scheme, host: Host::parse("api.example").expect("a name"), port: 443 });
    let ways = [(Mode::Forward, None), (Mode::Host, None), (Mode::Forward, tunnel(Scheme::Https)), (Mode::Forward, tunnel(Scheme::Http))];
    ways.into_iter().map(|(mode, tunnel)| Arrival {
        listener: "fuzz".into(),
        mode,
        route: None,
        peer: Peer::Unix { uid: 1, gid: 1, pid: None },
        process: None,
        certificates: None,
        proof: None,
        tunnel,
        sni: None,
    })
}
