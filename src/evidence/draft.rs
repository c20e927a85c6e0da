//! A draft: the least rules that let a window of traffic through, as a policy file that a person reads, narrows and signs.
//!
//! Every rule is `mode: shadow`, has its evidence beside it, and ends after ninety days. Nothing is inferred in silence: rates and hours
//! are comments, and so is whatever was not learnt from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::learn::{Finished, Learnt, Lessons, Whose, is_sayable};
use super::question::Questions;
use super::replay::{allows, passed};
use super::shape;
use super::tally::Tally;
use super::trie::{Part, Pattern};
use crate::action::Readings;
use crate::audit::{Recorded, shown};
use crate::catalogue::Catalogue;
use crate::clock::Timestamp;
use crate::policy::PolicySet;

/// A draft's rules end after this many days.
const DAYS: i64 = 90;
/// Things listed apart in the file; the report has all.
const MOST_LISTED: usize = 20;
/// Kinds of request that a replay tells apart.
const MOST_TOLD: usize = 1_000;

/// How a draft is written.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The policy's name.
    pub name: String,
    /// Who answers for its rules; else each upstream's owner.
    pub owner: Option<String>,
    /// `**` may be written.
    pub rest: bool,
    /// When it is written.
    pub now: Timestamp,
}

/// One rule of it.
#[derive(Debug)]
struct Rule {
    id: String,
    whose: Whose,
    methods: Vec<Box<str>>,
    tally: Tally,
    patterns: Vec<Pattern>,
    grant: Grant,
    peak: u32,
    hours: Option<String>,
    also: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    /// As `grant:` writes it; `None` for a tunnel.
    name: Option<Box<str>>,
    /// What could be meant as well.
    others: Vec<Arc<str>>,
}

/// The least rules for a window of traffic.
#[derive(Debug)]
pub struct Draft {
    terms: Terms,
    seen: Tally,
    days: i64,
    rules: Vec<Rule>,
    names: BTreeMap<Box<str>, String>,
    owners: BTreeMap<Box<str>, Arc<str>>,
    apart: BTreeMap<(Box<str>, Box<str>), Tally>,
}

/// What the replay of the window says of a draft.
#[derive(Debug, Default)]
pub struct Verified {
    /// Requests that it was learnt from.
    pub learnt: u64,
    /// Of those, allowed by it.
    pub allowed: u64,
    /// Those that it does not allow: a mistake of ours.
    pub missed: BTreeMap<Box<str>, Tally>,
    /// Refused in the window, and allowed by it.
    pub opened: BTreeMap<Box<str>, Tally>,
}

impl Draft {
    /// Writes the rules of what was learnt.
    #[must_use]
    pub fn new(lessons: Lessons, catalogue: &Catalogue, terms: Terms) -> Self {
        let (seen, days) = (lessons.seen.clone(), lessons.days());
        let Finished { groups, apart } = lessons.finish(terms.rest);
        let names = aliases(groups.iter().map(|(whose, _)| whose.workload.clone()).collect());
        let owner = |name: &str| catalogue.by_name(name).map(|upstream| Arc::clone(&upstream.owner));
        let owners = groups.iter().filter_map(|(whose, _)| Some((whose.upstream.clone(), owner(&whose.upstream)?))).collect();
        let mut rules: Vec<Rule> = Vec::new();
        for (whose, learnt) in groups {
            let grant = grant(&whose, &learnt, catalogue);
            match rules.iter_mut().find(|rule| rule.is_alike(&whose, &learnt, &grant)) {
                Some(rule) => rule.absorb(&whose, &learnt),
                None => rules.push(Rule::new(whose, learnt, grant, days)),
            }
        }
        let mut taken = BTreeSet::new();
        for rule in &mut rules {
            rule.id = unique(&rule.name(&names), &mut taken);
        }
        Self { terms, seen, days, rules, names, owners, apart }
    }

    /// How many rules it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether nothing was learnt.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The policy file.
    #[must_use]
    pub fn text(&self, verified: Option<&Verified>) -> String {
        let mut text = String::new();
        self.head(&mut text, verified);
        for rule in &self.rules {
            rule.write(&mut text, self);
        }
        self.foot(&mut text);
        text
    }

    fn head(&self, text: &mut String, verified: Option<&Verified>) {
        let date = |time: Option<Timestamp>| time.map_or_else(String::new, |time| time.strftime("%Y-%m-%d").to_string());
        let (first, last) = (date(self.seen.first), date(self.seen.last));
        let _written = writeln!(text, "# Suggested from traffic: {}, {} days.", self.seen.sentence(), self.days);
        if let Some(verified) = verified {
            let _written = writeln!(text, "# Replayed: {} of {} requests are allowed by these rules.", verified.allowed, verified.learnt);
        }
        text.push_str(
            "# Every rule is a shadow: it changes nothing before somebody has read it, narrowed it and taken `mode: shadow` out.\n",
        );
        let _written = writeln!(text, "exeat: policy/v1\nname: {}\ndefaults:", quoted(&self.terms.name));
        if let Some(owner) = &self.terms.owner {
            let _written = writeln!(text, "  owner: {}", quoted(owner));
        }
        let ends = self.terms.now.checked_add(jiff::SignedDuration::from_hours(24 * DAYS)).unwrap_or(self.terms.now);
        let _written = writeln!(text, "  reason: {}", quoted(&format!("learnt from traffic of {first} to {last}; not yet signed")));
        let _written = writeln!(text, "  expires: {}\n  mode: shadow", ends.strftime("%Y-%m-%d"));
        text.push_str("identities:\n");
        for (id, name) in &self.names {
            let _written = writeln!(text, "  {name}: {{ spiffe: {} }}", quoted(id));
        }
        text.push_str("rules:\n");
    }

    /// What was not learnt from.
    fn foot(&self, text: &mut String) {
        if self.apart.is_empty() {
            return;
        }
        text.push_str("# Not suggested:\n");
        for ((why, what), tally) in self.apart.iter().take(MOST_LISTED) {
            let _written = writeln!(text, "#   {what}: {} ({why})", tally.sentence());
        }
        if self.apart.len() > MOST_LISTED {
            let _written = writeln!(text, "#   and {} more", self.apart.len() - MOST_LISTED);
        }
    }

    /// What the rules let through that was never seen, what was set apart, and how the replay went: for people.
    #[must_use]
    pub fn report(&self, verified: &Verified) -> String {
        let mut text = String::new();
        let _written = writeln!(text, "learnt     {}, {} days, {} rules", self.seen.sentence(), self.days, self.rules.len());
        let _written = writeln!(text, "replay     {} of {} requests are allowed by the suggestion", verified.allowed, verified.learnt);
        for (what, tally) in &verified.missed {
            let _written = writeln!(text, "  NOT ALLOWED {what}: {}", tally.sentence());
        }
        text.push_str("excess     what it would allow and nobody has asked for yet\n");
        let mut wide = false;
        for rule in &self.rules {
            for pattern in rule.patterns.iter().filter(|pattern| pattern.is_wide()) {
                wide = true;
                let _written = writeln!(text, "  {} {}: {}", rule.id, shown(&pattern.text()), excess(pattern));
            }
            if rule.patterns.is_empty() {
                wide = true;
                let _written = writeln!(text, "  {}: a tunnel; whatever is said inside it", rule.id);
            }
            for path in rule.also.iter().take(MOST_LISTED) {
                let _written = writeln!(text, "  {} {path}: only answered with 4xx, and matched all the same", rule.id);
            }
        }
        if !wide {
            text.push_str("  nothing: every path is literal\n");
        }
        if !verified.opened.is_empty() {
            text.push_str("look       refused in this window, and allowed by the suggestion\n");
            for (what, tally) in &verified.opened {
                let _written = writeln!(text, "  {what}: {}, traces {}", tally.sentence(), tally.traces.join(" "));
            }
        }
        if !self.apart.is_empty() {
            text.push_str("apart      not learnt from\n");
            for ((why, what), tally) in &self.apart {
                let _written = writeln!(text, "  {what}: {} ({why})", tally.sentence());
            }
        }
        text
    }

    /// The same for programs.
    #[must_use]
    pub fn to_json(&self, verified: &Verified) -> serde_json::Value {
        let tallies = |map: &BTreeMap<Box<str>, Tally>| {
            map.iter().map(|(what, tally)| (what.to_string(), tally.to_json())).collect::<serde_json::Map<_, _>>()
        };
        let rules = self.rules.iter().map(|rule| {
            let paths = rule.patterns.iter().map(|pattern| {
                serde_json::json!({ "path": pattern.text(), "evidence": pattern.tally.to_json(), "paths_seen": pattern.paths, "wide": pattern.is_wide() })
            });
            serde_json::json!({
                "id": rule.id, "workload": rule.whose.workload, "upstream": rule.whose.upstream, "methods": rule.methods,
                "grant": rule.grant.name, "evidence": rule.tally.to_json(), "paths": paths.collect::<Vec<_>>(), "usual_peak_per_second": rule.peak,
                "also_matched": rule.also,
            })
        });
        let apart =
            self.apart.iter().map(|((why, what), tally)| serde_json::json!({ "what": what, "why": why, "evidence": tally.to_json() }));
        serde_json::json!({
            "policy": self.text(Some(verified)),
            "days": self.days,
            "evidence": self.seen.to_json(),
            "rules": rules.collect::<Vec<_>>(),
            "apart": apart.collect::<Vec<_>>(),
            "replay": {
                "learnt": verified.learnt, "allowed": verified.allowed,
                "missed": tallies(&verified.missed), "opened": tallies(&verified.opened),
            },
        })
    }
}

impl Verified {
    /// Asks the compiled draft about one record of the window.
    pub fn add(&mut self, questions: &mut Questions<'_>, set: &PolicySet, draft: &Draft, time: Timestamp, record: &Recorded) {
        let learnt = passed(record) && draft.learnt(questions, record);
        if !learnt && record.decision.as_ref() != "deny" {
            return;
        }
        let allowed = allows(questions, set, time, record);
        let what = || {
            let text = |text: &Option<Box<str>>| text.clone().unwrap_or_default();
            let line = format!("{} {} {} {}", text(&record.workload), record.method, text(&record.upstream), shape::pattern(&record.path));
            shown(&line).into_owned().into_boxed_str()
        };
        if learnt {
            self.learnt += 1;
            self.allowed += u64::from(allowed);
        }
        let list = match (learnt, allowed) {
            (true, false) => &mut self.missed,
            (false, true) => &mut self.opened,
            (true, true) | (false, false) => return,
        };
        let what = what();
        if list.len() < MOST_TOLD || list.contains_key(&what) {
            list.entry(what).or_default().add(time, &record.trace_id);
        }
    }

    /// Whether every request that was learnt from is allowed.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.learnt == self.allowed
    }
}

impl Draft {
    /// Whether a record that passed is one that the rules were made for: not one whose path only ever failed.
    fn learnt(&self, questions: &Questions<'_>, record: &Recorded) -> bool {
        let of = |rule: &&Rule| {
            rule.whose.tunnel == record.tunnel
                && Some(&rule.whose.workload) == record.workload.as_ref()
                && Some(&rule.whose.upstream) == record.upstream.as_ref()
                && rule.methods.contains(&record.method)
        };
        if questions.upstream(record).map_or(true, |upstream| upstream.intercept == record.tunnel) {
            return false;
        }
        let failed = record.status.is_some_and(|status| (400..500).contains(&status));
        if !failed {
            let sayable = || Readings::of(&record.path).is_ok_and(|readings| readings.iter().all(is_sayable));
            return record.tunnel || sayable();
        }
        // Of a path that failed now and then the others tell; one that only failed is either covered or set apart.
        let Some(rule) = self.rules.iter().find(of) else { return false };
        record.tunnel
            || Readings::of(&record.path)
                .is_ok_and(|readings| readings.iter().all(|reading| is_sayable(reading) && super::trie::covers(&rule.patterns, reading)))
    }
}

impl Rule {
    fn new(whose: Whose, learnt: Learnt, grant: Grant, days: i64) -> Self {
        let hours = (days >= 10).then(|| hours(&learnt)).flatten();
        Self {
            id: String::new(),
            methods: vec![whose.method.clone()],
            tally: learnt.tally,
            patterns: learnt.patterns,
            grant,
            peak: learnt.pace.usual_peak(),
            hours,
            also: learnt.also,
            whose,
        }
    }

    /// Whether another method of the same workload and upstream goes to the very same paths: one rule then says no more than two.
    fn is_alike(&self, whose: &Whose, learnt: &Learnt, grant: &Grant) -> bool {
        let texts = |patterns: &[Pattern]| patterns.iter().map(Pattern::text).collect::<Vec<_>>();
        self.whose.workload == whose.workload
            && self.whose.upstream == whose.upstream
            && self.whose.tunnel == whose.tunnel
            && self.grant == *grant
            && texts(&self.patterns) == texts(&learnt.patterns)
    }

    fn absorb(&mut self, whose: &Whose, learnt: &Learnt) {
        self.methods.push(whose.method.clone());
        self.tally.merge(&learnt.tally);
        for (own, other) in self.patterns.iter_mut().zip(&learnt.patterns) {
            own.tally.merge(&other.tally);
            own.paths = own.paths.max(other.paths);
        }
        self.peak = self.peak.saturating_add(learnt.pace.usual_peak());
        self.hours = None;
        self.also.extend(learnt.also.iter().cloned());
    }

    fn name(&self, names: &BTreeMap<Box<str>, String>) -> String {
        let workload = names.get(&self.whose.workload).map_or("workload", String::as_str);
        let methods = if self.whose.tunnel { "tunnel".to_owned() } else { self.methods.join("-").to_lowercase() };
        plain(&format!("{workload}-{}-{methods}", self.whose.upstream))
    }

    fn write(&self, text: &mut String, draft: &Draft) {
        let _written = writeln!(text, "  # {}; traces {}", self.tally.sentence(), self.tally.traces.join(" "));
        if self.peak > 1 {
            let _written = writeln!(text, "  # usual peak {} a second; twice that would be a limit", self.peak);
        }
        if let Some(hours) = &self.hours {
            let _written = writeln!(text, "  # {hours}");
        }
        let from = draft.names.get(&self.whose.workload).map_or("", String::as_str);
        let _written = writeln!(text, "  - id: {}\n    effect: allow\n    mode: shadow", self.id);
        if draft.terms.owner.is_none()
            && let Some(owner) = draft.owners.get(&self.whose.upstream)
        {
            let _written = writeln!(text, "    owner: {}", quoted(owner));
        }
        let _written = writeln!(text, "    from: [{from}]\n    to: [{}]", self.whose.upstream);
        if self.whose.tunnel {
            text.push_str("    tunnel: true\n");
            return;
        }
        let methods: Vec<String> = self.methods.iter().map(|method| word(method)).collect();
        let _written = writeln!(text, "    methods: [{}]\n    paths:", methods.join(", "));
        for pattern in &self.patterns {
            let _written = writeln!(text, "      - {} # {}", quoted(&pattern.text()), evidence(pattern));
        }
        if let Some(grant) = &self.grant.name {
            let _written = write!(text, "    grant: {grant}");
            if !self.grant.others.is_empty() {
                let _written = write!(text, " # or: {}", self.grant.others.join(", "));
            }
            text.push('\n');
        }
    }
}

/// What this traffic carried; else the upstream's first credential, and the others as a question.
fn grant(whose: &Whose, learnt: &Learnt, catalogue: &Catalogue) -> Grant {
    let bound: &[Arc<str>] = catalogue.by_name(&whose.upstream).map_or(&[], |upstream| &upstream.credentials);
    if whose.tunnel {
        return Grant { name: None, others: Vec::new() };
    }
    let used = learnt.credentials.iter().filter(|(name, _)| bound.iter().any(|bound| **bound == ***name)).max_by_key(|(_, count)| **count);
    let chosen: Box<str> = match (used, bound) {
        (Some((name, _)), _) => name.clone(),
        (None, [first, ..]) => (**first).into(),
        (None, []) => "none".into(),
    };
    let others = bound.iter().filter(|name| used.is_none() && ***name != *chosen).cloned().collect();
    Grant { name: Some(chosen), others }
}

fn evidence(pattern: &Pattern) -> String {
    if !pattern.is_wide() {
        return pattern.tally.count.to_string();
    }
    let examples: Vec<&str> = pattern
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Any { examples, .. } => examples.first().map(|text| &**text),
            Part::Literal(_) | Part::Rest => None,
        })
        .collect();
    if examples.is_empty() {
        return format!("{}; a value in it is not recorded, or cannot be written", pattern.tally.count);
    }
    format!("{}, {} different, as {}", pattern.tally.count, pattern.paths, shown(&examples.join(" ")))
}

fn excess(pattern: &Pattern) -> String {
    let part = |part: &Part| match part {
        Part::Any { values, examples } if examples.is_empty() => {
            Some(format!("`*` stands for {values} that cannot be written, and is any value"))
        }
        Part::Any { values, .. } => Some(format!("`*` was seen with {values} values, and is any value")),
        Part::Rest => Some("`**` is everything beneath".to_owned()),
        Part::Literal(_) => None,
    };
    let parts: Vec<String> = pattern.parts.iter().filter_map(part).collect();
    format!("{} different paths seen; {}", pattern.paths, parts.join("; "))
}

fn hours(learnt: &Learnt) -> Option<String> {
    let days = if learnt.pace.only_weekdays() { "mon-fri" } else { "every day" };
    match learnt.pace.hours() {
        Some((from, to)) => Some(format!("all of it {days} from {from:02}:00 to {to:02}:00 UTC; a window could say so")),
        None if learnt.pace.only_weekdays() => Some("all of it mon-fri (UTC); a window could say so".to_owned()),
        None => None,
    }
}

/// Short names for workloads: the service account or last segment, with more in front of it where two would be called alike.
fn aliases(ids: BTreeSet<Box<str>>) -> BTreeMap<Box<str>, String> {
    let mut names = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for id in ids {
        let parts: Vec<&str> = id.split('/').filter(|part| !matches!(*part, "ns" | "sa")).collect();
        let last = parts.last().copied().unwrap_or("workload");
        let longer = parts.iter().rev().take(2).rev().copied().collect::<Vec<_>>().join("-");
        let name = if taken.contains(&plain(last)) { plain(&longer) } else { plain(last) };
        let name = unique(&name, &mut taken);
        names.insert(id, name);
    }
    names
}

fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut candidate = name.to_owned();
    let mut number = 2;
    while !taken.insert(candidate.clone()) {
        candidate = format!("{name}-{number}");
        number += 1;
    }
    candidate
}

/// As names are written: lower-case letters, digits and `-`.
fn plain(text: &str) -> String {
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name = name.trim_matches('-');
    if name.starts_with(|c: char| c.is_ascii_lowercase()) { name.to_owned() } else { format!("x-{name}") }
}

/// A method as YAML writes it.
fn word(method: &str) -> String {
    if method.bytes().all(|byte| byte.is_ascii_uppercase()) { method.to_owned() } else { quoted(method) }
}

/// A double-quoted YAML scalar: JSON's, with whatever a terminal could stumble over escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_ascii_graphic() || c == ' ' => quoted.push(c),
            c => {
                let mut units = [0; 2];
                let code = u32::from(c);
                let _written = match c.encode_utf16(&mut units) {
                    [_] => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
            }
        }
    }
    quoted.push('"');
    quoted
}
