//! `Wire`: a client's connection, declared plaintext or verified TLS, as one type, so that the HTTP engine is compiled once for both.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::server_name;
use super::error::TlsError;

/// A connection to a server.
pub enum Wire {
    /// Declared plaintext.
    Plain(TcpStream),
    /// The peer has proven its name.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a handshake failed: what the caller has to tell apart.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer did not prove the name.
    #[error("{0}")]
    Untrusted(String),
    /// The peer speaks none of the HTTP versions that were offered.
    #[error("it speaks none of the HTTP versions that were offered (ALPN)")]
    Protocol,
    /// The connection went away.
    #[error("{0}")]
    Broken(io::Error),
}

impl Wire {
    /// Verified TLS on a fresh connection: the peer must prove `name`, which may not be empty. The caller sets the deadline.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn secure(tcp: TcpStream, config: Arc<ClientConfig>, name: &str) -> Result<Self, HandshakeError> {
        let name = server_name(name).map_err(|error: TlsError| HandshakeError::Untrusted(error.to_string()))?;
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(sort)?;
        Ok(Self::Tls(Box::new(stream)))
    }

    /// Whether `h2` was chosen by ALPN (RFC 7301).
    #[must_use]
    pub fn chose_h2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// The key exchange of the handshake: `X25519MLKEM768` is the hybrid post-quantum one. A resumed session shows its own.
    #[must_use]
    pub fn key_exchange(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
        }
    }
}

fn sort(error: io::Error) -> HandshakeError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoApplicationProtocol | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            HandshakeError::Protocol
        }
        Some(why) => HandshakeError::Untrusted(why.to_string()),
        None => HandshakeError::Broken(error),
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
