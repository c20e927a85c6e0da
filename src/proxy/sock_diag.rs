//! Whose a TCP socket on this host is, asked of the kernel itself (`sock_diag(7)`): one question about one pair of ends, whose cost does not
//! grow with the sockets that there are.
//!
//! The kernel answers with the socket that it would give a segment of these ends to. Where no connection has them, that is whatever listens
//! there, and once its owner has closed a connection, a socket without an owner, which it says is root's. So an answer names an owner only
//! when it is about these very ends, in a state that a connection has, and when a file stands behind the socket (its inode).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, send, socket};

/// What the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Who owns the socket; `None`: nobody, or there is no such connection.
    Owner(Option<u32>),
    /// It may not be asked here: a sandbox without netlink, a kernel without this module.
    Nothing,
}

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const HEAD: usize = 16;
const REQUEST: usize = HEAD + 8 + ENDS;
const ENDS: usize = 48;
const ANSWER: usize = HEAD + 4 + ENDS + 20;
const TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// linux/net.h: the index of `lo` in every network namespace. A socket that is bound to no device is found with any.
const LOOPBACK: u32 = 1;

/// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT` (`linux/tcp_states.h`): a connection that at least one side may still
/// send on. A client that has ended its own sending waits in one of the middle two, its socket still its own.
pub(super) const LIVE: [u8; 4] = [1, 4, 5, 8];

/// Who owns the socket whose own end is `own` and whose other end is `other`.
pub(super) fn owner(own: SocketAddr, other: SocketAddr) -> Told {
    match ask(own, other) {
        Ok(Answer::Socket(found)) => Told::Owner(found.owner()),
        // The same word for "no such socket" and for "no such module": a listener's end, which is there, tells them apart.
        Ok(Answer::Refused(Errno::ENOENT)) => match ask(other, nobody(other)) {
            Ok(Answer::Socket(_)) => Told::Owner(None),
            Ok(Answer::Refused(_)) | Err(_) => Told::Nothing,
        },
        Ok(Answer::Refused(_)) | Err(_) => Told::Nothing,
    }
}

/// The other end of a socket that listens.
fn nobody(own: SocketAddr) -> SocketAddr {
    let ip = if own.ip().to_canonical().is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, 0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Socket(Found),
    Refused(Errno),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    state: u8,
    uid: u32,
    inode: u32,
}

impl Found {
    fn owner(self) -> Option<u32> {
        (self.inode != 0 && LIVE.contains(&self.state)).then_some(self.uid)
    }
}

/// One question on a socket of its own, so that no answer can be that to another. The kernel answers before `send` returns: nothing waits.
fn ask(own: SocketAddr, other: SocketAddr) -> Result<Answer, Errno> {
    let asked = Asked::new(own, other);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let netlink = socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkSockDiag)?;
    send(netlink.as_raw_fd(), &asked.request(), MsgFlags::empty())?;
    let mut buffer = [0; 1024];
    let (length, from) = recvfrom::<NetlinkAddr>(netlink.as_raw_fd(), &mut buffer)?;
    // Another process may write to this socket, if it is privileged; the kernel's number is 0.
    if from.is_none_or(|from| from.pid() != 0) {
        return Err(Errno::EPROTO);
    }
    asked.answer(buffer.get(..length).unwrap_or_default()).ok_or(Errno::EPROTO)
}

/// A question: of one connection, and never both of an IPv4 and of an IPv6 one.
struct Asked {
    family: u8,
    own: SocketAddr,
    other: SocketAddr,
}

impl Asked {
    const SEQUENCE: u32 = 0x6578_6561;

    /// An IPv4 connection is one whether its sockets are of IPv4 or of IPv6.
    fn new(own: SocketAddr, other: SocketAddr) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let (own, other) = (canonical(own), canonical(other));
        Self { family: if own.is_ipv4() && other.is_ipv4() { AF_INET } else { AF_INET6 }, own, other }
    }

    fn request(&self) -> [u8; REQUEST] {
        let mut out = Fill { buffer: [0; REQUEST], at: 0 };
        out.put(72_u32.to_ne_bytes()).put(SOCK_DIAG_BY_FAMILY.to_ne_bytes()).put(NLM_F_REQUEST.to_ne_bytes());
        // port 0: the socket's own
        out.put(Self::SEQUENCE.to_ne_bytes()).put([0; 4]);
        // no extensions; states are for dumps
        out.put([self.family, TCP, 0, 0]).put(u32::MAX.to_ne_bytes());
        out.put(self.own.port().to_be_bytes()).put(self.other.port().to_be_bytes());
        out.put(self.octets(self.own.ip())).put(self.octets(self.other.ip()));
        // no cookie is known
        out.put(LOOPBACK.to_ne_bytes()).put([0xff; 8]);
        out.buffer
    }

    fn octets(&self, ip: IpAddr) -> [u8; 16] {
        match ip {
            IpAddr::V4(ip) if self.family == AF_INET => {
                let [a, b, c, d] = ip.octets();
                [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            }
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        }
    }

    /// Reads one whole message that answers this question, and nothing else. A listener is an answer where no other end was asked for.
    fn answer(&self, message: &[u8]) -> Option<Answer> {
        let mut read = Read(message);
        let (length, kind, _flags) = (read.word()?, read.half()?, read.half()?);
        let (sequence, _port) = (read.word()?, read.word()?);
        if usize::try_from(length).ok()? != message.len() || sequence != Self::SEQUENCE {
            return None;
        }
        match kind {
            NLMSG_ERROR => {
                let error = i32::from_ne_bytes(read.take()?);
                (error < 0).then(|| Answer::Refused(Errno::from_raw(error.saturating_neg())))
            }
            SOCK_DIAG_BY_FAMILY if message.len() >= ANSWER => {
                let [family, state, _timer, _retransmits] = read.take()?;
                let (own_port, other_port) = (u16::from_be_bytes(read.take()?), u16::from_be_bytes(read.take()?));
                let (own, other) = (read.address(family)?, read.address(family)?);
                let _interface_and_cookie: [u8; 12] = read.take()?;
                let _expires_and_queues: [u8; 12] = read.take()?;
                let found = Found { state, uid: read.word()?, inode: read.word()? };
                let same = (own, own_port, other, other_port) == (self.own.ip(), self.own.port(), self.other.ip(), self.other.port());
                let listens = self.other.port() == 0 && (own_port, other_port) == (self.own.port(), 0);
                // What listens on the asker's port is no connection of his: the same as none.
                if same || listens { Some(Answer::Socket(found)) } else { Some(Answer::Refused(Errno::ENOENT)) }
            }
            _ => None,
        }
    }
}

struct Fill {
    buffer: [u8; REQUEST],
    at: usize,
}

impl Fill {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Self {
        self.buffer.iter_mut().skip(self.at).zip(bytes).for_each(|(to, from)| *to = from);
        self.at += N;
        self
    }
}

struct Read<'a>(&'a [u8]);

impl Read<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn half(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn address(&mut self, family: u8) -> Option<IpAddr> {
        let octets: [u8; 16] = self.take()?;
        match family {
            AF_INET => octets.first_chunk().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).into()),
            AF_INET6 => Some(IpAddr::V6(octets.into()).to_canonical()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(own: &str, other: &str) -> Asked {
        Asked::new(own.parse().unwrap(), other.parse().unwrap())
    }

    /// The kernel's answer about the socket whose ends these are.
    fn message(ends: &Asked, state: u8, uid: u32, inode: u32, attributes: &[u8]) -> Vec<u8> {
        let request = ends.request();
        let mut out = u32::try_from(ANSWER + attributes.len()).unwrap().to_ne_bytes().to_vec();
        out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        out.extend([0; 2]);
        out.extend(&request[8..16]);
        out.extend([ends.family, state, 0, 0]);
        out.extend(&request[24..]);
        out.extend([0; 12]);
        out.extend(uid.to_ne_bytes());
        out.extend(inode.to_ne_bytes());
        out.extend(attributes);
        out
    }

    fn owner_of(ends: &Asked, message: &[u8]) -> Option<u32> {
        match ends.answer(message) {
            Some(Answer::Socket(found)) => found.owner(),
            Some(Answer::Refused(_)) | None => None,
        }
    }

    #[test]
    fn a_question_is_as_long_as_it_says() {
        let request = asked("127.0.0.1:1", "127.0.0.1:2").request();
        assert_eq!(u32::from_ne_bytes(*request.first_chunk().unwrap()) as usize, REQUEST);
        assert_eq!(request[24..28], [0, 1, 0, 2]);
        assert_eq!(request[REQUEST - 8..], [0xff; 8]);
    }

    #[test]
    fn only_a_live_connection_of_these_ends_has_an_owner() {
        let ends = asked("127.0.0.1:1", "127.0.0.1:2");
        for state in 0..=255 {
            let expected = LIVE.contains(&state).then_some(1000);
            assert_eq!(owner_of(&ends, &message(&ends, state, 1000, 7, b"")), expected, "{state}");
            assert_eq!(owner_of(&ends, &message(&ends, state, 0, 0, b"")), None, "{state}");
        }
        for other in [asked("127.0.0.1:2", "127.0.0.1:1"), asked("127.0.0.2:1", "127.0.0.1:2"), asked("[::1]:1", "[::1]:2")] {
            assert_eq!(owner_of(&ends, &message(&other, 1, 1000, 7, b"")), None);
        }
        // An IPv6 socket that carries IPv4 is told with its own ends.
        let mapped = Asked { family: AF_INET6, ..asked("127.0.0.1:1", "127.0.0.1:2") };
        assert_eq!(owner_of(&ends, &message(&mapped, 1, 1000, 7, b"")), Some(1000));
    }

    #[test]
    fn an_error_is_the_kernels_word() {
        let ends = asked("[::1]:1", "[::1]:2");
        let mut refused = message(&ends, 1, 1000, 7, b"");
        refused[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        refused[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(ends.answer(&refused), Some(Answer::Refused(Errno::ENOENT)));
        for none in [0_i32, 2, i32::MAX] {
            refused[16..20].copy_from_slice(&none.to_ne_bytes());
            assert_eq!(ends.answer(&refused), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn an_answer_is_read_whole_or_not_at_all(
            (uid, inode) in any::<(u32, u32)>(), attributes in prop::collection::vec(any::<u8>(), 0..64), cut in any::<prop::sample::Index>(),
        ) {
            let ends = asked("[::1]:1", "[::1]:2");
            let whole = message(&ends, 1, uid, inode, &attributes);
            prop_assert_eq!(ends.answer(&whole), Some(Answer::Socket(Found { state: 1, uid, inode })));
            let cut = cut.index(whole.len());
            prop_assert_eq!(ends.answer(&whole[..cut]), None);
            // Nor does it help to say that it is as short as it is.
            let mut short = whole[..cut].to_vec();
            if cut >= 4 {
                short[..4].copy_from_slice(&u32::try_from(cut).unwrap().to_ne_bytes());
            }
            prop_assert_eq!(ends.answer(&short).is_some(), cut >= ANSWER);
        }

        #[test]
        fn any_bytes_are_an_answer_to_this_question_or_none(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let ends = asked("127.0.0.1:1", "127.0.0.1:2");
            if let Some(answer) = ends.answer(&bytes) {
                prop_assert!(bytes.len() >= HEAD + 4, "{:?}", answer);
            }
        }
    }
}
