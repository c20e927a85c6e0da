//! Interception: what is inside a CONNECT tunnel is HTTP after all, and every request of it is judged.
//!
//! The first bytes say TLS or plaintext. TLS is ended with a leaf for the CONNECT target's name and no other; the SNI must agree. The
//! CONNECT itself is one passage and ends when the tunnel's protocol is known.
//!
//! HTTP/2 is offered where the upstream is known to carry it, and to callers that know nothing else (gRPC): all else works over HTTP/1.1.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use hyper::upgrade::OnUpgrade;

use super::body::Answer;
use super::connection::{First, first_bytes, serve_http1, serve_http2};
use super::passage::Guard;
use super::respond;
use super::service::{taken_over, until_ended};
use super::stream::{Stream, Transport};
use super::tunnel::raw;
use crate::capture::{Arrival, Destination, Host, Proof, Scheme};
use crate::catalogue::{Protocol, Upstream};
use crate::refusal::{Code, Refusal};
use crate::tls::{Alpn, TlsError};

/// Answers a CONNECT and serves what comes through it.
pub(super) fn start(guard: Guard, takeover: Option<OnUpgrade>, upstream: &Arc<Upstream>, destination: Destination) -> Response<Answer> {
    guard.answered(http::StatusCode::OK);
    let alpn = match upstream.protocol {
        Protocol::H2 => Alpn::Both,
        // An upstream of which nothing is known yet may speak HTTP/1.1 alone, and every caller that knows both can do with that.
        Protocol::Auto if guard.conn().worker().shared().spoken.is_http2(&destination) => Alpn::Both,
        Protocol::Auto | Protocol::H1 => Alpn::H1,
    };
    let serving: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
        if let Some(stream) = taken_over(takeover).await.and_then(raw) {
            look_inside(guard, stream, alpn, destination).await;
        }
    });
    tokio::task::spawn_local(serving);
    respond::connected()
}

async fn look_inside(guard: Guard, mut stream: Stream, alpn: Alpn, destination: Destination) {
    let worker = Rc::clone(guard.conn().worker());
    let seat = Rc::clone(guard.conn().seat());
    let outer = guard.conn().arrival().clone();
    let proof = presented(&guard);
    let inside = move |scheme, sni| Arrival { proof, tunnel: Some(Destination { scheme, ..destination }), sni, ..outer };
    let Ok(first) = until_ended(&guard, pin!(first_bytes(&mut stream, &worker))).await else { return };
    match first {
        Some(First::Tls) => {
            let Ok(Some((stream, sni, http2))) = until_ended(&guard, pin!(end_tls(&guard, stream, alpn))).await else { return };
            guard.complete();
            drop(guard);
            let arrival = inside(Scheme::Https, sni);
            if http2 {
                serve_http2(&worker, arrival, &seat, stream).await;
            } else {
                serve_http1(&worker, arrival, &seat, stream).await;
            }
        }
        Some(First::Http1) => {
            guard.complete();
            drop(guard);
            serve_http1(&worker, inside(Scheme::Http, None), &seat, Stream::new(Transport::Inner(Box::new(stream)))).await;
        }
        Some(First::Http2) => {
            guard.complete();
            drop(guard);
            serve_http2(&worker, inside(Scheme::Http, None), &seat, Stream::new(Transport::Inner(Box::new(stream)))).await;
        }
        None => guard.broke("nothing came through the tunnel in time"),
    }
}

/// What the CONNECT presented, where its caller is known by that: it goes on to prove who is asking inside, until it expires.
fn presented(guard: &Guard) -> Option<Arc<Proof>> {
    let mut by_proof = false;
    guard.note(|access| by_proof = access.workload.as_ref().is_some_and(|workload| workload.attestation.is_presented()));
    by_proof.then(|| Proof::of(&guard.head().headers).map(Arc::new)).flatten()
}

/// Ends the caller's TLS as the CONNECT target. A caller without SNI is served: the name is known from CONNECT.
async fn end_tls(guard: &Guard, stream: Stream, alpn: Alpn) -> Option<(Stream, Option<Host>, bool)> {
    let worker = guard.conn().worker();
    let host = guard.head().uri.host().and_then(|host| Host::parse(host).ok())?;
    let within = worker.limits().handshake;
    match worker.shared().interceptor.accept(stream, host.as_str(), alpn, true, within).await {
        Ok(accepted) => {
            let sni = accepted.sni.as_deref().and_then(|sni| Host::parse(sni).ok());
            Some((Stream::new(Transport::Tls(Box::new(accepted.stream))), sni, accepted.h2))
        }
        Err(error @ TlsError::Misdirected { .. }) => {
            guard.refuse(&Refusal::new(Code::Misdirected, error.to_string()));
            None
        }
        Err(error) => {
            guard.broke(error.to_string());
            None
        }
    }
}
