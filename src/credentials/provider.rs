//! `CredentialProvider`: what issues a credential.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::credential::{Credential, GrantId, IssueError};
use crate::clock::Timestamp;
use crate::identity::SpiffeId;
use crate::policy::GrantTerms;
use crate::secret::Secret;

/// A future of a provider; it runs on the household's runtime, never on a worker.
pub type Issuing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One issue, asked for.
#[derive(Debug, Clone)]
pub struct IssueRequest {
    /// Its name, for the token and the records of both sides.
    pub grant: GrantId,
    /// For whom.
    pub workload: SpiffeId,
    /// For which upstream.
    pub upstream: Arc<str>,
    /// On which terms.
    pub terms: Arc<GrantTerms>,
    /// Wall time of the asking.
    pub now: Timestamp,
    /// It must not live longer than this: the end of the lease that it is obtained under.
    pub ends: Option<Timestamp>,
}

/// One issue, made.
pub struct Issued {
    /// The token or key, without prefix.
    pub material: Secret,
    /// When it ends by its own word; `None` for a key that tells no expiry. The broker never uses it longer than the terms' ttl.
    pub not_after: Option<Timestamp>,
    /// Where it came from, for providers whose source can change under them.
    pub source: Option<SourceMark>,
}

/// The state of a source (a file) when it was read: another mark, another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceMark(pub u64);

/// One issue, to be taken back.
#[derive(Debug, Clone)]
pub struct Recall {
    /// What was issued.
    pub credential: Arc<Credential>,
    /// For whom.
    pub workload: SpiffeId,
    /// For which upstream.
    pub upstream: Arc<str>,
}

/// Something that issues credentials. It is asked once per flight, under the broker's deadline, and must not keep what it issued.
pub trait CredentialProvider: Send + Sync {
    /// Issues one.
    fn issue(&self, request: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>>;

    /// The source's mark now; asked in the background every few seconds while a credential with a mark is in use. `None`: cannot tell.
    fn source(&self) -> Issuing<'_, Option<SourceMark>> {
        Box::pin(std::future::ready(None))
    }

    /// Whether the issuer can be asked to revoke what it issued. Without, a credential ends by its own word.
    fn revokes(&self) -> bool {
        false
    }

    /// Asks the issuer to revoke one. Called after it is out of use here, under a deadline, and only where [`Self::revokes`].
    fn revoke(&self, recall: Recall) -> Issuing<'_, Result<(), IssueError>> {
        let credential = Arc::clone(&recall.credential.terms.profile.name);
        let why = "its issuer takes nothing back; it ends by its own word".into();
        Box::pin(std::future::ready(Err(IssueError::Unavailable { credential, why })))
    }
}
