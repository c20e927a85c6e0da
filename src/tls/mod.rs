//! tls: whom we believe, and whom we let workloads believe.
//!
//! Enters: trust anchors, a server's name, and for interception the name that a workload was allowed to reach. Leaves: client
//! configurations that always verify (hybrid post-quantum key exchange first, sessions resumed), and server configurations with a leaf
//! of the local CA for exactly one name, or of a listener that judges its clients' certificates. It never turns verification off, never verifies an empty name, and no name that a caller chose
//! by SNI alone is ever minted. Everything runs on aws-lc-rs, named explicitly: nothing depends on a process-wide default.

mod authority;
mod client;
mod error;
mod interception;
mod listener;
mod roots;
mod wire;

use std::sync::{Arc, LazyLock};

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use authority::Authority;
pub use client::{Alpn, ClientConfigs, OwnCertificate, Peer, server_name};
pub use error::TlsError;
pub use interception::{Intercepted, Interceptor, Leaves};
pub use listener::{ClientFault, ClientJudge, Shown, client_fault, listener_config, not_after};
pub use roots::{Trust, parse_certificates, system_roots_pem};
pub use wire::{HandshakeError, Wire};

/// The one provider of cryptography, with X25519MLKEM768 first, and of the suites those with AES-128-GCM and SHA-256 (RFC 8446 section 9.1
/// has every implementation know them). A handshake hashes some fifty times: with SHA-384 that is a third of all that it computes, and buys
/// nothing where the key exchange is X25519. A peer that insists on AES-256 or `ChaCha20` gets it.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        // Stable: within the two halves the order stays.
        provider.cipher_suites.sort_by_key(|suite| !is_light(suite.suite()));
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

const fn is_light(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}
