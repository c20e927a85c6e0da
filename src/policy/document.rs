//! A policy file as written: `exeat: policy/v1`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};

use crate::written::{Entries, Items, Place, Spanned, WrittenDuration, WrittenTime};

/// One policy file: rules of one team, with the names that they use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "exeat policy", rename = "Policy")]
pub struct Document {
    /// The version of this form.
    #[expect(dead_code, reason = "the parser checks it: no other word is accepted")]
    pub(super) exeat: Version,
    /// The name of the policy, unique among all files: the first half of its rules' names.
    pub(super) name: Spanned<String>,
    /// What rules of this file have unless they say otherwise.
    #[serde(default)]
    pub(super) defaults: Defaults,
    /// Names for workloads, for `from` in the files of this directory.
    #[serde(default)]
    pub(super) identities: Entries<IdentityWritten>,
    /// The rules. Their order changes nothing.
    pub(super) rules: Items<RuleWritten>,
    #[schemars(skip)]
    pub(super) stage: Option<Spanned<Elsewhere>>,
    #[schemars(skip)]
    pub(super) destinations: Option<Spanned<Elsewhere>>,
}

/// The version of a policy file.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(super) enum Version {
    /// This one.
    #[serde(rename = "policy/v1")]
    V1,
}

/// What rules of a file have unless they say otherwise.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    /// Who answers for the rules.
    pub(super) owner: Option<Spanned<String>>,
    /// Why they exist: a ticket, a sentence.
    pub(super) reason: Option<Spanned<String>>,
    /// When the allow rules end.
    pub(super) expires: Option<WrittenTime>,
    /// Which workloads.
    pub(super) from: Option<Spanned<OneOrMore>>,
    /// Which upstreams.
    pub(super) to: Option<Spanned<OneOrMore>>,
    /// `shadow` makes a whole file a rehearsal.
    pub(super) mode: Option<Mode>,
}

/// A name for a workload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum IdentityWritten {
    /// A SPIFFE ID, or a pattern of them.
    Spiffe(Spanned<String>),
    /// A Kubernetes service account of our trust domain: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    K8s(ServiceAccount),
}

/// A Kubernetes service account.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceAccount {
    /// Its namespace.
    pub(super) namespace: Spanned<String>,
    /// Its name.
    pub(super) service_account: Spanned<String>,
}

/// What a rule does when it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Refuses; nothing overrides it.
    Deny,
    /// Refuses unless its condition is true.
    Require,
    /// Lets through, on the terms of its grant.
    Allow,
}

impl Effect {
    /// The word in files and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Require => "require",
            Self::Allow => "allow",
        }
    }
}

/// Whether a rule has a say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// It decides.
    Enforce,
    /// It only shows in the records what it would have decided.
    Shadow,
}

/// One rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleWritten {
    /// Unique in its file.
    pub(super) id: Spanned<String>,
    /// What it does.
    pub(super) effect: Spanned<Effect>,
    /// Whether it has a say.
    pub(super) mode: Option<Mode>,
    /// A deny that holds while the upstream is only observed.
    pub(super) floor: Option<Spanned<bool>>,
    /// Which workloads: names, SPIFFE IDs, patterns, `**`.
    pub(super) from: Option<Spanned<OneOrMore>>,
    /// Which upstreams of the catalogue, or `*`.
    pub(super) to: Option<Spanned<OneOrMore>>,
    /// Which methods, or `*`.
    pub(super) methods: Option<Spanned<OneOrMore>>,
    /// Which paths: `*` is one segment, a last `**` is the place and all beneath it.
    pub(super) paths: Option<Spanned<OneOrMore>>,
    /// A condition in CEL.
    pub(super) when: Option<Spanned<String>>,
    /// When it holds.
    #[serde(default)]
    pub(super) windows: Vec<WindowWritten>,
    /// From when on it holds.
    pub(super) not_before: Option<WrittenTime>,
    /// When it ends.
    pub(super) expires: Option<WrittenTime>,
    /// Who answers for it.
    pub(super) owner: Option<Spanned<String>>,
    /// Why it exists.
    pub(super) reason: Option<Spanned<String>>,
    /// The credential that goes with an allowed request; `none` for none.
    pub(super) grant: Option<GrantWritten>,
    /// A CONNECT to an upstream that is not intercepted, judged by host alone.
    pub(super) tunnel: Option<Spanned<bool>>,
    /// The lease that an allowed request goes by.
    pub(super) lease: Option<Spanned<LeaseWritten>>,
    /// How often an allow rule lets through.
    pub(super) limits: Option<Spanned<LimitsWritten>>,
    #[schemars(skip)]
    pub(super) mcp: Option<Spanned<Elsewhere>>,
    #[schemars(skip)]
    pub(super) stage: Option<Spanned<Elsewhere>>,
}

/// What an allow rule wants of a lease.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaseWritten {
    /// Which task: the kind that a lease is opened with.
    pub(super) kind: Spanned<String>,
    /// A lease is of no use to this rule longer than this after its opening.
    pub(super) max_ttl: Option<WrittenDuration>,
    /// This rule lets no more requests through under one lease.
    pub(super) max_uses: Option<Spanned<u64>>,
    /// What the lease must be bound to: `identity` (it always is), `uid` and `pod_uid`.
    pub(super) bind: Option<Spanned<OneOrMore>>,
}

/// How often an allow rule lets through.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsWritten {
    /// How fast: `50/s`, `600/minute`, `1000/hour`.
    pub(super) rate: Option<Spanned<String>>,
    /// How many at once; as many as the rate's number unless written.
    pub(super) burst: Option<Spanned<u64>>,
    /// How many in a fixed window of UTC: `20/day`, `100/hour`, `10/minute`.
    pub(super) quota: Option<Spanned<String>>,
    /// Counted for each workload by itself, unless `rule`.
    pub(super) per: Option<WhoseWritten>,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum WhoseWritten {
    /// Each workload's by themselves.
    Workload,
    /// All that the rule lets through.
    Rule,
}

/// Hours of the week.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowWritten {
    /// `mon-fri`, `sat,sun`; every day by default.
    pub(super) days: Option<Spanned<String>>,
    /// `06:00`.
    pub(super) from: Spanned<String>,
    /// `22:00`; at or before `from` it is on the next day.
    pub(super) to: Spanned<String>,
    /// An IANA time zone.
    pub(super) tz: Spanned<String>,
}

/// The credential of an allow rule.
#[derive(Debug)]
pub(super) struct GrantWritten {
    pub(super) credential: Spanned<String>,
    pub(super) scope: Option<Spanned<OneOrMore>>,
    pub(super) ttl: Option<WrittenDuration>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NarrowedGrant")]
struct GrantFields {
    /// A credential definition.
    credential: Spanned<String>,
    /// Less than its scopes.
    scope: Option<Spanned<OneOrMore>>,
    /// Shorter than its life.
    ttl: Option<WrittenDuration>,
}

impl<'de> Deserialize<'de> for GrantWritten {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A name alone, or a mapping.
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = (Option<String>, Option<GrantFields>);

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a credential's name, `none`, or a mapping with `credential`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok((Some(name.to_owned()), None))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                GrantFields::deserialize(MapAccessDeserializer::new(map)).map(|fields| (None, Some(fields)))
            }
        }
        struct Inner((Option<String>, Option<GrantFields>));
        impl<'de> Deserialize<'de> for Inner {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Either).map(Self)
            }
        }
        let Spanned { value: Inner(found), at } = Spanned::<Inner>::deserialize(deserializer)?;
        Ok(match found {
            (_, Some(fields)) => Self { credential: fields.credential, scope: fields.scope, ttl: fields.ttl },
            (name, None) => Self { credential: Spanned::new(name.unwrap_or_default(), at), scope: None, ttl: None },
        })
    }
}

impl JsonSchema for GrantWritten {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Grant".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let narrowed = generator.subschema_for::<GrantFields>();
        schemars::json_schema!({
            "description": "The credential of an allow rule: its name, `none`, or a narrowed one.",
            "anyOf": [{ "type": "string" }, narrowed],
        })
    }
}

/// One text or several.
#[derive(Debug, Default)]
pub(super) struct OneOrMore(pub(super) Vec<Spanned<String>>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                // The place is that of the whole value, which whoever asked for it knows.
                Ok(OneOrMore(vec![Spanned::new(text.to_owned(), Place { line: 0, column: 0 })]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMore(texts))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl OneOrMore {
    /// Each with its place; `at` is the place of all.
    pub(super) fn each(this: &Spanned<Self>) -> impl Iterator<Item = Spanned<&str>> {
        this.value.0.iter().map(|text| Spanned::new(text.value.as_str(), if text.at.line == 0 { this.at } else { text.at }))
    }
}

impl JsonSchema for OneOrMore {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMore".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}

/// A word that has no place in this file or no meaning yet: read, to say so where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elsewhere;

impl<'de> Deserialize<'de> for Elsewhere {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}
