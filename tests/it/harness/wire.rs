//! A client that sends exactly the bytes it is told, over TCP, a unix socket, or TLS inside a tunnel, and reads answers strictly.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::h1::{self, Fields};
use super::{BOUND, pki};

enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Statuses of the answers before it.
    pub interim: Vec<u16>,
    /// The body came to the end that its framing announced.
    pub complete: bool,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The refusal's code, if it is one.
    pub fn refusal(&self) -> Option<&str> {
        self.fields.get("exeat-refusal")
    }

    /// Fails unless this is a refusal with this code in all its parts.
    pub fn must_refuse(&self, status: u16, code: &str) {
        let told = format!("{} {:?} {}", self.status, self.fields, self.text());
        assert_eq!(self.refusal(), Some(code), "expected the refusal {code}: {told}");
        assert_eq!(self.status, status, "{told}");
        assert_eq!(self.fields.get("content-type"), Some("application/problem+json"), "{told}");
        assert!(self.fields.get("proxy-status").is_some_and(|value| value.starts_with("exeat; error=")), "{told}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{told}");
        assert_eq!(problem["status"], status, "{told}");
        assert!(problem["request_id"].as_str().is_some_and(|id| id.len() == 32), "{told}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "problem+json lacks {member}: {told}");
        }
    }
}

pub struct Wire {
    io: Io,
    buffer: Vec<u8>,
    deadline: Instant,
}

impl Wire {
    fn new(io: Io) -> Self {
        Self { io, buffer: Vec::new(), deadline: Instant::now() + BOUND }
    }

    /// Connects to a loopback port.
    pub fn tcp(port: u16) -> Self {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), BOUND).expect("connects");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_write_timeout(Some(BOUND)).expect("timeout");
        Self::new(Io::Tcp(stream))
    }

    /// On a connection that is there.
    pub fn of(stream: TcpStream) -> Self {
        Self::new(Io::Tcp(stream))
    }

    /// Ends a TCP connection for every handle of it.
    pub fn shut(&self) {
        if let Io::Tcp(stream) = &self.io {
            let _gone = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Connects to a unix socket.
    pub fn unix(path: &Path) -> Self {
        Self::new(Io::Unix(UnixStream::connect(path).expect("connects")))
    }

    /// Gives this connection so much time from now on.
    pub fn within(mut self, time: Duration) -> Self {
        self.deadline = Instant::now() + time;
        self
    }

    /// Opens a tunnel; the answer must be 200.
    pub fn connect(mut self, authority: &str) -> Self {
        let answer = self.try_connect(authority);
        assert_eq!(answer.status, 200, "CONNECT {authority}: {:?} {}", answer.fields, answer.text());
        self
    }

    /// Asks for a tunnel.
    pub fn try_connect(&mut self, authority: &str) -> Answer {
        self.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes());
        self.answer("CONNECT")
    }

    /// Starts TLS inside, naming this server and trusting this PEM alone.
    pub fn tls(self, name: &str, pem: &str, alpn: &[&str]) -> io::Result<Self> {
        self.secured(name, pki::client(pem, alpn))
    }

    /// Starts TLS inside, by this configuration.
    pub fn secured(self, name: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let Io::Tcp(mut tcp) = self.io else { panic!("TLS goes over TCP here") };
        tcp.set_read_timeout(Some(BOUND))?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        Ok(Self { io: Io::Tls(Box::new(StreamOwned::new(session, tcp))), buffer: Vec::new(), deadline: Instant::now() + BOUND })
    }

    /// The certificate that the other end showed.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        let Io::Tls(stream) = &self.io else { return None };
        stream.conn.peer_certificates()?.first().map(|leaf| leaf.to_vec())
    }

    /// The protocol that TLS agreed on.
    pub fn alpn(&self) -> Option<String> {
        let Io::Tls(stream) = &self.io else { return None };
        stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// Sends bytes; a peer that has closed already is not an error here, its answer tells.
    pub fn send(&mut self, bytes: &[u8]) {
        let _sent = self.try_send(bytes);
    }

    /// Sends bytes.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.io {
            Io::Tcp(io) => io.write_all(bytes),
            Io::Unix(io) => io.write_all(bytes),
            Io::Tls(io) => io.write_all(bytes).and_then(|()| io.flush()),
        }
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        let _closed = match &self.io {
            Io::Tcp(io) => io.shutdown(std::net::Shutdown::Write),
            Io::Unix(io) => io.shutdown(std::net::Shutdown::Write),
            Io::Tls(_) => Ok(()),
        };
    }

    /// Reads more; 0 at the end of the stream.
    fn fill(&mut self) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut part = vec![0; 64 * 1024];
        let read = match &mut self.io {
            Io::Tcp(io) => {
                io.set_read_timeout(Some(left))?;
                io.read(&mut part)
            }
            Io::Unix(io) => {
                io.set_read_timeout(Some(left))?;
                io.read(&mut part)
            }
            Io::Tls(io) => {
                io.sock.set_read_timeout(Some(left))?;
                io.read(&mut part)
            }
        }?;
        self.buffer.extend_from_slice(&part[..read]);
        Ok(read)
    }

    /// Reads until the buffer holds so many bytes and takes them.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return Ok(line);
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads one head, interim or not.
    pub fn try_head(&mut self) -> io::Result<(u16, Fields)> {
        loop {
            if let Some(end) = h1::head_end(&self.buffer) {
                let head: Vec<u8> = self.buffer.drain(..end).collect();
                return h1::response_head(&head).map_err(|violation| io::Error::new(ErrorKind::InvalidData, violation.0));
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads one answer to a request with this method.
    pub fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method)
            .unwrap_or_else(|error| panic!("no answer: {error}; read so far: {:?}", String::from_utf8_lossy(&self.buffer)))
    }

    /// Reads one answer; a connection that closes first is an error.
    pub fn try_answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.open_answer()?;
        let status = answer.status;
        let bare =
            method == "HEAD" || status == 204 || status == 304 || status == 101 || (method == "CONNECT" && (200..300).contains(&status));
        if bare {
            answer.complete = true;
            return Ok(answer);
        }
        loop {
            match self.part(&answer.fields) {
                Ok(Some(part)) => answer.body.extend(part),
                Ok(None) => break,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(answer),
                Err(error) => return Err(error),
            }
            if let Some(length) = answer.fields.get("content-length")
                && answer.body.len() as u64 >= length.parse().map_err(io::Error::other)?
            {
                answer.complete = true;
                return Ok(answer);
            }
        }
        if answer.fields.has("transfer-encoding") {
            answer.trailers = self.trailers()?;
        }
        answer.complete = true;
        Ok(answer)
    }

    /// Reads heads until the one that counts; the body stays unread.
    pub fn open_answer(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let (status, fields) = self.try_head()?;
            if (100..200).contains(&status) && status != 101 {
                answer.interim.push(status);
                continue;
            }
            answer.status = status;
            answer.fields = fields;
            return Ok(answer);
        }
    }

    /// The next part of a body: a chunk, or what has come of a body of known length; `None` at the end.
    pub fn part(&mut self, fields: &Fields) -> io::Result<Option<Vec<u8>>> {
        if fields.has("transfer-encoding") {
            let size = h1::chunk_size(&self.line()?).map_err(|violation| io::Error::new(ErrorKind::InvalidData, violation.0))?;
            if size == 0 {
                return Ok(None);
            }
            let part = self.take(usize::try_from(size).map_err(io::Error::other)?)?;
            if !self.line()?.is_empty() {
                return Err(io::Error::new(ErrorKind::InvalidData, "chunk end"));
            }
            return Ok(Some(part));
        }
        if fields.get("content-length") == Some("0") {
            return Ok(None);
        }
        if self.buffer.is_empty() && self.fill()? == 0 {
            return if fields.has("content-length") { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
        }
        let known = fields.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(usize::MAX);
        let take = known.min(self.buffer.len());
        Ok(Some(self.buffer.drain(..take).collect()))
    }

    fn trailers(&mut self) -> io::Result<Fields> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Fields(fields));
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            let (name, value) = text.split_once(':').ok_or(ErrorKind::InvalidData)?;
            fields.push((name.to_owned(), value.trim().as_bytes().to_vec()));
        }
    }

    /// Everything until the peer closes; an error if it does not within the time.
    pub fn until_end(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(0) => return Ok(std::mem::take(&mut self.buffer)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset || error.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one request and reads its answer.
    pub fn ask(&mut self, method: &str, target: &str, host: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(&request(method, target, host, fields, body));
        self.answer(method)
    }
}

/// The bytes of a plain request.
pub fn request(method: &str, target: &str, host: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
