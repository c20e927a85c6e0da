//! `unix_peer`: the kernel names the process at the other end, the configuration says whose it is.

mod claim;
mod config;
mod source;

pub use claim::UnixClaim;
pub(super) use config::UnixPeerConfig;
pub use source::UnixPeer;
