//! `Target`: the one destination that a request names, and the proof that all its names agree.
//!
//! One authority decides: the listener's upstream (`route`), the CONNECT target (inside a tunnel), the absolute target, Host or
//! `:authority`. Every other name must be the same after canonical parsing, else `misdirected`.

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::arrival::{Arrival, Mode};
use super::destination::{Host, Scheme, parse_authority};
use crate::refusal::{Code, Refusal};

/// Where a request wants to go, as far as arrival and head tell it; the catalogue makes a `Destination` of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The upstream of this `route` listener, whatever the head names.
    Route,
    /// A name.
    Named {
        /// `None` where the head cannot tell whether TLS is wanted upstream (origin-form, CONNECT).
        scheme: Option<Scheme>,
        /// Canonical.
        host: Host,
        /// `None` where it was not written.
        port: Option<u16>,
    },
}

type Name = (Host, Option<u16>);

/// Finds the target of a head that passed [`check`](super::check).
///
/// # Errors
/// `misdirected` when names disagree or the form does not fit the listener; `malformed` when a name is none; `unsupported` for a
/// CONNECT where there is no forward proxy.
pub fn target(arrival: &Arrival, parts: &Parts) -> Result<Target, Refusal> {
    if parts.method == Method::CONNECT {
        return connect_target(arrival, parts);
    }
    let absolute = absolute_name(parts, arrival.mode == Mode::Forward && arrival.tunnel.is_none())?;
    let host = host_name(parts)?;
    let scheme = parts.uri.scheme_str().and_then(scheme_of);
    if parts.uri.scheme_str().is_some() && scheme.is_none() {
        return Err(Refusal::new(Code::Unsupported, "the target's scheme is neither http nor https"));
    }
    if let (Some(absolute), Some(host)) = (&absolute, &host) {
        agree(absolute, host, scheme, "Host and the request target name different servers")?;
    }
    let form_is_absolute = absolute.is_some();
    let named = absolute.or(host).ok_or_else(|| Refusal::new(Code::Malformed, "the request names no server"))?;
    if let Some(tunnel) = &arrival.tunnel {
        let inner = (tunnel.host.clone(), Some(tunnel.port));
        agree(&named, &inner, Some(tunnel.scheme), "the request inside the tunnel names another server than CONNECT did")?;
        if arrival.sni.as_ref().is_some_and(|sni| *sni != tunnel.host) {
            return Err(Refusal::new(Code::Misdirected, "SNI names another server than CONNECT did"));
        }
        return Ok(Target::Named { scheme: Some(tunnel.scheme), host: inner.0, port: inner.1 });
    }
    match arrival.mode {
        Mode::Route if form_is_absolute && parts.version != Version::HTTP_2 => {
            Err(Refusal::new(Code::Misdirected, "a route listener is one upstream and takes origin-form targets, not those for a proxy"))
        }
        Mode::Route => Ok(Target::Route),
        Mode::Host => Ok(Target::Named { scheme: None, host: named.0, port: named.1 }),
        Mode::Forward if form_is_absolute => Ok(Target::Named { scheme, host: named.0, port: named.1 }),
        Mode::Forward => {
            Err(Refusal::new(Code::Misdirected, "a forward listener takes absolute-form targets and CONNECT, not origin-form"))
        }
    }
}

fn connect_target(arrival: &Arrival, parts: &Parts) -> Result<Target, Refusal> {
    if arrival.mode != Mode::Forward || arrival.tunnel.is_some() {
        return Err(Refusal::new(Code::Unsupported, "CONNECT is taken on forward listeners, and not inside another CONNECT"));
    }
    let authority = parts.uri.authority().map_or("", http::uri::Authority::as_str);
    let named = parse_authority(authority).map_err(|error| Refusal::new(Code::Malformed, format!("CONNECT target: {error}")))?;
    let Some(port) = named.1 else { return Err(Refusal::new(Code::Malformed, "a CONNECT target has a port (RFC 9110 section 9.3.6)")) };
    if let Some((host, host_port)) = host_name(parts)?
        && (host != named.0 || host_port.is_some_and(|other| other != port))
    {
        return Err(Refusal::new(Code::Misdirected, "Host and the CONNECT target name different servers"));
    }
    Ok(Target::Named { scheme: None, host: named.0, port: Some(port) })
}

fn scheme_of(text: &str) -> Option<Scheme> {
    match text {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        _ => None,
    }
}

/// The authority of an absolute-form target or `:authority`. `proxied`: user information in an HTTP/1 target that was written for a proxy
/// is a credential that `strip` finds and that no rewritten target keeps; elsewhere it is malformed (RFC 9113 section 8.3.1).
fn absolute_name(parts: &Parts, proxied: bool) -> Result<Option<Name>, Refusal> {
    let Some(authority) = parts.uri.authority() else { return Ok(None) };
    let mut text = authority.as_str();
    if proxied && parts.version != Version::HTTP_2 {
        text = text.rsplit_once('@').map_or(text, |(_, server)| server);
    }
    parse_authority(text).map(Some).map_err(|error| Refusal::new(Code::Malformed, format!("request target: {error}")))
}

/// The Host of a checked head: it has one at most, and nearly always in front, which is seen without hashing its name.
#[must_use]
pub fn host_field(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.iter().find(|(name, _)| **name == HOST).map(|(_, value)| value)
}

fn host_name(parts: &Parts) -> Result<Option<Name>, Refusal> {
    let Some(host) = host_field(&parts.headers) else { return Ok(None) };
    let text = host.to_str().map_err(|_| Refusal::new(Code::Malformed, "Host is not ASCII"))?;
    parse_authority(text).map(Some).map_err(|error| Refusal::new(Code::Malformed, format!("Host: {error}")))
}

/// Same host, and same port once the scheme's default is filled in. Without a scheme an unwritten port agrees with 80 and 443 only.
fn agree(one: &Name, other: &Name, scheme: Option<Scheme>, why: &'static str) -> Result<(), Refusal> {
    let ports = match (one.1, other.1, scheme) {
        (one, other, Some(scheme)) => one.unwrap_or(scheme.default_port()) == other.unwrap_or(scheme.default_port()),
        (one, other, None) if one == other => true,
        (Some(port), None, None) | (None, Some(port), None) => matches!(port, 80 | 443),
        (Some(_), Some(_), None) | (None, None, None) => false,
    };
    if one.0 == other.0 && ports { Ok(()) } else { Err(Refusal::new(Code::Misdirected, why)) }
}

#[cfg(test)]
mod tests {
    use super::super::arrival::Peer;
    use super::super::destination::Destination;
    use super::*;

    fn arrival(mode: Mode, tunnel: Option<(Scheme, &str, u16)>, sni: Option<&str>) -> Arrival {
        Arrival {
            listener: "egress".into(),
            mode,
            route: None,
            peer: Peer::Unix { uid: 1, gid: 1, pid: None },
            process: None,
            certificates: None,
            proof: None,
            tunnel: tunnel.map(|(scheme, host, port)| Destination { scheme, host: Host::parse(host).unwrap(), port }),
            sni: sni.map(|name| Host::parse(name).unwrap()),
        }
    }

    fn head(method: &str, uri: &str, host: Option<&str>) -> Parts {
        let version = if method == "H2" { Version::HTTP_2 } else { Version::HTTP_11 };
        let method = if method == "H2" { "GET" } else { method };
        let mut builder = http::Request::builder().method(method).uri(uri).version(version);
        if let Some(host) = host {
            builder = builder.header("host", host);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn told(arrival: &Arrival, method: &str, uri: &str, host: Option<&str>) -> Result<String, Code> {
        match target(arrival, &head(method, uri, host)) {
            Ok(Target::Route) => Ok("route".into()),
            Ok(Target::Named { scheme, host, port }) => Ok(format!("{:?} {host} {port:?}", scheme.map(Scheme::as_str))),
            Err(refusal) => Err(refusal.code),
        }
    }

    #[test]
    fn each_mode_has_its_authority() {
        let route = arrival(Mode::Route, None, None);
        let host = arrival(Mode::Host, None, None);
        let forward = arrival(Mode::Forward, None, None);
        assert_eq!(told(&route, "GET", "/", Some("anything.example")), Ok("route".into()));
        assert_eq!(told(&host, "GET", "/", Some("API.example:8443")), Ok("None api.example Some(8443)".into()));
        assert_eq!(told(&host, "H2", "http://api.example/", None), Ok("None api.example None".into()));
        assert_eq!(told(&forward, "GET", "http://api.example/x", Some("api.example")), Ok("Some(\"http\") api.example None".into()));
        assert_eq!(told(&forward, "GET", "http://u:p@api.example/x", Some("api.example")), Ok("Some(\"http\") api.example None".into()));
        assert_eq!(told(&forward, "CONNECT", "api.example:443", None), Ok("None api.example Some(443)".into()));
    }

    #[test]
    fn names_that_disagree_are_misdirected() {
        let host = arrival(Mode::Host, None, None);
        let forward = arrival(Mode::Forward, None, None);
        for (arrival, method, uri, name) in [
            (&host, "GET", "http://a.example/", Some("b.example")),
            (&forward, "GET", "http://a.example/", Some("a.example:81")),
            (&forward, "GET", "http://a.example:81/", Some("a.example")),
            (&forward, "CONNECT", "a.example:443", Some("b.example:443")),
            (&forward, "CONNECT", "a.example:443", Some("a.example:80")),
            (&forward, "GET", "/", Some("a.example")),
            (&host, "H2", "https://a.example/", Some("b.example")),
        ] {
            assert_eq!(told(arrival, method, uri, name), Err(Code::Misdirected), "{method} {uri} {name:?}");
        }
        assert_eq!(told(&forward, "GET", "http://a.example:80/", Some("A.example.")), Ok("Some(\"http\") a.example Some(80)".into()));
    }

    #[test]
    fn inside_a_tunnel_every_name_is_the_connect_target() {
        let inside = arrival(Mode::Forward, Some((Scheme::Https, "a.example", 8443)), Some("a.example"));
        assert_eq!(told(&inside, "GET", "/", Some("a.example:8443")), Ok("Some(\"https\") a.example Some(8443)".into()));
        assert_eq!(told(&inside, "H2", "https://a.example:8443/", None), Ok("Some(\"https\") a.example Some(8443)".into()));
        for (method, uri, name) in
            [("GET", "/", Some("a.example")), ("GET", "/", Some("b.example:8443")), ("GET", "https://b.example:8443/", None)]
        {
            assert_eq!(told(&inside, method, uri, name), Err(Code::Misdirected), "{uri} {name:?}");
        }
        assert_eq!(told(&inside, "CONNECT", "a.example:443", None), Err(Code::Unsupported));
        let wrong_sni = arrival(Mode::Forward, Some((Scheme::Https, "a.example", 443)), Some("b.example"));
        assert_eq!(told(&wrong_sni, "GET", "/", Some("a.example")), Err(Code::Misdirected));
    }

    #[test]
    fn what_no_listener_takes() {
        let host = arrival(Mode::Host, None, None);
        let forward = arrival(Mode::Forward, None, None);
        assert_eq!(told(&host, "CONNECT", "a.example:443", None), Err(Code::Unsupported));
        assert_eq!(told(&forward, "CONNECT", "a.example", None), Err(Code::Malformed));
        assert_eq!(told(&forward, "GET", "ftp://a.example/", Some("a.example")), Err(Code::Unsupported));
        assert_eq!(told(&host, "H2", "http://u@a.example/", None), Err(Code::Malformed));
        assert_eq!(told(&host, "GET", "http://u:p@a.example/", Some("a.example")), Err(Code::Malformed));
        let route = arrival(Mode::Route, None, None);
        assert_eq!(told(&route, "GET", "http://other.example/", Some("other.example")), Err(Code::Misdirected));
        assert_eq!(told(&forward, "CONNECT", "u:p@a.example:443", None), Err(Code::Malformed));
    }
}
