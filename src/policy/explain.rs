//! Explanations: why a request is decided as it is, rule by rule, by a plain scan of all rules.
//!
//! The scan shares no code with the index but the patterns' own meaning and the order of precedence, so it is also the reference that
//! the index is tested against. It allocates and takes its time: it runs when somebody asks, never on the request path.

use std::fmt;
use std::sync::Arc;

use super::condition::{Env, Failed};
use super::decision::{Denied, RuleRef};
use super::document::Effect;
use super::going::Going;
use super::index::{Way, ways};
use super::permit::Leased;
use super::registers::{Agreement, Best, Found};
use super::request::AccessRequest;
use super::rule::Rule;
use super::set::{PolicySet, Question, observed};
use super::settle::{Charge, Settled};
use super::window::open_until;
use crate::clock::Timestamp;
use crate::live::Live;
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
    /// The part of its condition that is not true, and why it has no value if it has none.
    Condition(String, Option<Failed>),
    /// A require whose condition is true.
    Met(String),
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
            Self::Condition(..) | Self::Met(_) => "when",
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
            Self::Met(text) => write!(f, "met: `{text}` is true"),
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
    /// What an unmet require wants.
    pub unmet: Option<Miss>,
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
    /// The lease that the request goes by.
    pub lease: Option<Leased>,
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
    pub fn explain(&self, request: &AccessRequest<'_>, stripped: &Stripped, live: &Live, now: Timestamp) -> Explanation {
        let leases = live.leases().leases();
        let going = Going::new(request, &leases, now);
        let question = Question { request, stripped, live, now, held: None, charge: Charge::Look };
        let (mut real, mut would) = (Agreement::default(), Agreement::default());
        let mut floor = Best::NONE;
        let order = self.in_order();
        let mut judged = Vec::new();
        for path in request.action.path.iter() {
            let env = Env::new(&going, stripped, path);
            let all: Vec<(usize, Vec<Miss>)> = self.rules.iter().map(|rule| self.misses(rule, &env)).enumerate().collect();
            real.add(scan(&order, &all, &env, |rule| !rule.shadow));
            would.add(scan(&order, &all, &env, |_| true));
            floor = floor.min(scan(&order, &all, &env, |rule| rule.floor && !rule.shadow).deny);
            judged.extend(all.into_iter().map(|(number, misses)| {
                let unmet = self.rules.get(number).filter(|rule| rule.effect == Effect::Require && misses.is_empty());
                (number, path.to_owned(), misses, unmet.and_then(|rule| self.untrue(rule, &env)))
            }));
        }
        let candidate = |(rule, reading, misses, unmet): &(usize, String, Vec<Miss>, Option<Miss>)| {
            let rule = self.rules.get(*rule)?;
            Some(Candidate {
                rule: rule.name.clone(),
                effect: rule.effect,
                shadow: rule.shadow,
                reason: Arc::clone(&rule.reason),
                reading: reading.clone(),
                condition: rule.condition.and_then(|number| self.conditions.get(number as usize)).map(|found| found.text.trim().to_owned()),
                unmet: unmet.clone(),
                misses: misses.clone(),
            })
        };
        judged.sort_by_key(|(_, _, misses, _)| misses.len());
        let ours = |misses: &[Miss]| !misses.iter().any(|miss| matches!(miss, Miss::Identity(_) | Miss::Upstream(_)));
        let candidates = judged.iter().filter(|(_, _, misses, _)| ours(misses)).filter_map(candidate).take(MOST).collect();
        let (real, would) = (real.outcome(), would.outcome());
        let observed = observed(request, now);
        // Steps 7 and 8 as they stand now; nothing is charged.
        let settling = real.ok().and_then(|rule| self.settling(&question, &going, rule));
        let settled = settling.map(|settling| settling.real(&live.blocks(), &mut false));
        let (outcome, lease) = match settled {
            Some(Settled::Refused(denied)) => (Err(denied), None),
            Some(Settled::Stands(lease)) => (self.name(real), lease),
            Some(Settled::Unreserved(_) | Settled::Raced) | None => (self.name(real), None),
        };
        let would_be = match would {
            Ok(rule) if observed.is_some() || real != Ok(rule) => self.would(&question, &going, rule),
            Ok(_) => outcome.clone(),
            refused => self.name(refused),
        };
        let nothing = matches!(&outcome, Err(Denied { code: Code::NoRule, .. }));
        let near_miss = if nothing {
            judged.iter().filter_map(candidate).find(|near| near.effect == Effect::Allow && !near.misses.is_empty())
        } else {
            None
        };
        Explanation {
            outcome,
            would_be,
            lease,
            floor: floor.rule().and_then(|rule| self.rules.get(rule)).map(|rule| rule.name.clone()),
            observed,
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
            let held = condition.holds(&env.seeing(env.going.seen_by(rule)));
            let whole = || Miss::Condition(condition.text.trim().to_owned(), held.err());
            misses.push(match held {
                Ok(true) => Miss::Met(condition.text.trim().to_owned()),
                // only where nothing else is in the way is it worth while to look closer
                Ok(false) | Err(_) if misses.is_empty() => self.untrue(rule, env).unwrap_or_else(whole),
                Ok(false) | Err(_) => whole(),
            });
        }
        misses
    }

    /// The first part of a rule's condition that is not true.
    fn untrue(&self, rule: &Rule, env: &Env<'_>) -> Option<Miss> {
        let condition = rule.condition.and_then(|number| self.conditions.get(number as usize))?;
        condition.untrue(&env.seeing(env.going.seen_by(rule))).into_iter().next().map(|(part, why)| Miss::Condition(part, why))
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
            Err(Denied { code, rule: Some(rule), .. }) => {
                format!("deny ({}), by {} at {} (owner {})", code.name(), rule.id, rule.place, rule.owner)
            }
            Err(Denied { code, rule: None, .. }) => format!("deny ({})", code.name()),
        };
        writeln!(f, "decision   {}", outcome(&self.outcome))?;
        if let Some(until) = self.observed {
            match &self.floor {
                Some(rule) => writeln!(f, "stage      observe until {until}, but {} is a floor: refused", rule.id)?,
                None => writeln!(f, "stage      observe until {until}: passed as it came, this is what would be")?,
            }
        }
        if let Some(Leased { lease, until, uses_left }) = &self.lease {
            let left = uses_left.map_or_else(|| "uses not counted".to_owned(), |left| format!("{left} uses left"));
            writeln!(f, "lease      {} until {until}, {left}", lease.id)?;
        }
        if let Err(Denied { why: Some(why), .. }) = &self.outcome {
            writeln!(f, "because    {why}")?;
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
        if let Some(unmet) = &self.unmet {
            writeln!(f, "      not met: {unmet}")?;
        }
        self.misses.iter().try_for_each(|miss| writeln!(f, "      {miss}"))
    }
}
