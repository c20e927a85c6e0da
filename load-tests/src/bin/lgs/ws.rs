//! A WebSocket: upgraded once, then one message after the other there and back.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Failure;
use crate::options::Options;
use crate::stream::PATIENCE;
use crate::tally::Tally;

/// The key of RFC 6455's example, and what accepts it (section 1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Sockets until the time is over.
pub(crate) async fn run(options: &Options) -> Result<String, Failure> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(options.duration);
    let tasks: Vec<_> = (0..options.conns)
        .map(|_| {
            let (options, tally) = (options.clone(), Rc::clone(&tally));
            tokio::task::spawn_local(async move {
                let mut failures = 0;
                while Instant::now() < until && failures < 100 {
                    tally.borrow_mut().opened += 1;
                    let ended = one(&options, &tally, until).await;
                    failures += u32::from(ended.is_err());
                    tally.borrow_mut().stream(ended);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let line = tally.borrow_mut().line(began);
    Ok(line)
}

/// A masked text frame (RFC 6455 section 5.2); the mask is zero, so that the echo is the same bytes.
fn frame(size: usize) -> Vec<u8> {
    let mut bytes = vec![0x81];
    match u8::try_from(size) {
        Ok(small @ ..126) => bytes.push(0x80 | small),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.resize(bytes.len() + size.min(usize::from(u16::MAX)), b'm');
    bytes
}

async fn one(options: &Options, tally: &RefCell<Tally>, until: Instant) -> Result<(), Failure> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(options.target)).await??;
    stream.set_nodelay(true)?;
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
        options.path, options.host
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, stream.read_u8()).await??;
        answer.push(byte);
        if answer.len() > 16_384 {
            return Err("no end of the head".into());
        }
    }
    if !answer.starts_with(b"HTTP/1.1 101") {
        return Err(String::from_utf8_lossy(&answer[..answer.len().min(60)]).into());
    }
    let frame = frame(options.size);
    let mut back = vec![0; frame.len()];
    for _ in 0..options.messages {
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        stream.write_all(&frame).await?;
        timeout(PATIENCE, stream.read_exact(&mut back)).await??;
        tally.borrow_mut().echoed(sent.elapsed());
    }
    // A close frame, and the echo of it.
    stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await?;
    timeout(PATIENCE, stream.read_exact(&mut [0; 6])).await??;
    Ok(())
}
