//! `Destination`: where a request wants to go, parsed once into a canonical, comparable form.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::hash::Hasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use rustc_hash::FxHasher;

/// `http` or `https`: whether the upstream leg is declared plaintext or verified TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Declared plaintext.
    Http,
    /// TLS, always verified.
    Https,
}

impl Scheme {
    /// The port that is not written.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// As in a URI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A host in canonical form: lower-case ASCII DNS name without a trailing dot, or an IP literal as the standard library prints it
/// (IPv6 without brackets). Other spellings of an address (decimal, octal, hex, short forms) are refused, never interpreted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Arc<str>);

/// Why a text is not a host, or not an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// `user:password@` is a credential slot, not a name.
    #[error("the authority holds user information")]
    UserInfo,
    /// Not a DNS name (RFC 1123) and not an IP literal.
    #[error("the host is neither a DNS name nor an IP address in its usual form")]
    Malformed,
    /// Not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl Host {
    /// Parses one host, without a port; IPv6 with or without brackets.
    ///
    /// # Errors
    /// What is neither an RFC 1123 name nor an address in its usual form.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        canonical(text).map(|text| Self((*text).into()))
    }

    /// Canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, when the host is a literal.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }
}

/// A host in canonical form; borrowed where it was written so.
fn canonical(text: &str) -> Result<Cow<'_, str>, HostError> {
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = inner.parse().map_err(|_| HostError::Malformed)?;
        return Ok(address.to_string().into());
    }
    // Only its one usual form parses, so the text is canonical as it stands.
    if is_ipv4(text.as_bytes()) {
        return Ok(text.into());
    }
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().map(|address| address.to_string().into()).map_err(|_| HostError::Malformed);
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if !is_dns_name(name) {
        return Err(HostError::Malformed);
    }
    Ok(if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() })
}

/// Four decimal numbers up to 255 without leading zeros: what `Ipv4Addr` parses, told at a tenth of the cost.
fn is_ipv4(text: &[u8]) -> bool {
    let (mut octets, mut digits, mut value) = (1, 0, 0_u16);
    if text.len() > 15 {
        return false;
    }
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            // No leading zero.
            if digits > 0 && value == 0 {
                return false;
            }
            (digits, value) = (digits + 1, value * 10 + u16::from(digit));
            if value > 255 {
                return false;
            }
        } else if *byte == b'.' && digits > 0 {
            (octets, digits, value) = (octets + 1, 0, 0);
        } else {
            return false;
        }
    }
    octets == 4 && digits > 0
}

/// RFC 1123 labels (underscore allowed, as deployed), at most 253 bytes; a last label of digits or a hex number is an address in disguise.
fn is_dns_name(name: &str) -> bool {
    let (mut label, mut before) = (0, b'.');
    for byte in name.bytes() {
        match byte {
            b'.' if label > 0 && before != b'-' => label = 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' if label < 63 => label += 1,
            b'-' if label > 0 && label < 63 => label += 1,
            _ => return false,
        }
        before = byte;
    }
    let last = name.len().checked_sub(label).and_then(|begin| name.get(begin..)).unwrap_or_default();
    label > 0 && before != b'-' && name.len() <= 253 && !is_number(last)
}

/// Decimal or hexadecimal.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit()) || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Splits an authority (`host`, `host:port`, `[v6]:port`) into its canonical parts.
///
/// # Errors
/// User information, a malformed host, a port that is no number.
pub fn parse_authority(text: &str) -> Result<(Host, Option<u16>), HostError> {
    thread_local! {
        static LATELY: RefCell<Lately> = RefCell::default();
    }
    LATELY.with_borrow_mut(|lately| lately.parse(text))
}

/// Authorities that were parsed lately, each in the one place that its hash gives it: callers name the same few in every request, and each
/// is asked for twice. What it means follows from its text alone, so what was found cannot grow old.
#[derive(Default)]
struct Lately(Vec<Option<Parsed>>);

/// As written, and what it means.
type Parsed = (Box<str>, Host, Option<u16>);

impl Lately {
    const PLACES: usize = 64;
    /// Longer ones are no authorities, or unusual.
    const LONGEST: usize = 128;

    fn parse(&mut self, text: &str) -> Result<(Host, Option<u16>), HostError> {
        if self.0.is_empty() {
            self.0.resize_with(Self::PLACES, || None);
        }
        let mut hasher = FxHasher::default();
        hasher.write(text.as_bytes());
        let place = self.0.get_mut(usize::try_from(hasher.finish() % Self::PLACES as u64).unwrap_or(0));
        if let Some(Some((known, host, port))) = &place
            && **known == *text
        {
            return Ok((host.clone(), *port));
        }
        let (host, port) = split_authority(text)?;
        let host = Host::parse(host)?;
        if let Some(place) = place.filter(|_| text.len() <= Self::LONGEST) {
            *place = Some((text.into(), host.clone(), port));
        }
        Ok((host, port))
    }
}

/// Whether [`parse_authority`] takes it.
pub(super) fn is_authority(text: &str) -> bool {
    parse_authority(text).is_ok()
}

fn split_authority(text: &str) -> Result<(&str, Option<u16>), HostError> {
    let (mut colons, mut last) = (0, text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'@' => return Err(HostError::UserInfo),
            b':' => (colons, last) = (colons + 1, at),
            _ => {}
        }
    }
    // The colons of an address in brackets divide nothing.
    let (host, port) = if text.ends_with(']') {
        (text, None)
    } else {
        text.split_at_checked(last).map(|(host, port)| (host, port.strip_prefix(':'))).ok_or(HostError::Malformed)?
    };
    if colons > usize::from(port.is_some()) && !host.starts_with('[') {
        return Err(HostError::Malformed);
    }
    let port = port.map(port_number).transpose()?;
    Ok((host, port))
}

/// From 1 to 65535, in decimal digits.
fn port_number(text: &str) -> Result<u16, HostError> {
    let mut number = 0_u32;
    for byte in text.bytes() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(HostError::Port);
        }
        number = number.saturating_mul(10).saturating_add(u32::from(digit));
    }
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or(HostError::Port)
}

/// Scheme, host and port: what is routed, judged, dialled, verified and recorded, one value everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Plaintext or TLS.
    pub scheme: Scheme,
    /// Canonical.
    pub host: Host,
    /// Always explicit.
    pub port: u16,
}

impl fmt::Display for Destination {
    /// As an origin: the default port is not written (RFC 6454).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = self.host.as_str().contains(':');
        let (open, close) = if v6 { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_form() {
        for (written, canonical) in [
            ("API.Example.", "api.example"),
            ("[::1]", "::1"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
            ("10.0.0.1", "10.0.0.1"),
            ("a_b.example", "a_b.example"),
        ] {
            assert_eq!(Host::parse(written).unwrap().as_str(), canonical, "{written}");
        }
    }

    #[test]
    fn disguised_addresses_and_odd_names_are_refused() {
        for text in [
            "",
            "2130706433",
            "0x7f000001",
            "127.1",
            "0177.0.0.1",
            "a..b",
            "-a.example",
            "a b",
            "a,b",
            "a/b",
            "a%2eb",
            "[::1",
            "ex\u{e4}mple",
            "1.2.3.4.5",
            "a.0x7f",
        ] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn addresses_are_told_as_the_library_does(text in "[0-9]{0,4}(\\.[0-9]{0,4}){0,4}|[0-9.]{0,16}") {
            proptest::prop_assert_eq!(is_ipv4(text.as_bytes()), text.parse::<std::net::Ipv4Addr>().is_ok(), "{}", text);
            let again = || parse_authority(&text);
            proptest::prop_assert_eq!(again(), again());
            let fresh = split_authority(&text).and_then(|(host, port)| Ok((Host::parse(host)?, port)));
            proptest::prop_assert_eq!(again(), fresh);
        }

        #[test]
        fn names_are_told_as_they_are_defined(text in "[a-zA-Z0-9_.-]{0,12}|[0-9a-fxX.]{0,8}|[a-b]{62,64}(\\.[a-b]{1,64}){0,4}|.{0,6}") {
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.chars().all(|one| one.is_ascii_alphanumeric() || one == '-' || one == '_')
            };
            let last = text.rsplit('.').next().unwrap_or_default();
            let defined = text.len() <= 253 && text.split('.').all(label) && !is_number(last);
            proptest::prop_assert_eq!(is_dns_name(&text), defined, "{}", text);
        }
    }

    #[test]
    fn authorities_split() {
        assert_eq!(parse_authority("a.example:8443").unwrap(), (Host::parse("a.example").unwrap(), Some(8443)));
        assert_eq!(parse_authority("[::1]:80").unwrap().1, Some(80));
        assert_eq!(parse_authority("a.example").unwrap().1, None);
        for text in ["a:0", "a:65536", "a:", "a:+1", "u:p@a", "::1", "a:1:2", "a: 1"] {
            assert!(parse_authority(text).is_err(), "{text}");
        }
    }
}
