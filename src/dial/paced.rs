//! `Paced`: the socket of an HTTP/2 connection, whose peer has to take what it asked for.
//!
//! The engine writes in a task of its own, without a deadline: an upstream that says goodbye, asks for answers to PING and reads nothing
//! would keep the descriptor for as long as its kernel acknowledges.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::trunk::Trunk;

/// For what the engine waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    No,
    /// Room for a byte: the next one that is taken went on its way.
    ToWrite,
    /// The end of what TLS holds: what it takes meanwhile went nowhere yet.
    ToFlush,
}

/// A connection that ends when its peer takes nothing for too long. While nothing is under way a byte is not enough: all has to be taken.
pub(super) struct Paced<T> {
    inner: T,
    trunk: Rc<Trunk>,
    most: Duration,
    waits: Waits,
    /// Made when a write first has to wait.
    timer: Option<Pin<Box<Sleep>>>,
    first: First,
}

/// The first frame that the peer sends: its SETTINGS (RFC 9113 section 3.4).
#[derive(Debug)]
struct First {
    length: usize,
    seen: usize,
}

impl First {
    /// Whether all of it has come.
    fn ends_in(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes.iter().take(3_usize.saturating_sub(self.seen)) {
            self.length = self.length << 8 | usize::from(*byte);
        }
        self.seen += bytes.len();
        self.seen >= 9 + self.length
    }
}

impl<T> Paced<T> {
    pub(super) const fn new(inner: T, trunk: Rc<Trunk>, most: Duration) -> Self {
        Self { inner, trunk, most, waits: Waits::No, timer: None, first: First { length: 0, seen: 0 } }
    }

    fn wrote(&mut self, polled: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if polled.is_pending() {
            return self.wait(Waits::ToWrite, cx);
        }
        if self.waits == Waits::ToWrite && self.trunk.is_in_use() {
            self.waits_no_more();
        }
        polled
    }

    fn flushed(&mut self, polled: Poll<io::Result<()>>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if polled.is_pending() {
            return self.wait(Waits::ToFlush, cx);
        }
        self.trunk.flush();
        if self.waits != Waits::No {
            self.waits_no_more();
        }
        polled
    }

    /// What is left unwritten may hold what may not leave.
    fn lives(&self) -> io::Result<()> {
        if self.trunk.is_dead() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn waits_no_more(&mut self) {
        self.waits = Waits::No;
        self.trunk.block(false);
    }

    #[cold]
    fn wait<R>(&mut self, what: Waits, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        let fresh = self.waits == Waits::No;
        if fresh || what == Waits::ToWrite {
            self.waits = what;
            self.trunk.block(true);
        }
        let until = Instant::now() + self.most;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if fresh {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if !self.trunk.is_heard() && self.first.ends_in(buf.filled().get(before..).unwrap_or_default()) {
            self.trunk.hear();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lives()?;
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(polled, cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.lives()?;
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.wrote(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lives()?;
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.flushed(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lives()?;
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.flushed(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    const MOST: Duration = Duration::from_millis(50);

    /// Writes while the peer takes a byte now and then; whether the connection lasts for so long.
    async fn lasts(paced: &mut Paced<tokio::io::DuplexStream>, peer: &mut tokio::io::DuplexStream, long: Duration) -> bool {
        let until = Instant::now() + long;
        while Instant::now() < until {
            let mut full = false;
            while !full {
                let written = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *paced).poll_write(cx, b"x"))).await;
                match written {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => {
                        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                        return false;
                    }
                    Poll::Pending => full = true,
                }
            }
            tokio::task::yield_now().await;
            peer.read_u8().await.unwrap();
        }
        true
    }

    #[tokio::test]
    async fn a_byte_now_and_then_is_enough_only_while_something_is_under_way() {
        let (ours, mut peer) = tokio::io::duplex(8);
        let trunk = Trunk::new(Arc::default(), Instant::now().into_std());
        let mut paced = Paced::new(ours, Rc::clone(&trunk), MOST);
        let seat = trunk.sit(Instant::now().into_std());
        assert!(lasts(&mut paced, &mut peer, MOST * 4).await);
        drop(seat);
        assert!(!lasts(&mut paced, &mut peer, Duration::from_secs(10)).await);
    }

    #[test]
    fn the_first_frame_ends_where_its_head_says() {
        let frame = [&[0, 1, 0, 4, 0, 0, 0, 0, 0][..], &[0; 256]].concat();
        for step in [1, 2, 4, 300] {
            let mut first = First { length: 0, seen: 0 };
            let ends: Vec<_> = frame.chunks(step).map(|bytes| first.ends_in(bytes)).collect();
            assert_eq!(ends.iter().position(|ends| *ends), Some(ends.len() - 1), "in steps of {step}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_not_waited_for_any_longer() {
        let (ours, peer) = tokio::io::duplex(8);
        let trunk = Trunk::new(Arc::default(), Instant::now().into_std());
        let _seat = trunk.sit(Instant::now().into_std());
        let mut paced = Paced::new(ours, Rc::clone(&trunk), MOST);
        let error = tokio::io::AsyncWriteExt::write_all(&mut paced, &[0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(peer);
    }
}
