//! `Event`: what happens to the household, recorded in the same chain as the passages.

use std::borrow::Cow;
use std::sync::Arc;

use crate::capture::Sha256;
use crate::clock::Timestamp;
use crate::live::{Change, Lease};

/// One event of the household. Texts name things and never hold a secret.
#[derive(Debug, Clone)]
pub enum Event {
    /// The process serves. The ledger writes its own `seal` before it.
    Started {
        /// Version of the binary.
        version: &'static str,
        /// Snapshot revision.
        revision: u64,
        /// Content hash of the policy set.
        policy: Arc<str>,
    },
    /// The process was asked to stop.
    Stopping {
        /// The signal or command.
        cause: Cow<'static, str>,
    },
    /// A reload was taken.
    Reloaded {
        /// The new snapshot revision.
        revision: u64,
        /// Content hash of the new policy set.
        policy: Arc<str>,
        /// What asked for it: `signal`, `files`, `admin`.
        cause: Cow<'static, str>,
    },
    /// A reload was refused; the old snapshot serves on.
    ReloadFailed {
        /// The snapshot revision that serves on.
        revision: u64,
        /// The first diagnostic, with file and line.
        diagnostic: String,
    },
    /// A credential was issued, refreshed or discarded, or could not be.
    Grant {
        /// What happened.
        change: GrantChange,
        /// The grant; `None` when none was given.
        grant: Option<Arc<str>>,
        /// The credential definition.
        credential: Arc<str>,
        /// For whom.
        workload: Arc<str>,
        /// For where.
        upstream: Arc<str>,
        /// Cause of a discard or failure, or the audience and expiry of an issue; never a secret.
        detail: Cow<'static, str>,
    },
    /// A lease was opened, renewed or ended.
    Lease {
        /// What happened.
        change: Change,
        /// The lease as it is now.
        lease: Arc<Lease>,
        /// Who did it: `uid 0`, `its time`.
        by: Arc<str>,
        /// Why, in the opener's words.
        reason: Arc<str>,
    },
    /// Something was revoked: from here on it is refused.
    Revoked {
        /// What.
        target: String,
        /// Why, in the operator's words.
        reason: Arc<str>,
        /// Who: `uid 0`, `file /etc/exeat/revoked`, `signal SIGUSR1`.
        by: Arc<str>,
        /// Passages that it ended.
        passages: u64,
        /// Grants that it discarded.
        grants: u64,
        /// Whether it outlives the process.
        durable: bool,
    },
    /// A revocation was lifted.
    Restored {
        /// What.
        target: String,
        /// Why.
        reason: Arc<str>,
        /// Who.
        by: Arc<str>,
    },
    /// The Workload API gave exeat another certificate, or other authorities to trust.
    IdentityUpdated {
        /// The identity's name in the configuration.
        identity: Arc<str>,
        /// Who exeat is there.
        id: Arc<str>,
        /// The certificate's serial number in hex.
        serial: Box<str>,
        /// Of its DER form.
        sha256: Sha256,
        /// Until when it is valid.
        not_after: Timestamp,
        /// The trust domains whose authorities are trusted now.
        trusts: Box<str>,
    },
    /// exeat is nobody any more there, and trusts nobody.
    IdentityWithdrawn {
        /// The identity's name in the configuration.
        identity: Arc<str>,
        /// Who it was.
        id: Arc<str>,
        /// Why.
        reason: Box<str>,
    },
    /// A signing key was made, or took over, or went.
    KeyRotated {
        /// The key id.
        kid: Arc<str>,
        /// `created`, `active`, `retired`.
        change: &'static str,
    },
}

/// What became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantChange {
    /// First issue under its key.
    Issued,
    /// Issued ahead of the end of the former.
    Refreshed,
    /// No longer used.
    Discarded,
    /// The issuer could not be asked, refused, or gave too much.
    Failed,
    /// The issuer took it back.
    Revoked,
    /// The issuer did not take it back: it ends by its own word.
    RevocationFailed,
    /// Issued beside a request of an observed upstream, and thrown away.
    Rehearsed,
    /// Could not have been had, had the upstream been enforced.
    RehearseFailed,
}

impl GrantChange {
    /// The word in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refreshed => "refreshed",
            Self::Discarded => "discarded",
            Self::Failed => "failed",
            Self::Revoked => "revoked",
            Self::RevocationFailed => "revocation_failed",
            Self::Rehearsed => "rehearsed",
            Self::RehearseFailed => "rehearse_failed",
        }
    }
}

impl Event {
    /// The `event` field of its line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "start",
            Self::Stopping { .. } => "stop",
            Self::Reloaded { .. } => "reload",
            Self::ReloadFailed { .. } => "reload_failed",
            Self::Grant { change: GrantChange::Issued, .. } => "grant_issued",
            Self::Grant { change: GrantChange::Refreshed, .. } => "grant_refreshed",
            Self::Grant { change: GrantChange::Discarded, .. } => "grant_discarded",
            Self::Grant { change: GrantChange::Failed, .. } => "grant_failed",
            Self::Lease { change: Change::Opened, .. } => "lease_opened",
            Self::Lease { change: Change::Renewed, .. } => "lease_renewed",
            Self::Lease { change: Change::Ended, .. } => "lease_ended",
            Self::Grant { change: GrantChange::Revoked, .. } => "grant_revoked",
            Self::Grant { change: GrantChange::RevocationFailed, .. } => "grant_revocation_failed",
            Self::Revoked { .. } => "revoked",
            Self::Restored { .. } => "restored",
            Self::Grant { change: change @ (GrantChange::Rehearsed | GrantChange::RehearseFailed), .. } => change.name(),
            Self::IdentityUpdated { .. } => "identity_updated",
            Self::IdentityWithdrawn { .. } => "identity_withdrawn",
            Self::KeyRotated { .. } => "key",
        }
    }
}
