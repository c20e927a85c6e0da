//! `Standing`: what an agent says of one workload at one moment: its SVID, and whom to trust.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;

use super::spiffe_id::SpiffeId;
use super::svid::{Bundles, Expected, PeerVerifier};
use super::workload::Workload;
use crate::capture::Sha256;
use crate::catalogue::{Roots, TlsProfile};
use crate::clock::Timestamp;
use crate::tls::{Alpn, ClientConfigs, OwnCertificate, Peer, TlsError, Trust};

/// An X.509-SVID with its key, judged.
#[derive(Debug, Clone)]
pub struct HeldSvid {
    /// Who it proves.
    pub workload: Arc<Workload>,
    /// Chain and key.
    pub certificate: OwnCertificate,
    /// From when.
    pub not_before: Timestamp,
    /// Until when; never used at or after it.
    pub not_after: Timestamp,
    /// The certificate's serial number in hex.
    pub serial: Box<str>,
    /// Of the certificate's DER form: how records name it.
    pub sha256: Sha256,
}

/// What holds between two words of an agent about one workload: exeat itself (Workload API), or a caller (Broker API). Immutable: a rotation or a withdrawal makes another one.
#[derive(Debug)]
pub struct Standing {
    /// Another number, another certificate or bundle: connections of the former are not used again. Unique in the process.
    pub generation: u64,
    /// The workload's own; `None` before the first and after a withdrawal.
    pub svid: Option<HeldSvid>,
    /// Whom to trust.
    pub bundles: Arc<Bundles>,
    /// Client configurations of this standing: they end with it, and so do the TLS sessions that could be resumed.
    configs: Mutex<Vec<(TlsProfile, Alpn, Arc<ClientConfig>)>>,
}

impl Standing {
    pub(super) const fn new(generation: u64, svid: Option<HeldSvid>, bundles: Arc<Bundles>) -> Self {
        Self { generation, svid, bundles, configs: Mutex::new(Vec::new()) }
    }

    /// Of a workload of which nothing holds any more.
    pub(super) fn nothing() -> Self {
        Self::new(0, None, Arc::default())
    }

    /// The client configuration of an upstream that authenticates by SVID on one side or on both.
    ///
    /// # Errors
    /// No SVID where one is to be shown; roots or a SPIFFE ID that cannot be used.
    pub fn client_config(&self, profile: &TlsProfile, alpn: Alpn, tls: &ClientConfigs) -> Result<Arc<ClientConfig>, TlsError> {
        let mut made = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, config)) = made.iter().find(|(known, version, _)| *version == alpn && known == profile) {
            return Ok(Arc::clone(config));
        }
        let own = match (&self.svid, profile.client_certificate) {
            (_, false) => None,
            (Some(svid), true) => Some(&svid.certificate),
            (None, true) => return Err(TlsError::Configuration("the agent has withdrawn the certificate".to_owned())),
        };
        let peer = match &profile.spiffe_id {
            Some(id) => {
                let id = SpiffeId::parse(id).map_err(|error| TlsError::Configuration(error.to_string()))?;
                Peer::Judged(Arc::new(PeerVerifier::new(Expected::One(id), Arc::clone(&self.bundles))))
            }
            None => Peer::Named(match &profile.roots {
                Roots::System => Trust::System,
                Roots::Certificates(certificates) => Trust::Certificates(Arc::clone(certificates)),
            }),
        };
        let config = tls.authenticated(peer, own, alpn)?;
        made.push((profile.clone(), alpn, Arc::clone(&config)));
        Ok(config)
    }
}
