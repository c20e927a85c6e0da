//! `Row`: one request and what is expected of it.

use std::sync::Arc;

use super::document::Expect;
use super::outcome::{Failure, TestResult};
use super::question::Question;
use crate::policy::condition::Env;
use crate::policy::decision::{Denied, RuleRef};
use crate::policy::going::Going;
use crate::policy::permit::Plan;
use crate::policy::set::PolicySet;
use crate::refusal::{Code, Refusal};
use crate::written::{Place, Source};

/// What a row expects; what it does not mention may be anything.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) outcome: Expect,
    pub(super) code: Option<Code>,
    pub(super) rule: Option<Arc<str>>,
    pub(super) grant: Option<Box<str>>,
    pub(super) would_be: Option<Expect>,
}

/// One row, ready to run.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: Box<str>,
    pub(super) place: Place,
    pub(super) question: Question,
    pub(super) expected: Expected,
}

/// What became of a row's request.
struct Got {
    outcome: Expect,
    code: Option<Code>,
    rule: Option<Arc<str>>,
    grant: Option<Box<str>>,
    would_be: (Expect, Option<Arc<str>>),
}

impl Row {
    pub(super) fn run(&self, set: &PolicySet, source: &Source, explain: bool) -> TestResult {
        let got = self.question.decide(set).map_or_else(|refusal| Got::unread(&refusal), |decision| Got::of(&decision));
        let reached = [&got.rule, &got.would_be.1].into_iter().flatten().cloned().collect();
        let failure = (!self.expected.met_by(&got)).then(|| Failure {
            expected: self.expected.words(),
            got: got.words(self.expected.would_be.is_some()),
            why: if explain { self.why(set, &got) } else { Vec::new() },
        });
        TestResult { name: self.name.to_string(), source: source.clone(), place: self.place, reached, failure }
    }

    /// The predicates that decided: of the rule that was expected, else of the one that decided, else of the nearest.
    fn why(&self, set: &PolicySet, got: &Got) -> Vec<String> {
        let answer = match self.question.answer(set) {
            Ok(answer) => answer.explanation,
            Err(refusal) => return vec![format!("refused before policy is asked: {}", refusal.detail)],
        };
        let mut why = Vec::new();
        if let Some(wanted) = self.expected.rule.as_ref().filter(|wanted| Some(*wanted) != got.rule.as_ref()) {
            why.extend(self.misses(set, wanted));
        }
        if let Some(decided) = got.rule.as_ref().and_then(|id| set.rules.iter().find(|rule| rule.name.id == *id)) {
            let unmet =
                answer.candidates.iter().find(|candidate| candidate.rule.id == decided.name.id).and_then(|found| found.unmet.as_ref());
            let when = match (unmet, set.when(decided)) {
                (Some(unmet), _) => format!(": {unmet}"),
                (None, Some(when)) => format!(": `{when}`"),
                (None, None) => String::new(),
            };
            why.push(format!("{} {} at {} decides{when}", decided.effect.name(), decided.name.id, decided.name.place));
        }
        if let Some(near) = answer.near_miss.filter(|_| why.is_empty()) {
            let misses = near.misses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            why.push(format!("nearest is {} {} at {}: {misses}", near.effect.name(), near.rule.id, near.rule.place));
        }
        why
    }

    /// What keeps one rule from matching; or that it matches and another one comes first.
    fn misses(&self, set: &PolicySet, wanted: &Arc<str>) -> Option<String> {
        let rule = set.rules.iter().find(|rule| rule.name.id == *wanted)?;
        let mut all = Vec::new();
        let read = self.question.with(|request, stripped| {
            let live = self.question.live();
            let leases = live.leases().leases();
            let going = Going::new(request, &leases, self.question.at);
            for path in request.action.path.iter() {
                let misses = set.misses(rule, &Env::new(&going, stripped, path));
                all.extend(misses.iter().map(ToString::to_string).filter(|miss| !all.contains(miss)).collect::<Vec<_>>());
            }
        });
        read.ok()?;
        let shadow = if rule.shadow { ", a shadow rule" } else { "" };
        let misses = if all.is_empty() { "it matches, and does not decide".to_owned() } else { all.join("; ") };
        Some(format!("{} {}{shadow} at {}: {misses}", rule.effect.name(), rule.name.id, rule.name.place))
    }
}

impl Got {
    fn unread(refusal: &Refusal) -> Self {
        Self { outcome: Expect::Deny, code: Some(refusal.code), rule: None, grant: None, would_be: (Expect::Deny, None) }
    }

    fn of(decision: &crate::policy::Decision) -> Self {
        let (outcome, code, rule, grant) = match &decision.outcome {
            Ok(permit) => {
                let grant = match permit.plan() {
                    Plan::Swap(terms) => &*terms.profile.name,
                    Plan::Bare | Plan::AsIs => "none",
                };
                (Expect::Allow, None, permit.rule().map(|rule| Arc::clone(&rule.id)), Some(grant.into()))
            }
            Err(Denied { code, rule, .. }) => (Expect::Deny, Some(*code), rule.as_ref().map(|rule| Arc::clone(&rule.id)), None),
        };
        let would_be = decision.would_be.as_ref().map_or_else(|| (outcome, rule.clone()), |would| would_be(&would.outcome));
        Self { outcome, code, rule, grant, would_be }
    }

    fn words(&self, would_be: bool) -> String {
        let would = would_be.then_some(self.would_be.0);
        words(self.outcome, self.code, self.rule.as_deref(), self.grant.as_deref(), would)
    }
}

fn would_be(outcome: &Result<RuleRef, Denied>) -> (Expect, Option<Arc<str>>) {
    match outcome {
        Ok(rule) => (Expect::Allow, Some(Arc::clone(&rule.id))),
        Err(denied) => (Expect::Deny, denied.rule.as_ref().map(|rule| Arc::clone(&rule.id))),
    }
}

impl Expected {
    fn met_by(&self, got: &Got) -> bool {
        self.outcome == got.outcome
            && self.code.is_none_or(|code| Some(code) == got.code)
            && self.rule.as_ref().is_none_or(|rule| Some(rule) == got.rule.as_ref())
            && self.grant.as_ref().is_none_or(|grant| Some(grant) == got.grant.as_ref())
            && self.would_be.is_none_or(|would| would == got.would_be.0)
    }

    fn words(&self) -> String {
        words(self.outcome, self.code, self.rule.as_deref(), self.grant.as_deref(), self.would_be)
    }
}

fn words(outcome: Expect, code: Option<Code>, rule: Option<&str>, grant: Option<&str>, would_be: Option<Expect>) -> String {
    let code = code.map_or_else(String::new, |code| format!(" ({})", code.name()));
    let rule = rule.map_or_else(String::new, |rule| format!(" by {rule}"));
    let grant = grant.map_or_else(String::new, |grant| format!(" with {grant}"));
    let would = would_be.map_or_else(String::new, |would| format!(", would be {}", would.name()));
    format!("{}{code}{rule}{grant}{would}", outcome.name())
}
