//! `Stream`: one caller's byte stream, whatever carries it: TCP, a unix socket, or TLS inside either.
//!
//! Enters: bytes. Leaves: the same bytes, after the [`Scan`] has seen those of an HTTP/1 connection. Bytes that were read to find the
//! protocol are given again first.
//!
//! Two things that hyper does at the end of a bad HTTP/1 connection are done better here. Its bare answer to bytes that it cannot parse
//! is replaced by a refusal in full form; and a caller that is still sending is read from for a moment, since closing on it would take
//! the answer away (RFC 9112 section 9.6).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::respond;
use super::scan::Scan;
use crate::dial::poll_write_together;
use crate::refusal::Code;

/// How long a caller that is still sending is read from after the last answer, and how much.
const LINGER: Duration = Duration::from_secs(2);
const FORGOTTEN: usize = 64 * 1024 * 1024;

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.transport {
            Transport::Tcp($stream) => $call,
            Transport::Unix($stream) => $call,
            Transport::Tls($stream) => $call,
            Transport::Inner($stream) => $call,
        }
    };
}

/// What carries the bytes.
pub(super) enum Transport {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS that we ended: of a listener, or inside a CONNECT tunnel.
    Tls(Box<TlsStream<Stream>>),
    /// Plaintext inside a CONNECT tunnel.
    Inner(Box<Stream>),
}

/// What the bytes have shown, shared between the stream (inside hyper) and the connection. The workers are single-threaded, but hyper
/// gives an upgraded stream back only if it could be sent; relaxed atomics cost what plain cells do.
#[derive(Debug, Default)]
pub(super) struct Wire {
    heads: AtomicU32,
    in_head: AtomicBool,
    between: AtomicBool,
    fault: std::sync::OnceLock<&'static str>,
    /// Whose word the next bytes written are.
    turn: AtomicU8,
    /// hyper could not parse the caller's bytes.
    unparsed: AtomicBool,
    /// Stands for what was refused on this connection before it was a request.
    id: u128,
}

/// No request is being served and all that was answered is out: what hyper writes now is its own.
const IDLE: u8 = 0;
/// A request is being served.
const SERVING: u8 = 1;
/// The last passage has ended; the end of its answer may still lie in hyper's buffer.
const FLUSHING: u8 = 2;
/// The write side is being closed: nothing more is answered.
const ENDING: u8 = 3;

impl Wire {
    fn new(id: u128) -> Self {
        Self { id, ..Self::default() }
    }

    /// Stands for what was refused on this connection before it was a request.
    pub(super) const fn id(&self) -> u128 {
        self.id
    }

    /// A request is being served.
    pub(super) fn serving(&self) {
        self.turn.store(SERVING, Relaxed);
    }

    /// No passage is left; what was answered goes out with hyper's next flush.
    pub(super) fn served(&self) {
        self.turn.store(FLUSHING, Relaxed);
    }

    /// hyper flushed everything that it had.
    fn flushed(&self) {
        if self.turn.load(Relaxed) == FLUSHING {
            self.turn.store(IDLE, Relaxed);
        }
    }

    fn is_idle(&self) -> bool {
        self.turn.load(Relaxed) == IDLE
    }

    /// Nothing is being received or answered, and everything that came was a request that was served: hyper holds not a byte.
    pub(super) fn at_rest(&self, served: u32) -> bool {
        self.is_idle() && self.heads() == served && !self.may_be_unread()
    }

    /// The caller may still be sending: its request was not read to its end, or its bytes were no request.
    fn may_be_unread(&self) -> bool {
        self.unparsed.load(Relaxed) || !self.between() || self.fault().is_some()
    }

    /// Complete HTTP/1 heads so far.
    pub(super) fn heads(&self) -> u32 {
        self.heads.load(Relaxed)
    }

    /// A head has begun and has not ended.
    pub(super) fn in_head(&self) -> bool {
        self.in_head.load(Relaxed)
    }

    /// No request is being received.
    pub(super) fn between(&self) -> bool {
        self.between.load(Relaxed)
    }

    /// What was wrong with the bytes.
    pub(super) fn fault(&self) -> Option<&'static str> {
        self.fault.get().copied()
    }

    fn update(&self, scan: &Scan) {
        self.heads.store(scan.heads(), Relaxed);
        self.in_head.store(scan.in_head(), Relaxed);
        self.between.store(scan.between(), Relaxed);
        if let Some(fault) = scan.fault() {
            // Only the first fault counts; a later one cannot be told apart from its consequences.
            let _first = self.fault.set(fault);
        }
    }
}

/// A transport, the bytes that are to be read again, and the scan.
pub(super) struct Stream {
    transport: Transport,
    again: Bytes,
    scan: Option<Box<Scan>>,
    wire: Arc<Wire>,
    ending: Option<Box<Ending>>,
}

/// What only a connection that ends badly has.
#[derive(Default)]
struct Ending {
    /// The refusal that stands for hyper's answer, and how much of it is written.
    refusal: Vec<u8>,
    written: usize,
    /// The write side is closed; until then, what the caller still sends is read and forgotten.
    lingering: Option<Pin<Box<Sleep>>>,
    forgotten: usize,
}

impl Stream {
    /// Nothing read yet, nothing scanned.
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, again: Bytes::new(), scan: None, wire: Arc::default(), ending: None }
    }

    /// Gives `bytes` again before anything else, in front of what was already to be given again.
    pub(super) fn give_again(&mut self, bytes: Bytes) {
        self.again = if self.again.is_empty() { bytes } else { [bytes, std::mem::take(&mut self.again)].concat().into() };
    }

    /// From here on the bytes are HTTP/1 and are scanned. `id` stands for what is refused before it is a request.
    pub(super) fn scan(&mut self, id: u128) -> Arc<Wire> {
        self.scan = Some(Box::new(Scan::new()));
        self.wire = Arc::new(Wire::new(id));
        self.wire.between.store(true, Relaxed);
        Arc::clone(&self.wire)
    }

    /// From here on the bytes are not HTTP/1.
    pub(super) fn stop_scan(&mut self) {
        self.scan = None;
    }

    /// What the bytes show.
    pub(super) const fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Reads what comes next, to be given again: the scan does not see it yet.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_transport(cx, buf)
    }

    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.again.is_empty() {
            let taken = self.again.len().min(buf.remaining());
            buf.put_slice(&self.again.split_to(taken));
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Inner(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(this.poll_transport(cx, buf))?;
        if let Some(scan) = &mut this.scan {
            scan.follow(buf.filled().get(before..).unwrap_or_default());
            this.wire.update(scan);
        }
        Poll::Ready(Ok(()))
    }
}

/// hyper's answer to bytes that it cannot parse, whole.
fn own_answer(bytes: &[u8]) -> Option<Code> {
    match bytes.strip_suffix(b"connection: close\r\ncontent-length: 0\r\n\r\n")? {
        b"HTTP/1.1 400 Bad Request\r\n" => Some(Code::Malformed),
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n" | b"HTTP/1.1 414 URI Too Long\r\n" => Some(Code::HeadTooLarge),
        _ => None,
    }
}

impl Stream {
    /// Whether these bytes are hyper's own answer, for which a refusal is written instead. While a request is served, or its answer is
    /// not yet out, no bytes are: neither an upstream's 400 nor a body that looks like hyper's answer is ever taken for one.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if self.ending.as_ref().is_some_and(|ending| !ending.refusal.is_empty()) {
            return true;
        }
        if self.scan.is_none() || !self.wire.is_idle() || !bytes.starts_with(b"HTTP/1.1 4") {
            return false;
        }
        let Some(code) = own_answer(bytes) else { return false };
        self.wire.unparsed.store(true, Relaxed);
        let refusal = respond::raw(code, self.wire.id);
        self.ending.get_or_insert_default().refusal = refusal;
        true
    }

    /// Writes the refusal; `taken` is told to hyper once all of it is out.
    fn poll_refusal(&mut self, cx: &mut Context<'_>, taken: usize) -> Poll<io::Result<usize>> {
        let Some(mut ending) = self.ending.take() else { return Poll::Ready(Ok(taken)) };
        let polled = loop {
            let rest = ending.refusal.get(ending.written..).unwrap_or_default();
            if rest.is_empty() {
                ending.refusal.clear();
                break Poll::Ready(Ok(taken));
            }
            match each!(self, stream => Pin::new(stream).poll_write(cx, rest)) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => ending.written += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.ending = Some(ending);
        polled
    }

    /// Reads and forgets what the caller still sends, until it ends, for a moment, up to a bound.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ending = self.ending.take().unwrap_or_default();
        let until = ending.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut over = until.as_mut().poll(cx).is_ready();
        while !over {
            let mut scratch = [0_u8; 4096];
            let mut scratch = ReadBuf::new(&mut scratch);
            match self.poll_transport(cx, &mut scratch) {
                Poll::Ready(Ok(())) if !scratch.filled().is_empty() && ending.forgotten < FORGOTTEN => {
                    ending.forgotten += scratch.filled().len();
                }
                Poll::Ready(_) => over = true,
                Poll::Pending => break,
            }
        }
        self.ending = Some(ending);
        if over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return self.poll_refusal(cx, bytes.len());
        }
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        if self.replaces(first) {
            return self.poll_refusal(cx, first.len());
        }
        each!(self, stream => poll_write_together(Pin::new(stream), cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Inner(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.flushed();
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.turn.store(ENDING, Relaxed);
        if self.ending.as_ref().is_none_or(|ending| ending.lingering.is_none()) {
            ready!(each!(self, stream => Pin::new(stream).poll_shutdown(cx)))?;
        }
        if self.scan.is_some() && self.wire.may_be_unread() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn written(answers: bool, bytes: &[u8]) -> (String, Arc<Wire>) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(Transport::Unix(near));
        let wire = stream.scan(0xfeed);
        if answers {
            wire.serving();
            wire.served();
        }
        stream.write_all(bytes).await.unwrap();
        drop(stream);
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        (text, wire)
    }

    const BARE: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn the_engines_bare_answer_becomes_a_refusal() {
        let (text, wire) = written(false, BARE).await;
        assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\nexeat-refusal: malformed\r\n"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{text}");
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((problem["code"].as_str(), problem["request_id"].as_str()), (Some("malformed"), Some(&*format!("{:032x}", 0xfeed))));
        assert!(wire.may_be_unread());
        let (text, _) =
            written(false, b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert!(text.contains("exeat-refusal: head_too_large"), "{text}");
    }

    #[tokio::test]
    async fn an_upstreams_answer_is_never_taken_for_the_engines() {
        assert_eq!(written(true, BARE).await.0.as_bytes(), BARE);
        let other = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(written(false, other).await.0.as_bytes(), other);
    }

    #[tokio::test]
    async fn sniffed_bytes_come_first_and_are_scanned() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(Transport::Unix(near));
        far.write_all(b" / HTTP/1.1\r\n\r\n").await.unwrap();
        stream.give_again(Bytes::from_static(b"GET"));
        let wire = stream.scan(1);
        let mut head = [0; 18];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!((&head, wire.heads(), wire.fault()), (b"GET / HTTP/1.1\r\n\r\n", 1, None));
    }

    #[tokio::test]
    async fn a_caller_that_still_sends_hears_the_answer() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(Transport::Unix(near));
        let wire = stream.scan(1);
        far.write_all(b"POST / HTTP/1.1\r\ncontent-length: 90000\r\n\r\n").await.unwrap();
        let mut head = [0; 41];
        stream.read_exact(&mut head).await.unwrap();
        wire.serving();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
        let sending = async {
            far.write_all(&vec![b'x'; 90_000]).await.unwrap();
            far.shutdown().await.unwrap();
            let mut text = String::new();
            far.read_to_string(&mut text).await.unwrap();
            text
        };
        let (ended, text) = tokio::join!(stream.shutdown(), sending);
        ended.unwrap();
        assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    }
}
