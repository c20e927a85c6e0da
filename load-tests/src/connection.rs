//! One connection to the target: its socket, its TLS, what is still to be written, the response being read.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::response::Response;

/// What the connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    /// The TCP connect is under way.
    Connecting,
    /// CONNECT was sent, its answer is awaited.
    Tunnelling,
    /// Ready for a request. TLS handshake messages flow with the first one.
    Idle,
    /// A request is out.
    Busy,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing more to read for now.
    Wait,
    /// There may be more.
    More,
    /// A whole response; `more` as above.
    Answered { more: bool },
    /// The peer closed.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: Option<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    out: Vec<u8>,
    written: usize,
    pub(crate) state: State,
    /// When the request in hand was due.
    pub(crate) due: Instant,
    /// A request waits for this connection to be ready.
    pub(crate) armed: bool,
    pub(crate) response: Response,
    /// What epoll was last asked for.
    pub(crate) interest: EventFlags,
}

impl Connection {
    pub(crate) fn new(now: Instant) -> Self {
        Connection {
            stream: None,
            tls: None,
            out: Vec::new(),
            written: 0,
            state: State::Closed,
            due: now,
            armed: false,
            response: Response::new(),
            interest: EventFlags::empty(),
        }
    }

    pub(crate) fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// Starts to connect.
    pub(crate) fn open(&mut self, target: SocketAddr, tls: Option<(&Arc<ClientConfig>, &ServerName<'static>)>) -> io::Result<()> {
        self.stream = Some(connecting(target)?);
        self.tls = match tls {
            Some((config, name)) => Some(Box::new(ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?)),
            None => None,
        };
        self.state = State::Connecting;
        self.out.clear();
        self.written = 0;
        self.response.reset();
        self.interest = EventFlags::empty();
        Ok(())
    }

    pub(crate) fn close(&mut self) {
        self.stream = None;
        self.tls = None;
        self.state = State::Closed;
        self.out.clear();
        self.written = 0;
    }

    /// Why the connect failed, if it did.
    pub(crate) fn connect_error(&self) -> Option<io::Error> {
        match self.stream.as_ref()?.take_error() {
            Ok(error) => error,
            Err(error) => Some(error),
        }
    }

    /// Puts bytes out: a CONNECT in the clear, a request through TLS where there is one.
    pub(crate) fn put(&mut self, state: State, bytes: &[u8]) -> io::Result<()> {
        self.state = state;
        self.response.reset();
        match &mut self.tls {
            Some(tls) if state == State::Busy => tls.writer().write_all(bytes),
            _ => {
                self.out.clear();
                self.written = 0;
                self.out.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Writes what there is to write; true when the socket is full and must be waited for.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        while self.written < self.out.len() {
            match stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        if let (Some(tls), State::Idle | State::Busy) = (&mut self.tls, self.state) {
            while tls.wants_write() {
                match tls.write_tls(stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
    }

    /// Reads once from the socket.
    pub(crate) fn step(&mut self, buffer: &mut [u8]) -> io::Result<Step> {
        let Some(stream) = &mut self.stream else { return Ok(Step::Wait) };
        if let (Some(tls), false) = (&mut self.tls, self.state == State::Tunnelling) {
            match tls.read_tls(stream) {
                Ok(0) => return Ok(Step::Ended),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Wait),
                Err(error) => return Err(error),
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            return self.decrypted(buffer);
        }
        let count = match stream.read(buffer) {
            Ok(0) => return Ok(Step::Ended),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Wait),
            Err(error) => return Err(error),
        };
        // A short read has emptied the socket: the next one would only say so.
        let more = count == buffer.len();
        let whole = match self.state {
            State::Busy => self.response.feed(&buffer[..count], false),
            State::Tunnelling => self.response.feed(&buffer[..count], true),
            State::Closed | State::Connecting | State::Idle => false,
        };
        Ok(match (whole, more) {
            (true, more) => Step::Answered { more },
            (false, true) => Step::More,
            (false, false) => Step::Wait,
        })
    }

    fn decrypted(&mut self, buffer: &mut [u8]) -> io::Result<Step> {
        let mut answered = false;
        while let Some(tls) = &mut self.tls {
            match tls.reader().read(buffer) {
                Ok(0) if answered => break,
                Ok(0) => return Ok(Step::Ended),
                Ok(count) => answered |= self.state == State::Busy && self.response.feed(&buffer[..count], false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(if answered { Step::Answered { more: true } } else { Step::More })
    }

    /// Whether TLS has something to say (a handshake message, a key update).
    pub(crate) fn wants_flush(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }
}

fn connecting(target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = TcpStream::from(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?);
    stream.set_nodelay(true)?;
    match rustix::net::connect(&stream, &target) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(stream),
        Err(error) => Err(error.into()),
    }
}
