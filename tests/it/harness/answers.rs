//! What an upstream answers: the request's path says it. One script for both protocols.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::h1::{self, Fields, Framing};
use super::upstream::{Duplex, State};

/// One request and the way back.
pub struct Exchange<'a> {
    pub target: String,
    pub fields: Fields,
    pub seen: usize,
    pub state: Arc<State>,
    pub leg: Leg<'a>,
}

pub enum Leg<'a> {
    H1(H1<'a>),
    H2(Box<H2>),
}

#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact of one exchange")]
pub struct H1<'a> {
    io: &'a mut Box<dyn Duplex>,
    buffer: &'a mut Vec<u8>,
    framing: Framing,
    left: u64,
    body_done: bool,
    expects: bool,
    head_only: bool,
    chunked: bool,
    close: bool,
}

pub struct H2 {
    recv: RecvStream,
    respond: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
}

/// How an answer's body will come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Coming {
    Nothing,
    Length(u64),
    Stream,
}

impl<'a> Leg<'a> {
    pub fn h1(io: &'a mut Box<dyn Duplex>, buffer: &'a mut Vec<u8>, framing: Framing, expects: bool, head_only: bool) -> Self {
        let left = if let Framing::Length(left) = framing { left } else { 0 };
        let body_done = matches!(framing, Framing::None | Framing::Length(0));
        Leg::H1(H1 { io, buffer, framing, left, body_done, expects, head_only, chunked: false, close: false })
    }

    pub fn h2(recv: RecvStream, respond: SendResponse<Bytes>) -> Self {
        Leg::H2(Box::new(H2 { recv, respond, send: None }))
    }
}

fn invalid(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

impl H1<'_> {
    async fn fill(&mut self) -> io::Result<()> {
        let mut part = vec![0; 64 * 1024];
        let read = self.io.read(&mut part).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&part[..read]);
        Ok(())
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    /// The next part of the body, and the trailers when it is over.
    async fn next(&mut self) -> io::Result<Result<Bytes, Fields>> {
        if self.expects {
            self.expects = false;
            self.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            self.io.flush().await?;
        }
        if self.body_done {
            return Ok(Err(Fields::default()));
        }
        if self.framing == Framing::Chunked && self.left == 0 {
            let size = h1::chunk_size(&self.line().await?).map_err(invalid)?;
            if size == 0 {
                let mut trailers = Vec::new();
                loop {
                    let line = self.line().await?;
                    if line.is_empty() {
                        break;
                    }
                    let text = String::from_utf8_lossy(&line).into_owned();
                    let (name, value) = text.split_once(':').ok_or_else(|| invalid("trailer"))?;
                    trailers.push((name.to_owned(), value.trim().as_bytes().to_vec()));
                }
                self.body_done = true;
                return Ok(Err(Fields(trailers)));
            }
            self.left = size;
        }
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.buffer.len());
        let part: Vec<u8> = self.buffer.drain(..take).collect();
        self.left -= take as u64;
        if self.left == 0 {
            if self.framing == Framing::Chunked {
                if !self.line().await?.is_empty() {
                    return Err(invalid("a chunk does not end where it says"));
                }
            } else {
                self.body_done = true;
            }
        }
        Ok(Ok(part.into()))
    }
}

impl Exchange<'_> {
    /// The path without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn over(&self, trailers: Fields) {
        let mut inner = self.state.lock();
        let seen = &mut inner.seen[self.seen];
        if !seen.complete {
            seen.trailers = trailers;
            seen.complete = true;
        }
    }

    /// The next part of the request's body.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let part = match &mut self.leg {
            Leg::H1(leg) => leg.next().await?,
            Leg::H2(leg) => {
                if let Some(part) = leg.recv.data().await {
                    let part = part.map_err(io::Error::other)?;
                    let _window = leg.recv.flow_control().release_capacity(part.len());
                    Ok(part)
                } else {
                    let trailers = leg.recv.trailers().await.map_err(io::Error::other)?.unwrap_or_default();
                    Err(Fields(trailers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()))
                }
            }
        };
        match part {
            Ok(part) => {
                let mut inner = self.state.lock();
                let seen = &mut inner.seen[self.seen];
                seen.body_len += part.len() as u64;
                if seen.body.len() < 1 << 20 {
                    seen.body.extend_from_slice(&part);
                }
                Ok(Some(part))
            }
            Err(trailers) => {
                self.over(trailers);
                Ok(None)
            }
        }
    }

    /// Reads the body to its end.
    pub async fn drain(&mut self) -> io::Result<()> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// An answer before the answer.
    pub async fn interim(&mut self, status: u16, fields: &[(&str, &str)]) -> io::Result<()> {
        match &mut self.leg {
            Leg::H1(leg) => {
                let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                leg.io.write_all(format!("HTTP/1.1 {status} Interim\r\n{fields}\r\n").as_bytes()).await?;
                leg.io.flush().await
            }
            Leg::H2(leg) => {
                let mut response = Response::builder().status(status);
                for (name, value) in fields {
                    response = response.header(*name, *value);
                }
                leg.respond.send_informational(response.body(()).map_err(io::Error::other)?).map_err(io::Error::other)
            }
        }
    }

    /// The answer's head.
    pub async fn head(&mut self, status: u16, fields: &[(&str, &str)], coming: Coming) -> io::Result<()> {
        match &mut self.leg {
            Leg::H1(leg) => {
                let mut text = format!("HTTP/1.1 {status} Status\r\n");
                for (name, value) in fields {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                match coming {
                    Coming::Length(length) => text.push_str(&format!("Content-Length: {length}\r\n")),
                    Coming::Stream => {
                        leg.chunked = true;
                        text.push_str("Transfer-Encoding: chunked\r\n");
                    }
                    Coming::Nothing if matches!(status, 204 | 304 | 101) => {}
                    Coming::Nothing => text.push_str("Content-Length: 0\r\n"),
                }
                if leg.close {
                    text.push_str("Connection: close\r\n");
                }
                text.push_str("\r\n");
                leg.io.write_all(text.as_bytes()).await?;
                leg.io.flush().await
            }
            Leg::H2(leg) => {
                let mut response = Response::builder().status(status);
                for (name, value) in fields {
                    response = response.header(*name, *value);
                }
                if let Coming::Length(length) = coming {
                    response = response.header("content-length", length);
                }
                let response = response.body(()).map_err(io::Error::other)?;
                leg.send = Some(leg.respond.send_response(response, coming == Coming::Nothing).map_err(io::Error::other)?);
                Ok(())
            }
        }
    }

    /// A part of the answer's body.
    pub async fn data(&mut self, part: Bytes) -> io::Result<()> {
        match &mut self.leg {
            Leg::H1(leg) if leg.head_only || part.is_empty() => Ok(()),
            Leg::H1(leg) => {
                let mut out = BytesMut::with_capacity(part.len() + 16);
                if leg.chunked {
                    out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                }
                out.extend_from_slice(&part);
                if leg.chunked {
                    out.extend_from_slice(b"\r\n");
                }
                leg.io.write_all(&out).await?;
                leg.io.flush().await
            }
            Leg::H2(leg) => {
                let Some(send) = leg.send.as_mut() else { return Ok(()) };
                let mut part = part;
                while !part.is_empty() {
                    send.reserve_capacity(part.len());
                    let room = std::future::poll_fn(|cx| send.poll_capacity(cx))
                        .await
                        .ok_or(io::ErrorKind::BrokenPipe)?
                        .map_err(io::Error::other)?;
                    let now = part.split_to(room.min(part.len()));
                    if !now.is_empty() {
                        send.send_data(now, false).map_err(io::Error::other)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// The answer's end.
    pub async fn finish(&mut self, trailers: &[(&str, &str)]) -> io::Result<()> {
        match &mut self.leg {
            Leg::H1(leg) => {
                if leg.chunked && !leg.head_only {
                    let trailers: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                    leg.io.write_all(format!("0\r\n{trailers}\r\n").as_bytes()).await?;
                }
                leg.io.flush().await
            }
            Leg::H2(leg) => {
                let Some(send) = leg.send.as_mut() else { return Ok(()) };
                if trailers.is_empty() {
                    return send.send_data(Bytes::new(), true).map_err(io::Error::other);
                }
                let mut map = HeaderMap::new();
                for (name, value) in trailers {
                    map.append(HeaderName::from_bytes(name.as_bytes()).expect("name"), HeaderValue::from_str(value).expect("value"));
                }
                send.send_trailers(map).map_err(io::Error::other)
            }
        }
    }

    /// A whole answer.
    pub async fn whole(&mut self, status: u16, fields: &[(&str, &str)], body: impl Into<Bytes>) -> io::Result<()> {
        let body = body.into();
        if body.is_empty() {
            return self.head(status, fields, Coming::Nothing).await;
        }
        self.head(status, fields, Coming::Length(body.len() as u64)).await?;
        self.data(body).await?;
        match self.leg {
            Leg::H1(_) => Ok(()),
            Leg::H2(_) => self.finish(&[]).await,
        }
    }

    /// Waits until the test lets the answer go on.
    async fn step(&self) {
        if let Ok(permit) = self.state.steps.acquire().await {
            permit.forget();
        }
    }

    /// Whether the connection may carry another request; drains what the answer left unread.
    pub async fn keep(&mut self) -> io::Result<bool> {
        if let Leg::H1(leg) = &self.leg
            && leg.close
        {
            return Ok(false);
        }
        self.drain().await?;
        Ok(true)
    }

    /// Breaks the exchange off.
    fn cut(&mut self) {
        match &mut self.leg {
            Leg::H1(leg) => leg.close = true,
            Leg::H2(leg) => match leg.send.as_mut() {
                Some(send) => send.send_reset(Reason::INTERNAL_ERROR),
                None => leg.respond.send_reset(Reason::INTERNAL_ERROR),
            },
        }
    }
}

/// Answers one request by its path.
pub async fn answer(exchange: &mut Exchange<'_>) -> io::Result<()> {
    let path = exchange.path().to_owned();
    let mut segments = path.trim_start_matches('/').split('/');
    let (first, second) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let number: u64 = second.parse().unwrap_or_default();
    let file = exchange.state.files.lock().expect("files").get(&path).cloned();
    if let Some(file) = file {
        exchange.drain().await?;
        return exchange.whole(200, &[("content-type", "application/octet-stream")], file).await;
    }
    match first {
        "status" => {
            exchange.drain().await?;
            let status = u16::try_from(number).unwrap_or(500);
            let body: &'static [u8] = if matches!(status, 204 | 304) { b"" } else { b"said so" };
            exchange.whole(status, &[("etag", "\"one\"")], body).await
        }
        "answer-fields" => {
            exchange.drain().await?;
            let sent = exchange.fields.get("authorization").unwrap_or_default().to_owned();
            let bare = sent.strip_prefix("Bearer ").unwrap_or("none").to_owned();
            let fields = [
                ("exeat-refusal", "forged"),
                ("exeat-anything", "forged"),
                ("x-reflected", sent.as_str()),
                ("x-reflected-inside", &format!("<{bare}>")),
                ("x-honest", "kept"),
                ("connection", "x-hop"),
                ("x-hop", "gone"),
                ("keep-alive", "timeout=5"),
            ];
            let fields = if matches!(exchange.leg, Leg::H1(_)) { &fields[..] } else { &fields[..5] };
            exchange.head(200, fields, Coming::Stream).await?;
            exchange.data(Bytes::from_static(b"body")).await?;
            exchange.finish(&[("x-trailer-reflected", &bare), ("x-trailer", "kept")]).await
        }
        "sse" => {
            exchange.head(200, &[("content-type", "text/event-stream"), ("cache-control", "no-cache")], Coming::Stream).await?;
            for at in 0..number {
                exchange.data(format!("data: {at}\n\n").into()).await?;
                exchange.step().await;
            }
            exchange.finish(&[]).await
        }
        "wait" => {
            exchange.drain().await?;
            exchange.step().await;
            exchange.whole(200, &[], &b"waited"[..]).await
        }
        "hang" => std::future::pending().await,
        "early" => {
            if let Leg::H1(leg) = &mut exchange.leg {
                leg.close = true;
                leg.expects = false;
            }
            exchange.whole(u16::try_from(number).unwrap_or(401), &[("www-authenticate", "Bearer")], &b"early"[..]).await?;
            // The body keeps coming; reading it on lets the answer arrive instead of a reset.
            let _rest = exchange.drain().await;
            Ok(())
        }
        "first" => {
            if let Leg::H1(leg) = &mut exchange.leg {
                leg.expects = false;
            }
            exchange.whole(200, &[], &b"first"[..]).await?;
            exchange.drain().await
        }
        "once401" => {
            exchange.drain().await?;
            let times = {
                let mut inner = exchange.state.lock();
                let times = inner.counts.entry(path).or_default();
                *times += 1;
                *times
            };
            if times == 1 {
                exchange.whole(401, &[("www-authenticate", "Bearer error=\"invalid_token\"")], &b"again"[..]).await
            } else {
                echo(exchange).await
            }
        }
        "reset" => {
            exchange.cut();
            Ok(())
        }
        "half" => {
            exchange.drain().await?;
            exchange.head(200, &[], Coming::Length(1000)).await?;
            exchange.data(Bytes::from_static(b"only this")).await?;
            exchange.cut();
            Ok(())
        }
        "stream" | "length" => {
            exchange.drain().await?;
            let coming = if first == "stream" { Coming::Stream } else { Coming::Length(number) };
            exchange.head(200, &[], coming).await?;
            let block = Bytes::from(vec![b'x'; 64 * 1024]);
            let mut left = number;
            while left > 0 {
                let part = block.slice(..usize::try_from(left).unwrap_or(usize::MAX).min(block.len()));
                left -= part.len() as u64;
                exchange.data(part).await?;
            }
            exchange.finish(&[]).await
        }
        "trailers" => {
            exchange.drain().await?;
            exchange.head(200, &[("trailer", "x-sum")], Coming::Stream).await?;
            exchange.data(Bytes::from_static(b"with trailers")).await?;
            exchange.finish(&[("x-sum", "42")]).await
        }
        "it.Echo" => {
            exchange.head(200, &[("content-type", "application/grpc")], Coming::Stream).await?;
            while let Some(part) = exchange.next().await? {
                exchange.data(part).await?;
            }
            exchange.finish(&[("grpc-status", "0"), ("grpc-message", "fine")]).await
        }
        "duplex" => {
            exchange.head(200, &[], Coming::Stream).await?;
            while let Some(part) = exchange.next().await? {
                exchange.data(part).await?;
            }
            exchange.finish(&[]).await
        }
        "info" => {
            exchange.interim(103, &[("link", "</style.css>; rel=preload")]).await?;
            exchange.drain().await?;
            exchange.whole(200, &[], &b"after a hint"[..]).await
        }
        "repo.git" => {
            exchange.drain().await?;
            exchange.whole(404, &[], &b"no such file"[..]).await
        }
        // One event at once, then one every so many milliseconds, until the caller is gone.
        "ticks" => {
            exchange.head(200, &[("content-type", "text/event-stream")], Coming::Stream).await?;
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(number.max(1)));
            loop {
                ticks.tick().await;
                exchange.data(Bytes::from_static(b"data: tick\n\n")).await?;
            }
        }
        "ws" => websocket(exchange).await,
        "raw" => raw(exchange, second).await,
        _ => echo(exchange).await,
    }
}

/// Tells the client what arrived.
async fn echo(exchange: &mut Exchange<'_>) -> io::Result<()> {
    exchange.drain().await?;
    let seen = exchange.state.lock().seen[exchange.seen].clone();
    let fields: Vec<_> = seen.fields.0.iter().map(|(name, value)| serde_json::json!([name, String::from_utf8_lossy(value)])).collect();
    let told = serde_json::json!({ "method": seen.method, "target": seen.target, "version": seen.version, "authority": seen.authority, "headers": fields, "body_len": seen.body_len });
    exchange.whole(200, &[("content-type", "application/json")], told.to_string()).await
}

/// Bytes that no upstream should send.
async fn raw(exchange: &mut Exchange<'_>, name: &str) -> io::Result<()> {
    exchange.drain().await?;
    let key = format!("raw:{name}");
    let bytes = exchange.state.files.lock().expect("files").get(&key).cloned().unwrap_or_default();
    if let Leg::H1(leg) = &mut exchange.leg {
        leg.close = true;
        leg.io.write_all(&bytes).await?;
        leg.io.flush().await?;
    }
    Ok(())
}

/// RFC 6455: accepts, then echoes every byte of every frame, unmasked.
async fn websocket(exchange: &mut Exchange<'_>) -> io::Result<()> {
    let key = exchange.fields.get("sec-websocket-key").unwrap_or_default().to_owned();
    let protocol = exchange.fields.get("sec-websocket-protocol").and_then(|all| all.split(',').next()).map(|first| first.trim().to_owned());
    let Leg::H1(leg) = &mut exchange.leg else { return exchange.whole(501, &[], &b"h2"[..]).await };
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
        websocket_accept(&key)
    );
    if let Some(protocol) = protocol {
        head.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    head.push_str("\r\n");
    leg.io.write_all(head.as_bytes()).await?;
    leg.io.flush().await?;
    leg.close = true;
    loop {
        while leg.buffer.len() < 6 {
            if leg.fill().await.is_err() {
                return Ok(());
            }
        }
        let (opcode, length) = (leg.buffer[0] & 0x0f, usize::from(leg.buffer[1] & 0x7f));
        let (length, start) = match length {
            126 => (usize::from(u16::from_be_bytes([leg.buffer[2], leg.buffer[3]])), 4),
            127 => return Err(invalid("a frame that no test sends")),
            short => (short, 2),
        };
        while leg.buffer.len() < start + 4 + length {
            leg.fill().await?;
        }
        let mask: Vec<u8> = leg.buffer[start..start + 4].to_vec();
        let payload: Vec<u8> =
            leg.buffer[start + 4..start + 4 + length].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        leg.buffer.drain(..start + 4 + length);
        let mut frame = vec![0x80 | opcode];
        if length < 126 {
            frame.push(u8::try_from(length).expect("short"));
        } else {
            frame.push(126);
            frame.extend_from_slice(&u16::try_from(length).expect("fits").to_be_bytes());
        }
        frame.extend_from_slice(&payload);
        leg.io.write_all(&frame).await?;
        leg.io.flush().await?;
        if opcode == 8 {
            return Ok(());
        }
    }
}

/// What a server answers to this key.
pub fn websocket_accept(key: &str) -> String {
    use base64::Engine as _;
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    base64::engine::general_purpose::STANDARD.encode(digest)
}
