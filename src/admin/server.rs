//! The servers' sockets: few connections, short heads, short bodies.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::AUTHORIZATION;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::guard::Guard;
use super::route::{Admin, Reply};
use super::routes::{Answer, Status, json, text};
use crate::capture::ListenAddress;

/// Connections of one server at a time. One more takes the place of the one that has waited longest for its caller: whoever opens many and
/// sends or reads slowly keeps no probe and no operator out.
const CONNECTIONS: usize = 64;
/// From connecting to the end of a head; also the longest idle time.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// From the head to the end of its body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Largest body, in bytes: every question is a few names.
const BODY_SIZE: usize = 64 * 1024;

/// What stands behind a socket.
#[derive(Clone)]
pub enum Door {
    /// The status server.
    Status(Status),
    /// The admin server.
    Admin(Admin),
}

/// A bound socket.
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A unix socket, mode 0600.
    Unix(std::os::unix::net::UnixListener),
}

impl Socket {
    /// Where TCP clients find it (port 0 has become a port).
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Binds before anything is served, so that a port that is taken is told at the start.
///
/// # Errors
/// The address is taken or not ours.
pub fn bind(address: &ListenAddress) -> io::Result<Socket> {
    match address {
        ListenAddress::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Socket::Tcp(listener))
        }
        ListenAddress::Unix(path) => bind_unix(path).map(Socket::Unix),
    }
}

/// A socket file that nobody listens on is left from a former process.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket stands there")),
        Err(_) => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The places of one server's connections.
#[derive(Default)]
struct Places(Mutex<VecDeque<Arc<Place>>>);

/// One connection's place, given back when dropped.
struct Seat {
    places: Arc<Places>,
    place: Arc<Place>,
}

#[derive(Default)]
struct Place {
    /// A question is being answered: whoever asked it is not the one that is waited for.
    busy: AtomicBool,
    given_up: Notify,
}

impl Places {
    /// The newest place. Above the bound the oldest one whose caller is waited for is given up; with none such, and each answer is short,
    /// there is one more.
    fn take(self: &Arc<Self>) -> Seat {
        let place = Arc::<Place>::default();
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= CONNECTIONS
            && let Some(waits) = taken.iter().position(|place| !place.busy.load(Ordering::Relaxed))
            && let Some(oldest) = taken.remove(waits)
        {
            oldest.given_up.notify_one();
        }
        taken.push_back(Arc::clone(&place));
        Seat { places: Arc::clone(self), place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.places.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

/// Serves until dropped.
///
/// # Errors
/// The socket cannot be used by this runtime.
pub async fn serve(socket: Socket, door: Door, guard: Guard) -> io::Result<Infallible> {
    let (guard, places) = (Arc::new(guard), Arc::<Places>::default());
    match socket {
        Socket::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(connection(stream, None, door.clone(), Arc::clone(&guard), places.take()))),
                    Err(error) => pause(&error).await,
                }
            }
        }
        Socket::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                        drop(tokio::spawn(connection(stream, uid, door.clone(), Arc::clone(&guard), places.take())));
                    }
                    Err(error) => pause(&error).await,
                }
            }
        }
    }
}

/// Out of descriptors, most likely: accepting again at once would spin.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection to the admin or status server");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uid: Option<u32>,
    door: Door,
    guard: Arc<Guard>,
    seat: Seat,
) {
    let place = Arc::clone(&seat.place);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (door, guard, place) = (door.clone(), Arc::clone(&guard), Arc::clone(&place));
        async move {
            place.busy.store(true, Ordering::Relaxed);
            let answer = answer(door, &guard, uid, request).await;
            place.busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_headers(64);
    tokio::select! {
        // A caller that goes away is the caller's affair.
        _served = server.serve_connection(TokioIo::new(stream), service) => {}
        () = seat.place.given_up.notified() => {}
    }
}

async fn answer(door: Door, guard: &Guard, uid: Option<u32>, request: http::Request<Incoming>) -> Answer {
    if !guard.admits(uid, request.headers().get(AUTHORIZATION).map(http::HeaderValue::as_bytes)) {
        return text(StatusCode::FORBIDDEN, "this caller may not use the admin server; see `admin` in the configuration\n".into());
    }
    match door {
        Door::Status(status) => status.answer(request.method(), request.uri()),
        Door::Admin(admin) => {
            let reply = asked(&admin, guard.name(uid), request).await.unwrap_or_else(|wrong| wrong);
            json(reply.status, &reply.body)
        }
    }
}

async fn asked(admin: &Admin, by: Arc<str>, request: http::Request<Incoming>) -> Result<Reply, Reply> {
    let (head, body) = request.into_parts();
    let found = admin.find(&head.method, head.uri.path())?;
    let body = if found.takes_body() { read(body).await? } else { Bytes::new() };
    let body = if body.is_empty() { Ok(serde_json::Value::Null) } else { serde_json::from_slice(&body) };
    let body =
        body.map_err(|error| Reply::wrong(StatusCode::BAD_REQUEST, &format!("the body is not JSON: {error}"), "mend the JSON body"))?;
    // In a task of its own: a caller that hangs up does not stop half way what it has asked for.
    let answering = tokio::spawn(found.ask(by, body));
    answering.await.map_err(|error| {
        tracing::error!(%error, path = head.uri.path(), "an answer of the admin server ended early");
        Reply::wrong(StatusCode::INTERNAL_SERVER_ERROR, "the answer ended early", "look at the log, then ask again")
    })
}

async fn read(body: Incoming) -> Result<Bytes, Reply> {
    let wrong = |status, error: &str| Reply::wrong(status, error, "send one short JSON document");
    match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_SIZE).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(wrong(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 64 KiB")),
        Ok(Err(_)) => Err(wrong(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => Err(wrong(StatusCode::REQUEST_TIMEOUT, "the body was not complete in time")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::ask;
    use super::super::health::Health;
    use super::super::route::{Question, Route};
    use super::*;
    use crate::secret::Secret;

    fn admin() -> Door {
        Door::Admin(Admin::new(vec![
            Route::show("/v1/status", |_| Reply::ok(serde_json::json!({ "revision": 3 }))),
            Route::change("/v1/echo", |question: Question| async move {
                Reply::ok(serde_json::json!({ "by": &*question.by, "body": question.body }))
            }),
        ]))
    }

    fn serving(address: &ListenAddress, door: Door, guard: Guard) -> (tokio::runtime::Runtime, ListenAddress) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let socket = bind(address).unwrap();
        let at = socket.address().map_or_else(|| address.clone(), ListenAddress::Tcp);
        runtime.spawn(serve(socket, door, guard));
        (runtime, at)
    }

    fn loopback() -> ListenAddress {
        ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn the_kernel_tells_who_asks_at_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        for (uids, admitted) in [(vec![me], true), (vec![me + 1], false), (vec![me + 1, me], true)] {
            let path = dir.path().join(format!("{admitted}-{}.sock", uids.len()));
            let (_runtime, at) = serving(&ListenAddress::Unix(path.clone()), admin(), Guard::Uids(uids));
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let answer = ask(&at, None, "GET", "/v1/status", None);
            assert_eq!(answer.is_ok(), admitted, "{answer:?}");
            if let Err(error) = answer {
                assert!(error.to_string().contains("answered 403"), "{error}");
            }
        }
    }

    #[test]
    fn tcp_asks_for_the_token() {
        let (_runtime, at) = serving(&loopback(), admin(), Guard::Token(Secret::new(b"0123456789abcdef".to_vec())));
        let right = http::HeaderValue::from_static("Bearer 0123456789abcdef");
        let wrong = http::HeaderValue::from_static("Bearer 0123456789abcdeg");
        assert!(ask(&at, Some(&right), "GET", "/v1/status", None).unwrap().contains("\"revision\": 3"));
        let body = serde_json::json!({ "target": "everything" });
        let echoed = ask(&at, Some(&right), "POST", "/v1/echo", Some(&body)).unwrap();
        let echoed: serde_json::Value = serde_json::from_str(&echoed).unwrap();
        assert_eq!(echoed, serde_json::json!({ "by": "token", "body": body }), "who asked is told, not the token");
        for shown in [None, Some(&wrong)] {
            let refused = ask(&at, shown, "POST", "/v1/echo", None).unwrap_err().to_string();
            assert!(refused.contains("answered 403") && !refused.contains("0123456789"), "{refused}");
        }
    }

    #[test]
    fn bodies_are_short_json_and_a_get_has_none() {
        let (_runtime, at) = serving(&loopback(), admin(), Guard::Token(Secret::new(b"0123456789abcdef".to_vec())));
        let ListenAddress::Tcp(address) = at else { panic!("TCP") };
        let big = format!("\"{}\"", "x".repeat(BODY_SIZE));
        for (method, path, body, expected) in [
            ("POST", "/v1/echo", "{\"a\": [1]}", "HTTP/1.1 200"),
            ("POST", "/v1/echo", "", "HTTP/1.1 200"),
            ("POST", "/v1/echo", "target: everything", "HTTP/1.1 400"),
            ("POST", "/v1/echo", &big, "HTTP/1.1 413"),
            ("GET", "/v1/echo", "{}", "HTTP/1.1 405"),
            ("GET", "/v1/status", "no JSON at all", "HTTP/1.1 200"),
            ("POST", "/v1/nothing", "{}", "HTTP/1.1 404"),
        ] {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let token = "authorization: Bearer 0123456789abcdef\r\nconnection: close";
            let sent = format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{token}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(sent.as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), expected, "{method} {path} {body:.40}");
        }
    }

    #[test]
    fn heads_are_bounded_and_what_is_no_request_is_told_nothing() {
        let status = Status {
            health: Arc::new(Health::default()),
            metrics: Arc::new(String::new),
            jwks: Arc::new(Vec::new),
            discovery: Arc::new(Vec::new),
        };
        let (_runtime, at) = serving(&loopback(), Door::Status(status), Guard::Open);
        assert_eq!(ask(&at, None, "GET", "/livez", None).unwrap(), "ok\n");
        let ListenAddress::Tcp(address) = at else { panic!("TCP") };
        let fields = (0..200).map(|nth| format!("x-{nth}: y\r\n")).collect::<Vec<_>>().concat();
        for (sent, expected) in
            [(format!("GET /livez HTTP/1.1\r\n{fields}\r\n"), "HTTP/1.1 431"), ("\u{1}\u{2}\r\n\r\n".to_owned(), "HTTP/1.1 400")]
        {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(sent.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(expected), "{answer}");
        }
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_used_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(bind(&ListenAddress::Unix(path.clone())).unwrap());
        let kept = bind(&ListenAddress::Unix(path.clone())).unwrap();
        assert_eq!(bind(&ListenAddress::Unix(path.clone())).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        drop(kept);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert_eq!(bind(&ListenAddress::Unix(path)).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    }
}
