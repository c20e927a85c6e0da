//! `AddressError`: why there is no address to dial.

use std::net::IpAddr;
use std::time::Duration;

use super::check::Blocked;
use crate::refusal::{Code, Refusal};

/// Why a host gave no address to dial. Names the host and the next step; holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It resolves, but only to addresses that may not be dialled.
    #[error("`{host}` leads to {ip}, port {port}, which may not be dialled: {why}{}", next_step(*why, *ip))]
    Refused {
        /// The host as asked for.
        host: String,
        /// The first refused address.
        ip: IpAddr,
        /// The port.
        port: u16,
        /// Why.
        why: Blocked,
    },
    /// The resolver has no answer.
    #[error("`{host}` does not resolve: {why}; check the name and this machine's resolver")]
    Unresolved {
        /// The host as asked for.
        host: String,
        /// The resolver's words.
        why: String,
    },
    /// The resolver did not answer in time.
    #[error("`{host}` did not resolve within {after:?}; check this machine's resolver")]
    Slow {
        /// The host as asked for.
        host: String,
        /// The deadline.
        after: Duration,
    },
    /// Too many names are being resolved.
    #[error("`{host}` was not resolved: too many names are being resolved at once; check this machine's resolver")]
    Busy {
        /// The host as asked for.
        host: String,
    },
}

fn next_step(why: Blocked, ip: IpAddr) -> String {
    match why {
        Blocked::Metadata | Blocked::OwnListener => String::new(),
        Blocked::NotPublic(_) | Blocked::OutsideReach => {
            format!(
                "; to allow it, list its network in the upstream's `reach: {{ networks: [{}/{}] }}`",
                ip,
                if ip.is_ipv4() { 32 } else { 128 }
            )
        }
    }
}

impl AddressError {
    /// Stable word for records: `address`, `resolve`, `timeout`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "address",
            Self::Unresolved { .. } | Self::Busy { .. } => "resolve",
            Self::Slow { .. } => "timeout",
        }
    }

    /// The refusal with its internal line.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Refused { .. } => Code::AddressRefused,
            Self::Unresolved { .. } => Code::UpstreamUnreachable,
            Self::Slow { .. } => Code::UpstreamTimeout,
            Self::Busy { .. } => Code::Overloaded,
        };
        Refusal::new(code, self.to_string())
    }
}
