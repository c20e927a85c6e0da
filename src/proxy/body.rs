//! The two bodies of a passage, as frames: they count, keep to the rules of trailers, and know when the passage is over.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::passage::{Guard, Passage, Side};
use super::respond;
use crate::credentials::Credential;
use crate::dial::ResponseBody;

/// Why a request body broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The caller's connection failed, or its bytes were no body.
    #[error("the caller's body broke off")]
    Caller(#[source] hyper::Error),
    /// The upstream's connection failed.
    #[error("the upstream's body broke off")]
    Upstream(#[source] hyper::Error),
    /// The bytes on the caller's connection are malformed.
    #[error("the caller's body is malformed: {0}")]
    Malformed(&'static str),
    /// The passage was ended from outside.
    #[error("the passage was ended")]
    Ended,
}

/// A request body on its way to the upstream.
pub(super) struct Body {
    /// `None`: nothing to send, as with most requests and every second attempt. The passage is not held: an upstream that does not read may keep
    /// the body for as long as it likes, but neither the passage nor the caller's place.
    content: Option<(Incoming, Weak<Passage>)>,
}

impl Body {
    /// The caller's body; an empty one is none.
    pub(super) fn new(inner: Incoming, passage: &Rc<Passage>) -> Self {
        let content = (!inner.is_end_stream()).then(|| (inner, Rc::downgrade(passage)));
        Self { content }
    }

    /// No body.
    pub(super) const fn none() -> Self {
        Self { content: None }
    }
}

impl Drop for Body {
    /// The engine lets go of a body when it is sent, or when nobody takes it any more.
    fn drop(&mut self) {
        if let Some(passage) = self.content.as_ref().and_then(|(_, passage)| passage.upgrade()) {
            passage.sent();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some((inner, passage)) = &mut self.content else { return Poll::Ready(None) };
        let Some(passage) = passage.upgrade().filter(|passage| passage.may_send()) else {
            return Poll::Ready(Some(Err(BodyError::Ended)));
        };
        let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) else {
            passage.waits(true);
            passage.wake_when_ended(Side::Request, cx);
            return Poll::Pending;
        };
        passage.waits(false);
        if let Some(fault) = passage.conn().wire().fault() {
            return Poll::Ready(Some(Err(BodyError::Malformed(fault))));
        }
        match frame {
            None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(BodyError::Caller(error)))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    passage.count_request(data.len());
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(frame) => Poll::Ready(frame.into_trailers().ok().and_then(|trailers| request_trailers(&passage, trailers)).map(Ok)),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.content.as_ref().is_none_or(|(inner, _)| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.content.as_ref().map_or_else(|| SizeHint::with_exact(0), |(inner, _)| inner.size_hint())
    }
}

/// HTTP/1 request trailers are dropped and counted: next to no server expects them, and proxies before it would not have judged them.
/// HTTP/2 trailers go on without the credentials in them.
fn request_trailers(passage: &Passage, mut trailers: HeaderMap) -> Option<Frame<Bytes>> {
    if passage.head().version != Version::HTTP_2 {
        passage.dropped_trailers(trailers.len());
        return None;
    }
    let (names, findings) = passage.strip_trailers(&trailers);
    for name in names {
        trailers.remove(name);
    }
    passage.found(findings);
    (!trailers.is_empty()).then(|| Frame::trailers(trailers))
}

/// An answer's body on its way to the caller.
pub(super) enum Answer {
    /// exeat's own words.
    Own(Option<Bytes>),
    /// The upstream's.
    Relayed(Relayed),
}

/// The upstream's body; the passage ends with it, or with the request's body where that takes longer.
pub(super) struct Relayed {
    inner: ResponseBody,
    guard: Option<Guard>,
    /// What must not come back in a trailer.
    credential: Option<Arc<Credential>>,
}

impl Relayed {
    /// Takes the passage along to the end of the body; an empty body ends it here.
    pub(super) fn new(inner: ResponseBody, guard: Guard, credential: Option<Arc<Credential>>) -> Self {
        let mut relayed = Self { inner, guard: Some(guard), credential };
        if relayed.inner.is_end_stream() {
            relayed.finish();
        }
        relayed
    }

    fn finish(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.complete();
            if let Some(upload) = self.inner.upload() {
                guard.outlast(upload);
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(guard) = &self.guard else { return Poll::Ready(None) };
        if guard.ended().get().is_some() {
            self.guard = None;
            return Poll::Ready(Some(Err(BodyError::Ended)));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            guard.wake_when_ended(Side::Response, cx);
            return Poll::Pending;
        };
        match frame {
            None => {
                self.finish();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                guard.broke("the upstream's answer broke off");
                self.guard = None;
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    guard.count_response(data.len());
                    if self.inner.is_end_stream() {
                        self.finish();
                    }
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().ok().map(|mut trailers| {
                        if respond::clean_trailers(&mut trailers, self.credential.as_deref()) {
                            guard.note(|access| access.reflected = true);
                        }
                        Ok(Frame::trailers(trailers))
                    });
                    self.finish();
                    Poll::Ready(trailers)
                }
            },
        }
    }
}

impl Drop for Relayed {
    /// A caller over HTTP/1 is told the length and asks for no more when it has it; over HTTP/2 an upstream may say the end behind the last
    /// byte, in a frame of its own.
    fn drop(&mut self) {
        if self.inner.size_hint().exact() == Some(0) {
            self.finish();
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relayed) => Poll::Ready(ready!(relayed.poll(cx))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.guard.is_none() || relayed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relayed(relayed) => relayed.inner.size_hint(),
        }
    }
}
