//! `SpiffeId` and `TrustDomain`, parsed strictly (SPIFFE-ID standard, sections 2.1 to 2.4).

use std::fmt;
use std::sync::Arc;

/// A SPIFFE ID of a workload: `spiffe://` trust domain, then a path that is not the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins.
    path_at: usize,
}

/// Why a text is no SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Another scheme.
    #[error("a SPIFFE ID begins with `spiffe://`")]
    Scheme,
    /// Empty or with characters outside `a-z 0-9 . - _`.
    #[error("the trust domain must be 1 to 255 of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain,
    /// The trust domain itself, without a workload.
    #[error("the path is missing: a workload's SPIFFE ID names more than its trust domain")]
    NoPath,
    /// Empty or dot segments, a trailing slash, percent, query, fragment or other characters.
    #[error("path segments must be of a-z, A-Z, 0-9, `.`, `-` and `_`, not empty, not `.` or `..`, without a trailing slash")]
    Path,
    /// Over 2048 bytes.
    #[error("a SPIFFE ID has at most 2048 bytes")]
    Length,
}

impl SpiffeId {
    /// Parses one.
    ///
    /// # Errors
    /// Anything that the standard does not allow; nothing is normalised.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        const SCHEME: &str = "spiffe://";
        if text.len() > 2048 {
            return Err(SpiffeIdError::Length);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) =
            rest.split_once('/').ok_or(if is_trust_domain(rest) { SpiffeIdError::NoPath } else { SpiffeIdError::TrustDomain })?;
        if !is_trust_domain(domain) {
            return Err(SpiffeIdError::TrustDomain);
        }
        if path.is_empty() {
            return Err(SpiffeIdError::NoPath);
        }
        if !path.split('/').all(is_path_segment) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self { text: text.into(), path_at: SCHEME.len() + domain.len() })
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Shared text, for records.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get("spiffe://".len()..self.path_at).unwrap_or_default()
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }

    /// The value after `ns` in `/ns/NS/sa/SA`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// The value after `sa` in `/ns/NS/sa/SA`.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, account)| account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let mut parts = self.path().strip_prefix("/ns/")?.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        }
    }
}

/// Whether a text is a trust domain name.
#[must_use]
pub fn is_trust_domain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_'))
}

/// Whether a text is one path segment of a SPIFFE ID.
#[must_use]
pub fn is_path_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict() {
        let id = SpiffeId::parse("spiffe://prod.example/ns/billing/sa/app").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("prod.example", "/ns/billing/sa/app"));
        assert_eq!((id.namespace(), id.service_account()), (Some("billing"), Some("app")));
        for (text, error) in [
            ("https://a/b", SpiffeIdError::Scheme),
            ("spiffe://a", SpiffeIdError::NoPath),
            ("spiffe://a/", SpiffeIdError::NoPath),
            ("spiffe://A/b", SpiffeIdError::TrustDomain),
            ("spiffe://a:1/b", SpiffeIdError::TrustDomain),
            ("spiffe://u@a/b", SpiffeIdError::TrustDomain),
            ("spiffe:///b", SpiffeIdError::TrustDomain),
            ("spiffe://*/b", SpiffeIdError::TrustDomain),
            ("spiffe://a/b/", SpiffeIdError::Path),
            ("spiffe://a//b", SpiffeIdError::Path),
            ("spiffe://a/../b", SpiffeIdError::Path),
            ("spiffe://a/%62", SpiffeIdError::Path),
            ("spiffe://a/b?c", SpiffeIdError::Path),
            ("spiffe://a/b#c", SpiffeIdError::Path),
        ] {
            assert_eq!(SpiffeId::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
