//! The command line's side of the admin server.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde_json::Value;

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

/// Sends one request to the admin server, with a JSON body where one is given, and gives the answer's body.
///
/// # Errors
/// Nobody listens there, or the answer is no success; then its error and the next step are told.
pub fn ask(
    address: &ListenAddress,
    authorization: Option<&http::HeaderValue>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<String, AskError> {
    let request = request(authorization, method, path, body);
    let at = match address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix://{}", path.display()),
    };
    let answer = match address {
        ListenAddress::Tcp(address) => std::net::TcpStream::connect_timeout(address, PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            exchange(stream, &request)
        }),
        ListenAddress::Unix(socket) => std::os::unix::net::UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            exchange(stream, &request)
        }),
    };
    let answer = answer.map_err(|why| AskError::Unreachable { at: at.clone(), why })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or("nothing");
    if status.starts_with('2') {
        return Ok(body.to_owned());
    }
    Err(AskError::Refused { at, status: status.to_owned(), text: told(body.trim()) })
}

/// The error and the next step of an answer as one line; another text as it is.
fn told(body: &str) -> String {
    let document: Value = serde_json::from_str(body).unwrap_or_default();
    let word = |name: &str| document.get(name).and_then(Value::as_str);
    match (word("error"), word("next_step")) {
        (Some(error), Some(next_step)) => format!("{error}; {next_step}"),
        (Some(error), None) => error.to_owned(),
        (None, _) => body.to_owned(),
    }
}

fn request(authorization: Option<&http::HeaderValue>, method: &str, path: &str, body: Option<&Value>) -> Vec<u8> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n").into_bytes();
    if let Some(value) = authorization {
        request.extend_from_slice(b"authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    request.extend_from_slice(format!("{kind}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    request
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> io::Result<String> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
