//! `pass`: the whole story of one request in one function.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::clearance::Clearance;
use crate::action::Action;
use crate::audit::Access;
use crate::capture::{self, Arrival, Destination, Host, Scheme, Target};
use crate::catalogue::{JWT_SVID, Origin, Upstream};
use crate::clock::Clock;
use crate::credentials::{Broker, Credential};
use crate::identity::{Attestation, Identified, IdentitySource, Workload};
use crate::policy::{AccessRequest, Decision, GrantTerms, Plan};
use crate::refusal::{Code, Refusal};
use crate::secret::FingerprintKey;
use crate::snapshot::Snapshot;
use crate::strip::{self, Finding};

/// What every question to the gate needs, whatever the request: one value per worker.
pub struct Gate {
    /// Issues credentials.
    pub broker: Arc<Broker>,
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
    /// Makes the fingerprints of findings.
    pub fingerprints: Arc<FingerprintKey>,
}

/// What becomes of a CONNECT.
#[derive(Debug)]
pub enum Connect {
    /// Answer 200, look at the first bytes, judge every request inside by itself.
    Intercept(Arc<Upstream>, Destination),
    /// Judged by host alone, carried as bytes.
    Tunnel(Box<Clearance>),
}

impl Gate {
    /// Judges one request: identify, strip, read the action, decide, obtain. What is learnt on the way stands in `access`, also when
    /// the answer is a refusal. Awaits only when the credential is not at hand.
    ///
    /// # Errors
    /// The refusal, with its internal line for the record.
    pub async fn pass(&self, snapshot: &Snapshot, arrival: &Arrival, parts: &Parts, access: &mut Access) -> Result<Clearance, Refusal> {
        let (upstream, destination) = place(snapshot, arrival, parts, access)?;
        let proof = identify(snapshot, arrival, access)?;
        self.judge(snapshot, arrival, parts, access, Judged { upstream: &upstream, destination, proof, tunnel: false }).await
    }

    /// Judges a CONNECT: by host alone.
    ///
    /// # Errors
    /// The refusal, with its internal line for the record.
    pub async fn connect(&self, snapshot: &Snapshot, arrival: &Arrival, parts: &Parts, access: &mut Access) -> Result<Connect, Refusal> {
        let (upstream, destination) = place(snapshot, arrival, parts, access)?;
        let proof = identify(snapshot, arrival, access)?;
        if upstream.intercept {
            return Ok(Connect::Intercept(upstream, destination));
        }
        access.tunnel = true;
        let judged = Judged { upstream: &upstream, destination, proof, tunnel: true };
        Ok(Connect::Tunnel(Box::new(self.judge(snapshot, arrival, parts, access, judged).await?)))
    }

    /// Whether a live passage would still be allowed by this snapshot; `parts` is the head that was judged.
    ///
    /// # Errors
    /// The refusal that the request would get now.
    pub fn rejudge(&self, snapshot: &Snapshot, arrival: &Arrival, parts: &Parts, tunnel: bool) -> Result<(), Refusal> {
        ready(snapshot)?;
        let (upstream, destination) = find(snapshot, arrival, parts)?;
        let workload = who(snapshot, arrival)?.workload;
        let (action, stripped) = self.read(snapshot, &upstream, parts)?;
        let request = AccessRequest {
            workload: &workload,
            upstream: &upstream,
            destination: &destination,
            action: &action,
            parts,
            peer: &arrival.peer,
            tunnel,
        };
        let decision = snapshot.policies.decide(&request, &stripped, self.clock.now());
        decision.outcome.map(drop).map_err(|denied| denied.refusal())
    }

    /// Whether a connection still proves this workload.
    #[must_use]
    pub fn still_proves(&self, snapshot: &Snapshot, arrival: &Arrival, workload: &Workload) -> bool {
        who(snapshot, arrival).is_ok_and(|proof| proof.workload.id == workload.id)
    }

    /// An upstream answered 401 to the credential of this clearance: another one of the same permit, if the broker finds that the used one
    /// may have been stale. `None`: the 401 is the application's to see.
    pub async fn renew(&self, snapshot: &Snapshot, clearance: &Clearance) -> Option<Arc<Credential>> {
        let (permit, used) = (clearance.permit(), clearance.credential()?);
        if !self.broker.discard(permit, &snapshot.definitions, used, self.clock.now()).retry_helps() {
            return None;
        }
        let fresh = self.broker.obtain(permit, &snapshot.definitions).await.ok()?;
        (fresh.grant != used.grant).then_some(fresh)
    }

    /// The names of the trailers that must not go on to this upstream, with what was found in them. All of them when it is no longer
    /// in the catalogue.
    #[must_use]
    pub fn trailers(
        &self,
        snapshot: &Snapshot,
        upstream: &Upstream,
        trailers: &HeaderMap,
    ) -> (SmallVec<[HeaderName; 2]>, SmallVec<[Finding; 2]>) {
        let known = snapshot.catalogue.by_name(&upstream.name).map(AsRef::as_ref).and_then(|upstream| snapshot.strip_rules(upstream));
        match known {
            Some(rules) => strip::trailers(trailers, rules, &self.fingerprints),
            None => (trailers.keys().cloned().collect(), SmallVec::new()),
        }
    }

    async fn judge(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        parts: &Parts,
        access: &mut Access,
        judged: Judged<'_>,
    ) -> Result<Clearance, Refusal> {
        let Judged { upstream, destination, proof, tunnel } = judged;
        let workload = &proof.workload;
        let (action, stripped) = self.read(snapshot, upstream, parts)?;
        access.findings = stripped.findings().into();
        access.grpc = action.grpc.is_some();
        let request = AccessRequest { workload, upstream, destination: &destination, action: &action, parts, peer: &arrival.peer, tunnel };
        let now = self.clock.now();
        let Decision { outcome, would_be } = snapshot.policies.decide(&request, &stripped, now);
        access.would_be = would_be;
        access.decided = self.clock.instant().saturating_duration_since(access.began);
        let permit = outcome.map_err(|denied| {
            access.rule.clone_from(&denied.rule);
            denied.refusal()
        })?;
        access.rule = permit.rule().cloned();
        let credential = match permit.plan() {
            Plan::AsIs => {
                access.observed = true;
                access.findings.iter_mut().for_each(|finding| finding.kept = true);
                None
            }
            Plan::Bare => None,
            Plan::Swap(terms) => {
                own_identity_only(terms, workload)?;
                let cached = self.broker.cached(&permit, &snapshot.definitions, now);
                access.cached = cached.is_some();
                let credential = if let Some(credential) = cached {
                    credential
                } else {
                    let issued = self.broker.obtain(&permit, &snapshot.definitions).await;
                    access.obtained = self.clock.instant().saturating_duration_since(access.began);
                    issued.map_err(|error| error.refusal())?
                };
                access.credential = Some(Arc::clone(&credential));
                Some(credential)
            }
        };
        let Proof { source, .. } = proof;
        Ok(Clearance { permit, destination, credential, strip: stripped.into_edits(), source })
    }

    fn read<'a>(&self, snapshot: &Snapshot, upstream: &Upstream, parts: &'a Parts) -> Result<(Action<'a>, strip::Stripped), Refusal> {
        let rules = snapshot.strip_rules(upstream).ok_or_else(|| Refusal::new(Code::Internal, "an upstream without strip rules"))?;
        Ok((Action::read(parts)?, strip::examine(parts, rules, &self.fingerprints)))
    }
}

fn place(snapshot: &Snapshot, arrival: &Arrival, parts: &Parts, access: &mut Access) -> Result<(Arc<Upstream>, Destination), Refusal> {
    access.revision = snapshot.revision;
    access.policy = snapshot.policies.shared_revision();
    ready(snapshot)?;
    let (upstream, destination) = find(snapshot, arrival, parts)?;
    access.destination = Some(destination.clone());
    access.upstream = Some(Arc::clone(&upstream));
    Ok((upstream, destination))
}

struct Judged<'a> {
    upstream: &'a Arc<Upstream>,
    destination: Destination,
    proof: Proof,
    tunnel: bool,
}

/// Who is asking, and who says so.
struct Proof {
    workload: Arc<Workload>,
    source: Arc<dyn IdentitySource>,
}

/// exeat's own identity is a credential only for callers that are this very pod: a workload that the configuration or the kernel gives
/// the same SPIFFE ID is not.
fn own_identity_only(terms: &GrantTerms, workload: &Workload) -> Result<(), Refusal> {
    if terms.profile.kind != JWT_SVID || workload.attestation == Attestation::Spiffe {
        return Ok(());
    }
    let why = format!(
        "credential `{}` is the pod's own JWT-SVID, but `{}` was proven by `{}`: accept a `spiffe` identity on the listener",
        terms.profile.name,
        workload.id,
        workload.attestation.name()
    );
    Err(Refusal::new(Code::CredentialUnavailable, why))
}

fn ready(snapshot: &Snapshot) -> Result<(), Refusal> {
    match &snapshot.not_ready {
        Some(why) => Err(Refusal::new(Code::NotReady, why.to_string())),
        None => Ok(()),
    }
}

/// One destination from the arrival and the head, and the catalogue's entry for it.
fn find(snapshot: &Snapshot, arrival: &Arrival, parts: &Parts) -> Result<(Arc<Upstream>, Destination), Refusal> {
    match capture::target(arrival, parts)? {
        Target::Route => {
            let name = arrival.route.as_deref().unwrap_or_default();
            let upstream = snapshot.catalogue.by_name(name);
            let destination = upstream.and_then(|upstream| upstream.origins.first()).and_then(Origin::destination);
            let missing = || {
                Refusal::new(Code::Unlisted, format!("listener `{}` names upstream `{name}`, which has no single origin", arrival.listener))
            };
            upstream.cloned().zip(destination).ok_or_else(missing)
        }
        Target::Named { scheme, host, port } => {
            if let Some((upstream, destination)) = listed(snapshot, scheme, &host, port) {
                return Ok((Arc::clone(upstream), destination));
            }
            let scheme = scheme.unwrap_or(if port == Some(80) { Scheme::Http } else { Scheme::Https });
            let destination = Destination { scheme, port: port.unwrap_or(scheme.default_port()), host };
            match &snapshot.unlisted {
                Some(upstream) => Ok((Arc::clone(upstream), destination)),
                None => Err(Refusal::new(Code::Unlisted, format!("{destination} is no origin of any upstream; list it under `upstreams`"))),
            }
        }
    }
}

/// The catalogue's entry of a name, whose scheme the head may not have told.
fn listed<'a>(snapshot: &'a Snapshot, scheme: Option<Scheme>, host: &Host, port: Option<u16>) -> Option<(&'a Arc<Upstream>, Destination)> {
    match scheme {
        None => snapshot.catalogue.find_any_scheme(host, port),
        Some(scheme) => {
            let destination = Destination { scheme, host: host.clone(), port: port.unwrap_or(scheme.default_port()) };
            snapshot.catalogue.find(&destination).map(|upstream| (upstream, destination))
        }
    }
}

fn identify(snapshot: &Snapshot, arrival: &Arrival, access: &mut Access) -> Result<Proof, Refusal> {
    let proof = who(snapshot, arrival)?;
    access.workload = Some(Arc::clone(&proof.workload));
    Ok(proof)
}

/// Asks the listener's sources in order; the first that has a say decides.
fn who(snapshot: &Snapshot, arrival: &Arrival) -> Result<Proof, Refusal> {
    let sources = snapshot.identities.get(&arrival.listener).map(AsRef::as_ref).unwrap_or_default();
    for source in sources {
        match source.identify(&arrival.peer) {
            Identified::Attested(workload) => return Ok(Proof { workload, source: Arc::clone(source) }),
            Identified::Rejected(why) => return Err(Refusal::new(Code::Unauthenticated, format!("identity `{}`: {why}", source.name()))),
            Identified::NotReady(why) => return Err(Refusal::new(Code::NotReady, format!("identity `{}`: {why}", source.name()))),
            Identified::NotApplicable => {}
        }
    }
    Err(Refusal::new(Code::Unauthenticated, format!("no identity of listener `{}` can be proven on this connection", arrival.listener)))
}
