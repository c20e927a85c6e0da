//! HTTP/2 clients: a well-behaved one, and one that writes frames by hand.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::h1::{self, Fields};
use super::pki;
use super::upstream::Duplex;
use super::wire::Answer;

/// A connection to a port, in plaintext.
pub async fn plain(port: u16) -> Box<dyn Duplex> {
    Box::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connects"))
}

/// TLS through a tunnel of a forward listener, HTTP/2 agreed.
pub async fn tunnelled(port: u16, authority: &str, name: &str, pem: &str) -> io::Result<Box<dyn Duplex>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while h1::head_end(&head).is_none() {
        head.push(stream.read_u8().await?);
    }
    let (status, _) = h1::response_head(&head).map_err(|violation| io::Error::other(violation.0))?;
    if status != 200 {
        return Err(io::Error::other(format!("CONNECT answered {status}")));
    }
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let secured = tokio_rustls::TlsConnector::from(pki::client(pem, &["h2"])).connect(name, stream).await?;
    if secured.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("h2 was not agreed on"));
    }
    Ok(Box::new(secured))
}

/// A client on a connection.
pub struct Client(pub SendRequest<Bytes>);

impl Client {
    /// Shakes hands.
    pub async fn start(io: Box<dyn Duplex>) -> Result<Self, h2::Error> {
        let (client, connection) =
            h2::client::Builder::new().initial_window_size(1 << 20).initial_connection_window_size(4 << 20).handshake(io).await?;
        tokio::spawn(async move {
            let _ended = connection.await;
        });
        Ok(Self(client))
    }

    /// Opens a stream; its body is the caller's.
    pub async fn open(&mut self, request: Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        std::future::poll_fn(|cx| self.0.poll_ready(cx)).await?;
        self.0.send_request(request, end)
    }

    /// Sends one request and reads its whole answer.
    pub async fn ask(&mut self, request: Request<()>, body: &[u8], trailers: Option<HeaderMap>) -> Result<Answer, h2::Error> {
        let (response, mut send) = self.open(request, body.is_empty() && trailers.is_none()).await?;
        if !body.is_empty() {
            write(&mut send, Bytes::copy_from_slice(body), trailers.is_none()).await?;
        }
        if let Some(trailers) = trailers {
            send.send_trailers(trailers)?;
        }
        whole(response).await
    }
}

/// Writes a body as the window opens.
pub async fn write(send: &mut SendStream<Bytes>, mut part: Bytes, end: bool) -> Result<(), h2::Error> {
    while !part.is_empty() {
        send.reserve_capacity(part.len());
        let room = match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Ok(()),
        };
        let now = part.split_to(room.min(part.len()));
        let last = end && part.is_empty();
        send.send_data(now, last)?;
    }
    Ok(())
}

/// Reads a whole answer.
pub async fn whole(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut answer = Answer { status: head.status.as_u16(), fields: fields(&head.headers), ..Answer::default() };
    while let Some(part) = next(&mut body).await {
        answer.body.extend_from_slice(&part?);
    }
    answer.trailers = body.trailers().await?.map(|map| fields(&map)).unwrap_or_default();
    answer.complete = true;
    Ok(answer)
}

/// The next part of a body, and the window with it.
pub async fn next(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let part = body.data().await?;
    if let Ok(part) = &part {
        let _window = body.flow_control().release_capacity(part.len());
    }
    Some(part)
}

fn fields(map: &HeaderMap) -> Fields {
    Fields(map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect())
}

/// A request for an `https` authority.
pub fn request(method: &str, scheme: &str, authority: &str, target: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("{scheme}://{authority}{target}")).version(http::Version::HTTP_2);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

/// The client preface and empty settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block of literals without indexing (RFC 7541 section 6.2.2), any bytes whatever.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, bytes: &[u8]) {
        if bytes.len() < 127 {
            out.push(u8::try_from(bytes.len()).expect("short"));
        } else {
            out.push(127);
            let mut left = bytes.len() - 127;
            while left >= 128 {
                out.push(u8::try_from(left % 128 + 128).expect("seven bits"));
                left /= 128;
            }
            out.push(u8::try_from(left).expect("seven bits"));
        }
        out.extend_from_slice(bytes);
    }
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// What a raw HTTP/2 exchange came to.
#[derive(Debug, Default)]
pub struct RawOutcome {
    /// Kind and stream of every frame.
    pub frames: Vec<(u8, u32)>,
    /// `RST_STREAM` codes by stream.
    pub resets: Vec<(u32, u32)>,
    /// GOAWAY code.
    pub goaway: Option<u32>,
    /// The peer closed the connection.
    pub closed: bool,
    /// Header blocks by stream, undecoded.
    pub blocks: Vec<(u32, Vec<u8>)>,
    /// Data by stream.
    pub data: Vec<(u32, Vec<u8>)>,
    /// Streams that the peer ended (`END_STREAM`).
    pub ended: Vec<u32>,
}

/// Sends bytes after the preface and reads frames until `enough`, the end, or the deadline.
pub async fn raw(
    mut io: Box<dyn Duplex>,
    bytes: &[u8],
    within: std::time::Duration,
    mut enough: impl FnMut(&RawOutcome) -> bool,
) -> RawOutcome {
    let mut outcome = RawOutcome::default();
    let talk = async {
        if io.write_all(PREFACE).await.is_err() || io.write_all(bytes).await.is_err() || io.flush().await.is_err() {
            // It closed on us; what it said before still counts.
        }
        loop {
            let mut head = [0; 9];
            match io.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) => {
                    outcome.closed = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
                    return;
                }
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if io.read_exact(&mut payload).await.is_err() {
                outcome.closed = true;
                return;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            let word = |at: usize| payload.get(at..at + 4).map_or(0, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
            outcome.frames.push((head[3], stream));
            if head[3] <= 1 && head[4] & 1 == 1 {
                outcome.ended.push(stream);
            }
            match head[3] {
                0 => outcome.data.push((stream, payload)),
                1 => outcome.blocks.push((stream, payload)),
                3 => outcome.resets.push((stream, word(0))),
                4 if head[4] & 1 == 0 => {
                    let _acknowledged = io.write_all(&frame(4, 1, 0, &[])).await;
                }
                6 if head[4] & 1 == 0 => {
                    let _answered = io.write_all(&frame(6, 1, 0, &payload)).await;
                }
                7 => outcome.goaway = Some(word(4)),
                _ => {}
            }
            if enough(&outcome) {
                return;
            }
        }
    };
    let _in_time = tokio::time::timeout(within, talk).await;
    outcome
}
