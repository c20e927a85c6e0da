//! The case for enforcing one upstream: what was observed there, what would be refused, whether the credentials could be had.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::question::Questions;
use super::shape;
use super::tally::Tally;
use crate::audit::{Entry, Line, Recorded, RecordedEvent};
use crate::clock::Timestamp;
use crate::policy::{PolicySet, Which};

/// Objections that are told apart; more is no case.
const MOST: usize = 10_000;

/// Requests that would be refused alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// Who, what and why, in one line.
    pub what: String,
    /// The evidence.
    pub tally: Tally,
}

/// What became of the rehearsals of one credential.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rehearsed {
    /// Obtained and thrown away.
    pub obtained: u64,
    /// Not obtained.
    pub failed: u64,
    /// The last one: when, and why it failed if it did.
    pub last: Option<(Timestamp, Option<Box<str>>)>,
}

/// What the last days say of one upstream.
#[derive(Debug)]
pub struct Case {
    upstream: Box<str>,
    /// Everything that went there and that policy had a say about.
    pub observed: Tally,
    /// Of those, allowed by the rules of now.
    pub allowed: u64,
    /// Of those, refused at the time and allowed by the rules of now.
    pub mended: u64,
    /// What would be refused, by its id.
    pub objections: BTreeMap<String, Objection>,
    /// By credential and workload.
    pub rehearsals: BTreeMap<(Box<str>, Box<str>), Rehearsed>,
}

impl Case {
    /// An empty one.
    #[must_use]
    pub fn new(upstream: &str) -> Self {
        Self {
            upstream: upstream.into(),
            observed: Tally::default(),
            allowed: 0,
            mended: 0,
            objections: BTreeMap::new(),
            rehearsals: BTreeMap::new(),
        }
    }

    /// Takes one line into account; `set` is what would be enforced.
    pub fn add(&mut self, questions: &mut Questions<'_>, set: &PolicySet, line: &Line) {
        match &line.entry {
            Entry::Access(record) if record.upstream.as_deref() == Some(&self.upstream) => self.access(questions, set, line.time, record),
            Entry::Event(event) if event.upstream.as_deref() == Some(&self.upstream) => self.event(line.time, event),
            Entry::Access(_) | Entry::Event(_) | Entry::Other => {}
        }
    }

    fn access(&mut self, questions: &mut Questions<'_>, set: &PolicySet, time: Timestamp, record: &Recorded) {
        let Some(before) = refused(record) else { return };
        self.observed.add(time, &record.trace_id);
        let Some((code, rule)) = before else {
            self.allowed += 1;
            return;
        };
        // Rules may have been mended since: what they allow now is no objection any more.
        let now = questions.with(record, |request, stripped| set.redecide(request, stripped, time, Which::InForce));
        if let Ok(Ok(Ok(_))) = now {
            self.allowed += 1;
            self.mended += 1;
            return;
        }
        let workload = record.workload.as_deref().unwrap_or("-");
        let path = if record.tunnel { "(tunnel)".to_owned() } else { shape::pattern(&record.path) };
        let by = rule.map_or_else(String::new, |rule| format!(" by {rule}"));
        let what = format!("{workload} {} {path}: {code}{by}", record.method);
        let id = id(&self.upstream, &what);
        if self.objections.len() < MOST || self.objections.contains_key(&id) {
            let objection = self.objections.entry(id).or_insert_with(|| Objection { what, tally: Tally::default() });
            objection.tally.add(time, &record.trace_id);
        }
    }

    fn event(&mut self, time: Timestamp, event: &RecordedEvent) {
        let failed = match &*event.event {
            "rehearsed" => false,
            "rehearse_failed" => true,
            _ => return,
        };
        let text = |text: &Option<Box<str>>| text.clone().unwrap_or_default();
        let rehearsed = self.rehearsals.entry((text(&event.credential), text(&event.workload))).or_default();
        rehearsed.obtained += u64::from(!failed);
        rehearsed.failed += u64::from(failed);
        rehearsed.last = Some((time, failed.then(|| text(&event.detail))));
    }

    /// What stands against enforcing it, in one line each; empty when nothing does. `rehearse` are the credentials of the upstream, where
    /// they are to be rehearsed.
    #[must_use]
    pub fn against(&self, acknowledged: &BTreeSet<String>, rehearse: Option<&[Arc<str>]>) -> Vec<String> {
        let mut against = Vec::new();
        if self.observed.count == 0 {
            against.push("nothing was observed: no request to this upstream is in the log".to_owned());
        }
        let open = self.objections.keys().filter(|id| !acknowledged.contains(*id)).count();
        if open > 0 {
            against.push(format!("{open} kinds of request would be refused and are not acknowledged"));
        }
        let Some(bound) = rehearse else { return against };
        let ours: Vec<_> = self.rehearsals.iter().filter(|((credential, _), _)| bound.iter().any(|name| **name == **credential)).collect();
        if ours.is_empty() {
            against.push(
                "`rehearse` is on, and no credential was rehearsed: would an allowed request have come, its credential would be known"
                    .to_owned(),
            );
        }
        for ((credential, workload), rehearsed) in ours {
            if let Some((at, Some(why))) = &rehearsed.last {
                against.push(format!("credential `{credential}` for {workload} could not be had at {at}: {why}"));
            }
        }
        against
    }
}

/// `None`: policy had no say. `Some(None)`: allowed. Else the code, and the rule that did it.
#[expect(clippy::option_option, reason = "the outer one says whether policy had a say, the inner one whether it said no")]
fn refused(record: &Recorded) -> Option<Option<(&str, Option<&str>)>> {
    let by_rules = |code: &str| matches!(code, "denied" | "requirement" | "no_rule" | "ambiguous_path");
    match (&*record.decision, record.code.as_deref(), &record.would_be) {
        ("deny", Some(code), _) if by_rules(code) => Some(Some((code, record.rule.as_deref()))),
        ("deny" | "none", ..) => None,
        (_, _, Some(would)) if record.stage.as_deref() == Some("observe") => {
            Some(would.code.as_deref().map(|code| (code, would.rule.as_deref())))
        }
        (..) => Some(None),
    }
}

/// Eight hex digits that stay the same as long as what is objected to does.
fn id(upstream: &str, what: &str) -> String {
    blake3::hash(format!("exeat objection 1\0{upstream}\0{what}").as_bytes()).to_hex().as_str().chars().take(8).collect()
}
