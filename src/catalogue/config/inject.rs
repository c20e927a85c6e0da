//! Where a credential is put, as written.

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::catalogue::Placement;
use crate::written::{Report, Spanned};

/// Headers that frame or route a request: a credential there would be another request.
const NOT_FOR_CREDENTIALS: [&str; 15] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where a credential is put.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InjectConfig {
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
    /// `Authorization: Basic` with this user name (RFC 7617).
    Basic(BasicConfig),
    /// The bare value in a header of its own.
    Header(Spanned<String>),
    /// The value in a query parameter.
    Query(Spanned<String>),
}

/// The user of `Authorization: Basic`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicConfig {
    /// The user name; RFC 7617 forbids a colon in it.
    user: Spanned<String>,
}

impl InjectConfig {
    /// Judges it; mistakes go to the report.
    pub fn build(&self, report: &mut Report) -> Option<Placement> {
        match self {
            Self::Bearer => Some(Placement::Bearer),
            Self::Basic(basic) => {
                if basic.user.contains(':') || basic.user.chars().any(char::is_control) {
                    report.error_hint(basic.user.at, "a user name of Basic has no colon and no control character", "RFC 7617, section 2");
                    return None;
                }
                Some(Placement::Basic { user: basic.user.value.as_str().into() })
            }
            Self::Header(name) => header(name, report).map(Placement::Header),
            Self::Query(key) => {
                if key.is_empty() || key.bytes().any(|byte| !byte.is_ascii_graphic() || b"&=#+%?".contains(&byte)) {
                    let message = format!("`{}` cannot be the name of a query parameter", key.value);
                    report.error_hint(key.at, message, "write it without `&`, `=`, `#`, `+`, `%`, `?` and spaces");
                    return None;
                }
                report.warning(
                    "query-credential",
                    key.at,
                    format!("a credential in the query parameter `{}` ends up in the upstream's access log", key.value),
                    "prefer `inject: { header: NAME }` where the upstream takes it",
                );
                Some(Placement::Query(key.value.as_str().into()))
            }
        }
    }
}

fn header(name: &Spanned<String>, report: &mut Report) -> Option<HeaderName> {
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
        report.error_hint(name.at, format!("`{}` is not a header name", name.value), "letters, digits and `-`: x-api-key");
        return None;
    };
    if NOT_FOR_CREDENTIALS.contains(&header.as_str()) || header.as_str().starts_with("exeat-") {
        report.error_hint(
            name.at,
            format!("a credential cannot be put into `{header}`: it shapes the request itself"),
            "name the upstream's own header",
        );
        return None;
    }
    Some(header)
}
