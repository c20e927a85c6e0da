//! The command line's side of the admin server.

use std::io::{self, Read, Write};
use std::time::Duration;

use crate::capture::ListenAddress;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens, or the socket may not be used.
    #[error("no exeat answers at {at}: {why}; is it running with this configuration?")]
    Unreachable {
        /// The admin address.
        at: String,
        /// The kernel's word.
        why: io::Error,
    },
    /// An answer that is not 2xx.
    #[error("exeat at {at} answered {status}: {text}")]
    Refused {
        /// The admin address.
        at: String,
        /// HTTP status.
        status: String,
        /// Its body.
        text: String,
    },
}

const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: u64 = 1 << 20;

/// Sends one request to the admin server and gives the answer's body.
///
/// # Errors
/// Nobody listens there, or the answer is no success.
pub fn ask(address: &ListenAddress, authorization: Option<&http::HeaderValue>, method: &str, path: &str) -> Result<String, AskError> {
    let at = match address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix://{}", path.display()),
    };
    let answer = match address {
        ListenAddress::Tcp(address) => std::net::TcpStream::connect_timeout(address, PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            exchange(stream, authorization, method, path)
        }),
        ListenAddress::Unix(socket) => std::os::unix::net::UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            exchange(stream, authorization, method, path)
        }),
    };
    let answer = answer.map_err(|why| AskError::Unreachable { at: at.clone(), why })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or("nothing");
    if status.starts_with('2') {
        return Ok(body.to_owned());
    }
    Err(AskError::Refused { at, status: status.to_owned(), text: body.trim().to_owned() })
}

fn exchange(mut stream: impl Read + Write, authorization: Option<&http::HeaderValue>, method: &str, path: &str) -> io::Result<String> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n").into_bytes();
    if let Some(value) = authorization {
        head.extend_from_slice(b"authorization: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head)?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
