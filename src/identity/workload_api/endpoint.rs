//! `Endpoint`: where the Workload API is (SPIFFE Workload Endpoint, section 4).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where the Workload API listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `unix:///PATH`.
    Unix(Arc<str>),
    /// `tcp://IP:PORT`.
    Tcp(SocketAddr),
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme.
    #[error("it begins with neither `unix:` nor `tcp:`")]
    Scheme,
    /// Not an absolute path alone.
    #[error("a unix endpoint is an absolute path and nothing else")]
    Path,
    /// Not an address and a port alone.
    #[error("a tcp endpoint is an IP address and a port and nothing else")]
    Address,
}

impl Endpoint {
    /// Parses one.
    ///
    /// # Errors
    /// Anything that the standard does not allow: a relative path, a host name, a query.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let whole = path.len() > 1 && path.starts_with('/') && !path.starts_with("//") && !path.contains(['?', '#', '\0']);
            return if whole { Ok(Self::Unix(path.into())) } else { Err(EndpointError::Path) };
        }
        let address = text.strip_prefix("tcp://").ok_or(EndpointError::Scheme)?;
        address.parse().map(Self::Tcp).map_err(|_| EndpointError::Address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict() {
        assert_eq!(Endpoint::parse("unix:///run/a.sock").unwrap().to_string(), "unix:///run/a.sock");
        assert_eq!(Endpoint::parse("unix:/run/a.sock").unwrap().to_string(), "unix:///run/a.sock");
        assert_eq!(Endpoint::parse("tcp://[::1]:8081").unwrap().to_string(), "tcp://[::1]:8081");
        for (text, error) in [
            ("", EndpointError::Scheme),
            ("/run/a.sock", EndpointError::Scheme),
            ("https://127.0.0.1:1", EndpointError::Scheme),
            ("unix://run/a.sock", EndpointError::Path),
            ("unix:a.sock", EndpointError::Path),
            ("unix:///", EndpointError::Path),
            ("unix:////host/a", EndpointError::Path),
            ("unix:///run/a.sock?x=1", EndpointError::Path),
            ("tcp://localhost:8081", EndpointError::Address),
            ("tcp://127.0.0.1", EndpointError::Address),
            ("tcp://127.0.0.1:1/x", EndpointError::Address),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
