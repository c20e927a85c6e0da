//! `Action`: method, path readings, gRPC method.

use http::Method;
use http::header::CONTENT_TYPE;
use http::request::Parts;

use super::readings::Readings;
use crate::refusal::Refusal;

/// What a request tries to do.
#[derive(Debug, Clone)]
pub struct Action<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path's readings.
    pub path: Readings<'a>,
    /// A gRPC call (POST, `content-type: application/grpc`, `+proto`, `+json`; gRPC over HTTP/2, "Requests"): service and method of its
    /// path `/Service/Method`.
    pub grpc: Option<(&'a str, &'a str)>,
}

impl<'a> Action<'a> {
    /// Reads the action of a head. A CONNECT in authority form has no path: its one reading is empty.
    ///
    /// # Errors
    /// `malformed` when the path has no bounded set of readings.
    pub fn read(parts: &'a Parts) -> Result<Self, Refusal> {
        let path = parts.uri.path();
        if parts.method == Method::CONNECT && path.is_empty() {
            return Ok(Self { method: &parts.method, path: Readings::none(), grpc: None });
        }
        Ok(Self { method: &parts.method, path: Readings::of(path)?, grpc: grpc_call(parts, path) })
    }
}

fn grpc_call<'a>(parts: &Parts, path: &'a str) -> Option<(&'a str, &'a str)> {
    if parts.method != Method::POST {
        return None;
    }
    let content_type = parts.headers.get(CONTENT_TYPE)?.as_bytes();
    let kind = content_type.get(.."application/grpc".len())?;
    let after = content_type.get("application/grpc".len());
    if !kind.eq_ignore_ascii_case(b"application/grpc") || !matches!(after, None | Some(b'+' | b';' | b' ' | b'\t')) {
        return None;
    }
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, uri: &str, content_type: Option<&str>) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(value) = content_type {
            request = request.header(CONTENT_TYPE, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn grpc_is_told_by_method_type_and_path() {
        for (method, path, content_type, expected) in [
            ("POST", "/pkg.Service/Call", Some("application/grpc"), true),
            ("POST", "/pkg.Service/Call", Some("Application/gRPC+proto"), true),
            ("POST", "/pkg.Service/Call", Some("application/grpc; charset=utf-8"), true),
            ("POST", "/pkg.Service/Call", Some("application/grpc-web"), false),
            ("POST", "/pkg.Service/Call", Some("application/json"), false),
            ("POST", "/pkg.Service/Call", None, false),
            ("GET", "/pkg.Service/Call", Some("application/grpc"), false),
            ("POST", "/pkg.Service/Call/more", Some("application/grpc"), false),
            ("POST", "/pkg.Service/", Some("application/grpc"), false),
            ("POST", "/Call", Some("application/grpc"), false),
        ] {
            let parts = parts(method, path, content_type);
            let action = Action::read(&parts).unwrap();
            assert_eq!(action.grpc, expected.then_some(("pkg.Service", "Call")), "{method} {path} {content_type:?}");
        }
    }

    #[test]
    fn a_connect_has_no_path_and_every_other_request_has() {
        let connect = parts("CONNECT", "api.example:443", None);
        assert_eq!(Action::read(&connect).unwrap().path.as_written(), "");
        let absolute = parts("GET", "http://api.example", None);
        assert_eq!(Action::read(&absolute).unwrap().path.as_written(), "/");
    }
}
