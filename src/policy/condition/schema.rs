//! The attributes that a condition may read: fixed, typed, and nothing else.

use super::program::{Map, NumberAttribute, TextAttribute};

/// What an attribute is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Text(TextAttribute),
    Number(NumberAttribute),
    Map(Map),
    Address,
    Now,
    LeaseActive,
}

/// One line of the schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// As written.
    pub(super) name: &'static str,
    pub(super) attribute: Attribute,
    /// May be absent: `has()` tells, and reading it then is an error value.
    pub(super) optional: bool,
}

const fn known(name: &'static str, attribute: Attribute) -> Known {
    Known { name, attribute, optional: false }
}

const fn optional(name: &'static str, attribute: Attribute) -> Known {
    Known { name, attribute, optional: true }
}

/// All of them.
pub(super) const SCHEMA: &[Known] = &[
    known("source.spiffe_id", Attribute::Text(TextAttribute::SpiffeId)),
    known("source.trust_domain", Attribute::Text(TextAttribute::TrustDomain)),
    optional("source.namespace", Attribute::Text(TextAttribute::Namespace)),
    optional("source.service_account", Attribute::Text(TextAttribute::ServiceAccount)),
    optional("source.pod", Attribute::Text(TextAttribute::Pod)),
    optional("source.uid", Attribute::Number(NumberAttribute::Uid)),
    optional("source.ip", Attribute::Address),
    known("request.host", Attribute::Text(TextAttribute::Host)),
    known("request.port", Attribute::Number(NumberAttribute::Port)),
    known("request.upstream", Attribute::Text(TextAttribute::Upstream)),
    known("request.scheme", Attribute::Text(TextAttribute::Scheme)),
    known("request.method", Attribute::Text(TextAttribute::Method)),
    known("request.path", Attribute::Text(TextAttribute::Path)),
    known("request.headers", Attribute::Map(Map::Headers)),
    known("request.query", Attribute::Map(Map::Query)),
    optional("request.content_type", Attribute::Text(TextAttribute::ContentType)),
    optional("request.body_size", Attribute::Number(NumberAttribute::BodySize)),
    known("lease.active", Attribute::LeaseActive),
    optional("lease.task_kind", Attribute::Text(TextAttribute::LeaseKind)),
    known("lease.attrs", Attribute::Map(Map::LeaseAttributes)),
    optional("lease.uses_left", Attribute::Number(NumberAttribute::LeaseUsesLeft)),
    known("now", Attribute::Now),
];

/// Words that this binary does not know, and what will bring them.
const LATER: &[(&str, &str)] = &[("mcp", "tool calls"), ("risk", "risk signals"), ("trace", "trace attributes")];

/// Finds an attribute by its dotted name.
pub(super) fn find(name: &str) -> Option<&'static Known> {
    SCHEMA.iter().find(|known| known.name == name)
}

/// By what it is.
pub(super) fn name_of(attribute: Attribute) -> &'static str {
    SCHEMA.iter().find(|known| known.attribute == attribute).map_or("", |known| known.name)
}

/// A word that this binary does not know, and what will bring it.
pub(super) fn later(name: &str) -> Option<(&'static str, &'static str)> {
    LATER.iter().copied().find(|(word, _)| name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
