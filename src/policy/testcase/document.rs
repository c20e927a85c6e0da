//! A test file as written: `exeat: policytest/v1`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::request::RequestWritten;
use crate::policy::document::OneOrMore;
use crate::written::{Entries, Items, Spanned, WrittenTime};

/// Tests of policies: requests with what is expected of them, and what must hold of every request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "exeat policy test", rename = "PolicyTest")]
pub struct TestDocument {
    /// The version of this form.
    #[expect(dead_code, reason = "the parser checks it: no other word is accepted")]
    pub(super) exeat: TestVersion,
    /// When the requests are asked: a test that depends on the day on which it runs is none.
    pub(super) at: WrittenTime,
    /// Requests, for rows to use.
    #[serde(default)]
    pub(super) requests: Entries<RequestWritten>,
    /// One decision a row.
    #[serde(default)]
    pub(super) table: Items<RowWritten>,
    /// What must hold of every request, told from the rules alone.
    #[serde(default)]
    pub(super) invariants: Items<InvariantWritten>,
}

/// The version of a test file.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(super) enum TestVersion {
    /// This one.
    #[serde(rename = "policytest/v1")]
    V1,
}

/// One row.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Row")]
pub(super) struct RowWritten {
    /// Says what is tested.
    pub(super) name: Spanned<String>,
    /// One of `requests`.
    #[serde(rename = "use")]
    pub(super) base: Option<Spanned<String>>,
    /// What is different from it; each field replaces the whole field.
    pub(super) set: Option<RequestWritten>,
    /// When it is asked, where that is not the `at` of the file.
    pub(super) at: Option<WrittenTime>,
    /// What the rules in force say, as in stage `enforce`.
    pub(super) expect: Spanned<Expect>,
    /// The code of a deny.
    pub(super) code: Option<Spanned<String>>,
    /// The rule that decides, `policy/rule`.
    pub(super) rule: Option<Spanned<String>>,
    /// The credential of an allow; `none` for none.
    pub(super) grant: Option<Spanned<String>>,
    /// What all rules say, shadow rules too.
    pub(super) would_be: Option<Spanned<Expect>>,
}

/// Of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Allow,
    Deny,
}

impl Expect {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What must hold of every request: nobody may (`never`), or nothing but these rules lets (`only`, `may`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Invariant")]
pub(super) struct InvariantWritten {
    /// Says what is held.
    pub(super) name: Option<Spanned<String>>,
    /// Nobody may do this.
    pub(super) never: Option<Spanned<AreaWritten>>,
    /// The rules that may let through ..
    pub(super) only: Option<Spanned<OneOrMore>>,
    /// .. this.
    pub(super) may: Option<Spanned<AreaWritten>>,
}

/// Requests by what rules select by; what is left out is everything.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Area")]
pub(super) struct AreaWritten {
    /// SPIFFE IDs and patterns.
    pub(super) from: Option<Spanned<OneOrMore>>,
    /// Upstreams.
    pub(super) to: Option<Spanned<OneOrMore>>,
    /// Methods.
    pub(super) method: Option<Spanned<OneOrMore>>,
    /// Paths and patterns.
    pub(super) path: Option<Spanned<OneOrMore>>,
}
