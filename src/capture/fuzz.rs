//! One name for one server, however it is spelled.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::destination::{Destination, Host, Scheme, is_authority, parse_authority};
use crate::address::{OwnListeners, Reach, check};

/// An authority, a Host, a literal address: the canonical form is stable, and what a resolver would take for an address is that address
/// or refused.
pub fn authority(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = parse_authority(text);
    assert_eq!(parsed.is_ok(), is_authority(text), "{text:?}");
    if let Ok((host, port)) = &parsed {
        let whole = |host: &Host| if host.as_str().contains(':') { format!("[{host}]") } else { host.to_string() };
        let written = port.map_or_else(|| whole(host), |port| format!("{}:{port}", whole(host)));
        assert_eq!(parse_authority(&written).as_ref(), Ok(&(host.clone(), *port)), "{text:?}");
        destination(host, *port);
        // The engine splits an authority in its own way; both must dial the same.
        if let Ok(theirs) = text.parse::<http::uri::Authority>() {
            let their_host = theirs.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
            assert!(host.ip().is_some() || *their_host == *host.as_str(), "{text:?}: {host} and {their_host}");
            assert_eq!(theirs.port_u16(), *port, "{text:?}");
        }
    }
    if let Ok(host) = Host::parse(text) {
        assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host), "{text:?}");
        assert!(
            host.as_str()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_' | b':'))
        );
        if let Some(address) = as_resolvers_do(text) {
            assert_eq!(host.ip(), Some(IpAddr::V4(address)), "{text:?} is {address} to a resolver");
        }
        if let Some(address) = host.ip() {
            every_form_is_judged_alike(address);
        }
    }
    if let Ok(network) = text.parse::<ipnet::IpNet>() {
        assert_eq!(network.to_string().parse(), Ok(network));
        // A network of IPv4 inside IPv6 holds nothing, and is a mistake in a configuration.
        let (first, own, reach) = (network.network(), OwnListeners::default(), [network]);
        let is_public = check(first, 443, Reach::Public, &own).is_ok();
        assert!(!is_public || first.to_canonical() != first || check(first, 443, Reach::Networks(&reach), &own).is_ok(), "{network}");
    }
}

fn destination(host: &Host, port: Option<u16>) {
    let whole = Destination { scheme: Scheme::Https, host: host.clone(), port: port.unwrap_or(443) };
    let uri: http::Uri = format!("{whole}/").parse().unwrap_or_else(|error| panic!("{whole}: {error}"));
    let again = parse_authority(uri.authority().expect("an origin has one").as_str()).unwrap();
    assert_eq!((again.0, again.1.unwrap_or(443)), (whole.host, whole.port));
}

/// What is refused in one form is refused in every form that can carry it.
fn every_form_is_judged_alike(address: IpAddr) {
    let own = OwnListeners::default();
    own.add("127.0.0.1:15001".parse().unwrap());
    let IpAddr::V4(v4) = address else {
        assert_eq!(check(address, 443, Reach::Public, &own).is_ok(), check(address.to_canonical(), 443, Reach::Public, &own).is_ok());
        return;
    };
    let plain = check(address, 443, Reach::Public, &own);
    let [a, b, c, d] = v4.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let mapped = check(IpAddr::V6(v4.to_ipv6_mapped()), 443, Reach::Public, &own);
    assert_eq!(plain, mapped, "{address}");
    for carrying in [
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
    ] {
        assert!(plain.is_ok() || check(IpAddr::V6(carrying), 443, Reach::Public, &own).is_err(), "{address} in {carrying}");
    }
}

/// `inet_aton`: one to four numbers, decimal, octal or hexadecimal, of which the last fills what is left.
fn as_resolvers_do(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let number = |text: &str| {
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix("0x") {
            Some("") => Some(0),
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None if lower.len() > 1 && lower.starts_with('0') => u32::from_str_radix(&lower, 8).ok(),
            None => lower.parse().ok(),
        }
        .filter(|_| !text.is_empty() && !text.contains(['+', '-']))
    };
    let numbers: Option<Vec<u32>> = parts.iter().map(|part| number(part)).collect();
    let numbers = numbers.filter(|numbers| numbers.len() <= 4)?;
    let (last, first) = numbers.split_last()?;
    let room = 32 - 8 * u32::try_from(first.len()).ok()?;
    if first.iter().any(|byte| *byte > 255) || (room < 32 && last >> room != 0) {
        return None;
    }
    let high = first.iter().enumerate().fold(0_u32, |sum, (at, byte)| sum | byte << (24 - 8 * at));
    Some(Ipv4Addr::from(high | last))
}
