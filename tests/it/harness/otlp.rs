//! A collector that keeps the spans it is sent (OTLP over HTTP, protobuf).

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::{Upstream, until};

pub struct Collector(Upstream);

impl Collector {
    pub fn start() -> Self {
        Self(Upstream::http())
    }

    /// For `telemetry.otlp.endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.port)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let exports = self.0.seen().into_iter().filter(|seen| seen.target.starts_with("/v1/traces") && seen.complete);
        exports
            .flat_map(|seen| ExportTraceServiceRequest::decode(seen.body.as_slice()).expect("an OTLP export").resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }

    /// Waits for spans of a trace until there are so many.
    pub fn wait_for(&self, trace: &[u8], count: usize) -> Vec<Span> {
        until(&format!("{count} spans of a trace"), || {
            let spans: Vec<_> = self.spans().into_iter().filter(|span| span.trace_id == trace).collect();
            (spans.len() >= count).then_some(spans)
        })
    }

    /// Every byte that was exported, for looking for what must not be there.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.connections().into_iter().flat_map(|connection| connection.plain).collect()
    }
}

/// An attribute as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::ArrayValue(_) | Value::KvlistValue(_) | Value::BytesValue(_) | Value::StringValueStrindex(_) => format!("{value:?}"),
    })
}
