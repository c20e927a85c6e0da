//! W3C Trace Context (Level 1, REC 2021-11-23): the caller's trace is continued under a span of our own; its sampled flag is not ours.
//!
//! Ids are no secrets: they come from a small generator per worker, seeded from [`random`](crate::secret::random).

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::audit::{TraceIds, hex_pair};
use crate::edits::Edits;
use crate::secret::random;

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Members of a `tracestate` that may pass (section 3.3.1.1).
const MEMBERS: usize = 32;
/// Bytes of all `tracestate` fields together that may pass: members are at most 32 of 512 bytes and a comma.
const STATE_BYTES: usize = MEMBERS * 513;
/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const LENGTH: usize = 55;

/// Makes trace, span and request ids: one per worker, no lock (xoshiro256++). Not for anything that must not be guessed.
#[derive(Debug, Clone)]
pub struct Ids([u64; 4]);

impl Ids {
    /// Seeded from the operating system.
    #[must_use]
    pub fn new() -> Self {
        let mut state = [0; 4];
        for word in &mut state {
            let mut seed = [0; 8];
            random(&mut seed);
            // Four zero words would stay zero for ever.
            *word = u64::from_le_bytes(seed) | 1;
        }
        Self(state)
    }

    const fn next(&mut self) -> u64 {
        let [mut a, mut b, mut c, mut d] = self.0;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let shifted = b << 17;
        c ^= a;
        d ^= b;
        b ^= c;
        a ^= d;
        c ^= shifted;
        self.0 = [a, b, c, d.rotate_left(45)];
        result
    }

    /// A trace id that is not zero.
    pub const fn trace(&mut self) -> [u8; 16] {
        self.request().to_be_bytes()
    }

    /// A span id that is not zero.
    pub const fn span(&mut self) -> [u8; 8] {
        let id = self.next();
        (if id == 0 { 1 } else { id }).to_be_bytes()
    }

    /// A request id that is not zero.
    pub const fn request(&mut self) -> u128 {
        let id = ((self.next() as u128) << 64) | self.next() as u128;
        if id == 0 { 1 } else { id }
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::new()
    }
}

/// Which passages give spans. Audit is never sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampler {
    /// Every one.
    #[default]
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// Those whose trace id falls below the bound, so that every service with the same ratio keeps the same traces.
    Ratio(Bound),
    /// The caller's flag decides; a trace that begins here is judged by this bound.
    Parent(Bound),
}

/// A part of all traces, as a bound on the low 63 bits of the trace id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(u64);

impl Bound {
    /// From 0 (none) to 1 (all); what lies outside counts as the nearer end, and what is no number as all.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "clamped; the last bit of 63 is no matter"
    )]
    pub fn of(part: f64) -> Self {
        const ALL: u64 = 1 << 63;
        if part >= 1.0 || part.is_nan() { Self(ALL) } else { Self((part.max(0.0) * ALL as f64) as u64) }
    }

    fn holds(self, trace: [u8; 16]) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let low = u128::from_be_bytes(trace) as u64;
        (low >> 1) < self.0
    }
}

impl Sampler {
    /// This part of all traces, from 0 to 1, whatever the caller's flag says.
    #[must_use]
    pub fn of(part: f64) -> Self {
        Self::Ratio(Bound::of(part))
    }

    /// Whether this trace gives spans. `caller` is the caller's sampled flag, where it sent a valid context.
    #[must_use]
    pub fn keeps(self, trace: [u8; 16], caller: Option<bool>) -> bool {
        match self {
            Self::AlwaysOn => true,
            Self::AlwaysOff => false,
            Self::Ratio(bound) => bound.holds(trace),
            Self::Parent(bound) => caller.unwrap_or_else(|| bound.holds(trace)),
        }
    }
}

/// What a request head says of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// The passage's ids: continued or begun.
    pub ids: TraceIds,
    /// The caller's `tracestate` may go on.
    pub keep_state: bool,
}

impl Incoming {
    /// Reads a head. Anything but exactly one valid `traceparent` begins a new trace, and its `tracestate` does not go on.
    pub fn read(headers: &HeaderMap, ids: &mut Ids, sampler: Sampler) -> Self {
        let span = ids.span();
        let Some(caller) = parent(headers) else {
            let trace = ids.trace();
            return Self { ids: TraceIds { trace, span, parent: None, sampled: sampler.keeps(trace, None) }, keep_state: false };
        };
        let kept = sampler.keeps(caller.trace, Some(caller.sampled));
        let ids = TraceIds { trace: caller.trace, span, parent: Some(caller.span), sampled: kept };
        Self { ids, keep_state: state_is_sound(headers) }
    }

    /// The changes that carry the trace on to the upstream under this attempt's span.
    #[must_use]
    pub fn edits(&self, span: [u8; 8]) -> Edits {
        let mut edits = Edits::default();
        edits.set(TRACEPARENT, traceparent(&self.ids, span));
        if !self.keep_state {
            edits.remove(TRACESTATE);
        }
        edits
    }
}

/// `traceparent` for one attempt: version 00, the passage's trace, that attempt's span, our sampler's flag.
#[must_use]
pub fn traceparent(ids: &TraceIds, span: [u8; 8]) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    if let Some(trace) = text.get_mut(3..35) {
        trace.copy_from_slice(ids.trace.map(hex_pair).as_flattened());
    }
    if let Some(under) = text.get_mut(36..52) {
        under.copy_from_slice(span.map(hex_pair).as_flattened());
    }
    if let Some(flag) = text.last_mut() {
        *flag += u8::from(ids.sampled);
    }
    // Hex digits and dashes always make a header value.
    let value = HeaderValue::from_bytes(&text);
    let mut value = value.unwrap_or(HeaderValue::from_static("00-00000000000000000000000000000001-0000000000000001-00"));
    // No other request has it: over HTTP/2 it would only push out of the compression's table what does recur (RFC 7541 section 6.2.3).
    value.set_sensitive(true);
    value
}

struct Caller {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
}

/// Section 3.2: one field, version not `ff`, lower-case hex, ids not zero. A later version may be longer, behind a dash.
fn parent(headers: &HeaderMap) -> Option<Caller> {
    // Most callers send none, which is seen without hashing its name.
    headers.keys().find(|name| **name == TRACEPARENT)?;
    let mut fields = headers.get_all(&TRACEPARENT).iter();
    let text = fields.next()?.as_bytes();
    if fields.next().is_some() {
        return None;
    }
    let [version] = hex(text.get(0..2)?)?;
    let fits = match version {
        0 => text.len() == LENGTH,
        0xff => false,
        1..=0xfe => text.len() == LENGTH || text.get(LENGTH) == Some(&b'-'),
    };
    let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
    let trace: [u8; 16] = hex(text.get(3..35)?)?;
    let span: [u8; 8] = hex(text.get(36..52)?)?;
    let [flags] = hex(text.get(53..LENGTH)?)?;
    (fits && dashes && trace != [0; 16] && span != [0; 8]).then_some(Caller { trace, span, sampled: flags & 1 == 1 })
}

/// Lower-case hex of exactly N bytes.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let pairs = text.chunks_exact(2);
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair else { return None };
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(bytes)
}

/// Section 3.3.1: at most 32 members over all fields, bytes of visible ASCII and tabs only. What the members say is not ours to read.
fn state_is_sound(headers: &HeaderMap) -> bool {
    let (mut members, mut bytes) = (0, 0);
    for field in headers.get_all(&TRACESTATE) {
        bytes += field.len();
        if !field.as_bytes().iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e)) {
            return false;
        }
        members += field.as_bytes().split(|byte| *byte == b',').filter(|member| !member.trim_ascii().is_empty()).count();
    }
    members <= MEMBERS && bytes <= STATE_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn read(fields: &[(&str, &str)]) -> Incoming {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Incoming::read(&headers, &mut Ids::new(), Sampler::AlwaysOn)
    }

    #[test]
    fn a_valid_context_is_continued_under_a_new_span() {
        for text in [format!("00-{TRACE}-{SPAN}-00"), format!("00-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-01-what-comes")] {
            let read = read(&[("traceparent", &text), ("tracestate", "a=1,b=2")]);
            assert_eq!(read.ids.parent, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]), "{text}");
            assert!(read.keep_state && read.ids.sampled, "the caller's flag does not switch us off");
            let out = read.edits([1; 8]);
            assert_eq!(out.value_of(&TRACEPARENT).unwrap(), &format!("00-{TRACE}-0101010101010101-01"));
            assert!(!out.touches(&TRACESTATE));
        }
    }

    #[test]
    fn anything_else_begins_a_new_trace_and_drops_the_state() {
        let (zero_trace, zero_span) = ("0".repeat(32), "0".repeat(16));
        for text in [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zero_trace}-{SPAN}-01"),
            format!("00-{TRACE}-{zero_span}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
        ] {
            let read = read(&[("traceparent", &text), ("tracestate", "a=1")]);
            assert_eq!((read.ids.parent, read.keep_state), (None, false), "{text}");
            assert!(read.edits([1; 8]).touches(&TRACESTATE));
        }
        let one = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(read(&[("traceparent", &one), ("traceparent", &one)]).ids.parent, None, "two are none");
    }

    #[test]
    fn state_is_kept_up_to_32_members() {
        let one = format!("00-{TRACE}-{SPAN}-01");
        let members = |n: usize| (0..n).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert!(read(&[("traceparent", &one), ("tracestate", &members(32))]).keep_state);
        assert!(!read(&[("traceparent", &one), ("tracestate", &members(33))]).keep_state);
        assert!(!read(&[("traceparent", &one), ("tracestate", &members(30)), ("tracestate", "a=1,b=2,c=3")]).keep_state);
    }

    #[test]
    fn samplers_keep_their_part() {
        let mut ids = Ids::new();
        let traces: Vec<_> = (0..4_000).map(|_| ids.trace()).collect();
        let kept = |sampler: Sampler, caller| traces.iter().filter(|trace| sampler.keeps(**trace, caller)).count();
        assert_eq!(kept(Sampler::AlwaysOn, Some(false)), 4_000);
        assert_eq!(kept(Sampler::AlwaysOff, Some(true)), 0);
        assert_eq!(kept(Sampler::Ratio(Bound::of(1.0)), None), 4_000);
        assert_eq!(kept(Sampler::Ratio(Bound::of(0.0)), None), 0);
        assert!((800..1_200).contains(&kept(Sampler::Ratio(Bound::of(0.25)), Some(false))));
        assert_eq!(kept(Sampler::Parent(Bound::of(0.0)), Some(true)), 4_000);
        assert_eq!(kept(Sampler::Parent(Bound::of(0.0)), None), 0);
    }

    #[test]
    fn ids_do_not_repeat() {
        let mut ids = Ids::new();
        let spans: std::collections::BTreeSet<_> = (0..10_000).map(|_| ids.span()).collect();
        assert_eq!(spans.len(), 10_000);
        assert_ne!(Ids::new().request(), Ids::new().request());
    }

    proptest! {
        #[test]
        fn no_head_breaks_the_reader(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(TRACEPARENT, value.clone());
                headers.append(TRACESTATE, value);
            }
            let read = Incoming::read(&headers, &mut Ids::new(), Sampler::AlwaysOn);
            prop_assert!(read.ids.trace != [0; 16] && read.ids.span != [0; 8]);
        }

        #[test]
        fn what_we_write_we_read(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), sampled in any::<bool>()) {
            let ids = TraceIds { trace, span: [1; 8], parent: None, sampled };
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, traceparent(&ids, span));
            let caller = parent(&headers);
            prop_assert_eq!(caller.is_some(), trace != [0; 16] && span != [0; 8]);
            if let Some(caller) = caller {
                prop_assert_eq!((caller.trace, caller.span, caller.sampled), (trace, span, sampled));
            }
        }
    }
}
