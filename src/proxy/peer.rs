//! Who is at the other end, as the kernel tells it; asked once per connection, before its first byte is read.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::SockRef;

use super::sock_diag::{self, LIVE, Told};
use crate::capture::Peer;

/// The two ends of a connection: the peer's own, and ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
}

/// The owner of a loopback peer's socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    /// Known, or known to be nobody.
    Known(Option<u32>),
    /// The kernel may not be asked here: its tables must be read, which takes the longer the more sockets there are. Not on a worker's
    /// thread: [`Ends::read`].
    InTables(Ends),
}

/// A TCP peer.
pub(super) fn tcp(peer: SocketAddr, uid: Option<u32>) -> Peer {
    Peer::Tcp { address: SocketAddr::new(peer.ip().to_canonical(), peer.port()), uid }
}

/// The owner of the socket at the other end of this one.
pub(super) fn owner(socket: &impl AsFd, peer: SocketAddr, local: Option<SocketAddr>) -> Owner {
    let Some(local) = local.filter(|_| peer.ip().to_canonical().is_loopback()) else { return Owner::Known(None) };
    match sock_diag::owner(peer, local) {
        Told::Owner(uid) => Owner::Known(uid.filter(|_| stands(socket))),
        Told::Nothing => Owner::InTables(Ends { peer, local }),
    }
}

/// Whether the connection still is one, asked after its other end was looked up. A connection that was reset may still be accepted and read,
/// but its ends are free: by then they may be those of another user's connection.
pub(super) fn stands(socket: &impl AsFd) -> bool {
    // ENOTCONN: closed
    SockRef::from(socket).peer_addr().is_ok()
}

impl Ends {
    /// The owner as the kernel's tables tell it (proc(5)). Blocks.
    pub(super) fn read(self) -> Option<u32> {
        let mut owners = Owners::default();
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let (own, other) = (canonical(self.peer), canonical(self.local));
        if own.is_ipv4() && other.is_ipv4() {
            owners.read("/proc/net/tcp", own, other)?;
        }
        // Sockets of IPv6 that carry IPv4 stand here too; without IPv6 there is no such table.
        match owners.read("/proc/net/tcp6", mapped(own), mapped(other)) {
            None if own.is_ipv6() => None,
            Some(()) | None => owners.only(),
        }
    }
}

fn mapped(end: SocketAddr) -> SocketAddr {
    match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    }
}

/// Whose the sockets of one pair of ends are.
#[derive(Debug, Default)]
struct Owners(Vec<Option<u32>>);

impl Owners {
    fn read(&mut self, table: &str, own: SocketAddr, other: SocketAddr) -> Option<()> {
        let mut table = BufReader::new(File::open(table).ok()?);
        let (own, other) = (end(own), end(other));
        let mut line = String::new();
        while table.read_line(&mut line).ok()? > 0 {
            self.see(&line, &own, &other);
            line.clear();
        }
        Some(())
    }

    /// A line of: slot, own end, other end, state, queues, timer, retransmissions, uid, time-out, inode, … What nobody owns any more is
    /// printed as root's; no file stands behind it then: its inode is 0.
    fn see(&mut self, line: &str, own: &str, other: &str) {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next() != Some(own) || fields.next() != Some(other) {
            return;
        }
        let state = fields.next().and_then(|state| u8::from_str_radix(state, 16).ok());
        let uid = fields.nth(3).and_then(|uid| uid.parse().ok());
        let inode = fields.nth(1).and_then(|inode| inode.parse::<u64>().ok());
        let owned = state.is_some_and(|state| LIVE.contains(&state)) && inode.is_some_and(|inode| inode != 0);
        self.0.push(uid.filter(|_| owned));
    }

    /// Two owners of one pair of ends cannot be; if the tables say so they prove nothing.
    fn only(&self) -> Option<u32> {
        let (first, rest) = self.0.split_first()?;
        first.filter(|_| rest.iter().all(|again| again == first))
    }
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
    use std::io::Write as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn me() -> u32 {
        nix::unistd::getuid().as_raw()
    }

    /// What both ways say, and that they agree. A sandbox may know only one.
    fn asked(server: &TcpStream, peer: SocketAddr) -> Option<u32> {
        let local = server.local_addr().unwrap();
        let read = Ends { peer, local }.read().filter(|_| stands(server));
        match owner(server, peer, Some(local)) {
            Owner::Known(uid) => assert_eq!(uid, read),
            Owner::InTables(_) => println!("netlink is not to be had here"),
        }
        read
    }

    /// A listener, and where a client of it connects to.
    fn places() -> Vec<(TcpListener, SocketAddr)> {
        let pairs =
            [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "::1"), ("[::]:0", "127.0.0.1")];
        let places = pairs.into_iter().filter_map(|(bind, to)| {
            let listener = TcpListener::bind(bind).ok()?;
            let port = listener.local_addr().unwrap().port();
            Some((listener, SocketAddr::new(to.parse().unwrap(), port)))
        });
        places.collect()
    }

    #[test]
    fn ends_are_printed_as_the_kernel_does() {
        assert_eq!(end("127.0.0.1:8080".parse().unwrap()), "0100007F:1F90");
        assert_eq!(end("[::1]:443".parse().unwrap()), "00000000000000000000000001000000:01BB");
        assert_eq!(end(mapped("127.0.0.1:443".parse().unwrap())), "0000000000000000FFFF00000100007F:01BB");
    }

    #[test]
    fn the_owner_of_a_loopback_peer_is_known() {
        for (listener, to) in places() {
            let client = TcpStream::connect(to).unwrap();
            let (server, peer) = listener.accept().unwrap();
            assert_eq!(asked(&server, peer), Some(me()), "{to}");
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(asked(&server, peer), Some(me()), "{to}: a client that has said all is still there");
            server.shutdown(Shutdown::Write).unwrap();
            drop(client);
            assert_eq!(asked(&server, peer), None, "{to}");
        }
    }

    #[test]
    fn an_ipv6_socket_that_carries_ipv4_has_an_owner_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Ok(client) = Socket::new(Domain::IPV6, Type::STREAM, None) else { return };
        if client.set_only_v6(false).and_then(|()| client.connect(&mapped(listener.local_addr().unwrap()).into())).is_err() {
            return println!("skipped: no IPv6 here");
        }
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(asked(&server, peer), Some(me()));
    }

    #[test]
    fn a_client_that_is_bound_to_the_loopback_device_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if client.bind_device(Some(b"lo")).is_err() {
            return println!("skipped: binding to a device is not allowed here");
        }
        client.connect(&listener.local_addr().unwrap().into()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(asked(&server, peer), Some(me()));
    }

    /// The kernel gives what nobody owns any more to root, and so it did to whoever sent all that he had to say and was gone.
    #[test]
    fn who_closes_before_accept_proves_nobody() {
        for (listener, to) in places() {
            let mut client = TcpStream::connect(to).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\n\r\n.").unwrap();
            drop(client);
            let (server, peer) = listener.accept().unwrap();
            assert_eq!(asked(&server, peer), None, "{to}");
        }
    }

    /// A connection that was reset is accepted and read all the same, and its ends may be another's by then.
    #[test]
    fn who_resets_before_accept_borrows_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |from: SocketAddr| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_reuse_address(true).unwrap();
            client.bind(&from.into()).unwrap();
            client.connect(&listener.local_addr().unwrap().into()).unwrap();
            client
        };
        let first = connect("127.0.0.1:0".parse().unwrap());
        let from = first.local_addr().unwrap().as_socket().unwrap();
        first.send(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        first.set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        let _second = connect(from);
        let (reset, peer) = listener.accept().unwrap();
        assert_eq!((peer, asked(&reset, peer)), (from, None));
        let (server, peer) = listener.accept().unwrap();
        assert_eq!((peer, asked(&server, peer)), (from, Some(me())));
    }

    /// Where no connection has these ends the kernel answers with what listens on the asker's port.
    #[test]
    fn a_listener_at_the_peers_place_is_not_the_peer() {
        let (listener, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(asked(&server, other.local_addr().unwrap()), None);
    }

    #[test]
    fn a_table_proves_only_what_lives_and_does_not_contradict_itself() {
        let (own, other) = (end("127.0.0.1:8080".parse().unwrap()), end("127.0.0.1:8081".parse().unwrap()));
        let line = |state: &str, uid: u32, inode: u32| {
            format!("   1: 0100007F:1F90 0100007F:1F91 {state} 00000000:00000000 00:00000000 00000000  {uid}        0 {inode} 1")
        };
        let only = |lines: &[String], own: &str, other: &str| {
            let mut owners = Owners::default();
            for line in lines {
                owners.see(line, own, other);
            }
            owners.only()
        };
        let whole = || line("01", 1000, 7);
        assert_eq!(only(&[whole()], &own, &other), Some(1000));
        assert_eq!(only(&[whole(), whole()], &own, &other), Some(1000));
        assert_eq!(only(&[whole()], &other, &own), None);
        for wrong in [line("01", 0, 7), line("01", 1000, 0), line("06", 1000, 7), line("0A", 1000, 7), line("zz", 1000, 7)] {
            assert_eq!(only(&[whole(), wrong.clone()], &own, &other), None, "{wrong}");
            assert_eq!(only(&[wrong.clone(), whole()], &own, &other), None, "{wrong}");
        }
        for cut in 0..whole().len() - " 7 1".len() {
            assert_eq!(only(&[whole().chars().take(cut).collect()], &own, &other), None, "{cut}");
        }
    }
}
