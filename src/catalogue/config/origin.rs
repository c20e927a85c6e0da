//! Origins as written: `https://HOST`, `https://HOST:PORT`, `https://*.SUFFIX`, and declared plaintext with `http://`.

use crate::capture::{Host, Scheme, parse_authority};
use crate::catalogue::{HostPattern, Origin};

/// Why a text is no origin: what is wrong, and the next step.
pub(super) type NotAnOrigin = (String, &'static str);

/// Parses one origin.
///
/// # Errors
/// What is wrong and the next step, for the operator.
pub fn parse_origin(text: &str) -> Result<Origin, (String, &'static str)> {
    let example = "write https://HOST or https://HOST:PORT; https://*.SUFFIX stands for one more label";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err((format!("`{text}` has no scheme"), example));
    };
    if rest.contains('@') {
        return Err(("this origin holds user information".to_owned(), "an origin never holds credentials; remove what stands before `@`"));
    }
    let scheme = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        other => {
            return Err((format!("`{other}` is not a scheme that exeat forwards"), "write https://, or http:// for declared plaintext"));
        }
    };
    if rest.contains(['/', '?', '#']) {
        return Err((format!("`{text}` has a path or query; an origin is scheme, host and port"), "paths belong into a policy's rules"));
    }
    let (wildcard, authority) = rest.strip_prefix("*.").map_or((false, rest), |suffix| (true, suffix));
    if authority.contains('*') {
        return Err((format!("`{text}`: `*` stands for the whole first label only"), example));
    }
    let (host, port) = parse_authority(authority).map_err(|error| (format!("`{text}` is not an origin: {error}"), example))?;
    let port = port.unwrap_or_else(|| scheme.default_port());
    let host = if wildcard { HostPattern::OneLabelUnder(suffix(text, host)?) } else { HostPattern::Exact(host) };
    Ok(Origin { scheme, host, port })
}

fn suffix(text: &str, host: Host) -> Result<Host, NotAnOrigin> {
    if host.ip().is_some() {
        return Err((format!("`{text}`: an address has no labels below it"), "networks belong into `reach`"));
    }
    if !host.as_str().contains('.') {
        return Err((format!("`{text}` would cover a whole top-level domain"), "write at least two labels after `*.`"));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_one_form() {
        let exact = parse_origin("https://API.example:443").unwrap();
        assert_eq!(exact, parse_origin("https://api.example").unwrap());
        assert_eq!(exact.destination().unwrap().to_string(), "https://api.example");
        assert!(matches!(parse_origin("https://*.s3.example").unwrap().host, HostPattern::OneLabelUnder(_)));
        assert_eq!(parse_origin("http://127.0.0.1:8080").unwrap().port, 8080);
        for text in [
            "api.example",
            "ftp://a.example",
            "https://a.example/",
            "https://a.example?x",
            "https://*.com",
            "https://*.*.example.com",
            "https://a.*.example",
            "https://*.10.0.0.1",
            "https://u:p@a.example",
            "https://",
            "https://*.",
            "https://a.example:0",
        ] {
            assert!(parse_origin(text).is_err(), "{text}");
        }
    }
}
