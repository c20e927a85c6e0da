//! HTTP/2 peers that are written frame by frame: what they allow, and what they leave untaken.
#![allow(clippy::future_not_send, reason = "a worker's futures stay on their thread")]

use std::pin::pin;
use std::task::{Context, Waker};

use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::tests::{H1, Served, TestBody, bounded, destination, dialer, get, hop, send, serve, until_open, upstream, whole, worker};
use super::*;
use crate::capture::Scheme;
use crate::refusal::Code;

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Flags; and `:status: 200`, compressed.
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const OK: &[u8] = &[0x88];

/// Reads until a frame of this kind has come; its stream.
async fn until(kind: u8, stream: &mut tokio::net::TcpStream, read: &mut Vec<u8>) -> Option<u32> {
    loop {
        let preface = if read.starts_with(b"PRI") { 24 } else { 0 };
        if let Some(head) = read.get(preface..preface + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (found, id) = (head[3], u32::from_be_bytes(head[5..9].try_into().unwrap()));
            if read.len() >= preface + 9 + length {
                read.drain(..preface + 9 + length);
                if found == kind {
                    return Some(id);
                }
                continue;
            }
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn an_http2_peer_that_says_goodbye_and_takes_nothing_keeps_no_connection() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, (tell, stuck)) = (listener.local_addr().unwrap().port(), tokio::sync::oneshot::channel());
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let id = until(HEADERS, &mut stream, &mut read).await.unwrap();
            stream.write_all(&frame(HEADERS, END_HEADERS, id, OK)).await.unwrap();
            stream.write_all(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await.unwrap();
            let pings = frame(PING, 0, 0, &[0; 8]).repeat(1000);
            while tokio::time::timeout(Duration::from_millis(100), stream.write_all(&pings)).await.is_ok() {}
            tell.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        let upstream = upstream(|upstream| upstream.protocol = Protocol::H2);
        let (_, dialer) = bounded(Limits { stalled: Duration::from_millis(300), ..Limits::default() });
        let place = destination(Scheme::Http, "ledger.example", port);
        let mut facts = Facts::default();
        let response = dialer.send(&hop(&upstream, &place), &mut Some(whole(get("/"))), &mut facts, &mut || Ok(())).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), stuck).await.expect("it takes all that it is sent").unwrap();
        drop(response);
        until_open(&dialer, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_allows_one_stream_is_sent_one_request_at_a_time() {
    worker(async {
        let (port, connections) = serve(Served { h2: true, streams: 1, ..H1 }).await;
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        send(&dialer, &hop, get("/")).await.1.unwrap();
        let mut slow = pin!(send(&dialer, &hop, get("/slow")));
        assert!(slow.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let beside = tokio::time::timeout(Duration::from_secs(10), send(&dialer, &hop, get("/"))).await;
        beside.expect("it waits in the engine").1.unwrap();
        assert_eq!(connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_request_is_taken_back_from_a_peer_that_no_longer_allows_it() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        spawn_local(async move {
            for connection in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let tell = tell.clone();
                spawn_local(async move {
                    let (mut read, allows) = (Vec::new(), |streams| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, streams]));
                    stream.write_all(&allows(10)).await.unwrap();
                    for request in 0.. {
                        let Some(id) = until(HEADERS, &mut stream, &mut read).await else { return };
                        if (connection, request) == (0, 1) {
                            stream.write_all(&[allows(1), frame(PING, 0, 0, &[0; 8])].concat()).await.unwrap();
                            until(PING, &mut stream, &mut read).await;
                        } else {
                            stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, OK)).await.unwrap();
                        }
                        tell.send((connection, request)).unwrap();
                    }
                });
            }
        });
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        send(&dialer, &hop, get("/")).await.1.unwrap();
        assert_eq!(told.recv().await, Some((0, 0)));
        let mut held = pin!(send(&dialer, &hop, get("/")));
        tokio::select! {
            biased;
            _ = &mut held => panic!("it is not answered"),
            lowered = told.recv() => assert_eq!(lowered, Some((0, 1))),
        }
        let beside = tokio::time::timeout(Duration::from_secs(10), send(&dialer, &hop, get("/"))).await;
        let (facts, answer) = beside.expect("it waits in the engine");
        assert!(answer.is_ok() && facts.stale == 1);
        assert_eq!(told.recv().await, Some((1, 0)));
    })
    .await;
}

/// An HTTP/2 server by hand that answers all requests but these, by the number of their connection and on it, and tells what came.
async fn leaving_out(unanswered: &'static [(usize, usize)]) -> (u16, tokio::sync::mpsc::UnboundedReceiver<(usize, usize)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, (tell, told)) = (listener.local_addr().unwrap().port(), tokio::sync::mpsc::unbounded_channel());
    spawn_local(async move {
        for connection in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            spawn_local(async move {
                let mut read = Vec::new();
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                for request in 0.. {
                    let Some(id) = until(HEADERS, &mut stream, &mut read).await else { return };
                    if !unanswered.contains(&(connection, request)) {
                        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, OK)).await.unwrap();
                    }
                    tell.send((connection, request)).ok();
                }
            });
        }
    });
    (port, told)
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_back_is_used_no_more() {
    worker(async {
        let (port, mut told) = leaving_out(&[(0, 1), (0, 2)]).await;
        let ((clock, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        send(&dialer, &hop, get("/")).await.1.unwrap();
        assert_eq!(told.recv().await, Some((0, 0)));
        for (request, waits) in [(1, Duration::ZERO), (2, Duration::from_secs(1))] {
            let mut given_up = pin!(send(&dialer, &hop, get("/")));
            tokio::select! {
                biased;
                _ = &mut given_up => panic!("it is not answered"),
                came = told.recv() => assert_eq!(came, Some((0, request)), "a caller that leaves soon proves nothing"),
            }
            clock.advance(waits);
        }
        let after = tokio::time::timeout(Duration::from_secs(10), send(&dialer, &hop, get("/"))).await;
        after.expect("it waits where nothing comes back").1.unwrap();
        assert_eq!(told.recv().await, Some((1, 0)));
        until_open(&dialer, 1).await;
    })
    .await;
}

/// An HTTP/2 server by hand that gives all the window there is, answers its first request, and then reads nothing more.
async fn taking_nothing() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let window = [frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]), frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0])].concat();
        stream.write_all(&window).await.unwrap();
        let id = until(HEADERS, &mut stream, &mut Vec::new()).await.unwrap();
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, OK)).await.unwrap();
        let _second = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
    });
    port
}

/// Far more than the buffers of a connection hold.
fn large() -> Request<TestBody> {
    Request::post("/").body(Full::from(vec![0; 32 << 20]).boxed_unsync()).unwrap()
}

/// Lets the engine's tasks have their turns while a request waits.
async fn turns(mut waiting: std::pin::Pin<&mut impl Future>) {
    for _ in 0..4 {
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_callers_leave_behind_with_a_peer_that_takes_nothing_is_bounded() {
    worker(async {
        let port = taking_nothing().await;
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        send(&dialer, &hop, get("/")).await.1.unwrap();
        let mut upload = pin!(send(&dialer, &hop, large()));
        turns(upload.as_mut()).await;
        for _ in 0..200 {
            turns(pin!(send(&dialer, &hop, get("/")))).await;
            if dialer.inner.connector.open.load(Relaxed) > 1 {
                return;
            }
        }
        panic!("the first connection still takes requests");
    })
    .await;
}

#[tokio::test]
async fn a_head_that_may_not_leave_any_more_ends_the_connection_that_still_holds_it() {
    worker(async {
        let port = taking_nothing().await;
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        send(&dialer, &hop, get("/")).await.1.unwrap();
        let mut upload = pin!(send(&dialer, &hop, large()));
        turns(upload.as_mut()).await;
        let (mut facts, mut revoked) = (Facts::default(), || Err(Refusal::new(Code::Revoked, "revoked meanwhile")));
        turns(pin!(dialer.send(&hop, &mut Some(whole(get("/"))), &mut facts, &mut revoked))).await;
        until_open(&dialer, 0).await;
        assert!(upload.await.1.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_head_that_waits_in_the_engine_for_a_stream_does_not_leave_after_its_revocation() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ((go, may_go), (tell, told)) = (tokio::sync::oneshot::channel::<()>(), tokio::sync::oneshot::channel());
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            stream.write_all(&frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])).await.unwrap();
            let id = until(HEADERS, &mut stream, &mut read).await.unwrap();
            // An answer that leaves the stream open, since no window is given for the body's end.
            stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, OK)).await.unwrap();
            may_go.await.unwrap();
            let window = [frame(WINDOW_UPDATE, 0, id, &[0, 1, 0, 0]), frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0])].concat();
            stream.write_all(&window).await.ok();
            tell.send(until(HEADERS, &mut stream, &mut read).await).unwrap();
        });
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        let upload = Request::post("/").body(Full::from(vec![0; 100_000]).boxed_unsync()).unwrap();
        send(&dialer, &hop, upload).await.1.unwrap();
        {
            let (mut facts, mut revoked) = (Facts::default(), || Err(Refusal::new(Code::Revoked, "revoked meanwhile")));
            turns(pin!(dialer.send(&hop, &mut Some(whole(get("/"))), &mut facts, &mut revoked))).await;
        }
        go.send(()).unwrap();
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), told).await.unwrap().unwrap(), None);
    })
    .await;
}
