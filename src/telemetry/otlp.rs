//! OTLP (protobuf, opentelemetry-proto 1.x `trace.proto`) written straight into a buffer: what a span says is known at once, so there
//! is no tree of attributes to build, copy and measure.

use bytes::Bytes;

use crate::audit::hex_pair;

/// What a batch leaves free in front of its spans, for all that stands before them in a request; longer resources are copied.
pub(super) const HEADROOM: usize = 1_024;

/// Wire type of bytes, strings and messages.
const LEN: u8 = 2;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 128")]
    out.push(value as u8);
}

const fn varint_len(value: u64) -> usize {
    // One byte for each begun group of seven bits.
    ((70 - (value | 1).leading_zeros()) / 7) as usize
}

/// A field of bytes.
pub(super) fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if let Some(length) = short(value.len()) {
        out.extend_from_slice(&[(field << 3) | LEN, length]);
    } else {
        out.push((field << 3) | LEN);
        varint(out, value.len() as u64);
    }
    out.extend_from_slice(value);
}

/// A length whose varint is one byte, as nearly all are.
fn short(length: usize) -> Option<u8> {
    u8::try_from(length).ok().filter(|length| *length < 0x80)
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push((field << 3) | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// `span.SpanKind`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// What every span has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) parent: Option<[u8; 8]>,
    /// The parent is the caller's span.
    pub(super) remote: bool,
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    /// Nanoseconds since 1970.
    pub(super) start: u64,
    /// Nanoseconds since 1970.
    pub(super) end: u64,
}

/// One span, written field by field into a scratch buffer.
pub(super) struct Span<'a>(&'a mut Vec<u8>);

impl<'a> Span<'a> {
    pub(super) fn begin(scratch: &'a mut Vec<u8>, head: &Head<'_>) -> Self {
        scratch.clear();
        bytes(scratch, 1, &head.trace);
        bytes(scratch, 2, &head.span);
        if let Some(parent) = head.parent {
            bytes(scratch, 4, &parent);
        }
        bytes(scratch, 5, head.name.as_bytes());
        number(scratch, 6, head.kind as u64);
        fixed64(scratch, 7, head.start);
        fixed64(scratch, 8, head.end);
        // Bit 0: sampled; bit 8: it is known whether the parent is remote; bit 9: it is. Field 16, fixed32.
        let flags: u32 = 0x101 | if head.remote { 0x200 } else { 0 };
        varint(scratch, (16 << 3) | 5);
        scratch.extend_from_slice(&flags.to_le_bytes());
        Self(scratch)
    }

    /// Attributes without a span: to be put into many.
    pub(super) fn attributes(scratch: &'a mut Vec<u8>) -> Self {
        Self(scratch)
    }

    /// Attributes that were written before.
    pub(super) fn put(&mut self, attributes: &[u8]) {
        self.0.extend_from_slice(attributes);
    }

    /// The frame of a `KeyValue` in field 9 with a value of `value` bytes.
    fn key(&mut self, key: &'static str, value: usize) {
        let key = key.as_bytes();
        if let (Some(inner), Some(length), Some(value)) = (short(key.len() + value + 4), short(key.len()), short(value)) {
            self.0.extend_from_slice(&[(9 << 3) | LEN, inner, (1 << 3) | LEN, length]);
            self.0.extend_from_slice(key);
            self.0.extend_from_slice(&[(2 << 3) | LEN, value]);
            return;
        }
        let value = value as u64;
        let inner = 1 + varint_len(key.len() as u64) as u64 + key.len() as u64 + 1 + varint_len(value) as u64 + value;
        self.0.push((9 << 3) | LEN);
        varint(self.0, inner);
        bytes(self.0, 1, key);
        self.0.push((2 << 3) | LEN);
        varint(self.0, value);
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str, value: &str) {
        self.key(key, 1 + varint_len(value.len() as u64) + value.len());
        bytes(self.0, 1, value.as_bytes());
    }

    /// An id as lower-case hex.
    pub(super) fn hex<const N: usize>(&mut self, key: &'static str, id: [u8; N]) {
        self.key(key, 1 + varint_len(2 * N as u64) + 2 * N);
        bytes(self.0, 1, id.map(hex_pair).as_flattened());
    }

    /// A text of several parts.
    pub(super) fn parts(&mut self, key: &'static str, parts: &[&str]) {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        self.key(key, 1 + varint_len(total as u64) + total);
        self.0.push((1 << 3) | LEN);
        varint(self.0, total as u64);
        for part in parts {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    /// A truth value.
    pub(super) fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key, 2);
        number(self.0, 2, u64::from(value));
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &'static str, value: u64) {
        self.key(key, 1 + varint_len(value));
        number(self.0, 3, value);
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &'static str, values: impl Iterator<Item = impl AsRef<str>> + Clone) {
        let one = |text: &str| 1 + varint_len(text.len() as u64) + text.len();
        let item = |text: &str| 1 + varint_len(one(text) as u64) + one(text);
        let array: usize = values.clone().map(|text| item(text.as_ref())).sum();
        self.key(key, 1 + varint_len(array as u64) + array);
        self.0.push((5 << 3) | LEN);
        varint(self.0, array as u64);
        for text in values {
            let text = text.as_ref();
            self.0.push((1 << 3) | LEN);
            varint(self.0, one(text) as u64);
            bytes(self.0, 1, text.as_bytes());
        }
    }

    /// `STATUS_CODE_ERROR`.
    pub(super) fn error(&mut self) {
        self.0.extend_from_slice(&[(15 << 3) | LEN, 2, 3 << 3, 2]);
    }

    /// Appends the span to a batch, as an element of `ScopeSpans.spans`.
    pub(super) fn end(self, batch: &mut Vec<u8>) {
        bytes(batch, 2, self.0);
    }
}

/// `Resource` and `InstrumentationScope`: what stands before the spans of every request.
#[derive(Debug, Clone)]
pub(super) struct Preamble {
    resource: Vec<u8>,
    scope: Vec<u8>,
    schema: Vec<u8>,
}

impl Preamble {
    pub(super) fn new(attributes: &[(String, String)], version: &str, schema: &str) -> Self {
        let (mut message, mut value, mut pair) = (Vec::new(), Vec::new(), Vec::new());
        for (key, text) in attributes {
            value.clear();
            bytes(&mut value, 1, text.as_bytes());
            pair.clear();
            bytes(&mut pair, 1, key.as_bytes());
            bytes(&mut pair, 2, &value);
            bytes(&mut message, 1, &pair);
        }
        let mut resource = Vec::new();
        bytes(&mut resource, 1, &message);
        message.clear();
        bytes(&mut message, 1, b"exeat");
        bytes(&mut message, 2, version.as_bytes());
        let mut scope = Vec::new();
        bytes(&mut scope, 1, &message);
        let mut url = Vec::new();
        bytes(&mut url, 3, schema.as_bytes());
        Self { resource, scope, schema: url }
    }

    /// `ExportTraceServiceRequest` around a batch of spans that stands behind [`HEADROOM`] bytes: written in front of it where there is
    /// room, so that no span is copied.
    pub(super) fn request(&self, mut batch: Vec<u8>) -> Bytes {
        let spans = batch.len().saturating_sub(HEADROOM);
        let scope_spans = (self.scope.len() + spans + self.schema.len()) as u64;
        let inner = self.resource.len() as u64 + 1 + varint_len(scope_spans) as u64 + scope_spans;
        let mut front = Vec::with_capacity(self.resource.len() + self.scope.len() + 24);
        front.push((1 << 3) | LEN);
        varint(&mut front, inner);
        front.extend_from_slice(&self.resource);
        front.push((2 << 3) | LEN);
        varint(&mut front, scope_spans);
        front.extend_from_slice(&self.scope);
        let begin = HEADROOM.checked_sub(front.len());
        if let Some((begin, room)) = begin.and_then(|begin| Some((begin, batch.get_mut(begin..HEADROOM)?))) {
            room.copy_from_slice(&front);
            batch.extend_from_slice(&self.schema);
            return Bytes::from(batch).slice(begin..);
        }
        front.extend_from_slice(batch.get(HEADROOM..).unwrap_or_default());
        front.extend_from_slice(&self.schema);
        front.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_the_same_with_and_without_room() {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
        use prost::Message as _;

        for long in [3, 2 * HEADROOM] {
            let preamble = Preamble::new(&[("service.name".to_owned(), "x".repeat(long))], "1", "schema");
            let mut batch = vec![0; HEADROOM];
            let head =
                Head { trace: [1; 16], span: [2; 8], parent: None, remote: false, name: "GET", kind: Kind::Server, start: 1, end: 2 };
            for _ in 0..2 {
                Span::begin(&mut Vec::new(), &head).end(&mut batch);
            }
            let request = ExportTraceServiceRequest::decode(preamble.request(batch)).unwrap();
            let scope = &request.resource_spans[0].scope_spans[0];
            assert_eq!((scope.spans.len(), scope.schema_url.as_str(), scope.spans[1].name.as_str()), (2, "schema", "GET"));
            assert_eq!(request.resource_spans[0].resource.as_ref().unwrap().attributes.len(), 1);
        }
    }

    proptest! {
        #[test]
        fn lengths_are_told_right(value in any::<u64>(), shift in 0_u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
        }
    }
}
