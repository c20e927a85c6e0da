//! Explanations: why a request is decided as it is, rule by rule, by a plain scan of all rules.
//!
//! The scan shares no code with the index but the patterns' own meaning and the order of precedence, so it is also the reference that
//! the index is tested against. It allocates and takes its time: it runs when somebody asks, never on the request path.

use std::fmt;
use std::sync::Arc;

use super::condition::{Env, Failed};
use super::decision::{Denied, RuleRef};
use super::document::Effect;
use super::index::{Way, ways};
use super::registers::{Agreement, Best, Found};
use super::request::AccessRequest;
use super::rule::Rule;
use super::set::{PolicySet, observed};
use super::window::open_until;
use crate::clock::Timestamp;
use crate::refusal::Code;
use crate::strip::Stripped;

/// Most candidates that are listed.
const MOST: usize = 100;

/// Why a rule does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// It is for other workloads.
    Identity(String),
    /// It is for other upstreams.
    Upstream(String),
    /// It is for tunnels and this is none, or the other way round.
    Tunnel,
    /// It is for other methods.
    Method(String),
    /// It is for other paths than this reading.
    Path(String),
    /// It begins later.
    NotYet(Timestamp),
    /// It has expired.
    Expired(Timestamp),
    /// Outside of its windows.
    Window(String),
    /// Its condition, and why it has no value if it has none.
    Condition(String, Option<Failed>),
}

impl Miss {
    /// The field of the rule that does not fit.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Identity(_) => "from",
            Self::Upstream(_) => "to",
            Self::Tunnel => "tunnel",
            Self::Method(_) => "methods",
            Self::Path(_) => "paths",
            Self::NotYet(_) => "not_before",
            Self::Expired(_) => "expires",
            Self::Window(_) => "windows",
            Self::Condition(..) => "when",
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(wanted) => write!(f, "identity: it is for {wanted}"),
            Self::Upstream(wanted) => write!(f, "upstream: it is for {wanted}"),
            Self::Tunnel => f.write_str("tunnel: it is for the other kind of request"),
            Self::Method(wanted) => write!(f, "method: it is for {wanted}"),
            Self::Path(wanted) => write!(f, "path: it is for {wanted}"),
            Self::NotYet(from) => write!(f, "it begins at {from}"),
            Self::Expired(end) => write!(f, "it expired at {end}"),
            Self::Window(windows) => write!(f, "window: it holds {windows}"),
            Self::Condition(text, None) => write!(f, "condition: `{text}` is false"),
            Self::Condition(text, Some(why)) => write!(f, "condition: `{text}` has no value: {why}"),
        }
    }
}

/// One rule that could have had a say.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which.
    pub rule: RuleRef,
    /// What it does when it matches.
    pub effect: Effect,
    /// It only rehearses.
    pub shadow: bool,
    /// Why it exists.
    pub reason: Arc<str>,
    /// The reading of the path that was judged.
    pub reading: String,
    /// Its condition as written.
    pub condition: Option<String>,
    /// What kept it from matching; empty when it matches. A require "matches" when it is not met.
    pub misses: Vec<Miss>,
}

/// A decision with its reasons.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// What the rules in force say, whatever the upstream's stage.
    pub outcome: Result<RuleRef, Denied>,
    /// What all rules say, shadow rules too.
    pub would_be: Result<RuleRef, Denied>,
    /// The deny that holds although the upstream is only observed.
    pub floor: Option<RuleRef>,
    /// The upstream is observed until then: the outcome is not enforced.
    pub observed: Option<Timestamp>,
    /// Rules for this workload and upstream, those that match first.
    pub candidates: Vec<Candidate>,
    /// The allow rule that misses the least, where nothing allows.
    pub near_miss: Option<Candidate>,
}

impl PolicySet {
    /// Explains one decision.
    #[must_use]
    pub fn explain(&self, request: &AccessRequest<'_>, stripped: &Stripped, now: Timestamp) -> Explanation {
        let (mut real, mut would) = (Agreement::default(), Agreement::default());
        let mut floor = Best::NONE;
        let order = self.in_order();
        let mut judged = Vec::new();
        for path in request.action.path.iter() {
            let env = Env::new(request, stripped, path, now);
            let all: Vec<(usize, Vec<Miss>)> = self.rules.iter().map(|rule| self.misses(rule, &env)).enumerate().collect();
            real.add(scan(&order, &all, &env, |rule| !rule.shadow));
            would.add(scan(&order, &all, &env, |_| true));
            floor = floor.min(scan(&order, &all, &env, |rule| rule.floor && !rule.shadow).deny);
            judged.extend(all.into_iter().map(|(rule, misses)| (rule, path.to_owned(), misses)));
        }
        let candidate = |(rule, reading, misses): &(usize, String, Vec<Miss>)| {
            let rule = self.rules.get(*rule)?;
            Some(Candidate {
                rule: rule.name.clone(),
                effect: rule.effect,
                shadow: rule.shadow,
                reason: Arc::clone(&rule.reason),
                reading: reading.clone(),
                condition: rule.condition.and_then(|number| self.conditions.get(number as usize)).map(|found| found.text.trim().to_owned()),
                misses: misses.clone(),
            })
        };
        judged.sort_by_key(|(_, _, misses)| misses.len());
        let ours = |misses: &[Miss]| !misses.iter().any(|miss| matches!(miss, Miss::Identity(_) | Miss::Upstream(_)));
        let candidates = judged.iter().filter(|(_, _, misses)| ours(misses)).filter_map(candidate).take(MOST).collect();
        let outcome = self.name(real.outcome());
        let nothing = matches!(&outcome, Err(Denied { code: Code::NoRule, .. }));
        let near_miss = if nothing {
            judged.iter().filter_map(candidate).find(|near| near.effect == Effect::Allow && !near.misses.is_empty())
        } else {
            None
        };
        Explanation {
            outcome,
            would_be: self.name(would.outcome()),
            floor: floor.rule().and_then(|rule| self.rules.get(rule)).map(|rule| rule.name.clone()),
            observed: observed(request, now),
            candidates,
            near_miss,
        }
    }

    /// What keeps a rule from matching.
    pub(super) fn misses(&self, rule: &Rule, env: &Env<'_>) -> Vec<Miss> {
        let list = |texts: Vec<String>| texts.join(", ");
        let mut misses = Vec::new();
        let request = env.request;
        if !rule.from.iter().any(|from| from.matches(&request.workload.id)) {
            misses.push(Miss::Identity(list(rule.from.iter().map(ToString::to_string).collect())));
        }
        if !rule.to.contains(request.upstream.index.0) || (rule.effect == Effect::Allow && !self.is_listed(request)) {
            misses.push(Miss::Upstream(rule.to.to_string()));
        }
        if rule.effect == Effect::Allow && rule.tunnel != request.tunnel {
            misses.push(Miss::Tunnel);
        }
        if !rule.methods.meets(self.methods.bit(request.action.method)) {
            misses.push(Miss::Method(list(self.methods.names(rule.methods).into_iter().map(str::to_owned).collect())));
        }
        if !rule.paths.iter().any(|path| path.matches(env.path)) {
            misses.push(Miss::Path(list(rule.paths.iter().map(ToString::to_string).collect())));
        }
        if let Some(from) = rule.not_before.filter(|from| env.now < *from) {
            misses.push(Miss::NotYet(from));
        }
        if let Some(end) = rule.expires.filter(|end| *end <= env.now) {
            misses.push(Miss::Expired(end));
        }
        if !rule.windows.is_empty() && open_until(&rule.windows, env.now).is_none() {
            misses.push(Miss::Window(list(rule.windows.iter().map(|window| window.text.to_string()).collect())));
        }
        if !self.applies(rule, env)
            && let Some(condition) = rule.condition.and_then(|number| self.conditions.get(number as usize))
        {
            misses.push(Miss::Condition(condition.text.trim().to_owned(), condition.holds(env).err()));
        }
        misses
    }

    /// Every way in which any rule matches, in the order of precedence.
    fn in_order(&self) -> Vec<(usize, Way<'_>)> {
        let mut all: Vec<_> = self.rules.iter().enumerate().flat_map(|(number, rule)| ways(rule).map(move |way| (number, way))).collect();
        all.sort_by(|(_, a), (_, b)| a.precedence(b));
        all
    }
}

/// The first way of each effect among the rules that match and count.
fn scan(order: &[(usize, Way<'_>)], all: &[(usize, Vec<Miss>)], env: &Env<'_>, counts: impl Fn(&Rule) -> bool) -> Found {
    let matching = |number: usize| all.get(number).is_some_and(|(_, misses)| misses.is_empty());
    let best = |effect: Effect| {
        let fits = |(number, way): &(usize, Way<'_>)| way.rule.effect == effect && counts(way.rule) && matching(*number) && meets(way, env);
        let position = order.iter().position(fits);
        let number = position.and_then(|position| order.get(position)).map(|(number, _)| *number);
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        position.zip(number).map_or(Best::NONE, |(rank, number)| Best::new(small(rank), small(number)))
    };
    Found { deny: best(Effect::Deny), require: best(Effect::Require), allow: best(Effect::Allow) }
}

fn meets(way: &Way<'_>, env: &Env<'_>) -> bool {
    way.from.matches(&env.request.workload.id)
        && way.upstream.is_none_or(|upstream| upstream == env.request.upstream.index.0)
        && way.path.matches(env.path)
}

impl fmt::Display for Explanation {
    /// For people: the outcome first, then what led to it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = |outcome: &Result<RuleRef, Denied>| match outcome {
            Ok(rule) => format!("allow, by {} at {} (owner {})", rule.id, rule.place, rule.owner),
            Err(Denied { code, rule: Some(rule) }) => {
                format!("deny ({}), by {} at {} (owner {})", code.name(), rule.id, rule.place, rule.owner)
            }
            Err(Denied { code, rule: None }) => format!("deny ({})", code.name()),
        };
        writeln!(f, "decision   {}", outcome(&self.outcome))?;
        if let Some(until) = self.observed {
            match &self.floor {
                Some(rule) => writeln!(f, "stage      observe until {until}, but {} is a floor: refused", rule.id)?,
                None => writeln!(f, "stage      observe until {until}: passed as it came, this is what would be")?,
            }
        }
        let (real, would) = (outcome(&self.outcome), outcome(&self.would_be));
        if real != would {
            writeln!(f, "with shadow rules   {would}")?;
        }
        for candidate in &self.candidates {
            candidate.write(f, "")?;
        }
        if let Some(near) = &self.near_miss {
            near.write(f, "nearest: ")?;
        }
        Ok(())
    }
}

impl Candidate {
    fn write(&self, f: &mut fmt::Formatter<'_>, prefix: &str) -> fmt::Result {
        let mark = if self.misses.is_empty() { "*" } else { " " };
        let shadow = if self.shadow { " (shadow)" } else { "" };
        let (effect, rule, place, reading) = (self.effect.name(), &self.rule.id, &self.rule.place, &self.reading);
        let reason = if self.reason.is_empty() { String::new() } else { format!(" ({})", self.reason) };
        writeln!(f, "{mark} {prefix}{effect} {rule}{shadow} at {place}{reason}, path {reading}")?;
        self.misses.iter().try_for_each(|miss| writeln!(f, "      {miss}"))
    }
}
