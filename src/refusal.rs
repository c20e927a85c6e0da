//! Refusals: the stable codes, their HTTP and gRPC status, the sentence the caller sees, and whether a retry helps.
//!
//! A [`Refusal`] has two voices: the code (and its text) for the caller, who never learns policy internals, and `detail` for
//! the audit record, which names the thing, the place and the next step. `proxy::respond` alone turns one into an answer.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

macro_rules! codes {
    ($($variant:ident $name:literal $http:ident $grpc:literal $retry:ident $proxy:literal $text:literal $next:literal;)*) => {
        /// Why a request was refused: stable, documented, the same in every protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $text] $variant,)* }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name: `exeat-refusal`, problem+json `code`, audit, metrics.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// HTTP status.
            #[must_use]
            pub const fn status(self) -> StatusCode { match self { $(Self::$variant => StatusCode::$http,)* } }

            /// gRPC status code (trailers-only answer).
            #[must_use]
            pub const fn grpc(self) -> u8 { match self { $(Self::$variant => $grpc,)* } }

            /// Whether the same request can succeed later without a change of policy or of the request.
            #[must_use]
            pub const fn retry_helps(self) -> bool { matches!(match self { $(Self::$variant => Retry::$retry,)* }, Retry::Later) }

            /// The error type of the `Proxy-Status` field (RFC 9209 section 2.3).
            #[must_use]
            pub const fn proxy_status(self) -> &'static str { match self { $(Self::$variant => $proxy,)* } }

            /// What the caller is told.
            #[must_use]
            pub const fn text(self) -> &'static str { match self { $(Self::$variant => $text,)* } }

            /// What the caller can do next.
            #[must_use]
            pub const fn next_step(self) -> &'static str { match self { $(Self::$variant => $next,)* } }
        }
    };
}

#[derive(Clone, Copy)]
enum Retry {
    Never,
    Later,
}

codes! {
    Malformed "malformed" BAD_REQUEST 3 Never "http_request_error" "the request is not well-formed" "send a request that follows RFC 9110, 9112 and 9113";
    AmbiguousPath "ambiguous_path" BAD_REQUEST 3 Never "http_request_error" "the path can be read in more than one way and the readings are judged differently" "send the path in its plain form";
    HeadTooLarge "head_too_large" REQUEST_HEADER_FIELDS_TOO_LARGE 3 Never "http_request_error" "the request head is too large" "send fewer or smaller header fields";
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE 3 Never "http_request_error" "the request body is larger than may be read before judging it" "send a smaller body";
    Unsupported "unsupported" NOT_IMPLEMENTED 12 Never "http_request_error" "exeat does not carry this kind of request" "use HTTP/1.1 or HTTP/2 without extended CONNECT, TRACE or HTTP/3";
    Unlisted "unlisted" FORBIDDEN 7 Never "destination_not_found" "this destination is not in the catalogue" "ask the owner of the exeat configuration to list the upstream";
    Misdirected "misdirected" MISDIRECTED_REQUEST 7 Never "http_request_denied" "the names in this request do not agree on one destination" "send one authority: Host, request target, CONNECT target and SNI must agree";
    Unauthenticated "unauthenticated" FORBIDDEN 16 Never "http_request_denied" "the caller's identity could not be proven" "connect as a workload that this listener knows";
    Revoked "revoked" FORBIDDEN 7 Never "http_request_denied" "access has been revoked" "ask the owner of the revocation; the audit record names it";
    Denied "denied" FORBIDDEN 7 Never "http_request_denied" "policy denies this request" "ask the owner of the policy; the audit record names the rule";
    Requirement "requirement" FORBIDDEN 7 Never "http_request_denied" "a requirement of policy is not met" "ask the owner of the policy; the audit record names the requirement";
    NoRule "no_rule" FORBIDDEN 7 Never "http_request_denied" "no rule allows this request" "ask the owner of the policy for a rule";
    LeaseMissing "lease_missing" FORBIDDEN 7 Never "http_request_denied" "this access needs a lease" "open a lease for the task";
    LeaseEnded "lease_ended" FORBIDDEN 7 Never "http_request_denied" "the lease of this access has ended" "open a new lease for the task";
    LeaseSpent "lease_spent" FORBIDDEN 7 Never "http_request_denied" "the lease of this access has no uses left" "open a new lease for the task";
    Limited "limited" TOO_MANY_REQUESTS 8 Later "http_request_denied" "a limit of policy is reached" "retry after the time given in Retry-After";
    AddressRefused "address_refused" FORBIDDEN 7 Never "destination_ip_prohibited" "the destination's address may not be reached" "ask the owner of the exeat configuration to widen the upstream's reach";
    CredentialUnavailable "credential_unavailable" SERVICE_UNAVAILABLE 14 Later "proxy_internal_error" "the credential for this access cannot be obtained now" "retry later";
    CredentialRefused "credential_refused" BAD_GATEWAY 14 Never "proxy_internal_error" "the issuer refused the credential for this access" "ask the owner of the credential; the audit record has the issuer's answer";
    ScopeExceeded "scope_exceeded" BAD_GATEWAY 14 Never "proxy_internal_error" "the issuer gave more than policy allows" "ask the owner of the credential to narrow it";
    UpstreamUnreachable "upstream_unreachable" BAD_GATEWAY 14 Later "destination_unavailable" "the upstream cannot be reached" "retry later";
    UpstreamUntrusted "upstream_untrusted" BAD_GATEWAY 14 Never "tls_certificate_error" "the upstream could not prove who it is" "ask the owner of the upstream to check its certificate and the configured roots";
    UpstreamTimeout "upstream_timeout" GATEWAY_TIMEOUT 14 Later "http_response_timeout" "the upstream did not answer in time" "retry if the request may be sent twice";
    Overloaded "overloaded" SERVICE_UNAVAILABLE 14 Later "connection_limit_reached" "exeat is at one of its limits" "retry later";
    AuditUnavailable "audit_unavailable" SERVICE_UNAVAILABLE 14 Later "proxy_internal_error" "no access without a record, and the record cannot be written" "retry later; the operator must restore the audit sink";
    NotReady "not_ready" SERVICE_UNAVAILABLE 14 Later "proxy_internal_error" "exeat is not ready to judge requests" "retry later; readyz says what is missing";
    Internal "internal" INTERNAL_SERVER_ERROR 13 Never "proxy_internal_error" "exeat failed on this request" "report it with the request id";
}

impl Code {
    /// Whether identity, catalogue or policy said no, in contrast to a request that could not be read or served.
    #[must_use]
    pub const fn is_judgement(self) -> bool {
        match self {
            Self::AmbiguousPath
            | Self::Unlisted
            | Self::Misdirected
            | Self::Unauthenticated
            | Self::Revoked
            | Self::Denied
            | Self::Requirement
            | Self::NoRule
            | Self::LeaseMissing
            | Self::LeaseEnded
            | Self::LeaseSpent
            | Self::Limited
            | Self::AddressRefused => true,
            Self::Malformed
            | Self::HeadTooLarge
            | Self::BodyTooLarge
            | Self::Unsupported
            | Self::CredentialUnavailable
            | Self::CredentialRefused
            | Self::ScopeExceeded
            | Self::UpstreamUnreachable
            | Self::UpstreamUntrusted
            | Self::UpstreamTimeout
            | Self::Overloaded
            | Self::AuditUnavailable
            | Self::NotReady
            | Self::Internal => false,
        }
    }
}

/// One refused request: the code for the caller, the detail for the record.
#[derive(Debug, Clone)]
#[must_use]
pub struct Refusal {
    /// What the caller learns.
    pub code: Code,
    /// For the audit record and the operator's log only: names the thing, the place and the next step; never a secret.
    pub detail: Cow<'static, str>,
    /// Sent as `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The caller may prove itself to the proxy: answered with 407 and `Proxy-Authenticate` (RFC 9110 section 15.5.8).
    pub challenge: bool,
}

impl Refusal {
    /// A refusal with its internal line.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, challenge: false }
    }

    /// Asks the caller for a proof in `Proxy-Authorization`.
    pub const fn challenged(mut self, challenge: bool) -> Self {
        self.challenge = challenge;
        self
    }

    /// Tells the caller when to come back.
    pub const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_helps_only_where_time_heals() {
        assert!(Code::UpstreamTimeout.retry_helps());
        assert!(!Code::Denied.retry_helps());
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    /// What a caller sees of every code: a change here is a change for every caller.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn the_texts_of_every_code() {
        let line = |code: &Code| {
            let retry = if code.retry_helps() { " retry" } else { "" };
            let (name, status, grpc) = (code.name(), code.status().as_u16(), code.grpc());
            format!("{name} {status} {grpc}{retry}\n  {} ({})\n  {}", code.text(), code.proxy_status(), code.next_step())
        };
        let all: Vec<_> = Code::ALL.iter().map(line).collect();
        insta::assert_snapshot!(all.join("\n"), @"
        malformed 400 3
          the request is not well-formed (http_request_error)
          send a request that follows RFC 9110, 9112 and 9113
        ambiguous_path 400 3
          the path can be read in more than one way and the readings are judged differently (http_request_error)
          send the path in its plain form
        head_too_large 431 3
          the request head is too large (http_request_error)
          send fewer or smaller header fields
        body_too_large 413 3
          the request body is larger than may be read before judging it (http_request_error)
          send a smaller body
        unsupported 501 12
          exeat does not carry this kind of request (http_request_error)
          use HTTP/1.1 or HTTP/2 without extended CONNECT, TRACE or HTTP/3
        unlisted 403 7
          this destination is not in the catalogue (destination_not_found)
          ask the owner of the exeat configuration to list the upstream
        misdirected 421 7
          the names in this request do not agree on one destination (http_request_denied)
          send one authority: Host, request target, CONNECT target and SNI must agree
        unauthenticated 403 16
          the caller's identity could not be proven (http_request_denied)
          connect as a workload that this listener knows
        revoked 403 7
          access has been revoked (http_request_denied)
          ask the owner of the revocation; the audit record names it
        denied 403 7
          policy denies this request (http_request_denied)
          ask the owner of the policy; the audit record names the rule
        requirement 403 7
          a requirement of policy is not met (http_request_denied)
          ask the owner of the policy; the audit record names the requirement
        no_rule 403 7
          no rule allows this request (http_request_denied)
          ask the owner of the policy for a rule
        lease_missing 403 7
          this access needs a lease (http_request_denied)
          open a lease for the task
        lease_ended 403 7
          the lease of this access has ended (http_request_denied)
          open a new lease for the task
        lease_spent 403 7
          the lease of this access has no uses left (http_request_denied)
          open a new lease for the task
        limited 429 8 retry
          a limit of policy is reached (http_request_denied)
          retry after the time given in Retry-After
        address_refused 403 7
          the destination's address may not be reached (destination_ip_prohibited)
          ask the owner of the exeat configuration to widen the upstream's reach
        credential_unavailable 503 14 retry
          the credential for this access cannot be obtained now (proxy_internal_error)
          retry later
        credential_refused 502 14
          the issuer refused the credential for this access (proxy_internal_error)
          ask the owner of the credential; the audit record has the issuer's answer
        scope_exceeded 502 14
          the issuer gave more than policy allows (proxy_internal_error)
          ask the owner of the credential to narrow it
        upstream_unreachable 502 14 retry
          the upstream cannot be reached (destination_unavailable)
          retry later
        upstream_untrusted 502 14
          the upstream could not prove who it is (tls_certificate_error)
          ask the owner of the upstream to check its certificate and the configured roots
        upstream_timeout 504 14 retry
          the upstream did not answer in time (http_response_timeout)
          retry if the request may be sent twice
        overloaded 503 14 retry
          exeat is at one of its limits (connection_limit_reached)
          retry later
        audit_unavailable 503 14 retry
          no access without a record, and the record cannot be written (proxy_internal_error)
          retry later; the operator must restore the audit sink
        not_ready 503 14 retry
          exeat is not ready to judge requests (proxy_internal_error)
          retry later; readyz says what is missing
        internal 500 13
          exeat failed on this request (proxy_internal_error)
          report it with the request id
        ");
    }
}
