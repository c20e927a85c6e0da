//! Only one valid context is continued, and what goes on is always valid.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{Ids, Incoming, Sampler, TRACEPARENT, TRACESTATE};

/// Lines of a head, `p` or `s` in front for `traceparent` and `tracestate`.
pub fn trace(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(200) {
        let (name, value): (HeaderName, _) = match line.split_first() {
            Some((b'p', value)) => (TRACEPARENT, value),
            Some((b's', value)) => (TRACESTATE, value),
            Some(_) | None => continue,
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let mut ids = Ids::new();
    let incoming = Incoming::read(&headers, &mut ids, Sampler::AlwaysOn);
    let continued = continued(&headers);
    assert_eq!(incoming.ids.parent, continued.map(|(_, parent)| parent));
    assert!(continued.is_none_or(|(trace, _)| trace == incoming.ids.trace) && incoming.ids.trace != [0; 16] && incoming.ids.span != [0; 8]);
    assert!(continued.is_some() || !incoming.keep_state, "a state without its context goes nowhere");
    let mut after = headers.clone();
    incoming.edits([7; 8]).apply(&mut after);
    let sent: Vec<_> = after.get_all(TRACEPARENT).iter().collect();
    assert_eq!(sent.len(), 1);
    assert_eq!(parent(sent[0].as_bytes()), Some((incoming.ids.trace, [7; 8])), "{sent:?}");
    assert!(incoming.ids.sampled && sent[0].as_bytes().ends_with(b"-01"));
    let states = after.get_all(TRACESTATE).iter();
    let members: usize =
        states.map(|state| state.as_bytes().split(|byte| *byte == b',').filter(|member| !member.trim_ascii().is_empty()).count()).sum();
    assert!(members <= 32, "{members} members go on");
}

fn continued(headers: &HeaderMap) -> Option<([u8; 16], [u8; 8])> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    all.next().filter(|_| headers.get_all(TRACEPARENT).iter().count() == 1).and_then(|value| parent(value.as_bytes()))
}

/// The grammar of section 3.2, read by splitting.
fn parent(value: &[u8]) -> Option<([u8; 16], [u8; 8])> {
    let text = String::from_utf8_lossy(value);
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let [version, trace, span, flags, more @ ..] = &parts[..] else { return None };
    if !is_hex(version, 2) || *version == "ff" || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    if *version == "00" && !more.is_empty() {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?.to_be_bytes();
    let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?.to_be_bytes();
    Some((trace, span))
}
