//! `Fair`: a connection whose reads take turns with everything else of the worker.
//!
//! The engine reads and parses for as long as bytes are there. An upstream that sends what is thrown away (interim responses, PING,
//! SETTINGS) faster than that would keep the worker's thread for as many reads as the runtime allows one task, some 16 MiB.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::counted::Counted;

/// Reads in one turn: up to 256 KiB. An answer that comes in one read is not held up, and of a body one frame is taken at a time anyway.
const IN_A_ROW: u8 = 2;

/// A connection that lets others have their turn, and is counted for as long as it is open.
pub(super) struct Fair<T> {
    inner: T,
    reads: u8,
    read: Arc<AtomicUsize>,
    _counted: Counted,
}

impl<T> Fair<T> {
    pub(super) fn new(inner: T, counted: Counted) -> Self {
        Self { inner, reads: 0, read: Arc::default(), _counted: counted }
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
        poll_write_together(Pin::new(&mut self.inner), cx, slices)
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

/// Most bytes that are copied to be written at once.
const TOGETHER: usize = 1024;

/// Writes slices: one, or a head and a small body, as a single write. `writev` costs the kernel more than `send`, and more than such a copy.
///
/// # Errors
/// The stream's.
pub fn poll_write_together<W: AsyncWrite>(stream: Pin<&mut W>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    if let [one] = slices {
        return stream.poll_write(cx, one);
    }
    if slices.iter().map(|slice| slice.len()).sum::<usize>() > TOGETHER {
        return stream.poll_write_vectored(cx, slices);
    }
    let mut together = SmallVec::<[u8; TOGETHER]>::new();
    for slice in slices {
        together.extend_from_slice(slice);
    }
    stream.poll_write(cx, &together)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Remembers how it was written to.
    #[derive(Default)]
    struct Written(Vec<(&'static str, usize)>);

    impl AsyncWrite for Written {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(("one", bytes.len()));
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(mut self: Pin<&mut Self>, _: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            self.0.push(("many", slices.len()));
            Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_head_and_a_small_body_are_one_write_and_a_large_body_is_not_copied() {
        let (mut written, large) = (Written::default(), [b'x'; TOGETHER]);
        for slices in [&[&large[..]][..], &[b"head", b"body"], &[b"head", &large], &[]] {
            let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
            let polled = poll_write_together(Pin::new(&mut written), &mut Context::from_waker(Waker::noop()), &slices);
            let all: usize = slices.iter().map(|slice| slice.len()).sum();
            assert!(matches!(polled, Poll::Ready(Ok(count)) if count == all), "{polled:?}");
        }
        assert_eq!(written.0, [("one", TOGETHER), ("one", 8), ("many", 2), ("one", 0)]);
    }

    #[test]
    fn after_some_reads_the_others_have_their_turn() {
        let mut endless = Fair::new(tokio::io::repeat(b'x'), Counted::open(&Arc::default(), 1).unwrap());
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
