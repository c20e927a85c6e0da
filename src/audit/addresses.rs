//! `Addresses`: the text of addresses in records, kept for the next one.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use smallvec::SmallVec;

use super::json::shown;

/// The text of addresses that were written lately, each in the one place that its last bits give it: callers and upstreams come again.
#[derive(Debug, Default)]
pub(super) struct Addresses(Vec<Option<(SocketAddr, SmallVec<[u8; 48]>)>>);

impl Addresses {
    /// As many as a worker has connections at most times.
    pub(super) fn keeping() -> Self {
        Self(std::iter::repeat_n(None, 512).collect())
    }

    /// Appends `,"address":` and the address.
    pub(super) fn put(&mut self, out: &mut Vec<u8>, address: &SocketAddr) {
        let low = match address.ip() {
            IpAddr::V4(ip) => ip.to_bits(),
            IpAddr::V6(ip) => u32::from(ip.segments().last().copied().unwrap_or_default()),
        };
        let at = (low ^ u32::from(address.port())) as usize % self.0.len().max(1);
        out.extend_from_slice(b",\"address\":\"");
        match self.0.get_mut(at) {
            Some(Some((known, text))) if known == address => out.extend_from_slice(text),
            kept => {
                let from = out.len();
                match address {
                    SocketAddr::V4(address) => dotted(out, *address),
                    SocketAddr::V6(_) => shown(out, format_args!("{address}")),
                }
                if let Some(kept) = kept {
                    *kept = Some((*address, SmallVec::from_slice(out.get(from..).unwrap_or_default())));
                }
            }
        }
        out.push(b'"');
    }
}

/// As `SocketAddrV4` shows itself; each new connection has one, and by way of the formatter it takes five times as long.
fn dotted(out: &mut Vec<u8>, address: SocketAddrV4) {
    let mut digits = itoa::Buffer::new();
    for (octet, behind) in address.ip().octets().into_iter().zip(*b"...:") {
        out.extend_from_slice(digits.format(octet).as_bytes());
        out.push(behind);
    }
    out.extend_from_slice(digits.format(address.port()).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_shows_itself() {
        for text in ["0.0.0.0:0", "127.0.0.1:65535", "10.200.3.99:8443", "255.255.255.255:1"] {
            let mut out = Vec::new();
            dotted(&mut out, text.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
