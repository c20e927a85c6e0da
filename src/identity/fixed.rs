//! `Fixed`: every connection of the listener is one workload, because the configuration says so.

use std::sync::Arc;

use super::spiffe_id::SpiffeId;
use super::workload::{Attestation, Caller, Identified, IdentitySource, Workload};

/// The workload is given; it is only as good as the guard before the listener (a network namespace, a socket's directory).
#[derive(Debug)]
pub struct Fixed {
    name: Arc<str>,
    workload: Arc<Workload>,
}

impl Fixed {
    /// Under the identity's name in the configuration.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, id: SpiffeId) -> Self {
        Self { name: name.into(), workload: Arc::new(Workload { id, attestation: Attestation::Fixed }) }
    }
}

impl IdentitySource for Fixed {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_of_one(&self) -> bool {
        true
    }

    fn identify(&self, _caller: &Caller<'_>) -> Identified {
        Identified::Attested(Arc::clone(&self.workload))
    }
}
