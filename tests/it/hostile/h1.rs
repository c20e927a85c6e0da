//! The corpus of HTTP/1.1 heads: what proxies were broken with (request smuggling, host confusion, path and target tricks, obsolete
//! grammar), each with a name, and every byte that has no place in a part of a head.

use super::{Case, Fate};
use Fate::{Arrives, Refused, Unambiguous};

const PLAIN: &str = "GET {T} HTTP/1.1\r\nHost: {H}\r\n\r\n";
const SMUGGLED: &str = "GET /smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n";

/// Written out by hand: name, bytes, fate.
const WRITTEN: &[(&str, &str, Fate)] = &[
    // What must pass, so that the others mean something.
    ("plain-get", PLAIN, Arrives),
    ("plain-post", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 3\r\n\r\nabc", Arrives),
    ("plain-chunked", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Arrives),
    ("plain-lower-host", "GET {T} HTTP/1.1\r\nhost:{H}\r\n\r\n", Arrives),
    ("plain-query", "GET {T}?a=1&b=%20;c HTTP/1.1\r\nHost: {H}\r\n\r\n", Arrives),
    ("forward-absolute", "GET http://{H}{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Arrives),
    ("route-any-host", "GET {T} HTTP/1.1\r\nHost: any.test\r\n\r\n", Arrives),
    // Framing.
    ("cl-te", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", Refused),
    (
        "te-cl",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n8\r\nSMUGGLED\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "cl-te-smuggle",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n",
        Refused,
    ),
    ("cl-twice-equal", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", Unambiguous),
    ("cl-twice-different", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", Refused),
    ("cl-list-equal", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 3, 3\r\n\r\nabc", Unambiguous),
    ("cl-list-different", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 3, 4\r\n\r\nabcd", Refused),
    ("cl-plus", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: +3\r\n\r\nabc", Refused),
    ("cl-minus", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: -1\r\n\r\nabc", Refused),
    ("cl-hex", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 0x3\r\n\r\nabc", Refused),
    ("cl-exponent", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 3e0\r\n\r\nabc", Refused),
    ("cl-empty", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: \r\n\r\nabc", Refused),
    ("cl-space-inside", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 1 2\r\n\r\nabcdefghijkl", Refused),
    ("cl-2-64", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 18446744073709551616\r\n\r\nabc", Refused),
    ("cl-2-64-plus-3", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 18446744073709551619\r\n\r\nabc", Refused),
    ("cl-leading-zeros", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 0003\r\n\r\nabc", Unambiguous),
    ("cl-underscore", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent_Length: 3\r\nContent-Length: 3\r\n\r\nabc", Unambiguous),
    ("cl-vertical-tab", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length:\x0b3\r\n\r\nabc", Refused),
    (
        "get-with-body",
        "GET {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 44\r\n\r\nGET /smuggled/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        Unambiguous,
    ),
    (
        "te-identity",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: identity\r\n\r\nGET /smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n",
        Refused,
    ),
    ("te-gzip-chunked", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused),
    ("te-chunked-gzip", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", Refused),
    ("te-chunked-chunked", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused),
    ("te-chunked-comma", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", Refused),
    ("te-comma-chunked", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", Refused),
    ("te-xchunked", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused),
    ("te-chunkedx", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", Refused),
    ("te-quoted", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused),
    ("te-parameter", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", Refused),
    ("te-upper", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Unambiguous),
    ("te-twice", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    (
        "te-twice-identity",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("te-tab", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", Unambiguous),
    ("te-vertical-tab", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", Refused),
    ("te-space-colon", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused),
    ("te-folded", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Refused),
    ("te-underscore", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", Unambiguous),
    ("te-on-1.0", "POST {T} HTTP/1.0\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("te-cl-on-1.0", "POST {T} HTTP/1.0\r\nHost: {H}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", Refused),
    ("te-empty", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding:\r\n\r\nGET /smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("te-accent", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunk\u{e9}d\r\n\r\n0\r\n\r\n", Refused),
    (
        "te-nominated",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Unambiguous,
    ),
    ("cl-nominated", "POST {T} HTTP/1.1\r\nHost: {H}\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc", Unambiguous),
    // Chunks.
    ("chunk-size-0x", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Unambiguous),
    ("chunk-size-plus", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", Unambiguous),
    ("chunk-size-minus", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", Unambiguous),
    (
        "chunk-size-overflow",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
        Unambiguous,
    ),
    ("chunk-size-empty", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", Unambiguous),
    ("chunk-space-before", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", Unambiguous),
    ("chunk-space-after", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", Unambiguous),
    ("chunk-lf", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", Unambiguous),
    ("chunk-data-too-long", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n", Unambiguous),
    ("chunk-data-no-end", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc0\r\n\r\n", Unambiguous),
    ("chunk-extension", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", Unambiguous),
    ("chunk-extension-lf", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nx\r\nabc\r\n0\r\n\r\n", Unambiguous),
    ("chunk-extension-cr", "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3;a\rx\r\nabc\r\n0\r\n\r\n", Unambiguous),
    (
        "chunk-trailer-length",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
        Unambiguous,
    ),
    (
        "chunk-trailer-secret",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
        Unambiguous,
    ),
    (
        "chunk-trailer-broken",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nno colon\r\n\r\n",
        Unambiguous,
    ),
    (
        "chunk-then-request",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n",
        Unambiguous,
    ),
    // Host.
    ("host-missing", "GET {T} HTTP/1.1\r\n\r\n", Refused),
    ("host-twice", "GET {T} HTTP/1.1\r\nHost: {H}\r\nHost: {H}\r\n\r\n", Refused),
    ("host-twice-different", "GET {T} HTTP/1.1\r\nHost: {H}\r\nHost: other.test\r\n\r\n", Refused),
    ("host-list", "GET {T} HTTP/1.1\r\nHost: {H}, other.test\r\n\r\n", Refused),
    ("host-list-equal", "GET {T} HTTP/1.1\r\nHost: {H},{H}\r\n\r\n", Refused),
    ("host-userinfo", "GET {T} HTTP/1.1\r\nHost: user@{H}\r\n\r\n", Refused),
    ("host-userinfo-password", "GET {T} HTTP/1.1\r\nHost: user:pass@{H}\r\n\r\n", Refused),
    ("host-path", "GET {T} HTTP/1.1\r\nHost: {H}/path\r\n\r\n", Refused),
    ("host-query", "GET {T} HTTP/1.1\r\nHost: {H}?x\r\n\r\n", Refused),
    ("host-fragment", "GET {T} HTTP/1.1\r\nHost: {H}#x\r\n\r\n", Refused),
    ("host-backslash", "GET {T} HTTP/1.1\r\nHost: {H}\\other.test\r\n\r\n", Refused),
    ("host-empty", "GET {T} HTTP/1.1\r\nHost: \r\n\r\n", Refused),
    ("host-space", "GET {T} HTTP/1.1\r\nHost: local host\r\n\r\n", Refused),
    ("host-port-zero", "GET {T} HTTP/1.1\r\nHost: localhost:0\r\n\r\n", Refused),
    ("host-port-big", "GET {T} HTTP/1.1\r\nHost: localhost:65536\r\n\r\n", Refused),
    ("host-port-letters", "GET {T} HTTP/1.1\r\nHost: localhost:http\r\n\r\n", Refused),
    ("host-port-empty", "GET {T} HTTP/1.1\r\nHost: localhost:\r\n\r\n", Refused),
    ("host-port-plus", "GET {T} HTTP/1.1\r\nHost: localhost:+80\r\n\r\n", Refused),
    ("host-two-ports", "GET {T} HTTP/1.1\r\nHost: {H}:80\r\n\r\n", Refused),
    ("host-scheme", "GET {T} HTTP/1.1\r\nHost: http://{H}\r\n\r\n", Refused),
    ("host-percent", "GET {T} HTTP/1.1\r\nHost: local%68ost\r\n\r\n", Refused),
    ("host-brackets", "GET {T} HTTP/1.1\r\nHost: [localhost]\r\n\r\n", Refused),
    ("host-open-bracket", "GET {T} HTTP/1.1\r\nHost: [::1\r\n\r\n", Refused),
    ("host-zone", "GET {T} HTTP/1.1\r\nHost: [fe80::1%25lo]\r\n\r\n", Refused),
    ("host-wide", "GET {T} HTTP/1.1\r\nHost: \u{ff4c}ocalhost\r\n\r\n", Refused),
    ("host-underscore-name", "GET {T} HTTP/1.1\r\nHost: {H}\r\nH_ost: other.test\r\n\r\n", Unambiguous),
    ("host-space-colon", "GET {T} HTTP/1.1\r\nHost : {H}\r\n\r\n", Refused),
    ("host-folded", "GET {T} HTTP/1.1\r\nHost:\r\n {H}\r\n\r\n", Refused),
    ("host-first-folded", "GET {T} HTTP/1.1\r\n Host: {H}\r\n\r\n", Refused),
    ("host-tab-first", "GET {T} HTTP/1.1\r\n\tHost: other.test\r\nHost: {H}\r\n\r\n", Refused),
    ("host-nominated", "GET {T} HTTP/1.1\r\nHost: {H}\r\nConnection: host\r\n\r\n", Unambiguous),
    ("host-dot", "GET {T} HTTP/1.1\r\nHost: .\r\n\r\n", Refused),
    ("host-decimal", "GET {T} HTTP/1.1\r\nHost: 2130706433\r\n\r\n", Refused),
    ("host-octal", "GET {T} HTTP/1.1\r\nHost: 0177.0.0.1\r\n\r\n", Refused),
    ("host-hex", "GET {T} HTTP/1.1\r\nHost: 0x7f000001\r\n\r\n", Refused),
    ("host-short", "GET {T} HTTP/1.1\r\nHost: 127.1\r\n\r\n", Refused),
    ("forwarded-host", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX-Forwarded-Host: other.test\r\nForwarded: host=other.test\r\n\r\n", Unambiguous),
    // Request line.
    ("http-0.9", "GET {T}\r\n", Refused),
    ("http-0.9-lf", "GET {T}\n", Refused),
    ("version-1.0-no-host", "GET {T} HTTP/1.0\r\n\r\n", Refused),
    ("version-1.0-host", "GET {T} HTTP/1.0\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("version-1.2", "GET {T} HTTP/1.2\r\nHost: {H}\r\n\r\n", Refused),
    ("version-2.0", "GET {T} HTTP/2.0\r\nHost: {H}\r\n\r\n", Refused),
    ("version-lower", "GET {T} http/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("version-01.1", "GET {T} HTTP/01.1\r\nHost: {H}\r\n\r\n", Refused),
    ("version-1.10", "GET {T} HTTP/1.10\r\nHost: {H}\r\n\r\n", Refused),
    ("version-space", "GET {T} HTTP /1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("version-missing", "GET {T}\r\nHost: {H}\r\n\r\n", Refused),
    ("version-icy", "GET {T} ICY/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("line-two-spaces", "GET  {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("line-tab", "GET\t{T}\tHTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("line-space-before", " GET {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("line-space-after", "GET {T} HTTP/1.1 \r\nHost: {H}\r\n\r\n", Refused),
    ("line-extra-word", "GET {T} x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("line-two-versions", "GET {T} HTTP/1.1 HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("line-empty-target", "GET  HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("line-crlf-before", "\r\n\r\nGET {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("method-lower", "get {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("method-unknown", "BREW {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("method-slash", "GE/T {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("method-empty", " {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("method-connect", "CONNECT {H} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("method-connect-path", "CONNECT {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("method-pri", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Refused),
    ("method-trace", "TRACE {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("method-track", "TRACK {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("method-override", "POST {T} HTTP/1.1\r\nHost: {H}\r\nX-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n", Unambiguous),
    // Target.
    ("target-fragment", "GET {T}#frag HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-no-slash", "GET x{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-star-get", "GET * HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-double-slash", "GET //h/target-double-slash HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("target-authority-in-path", "GET //other.test{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("target-absolute-on-host", "GET http://other.test{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-absolute-ftp", "GET ftp://{H}{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-authority-form", "GET {H} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-dots-to-denied", "GET /h/../smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-coded-dots-to-denied", "GET /h/%2e%2e/smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-coded-slash-to-denied", "GET /h/..%2fsmuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-twice-coded-to-denied", "GET /h/%252e%252e/smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-backslash-to-denied", "GET /h/..\\smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-coded-backslash-to-denied", "GET /h/..%5csmuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-slashes-to-denied", "GET //smuggled//x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-coded-letter-to-denied", "GET /%73muggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-matrix-to-denied", "GET /smuggled;v=1/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-matrix-dots-to-denied", "GET /h/..;/smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("target-coded-nul", "GET {T}%00/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("target-bad-percent", "GET {T}/%zz HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("target-cut-percent", "GET {T}/% HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("target-overlong-utf8", "GET {T}/%c0%ae%c0%ae/smuggled HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("target-userinfo", "GET http://u:p@{H}{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("forward-userinfo-host", "GET http://{H}@other.test{T} HTTP/1.1\r\nHost: other.test\r\n\r\n", Refused),
    ("forward-host-differs", "GET http://{H}{T} HTTP/1.1\r\nHost: other.test\r\n\r\n", Refused),
    ("forward-host-missing", "GET http://{H}{T} HTTP/1.1\r\n\r\n", Refused),
    ("forward-origin-form", "GET {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("forward-no-scheme", "GET {H}{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("forward-upper-scheme", "GET HTTP://{H}{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("forward-no-path", "GET http://{H} HTTP/1.1\r\nHost: {H}\r\n\r\n", Unambiguous),
    ("forward-backslash", "GET http:\\\\{H}{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("forward-one-slash", "GET http:/{H}{T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("forward-fragment", "GET http://{H}{T}#x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("forward-connect-no-port", "CONNECT localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused),
    ("forward-connect-scheme", "CONNECT http://{H} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("forward-connect-userinfo", "CONNECT user@{H} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("forward-connect-length", "CONNECT {H} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("forward-connect-chunked", "CONNECT {H} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("forward-connect-path", "CONNECT {H}/x HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("forward-connect-host-differs", "CONNECT {H} HTTP/1.1\r\nHost: other.test:443\r\n\r\n", Refused),
    ("route-absolute-other", "GET http://other.test{T} HTTP/1.1\r\nHost: other.test\r\n\r\n", Unambiguous),
    ("route-connect", "CONNECT {H} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("route-host-missing", "GET {T} HTTP/1.1\r\n\r\n", Refused),
    // Line ends.
    ("lf-all", "GET {T} HTTP/1.1\nHost: {H}\n\n", Refused),
    ("lf-request-line", "GET {T} HTTP/1.1\nHost: {H}\r\n\r\n", Refused),
    ("lf-field", "GET {T} HTTP/1.1\r\nHost: {H}\nX: y\r\n\r\n", Refused),
    ("lf-end", "GET {T} HTTP/1.1\r\nHost: {H}\r\n\n", Refused),
    ("lf-crlf-end", "GET {T} HTTP/1.1\r\nHost: {H}\n\r\n", Refused),
    ("lf-smuggle", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX: a\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", Refused),
    ("cr-only", "GET {T} HTTP/1.1\rHost: {H}\r\r", Refused),
    ("cr-in-line", "GET {T}\rx HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("cr-cr-lf", "GET {T} HTTP/1.1\r\r\nHost: {H}\r\n\r\n", Refused),
    ("fold-space", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX: a\r\n b\r\n\r\n", Refused),
    ("fold-tab", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX: a\r\n\tb\r\n\r\n", Refused),
    ("fold-empty", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX: a\r\n \r\n\r\n", Refused),
    ("fold-authorization", "GET {T} HTTP/1.1\r\nHost: {H}\r\nAuthorization: Bearer\r\n static-token\r\n\r\n", Refused),
    // Fields.
    ("field-no-colon", "GET {T} HTTP/1.1\r\nHost: {H}\r\nnocolon\r\n\r\n", Refused),
    ("field-empty-name", "GET {T} HTTP/1.1\r\nHost: {H}\r\n: value\r\n\r\n", Refused),
    ("field-space-name", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX Y: value\r\n\r\n", Refused),
    ("field-tab-colon", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX\t: value\r\n\r\n", Refused),
    ("field-empty-value", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX:\r\n\r\n", Arrives),
    ("field-utf8-value", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX: gr\u{fc}n\r\n\r\n", Unambiguous),
    ("field-utf8-name", "GET {T} HTTP/1.1\r\nHost: {H}\r\nX-\u{fc}: v\r\n\r\n", Refused),
    (
        "connection-nominates-auth",
        "GET {T} HTTP/1.1\r\nHost: {H}\r\nConnection: authorization\r\nAuthorization: Bearer x\r\n\r\n",
        Unambiguous,
    ),
    ("connection-nominates-trace", "GET {T} HTTP/1.1\r\nHost: {H}\r\nConnection: traceparent, x-request-id\r\n\r\n", Unambiguous),
    (
        "connection-nominates-many",
        "GET {T} HTTP/1.1\r\nHost: {H}\r\nConnection: close, authorization, host, content-length\r\n\r\n",
        Unambiguous,
    ),
    ("connection-garbage", "GET {T} HTTP/1.1\r\nHost: {H}\r\nConnection: ;;;\r\n\r\n", Unambiguous),
    ("proxy-connection", "GET {T} HTTP/1.1\r\nHost: {H}\r\nProxy-Connection: x-api-key\r\nX-Api-Key: k\r\n\r\n", Unambiguous),
    (
        "upgrade-h2c",
        "GET {T} HTTP/1.1\r\nHost: {H}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        Unambiguous,
    ),
    ("upgrade-unknown", "GET {T} HTTP/1.1\r\nHost: {H}\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n", Unambiguous),
    ("upgrade-no-connection", "GET {T} HTTP/1.1\r\nHost: {H}\r\nUpgrade: websocket\r\n\r\n", Unambiguous),
    (
        "upgrade-with-body",
        "POST {T} HTTP/1.1\r\nHost: {H}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 40\r\n\r\nGET /smuggled/x HTTP/1.1\r\nHost: {H}\r\n\r\n",
        Unambiguous,
    ),
    ("expect-unknown", "POST {T} HTTP/1.1\r\nHost: {H}\r\nExpect: 200-ok\r\nContent-Length: 3\r\n\r\nabc", Unambiguous),
    ("expect-smuggle", "GET {T} HTTP/1.1\r\nHost: {H}\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", Unambiguous),
    ("max-forwards", "OPTIONS {T} HTTP/1.1\r\nHost: {H}\r\nMax-Forwards: 0\r\n\r\n", Unambiguous),
    ("range-many", "GET {T} HTTP/1.1\r\nHost: {H}\r\nRange: bytes=0-1,0-1,0-1,0-1\r\n\r\n", Unambiguous),
    // Not HTTP at all.
    ("noise-tls", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03", Refused),
    ("noise-ssh", "SSH-2.0-OpenSSH_9.2\r\n", Refused),
    ("noise-smtp", "EHLO it.test\r\nMAIL FROM:<a@b>\r\n", Refused),
    ("noise-proxy-v1", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET {T} HTTP/1.1\r\nHost: {H}\r\n\r\n", Refused),
    ("noise-socks", "\x05\x01\x00", Refused),
    ("noise-empty-lines", "\r\n\r\n\r\n\r\n", Refused),
    ("noise-nuls", "\0\0\0\0\0\0\0\0", Refused),
    ("half-head", "GET {T} HTTP/1.1\r\nHost: {H}\r\n", Refused),
    ("half-body", "POST {T} HTTP/1.1\r\nHost: {H}\r\nContent-Length: 10\r\n\r\nabc", Unambiguous),
];

/// The written cases and the generated ones.
pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        WRITTEN.iter().map(|(name, text, fate)| Case { name: (*name).to_owned(), bytes: text.as_bytes().to_vec(), fate: *fate }).collect();
    // Every byte that no token holds, in a method and in a field name.
    for byte in (0..=255_u8).filter(|byte| !crate::harness::h1::is_token(&[*byte])) {
        let slot = |template: &str| {
            let (before, after) = template.split_once('~').expect("a slot");
            [before.as_bytes(), &[byte], after.as_bytes()].concat()
        };
        if byte < 0x20 || byte == 0x7f {
            cases.push(Case {
                name: format!("method-byte-{byte:02x}"),
                bytes: slot("G~T {T} HTTP/1.1\r\nHost: {H}\r\n\r\n"),
                fate: Refused,
            });
            cases.push(Case {
                name: format!("target-byte-{byte:02x}"),
                bytes: slot("GET {T}/~x HTTP/1.1\r\nHost: {H}\r\n\r\n"),
                fate: Refused,
            });
            if byte != b'\t' {
                cases.push(Case {
                    name: format!("value-byte-{byte:02x}"),
                    bytes: slot("GET {T} HTTP/1.1\r\nHost: {H}\r\nX: a~b\r\n\r\n"),
                    fate: Refused,
                });
                cases.push(Case {
                    name: format!("value-end-byte-{byte:02x}"),
                    bytes: slot("GET {T} HTTP/1.1\r\nHost: {H}~\r\n\r\n"),
                    fate: Refused,
                });
            }
        }
        // A colon ends the name; it is no stranger there.
        if byte != b':' {
            cases.push(Case {
                name: format!("name-byte-{byte:02x}"),
                bytes: slot("GET {T} HTTP/1.1\r\nHost: {H}\r\nX~Y: a\r\n\r\n"),
                fate: Refused,
            });
        }
    }
    for (name, count, size) in [("fields-101", 101, 1), ("fields-1000", 1000, 1), ("field-70k", 1, 70_000), ("field-1m", 1, 1 << 20)] {
        let fields: String = (0..count).map(|at| format!("X-{at}: {}\r\n", "v".repeat(size))).collect();
        cases.push(Case {
            name: name.to_owned(),
            bytes: format!("GET {{T}} HTTP/1.1\r\nHost: {{H}}\r\n{fields}\r\n").into_bytes(),
            fate: Refused,
        });
    }
    cases.push(Case {
        name: "target-70k".to_owned(),
        bytes: format!("GET {{T}}/{} HTTP/1.1\r\nHost: {{H}}\r\n\r\n", "x".repeat(70_000)).into_bytes(),
        fate: Refused,
    });
    cases.push(Case {
        name: "method-70k".to_owned(),
        bytes: format!("{} {{T}} HTTP/1.1\r\nHost: {{H}}\r\n\r\n", "M".repeat(70_000)).into_bytes(),
        fate: Refused,
    });
    // Behind each refusal the rest of the connection is not read as requests.
    for (name, head) in [
        ("bad-then-good-cl-te", "POST /x HTTP/1.1\r\nHost: {H}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("bad-then-good-lf", "GET /x HTTP/1.1\nHost: {H}\n\n"),
    ] {
        cases.push(Case {
            name: name.to_owned(),
            bytes: [head, &PLAIN.replace("{T}", &format!("/h/{name}")), SMUGGLED].concat().into_bytes(),
            fate: Refused,
        });
    }
    cases
}
