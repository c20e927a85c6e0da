//! Patterns of identities and of paths: segments that are literal or `*` (exactly one), and `**` as the last one (all beneath, and the
//! place itself).
//!
//! Nothing else is a wildcard, so whether one pattern includes or meets another can be told exactly.

use std::fmt;
use std::sync::Arc;

use crate::action::{MAX_SEGMENTS, segments};
use crate::identity::{SpiffeId, is_path_segment, is_trust_domain};

const SCHEME: &str = "spiffe://";

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// Any one segment that is not empty.
    Star,
}

/// The shape that identity and path patterns share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Glob {
    segments: Box<[Segment]>,
    /// Ends in `**`.
    rest: bool,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `a*b`, `***`.
    #[error("`*` stands for one whole segment, `**` for all that is left: neither is part of a name")]
    PartialWildcard,
    /// `/a/**/b`.
    #[error("`**` can only be the last segment")]
    RestInside,
    /// More segments than any reading of a path.
    #[error("a pattern has at most 32 segments")]
    TooLong,
    /// Does not begin with `/`.
    #[error("a path pattern begins with `/`")]
    NoSlash,
    /// `//`, dot segments, characters that no canonical path holds.
    #[error("a path pattern has no empty or dot segments and none of `?`, `#`, `\\`, `;`, blanks and control characters")]
    NotCanonical,
    /// `%` without two hex digits.
    #[error("`%` in a path pattern is followed by two hex digits")]
    Escape,
    /// Does not begin with `spiffe://`.
    #[error("an identity pattern begins with `spiffe://` (or is `**`: every identity)")]
    NoScheme,
    /// The trust domain is not written out.
    #[error("the trust domain of an identity pattern is written out: a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain,
    /// The path is missing or holds what no SPIFFE ID holds.
    #[error("after the trust domain come segments of a-z, A-Z, 0-9, `.`, `-` and `_`, or `*`, or a last `**`")]
    IdentityPath,
}

impl Glob {
    #[expect(single_use_lifetimes, reason = "an anonymous lifetime is not stable in this place")]
    fn parse<'t>(parts: impl Iterator<Item = &'t str>, literal: impl Fn(&str) -> Result<(), PatternError>) -> Result<Self, PatternError> {
        let mut found = Vec::new();
        let mut rest = false;
        for part in parts {
            if rest {
                return Err(PatternError::RestInside);
            }
            match part {
                "**" => rest = true,
                "*" => found.push(Segment::Star),
                part if part.contains('*') => return Err(PatternError::PartialWildcard),
                part => {
                    literal(part)?;
                    found.push(Segment::Literal(part.into()));
                }
            }
        }
        if found.len() > MAX_SEGMENTS {
            return Err(PatternError::TooLong);
        }
        Ok(Self { segments: found.into(), rest })
    }

    pub(super) const fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) const fn rest(&self) -> bool {
        self.rest
    }

    /// Without wildcards.
    pub(super) fn is_exact(&self) -> bool {
        !self.rest && self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// `**` alone: everything.
    pub(super) const fn is_everything(&self) -> bool {
        self.rest && self.segments.is_empty()
    }

    /// Whether these segments match; the linear truth that the index must agree with.
    #[expect(single_use_lifetimes, reason = "an anonymous lifetime is not stable in this place")]
    pub(super) fn matches<'t>(&self, mut parts: impl Iterator<Item = &'t str>) -> bool {
        for segment in &self.segments {
            let fits = match (segment, parts.next()) {
                (_, None) => false,
                (Segment::Literal(wanted), Some(part)) => **wanted == *part,
                (Segment::Star, Some(part)) => !part.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        self.rest || parts.next().is_none()
    }

    /// Whether everything that `other` matches is matched by this one.
    pub(super) fn includes(&self, other: &Self) -> bool {
        if other.segments.len() < self.segments.len() || (!self.rest && (other.rest || other.segments.len() != self.segments.len())) {
            return false;
        }
        self.segments.iter().zip(&other.segments).all(|(ours, theirs)| match (ours, theirs) {
            (Segment::Star, Segment::Literal(text)) => !text.is_empty(),
            (Segment::Star, Segment::Star) => true,
            (Segment::Literal(ours), Segment::Literal(theirs)) => ours == theirs,
            (Segment::Literal(_), Segment::Star) => false,
        })
    }

    /// Sorts the more specific of two patterns that match the same thing first: segment by segment literal, `*`, `**`.
    pub(super) fn specificity(&self) -> impl Iterator<Item = u8> + '_ {
        let kinds = self.segments.iter().map(|segment| match segment {
            Segment::Literal(_) => 1,
            Segment::Star => 2,
        });
        kinds.chain(self.rest.then_some(3))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for segment in &self.segments {
            if !std::mem::take(&mut first) {
                f.write_str("/")?;
            }
            match segment {
                Segment::Literal(text) => f.write_str(text)?,
                Segment::Star => f.write_str("*")?,
            }
        }
        match (self.rest, first) {
            (true, true) => f.write_str("**"),
            (true, false) => f.write_str("/**"),
            (false, _) => Ok(()),
        }
    }
}

/// Which workloads: `spiffe://prod.example/ns/*/sa/app`, `spiffe://prod.example/ns/billing/**`, or `**` for all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentityPattern(Arc<Glob>);

impl IdentityPattern {
    /// Parses one.
    ///
    /// # Errors
    /// A wildcard in the trust domain, a partial wildcard, a `**` that is not last, or what no SPIFFE ID holds.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "**" {
            return Ok(Self(Arc::new(Glob { segments: Box::default(), rest: true })));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(PatternError::NoScheme)?;
        let (domain, path) = rest.split_once('/').ok_or(PatternError::IdentityPath)?;
        if !is_trust_domain(domain) {
            return Err(PatternError::TrustDomain);
        }
        let literal = |part: &str| if is_path_segment(part) { Ok(()) } else { Err(PatternError::IdentityPath) };
        Ok(Self(Arc::new(Glob::parse(std::iter::once(domain).chain(path.split('/')), literal)?)))
    }

    /// Whether a workload is meant.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        self.0.matches(identity_segments(id))
    }

    /// Whether every workload that `other` means is meant by this one.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        self.0.includes(&other.0)
    }

    pub(super) fn glob(&self) -> &Glob {
        &self.0
    }

    /// `**`, or all of one trust domain.
    pub(super) fn is_whole_domain(&self) -> bool {
        self.0.rest && self.0.segments.len() <= 1
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_everything() {
            f.write_str(SCHEME)?;
        }
        self.0.write(f)
    }
}

/// Trust domain, then the segments of the path.
pub(super) fn identity_segments(id: &SpiffeId) -> impl Iterator<Item = &str> {
    std::iter::once(id.trust_domain()).chain(segments(id.path()))
}

/// Which paths: `/v1/charges`, `/v1/charges/*/refund`, `/v1/**`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PathPattern(Arc<Glob>);

impl PathPattern {
    /// Every path.
    pub(super) fn all() -> Self {
        Self(Arc::new(Glob { segments: Box::default(), rest: true }))
    }

    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let inside = text.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        let last = inside.split('/').count().saturating_sub(1);
        for (position, part) in inside.split('/').enumerate() {
            // One trailing slash is a path of its own (`/a/`); an empty segment inside is a habit of servers, not a name.
            if part.is_empty() && position != last {
                return Err(PatternError::NotCanonical);
            }
        }
        Ok(Self(Arc::new(Glob::parse(inside.split('/'), path_literal)?)))
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        self.0.matches(segments(path))
    }

    pub(super) fn includes(&self, other: &Self) -> bool {
        self.0.includes(&other.0)
    }

    pub(super) fn glob(&self) -> &Glob {
        &self.0
    }
}

/// Whether a path pattern can name this segment: what it cannot name, only `*` stands for.
#[must_use]
pub fn is_path_literal(segment: &str) -> bool {
    !segment.is_empty() && !segment.contains('*') && path_literal(segment).is_ok()
}

fn path_literal(part: &str) -> Result<(), PatternError> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '\\' | ';' | '\u{fffd}');
    if matches!(part, "." | "..") || part.contains(odd) {
        return Err(PatternError::NotCanonical);
    }
    let mut escapes = part.split('%').skip(1);
    if escapes.any(|after| !after.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))) {
        return Err(PatternError::Escape);
    }
    Ok(())
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/")?;
        self.0.write(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    #[test]
    fn a_path_pattern_means_what_it_says() {
        for (pattern, matching, not) in [
            ("/v1/charges", &["/v1/charges"][..], &["/v1/charges/", "/v1", "/v1/charges/1", "*", ""][..]),
            ("/v1/*/refund", &["/v1/x/refund"], &["/v1//refund", "/v1/refund", "/v1/x/y/refund"]),
            ("/v1/**", &["/v1", "/v1/", "/v1/a/b"], &["/v10", "/", "/V1"]),
            ("/**", &["/", "/a", "*", ""], &[]),
            ("/", &["/"], &["/a", "//", ""]),
            ("/a/", &["/a/"], &["/a"]),
        ] {
            for text in matching {
                assert!(path(pattern).matches(text), "{pattern} {text}");
            }
            for text in not {
                assert!(!path(pattern).matches(text), "{pattern} {text}");
            }
            assert_eq!(path(pattern).to_string(), pattern);
        }
    }

    #[test]
    fn inclusion_is_exact() {
        for (wide, narrow, expected) in [
            ("/**", "/a/b", true),
            ("/a/**", "/a", true),
            ("/a/**", "/a/*/c", true),
            ("/a/**", "/**", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/**", false),
            ("/a/*", "/a/", false),
            ("/a/b", "/a/*", false),
            ("/*/b", "/a/b", true),
        ] {
            assert_eq!(path(wide).includes(&path(narrow)), expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (text, error) in [
            ("v1", PatternError::NoSlash),
            ("/a//b", PatternError::NotCanonical),
            ("/a/../b", PatternError::NotCanonical),
            ("/a?b", PatternError::NotCanonical),
            ("/a b", PatternError::NotCanonical),
            ("/a/**/b", PatternError::RestInside),
            ("/a/b*", PatternError::PartialWildcard),
            ("/a%2", PatternError::Escape),
        ] {
            assert_eq!(PathPattern::parse(text).unwrap_err(), error, "{text}");
        }
        for (text, error) in [
            ("prod.example/a", PatternError::NoScheme),
            ("*", PatternError::NoScheme),
            ("spiffe://*/ns/a", PatternError::TrustDomain),
            ("spiffe://prod.example", PatternError::IdentityPath),
            ("spiffe://prod.example/", PatternError::IdentityPath),
            ("spiffe://prod.example/a/", PatternError::IdentityPath),
            ("spiffe://prod.example/app-*", PatternError::PartialWildcard),
            ("spiffe://prod.example/**/a", PatternError::RestInside),
        ] {
            assert_eq!(IdentityPattern::parse(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn identity_patterns() {
        let id = SpiffeId::parse("spiffe://prod.example/ns/billing/sa/app").unwrap();
        for (pattern, expected) in [
            ("**", true),
            ("spiffe://prod.example/**", true),
            ("spiffe://prod.example/ns/*/sa/app", true),
            ("spiffe://prod.example/ns/billing/sa/app", true),
            ("spiffe://prod.example/ns/billing/sa/app/**", true),
            ("spiffe://prod.example/ns/billing", false),
            ("spiffe://other.example/**", false),
        ] {
            let parsed = IdentityPattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(&id), expected, "{pattern}");
            assert_eq!(parsed.to_string(), pattern);
        }
    }

    #[test]
    fn the_more_specific_sorts_first() {
        let order = ["/a/b", "/a/*", "/a/**", "/*/b", "/*/*", "/**"].map(path);
        assert!(order.is_sorted_by(|a, b| a.glob().specificity().lt(b.glob().specificity())));
    }
}
