//! `connect`: the first of the pinned addresses that accepts.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

/// How long one address may keep silent before the next is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Dials the addresses in their order, the next one when the former failed or stays silent, and keeps the first that accepts. The
/// caller sets the deadline.
///
/// # Errors
/// The address that was tried last, and why it failed.
pub async fn connect(pinned: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), (Option<SocketAddr>, io::Error)> {
    let mut waiting = pinned.iter().copied();
    let mut dialling = FuturesUnordered::new();
    let mut failed = (None, io::Error::from(io::ErrorKind::AddrNotAvailable));
    dialling.extend(waiting.next().map(dial));
    loop {
        tokio::select! {
            biased;
            done = dialling.next() => match done {
                Some(Ok(connected)) => return Ok(connected),
                Some(Err(why)) => {
                    failed = why;
                    dialling.extend(waiting.next().map(dial));
                }
                None => return Err(failed),
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => dialling.extend(waiting.next().map(dial)),
        }
    }
}

async fn dial(address: SocketAddr) -> Result<(TcpStream, SocketAddr), (Option<SocketAddr>, io::Error)> {
    let stream = TcpStream::connect(address).await.map_err(|error| (Some(address), error))?;
    // Heads and bodies are written in whole pieces: waiting for more only adds delay.
    stream.set_nodelay(true).map_err(|error| (Some(address), error))?;
    Ok((stream, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_address_is_passed_over() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let closed = {
            let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            gone.local_addr().unwrap()
        };
        assert_eq!(connect(&[closed, alive]).await.unwrap().1, alive);
        let (address, error) = connect(&[closed]).await.unwrap_err();
        assert_eq!((address, error.kind()), (Some(closed), io::ErrorKind::ConnectionRefused));
        assert!(connect(&[]).await.is_err());
    }
}
