//! `Fair`: a connection whose reads take turns with everything else of the worker.
//!
//! The engine reads and parses for as long as bytes are there. An upstream that sends what is thrown away (interim responses, PING,
//! SETTINGS) faster than that would keep the worker's thread for as many reads as the runtime allows one task, some 16 MiB.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads in one turn: up to 256 KiB. An answer that comes in one read is not held up, and of a body one frame is taken at a time anyway.
const IN_A_ROW: u8 = 2;

/// A connection that lets others have their turn.
pub(super) struct Fair<T> {
    inner: T,
    reads: u8,
    read: Arc<AtomicUsize>,
}

impl<T> Fair<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, reads: 0, read: Arc::default() }
    }

    /// Bytes read so far, from wherever the counter was set to. An atomic, since the engine asks of an HTTP/1.1 connection that it can be sent.
    pub(super) fn read(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.read)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Fair<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.reads == IN_A_ROW {
            self.reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.reads = if polled.is_ready() { self.reads + 1 } else { 0 };
        self.read.store(self.read.load(Relaxed).wrapping_add(buf.filled().len() - before), Relaxed);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Fair<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn after_some_reads_the_others_have_their_turn() {
        let mut endless = Fair::new(tokio::io::repeat(b'x'));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let in_a_row = std::iter::repeat_with(|| {
                let mut room = [0; 8];
                Pin::new(&mut endless).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_ready()
            });
            assert_eq!(in_a_row.take_while(|ready| *ready).count(), usize::from(IN_A_ROW));
        }
    }
}
