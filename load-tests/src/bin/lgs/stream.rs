//! gRPC-like streaming over HTTP/2 with prior knowledge: a call stays open, and one message after the other goes there and back.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Failure;
use crate::options::Options;
use crate::tally::Tally;

/// How long one message, or the end of a stream, may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Streams until the time is over; every stream is then ended in order.
pub(crate) async fn run(options: &Options) -> Result<String, Failure> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(options.duration);
    let mut tasks = Vec::new();
    for _ in 0..options.conns {
        let stream = TcpStream::connect(options.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::task::spawn_local(connection);
        for _ in 0..options.streams {
            let (sender, options, tally) = (sender.clone(), options.clone(), Rc::clone(&tally));
            tasks.push(tokio::task::spawn_local(async move {
                let mut failures = 0;
                while Instant::now() < until && failures < 100 {
                    tally.borrow_mut().opened += 1;
                    let ended = one(sender.clone(), &options, &tally, until).await;
                    failures += u32::from(ended.is_err());
                    tally.borrow_mut().stream(ended);
                }
            }));
        }
    }
    for task in tasks {
        task.await?;
    }
    let line = tally.borrow_mut().line(began);
    Ok(line)
}

/// A message behind its length prefix (gRPC over HTTP/2, "Length-Prefixed-Message").
fn message(size: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + size);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    bytes.put_bytes(b'm', size);
    bytes.freeze()
}

async fn one(sender: SendRequest<Bytes>, options: &Options, tally: &RefCell<Tally>, until: Instant) -> Result<(), Failure> {
    let mut sender = timeout(PATIENCE, sender.ready()).await??;
    let uri = format!("http://{}{}", options.host, options.path);
    let head = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(())?;
    let (answer, mut out) = sender.send_request(head, false)?;
    let message = message(options.size);
    let mut answer = Some(answer);
    let mut back = None;
    for _ in 0..options.messages {
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        out.send_data(message.clone(), false)?;
        if let Some(answer) = answer.take() {
            let answer = timeout(PATIENCE, answer).await??;
            if answer.status() != 200 {
                return Err(format!("answered {}", answer.status()).into());
            }
            back = Some(answer.into_body());
        }
        let Some(body) = &mut back else { continue };
        let mut got = 0;
        while got < message.len() {
            let piece = timeout(PATIENCE, body.data()).await?.ok_or("the answer ended early")??;
            got += piece.len();
            body.flow_control().release_capacity(piece.len())?;
        }
        tally.borrow_mut().echoed(sent.elapsed());
    }
    out.send_data(Bytes::new(), true)?;
    if let Some(mut body) = back {
        while let Some(piece) = timeout(PATIENCE, body.data()).await? {
            piece?;
        }
        let trailers = timeout(PATIENCE, body.trailers()).await??;
        if trailers.is_none_or(|trailers| trailers.get("grpc-status").is_none_or(|status| status != "0")) {
            return Err("no grpc-status: 0".into());
        }
    }
    Ok(())
}
