//! The detector: runs over every slot of a head and proves by its result that it did.

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::finding::{Finding, Findings, Kind};
use super::lists::Seen;
use super::names::{Class, classify};
use super::query;
use super::rules::Rules;
use super::scan::{Scan, Verdict};
use crate::edits::Edits;
use crate::secret::FingerprintKey;

/// What the application says to exeat itself: it never leaves. No finding, for it proves nothing.
const OURS: &str = "exeat-lease";

/// Proof that a head was examined: findings and the edits that remove them.
#[derive(Debug, Clone)]
#[must_use]
pub struct Stripped {
    findings: Findings,
    edits: Edits,
}

impl Stripped {
    /// What was found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The changes that remove it.
    #[must_use]
    pub const fn edits(&self) -> &Edits {
        &self.edits
    }

    /// Findings and changes, when nothing else is asked of the proof.
    #[must_use]
    pub fn into_parts(self) -> (Findings, Edits) {
        (self.findings, self.edits)
    }

    /// The value of a header as the upstream would see it, for conditions: `None` when absent or removed, `Some(Err(()))` when it
    /// appears more than once.
    pub fn header<'a>(&'a self, parts: &'a Parts, name: &HeaderName) -> Option<Result<&'a [u8], ()>> {
        if let Some(value) = self.edits.value_of(name) {
            return Some(Ok(value.as_bytes()));
        }
        if self.edits.touches(name) {
            return None;
        }
        let mut values = parts.headers.get_all(name).iter();
        let first = values.next()?;
        Some(if values.next().is_some() { Err(()) } else { Ok(first.as_bytes()) })
    }

    /// The raw query as the upstream would see it.
    #[must_use]
    pub fn query<'a>(&'a self, parts: &'a Parts) -> Option<&'a str> {
        match self.edits.target() {
            Some(target) => target.query(),
            None => parts.uri.query(),
        }
    }
}

/// Examines a head: every slot, by name first and by the shape of the value last. Changes nothing.
pub fn examine(parts: &Parts, rules: &Rules, key: &FingerprintKey) -> Stripped {
    let mut scan = Scan::new(rules, key);
    let mut edits = Edits::default();
    let mut lists = Seen::default();
    for (name, value) in &parts.headers {
        if name.as_str() == OURS {
            edits.remove(name.clone());
            continue;
        }
        match scan.field("header", name.as_str().as_bytes(), value.as_bytes()) {
            Verdict::Stays => {}
            Verdict::Goes => edits.remove(name.clone()),
            Verdict::List(class) => lists.note(class),
        }
    }
    lists.strip(&parts.headers, &mut scan, &mut edits);
    if let Some(authority) = parts.uri.authority()
        && let Some(user) = memchr::memrchr(b'@', authority.as_str().as_bytes()).and_then(|at| authority.as_str().get(..at))
    {
        // It never leaves: the upstream's authority is written from the destination. It is a finding all the same.
        scan.found(Kind::Password, "userinfo", b"", user.as_bytes(), false);
    }
    if let Some(query) = parts.uri.query()
        && let Some(left) = query::strip(parts.uri.path(), query, &mut scan)
    {
        // Parts of a target that was parsed; if they were none, the query goes as a whole.
        let left = PathAndQuery::try_from(left).or_else(|_| PathAndQuery::try_from(parts.uri.path()));
        edits.retarget(left.unwrap_or_else(|_| PathAndQuery::from_static("/")));
    }
    Stripped { findings: scan.findings, edits }
}

/// The names of the trailers that must not pass, with their findings.
#[must_use]
pub fn trailers(trailers: &HeaderMap, rules: &Rules, key: &FingerprintKey) -> (SmallVec<[HeaderName; 2]>, Findings) {
    let mut scan = Scan::new(rules, key);
    let mut names = SmallVec::new();
    for (name, value) in trailers {
        // What frames a message or belongs to one connection has no place behind a body either, and the engine makes none of it there.
        let goes = name.as_str() == OURS
            || classify(name.as_str().as_bytes()) == Class::Inert
            || match scan.field("trailer", name.as_str().as_bytes(), value.as_bytes()) {
                Verdict::Stays => false,
                Verdict::Goes => true,
                // Nothing that is such a list belongs behind a body (RFC 9110 section 6.5.1).
                Verdict::List(_) => scan.found(Kind::Other, "trailer", name.as_str().as_bytes(), value.as_bytes(), false),
            };
        if goes && !names.contains(name) {
            names.push(name.clone());
        }
    }
    (names, scan.findings)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;
    use http::{Request, Uri};
    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::StripOptions;

    const CANARY: &str = "canaryA1b2C3d4E5f6G7h8";
    const JWT: &str = "eyJhbGciOiJFUzI1NiJ9.eyJjYW5hcnkiOiJjYW5hcnkifQ.canaryA1b2C3d4E5f6G7h8";

    fn key() -> FingerprintKey {
        FingerprintKey::new(&[7; 32])
    }

    fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        parts.uri = target.parse::<Uri>().unwrap();
        for (name, value) in headers {
            parts.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        parts
    }

    fn applied(parts: &Parts, stripped: &Stripped) -> Parts {
        let mut after = head("/", &[]);
        after.headers = parts.headers.clone();
        stripped.edits().clone().apply(&mut after.headers);
        after.uri = match stripped.edits().target() {
            Some(target) => Uri::from(target.clone()),
            None => Uri::from(parts.uri.path_and_query().unwrap().clone()),
        };
        after
    }

    fn shown(parts: &Parts) -> String {
        let headers: Vec<String> =
            parts.headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect();
        format!("{} {}", parts.uri, headers.join("\n"))
    }

    fn strip(parts: &Parts) -> Stripped {
        examine(parts, &Rules::default(), &key())
    }

    /// gRPC over HTTP/2, "Custom-Metadata": several values of one name may be joined with commas, and padding is the sender's to choose.
    #[test]
    fn every_value_of_binary_metadata_is_looked_at() {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
        for token in [JWT.to_owned(), format!("{JWT}i"), format!("{JWT}ij")] {
            let (padded, bare) = (STANDARD.encode(&token), STANDARD_NO_PAD.encode(&token));
            let joined = [format!("AAEC,{padded}"), format!("{bare}, AAEC"), format!("AA==,{bare},AA==")];
            for value in [padded.clone(), bare.clone(), format!("{padded} "), format!(" {bare}")].into_iter().chain(joined) {
                let parts = head("/", &[("x-trace-bin", &value)]);
                let stripped = strip(&parts);
                assert_eq!(stripped.findings().len(), 1, "{value:?}");
                assert!(applied(&parts, &stripped).headers.is_empty(), "{value:?}");
            }
        }
        assert!(strip(&head("/", &[("grpc-trace-bin", "AAAo9GyjHXBjkjlmcFiMAiDL"), ("x-any-bin", ",,=,!")])).findings().is_empty());
    }

    #[test]
    fn a_credential_behind_something_harmless_is_found() {
        for (target, left) in
            [("/p?a=1;api_key=opaque&b=2", "/p?b=2"), ("/p?b=2&a=1;x;password=opaque", "/p?b=2"), ("/p?a=1;b=2&c=3;d", "/p?a=1;b=2&c=3;d")]
        {
            let parts = head(target, &[]);
            assert_eq!(applied(&parts, &strip(&parts)).uri.to_string(), left, "{target}");
        }
        for (value, found) in [
            ("me@example.com, https://app:opaque@db.example/", 1),
            ("a@b@c postgres://app:opaque@db.example/", 1),
            ("me@example.com, https://db.example/a:b", 0),
            ("https://db.example/a:b@c", 0),
        ] {
            assert_eq!(strip(&head("/", &[("x-source", value)])).findings().len(), found, "{value}");
        }
    }

    #[test]
    fn no_slot_lets_a_credential_through() {
        let header = |name: &'static str, value: &str| (format!("header {name}"), head("/", &[(name, value)]));
        let target = |target: &str| (format!("target {target}"), head(target, &[("accept", "*/*")]));
        let mut cases = Vec::new();
        for scheme in [
            "Bearer ",
            "bearer ",
            "Basic ",
            "Digest username=",
            "Token ",
            "ApiKey ",
            "Negotiate ",
            "AWS4-HMAC-SHA256 Credential=",
            "Weird ",
            "",
        ] {
            cases.push(header("authorization", &format!("{scheme}{CANARY}")));
            cases.push(header("proxy-authorization", &format!("{scheme}{CANARY}")));
        }
        for name in [
            "x-api-key",
            "X_Api_Key",
            "api-key",
            "apikey",
            "x-goog-api-key",
            "x-amz-security-token",
            "private-token",
            "x-vault-token",
            "authorization2",
            "x-auth-token",
            "x-gitlab-token",
            "x-shopify-access-token",
            "x-acme-token",
            "x_acme_secret",
            "acme-api-key",
            "x-db-password",
            "dpop",
            "x-token-bin",
            "authorization-bin",
            "cookie",
            "cookie2",
            "x-forwarded-authorization",
            "dd-api-key",
            "xi-api-key",
        ] {
            cases.push(header(name, CANARY));
        }
        for name in [
            "x-anything",
            "user-agent",
            "accept",
            "content-type",
            "referer",
            "x-forwarded-for",
            "etag",
            "if-none-match",
            "tracestate",
            "trailer",
            "expect",
            "keep_alive",
            "Transfer_Encoding",
            "x_odd",
            "baggage",
        ] {
            for value in [
                JWT.to_owned(),
                format!("a; b={JWT}"),
                format!("Bearer {CANARY}"),
                format!("sk-proj-{CANARY}"),
                format!("https://u:{CANARY}@h/"),
            ] {
                cases.push(header(name, &value));
            }
        }
        for value in [format!("session={CANARY}"), format!("a=1; session={CANARY}; b=2"), CANARY.to_owned(), format!("a=\"{CANARY}\"")] {
            cases.push(header("cookie", &value));
        }
        for value in [
            format!("base64url.bearer.authorization.k8s.io.{CANARY}, channel.k8s.io"),
            format!("graphql-ws, access_token, {CANARY}"),
            format!("access_token.{CANARY}"),
            format!("Bearer,{CANARY}"),
            format!("chat, {JWT}"),
            format!("openai-insecure-api-key.{CANARY}, realtime"),
        ] {
            cases.push(header("sec-websocket-protocol", &value));
        }
        cases.push(header("baggage", &format!("a=1,api_key={CANARY};p=1,b=2")));
        cases.push(header("referer", &format!("https://app.example/?api_key={CANARY}")));
        for query in [
            format!("api_key={CANARY}"),
            format!("API%5FKEY={CANARY}"),
            format!("a=1&access_token={CANARY}&b=2"),
            format!("token={CANARY}"),
            format!("key={CANARY}"),
            format!("sig={CANARY}"),
            format!("q={JWT}"),
            format!("q=%65yJ{}", JWT.trim_start_matches("eyJ")),
            JWT.to_owned(),
            format!("{JWT}=1"),
            format!("password={CANARY}"),
            format!("X-Amz-Algorithm=A&X-Amz-Credential={CANARY}&X-Amz-Date=1&X-Amz-Signature={CANARY}&x=1"),
            format!("client_secret={CANARY}"),
            format!("AWSAccessKeyId={CANARY}&Signature={CANARY}&Expires=1"),
            format!("my_github_token={CANARY}"),
            format!("cursor=https://u:{CANARY}@h/"),
        ] {
            cases.push(target(&format!("/p?{query}")));
        }
        for (what, parts) in cases {
            let stripped = strip(&parts);
            let after = applied(&parts, &stripped);
            assert!(!shown(&after).contains("canary"), "{what}: {}", shown(&after));
            assert!(!stripped.findings().is_empty(), "{what}");
            assert!(!format!("{stripped:?}").contains("canary"), "{what}: {stripped:?}");
            assert!(strip(&after).edits().is_empty() && strip(&after).findings().is_empty(), "{what}: not idempotent: {}", shown(&after));
        }
    }

    #[test]
    fn harmless_heads_stay_as_they_are() {
        let parts = head(
            "/v1/items?limit=10&pageToken=CAoQAA&cursor=eyJpZCI6MTAwMDAwMDB9&key=photos/2024/a.jpg&sort_key=name&q=a%20b&continuation-token=1ueGcxLPRx1Tr",
            &[
                ("host", "api.example.com"),
                (
                    "user-agent",
                    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
                ),
                ("accept", "application/vnd.github+json, text/html;q=0.9"),
                ("accept-language", "sk-SK,sk;q=0.9,en;q=0.8"),
                ("etag", "W/\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
                ("if-none-match", "\"bfc13a64729c4290ef5b2c2730249c88ca92d82d\""),
                ("idempotency-key", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
                ("x-request-id", "f058ebd6-02f7-4d3f-942e-904344e8cde5"),
                ("x-cache-key", "user:42:profile"),
                ("x-csrf-token", "fetch"),
                ("lock-token", "<opaquelocktoken:a515cfa4-5da4-22e1-f5b5-00a0451e6bf7>"),
                ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
                ("baggage", "userId=alice,serverNode=DF%2028,isProduction=false"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", "graphql-transport-ws, chat"),
                ("x-amz-content-sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
                ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
                ("content-md5", "Q2hlY2sgSW50ZWdyaXR5IQ=="),
                ("x-trace-bin", "AAABBBCCCDDDEEEFFF0123456789"),
                ("surrogate-key", "a8b9c0d1e2f3a4b5"),
            ],
        );
        let stripped = strip(&parts);
        assert!(stripped.findings().is_empty() && stripped.edits().is_empty(), "{stripped:?}");
        assert!(!stripped.edits().touches(&http::header::USER_AGENT));
    }

    #[test]
    fn what_stays_keeps_its_bytes_and_order() {
        let parts = head(
            "/a%2Fb//c?z=%20+&api_key=K&&a=b=c&token=T&e",
            &[
                ("cookie", "theme=dark;  sid=\"x y\""),
                ("cookie", "lang=en"),
                ("baggage", "k1=v1;p , secret=s,k2=v2"),
                ("x-keep", "a"),
                ("x-keep", "b"),
            ],
        );
        let rules = Rules::new(&StripOptions { keep: vec!["cookie:theme".into(), "cookie:lang".into()], also: Vec::new() }).unwrap();
        let stripped = examine(&parts, &rules, &key());
        let after = applied(&parts, &stripped);
        assert_eq!(after.uri.to_string(), "/a%2Fb//c?z=%20+&&a=b=c&e");
        assert_eq!(after.headers["cookie"], "theme=dark; lang=en");
        assert_eq!(after.headers["baggage"], "k1=v1;p, k2=v2");
        assert_eq!(after.headers.get_all("x-keep").iter().collect::<Vec<_>>(), ["a", "b"]);
        let places: Vec<(&str, bool)> = stripped.findings().iter().map(|finding| (&*finding.place, finding.kept)).collect();
        assert_eq!(
            places,
            [
                ("cookie:theme", true),
                ("cookie:sid", false),
                ("cookie:lang", true),
                ("baggage:secret", false),
                ("query:api_key", false),
                ("query:token", false)
            ]
        );
        let only = head("/p?api_key=K", &[]);
        assert_eq!(applied(&only, &strip(&only)).uri.to_string(), "/p");
    }

    #[test]
    fn exceptions_and_additions_are_the_upstreams() {
        let options =
            StripOptions { keep: vec!["x_api_key".into(), "query:token".into()], also: vec!["x-custom".into(), "query:who".into()] };
        let rules = Rules::new(&options).unwrap();
        let parts = head("/p?token=T&who=me", &[("x-api-key", "k"), ("x-custom", "v"), ("authorization", "Bearer x")]);
        let stripped = examine(&parts, &rules, &key());
        let after = applied(&parts, &stripped);
        assert_eq!((after.headers.len(), after.uri.to_string().as_str()), (1, "/p?token=T"));
        assert_eq!(stripped.findings().iter().filter(|finding| finding.kept).count(), 2);
    }

    /// What is known to hold nothing is known of its name and value, not of an upstream: another one's rules still take it.
    #[test]
    fn a_field_that_is_harmless_to_one_upstream_goes_where_another_says_so() {
        let parts =
            head("/p", &[("x-custom", "opaque-and-long-enough-for-any-shape"), ("x-plain", "opaque-and-long-enough-for-any-shape")]);
        let also = Rules::new(&StripOptions { keep: Vec::new(), also: vec!["x-custom".into()] }).unwrap();
        for _ in 0..2 {
            assert!(strip(&parts).edits().is_empty());
            let stripped = examine(&parts, &also, &key());
            assert_eq!(applied(&parts, &stripped).headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-plain"]);
            assert_eq!(&*stripped.findings()[0].place, "header:x-custom");
        }
        // The same value under a name that says what it is, and another value under the same name.
        for fields in [("x-custom-token", "opaque-and-long-enough-for-any-shape"), ("x-custom", JWT), ("x-plain", JWT)] {
            assert_eq!(strip(&head("/p", &[fields])).findings().len(), 1, "{fields:?}");
        }
    }

    #[test]
    fn kinds_and_fingerprints_follow_the_key_not_the_slot() {
        let parts = head(
            "/?api_key=sk-proj-abcdefghij0123456789",
            &[
                ("authorization", "Bearer sk-proj-abcdefghij0123456789"),
                ("x-api-key", "sk-proj-abcdefghij0123456789"),
                ("x-session-token", JWT),
                ("proxy-authorization", "Basic dTpw"),
            ],
        );
        let stripped = strip(&parts);
        let found = |place: &str| stripped.findings().iter().find(|finding| &*finding.place == place).unwrap();
        let same = found("header:authorization").fingerprint;
        assert_eq!((found("header:x-api-key").fingerprint, found("query:api_key").fingerprint), (same, same));
        assert_eq!(found("header:authorization").kind, Kind::ApiKey);
        assert_eq!(found("header:x-session-token").kind, Kind::Jwt);
        assert_eq!(found("header:proxy-authorization").kind, Kind::Basic);
        let signed = |signature: &str| {
            let value = format!(
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/r/s/aws4_request, SignedHeaders=host, Signature={signature}"
            );
            strip(&head("/", &[("authorization", &value)])).findings()[0].clone()
        };
        assert_eq!((signed("aa").kind, signed("aa").fingerprint), (Kind::Aws, signed("bb").fingerprint));
    }

    #[test]
    fn a_nomination_hides_nothing() {
        let parts = head("/", &[("connection", "x-api-key, authorization, close"), ("x-api-key", CANARY), ("authorization", CANARY)]);
        let after = applied(&parts, &strip(&parts));
        assert!(!shown(&after).contains("canary"));
    }

    #[test]
    fn userinfo_is_a_finding() {
        let stripped = strip(&head("http://user:pass@host.example/p", &[]));
        assert_eq!((&*stripped.findings()[0].place, stripped.findings()[0].kind), ("userinfo", Kind::Password));
    }

    #[test]
    fn trailers_are_judged_like_headers() {
        let parts = head(
            "/",
            &[("grpc-status", "0"), ("x-api-key", CANARY), ("x-checksum", "abc"), ("cookie", CANARY), ("x-any", JWT), ("te", CANARY)],
        );
        let (names, findings) = trailers(&parts.headers, &Rules::default(), &key());
        assert_eq!(names.iter().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-api-key", "cookie", "x-any", "te"]);
        assert_eq!(&*findings[0].place, "trailer:x-api-key");
    }

    #[test]
    fn names_in_findings_are_short_and_hold_no_credential() {
        let long = format!("/?{}_token=x&sk-proj-abcdefghij0123456789=1", "n".repeat(200));
        let stripped = strip(&head(&long, &[]));
        assert_eq!(stripped.findings()[0].place.len(), "query:".len() + 64);
        assert_eq!(&*stripped.findings()[1].place, "query:[redacted]");
        let crumbs = (0..500).map(|n| format!("c{n}=v")).collect::<Vec<_>>().join("; ");
        assert_eq!(strip(&head("/", &[("cookie", &crumbs)])).findings().len(), 64);
    }

    proptest! {
        #[test]
        fn planted_credentials_never_survive(
            plain in proptest::collection::vec(("x-[a-z]{1,8}", "[ -~]{0,40}"), 0..6),
            pairs in proptest::collection::vec("[a-z]{1,6}=[a-zA-Z0-9%._-]{0,12}", 0..5),
            slot in 0_usize..9,
            at in 0_usize..5,
        ) {
            let mut headers: Vec<(String, String)> = plain.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect();
            let mut pairs = pairs;
            let (name, value) = [
                ("authorization", format!("Bearer {CANARY}")), ("x_api_key", CANARY.into()), ("cookie", format!("a=b; s={CANARY}")),
                ("sec-websocket-protocol", format!("bearer.{CANARY}")), ("baggage", format!("password={CANARY}")), ("x-other", JWT.into()),
                ("proxy-authorization", CANARY.into()), ("x-tok-secret", CANARY.into()),
                ("query", format!("access_token={CANARY}")),
            ][slot].clone();
            if name == "query" {
                pairs.insert(at.min(pairs.len()), value);
            } else {
                headers.insert(at.min(headers.len()), (name.to_owned(), value));
            }
            let target = if pairs.is_empty() { "/p".to_owned() } else { format!("/p?{}", pairs.join("&")) };
            let list: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let parts = head(&target, &list);
            let stripped = strip(&parts);
            let after = applied(&parts, &stripped);
            prop_assert!(!shown(&after).contains("canary"), "{}", shown(&after));
            prop_assert!(strip(&after).edits().is_empty());
            // What is left of the query is a subsequence of its pairs, each byte for byte.
            if let Some(query) = after.uri.query() {
                let mut before = target.split_once('?').unwrap().1.split('&');
                for pair in query.split('&') {
                    prop_assert!(before.any(|old| old == pair), "{pair} of {target}");
                }
            }
        }

        #[test]
        fn any_bytes_are_examined_without_a_panic(value in proptest::collection::vec(32_u8..=255, 0..200), query in "[!-~]{0,80}") {
            let mut parts = head("/", &[]);
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in ["authorization", "cookie", "baggage", "sec-websocket-protocol", "x-any", "x-any-bin", "referer"] {
                    parts.headers.insert(name, value.clone());
                }
            }
            if let Ok(uri) = format!("/p?{query}").parse() {
                parts.uri = uri;
            }
            let stripped = strip(&parts);
            prop_assert!(strip(&applied(&parts, &stripped)).edits().is_empty());
        }
    }
}
