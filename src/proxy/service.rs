//! One request: from its head to the head of its answer.
//!
//! Whatever becomes of it, its [`Guard`] gives one record: it moves into the answer's body, into a tunnel, or is dropped here.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::body::{Answer, Body, Relayed};
use super::connection::Conn;
use super::forward::{self, Forward, Wishes};
use super::passage::{Guard, Passage, Side};
use super::respond::{self, Asked};
use super::{intercept, tunnel, upgrade};
use crate::audit::{Access, Attempt, Outcome};
use crate::capture::{self, Destination, Sha256};
use crate::catalogue::Upstream;
use crate::credentials::Credential;
use crate::dial::{DialError, Facts, Hop, Outgoing, ResponseBody, Tunnel};
use crate::gate::{Clearance, Connect};
use crate::identity::Workload;
use crate::policy::Plan;
use crate::refusal::{Code, Refusal};
use crate::strip;
use crate::telemetry::context::Incoming as Trace;

/// There is nothing to answer: the connection (HTTP/1) or the stream (HTTP/2) ends.
#[derive(Debug, thiserror::Error)]
#[error("the passage was ended before it was answered")]
pub(super) struct Broken;

/// Why a request is not forwarded.
pub(super) enum Failure {
    /// It is refused, and told so.
    Refused(Refusal),
    /// It was ended from outside.
    Broken,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a judged request has become.
enum Passed {
    /// The upstream answered.
    Answered(Response<ResponseBody>, Option<Arc<Credential>>),
    /// The upstream switched to WebSocket.
    Switched(Response<ResponseBody>, Option<Arc<Credential>>),
    /// A tunnel stands.
    Tunnel(Tunnel),
    /// A tunnel whose content is judged.
    Intercept(Arc<Upstream>, Destination),
}

/// Serves one request of a connection.
pub(super) async fn serve(conn: Rc<Conn>, request: Request<Incoming>) -> Result<Response<Answer>, Broken> {
    let response = answer(&conn, request).await?;
    conn.answered();
    Ok(response)
}

async fn answer(conn: &Rc<Conn>, mut request: Request<Incoming>) -> Result<Response<Answer>, Broken> {
    let fault = conn.served_one();
    // hyper leaves an extension exactly when the request could take the connection over.
    let takeover = (!request.extensions().is_empty()).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let worker = Rc::clone(conn.worker());
    let checked = match fault {
        Some(fault) => Err(Refusal::new(Code::Malformed, fault)),
        None => capture::check(&parts, worker.limits().head),
    };
    let (access, trace) = begin(conn, &parts);
    let (unread, id, time) = (checked.is_err() || !body.is_end_stream(), access.id, access.time);
    let slot = match worker.shared().ledger.reserve() {
        Ok(slot) => slot,
        Err(refusal) => return Ok(respond::refusal(&refusal, Asked::of(&parts, unread, id, time))),
    };
    let wishes = forward::hop_by_hop(&mut parts.headers, parts.version);
    let guard = Guard::new(conn, parts, access, slot);
    let passed = match checked {
        Ok(()) => pass(&guard, wishes, &trace, body).await,
        Err(refusal) => Err(refusal.into()),
    };
    match passed {
        Ok(Passed::Answered(response, credential)) => Ok(relay(guard, response, credential)),
        Ok(Passed::Switched(response, credential)) => Ok(upgrade::switch(guard, response, credential.as_deref(), takeover)),
        Ok(Passed::Tunnel(upstream)) => Ok(tunnel::start(guard, takeover, upstream)),
        Ok(Passed::Intercept(upstream, destination)) => Ok(intercept::start(guard, takeover, &upstream, destination)),
        Err(Failure::Refused(refusal)) => {
            guard.refuse(&refusal);
            let response = respond::refusal(&refusal, Asked::of(guard.head(), unread, id, time));
            guard.answered(response.status());
            Ok(response)
        }
        Err(Failure::Broken) => Err(Broken),
    }
}

/// What is remembered, as far as arrival and head tell it.
fn begin(conn: &Conn, parts: &http::request::Parts) -> (Box<Access>, Trace) {
    let worker = conn.worker();
    let mut ids = worker.ids().borrow_mut();
    let trace = Trace::read(&parts.headers, &mut ids, worker.shared().sampler);
    let arrival = conn.arrival();
    let access = Box::new(Access {
        id: ids.request(),
        time: worker.clock().now(),
        began: worker.clock().instant(),
        took: Duration::ZERO,
        trace: trace.ids,
        listener: Arc::clone(&arrival.listener),
        mode: arrival.mode,
        peer: arrival.peer,
        version: parts.version,
        workload: None,
        method: parts.method.clone(),
        path: strip::redact_path(parts.uri.path()).into(),
        grpc: false,
        tunnel: false,
        destination: None,
        upstream: None,
        outcome: Outcome::Allowed,
        detail: "".into(),
        rule: None,
        lease: None,
        would_be: None,
        observed: false,
        revision: 0,
        policy: worker.no_policy(),
        findings: smallvec::SmallVec::new(),
        credential: None,
        decided: Duration::ZERO,
        obtained: Duration::ZERO,
        cached: false,
        attempts: smallvec::SmallVec::new(),
        status: None,
        request_bytes: 0,
        response_bytes: 0,
        dropped_trailers: 0,
        reflected: false,
    });
    (access, trace)
}

async fn pass(guard: &Guard, wishes: Wishes, trace: &Trace, body: Incoming) -> Result<Passed, Failure> {
    let passage = guard.passage();
    let worker = passage.conn().worker();
    let head = passage.head();
    if wishes.is_forwarded() {
        worker.shared().via.check(&head.headers)?;
    }
    if head.method == Method::CONNECT {
        // Boxed: the usual request is no larger for it.
        return Box::pin(connect(passage)).await;
    }
    if wishes.websocket {
        upgrade::check_request(head)?;
    }
    let snapshot = worker.snapshot();
    let clearance = {
        let mut lent = passage.lend();
        let access = lent.as_mut().ok_or_else(lost)?;
        let admit = |workload: &Workload| passage.admit(&snapshot, workload);
        until_ended(passage, pin!(worker.gate().pass(&snapshot, passage.conn().arrival(), head, access, admit))).await??
    };
    passage.judged.set(Some(snapshot.revision));
    drop(snapshot);
    exchange(passage, clearance, wishes, trace, body).await
}

fn lost() -> Refusal {
    Refusal::new(Code::Internal, "what is remembered of the passage was lent twice")
}

/// Sends the request, at most twice: again only when nothing of it can have been acted on, or when the upstream rejected a credential that
/// could be renewed; and only without a body, which is gone once it was sent.
async fn exchange(
    passage: &Rc<Passage>,
    mut clearance: Box<Clearance>,
    wishes: Wishes,
    trace: &Trace,
    body: Incoming,
) -> Result<Passed, Failure> {
    let worker = passage.conn().worker();
    let head = passage.head();
    let repeatable = body.is_end_stream();
    let mut body = Body::new(body, passage);
    let mut first = true;
    passage.until.set(clearance.permit().until_by_rule());
    passage.idle.set(clearance.permit().upstream().deadlines.idle);
    loop {
        let span = worker.ids().borrow_mut().span();
        let mut facts = Facts { began: passage.judged_at().filter(|_| first), ..Facts::default() };
        // The edits end here: what lives while the upstream is waited for is room in every request.
        let mut request = {
            // Nothing was waited for since the clearance was given.
            let now = if first { clearance.at() } else { worker.clock().now() };
            let edits = clearance.attempt_edits(head, &worker.gate().live, now)?;
            let forward = Forward {
                head,
                wishes,
                destination: clearance.destination(),
                trace: trace.edits(span),
                edits,
                via: (*clearance.permit().plan() != Plan::AsIs).then_some(&worker.shared().via),
            };
            Some(forward.request(body))
        };
        let answered = attempt(passage, &clearance, wishes, span, &mut request, &mut facts).await?;
        match answered {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && wishes.websocket => {
                upgrade::check_response(head, response.headers())?;
                return Ok(Passed::Switched(response, clearance.credential().cloned()));
            }
            Ok(response) if !respond::is_final(response.status()) => {
                let detail = format!("upstream `{}` switched protocols unasked", clearance.permit().upstream().name);
                return Err(Refusal::new(Code::UpstreamUnreachable, detail).into());
            }
            Ok(response) if first && repeatable && response.status() == StatusCode::UNAUTHORIZED => {
                let snapshot = worker.snapshot();
                let Some(renewed) = until_ended(passage, Box::pin(worker.gate().renew(&snapshot, &clearance)).as_mut()).await? else {
                    return Ok(Passed::Answered(response, clearance.credential().cloned()));
                };
                clearance.renewed(renewed);
                passage.note(|access| access.credential = clearance.credential().cloned());
            }
            Ok(response) => return Ok(Passed::Answered(response, clearance.credential().cloned())),
            Err(error) if first && repeatable && error.may_resend(head.method.is_idempotent()) => {}
            Err(_) if passage.ended().get().is_some() => return Err(Failure::Broken),
            Err(error) => return Err(error.refusal().into()),
        }
        first = false;
        body = Body::none();
    }
}

/// One try at the upstream, remembered however it ends.
async fn attempt(
    passage: &Rc<Passage>,
    clearance: &Clearance,
    wishes: Wishes,
    span: [u8; 8],
    request: &mut Option<Request<Outgoing<Body>>>,
    facts: &mut Facts,
) -> Result<Result<Response<ResponseBody>, DialError>, Failure> {
    let worker = passage.conn().worker();
    let standing = clearance.standing()?;
    let permit = clearance.permit();
    let hop = Hop {
        upstream: permit.upstream(),
        destination: clearance.destination(),
        generation: standing.as_ref().map_or(0, |standing| standing.generation),
        workload: permit.upstream().tls.client_certificate.then_some(permit.workload()),
        standing: standing.as_ref(),
        upgrade: wishes.websocket,
    };
    let mut again = || clearance.still_stands(&worker.gate().live, worker.clock().now());
    let sent = until_ended(passage, pin!(worker.dialer().send(&hop, request, facts, &mut again))).await;
    let (status, error) = match &sent {
        Ok(Ok(response)) => (Some(response.status()), None),
        Ok(Err(error)) => (None, Some(error.word())),
        Err(_) => (None, Some("ended")),
    };
    let shown = standing.as_ref().filter(|_| permit.upstream().tls.client_certificate).and_then(|standing| standing.svid.as_ref());
    let certificate = shown.map(|svid| svid.sha256);
    remember(passage, span, facts, certificate, (status, error));
    if !facts.reused && status.is_some() {
        worker.shared().spoken.learn(clearance.destination(), facts.version);
    }
    sent
}

/// Notes one attempt, with exeat's own certificate where the connection was opened with one, and the answer's status or why there is none.
fn remember(
    passage: &Passage,
    span: [u8; 8],
    facts: &Facts,
    certificate: Option<Sha256>,
    (status, error): (Option<StatusCode>, Option<&'static str>),
) {
    let ended = facts.ended.unwrap_or_else(|| passage.conn().worker().clock().instant());
    let since = |at: Instant| at.saturating_duration_since(passage.began());
    let (began, ended) = (since(facts.began.unwrap_or(ended)), since(ended));
    let (address, version, reused, connect) = (facts.address, facts.version, facts.reused, facts.connect);
    passage
        .note(|access| access.attempts.push(Attempt { span, began, ended, address, version, reused, certificate, connect, status, error }));
}

/// A CONNECT: judged by host, then either carried as bytes or looked into.
async fn connect(passage: &Rc<Passage>) -> Result<Passed, Failure> {
    let worker = passage.conn().worker();
    let snapshot = worker.snapshot();
    let connect = {
        let mut lent = passage.lend();
        let access = lent.as_mut().ok_or_else(lost)?;
        let admit = |workload: &Workload| passage.admit(&snapshot, workload);
        until_ended(passage, pin!(worker.gate().connect(&snapshot, passage.conn().arrival(), passage.head(), access, admit))).await??
    };
    let clearance = match connect {
        Connect::Intercept(upstream, destination) => return Ok(Passed::Intercept(upstream, destination)),
        Connect::Tunnel(clearance) => clearance,
    };
    passage.judged.set(Some(snapshot.revision));
    drop(snapshot);
    // Nothing inside is judged again: the tunnel ends with the proof that opened it.
    let proven_until = clearance.permit().workload().attestation.expires();
    passage.until.set(clearance.permit().until_by_rule().into_iter().chain(proven_until).min());
    let upstream = clearance.permit().upstream();
    passage.idle.set(upstream.deadlines.idle);
    clearance.still_stands(&worker.gate().live, worker.clock().now())?;
    let hop = Hop { upstream, destination: clearance.destination(), generation: 0, workload: None, standing: None, upgrade: false };
    let mut facts = Facts { began: Some(worker.clock().instant()), ..Facts::default() };
    let span = worker.ids().borrow_mut().span();
    let dialled = until_ended(passage, pin!(worker.dialer().tunnel(&hop, &mut facts))).await?;
    remember(passage, span, &facts, None, (None, dialled.as_ref().err().map(DialError::word)));
    dialled.map(Passed::Tunnel).map_err(|error| error.refusal().into())
}

/// Waits for a future, unless the passage is ended from outside first. An ended passage's future is not polled again: what it waited for
/// (a fresh connection) may have come in the same moment, and nothing is sent for what was revoked. It is lent, pinned: an asynchronous
/// function holds what it is given a second time when it pins it, and this one stands in every request.
pub(super) async fn until_ended<F: Future>(passage: &Passage, mut future: Pin<&mut F>) -> Result<F::Output, Failure> {
    std::future::poll_fn(|cx| {
        if passage.ended().get().is_some() {
            return Poll::Ready(Err(Failure::Broken));
        }
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        passage.wake_when_ended(Side::Response, cx);
        Poll::Pending
    })
    .await
}

/// Passes the upstream's answer on, its head changed in place.
fn relay(guard: Guard, response: Response<ResponseBody>, credential: Option<Arc<Credential>>) -> Response<Answer> {
    let (mut parts, body) = response.into_parts();
    // The upstream takes no more of the request's body: the caller's connection ends with this answer too, and it shall know.
    let closes = body.is_ahead() && !guard.conn().is_http2() && forward::closes(&parts.headers, parts.version);
    parts.version = Version::HTTP_11;
    let mut reflected = false;
    guard.note(|access| {
        let remove = access.upstream.as_deref().map(|upstream| upstream.response_remove.as_slice()).unwrap_or_default();
        reflected = respond::clean(&mut parts.headers, credential.as_deref(), false, remove);
        access.reflected = reflected;
    });
    if closes {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    guard.answered(parts.status);
    Response::from_parts(parts, Answer::Relayed(Relayed::new(body, guard, credential)))
}

/// Waits until hyper hands the connection over; `None` when the caller is gone.
pub(super) async fn taken_over(takeover: Option<OnUpgrade>) -> Option<hyper::upgrade::Upgraded> {
    takeover?.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Each connection holds room for one request, each stream is moved into a task of its own.
    #[test]
    fn a_request_on_its_way_is_small() {
        let size = size(serve);
        assert!(size < 4096, "the future of a request has grown to {size} bytes: what does it hold twice, or nearly never needs?");
    }
}
