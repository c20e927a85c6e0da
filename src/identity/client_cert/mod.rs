//! `client_cert`: the caller shows an X.509-SVID on a TLS listener and proves its key in the handshake.

mod config;
mod source;

pub(super) use config::{ClientCertConfig, Trust};
pub use source::{Certificate, ClientCert};
