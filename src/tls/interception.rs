//! `Interceptor`: the server side of an intercepted tunnel.
//!
//! The caller has judged the tunnel's host already; the leaf is for that host and nothing else. What the `ClientHello` asks for is only
//! compared, so a stranger's SNI can neither make us mint nor move a request to another name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority::Authority;
use super::client::Alpn;
use super::error::TlsError;
use crate::clock::{Clock, Timestamp};

const MOST_SESSIONS: usize = 1024;
/// Clocks are put right by seconds all the time. A leaf from further ahead was minted by a clock that was wrong: it may not hold yet.
const SET_BACK: Duration = Duration::from_mins(1);

/// Bounds of the leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaves {
    /// So many are kept.
    pub most: usize,
    /// So long each of them holds.
    pub life: Duration,
}

impl Leaves {
    /// A leaf is shown for this part of its life, then minted anew: a connection should not outlive what it was shown.
    fn shown_for(self) -> Duration {
        self.life / 4 * 3
    }
}

impl Default for Leaves {
    fn default() -> Self {
        Self { most: 1024, life: Duration::from_hours(24) }
    }
}

/// Mints leaves, keeps them, and accepts TLS inside tunnels.
pub struct Interceptor {
    authority: Authority,
    clock: Arc<dyn Clock>,
    bounds: Leaves,
    leaves: Mutex<FxHashMap<Arc<str>, Leaf>>,
    tickets: Arc<dyn rustls::server::ProducesTickets>,
    sessions: Arc<ServerSessionMemoryCache>,
}

struct Leaf {
    minted: Timestamp,
    both: Arc<ServerConfig>,
    h1: Arc<ServerConfig>,
}

/// TLS that a workload speaks to us, and what it showed.
pub struct Intercepted<IO> {
    /// The stream.
    pub stream: TlsStream<IO>,
    /// The name in the `ClientHello`, where there was one: equal to the tunnel's host.
    pub sni: Option<Box<str>>,
    /// Whether `h2` was chosen (RFC 7301).
    pub h2: bool,
}

impl Interceptor {
    /// With a CA.
    ///
    /// # Errors
    /// No key for session tickets.
    pub fn new(authority: Authority, clock: Arc<dyn Clock>, bounds: Leaves) -> Result<Self, TlsError> {
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| TlsError::Configuration(error.to_string()))?;
        Ok(Self { authority, clock, bounds, leaves: Mutex::default(), tickets, sessions: ServerSessionMemoryCache::new(MOST_SESSIONS) })
    }

    /// The CA's certificate, for trust stores.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// The configuration for one host (canonical name or address). Call it only for hosts that the catalogue intercepts: each call may mint.
    ///
    /// # Errors
    /// The host is no name that a certificate can hold.
    pub fn server_config(&self, host: &str, alpn: Alpn) -> Result<Arc<ServerConfig>, TlsError> {
        let now = self.clock.now();
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.get(host)
            && leaf.is_shown(now, self.bounds)
        {
            return Ok(leaf.config(alpn));
        }
        let certified = self.authority.mint(host, now, self.bounds.life)?;
        let leaf =
            Leaf { minted: now, both: self.configure(host, &certified, Alpn::Both)?, h1: self.configure(host, &certified, Alpn::H1)? };
        let config = leaf.config(alpn);
        if leaves.len() >= self.bounds.most {
            leaves.retain(|_, leaf| leaf.is_shown(now, self.bounds));
            if leaves.len() >= self.bounds.most {
                // Wildcard upstreams with more hosts than fit: start over, which costs one signature per host.
                leaves.clear();
            }
        }
        leaves.insert(host.into(), leaf);
        Ok(config)
    }

    fn configure(&self, host: &str, certified: &Arc<CertifiedKey>, alpn: Alpn) -> Result<Arc<ServerConfig>, TlsError> {
        let only = Only { host: host.into(), certified: Arc::clone(certified) };
        let mut config = ServerConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Configuration(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(only));
        config.ignore_client_order = true;
        config.alpn_protocols = alpn.protocols();
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::clone(&self.sessions) as _;
        Ok(Arc::new(config))
    }

    /// Accepts TLS inside a tunnel to `host`. The SNI must be that host; it may be absent where the host is an address (RFC 6066 section 3
    /// allows no address there) or where `nameless` says so.
    ///
    /// A caller that offers HTTP/2 alone gets it whatever `alpn` says: the alternative is no connection at all.
    ///
    /// # Errors
    /// Another name, no name, a failed or a slow handshake.
    pub async fn accept<IO>(&self, io: IO, host: &str, alpn: Alpn, nameless: bool, within: Duration) -> Result<Intercepted<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |error: std::io::Error| TlsError::Handshake { tunnel: host.to_owned(), why: error.to_string() };
        let handshake = async {
            let start = LazyConfigAcceptor::new(Acceptor::default(), io).await.map_err(failed)?;
            let sni: Option<Box<str>> = start.client_hello().server_name().map(Into::into);
            let alpn = if knows_only_h2(&start.client_hello()) { Alpn::Both } else { alpn };
            let outcome = match sni.as_deref() {
                Some(sni) if !same_host(sni, host) => Err(TlsError::Misdirected { tunnel: host.to_owned(), sni: sni.to_owned() }),
                None if !nameless && host.parse::<std::net::IpAddr>().is_err() => Err(TlsError::NoServerName(host.to_owned())),
                Some(_) | None => Ok(()),
            };
            let config = self.server_config(host, alpn)?;
            if let Err(error) = outcome {
                // The resolver has nothing for another name, so this only sends the alert that tells the client.
                if matches!(error, TlsError::Misdirected { .. }) {
                    drop(start.into_stream(config).await);
                }
                return Err(error);
            }
            let stream = start.into_stream(config).await.map_err(failed)?;
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok(Intercepted { stream, sni, h2 })
        };
        tokio::time::timeout(within, handshake).await.unwrap_or_else(|_| Err(TlsError::Slow { tunnel: host.to_owned(), after: within }))
    }
}

impl Leaf {
    fn is_shown(&self, now: Timestamp, bounds: Leaves) -> bool {
        let age = now.duration_since(self.minted);
        age.unsigned_abs() < if age.is_negative() { SET_BACK } else { bounds.shown_for() }
    }

    fn config(&self, alpn: Alpn) -> Arc<ServerConfig> {
        match alpn {
            Alpn::Both | Alpn::H2 => Arc::clone(&self.both),
            Alpn::H1 => Arc::clone(&self.h1),
        }
    }
}

fn knows_only_h2(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(b"h2") && offered.next().is_none())
}

fn same_host(sni: &str, host: &str) -> bool {
    sni.strip_suffix('.').unwrap_or(sni).eq_ignore_ascii_case(host)
}

/// Has a certificate for one host, and for whoever names nobody.
#[derive(Debug)]
struct Only {
    host: Box<str>,
    certified: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Only {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().is_none_or(|sni| same_host(sni, &self.host)).then(|| Arc::clone(&self.certified))
    }
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::clock::ManualClock;
    use crate::tls::{ClientConfigs, Trust, server_name};

    const SOON: Duration = Duration::from_secs(5);

    fn interceptor(permitted: &[&str]) -> (Arc<ManualClock>, Arc<Interceptor>) {
        bounded(permitted, Leaves::default())
    }

    fn bounded(permitted: &[&str], leaves: Leaves) -> (Arc<ManualClock>, Arc<Interceptor>) {
        let now = crate::clock::SystemClock.now();
        let clock = Arc::new(ManualClock::new(now));
        let authority = Authority::generate(now, permitted).unwrap();
        (Arc::clone(&clock), Arc::new(Interceptor::new(authority, clock, leaves).unwrap()))
    }

    fn trust(interceptor: &Interceptor) -> Trust {
        let der = CertificateDer::from_pem_slice(interceptor.certificate_pem().as_bytes()).unwrap();
        Trust::Certificates(Arc::from([der.to_vec()]))
    }

    /// A client that asks for `name` meets a tunnel to `host`.
    async fn meet(
        interceptor: &Arc<Interceptor>,
        host: &'static str,
        name: &str,
        alpn: Alpn,
    ) -> (std::io::Result<Option<Vec<u8>>>, Result<Option<Box<str>>, TlsError>) {
        let (ours, theirs) = duplex(1 << 16);
        let server = Arc::clone(interceptor);
        let server = tokio::spawn(async move {
            let mut accepted = server.accept(ours, host, alpn, false, SOON).await?;
            accepted.stream.write_all(b"hi").await.ok();
            accepted.stream.shutdown().await.ok();
            Ok(accepted.sni)
        });
        let config = ClientConfigs::new().config(&trust(interceptor), Alpn::Both).unwrap();
        let client = async {
            let mut stream = TlsConnector::from(config).connect(server_name(name).unwrap(), theirs).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            assert_eq!(text, "hi");
            Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
        };
        let seen = client.await;
        (seen, server.await.unwrap())
    }

    #[tokio::test]
    async fn the_tunnels_host_is_what_the_leaf_is_for() {
        let (_, interceptor) = interceptor(&[]);
        let (client, server) = meet(&interceptor, "api.example", "api.example", Alpn::Both).await;
        assert_eq!(client.unwrap().as_deref(), Some(&b"h2"[..]));
        assert_eq!(server.unwrap().as_deref(), Some("api.example"));
        let (client, _) = meet(&interceptor, "api.example", "api.example", Alpn::H1).await;
        assert_eq!(client.unwrap().as_deref(), Some(&b"http/1.1"[..]));
        let (client, server) = meet(&interceptor, "127.0.0.1", "127.0.0.1", Alpn::H1).await;
        assert!(client.is_ok());
        assert_eq!(server.unwrap(), None, "addresses are never named by SNI");
    }

    #[tokio::test]
    async fn another_name_is_misdirected_and_mints_nothing() {
        let (_, interceptor) = interceptor(&[]);
        let (client, server) = meet(&interceptor, "api.example", "evil.example", Alpn::Both).await;
        assert!(client.is_err());
        assert_eq!(server.unwrap_err(), TlsError::Misdirected { tunnel: "api.example".to_owned(), sni: "evil.example".to_owned() });
        assert!(!interceptor.leaves.lock().unwrap().contains_key("evil.example"));
        let (client, server) = meet(&interceptor, "api.example", "127.0.0.1", Alpn::Both).await;
        assert!(client.is_err());
        assert_eq!(server.unwrap_err(), TlsError::NoServerName("api.example".to_owned()));
    }

    #[tokio::test]
    async fn a_constrained_authority_vouches_for_nothing_else() {
        let (_, interceptor) = interceptor(&["example"]);
        assert!(meet(&interceptor, "api.example", "api.example", Alpn::Both).await.0.is_ok());
        assert!(meet(&interceptor, "api.test", "api.test", Alpn::Both).await.0.is_err());
    }

    #[tokio::test]
    async fn the_lighter_suite_is_chosen_and_another_is_given_to_who_knows_no_other() {
        let (_, interceptor) = interceptor(&[]);
        let theirs = rustls::crypto::aws_lc_rs::default_provider();
        let of = |wanted: fn(CipherSuite) -> bool| {
            let mut provider = theirs.clone();
            provider.cipher_suites.retain(|suite| wanted(suite.suite()));
            Arc::new(provider)
        };
        for (provider, chosen) in [
            (of(|_| true), CipherSuite::TLS13_AES_128_GCM_SHA256),
            (of(|suite| suite == CipherSuite::TLS13_AES_256_GCM_SHA384), CipherSuite::TLS13_AES_256_GCM_SHA384),
            (of(|suite| suite == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
            (
                of(|suite| !suite.as_str().is_some_and(|name| name.starts_with("TLS13"))),
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            ),
        ] {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(interceptor.certificate_pem().as_bytes()).unwrap()).unwrap();
            let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth());
            let (ours, far) = duplex(1 << 16);
            let served = interceptor.accept(ours, "api.example", Alpn::Both, false, SOON);
            let asked = TlsConnector::from(config).connect(server_name("api.example").unwrap(), far);
            let (served, asked) = tokio::join!(served, asked);
            assert!(served.is_ok());
            assert_eq!(asked.unwrap().get_ref().1.negotiated_cipher_suite().unwrap().suite(), chosen);
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_let_go() {
        let (_, interceptor) = interceptor(&[]);
        let (ours, _theirs) = duplex(64);
        let error = interceptor.accept(ours, "api.example", Alpn::Both, false, Duration::from_millis(20)).await.err().unwrap();
        assert!(matches!(error, TlsError::Slow { .. }), "{error}");
    }

    #[test]
    fn leaves_are_kept_renewed_and_bounded() {
        let (clock, interceptor) = interceptor(&[]);
        let first = interceptor.server_config("a.example", Alpn::Both).unwrap();
        assert!(Arc::ptr_eq(&first, &interceptor.server_config("a.example", Alpn::Both).unwrap()));
        clock.advance(Leaves::default().shown_for());
        assert!(!Arc::ptr_eq(&first, &interceptor.server_config("a.example", Alpn::Both).unwrap()));
        for host in 0..=Leaves::default().most {
            interceptor.server_config(&format!("h{host}.example"), Alpn::H1).unwrap();
        }
        assert!(interceptor.leaves.lock().unwrap().len() <= Leaves::default().most);
    }

    #[tokio::test]
    async fn the_operator_says_how_many_leaves_there_are_and_how_long_they_hold() {
        let life = Duration::from_mins(20);
        let (clock, interceptor) = bounded(&[], Leaves { most: 2, life });
        for host in ["a.example", "b.example", "c.example"] {
            interceptor.server_config(host, Alpn::H1).unwrap();
        }
        assert!(interceptor.leaves.lock().unwrap().len() <= 2);
        let (ours, far) = duplex(1 << 16);
        let config = ClientConfigs::new().config(&trust(&interceptor), Alpn::H1).unwrap();
        let served = interceptor.accept(ours, "a.example", Alpn::H1, false, SOON);
        let asked = TlsConnector::from(config).connect(server_name("a.example").unwrap(), far);
        let (served, asked) = tokio::join!(served, asked);
        assert!(served.is_ok());
        let asked = asked.unwrap();
        let ends = crate::tls::not_after(asked.get_ref().1.peer_certificates().unwrap().first().unwrap()).unwrap();
        assert!(ends <= clock.now() + life && ends > clock.now() + life - Duration::from_secs(2), "{ends}");
        let first = interceptor.server_config("a.example", Alpn::H1).unwrap();
        clock.advance(Duration::from_mins(15));
        assert!(!Arc::ptr_eq(&first, &interceptor.server_config("a.example", Alpn::H1).unwrap()));
    }

    #[test]
    fn a_clock_that_jumps_a_day_shows_no_leaf_that_does_not_hold() {
        const DAY: Duration = Duration::from_hours(24);
        let (clock, interceptor) = interceptor(&[]);
        let noon = clock.now();
        let leaf = || {
            let config = interceptor.server_config("a.example", Alpn::Both).unwrap();
            assert!(Arc::ptr_eq(&config, &interceptor.server_config("a.example", Alpn::Both).unwrap()), "kept while the clock stands");
            config
        };
        let first = leaf();
        clock.set(noon - Duration::from_secs(5));
        assert!(Arc::ptr_eq(&first, &leaf()), "clocks are put right by seconds all the time");
        // A leaf holds from an hour before it was minted and for a day: after each jump the former one does not hold yet, or not any more.
        let mut shown = first;
        for jumped in [noon - DAY, noon, noon + DAY, noon] {
            clock.set(jumped);
            let next = leaf();
            assert!(!Arc::ptr_eq(&shown, &next), "{jumped}");
            shown = next;
        }
        assert_eq!(interceptor.leaves.lock().unwrap().len(), 1);
    }
}
