//! `Credential`: what is put on a request, and `Grant`: one issue of it, shared by the requests it serves.

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::policy::GrantTerms;
use crate::secret::{Fingerprint, Secret};

/// Name of one issue of a credential: in the token (`jti`), the audit, the trace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub Arc<str>);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A short-lived credential of one grant.
pub struct Credential {
    /// The grant that it is.
    pub grant: GrantId,
    /// On which terms.
    pub terms: Arc<GrantTerms>,
    /// The token or key, without prefix.
    pub material: Secret,
    /// The complete, sensitive header value for header placements, rendered once per issue.
    pub rendered: Option<http::HeaderValue>,
    /// Stands for it in records.
    pub fingerprint: Fingerprint,
    /// When it was issued.
    pub issued: Timestamp,
    /// Never used at or after this; `None` for a key of the vendor's that tells no expiry.
    pub not_after: Option<Timestamp>,
}

/// Why there is no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The issuer cannot be asked now.
    #[error("credential `{credential}` cannot be issued now: {why}")]
    Unavailable {
        /// The definition.
        credential: Arc<str>,
        /// Names the thing and the next step.
        why: Arc<str>,
    },
    /// The issuer said no.
    #[error("the issuer refused credential `{credential}`: {why}")]
    Refused {
        /// The definition.
        credential: Arc<str>,
        /// Its answer, without secrets.
        why: Arc<str>,
    },
    /// The issuer gave more than was asked.
    #[error("the issuer of credential `{credential}` gave more than was asked: {why}")]
    ScopeExceeded {
        /// The definition.
        credential: Arc<str>,
        /// What was too much.
        why: Arc<str>,
    },
}

impl IssueError {
    /// The refusal with its internal line.
    pub fn refusal(&self) -> crate::refusal::Refusal {
        use crate::refusal::{Code, Refusal};
        let code = match self {
            Self::Unavailable { .. } => Code::CredentialUnavailable,
            Self::Refused { .. } => Code::CredentialRefused,
            Self::ScopeExceeded { .. } => Code::ScopeExceeded,
        };
        Refusal::new(code, self.to_string())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("grant", &self.grant).field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}
