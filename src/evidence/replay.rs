//! Replay: what a candidate set of rules would have decided about recorded traffic.

use std::collections::BTreeMap;

use super::learn::REDACTED;
use super::question::{Questions, Unasked};
use super::shape;
use super::tally::Tally;
use crate::audit::{Recorded, RecordedWouldBe};
use crate::clock::Timestamp;
use crate::policy::{PolicySet, Which};

/// Groups that are listed; what would be more is counted.
const MOST_GROUPS: usize = 10_000;

/// How a decision changes; what hurts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Allowed before, denied by the candidate.
    Lost,
    /// The record does not hold what the candidate's conditions read.
    Undecided,
    /// Denied before, allowed by the candidate.
    Gained,
    /// Denied by both, with another code.
    OtherCode,
}

impl Kind {
    /// For people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "allow to deny",
            Self::Undecided => "undecided",
            Self::Gained => "deny to allow",
            Self::OtherCode => "deny, other code",
        }
    }
}

/// What was or would be decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Allowed, by this rule where one is known.
    Allow(Option<Box<str>>),
    /// Refused with this code, by this rule where one did it.
    Deny(Box<str>, Option<Box<str>>),
    /// It hangs on these: rule and condition, or another reason.
    Unknown(Vec<Box<str>>),
}

impl Verdict {
    const fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Allow(None) => "allow".to_owned(),
            Self::Allow(Some(rule)) => format!("allow by {rule}"),
            Self::Deny(code, None) => format!("deny {code}"),
            Self::Deny(code, Some(rule)) => format!("deny {code} by {rule}"),
            Self::Unknown(why) => why.join("; "),
        }
    }
}

/// Requests that change alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// How.
    pub kind: Kind,
    /// Whose.
    pub workload: Box<str>,
    /// Where to.
    pub upstream: Box<str>,
    /// The method.
    pub method: Box<str>,
    /// The path, its ids as `*`.
    pub path: Box<str>,
    /// As recorded.
    pub before: Verdict,
    /// By the candidate.
    pub after: Verdict,
}

/// What became of all records.
#[derive(Debug, Default)]
pub struct Replay {
    /// Requests that were decided again.
    pub decided: u64,
    /// Same outcome by the same rule, or by none.
    pub same: u64,
    /// Same outcome, by another rule.
    pub other_rule: u64,
    /// Decided nothing that policy could decide again, by reason.
    pub skipped: BTreeMap<Box<str>, u64>,
    /// Decisions that change, what hurts first.
    pub changes: BTreeMap<Change, Tally>,
    /// Requests whose groups found no more room, by how they change.
    pub more: BTreeMap<Kind, u64>,
}

impl Replay {
    /// Decides one record again.
    pub fn add(&mut self, questions: &mut Questions<'_>, set: &PolicySet, which: Which, time: Timestamp, record: &Recorded) {
        let before = match before(record) {
            Ok(before) => before,
            Err(why) => return self.skip(why),
        };
        let after = match after(questions, set, which, time, record) {
            Ok(after) => after,
            Err(why) => return self.skip(&why.to_string()),
        };
        self.decided += 1;
        let kind = match (&before, &after) {
            (_, Verdict::Unknown(_)) => Kind::Undecided,
            (Verdict::Allow(_), Verdict::Deny(..)) => Kind::Lost,
            (Verdict::Deny(..), Verdict::Allow(_)) => Kind::Gained,
            (Verdict::Deny(was, _), Verdict::Deny(is, _)) if was != is => Kind::OtherCode,
            (Verdict::Allow(Some(was)) | Verdict::Deny(_, Some(was)), Verdict::Allow(Some(is)) | Verdict::Deny(_, Some(is)))
                if was != is =>
            {
                self.other_rule += 1;
                return;
            }
            (_, _) => {
                self.same += 1;
                return;
            }
        };
        let text = |text: &Option<Box<str>>| text.clone().unwrap_or_default();
        let path = if record.tunnel { "(tunnel)".into() } else { shape::pattern(&record.path).into() };
        let (workload, upstream) = (text(&record.workload), text(&record.upstream));
        let change = Change { kind, workload, upstream, method: record.method.clone(), path, before, after };
        if self.changes.len() >= MOST_GROUPS && !self.changes.contains_key(&change) {
            *self.more.entry(kind).or_default() += 1;
            return;
        }
        self.changes.entry(change).or_default().add(time, &record.trace_id);
    }

    fn skip(&mut self, why: &str) {
        *self.skipped.entry(why.into()).or_default() += 1;
    }

    /// Requests that change in this way.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        let listed: u64 = self.changes.iter().filter(|(change, _)| change.kind == kind).map(|(_, tally)| tally.count).sum();
        listed + self.more.get(&kind).copied().unwrap_or(0)
    }
}

/// What policy had decided; the reason where it was not policy that decided.
fn before(record: &Recorded) -> Result<Verdict, &'static str> {
    let by_rules = |code: &str| matches!(code, "denied" | "requirement" | "no_rule" | "ambiguous_path");
    match (&*record.decision, record.code.as_deref(), record.stage.as_deref(), &record.would_be) {
        ("none", ..) => Err("refused before policy was asked"),
        ("deny", Some(code), ..) if by_rules(code) => Ok(Verdict::Deny(code.into(), record.rule.clone())),
        ("deny", ..) => Err("refused for another reason than policy"),
        (_, _, Some("observe"), Some(would)) => Ok(would_be(would)),
        (_, _, Some("observe"), None) => Err("observed, without a would-be decision"),
        (..) => Ok(Verdict::Allow(record.rule.clone())),
    }
}

fn would_be(would: &RecordedWouldBe) -> Verdict {
    match &would.code {
        None => Verdict::Allow(would.rule.clone()),
        Some(code) => Verdict::Deny(code.clone(), would.rule.clone()),
    }
}

fn after(questions: &mut Questions<'_>, set: &PolicySet, which: Which, time: Timestamp, record: &Recorded) -> Result<Verdict, Unasked> {
    let decided = match questions.with(record, |request, stripped| set.redecide(request, stripped, time, which)) {
        Err(Unasked::UnknownUpstream) => return Ok(Verdict::Deny("unlisted".into(), None)),
        other => other?,
    };
    // A deny or a miss could be the hidden segment's doing; an allow went through a `*` in its place.
    let hidden = !record.tunnel && record.path.contains(REDACTED);
    Ok(match decided {
        Ok(Ok(rule)) => Verdict::Allow(Some((*rule.id).into())),
        Ok(Err(_)) | Err(_) if hidden => Verdict::Unknown(vec!["a path segment looked like a credential and is not recorded".into()]),
        Ok(Err(denied)) => Verdict::Deny(denied.code.name().into(), denied.rule.map(|rule| (*rule.id).into())),
        Err(hanging) => Verdict::Unknown(
            hanging
                .iter()
                .map(|one| format!("rule {} reads what records do not hold: {}", one.rule.id, one.condition.trim()).into())
                .collect(),
        ),
    })
}

/// Whether a record's traffic was let through, whoever it was that let it.
pub(super) fn passed(record: &Recorded) -> bool {
    matches!(&*record.decision, "allow" | "shadow_deny") && matches!(&*record.outcome, "allowed" | "aborted")
}

/// Whether it would be allowed by these rules, shadow rules counted; an unknown is none.
pub(super) fn allows(questions: &mut Questions<'_>, set: &PolicySet, time: Timestamp, record: &Recorded) -> bool {
    after(questions, set, Which::WithShadow, time, record).is_ok_and(|verdict| verdict.is_allow())
}
