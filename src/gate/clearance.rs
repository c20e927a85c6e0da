//! `Clearance`: what a judged request takes along to the upstream.

use std::sync::Arc;

use http::request::Parts;

use crate::capture::Destination;
use crate::clock::Timestamp;
use crate::credentials::Credential;
use crate::edits::Edits;
use crate::identity::{IdentitySource, Standing};
use crate::inject;
use crate::live::{LEASE_HEADER, Live, Touched};
use crate::policy::{self, Permit, Plan};
use crate::refusal::{Code, Refusal};

/// A judged request: permit, credential and strip's edits. It yields the edits of each attempt.
#[must_use]
pub struct Clearance {
    pub(super) permit: Permit,
    pub(super) destination: Destination,
    pub(super) credential: Option<Arc<Credential>>,
    pub(super) strip: Edits,
    /// When it was given.
    pub(super) at: Timestamp,
    /// Who said who asks: asked again before each attempt.
    pub(super) source: Arc<dyn IdentitySource>,
}

impl std::fmt::Debug for Clearance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clearance").field("permit", &self.permit).field("destination", &self.destination).finish_non_exhaustive()
    }
}

impl Clearance {
    /// The proof of policy.
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }

    /// When it was given: judged, or its credential obtained.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// Where it goes.
    #[must_use]
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What is put on.
    #[must_use]
    pub const fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.as_ref()
    }

    /// What the connection itself proves by the workload's SVID, where the upstream asks for it: as it stands now, for one attempt.
    ///
    /// # Errors
    /// No agent gave exeat the caller's SVID, or it is withdrawn.
    pub fn standing(&self) -> Result<Option<Arc<Standing>>, Refusal> {
        let (tls, workload) = (&self.permit.upstream().tls, self.permit.workload());
        if !tls.needs_svid() {
            return Ok(None);
        }
        let Some(standing) = self.source.standing(workload) else {
            let why = format!(
                "upstream `{}` takes the workload's own SVID, but `{}` was proven by `{}`: accept a `spiffe` or `broker_api` identity on the listener",
                self.permit.upstream().name,
                workload.id,
                workload.attestation.name()
            );
            return Err(Refusal::new(Code::CredentialUnavailable, why));
        };
        match &standing.svid {
            Some(svid) if svid.workload.id == workload.id => Ok(Some(standing)),
            Some(_) | None => Err(Refusal::new(Code::Unauthenticated, format!("the SVID of `{}` was withdrawn", workload.id))),
        }
    }

    /// Takes a fresh credential of the same permit, after the upstream rejected the former.
    pub fn renewed(&mut self, credential: Arc<Credential>) {
        self.credential = Some(credential);
    }

    /// Whether this clearance still holds: asked before every attempt.
    ///
    /// # Errors
    /// Something of it was revoked, the rule's time is over, or the credential's; the caller is no longer who it was.
    pub fn still_stands(&self, live: &Live, now: Timestamp) -> Result<(), Refusal> {
        let grant = self.credential.as_ref().map(|credential| &*credential.grant.0);
        if let Some(block) = live.blocks().on(&Touched { grant, ..self.permit.touched() }) {
            return Err(policy::revoked(block));
        }
        if !self.source.still_attests(self.permit.workload(), now) {
            let why = format!("`{}` is no longer proven by identity `{}`", self.permit.workload().id, self.source.name());
            return Err(Refusal::new(Code::Unauthenticated, why));
        }
        self.permit.lease_stands(live, now)?;
        if self.permit.until_by_rule().is_some_and(|until| until <= now) {
            return Err(Refusal::new(Code::NoRule, "the rule that allowed this request ended before it was sent"));
        }
        if self.permit.workload().attestation.expires().is_some_and(|end| end <= now) {
            return Err(Refusal::new(Code::Unauthenticated, "the proof of the caller's identity ended before this request was sent"));
        }
        if self.credential.as_ref().and_then(|credential| credential.not_after).is_some_and(|end| end <= now) {
            return Err(Refusal::new(Code::CredentialUnavailable, "the credential of this request ended before it was sent"));
        }
        Ok(())
    }

    /// The edits of one attempt: what the application sent goes, what the permit grants comes.
    ///
    /// # Errors
    /// As [`Clearance::still_stands`]; and the credential fits no header or query.
    pub fn attempt_edits(&self, parts: &Parts, live: &Live, now: Timestamp) -> Result<Edits, Refusal> {
        self.still_stands(live, now)?;
        match self.permit.plan() {
            Plan::AsIs => {
                // What the caller says to exeat is not for the upstream.
                let mut edits = Edits::default();
                if parts.headers.contains_key(LEASE_HEADER) {
                    edits.remove(LEASE_HEADER);
                }
                Ok(edits)
            }
            Plan::Bare => Ok(self.strip.clone()),
            Plan::Swap(_) => {
                let credential = self.credential.as_ref().ok_or_else(|| Refusal::new(Code::Internal, "a swap without its credential"))?;
                Ok(inject::edits(&self.permit, credential, parts, &self.strip)?.after(&self.strip))
            }
        }
    }
}
