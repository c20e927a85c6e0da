//! `pass`: the whole story of one request in one function.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::clearance::Clearance;
use crate::action::Action;
use crate::audit::Access;
use crate::capture::{self, Arrival, Destination, Host, Scheme, Target};
use crate::catalogue::{JWT_SVID, Origin, Upstream};
use crate::clock::{Clock, Timestamp};
use crate::credentials::{Broker, Credential, IssueError};
use crate::identity::{Caller, Identified, IdentitySource, Workload};
use crate::live::{Live, Want};
use crate::policy::{self, AccessRequest, Decision, GrantTerms, Leased, Permit, Plan, share_of};
use crate::refusal::{Code, Refusal};
use crate::secret::FingerprintKey;
use crate::snapshot::Snapshot;
use crate::strip::{self, Findings};

/// Longest wait for uses of a lease to be written down.
const RESERVE: Duration = Duration::from_secs(1);
/// How often a request waits for them: others may take what was written before it does.
const RESERVE_TRIES: usize = 4;

/// What every question to the gate needs, whatever the request: one value per worker.
pub struct Gate {
    /// Issues credentials.
    pub broker: Arc<Broker>,
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
    /// What is revoked now.
    pub live: Arc<Live>,
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
    /// the answer is a refusal. Awaits only when the credential is not at hand. `admit` is asked once the caller is known, before anything is
    /// decided for it: whether there is room for one more of its requests.
    ///
    /// # Errors
    /// The refusal, with its internal line for the record.
    pub async fn pass(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        parts: &Parts,
        access: &mut Access,
        admit: impl FnOnce(&Workload) -> Result<(), Refusal>,
    ) -> Result<Box<Clearance>, Refusal> {
        let (upstream, destination) = place(snapshot, arrival, parts, access)?;
        let proof = self.identify(snapshot, arrival, parts, access).await?;
        admit(&proof.workload)?;
        self.judge(snapshot, arrival, parts, access, Judged { upstream: &upstream, destination, proof, tunnel: false }).await
    }

    /// Judges a CONNECT: by host alone. `admit` as in [`pass`](Self::pass).
    ///
    /// # Errors
    /// The refusal, with its internal line for the record.
    pub async fn connect(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        parts: &Parts,
        access: &mut Access,
        admit: impl FnOnce(&Workload) -> Result<(), Refusal>,
    ) -> Result<Connect, Refusal> {
        let (upstream, destination) = place(snapshot, arrival, parts, access)?;
        let proof = self.identify(snapshot, arrival, parts, access).await?;
        admit(&proof.workload)?;
        if upstream.intercept {
            return Ok(Connect::Intercept(upstream, destination));
        }
        access.tunnel = true;
        let judged = Judged { upstream: &upstream, destination, proof, tunnel: true };
        Ok(Connect::Tunnel(self.judge(snapshot, arrival, parts, access, judged).await?))
    }

    /// Whether a live passage would still be allowed by this snapshot, and by which permit; `parts` is the head that was judged, `lease` the
    /// lease that it went by, `share` where its trace falls. It has paid: nothing is charged.
    ///
    /// # Errors
    /// The refusal that the request would get now.
    pub fn rejudge(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        parts: &Parts,
        tunnel: bool,
        lease: Option<&str>,
        share: u8,
    ) -> Result<Permit, Refusal> {
        ready(snapshot)?;
        let (upstream, destination) = find(snapshot, arrival, parts)?;
        let workload = Self::who(snapshot, arrival, parts, self.clock.now()).map_err(Unproven::refusal)?.workload;
        let (action, stripped) = self.read(snapshot, &upstream, parts)?;
        let request = AccessRequest {
            workload: &workload,
            upstream: &upstream,
            destination: &destination,
            action: &action,
            parts,
            peer: &arrival.peer,
            tunnel,
            share,
        };
        let allowed = snapshot.policies.still_allows(&request, &stripped, &self.live, self.clock.now(), lease);
        allowed.map_err(|denied| denied.refusal())
    }

    /// Whether the caller of this request still proves to be this workload. A source that will know in a moment takes nothing away.
    #[must_use]
    pub fn still_proves(&self, snapshot: &Snapshot, arrival: &Arrival, parts: &Parts, workload: &Workload) -> bool {
        match Self::who(snapshot, arrival, parts, self.clock.now()) {
            Ok(proof) => proof.workload.id == workload.id,
            Err(Unproven::Unsettled(_)) => true,
            Err(Unproven::Refused(_)) => false,
        }
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
    pub fn trailers(&self, snapshot: &Snapshot, upstream: &Upstream, trailers: &HeaderMap) -> (SmallVec<[HeaderName; 2]>, Findings) {
        let known = snapshot.catalogue.by_name(&upstream.name).map(AsRef::as_ref).and_then(|upstream| snapshot.strip_rules(upstream));
        match known {
            Some(rules) => strip::trailers(trailers, rules, &self.fingerprints),
            None => (trailers.keys().cloned().collect(), SmallVec::new()),
        }
    }

    async fn identify(&self, snapshot: &Snapshot, arrival: &Arrival, parts: &Parts, access: &mut Access) -> Result<Proof, Refusal> {
        // Nothing was waited for since the passage began.
        let proof = match Self::who(snapshot, arrival, parts, access.time) {
            Err(Unproven::Unsettled(source)) => {
                source.settle(&Caller { arrival, headers: &parts.headers, now: self.clock.now() }).await;
                Self::who(snapshot, arrival, parts, self.clock.now()).map_err(Unproven::refusal)?
            }
            known => known.map_err(Unproven::refusal)?,
        };
        access.workload = Some(Arc::clone(&proof.workload));
        Ok(proof)
    }

    /// Asks the listener's sources in order; the first that has a say decides.
    fn who<'a>(snapshot: &'a Snapshot, arrival: &Arrival, parts: &Parts, at: Timestamp) -> Result<Proof, Unproven<'a>> {
        let sources = snapshot.identities.get(&arrival.listener).map(AsRef::as_ref).unwrap_or_default();
        let caller = Caller { arrival, headers: &parts.headers, now: at };
        let refused = |code, why| {
            let challenge = arrival.tunnel.is_none() && code == Code::Unauthenticated && sources.iter().any(|source| source.challenges());
            Err(Unproven::Refused(Refusal::new(code, why).challenged(challenge)))
        };
        for source in sources {
            let named = |why: String| format!("identity `{}`: {why}", source.name());
            match source.identify(&caller) {
                Identified::Attested(workload) => return Ok(Proof { workload, source: Arc::clone(source), at }),
                Identified::Rejected(why) => return refused(Code::Unauthenticated, named(why)),
                Identified::NotReady(why) => return refused(Code::NotReady, named(why)),
                Identified::Unsettled => return Err(Unproven::Unsettled(&**source)),
                Identified::NotApplicable => {}
            }
        }
        refused(Code::Unauthenticated, format!("no identity of listener `{}` can be proven on this connection", arrival.listener))
    }

    async fn judge(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        parts: &Parts,
        access: &mut Access,
        judged: Judged<'_>,
    ) -> Result<Box<Clearance>, Refusal> {
        let Judged { upstream, destination, proof, tunnel } = judged;
        let workload = &proof.workload;
        let (action, stripped) = self.read(snapshot, upstream, parts)?;
        access.grpc = action.grpc.is_some();
        let (share, peer) = (share_of(&access.trace.trace), &arrival.peer);
        let request = AccessRequest { workload, upstream, destination: &destination, action: &action, parts, peer, tunnel, share };
        let mut now = proof.at;
        let mut decision = snapshot.policies.decide(&request, &stripped, &self.live, now);
        if let Some(want) = decision.unreserved.take() {
            decision = Box::pin(self.decide_again(snapshot, &request, &stripped, decision, want)).await;
            now = self.clock.now();
        }
        let Decision { outcome, would_be, .. } = decision;
        let (findings, strip) = stripped.into_parts();
        access.findings = findings;
        if workload.attestation.is_presented() && arrival.tunnel.is_none() {
            // What proved the caller to exeat is no credential for the upstream; it never goes there either way.
            access.findings.retain(|finding| &*finding.place != "header:proxy-authorization");
        }
        access.would_be = would_be;
        access.decided = self.clock.instant().saturating_duration_since(access.began);
        let permit = outcome.map_err(|denied| {
            access.rule.clone_from(&denied.rule);
            access.lease = denied.lease.as_ref().map(Leased::refused);
            denied.refusal()
        })?;
        access.rule = permit.rule().cloned();
        access.lease = permit.lease().cloned();
        let credential = match permit.plan() {
            Plan::AsIs => {
                access.observed = true;
                access.findings.iter_mut().for_each(|finding| finding.kept = true);
                self.broker.rehearse(&permit, &snapshot.definitions, now);
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
                    // Boxed: requests whose credential is at hand are no larger for it.
                    let issued = Box::pin(self.broker.obtain(&permit, &snapshot.definitions)).await;
                    now = self.clock.now();
                    access.obtained = self.clock.instant().saturating_duration_since(access.began);
                    issued.map_err(|error| self.unissued(&permit, &error))?
                };
                access.credential = Some(Arc::clone(&credential));
                Some(credential)
            }
        };
        let Proof { source, .. } = proof;
        Ok(Box::new(Clearance { permit, destination, credential, strip, at: now, source }))
    }

    /// A lease has uses left of which none is written down yet: waits for the household, and decides anew. Boxed by its only caller, so that
    /// requests that never wait are no larger for it.
    async fn decide_again(
        &self,
        snapshot: &Snapshot,
        request: &AccessRequest<'_>,
        stripped: &strip::Stripped,
        mut decision: Decision,
        mut want: Want,
    ) -> Decision {
        for _ in 0..RESERVE_TRIES {
            if tokio::time::timeout(RESERVE, self.live.leases().reserved(want)).await.is_err() {
                return decision;
            }
            decision = snapshot.policies.decide(request, stripped, &self.live, self.clock.now());
            want = match decision.unreserved.take() {
                Some(want) => want,
                None => return decision,
            };
        }
        decision
    }

    /// An issue that ended in vain because of a revocation or the end of a lease is refused as what it is.
    fn unissued(&self, permit: &Permit, error: &IssueError) -> Refusal {
        if let Some(block) = self.live.blocks().on(&permit.touched()) {
            return policy::revoked(block);
        }
        permit.lease_stands(&self.live, self.clock.now()).err().unwrap_or_else(|| error.refusal())
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

/// Why nobody is proven.
enum Unproven<'a> {
    /// Not here, or not yet.
    Refused(Refusal),
    /// This source may know in a moment.
    Unsettled(&'a dyn IdentitySource),
}

impl Unproven<'_> {
    fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Unsettled(source) => {
                Refusal::new(Code::NotReady, format!("identity `{}`: what it needs to judge is on its way", source.name()))
            }
        }
    }
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
    /// When it was asked: the request is judged as of then.
    at: Timestamp,
}

/// An SVID is a credential only for whom an agent gave it: exeat's own pod, or the very process that the Broker API was asked about. A
/// workload that the configuration or the kernel gives the same SPIFFE ID is neither.
fn own_identity_only(terms: &GrantTerms, workload: &Workload) -> Result<(), Refusal> {
    if terms.profile.kind != JWT_SVID || workload.attestation.brings_svid() {
        return Ok(());
    }
    let why = format!(
        "credential `{}` is the workload's own JWT-SVID, but `{}` was proven by `{}`: accept a `spiffe` or `broker_api` identity on the listener",
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
