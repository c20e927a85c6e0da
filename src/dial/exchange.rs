//! One request on one connection: shaped for its HTTP version, sent, and waited for.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::time::{Instant, Sleep};

use super::body::{Outgoing, Progress, ResponseBody};
use super::dialer::Again;
use super::error::{DialError, Place};
use super::hop::{Facts, Hop};
use super::lane::{Lane, Sender};
use super::line::{Line, Unanswered};
use super::trunk::Seat;
use crate::clock::{Clock, passed};

/// How an exchange ended without a response.
pub(super) enum Failed {
    /// Not a byte was written: the request is whole again, and the connection was dead already.
    Unsent(DialError),
    /// Something may have been written.
    Sent(DialError),
}

/// An answer, the line of its HTTP/1.1 connection, and how far the request's body has come, if there is one.
pub(super) struct Answered {
    response: Response<hyper::body::Incoming>,
    line: Option<Rc<Line>>,
    progress: Option<Rc<Progress>>,
}

impl Answered {
    /// One that came over no connection of the pool.
    #[cfg(any(test, fuzzing))]
    pub(super) const fn alone(response: Response<hyper::body::Incoming>) -> Self {
        Self { response, line: None, progress: None }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }
}

/// HTTP/1.1: origin form, and a `Host` (RFC 9112 sections 3.2.1 and 3.2).
fn shape_h1<B>(request: &mut Request<B>, lane_host: &HeaderValue) {
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let host = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        request.headers_mut().insert(HOST, host.unwrap_or_else(|| lane_host.clone()));
    }
    if request.uri().authority().is_some() || request.uri().scheme().is_some() {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    }
}

/// HTTP/2: `:scheme` and `:authority` in place of `Host` (RFC 9113 section 8.3.1).
fn shape_h2<B>(request: &mut Request<B>, scheme: Scheme, lane_host: &HeaderValue, lane_authority: &Authority) {
    *request.version_mut() = Version::HTTP_2;
    let authority = match request.headers_mut().remove(HOST) {
        Some(host) if host != lane_host => Authority::try_from(host.as_bytes()).unwrap_or_else(|_| lane_authority.clone()),
        Some(_) => lane_authority.clone(),
        None => request.uri().authority().unwrap_or(lane_authority).clone(),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query = Some(request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Sends and waits for the response head. Gives back the connection where it may carry further requests, and the request if nothing of it was
/// written. It is lent: an asynchronous function would hold what it is given twice, and move it once more.
pub(super) async fn exchange<B>(
    sender: &mut Sender<B>,
    lane: &Lane<B>,
    hop: &Hop<'_>,
    facts: &mut Facts,
    request: &mut Option<Request<Outgoing<B>>>,
    clock: &dyn Clock,
    again: Again<'_>,
) -> Result<Answered, Failed>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    let Some(mut whole) = request.take() else {
        let why = "it was sent before".to_owned();
        return Err(Failed::Sent(DialError::Reset { place: Place::new(hop, facts), why, reused: facts.reused, unprocessed: false }));
    };
    let progress = whole.body().progress();
    facts.sent = true;
    let mut waiting = None;
    let mut timer = lane.timers.take(hop.upstream.deadlines.response_head);
    let answered = match sender {
        Sender::H1(sender) => {
            shape_h1(&mut whole, &lane.host);
            waiting = Some(sender.unanswered());
            in_time(pin!(sender.try_send_request(whole)), timer.as_mut(), progress.as_deref(), hop).await
        }
        Sender::H2(sender, place) => {
            whole.body_mut().hold(place);
            let scheme = if hop.destination.scheme == crate::capture::Scheme::Https { Scheme::HTTPS } else { Scheme::HTTP };
            shape_h2(&mut whole, scheme, &lane.host, &lane.authority);
            let asks = place.asks(clock, again);
            let answered = in_time(pin!(sender.try_send_request(whole)), timer.as_mut(), progress.as_deref(), hop).await;
            if let Ok(Ok(_)) = &answered {
                asks.answered();
            }
            answered
        }
    };
    lane.timers.keep(timer);
    match answered {
        Ok(Ok(response)) => Ok(Answered { response, line: waiting.and_then(Unanswered::answered), progress }),
        Ok(Err(mut error)) => {
            *request = error.take_message();
            Err(unanswered(&error.into_error(), request.is_some(), progress.as_deref(), hop, facts))
        }
        Err(what) => {
            let after = if what == STALLED { hop.upstream.deadlines.idle } else { hop.upstream.deadlines.response_head };
            Err(Failed::Sent(DialError::Slow { place: Place::new(hop, facts), what, after }))
        }
    }
}

const HEAD: &str = "the response head";
const STALLED: &str = "the silence of the request body";

/// Waits for the head. The deadline of the head runs from the end of the request body; while the body is being sent only its silence is
/// judged. The timer is looked at after the first poll, and at the body when it fires: a request with a body costs not one timer per frame,
/// and such a head may be up to one deadline late before it is given up.
async fn in_time<F: Future>(
    mut answer: Pin<&mut F>,
    mut timer: Pin<&mut Sleep>,
    progress: Option<&Progress>,
    hop: &Hop<'_>,
) -> Result<F::Output, &'static str> {
    let deadlines = &hop.upstream.deadlines;
    let mut until = Instant::now() + deadlines.response_head;
    let (mut seen, mut silence) = (0, Duration::ZERO);
    loop {
        let answered = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            Poll::Pending if passed(timer.as_mut(), until, cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        if let Some(answered) = answered.await {
            return Ok(answered);
        }
        let Some(progress) = progress else { return Err(HEAD) };
        until = if let Some(finished) = progress.finished.get() {
            let after_body = finished + deadlines.response_head;
            if after_body <= until {
                return Err(HEAD);
            }
            after_body
        } else {
            let frames = progress.frames.get();
            silence = if frames == seen { silence + deadlines.response_head } else { Duration::ZERO };
            seen = frames;
            if silence >= deadlines.idle {
                return Err(STALLED);
            }
            until + deadlines.response_head
        };
    }
}

/// Tells apart what the engine says.
fn unanswered(error: &hyper::Error, unsent: bool, progress: Option<&Progress>, hop: &Hop<'_>, facts: &mut Facts) -> Failed {
    let why = chain(error);
    let place = Place::new(hop, facts);
    if unsent {
        facts.sent = false;
        return Failed::Unsent(DialError::Reset { place, why, reused: facts.reused, unprocessed: true });
    }
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    let ours = h2.is_some_and(|h2| h2.is_library() || matches!(h2.reason(), Some(h2::Reason::PROTOCOL_ERROR)));
    let unprocessed = h2.is_some_and(|h2| h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM)));
    // The engine also calls it the user's error when the connection's task has ended under a request: that is the upstream's doing.
    Failed::Sent(if error.is_user() && progress.is_some_and(|progress| progress.broke.get()) {
        DialError::RequestBody { place, why }
    } else if error.is_parse() || ours {
        DialError::Protocol { place, why }
    } else {
        DialError::Reset { place, why, reused: facts.reused, unprocessed }
    })
}

/// An error with its causes: the engine says the kind, the cause says which. What the peer wrote into its GOAWAY (RFC 9113 section 6.8) is
/// left out: an upstream could write the credential that it was sent into the records.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        match inner.downcast_ref::<h2::Error>().filter(|h2| h2.is_go_away()) {
            Some(goaway) => {
                text.push_str(if goaway.is_remote() { "connection error received: " } else { "connection error detected: " });
                text.push_str(&goaway.reason().map_or_else(String::new, |reason| reason.to_string()));
            }
            None => text.push_str(&inner.to_string()),
        }
        cause = inner.source();
    }
    text
}

/// Whether all that is said of the length of a body is one number.
fn is_one_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return true };
    !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit) && lengths.all(|length| length == first)
}

/// What every response head must be before anybody sees it.
pub(super) fn accept(
    Answered { mut response, line, progress }: Answered,
    seat: Option<Rc<Seat>>,
    hop: &Hop<'_>,
    facts: &Facts,
) -> Result<Response<ResponseBody>, DialError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !hop.upgrade {
        let why = "it switched protocols (101) although nobody asked".to_owned();
        return Err(DialError::Protocol { place: Place::new(hop, facts), why });
    }
    // The engine frames by Transfer-Encoding, or by a status that has no body, and leaves the overruled Content-Length in the head, whatever
    // it says (RFC 9112 section 6.3, RFC 9110 section 8.6): passed on, the next reader could frame by it.
    let headers = response.headers();
    if headers.contains_key(TRANSFER_ENCODING) || response.status() == StatusCode::NO_CONTENT || !is_one_length(headers) {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    Ok(response.map(|body| ResponseBody::new(body, seat, line, progress)))
}
