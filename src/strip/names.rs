//! Names that hold credentials. The tables are closed: what stands here is removed whatever its value, `_` counts as `-`, case does not
//! count, and an upstream's `strip: { keep, also }` are the exceptions. A name outside the tables is judged by its words, then by the
//! shape of its value.

use smallvec::SmallVec;

use super::finding::Kind;

/// What a header's name says of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The engine makes or checks it: it never leaves as the application wrote it.
    Inert,
    /// A well-known name without a credential's meaning: only the shape of its value counts.
    Plain,
    /// `Authorization` and its like: a scheme, then a credential.
    Authorization,
    /// A credential under its own name.
    Credential(Kind),
    /// Crumbs.
    Cookie,
    /// A list in which browsers' WebSocket clients send tokens.
    Subprotocols,
    /// W3C baggage: a list of members.
    Baggage,
    /// Not known.
    Unknown,
}

/// Classifies a header's name, which `http` keeps in lower case.
pub(super) fn classify(name: &[u8]) -> Class {
    if let Some(known) = exact(name) {
        return known;
    }
    if name.contains(&b'_') {
        let folded = fold(name);
        return match exact(&folded) {
            // The engine knows `keep-alive` and not `keep_alive`, which a lenient server may take for it: it leaves as nobody made it.
            Some(Class::Inert) => Class::Credential(Kind::Other),
            Some(known) => known,
            None => by_words(&folded),
        };
    }
    by_words(name)
}

fn by_words(name: &[u8]) -> Class {
    if suspicious(name) { Class::Credential(Kind::ApiKey) } else { Class::Unknown }
}

/// Lower case, with `-` for `_`: the form in which names are compared.
pub(super) fn fold(name: &[u8]) -> SmallVec<[u8; 64]> {
    let mut folded = SmallVec::<[u8; 64]>::from_slice(name);
    for byte in &mut folded {
        *byte = if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    }
    folded
}

/// What the table says of a name as it stands.
#[rustfmt::skip]
pub(super) fn exact(name: &[u8]) -> Option<Class> {
    Some(match name {
        b"host" | b"content-length" | b"transfer-encoding" | b"connection" | b"keep-alive" | b"proxy-connection" | b"te" | b"upgrade"
        | b"traceparent" | b":authority" => Class::Inert,

        b"accept" | b"accept-charset" | b"accept-encoding" | b"accept-language" | b"user-agent" | b"content-type" | b"content-encoding"
        | b"content-language" | b"content-disposition" | b"content-md5" | b"content-range" | b"content-digest" | b"cache-control" | b"pragma"
        | b"date" | b"etag" | b"if-match" | b"if-none-match" | b"if-modified-since" | b"if-unmodified-since" | b"if-range" | b"range"
        | b"last-modified" | b"referer" | b"origin" | b"via" | b"forwarded" | b"x-forwarded-for" | b"x-forwarded-host"
        | b"x-forwarded-proto" | b"x-request-id" | b"x-correlation-id" | b"idempotency-key" | b"x-idempotency-key" | b"tracestate"
        | b"priority" | b"dnt" | b"max-forwards" | b"sec-fetch-dest" | b"sec-fetch-mode" | b"sec-fetch-site" | b"sec-fetch-user"
        | b"sec-websocket-key" | b"sec-websocket-version" | b"sec-websocket-extensions" | b"upgrade-insecure-requests" | b"grpc-timeout"
        | b"grpc-encoding" | b"grpc-accept-encoding" | b"x-amz-date" | b"x-amz-content-sha256" | b"x-amz-target" | b"amz-sdk-request"
        | b"amz-sdk-invocation-id" | b"x-goog-api-client" | b"x-goog-user-project" | b"x-ms-version" | b"x-ms-date"
        | b"trailer" | b"expect" | b"x-ms-client-request-id" | b"x-github-api-version" | b"anthropic-version" | b"openai-organization" | b"stripe-version" => Class::Plain,

        b"authorization" | b"proxy-authorization" | b"x-authorization" | b"x-original-authorization" | b"x-forwarded-authorization"
        | b"x-serverless-authorization" | b"x-ms-copy-source-authorization" | b"x-ms-authorization-auxiliary" | b"authentication"
        | b"x-authentication" | b"authorisation" | b"auth" | b"x-auth" => Class::Authorization,

        b"cookie" => Class::Cookie,
        b"cookie2" => Class::Credential(Kind::Cookie),
        b"sec-websocket-protocol" => Class::Subprotocols,
        b"baggage" => Class::Baggage,

        b"jwt" | b"x-jwt" | b"x-jwt-assertion" | b"x-goog-iap-jwt-assertion" | b"cf-access-jwt-assertion" | b"x-amzn-oidc-data"
        | b"x-amzn-oidc-accesstoken" | b"workload-identity-token" | b"workload-proof-token" | b"txn-token" | b"dpop"
        | b"oauth-client-attestation" | b"oauth-client-attestation-pop" | b"x-endpoint-api-userinfo" | b"x-apigateway-api-userinfo" => Class::Credential(Kind::Jwt),

        b"x-amz-security-token" | b"x-amz-s3session-token" | b"x-aws-ec2-metadata-token" => Class::Credential(Kind::Aws),

        // The last three are no credentials: a server that honours them does another thing than was judged.
        b"x-wsse" | b"signature" | b"signature-input" | b"x-ssh-signature" | b"x-client-cert" | b"negotiate"
        | b"x-http-method-override" | b"x-http-method" | b"x-method-override" => Class::Credential(Kind::Other),

        b"password" | b"passwd" | b"x-password" | b"x-user-password" => Class::Credential(Kind::Password),

        b"api-key" | b"apikey" | b"x-api-key" | b"x-apikey" | b"api-token" | b"x-api-token" | b"x-api-secret" | b"x-api-auth"
        | b"access-token" | b"x-access-token" | b"auth-token" | b"x-auth-token" | b"x-auth-key" | b"x-token" | b"token" | b"secret"
        | b"x-secret" | b"client-secret" | b"x-client-secret" | b"private-token" | b"job-token" | b"deploy-token" | b"session-id"
        | b"x-session-id" | b"x-session" | b"session" | b"x-sessionid" | b"x-bearer" | b"bearer" | b"x-functions-key" | b"x-functions-clientid"
        | b"ocp-apim-subscription-key" | b"x-goog-api-key" | b"x-vault-token" | b"x-consul-token" | b"x-nomad-token"
        | b"x-shopify-access-token" | b"dd-api-key" | b"dd-application-key" | b"x-honeycomb-team" | b"x-license-key" | b"x-insert-key"
        | b"x-query-key" | b"x-rapidapi-key" | b"x-algolia-api-key" | b"x-mbx-apikey" | b"x-redlock-auth" | b"x-jfrog-art-api"
        | b"x-nuget-apikey" | b"circle-token" | b"x-trackertoken" | b"x-parse-master-key" | b"x-parse-rest-api-key" | b"x-plex-token"
        | b"x-sentry-auth" | b"xi-api-key" | b"x-subscription-token" | b"x-hasura-admin-secret" | b"x-pm-appkey" | b"x-app-key"
        | b"appkey" | b"app-key" | b"x-key" | b"x-auth-signature" | b"x-dropbox-api-key" | b"x-tfe-key" | b"x-okapi-token"
        | b"x-master-key" | b"x-service-key" | b"x-figma-key" | b"fastly-key" | b"x-etsy-key" | b"x-lc-key" | b"x-cg-pro-api-key"
        | b"x-cmc-pro-api-key" | b"x-bz-api-key" | b"x-user-key" | b"x-auth-user-token" => Class::Credential(Kind::ApiKey),

        _ => return None,
    })
}

/// Last words of names that page, lock or deduplicate and prove nothing, although they end in `token`.
const HARMLESS_TOKENS: &[&[u8]] = &[
    b"lock",
    b"continuation",
    b"page",
    b"next",
    b"sync",
    b"delta",
    b"csrf",
    b"xsrf",
    b"idempotency",
    b"client",
    b"request",
    b"cursor",
    b"pagination",
    b"start",
    b"resume",
    b"resumption",
    b"change",
    b"state",
    b"skip",
    b"offset",
    b"upload-part",
];

/// Endings of two words that name a credential.
const KEY_ENDINGS: &[&[u8]] = &[
    b"api-key",
    b"access-key",
    b"secret-key",
    b"private-key",
    b"auth-key",
    b"subscription-key",
    b"license-key",
    b"application-key",
    b"app-key",
    b"master-key",
    b"service-key",
    b"account-key",
    b"signing-key",
];

/// Whether the words of a folded name say that it holds a credential.
pub(super) fn suspicious(name: &[u8]) -> bool {
    let name = name.strip_suffix(b"-bin").unwrap_or(name);
    let name = trim_digits(name);
    // One pass over the words; most names of a head have two or three.
    if name.split(|byte| *byte == b'-').any(secret_word) {
        return true;
    }
    match name.last() {
        Some(b'n') => ends_in_token(name),
        Some(b'y') => KEY_ENDINGS.iter().any(|ending| is_ending(name, ending)),
        Some(_) | None => false,
    }
}

fn trim_digits(name: &[u8]) -> &[u8] {
    let kept = name.iter().rposition(|byte| !byte.is_ascii_digit() && *byte != b'-').map_or(0, |last| last + 1);
    name.get(..kept).unwrap_or_default()
}

fn secret_word(word: &[u8]) -> bool {
    match word.len() {
        3..=5 => matches!(word, b"jwt" | b"pwd" | b"creds"),
        6 => matches!(word, b"secret" | b"apikey" | b"passwd" | b"bearer"),
        7 => matches!(word, b"secrets"),
        8 => matches!(word, b"password" | b"apitoken" | b"passcode"),
        9 => matches!(word, b"authtoken" | b"accesskey" | b"secretkey" | b"passwords" | b"apisecret"),
        10..=13 => {
            matches!(
                word,
                b"credential" | b"credentials" | b"accesstoken" | b"clientsecret" | b"refreshtoken" | b"sessiontoken" | b"privatetoken"
            ) || word.starts_with(b"authorization")
                || word.starts_with(b"authorisation")
        }
        _ => word.starts_with(b"authorization") || word.starts_with(b"authorisation"),
    }
}

fn ends_in_token(name: &[u8]) -> bool {
    let Some(before) = name.strip_suffix(b"token") else { return false };
    match before.strip_suffix(b"-") {
        Some(rest) => !HARMLESS_TOKENS.iter().any(|word| is_ending(rest, word)),
        None => before.is_empty(),
    }
}

fn is_ending(name: &[u8], ending: &[u8]) -> bool {
    name.strip_suffix(ending).is_some_and(|before| before.is_empty() || before.ends_with(b"-"))
}

/// What a query key says of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryClass {
    /// A credential whatever its value.
    Credential(Kind),
    /// A credential if its value looks like one: the name has other uses.
    IfSecret,
    /// A signature if it is long enough to be one.
    IfLong,
    /// Part of a presigned URL: goes with its signature.
    Presigned,
    /// The signature of a presigned URL, or what names its key.
    Presigning,
    /// Nothing.
    Plain,
}

/// Classifies a folded query key.
#[rustfmt::skip]
pub(super) fn classify_query(key: &[u8]) -> QueryClass {
    match key {
        b"api-key" | b"apikey" | b"x-api-key" | b"api-token" | b"apitoken" | b"api-secret" | b"apisecret" | b"access-token" | b"accesstoken"
        | b"auth-token" | b"authtoken" | b"token" | b"auth" | b"bearer" | b"secret" | b"client-secret" | b"clientsecret"
        | b"client-assertion" | b"refresh-token" | b"refreshtoken" | b"private-token" | b"private-key" | b"session-token" | b"sessiontoken"
        | b"session-id" | b"sessionid" | b"jsessionid" | b"phpsessid" | b"access-key" | b"accesskey" | b"secret-key" | b"secretkey"
        | b"subscription-key" | b"subscriptionkey" | b"job-token" | b"oauth-token" | b"oauth-signature" | b"oauth-consumer-key"
        | b"x-functions-key" | b"credential" | b"credentials" | b"authorization" | b"x-vault-token" | b"sso-token" | b"accountkey"
        | b"sharedaccesskey" | b"appkey" => QueryClass::Credential(Kind::ApiKey),
        b"id-token" | b"idtoken" | b"jwt" | b"assertion" => QueryClass::Credential(Kind::Jwt),
        b"password" | b"passwd" | b"pwd" | b"pass" | b"passphrase" => QueryClass::Credential(Kind::Password),
        b"x-amz-signature" | b"x-amz-credential" | b"x-amz-security-token" | b"x-amz-s3session-token" | b"awsaccesskeyid" | b"x-goog-signature"
        | b"x-goog-credential" | b"googleaccessid" => QueryClass::Presigning,
        b"x-amz-algorithm" | b"x-amz-date" | b"x-amz-expires" | b"x-amz-signedheaders" | b"x-goog-algorithm" | b"x-goog-date"
        | b"x-goog-expires" | b"x-goog-signedheaders" => QueryClass::Presigned,
        b"sig" | b"signature" | b"hmac" => QueryClass::IfLong,
        b"key" | b"code" | b"sid" | b"appid" | b"ticket" | b"session" | b"access" | b"license" => QueryClass::IfSecret,
        _ if suspicious(key) => QueryClass::Credential(Kind::ApiKey),
        _ => QueryClass::Plain,
    }
}

/// WebSocket subprotocols that carry a credential behind a prefix, as browsers cannot set headers.
pub(super) const SUBPROTOCOL_PREFIXES: &[&[u8]] = &[
    b"base64url.bearer.authorization.",
    b"bearer.",
    b"authorization.",
    b"auth.",
    b"access_token.",
    b"access-token.",
    b"access_token-",
    b"token.",
    b"jwt.",
    b"api-key.",
    b"apikey.",
    b"openai-insecure-api-key.",
    b"x-api-key.",
    b"aws-bearer.",
    b"header-",
];

/// Subprotocols that say that the next element is a credential.
pub(super) const SUBPROTOCOL_MARKERS: &[&[u8]] =
    &[b"bearer", b"authorization", b"access_token", b"access-token", b"token", b"jwt", b"auth", b"api-key", b"apikey", b"x-api-key"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let credential = Class::Credential(Kind::ApiKey);
        for (name, class) in [
            ("authorization", Class::Authorization),
            ("x_api_key", credential),
            ("authorization2", credential),
            ("my-authorization-header", credential),
            ("x-acme-token", credential),
            ("x_acme_token", credential),
            ("x-acme-token-bin", credential),
            ("x-acme-token2", credential),
            ("acme-api-key", credential),
            ("x-db-password", credential),
            ("x-secret-thing", credential),
            ("x-vault-token", credential),
            ("cookie", Class::Cookie),
            ("host", Class::Inert),
            ("keep-alive", Class::Inert),
            ("keep_alive", Class::Credential(Kind::Other)),
            ("content_length", Class::Credential(Kind::Other)),
            ("x-http-method-override", Class::Credential(Kind::Other)),
            ("x_http_method", Class::Credential(Kind::Other)),
            ("trailer", Class::Plain),
            ("user-agent", Class::Plain),
            ("idempotency-key", Class::Plain),
            ("lock-token", Class::Unknown),
            ("x-csrf-token", Class::Unknown),
            ("x-ms-continuation-token", Class::Unknown),
            ("x-cache-key", Class::Unknown),
            ("x-amz-server-side-encryption-customer-key", Class::Unknown),
            ("x-tokens-used", Class::Unknown),
            ("x-partition-key", Class::Unknown),
            ("x-author", Class::Unknown),
            ("x-tokenizer", Class::Unknown),
        ] {
            assert_eq!(classify(name.as_bytes()), class, "{name}");
        }
    }

    #[test]
    fn query_keys_are_told_apart() {
        let credential = QueryClass::Credential(Kind::ApiKey);
        for (key, class) in [
            ("API_KEY", credential),
            ("apiKey", credential),
            ("accessToken", credential),
            ("github_token", credential),
            ("token", credential),
            ("X-Amz-Signature", QueryClass::Presigning),
            ("key", QueryClass::IfSecret),
            ("pageToken", QueryClass::Plain),
            ("page_token", QueryClass::Plain),
            ("continuation-token", QueryClass::Plain),
            ("NextToken", QueryClass::Plain),
            ("sort_key", QueryClass::Plain),
            ("max-keys", QueryClass::Plain),
            ("limit", QueryClass::Plain),
        ] {
            assert_eq!(classify_query(&fold(key.as_bytes())), class, "{key}");
        }
    }
}
