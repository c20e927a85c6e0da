//! A listener that speaks TLS: the handshake comes before the first byte of HTTP, and with it the caller's certificate.

use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use super::connection::{serve_http1, serve_http2, sniff};
use super::stream::{Stream, Transport};
use super::worker::{Seat, Worker};
use crate::capture::Arrival;
use crate::refusal::Code;
use crate::tls::{ClientFault, client_fault};

/// Serves one accepted connection behind its TLS. A caller that is not let in gives an edge record, and nothing of HTTP is read.
pub(super) async fn serve(worker: Rc<Worker>, mut arrival: Arrival, seat: Rc<Seat>, stream: Stream, config: Arc<ServerConfig>) {
    let within = worker.limits().handshake;
    let accepted = match tokio::time::timeout(within, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            let (code, why) = match client_fault(&error) {
                ClientFault::Refused(why) => (Code::Unauthenticated, why),
                ClientFault::NotReady => (Code::NotReady, "exeat has no SVID to show: the Workload API gives it none".to_owned()),
                ClientFault::Broken(why) => (Code::Malformed, why),
            };
            return refuse(&worker, &arrival, code, &format!("the TLS handshake failed: {why}"));
        }
        Err(_) => return refuse(&worker, &arrival, Code::Malformed, "the TLS handshake took too long"),
    };
    let session = accepted.get_ref().1;
    arrival.certificates = session.peer_certificates().map(Arc::from);
    let alpn = session.alpn_protocol().map(|name| name == b"h2");
    let stream = Stream::new(Transport::Tls(Box::new(accepted)));
    match alpn {
        Some(true) => serve_http2(&worker, arrival, &seat, stream).await,
        Some(false) => serve_http1(&worker, arrival, &seat, stream).await,
        None => sniff(worker, arrival, seat, stream).await,
    }
}

fn refuse(worker: &Worker, arrival: &Arrival, code: Code, why: &str) {
    let shared = worker.shared();
    let id = worker.ids().borrow_mut().request();
    shared.ledger.edge(&arrival.listener, arrival.peer, code, 1, format!("{why}; request {id:032x}"));
    shared.metrics.edge(&arrival.listener, 1);
}
