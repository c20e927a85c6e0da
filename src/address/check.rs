//! `check`: whether an address may be dialled at all.
//!
//! A name is chosen by whoever controls its DNS zone, so an address is judged by itself, in every form in which IPv6 can carry an IPv4
//! address (RFC 4291, 6052, 3056, 4380, 5214): a guard that reads only one form is a guard that a second form walks round.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use smallvec::SmallVec;

/// Which addresses a caller may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'a> {
    /// Public unicast only: the default of an upstream.
    Public,
    /// These networks and nothing else.
    Networks(&'a [IpNet]),
    /// Whatever the operator wrote: exeat's own calls (collector, issuer), never an upstream of a workload.
    Operator,
}

impl<'a> From<&'a [IpNet]> for Reach<'a> {
    /// As an upstream writes it: no networks means public unicast.
    fn from(networks: &'a [IpNet]) -> Self {
        if networks.is_empty() { Self::Public } else { Self::Networks(networks) }
    }
}

/// Why an address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Hands out credentials of the machine to whoever asks.
    #[error("it is a cloud metadata service, which no reach opens")]
    Metadata,
    /// exeat would call itself, with its own identity.
    #[error("it is one of exeat's own listeners, which no reach opens")]
    OwnListener,
    /// Not public unicast, and the upstream has no reach.
    #[error("it is {0}, and the upstream has no `reach`")]
    NotPublic(&'static str),
    /// The upstream has a reach, and this is not in it.
    #[error("it lies in none of the networks of the upstream's `reach`")]
    OutsideReach,
}

/// The addresses that exeat itself listens on; shared, so that a listener bound later is known at once.
#[derive(Debug, Clone, Default)]
pub struct OwnListeners(Arc<RwLock<Vec<SocketAddr>>>);

impl OwnListeners {
    /// Adds a bound address; an unspecified one stands for all addresses of this machine.
    pub fn add(&self, address: SocketAddr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(SocketAddr::new(address.ip().to_canonical(), address.port()));
    }

    /// Whether dialling this reaches one of them. An unspecified target is this machine (Linux connects it to loopback).
    fn contains(&self, ip: IpAddr, port: u16) -> bool {
        let own = self.0.read().unwrap_or_else(PoisonError::into_inner);
        own.iter()
            .filter(|bound| bound.port() == port)
            .any(|bound| bound.ip() == ip || ip.is_unspecified() || (bound.ip().is_unspecified() && is_of_this_machine(ip)))
    }
}

/// Only an address of this machine can be bound. Asked only where the port is one of ours.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Addresses that give credentials or instance data to anybody on the machine: AWS (also ECS and EKS), Azure, Google, Alibaba, Oracle.
const METADATA_V4: &[Ipv4Addr] = &[
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: &[Ipv6Addr] = &[
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Judges one address.
///
/// # Errors
/// Why it may not be dialled.
pub fn check(ip: IpAddr, port: u16, reach: Reach<'_>, own: &OwnListeners) -> Result<(), Blocked> {
    if reach == Reach::Operator {
        return Ok(());
    }
    let ip = ip.to_canonical();
    let inside = match ip {
        IpAddr::V4(_) => SmallVec::new(),
        IpAddr::V6(v6) => embedded(v6),
    };
    let is_metadata = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => METADATA_V4.contains(v4),
        IpAddr::V6(v6) => METADATA_V6.contains(v6),
    };
    let mut forms = std::iter::once(ip).chain(inside.iter().copied().map(IpAddr::V4));
    if forms.clone().any(|form| is_metadata(&form)) {
        return Err(Blocked::Metadata);
    }
    if forms.any(|form| own.contains(form, port)) {
        return Err(Blocked::OwnListener);
    }
    match reach {
        Reach::Operator => Ok(()),
        Reach::Networks(networks) => {
            let within = |ip: IpAddr| networks.iter().any(|network| network.contains(&ip));
            let allowed = within(ip) || (!inside.is_empty() && inside.iter().all(|v4| within(IpAddr::V4(*v4))));
            if allowed { Ok(()) } else { Err(Blocked::OutsideReach) }
        }
        Reach::Public => {
            let special = match ip {
                IpAddr::V4(v4) => special_v4(v4),
                IpAddr::V6(v6) => special_v6(v6).or_else(|| inside.iter().find_map(|v4| special_v4(*v4))),
            };
            special.map_or(Ok(()), |kind| Err(Blocked::NotPublic(kind)))
        }
    }
}

/// What is not public unicast (IANA IPv4 special-purpose registry, RFC 6890).
fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = ip.octets();
    Some(match (a, b, c) {
        (0, ..) => "an address of `this network` (0.0.0.0/8)",
        (127, ..) => "a loopback address",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "a private address",
        (100, 64..=127, _) => "a carrier's shared address (100.64.0.0/10)",
        (169, 254, _) => "a link-local address",
        (192, 0, 0) => "an address of the IETF's protocols (192.0.0.0/24)",
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "a documentation address",
        (192, 88, 99) => "a 6to4 relay address",
        (198, 18 | 19, _) => "a benchmarking address",
        (224..=239, ..) => "a multicast address",
        (255, 255, 255) if ip.is_broadcast() => "the broadcast address",
        (240..=255, ..) => "a reserved address",
        _ => return None,
    })
}

/// What is not public unicast (IANA IPv6 special-purpose registry); forms that carry IPv4 are left to [`embedded`].
fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let segments = ip.segments();
    let [a, b, ..] = segments;
    Some(match (a, b) {
        _ if ip.is_unspecified() => "the unspecified address",
        _ if ip.is_loopback() => "a loopback address",
        (0x64, 0xff9b) if matches!(segments, [_, _, 0, 0, 0, 0, ..]) => return None,
        (0x64, 0xff9b) => "an address of a local translator (64:ff9b:1::/48)",
        (0, 0) if matches!(segments, [_, _, 0, 0, 0 | 0xffff, 0, ..]) => return None,
        (0xff00..=0xffff, _) => "a multicast address",
        (0xfe80..=0xfebf, _) => "a link-local address",
        (0xfec0..=0xfeff, _) => "a site-local address",
        (0xfc00..=0xfdff, _) => "a unique local address",
        (0x2001, 0xdb8) | (0x3fff, 0..=0xfff) => "a documentation address",
        (0x2001, 2) => "a benchmarking address",
        // Not Teredo (2001::/32): that is left to what it carries.
        (0x2001, 1..=0x1ff) => "an address of the IETF's protocols (2001::/23)",
        (0x2000..=0x3fff, _) => return None,
        _ => "not a global unicast address",
    })
}

/// IPv4 addresses that an IPv6 address leads to.
fn embedded(ip: Ipv6Addr) -> SmallVec<[Ipv4Addr; 2]> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let segments = ip.segments();
    let [_, _, s2, s3, ..] = segments;
    let [.., s6, s7] = segments;
    let mut found = SmallVec::new();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => {}
        // IPv4-compatible (RFC 4291 2.5.5.1), IPv4-translated (RFC 2765), NAT64 (RFC 6052 2.1), ISATAP (RFC 5214 6.1).
        [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => found.push(v4(s6, s7)),
        // Local NAT64 (RFC 8215): where the address stands depends on the operator's prefix length; /96 and /48 are in use.
        [0x64, 0xff9b, 1, _, s4, ..] => found.extend([v4(s6, s7), v4(s3, (s4 << 8) | (segments[5] >> 8))]),
        // 6to4 (RFC 3056 2).
        [0x2002, high, low, ..] => found.push(v4(high, low)),
        // Teredo (RFC 4380 4): its server, and the client behind it with all bits turned.
        [0x2001, 0, ..] => found.extend([v4(s2, s3), v4(!s6, !s7)]),
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str, reach: &[&str]) -> Result<(), Blocked> {
        let networks: Vec<IpNet> = reach.iter().map(|network| network.parse().unwrap()).collect();
        check(text.parse().unwrap(), 443, Reach::from(&*networks), &OwnListeners::default())
    }

    #[test]
    fn public_unicast_needs_no_reach() {
        for text in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert_eq!(judge(text, &[]), Ok(()), "{text}");
        }
    }

    #[test]
    fn every_spelling_of_what_is_not_public_is_refused() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.1.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.9",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "2001:2::1",
            "2001:10::1",
            "5f00::1",
            "100::1",
            "4000::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::10.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001:0:808:808::f5ff:fffe",
            "2001:0:a00:1::f7f7:f7f7",
            "2606:4700::5efe:a00:1",
            "2606:4700::200:5efe:7f00:1",
        ] {
            assert!(matches!(judge(text, &[]), Err(Blocked::NotPublic(_))), "{text}: {:?}", judge(text, &[]));
        }
    }

    #[test]
    fn no_reach_opens_a_metadata_service() {
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "2002:a9fe:a9fe::",
            "2001:0:a9fe:a9fe::1",
            "2001:0:808:808::5601:5601",
            "2606:4700::5efe:a9fe:a9fe",
        ] {
            assert_eq!(judge(text, &["0.0.0.0/0", "::/0"]), Err(Blocked::Metadata), "{text}");
            assert_eq!(judge(text, &[]), Err(Blocked::Metadata), "{text}");
        }
    }

    #[test]
    fn a_reach_is_exact() {
        assert_eq!(judge("10.1.2.3", &["10.0.0.0/8"]), Ok(()));
        assert_eq!(judge("::ffff:10.1.2.3", &["10.0.0.0/8"]), Ok(()));
        assert_eq!(judge("64:ff9b::a01:203", &["10.0.0.0/8"]), Ok(()));
        assert_eq!(judge("127.0.0.1", &["127.0.0.0/8"]), Ok(()));
        assert_eq!(judge("fd12::1", &["fd12::/16"]), Ok(()));
        for text in ["192.168.0.1", "8.8.8.8", "::1", "2002:c0a8:1::", "2606:4700::1"] {
            assert_eq!(judge(text, &["10.0.0.0/8"]), Err(Blocked::OutsideReach), "{text}");
        }
    }

    #[test]
    fn own_listeners_are_never_reached() {
        let own = OwnListeners::default();
        own.add("127.0.0.1:15001".parse().unwrap());
        own.add("0.0.0.0:15090".parse().unwrap());
        let everywhere: Vec<IpNet> = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let judge = |text: &str, port| check(text.parse().unwrap(), port, Reach::from(&*everywhere), &own);
        for (text, port) in [
            ("127.0.0.1", 15001),
            ("::ffff:127.0.0.1", 15001),
            ("0.0.0.0", 15001),
            ("::", 15001),
            ("::127.0.0.1", 15001),
            ("127.0.0.1", 15090),
            ("127.9.9.9", 15090),
            ("0.0.0.0", 15090),
            ("64:ff9b::7f00:1", 15090),
        ] {
            assert_eq!(judge(text, port), Err(Blocked::OwnListener), "{text}:{port}");
        }
        assert_eq!(judge("127.0.0.1", 15002), Ok(()));
        assert_eq!(judge("127.0.0.2", 15001), Ok(()));
        assert_eq!(judge("198.51.100.7", 15090), Ok(()), "an address of another machine");
    }

    #[test]
    fn the_operators_own_endpoints_are_not_guarded() {
        assert_eq!(check("127.0.0.1".parse().unwrap(), 4318, Reach::Operator, &OwnListeners::default()), Ok(()));
    }
}
