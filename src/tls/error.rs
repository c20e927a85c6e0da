//! `TlsError`: what cannot be made or believed.

use std::time::Duration;

/// Why there is no TLS. Names the thing and the next step; holds no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The operating system has no certificates.
    #[error("this machine has no trusted certificates ({0}); install `ca-certificates`, or list roots for the upstream")]
    NoSystemRoots(String),
    /// A list of roots without one.
    #[error("there is no certificate in it; a PEM file of roots has `-----BEGIN CERTIFICATE-----` blocks")]
    NoCertificate,
    /// Not PEM, or not a certificate.
    #[error("certificate number {number} cannot be read: {why}")]
    BadCertificate {
        /// Position in the file, from 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The name cannot be verified.
    #[error("`{0}` is not a name that a certificate can prove")]
    BadName(String),
    /// The CA's certificate and key.
    #[error("the interception CA cannot be used: {0}")]
    BadAuthority(String),
    /// A leaf could not be made.
    #[error("no certificate could be made for `{name}`: {why}")]
    NotMinted {
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
    /// The library refused the configuration.
    #[error("TLS cannot be configured: {0}")]
    Configuration(String),
    /// Inside a tunnel to one host the `ClientHello` names another.
    #[error("inside a tunnel to `{tunnel}` the TLS client asked for `{sni}`")]
    Misdirected {
        /// The tunnel's host.
        tunnel: String,
        /// The name in the `ClientHello`.
        sni: String,
    },
    /// Inside a tunnel to a name the `ClientHello` names nobody.
    #[error("inside a tunnel to `{0}` the TLS client named no server (SNI)")]
    NoServerName(String),
    /// The handshake failed: a client that does not trust the CA, mostly.
    #[error("the TLS handshake inside a tunnel to `{tunnel}` failed: {why}; a client that refuses the certificate must trust exeat's CA")]
    Handshake {
        /// The tunnel's host.
        tunnel: String,
        /// The library's words.
        why: String,
    },
    /// The handshake was too slow.
    #[error("the TLS handshake inside a tunnel to `{tunnel}` did not end within {after:?}")]
    Slow {
        /// The tunnel's host.
        tunnel: String,
        /// The deadline.
        after: Duration,
    },
}
