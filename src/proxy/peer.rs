//! Who is at the other end, as the kernel tells it; asked once per connection, before its first byte is read.

use std::net::{IpAddr, SocketAddr};

use crate::capture::Peer;

/// A TCP peer. `ask_uid`: an identity of the listener wants the owner of a loopback peer's socket.
pub(super) fn tcp(peer: SocketAddr, local: Option<SocketAddr>, ask_uid: bool) -> Peer {
    let canonical = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let uid = if ask_uid && canonical.ip().is_loopback() { local.and_then(|local| owner(peer, local)) } else { None };
    Peer::Tcp { address: canonical, uid }
}

/// The uid of the socket whose own end is `peer` and whose other end is `local`, from `/proc/net/tcp` (proc(5)).
fn owner(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let table = if peer.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let text = std::fs::read_to_string(table).ok()?;
    find(&text, peer, local).or_else(|| {
        // A client that used IPv4 stands in the other table than a listener on [::] sees it.
        let (IpAddr::V4(_), IpAddr::V4(_)) = (peer.ip().to_canonical(), local.ip().to_canonical()) else { return None };
        let text = std::fs::read_to_string("/proc/net/tcp").ok()?;
        find(&text, SocketAddr::new(peer.ip().to_canonical(), peer.port()), SocketAddr::new(local.ip().to_canonical(), local.port()))
    })
}

/// Lines of: slot, own end, other end, state, queues, timer, retransmissions, uid, …
fn find(table: &str, own: SocketAddr, other: SocketAddr) -> Option<u32> {
    let (own, other) = (end(own), end(other));
    let mut found = table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        (fields.nth(1)? == own && fields.next()? == other).then(|| fields.nth(4)?.parse().ok()).flatten()
    });
    let uid = found.next()?;
    // Two owners of one pair of ends cannot be; if the table says so it proves nothing.
    found.all(|again: u32| again == uid).then_some(uid)
}

/// An end as the kernel prints it: the address as native words in hexadecimal, then the port.
fn end(address: SocketAddr) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(38);
    let mut words = |octets: &[u8]| {
        for word in octets.chunks_exact(4) {
            let word = word.iter().rev().fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
            let native = if cfg!(target_endian = "little") { word } else { word.swap_bytes() };
            let _written = write!(text, "{native:08X}");
        }
    };
    match address.ip() {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    }
    let _written = write!(text, ":{:04X}", address.port());
    text
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn ends_are_printed_as_the_kernel_does() {
        assert_eq!(end("127.0.0.1:8080".parse().unwrap()), "0100007F:1F90");
        assert_eq!(end("[::1]:443".parse().unwrap()), "00000000000000000000000001000000:01BB");
    }

    #[test]
    fn the_owner_of_a_loopback_peer_is_known() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            let told = tcp(peer, Some(server.local_addr().unwrap()), true);
            assert_eq!(told, Peer::Tcp { address: peer, uid: Some(nix::unistd::getuid().as_raw()) });
            assert_eq!(tcp(peer, Some(server.local_addr().unwrap()), false), Peer::Tcp { address: peer, uid: None });
        }
    }

    #[test]
    fn a_table_that_contradicts_itself_proves_nothing() {
        let line = |uid: u32| format!("   1: 0100007F:1F90 0100007F:1F91 01 00000000:00000000 00:00000000 00000000  {uid}        0 1 1");
        let (own, other) = ("127.0.0.1:8080".parse().unwrap(), "127.0.0.1:8081".parse().unwrap());
        assert_eq!(find(&line(1000), own, other), Some(1000));
        assert_eq!(find(&format!("{}\n{}", line(1000), line(0)), own, other), None);
        assert_eq!(find(&line(1000), other, own), None);
    }
}
