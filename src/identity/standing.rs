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

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::HandshakeKind;
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::*;
    use crate::tls::server_name;

    /// A handshake without a socket, and what the server says afterwards: its tickets.
    fn shake(client: Arc<ClientConfig>, server: &Arc<rustls::ServerConfig>) -> HandshakeKind {
        fn pass(from: &mut dyn FnMut(&mut dyn io::Write) -> io::Result<usize>, to: &mut dyn FnMut(&mut dyn io::Read) -> io::Result<usize>) {
            let mut bytes = Vec::new();
            from(&mut bytes).unwrap();
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                to(&mut bytes).unwrap();
            }
        }
        let mut client = rustls::ClientConnection::new(client, server_name("ledger.example").unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
        while client.wants_write() || server.wants_write() {
            pass(&mut |to| client.write_tls(to), &mut |from| server.read_tls(from));
            server.process_new_packets().unwrap();
            pass(&mut |to| server.write_tls(to), &mut |from| client.read_tls(from));
            client.process_new_packets().unwrap();
        }
        server.handshake_kind().unwrap()
    }

    #[test]
    fn a_session_of_one_standing_is_resumed_by_no_other() {
        let made = rcgen::generate_simple_self_signed(["ledger.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let server = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let (server, tls) = (Arc::new(server), ClientConfigs::new());
        let roots = Roots::Certificates(Arc::from([made.cert.der().to_vec()]));
        let profile = TlsProfile { roots, server_name: None, spiffe_id: None, client_certificate: false };
        let resumes =
            |standing: &Standing, alpn| shake(standing.client_config(&profile, alpn, &tls).unwrap(), &server) == HandshakeKind::Resumed;
        let (one, next) = (Standing::new(1, None, Arc::default()), Standing::new(2, None, Arc::default()));
        assert!(!resumes(&one, Alpn::H1));
        assert!(resumes(&one, Alpn::H1));
        assert!(!resumes(&one, Alpn::H2), "what was offered belongs to the session");
        assert!(!resumes(&next, Alpn::H1), "the certificate or the bundle is another");
        assert!(resumes(&next, Alpn::H1));
        assert!(resumes(&one, Alpn::H1));
    }
}
