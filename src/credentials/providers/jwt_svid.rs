//! `jwt_svid`: the workload's own JWT-SVID, asked of its agent for one audience. It proves who the workload is, so nobody else may have it.

use std::sync::Arc;

use crate::credentials::{CredentialProvider, IssueError, IssueRequest, Issued, Issuing};
use crate::identity::{JwtSvidFault, Pods};

/// The provider.
pub struct JwtSvidProvider {
    credential: Arc<str>,
    audience: Arc<str>,
    pods: Arc<Pods>,
}

impl JwtSvidProvider {
    /// For the definition of that name, for one audience.
    #[must_use]
    pub const fn new(credential: Arc<str>, audience: Arc<str>, pods: Arc<Pods>) -> Self {
        Self { credential, audience, pods }
    }
}

impl CredentialProvider for JwtSvidProvider {
    fn issue(&self, request: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
        Box::pin(async move {
            let credential = || Arc::clone(&self.credential);
            match self.pods.jwt_svid(&request.workload, &self.audience, request.now).await {
                Ok((material, not_after)) => Ok(Issued { material, not_after: Some(not_after), source: None }),
                Err(fault @ JwtSvidFault::MoreAudiences) => {
                    Err(IssueError::ScopeExceeded { credential: credential(), why: fault.to_string().into() })
                }
                Err(fault @ (JwtSvidFault::Other | JwtSvidFault::Token(_))) => {
                    Err(IssueError::Refused { credential: credential(), why: fault.to_string().into() })
                }
                Err(fault @ (JwtSvidFault::NoIdentity(_) | JwtSvidFault::Api(_))) => {
                    Err(IssueError::Unavailable { credential: credential(), why: fault.to_string().into() })
                }
            }
        })
    }
}
