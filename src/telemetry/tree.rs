//! A trace as a tree for people: OTLP as a collector receives it, drawn in lines. `exeat demo` shows with it what was really exported.

use std::fmt::Write;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;

/// One exported span, as a collector sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, or empty.
    pub parent: String,
    /// The span's name.
    pub name: String,
    /// `SERVER`, `CLIENT`, `INTERNAL`.
    pub kind: &'static str,
    /// Nanoseconds since the epoch.
    pub start: u64,
    /// Nanoseconds since the epoch.
    pub end: u64,
    /// In the order of the export.
    pub attributes: Vec<(String, String)>,
}

/// The spans of one OTLP/HTTP protobuf body; nothing when it is none.
#[must_use]
pub fn decode(body: &[u8]) -> Vec<Seen> {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return Vec::new() };
    let spans = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
    spans
        .map(|span| Seen {
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            name: span.name,
            kind: match span.kind {
                2 => "SERVER",
                3 => "CLIENT",
                _ => "INTERNAL",
            },
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            attributes: span.attributes.into_iter().map(|pair| (pair.key, text(pair.value.and_then(|any| any.value)))).collect(),
        })
        .collect()
}

/// Draws one trace: children below their parents, durations, attributes.
#[must_use]
pub fn tree(spans: &[Seen]) -> String {
    let mut out = String::new();
    for root in spans.iter().filter(|span| !spans.iter().any(|other| other.span_id == span.parent)) {
        draw(spans, root, "", &mut out);
    }
    out
}

fn draw(spans: &[Seen], span: &Seen, indent: &str, out: &mut String) {
    let micros = span.end.saturating_sub(span.start) / 1_000;
    let _infallible = writeln!(out, "{indent}{} {} ({micros} us)", span.kind, span.name);
    for (name, value) in &span.attributes {
        let _infallible = writeln!(out, "{indent}│  {name} = {value}");
    }
    for child in spans.iter().filter(|other| other.parent == span.span_id && other.span_id != span.span_id) {
        draw(spans, child, &format!("{indent}   "), out);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _infallible = write!(out, "{byte:02x}");
        out
    })
}

fn text(value: Option<Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::ArrayValue(array)) => array.values.into_iter().map(|any| text(any.value)).collect::<Vec<_>>().join(", "),
        Some(Value::KvlistValue(_) | Value::BytesValue(_) | Value::StringValueStrindex(_)) | None => String::new(),
    }
}
