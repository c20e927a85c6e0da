//! `jwt_svid`: the pod's own JWT-SVID, asked of the Workload API for one audience. It proves who the pod is, so only the pod may have it.

use std::sync::Arc;

use crate::credentials::{CredentialProvider, IssueError, IssueRequest, Issued, Issuing};
use crate::identity::{PodFault, Pods};

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
            let Some(pod) = self.pods.of(&request.workload) else {
                let why = format!("no Workload API says now that exeat is `{}`", request.workload);
                return Err(IssueError::Unavailable { credential: credential(), why: why.into() });
            };
            match pod.jwt_svid(&self.audience, request.now).await {
                Ok((material, not_after)) => Ok(Issued { material, not_after: Some(not_after), source: None }),
                Err(fault @ PodFault::MoreAudiences) => {
                    Err(IssueError::ScopeExceeded { credential: credential(), why: fault.to_string().into() })
                }
                Err(fault @ (PodFault::Other | PodFault::Token(_))) => {
                    Err(IssueError::Refused { credential: credential(), why: fault.to_string().into() })
                }
                Err(fault @ (PodFault::NoIdentity(_) | PodFault::Api(_))) => {
                    Err(IssueError::Unavailable { credential: credential(), why: fault.to_string().into() })
                }
            }
        })
    }
}
