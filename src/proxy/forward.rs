//! What changes on a head between the two legs, beside the edits of the gate.
//!
//! Hop-by-hop fields go first, before anything is judged: what policy sees is what may go on, and no field that the caller nominates in
//! `Connection` can take away what exeat puts on later (CVE-2026-105299 of another proxy).

use http::header::{
    CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Request, Version};

use super::body::Body;
use crate::capture::{Destination, host_field};
use crate::dial::Outgoing;
use crate::edits::Edits;
use crate::refusal::{Code, Refusal};
use crate::secret::random;

/// What a head asked of its connection, and what else its names tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// `Upgrade: websocket`, nominated by `Connection`, over HTTP/1.1.
    pub(super) websocket: bool,
    /// `TE: trailers`.
    pub(super) trailers: bool,
    met: Hops,
}

impl Wishes {
    /// There is a `Via`: it may have come through here before.
    pub(super) const fn is_forwarded(self) -> bool {
        self.met.has(VIA_MET)
    }
}

/// How many fields belong to one connection.
const OF_CONNECTION: usize = 7;

/// Fields that belong to one connection (RFC 9110 section 7.6.1, RFC 9112 section 9.6, RFC 7540 section 3.2.1).
const HOPS: [HeaderName; OF_CONNECTION] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

// Behind those, three fields that are rare and asked for later, so that a head's names are walked once.
const VIA_MET: usize = OF_CONNECTION;
const PROXY_AUTHORIZATION_MET: usize = OF_CONNECTION + 1;
const COOKIE_MET: usize = OF_CONNECTION + 2;

/// Which of [`HOPS`] a head has: bit N stands for the Nth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hops(u16);

impl Hops {
    /// Looks at one more name.
    pub(super) const fn note(&mut self, name: &[u8]) {
        self.0 |= match name {
            b"connection" => 1,
            b"te" => 1 << 1,
            b"transfer-encoding" => 1 << 2,
            b"upgrade" => 1 << 3,
            b"keep-alive" => 1 << 4,
            b"proxy-connection" => 1 << 5,
            b"http2-settings" => 1 << 6,
            b"via" => 1 << VIA_MET,
            b"proxy-authorization" => 1 << PROXY_AUTHORIZATION_MET,
            b"cookie" => 1 << COOKIE_MET,
            _ => 0,
        };
    }

    const fn has(self, nth: usize) -> bool {
        self.0 >> nth & 1 == 1
    }

    /// Removes the fields of one connection that were noted, and those that they nominate; tells what they asked.
    pub(super) fn remove(self, headers: &mut HeaderMap, version: Version) -> Wishes {
        let mut wishes = Wishes { met: self, ..Wishes::default() };
        if self.0 & ((1 << OF_CONNECTION) - 1) == 0 {
            return wishes;
        }
        wishes.trailers = self.has(1) && headers.get_all(TE).iter().any(has_trailers);
        if self.has(0) && nominations(headers) && version == Version::HTTP_11 {
            let mut asked = headers.get_all(UPGRADE).iter();
            wishes.websocket =
                asked.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")) && asked.next().is_none();
        }
        for (nth, name) in HOPS.iter().enumerate() {
            if self.has(nth) {
                headers.remove(name);
            }
        }
        wishes
    }
}

/// Removes what `Connection` nominates; whether it nominates `Upgrade`.
fn nominations(headers: &mut HeaderMap) -> bool {
    // Nearly every one says just this, and nominates nothing.
    let mut lines = headers.iter().filter(|(name, _)| **name == CONNECTION).map(|(_, value)| value.as_bytes());
    if lines.all(|line| matches!(line, b"keep-alive" | b"close")) {
        return false;
    }
    let (mut upgrade, mut nominated) = (false, smallvec::SmallVec::<[HeaderName; 2]>::new());
    for line in headers.get_all(CONNECTION) {
        for token in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"upgrade") {
                upgrade = true;
            } else if !token.eq_ignore_ascii_case(b"close")
                && !token.eq_ignore_ascii_case(b"keep-alive")
                && let Ok(name) = HeaderName::from_bytes(token)
                && !is_protected(name.as_str().as_bytes())
            {
                nominated.push(name);
            }
        }
    }
    for name in nominated {
        headers.remove(name);
    }
    upgrade
}

/// Fields that no nomination removes: they say who is asked, by whom, and where the message ends.
const fn is_protected(name: &[u8]) -> bool {
    matches!(
        name,
        b"host"
            | b"content-length"
            | b"content-type"
            | b"content-encoding"
            | b"authorization"
            | b"proxy-authorization"
            | b"cookie"
            | b"set-cookie"
            | b"expect"
            | b"range"
            | b"traceparent"
            | b"tracestate"
    )
}

/// Removes the fields of one connection and tells what they asked. One walk finds what is there, so that a plain head pays for no removal.
pub(super) fn hop_by_hop(headers: &mut HeaderMap, version: Version) -> Wishes {
    let mut hops = Hops::default();
    for name in headers.keys() {
        hops.note(name.as_str().as_bytes());
    }
    hops.remove(headers, version)
}

/// Whether the sender of this head ends the connection behind it (RFC 9112 section 9.3).
pub(super) fn closes(headers: &HeaderMap, version: Version) -> bool {
    let says = |option: &str| {
        let mut lines = headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        lines.any(|token| token.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    };
    says("close") || (version == Version::HTTP_10 && !says("keep-alive"))
}

fn has_trailers(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// This process in `Via`.
#[derive(Debug, Clone)]
pub struct Via {
    pseudonym: Box<str>,
    http1: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// A pseudonym of its own, so that two sidecars in a row are no loop and one that meets itself is.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = [0_u8; 4];
        random(&mut bytes);
        let pseudonym = format!("exeat-{:08x}", u32::from_ne_bytes(bytes));
        let value =
            |version: &str| HeaderValue::try_from(format!("{version} {pseudonym}")).unwrap_or(HeaderValue::from_static("1.1 exeat"));
        Self { http1: value("1.1"), http2: value("2"), pseudonym: pseudonym.into() }
    }

    /// Whether this head came through here before.
    ///
    /// # Errors
    /// `misdirected`: the upstream is this exeat.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        for value in headers.get_all(VIA) {
            if value.as_bytes().split(|byte| *byte == b',').any(|hop| hop.trim_ascii().ends_with(self.pseudonym.as_bytes())) {
                return Err(Refusal::new(Code::Misdirected, "the request came back to this exeat: its upstream leads here"));
            }
        }
        Ok(())
    }

    fn of(&self, version: Version) -> &HeaderValue {
        if version == Version::HTTP_2 { &self.http2 } else { &self.http1 }
    }
}

impl Default for Via {
    fn default() -> Self {
        Self::new()
    }
}

/// What one attempt's head is made of.
pub(super) struct Forward<'a> {
    /// As judged.
    pub(super) head: &'a Parts,
    /// What its connection asked.
    pub(super) wishes: Wishes,
    /// Where it goes.
    pub(super) destination: &'a Destination,
    /// Trace context of this attempt.
    pub(super) trace: Edits,
    /// The gate's edits of this attempt.
    pub(super) edits: Edits,
    /// `None`: the upstream is observed, and its head stays as it was.
    pub(super) via: Option<&'a Via>,
}

impl Forward<'_> {
    /// The head of one attempt; `dial` gives it the form of the upstream's HTTP version, and its authority.
    pub(super) fn request(mut self, body: Body) -> Request<Outgoing<Body>> {
        let target = self.target();
        let mut headers = self.head.headers.clone();
        if self.wishes.met.has(PROXY_AUTHORIZATION_MET) {
            headers.remove(PROXY_AUTHORIZATION);
        }
        self.trace.apply(&mut headers);
        if let Some(via) = self.via {
            headers.append(VIA, via.of(self.head.version).clone());
        }
        if self.wishes.trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if self.wishes.websocket {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        if self.wishes.met.has(COOKIE_MET) {
            join_cookies(&mut headers);
        }
        check_host(&mut headers, self.destination);
        self.edits.apply(&mut headers);
        let mut request = Request::new(Outgoing::new(body));
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        request
    }

    /// Origin-form; `dial` adds scheme and authority where the upstream speaks HTTP/2.
    fn target(&mut self) -> Uri {
        let edited = self.edits.take_target();
        if edited.is_none() && self.head.uri.authority().is_none() {
            return self.head.uri.clone();
        }
        let Some(target) = edited.or_else(|| self.head.uri.path_and_query().cloned()) else { return Uri::default() };
        match target.as_str() {
            // `http://host?query`: the empty path of an absolute target is `/` (RFC 9112 section 3.2.1). Text says `/` of an empty target
            // too.
            "/" => Uri::default(),
            text if text.starts_with('?') => PathAndQuery::try_from(format!("/{text}")).map_or_else(|_| Uri::default(), Uri::from),
            _ => Uri::from(target),
        }
    }
}

/// HTTP/2 callers may send cookies in several fields; HTTP/1 servers expect one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let joined = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(mut joined) = HeaderValue::from_bytes(&joined) {
        joined.set_sensitive(true);
        headers.insert(COOKIE, joined);
    }
}

/// A `Host` that does not say the destination goes: `dial` writes the one that does, kept ready with the connections it is for.
fn check_host(headers: &mut HeaderMap, destination: &Destination) {
    let name = destination.host.as_str();
    let default = destination.port == destination.scheme.default_port();
    if host_field(headers).is_some_and(|host| !says(host.as_bytes(), name, destination.port, default)) {
        headers.remove(HOST);
    }
}

fn says(host: &[u8], name: &str, port: u16, default: bool) -> bool {
    match host.strip_prefix(name.as_bytes()) {
        Some(b"") => default && !is_v6(name),
        Some([b':', digits @ ..]) => {
            let mut text = itoa::Buffer::new();
            !default && digits == text.format(port).as_bytes() && !is_v6(name)
        }
        Some(_) | None => false,
    }
}

/// An IPv6 address, which stands in brackets there.
fn is_v6(name: &str) -> bool {
    name.bytes().any(|byte| byte == b':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Host, Scheme};

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn appended(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn fields_of_one_connection_stay_there() {
        let mut headers = appended(&[
            ("host", "a"),
            ("connection", "keep-alive, X-Hop, te"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers;q=1, trailers"),
            ("transfer-encoding", "chunked"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("x-kept", "3"),
        ]);
        let wishes = hop_by_hop(&mut headers, Version::HTTP_11);
        assert_eq!(names(&headers), ["host", "x-kept"]);
        assert_eq!((wishes.websocket, wishes.trailers), (false, true));
    }

    #[test]
    fn nominations_take_away_nothing_that_matters() {
        let mut headers = map(&[
            ("connection", "authorization, host, content-length, cookie, traceparent, close, x-free"),
            ("host", "a"),
            ("authorization", "Bearer x"),
            ("content-length", "1"),
            ("cookie", "a=b"),
            ("traceparent", "00-0-0-01"),
            ("x-free", "1"),
        ]);
        hop_by_hop(&mut headers, Version::HTTP_11);
        assert_eq!(names(&headers), ["authorization", "content-length", "cookie", "host", "traceparent"]);
    }

    #[test]
    fn only_a_nominated_websocket_over_http_1_1_is_an_upgrade() {
        let asks = |fields: &[(&'static str, &'static str)], version| hop_by_hop(&mut appended(fields), version).websocket;
        let (connection, websocket) = (("connection", "Upgrade"), ("upgrade", "WebSocket"));
        assert!(asks(&[connection, websocket], Version::HTTP_11));
        assert!(!asks(&[connection, websocket], Version::HTTP_10));
        assert!(!asks(&[websocket], Version::HTTP_11));
        assert!(!asks(&[connection, ("upgrade", "h2c")], Version::HTTP_11));
        assert!(!asks(&[connection, ("upgrade", "websocket, h2c")], Version::HTTP_11));
        assert!(!asks(&[connection, websocket, ("upgrade", "h2c")], Version::HTTP_11));
    }

    fn destination(scheme: Scheme, host: &str, port: u16) -> Destination {
        Destination { scheme, host: Host::parse(host).unwrap(), port }
    }

    #[test]
    fn only_a_host_that_says_the_destination_stays() {
        for (written, scheme, host, port, stays) in [
            ("a.example", Scheme::Https, "a.example", 443, true),
            ("a.example:443", Scheme::Https, "a.example", 443, false),
            ("A.Example", Scheme::Https, "a.example", 443, false),
            ("a.example", Scheme::Http, "a.example", 8080, false),
            ("a.example:8080", Scheme::Http, "a.example", 8080, true),
            ("anything", Scheme::Http, "a.example", 80, false),
            ("[::1]:8080", Scheme::Http, "::1", 8080, false),
            ("a.example.evil", Scheme::Https, "a.example", 443, false),
        ] {
            let mut headers = map(&[]);
            headers.insert(HOST, HeaderValue::from_static(written));
            check_host(&mut headers, &destination(scheme, host, port));
            assert_eq!(headers.contains_key(HOST), stays, "{written}");
        }
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let mut headers = appended(&[("cookie", "a=1"), ("cookie", "b=2"), ("x", "1")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        let mut one = map(&[("cookie", "a=1; b=2")]);
        join_cookies(&mut one);
        assert_eq!(one[COOKIE], "a=1; b=2");
    }

    fn sent(uri: &str, version: Version, edits: &Edits) -> Request<Outgoing<Body>> {
        let head = Request::builder()
            .uri(uri)
            .version(version)
            .header("authorization", "Bearer static")
            .header("proxy-authorization", "Basic eA==")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let forward = Forward {
            head: &head,
            wishes: Wishes { trailers: true, ..hop_by_hop(&mut head.headers.clone(), version) },
            destination: &destination(Scheme::Https, "a.example", 443),
            trace: Edits::default(),
            edits: edits.clone(),
            via: Some(&Via::new()),
        };
        forward.request(Body::none())
    }

    #[test]
    fn targets_leave_in_origin_form() {
        let none = Edits::default();
        for (uri, origin) in [
            ("/a%2Fb//c?d=%20", "/a%2Fb//c?d=%20"),
            ("http://u:p@a.example/x?y", "/x?y"),
            ("http://a.example", "/"),
            ("https://a.example?q=1", "/?q=1"),
            ("*", "*"),
        ] {
            assert_eq!(sent(uri, Version::HTTP_11, &none).uri(), origin, "{uri}");
        }
        let mut edits = Edits::default();
        edits.retarget("/x?kept=1".parse().unwrap());
        assert_eq!(sent("http://a.example/x?key=s&kept=1", Version::HTTP_11, &edits).uri(), "/x?kept=1");
    }

    #[test]
    fn the_gates_edits_have_the_last_word() {
        let mut edits = Edits::default();
        edits.set(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer minted"));
        let request = sent("/", Version::HTTP_11, &edits);
        assert_eq!(request.headers().get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer minted"]);
        assert!(!request.headers().contains_key("proxy-authorization"));
        assert_eq!(request.headers()["te"], "trailers");
        assert!(request.headers()["via"].to_str().unwrap().starts_with("1.1 exeat-"));
        assert!(sent("/", Version::HTTP_2, &edits).headers()["via"].to_str().unwrap().starts_with("2 exeat-"));
    }

    #[test]
    fn a_request_that_comes_back_is_seen() {
        let (here, there) = (Via::new(), Via::new());
        let mut headers = HeaderMap::new();
        headers.append(VIA, there.http1.clone());
        headers.append(VIA, HeaderValue::from_static("1.1 proxy.example (squid)"));
        assert!(here.check(&headers).is_ok());
        headers.append(VIA, HeaderValue::try_from(format!("1.0 other, {}", here.http1.to_str().unwrap())).unwrap());
        assert_eq!(here.check(&headers).unwrap_err().code, Code::Misdirected);
    }
}
