//! Listeners joined with identities and upstreams: every reference is resolved here, and no address is wanted twice.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::{ListenerSpec, ListenerTls};
use crate::capture::{ListenAddress, Listener, ListenerConfig, Mode};
use crate::catalogue::{Catalogue, HostPattern};
use crate::identity::{Around, BeyondTcp, Identity, IdentityConfig};
use crate::tls::parse_certificates;
use crate::written::{Entries, Place, Report, Spanned};

/// The kind of identity that a TLS handshake proves.
const CLIENT_CERT: &str = "client_cert";
/// The kind of identity that an agent tells of a process.
const BROKER_API: &str = "broker_api";

/// What a `route` listener may name.
pub(super) struct Targets<'a> {
    /// All upstreams of the file.
    pub(super) names: &'a [String],
    /// Those without mistakes.
    pub(super) catalogue: &'a Catalogue,
}

/// All listeners, or `None` when any of them is wrong.
pub(super) fn build(
    listeners: Entries<ListenerConfig>,
    identities: Entries<IdentityConfig>,
    around: &mut Around<'_>,
    targets: &Targets<'_>,
    servers: &[(&'static str, Spanned<String>)],
    report: &mut Report,
) -> Option<Vec<ListenerSpec>> {
    if listeners.is_empty() && !report.failed() {
        report.error_hint(Place::START, "there is no listener: no traffic could come in", "add one under `listeners`");
    }
    let names: Vec<String> = identities.names().map(str::to_owned).collect();
    let places: Vec<Spanned<String>> = identities.iter().map(|(name, _)| name.clone()).collect();
    let known: Vec<Option<Identity>> = identities.into_iter().map(|(name, identity)| identity.build(&name, around, report)).collect();
    let known: Vec<Identity> = known.into_iter().flatten().collect();
    let mut addresses = Addresses::default();
    let mut built = Vec::new();
    let mut used: Vec<String> = Vec::new();
    for (name, written) in listeners {
        let at = written.address_at();
        let listener = written.build(&name, report);
        if let Some(listener) = &listener {
            addresses.claim(&format!("listener `{}`", name.value), &listener.address, at, report);
            used.extend(listener.identities.iter().map(|identity| identity.value.clone()));
            used.extend(listener.tls.iter().filter_map(|tls| tls.svid.as_ref()).map(|svid| svid.value.clone()));
        }
        built.push(listener.and_then(|listener| join(listener, at, &names, &known, targets, around, report)));
    }
    for (what, written) in servers {
        // mistakes in it were told by the server's own form
        let mut quiet = Report::new(crate::written::Source::new("", ""));
        if let Some(address) = ListenAddress::build(written, &mut quiet) {
            addresses.claim(&format!("`{what}`"), &address, written.at, report);
        }
    }
    for name in &places {
        if !used.contains(&name.value) {
            report.warning(
                "unused",
                name.at,
                format!("no listener accepts identity `{}`", name.value),
                "list it under `identity` of a listener, or take it away",
            );
        }
    }
    built.into_iter().collect()
}

fn join(
    listener: Listener,
    at: Place,
    names: &[String],
    known: &[Identity],
    targets: &Targets<'_>,
    around: &mut Around<'_>,
    report: &mut Report,
) -> Option<ListenerSpec> {
    let mut identities: Vec<Identity> = Vec::new();
    for written in &listener.identities {
        if !names.contains(&written.value) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            report.unknown_name(written.at, "identity", written, &names);
        } else if identities.iter().any(|identity| *identity.name == *written.value) {
            report.error_hint(written.at, format!("identity `{}` is listed twice", written.value), "keep one of the two");
        } else if let Some(identity) = known.iter().find(|identity| *identity.name == *written.value) {
            identities.push(identity.clone());
        }
    }
    if let Some((alone, written)) =
        identities.iter().zip(&listener.identities).find(|(identity, _)| identity.alone && listener.identities.len() > 1)
    {
        let message = format!("identity `{}` makes every connection one workload, so no other can be asked beside it", alone.name);
        report.error_hint(written.at, message, "let it stand alone, or make two listeners of this one");
    }
    check_last_word(&listener, &identities, report);
    let tls = tls(&listener, &identities, &Named { names, known }, around, report)?;
    warn_of_uid(&listener, &identities, at, report);
    let route = match (&listener.upstream, listener.mode) {
        (Some(upstream), Mode::Route) => {
            let name = route(&listener.name, upstream, targets, report)?;
            check_svid(&name, upstream.at, &identities, targets, report);
            Some(name)
        }
        (_, Mode::Route | Mode::Host | Mode::Forward) => None,
    };
    Some(ListenerSpec {
        name: listener.name,
        address: listener.address,
        permissions: listener.permissions,
        mode: listener.mode,
        tls,
        route,
        identities,
    })
}

/// Some identities reject every caller that has no proof for them, so nobody is asked after them; and one of them needs a client that
/// knows that there is a proxy.
fn check_last_word(listener: &Listener, identities: &[Identity], report: &mut Report) {
    let last_word = |identity: &Identity| identity.presented || matches!(identity.kind, CLIENT_CERT | BROKER_API);
    let Some(at) = identities.iter().position(last_word) else { return };
    let (Some(identity), Some(written)) = (identities.get(at), listener.identities.get(at)) else { return };
    if identity.presented && listener.mode != Mode::Forward {
        let message = format!("identity `{}` takes its proof in Proxy-Authorization, which no client sends here", identity.name);
        report.error_hint(written.at, message, "write `capture: forward`, or give the identity the pod's own `token_file`");
    }
    if let (Some(next), Some(written)) = (identities.get(at + 1), listener.identities.get(at + 1)) {
        let message = format!("identity `{}` is never asked: a caller without a proof for `{}` is refused", next.name, identity.name);
        report.error_hint(written.at, message, "list it first, or make two listeners of this one");
    }
}

/// What the listener shows; `None` when that cannot be used.
#[expect(clippy::option_option, reason = "wrong, plaintext and TLS are three things")]
fn tls(
    listener: &Listener,
    identities: &[Identity],
    all: &Named<'_>,
    around: &mut Around<'_>,
    report: &mut Report,
) -> Option<Option<ListenerTls>> {
    let by_certificate = identities.iter().zip(&listener.identities).find(|(identity, _)| identity.kind == CLIENT_CERT);
    let Some(written) = &listener.tls else {
        if let Some((identity, written)) = by_certificate {
            let message =
                format!("identity `{}` needs the caller's certificate, and listener `{}` is plaintext", identity.name, listener.name);
            report.error_hint(written.at, message, "add `tls: { svid: IDENTITY }` or `tls: { certificate, key }` to the listener");
            return None;
        }
        return Some(None);
    };
    match (&written.certificate, &written.key, &written.svid) {
        (Some(certificate), Some(key), None) => files(certificate, key, around, report).map(Some),
        (None, None, Some(svid)) => own(svid, all, report).map(Some),
        _ => {
            let hint = "write `svid: IDENTITY`, or `certificate: FILE` with `key: FILE`";
            report.error_hint(written.at, format!("listener `{}` shows one certificate that has one key", listener.name), hint);
            None
        }
    }
}

/// All identities of the file: their names, and those without mistakes.
struct Named<'a> {
    names: &'a [String],
    known: &'a [Identity],
}

/// exeat's own SVID, by the identity that lives on its Workload API.
fn own(svid: &Spanned<String>, all: &Named<'_>, report: &mut Report) -> Option<ListenerTls> {
    if !all.names.contains(&svid.value) {
        let names: Vec<&str> = all.names.iter().map(String::as_str).collect();
        report.unknown_name(svid.at, "identity", svid, &names);
        return None;
    }
    // one with a mistake of its own is not known: then its mistake says it all
    let identity = all.known.iter().find(|identity| *identity.name == *svid.value)?;
    let Some(settings) = identity.workload_api() else {
        let message = format!("identity `{}` has no SVID of exeat's own: it does not come from the Workload API", identity.name);
        report.error_hint(svid.at, message, "name a `spiffe` identity, or a `client_cert` one with `trust: { workload_api }`");
        return None;
    };
    Some(ListenerTls::Svid { identity: Arc::clone(&identity.name), settings: settings.clone() })
}

fn files(certificate: &Spanned<PathBuf>, key: &Spanned<PathBuf>, around: &mut Around<'_>, report: &mut Report) -> Option<ListenerTls> {
    let read = (around.read)(certificate).and_then(|pem| match parse_certificates(&pem) {
        Ok(_) => Ok(pem),
        Err(error) => Err(error.to_string()),
    });
    match read {
        Ok(pem) => Some(ListenerTls::Files { certificate: pem.into(), key: around.base.join(&key.value) }),
        Err(why) => {
            let hint = "name a PEM file with the certificate first, then those that signed it";
            report.error_hint(certificate.at, format!("the listener's certificate cannot be used: {why}"), hint);
            None
        }
    }
}

fn warn_of_uid(listener: &Listener, identities: &[Identity], at: Place, report: &mut Report) {
    let by_process = identities.iter().find(|identity| identity.kind == BROKER_API);
    if let Some(identity) = by_process.filter(|_| !matches!(listener.address, ListenAddress::Unix(_))) {
        let message = format!("identity `{}` can prove nobody here: TCP tells no process", identity.name);
        report.error_hint(at, message, "listen on unix:///run/exeat/name.sock");
        return;
    }
    let Some(identity) = identities.iter().find(|identity| identity.kind == "unix_peer") else { return };
    if let ListenAddress::Unix(_) = listener.address {
        return;
    }
    if listener.address.is_local() {
        let message = format!("identity `{}` on TCP proves the uid only, not the process", identity.name);
        report.warning("uid-only", at, message, "a unix socket also tells the process; every program of that uid is this workload");
        match identity.beyond_tcp {
            BeyondTcp::Nothing => {}
            BeyondTcp::Some => {
                let message = format!("some workloads of identity `{}` can never be proven here: TCP tells no process", identity.name);
                report.warning("needs-unix-socket", at, message, "listen on unix:///run/exeat/name.sock, or write them with `uid` alone");
            }
            BeyondTcp::All => {
                let message = format!("no workload of identity `{}` can be proven here: TCP tells no process", identity.name);
                report.error_hint(at, message, "listen on unix:///run/exeat/name.sock, or write workloads with `uid` alone");
            }
        }
    } else {
        let message = format!("identity `{}` cannot prove a caller from another host", identity.name);
        report.error_hint(at, message, "listen on 127.0.0.1, [::1] or a unix socket");
    }
}

fn route(listener: &str, written: &Spanned<String>, targets: &Targets<'_>, report: &mut Report) -> Option<Arc<str>> {
    if !targets.names.contains(&written.value) {
        let names: Vec<&str> = targets.names.iter().map(String::as_str).collect();
        report.unknown_name(written.at, "upstream", written, &names);
    }
    // an upstream with a mistake of its own is not in the catalogue: then its mistake says it all
    let upstream = targets.catalogue.by_name(written)?;
    let exact = matches!(upstream.origins.as_slice(), [origin] if matches!(origin.host, HostPattern::Exact(_)));
    if !exact {
        let message = format!("listener `{listener}` is one upstream, but `{}` is not one place", written.value);
        report.error_hint(written.at, message, "a `route` listener needs an upstream with exactly one origin without `*`");
        return None;
    }
    Some(Arc::clone(&upstream.name))
}

/// An upstream that exeat's own SVID opens is only for listeners whose callers are that pod; elsewhere a request shows it.
fn check_svid(name: &str, at: Place, identities: &[Identity], targets: &Targets<'_>, report: &mut Report) {
    let needs = targets.catalogue.by_name(name).is_some_and(|upstream| upstream.tls.needs_svid());
    if let Some(other) = identities.iter().find(|identity| needs && !identity.brings_svid()) {
        let message = format!("upstream `{name}` takes the workload's own SVID, and identity `{}` brings none", other.name);
        report.error_hint(
            at,
            message,
            "accept `spiffe` or `broker_api` identities alone on this listener, or take `tls` of the upstream away",
        );
    }
}

/// Who listens where.
#[derive(Default)]
struct Addresses(Vec<(String, ListenAddress)>);

impl Addresses {
    fn claim(&mut self, who: &str, address: &ListenAddress, at: Place, report: &mut Report) {
        if let Some((other, taken)) = self.0.iter().find(|(_, taken)| collide(taken, address)) {
            let same = if taken == address { String::new() } else { format!(" (as `{taken}`)") };
            report.error_hint(
                at,
                format!("{who} wants `{address}`, which {other} has{same}"),
                "every listener and server has an address of its own",
            );
            return;
        }
        self.0.push((who.to_owned(), address.clone()));
    }
}

/// Whether two cannot both listen: the same place, or one on all addresses of the same port.
fn collide(one: &ListenAddress, other: &ListenAddress) -> bool {
    let all = |address: &SocketAddr| address.ip().is_unspecified();
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => {
            one.port() == other.port() && one.port() != 0 && (one.ip() == other.ip() || all(one) || all(other))
        }
        (ListenAddress::Unix(one), ListenAddress::Unix(other)) => one == other,
        (ListenAddress::Tcp(_), ListenAddress::Unix(_)) | (ListenAddress::Unix(_), ListenAddress::Tcp(_)) => false,
    }
}
