//! One file's rules, each judged by itself.

use std::sync::Arc;

use http::Method;
use rustc_hash::FxHashSet;

use super::conditions::Conditions;
use super::driver::{Loaded, World};
use super::names::{Meaning, Names};
use crate::clock::Timestamp;
use crate::policy::decision::RuleRef;
use crate::policy::document::{Defaults, Effect, Mode, OneOrMore, RuleWritten};
use crate::policy::pattern::{IdentityPattern, PathPattern};
use crate::policy::permit::GrantTerms;
use crate::policy::rule::{MethodTable, Methods, Rule, Targets};
use crate::policy::window::Window;
use crate::written::{Place, Report, Spanned};

/// A rule, and where it stands.
pub(super) struct Draft {
    pub(super) rule: Rule,
    pub(super) place: RulePlace,
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct RulePlace {
    pub(super) file: usize,
    /// Of its id.
    pub(super) at: Place,
    /// Of its condition.
    pub(super) when: Option<Place>,
}

/// One file while its rules are read.
pub(super) struct Team<'a, 'w> {
    pub(super) world: &'a World<'w>,
    pub(super) file: &'a Loaded<'a>,
    pub(super) number: usize,
    pub(super) names: &'a Names<'a>,
    pub(super) conditions: &'a Conditions,
    pub(super) methods: &'a mut MethodTable,
    pub(super) report: &'a mut Report,
}

/// What a rule selects by.
struct Selector {
    from: Vec<IdentityPattern>,
    to: Targets,
    methods: Methods,
    paths: Vec<PathPattern>,
}

impl<'a> Team<'a, '_> {
    /// All rules of the file that are sound; mistakes go to the report.
    pub(super) fn rules(&mut self) -> Vec<Draft> {
        let document = &self.file.document;
        if !is_name(&document.name.value) {
            self.report.error_hint(document.name.at, format!("`{}` is no name for a policy", document.name.value), NAME_HINT);
        }
        for (word, hint) in [
            (&document.stage, "the stage belongs to the upstream, in the catalogue; `mode: shadow` rehearses a rule"),
            (&document.destinations, "hosts are written once, in the catalogue; `to` names its upstreams"),
        ] {
            if let Some(word) = word {
                self.report.error_hint(word.at, "this field has no place in a policy file", hint);
            }
        }
        let mut ids = FxHashSet::default();
        let mut drafts = Vec::new();
        for written in &document.rules {
            if !is_name(&written.id.value) {
                self.report.error_hint(written.id.at, format!("`{}` is no id for a rule", written.id.value), NAME_HINT);
            } else if !ids.insert(written.id.value.as_str()) {
                self.report.error_hint(
                    written.id.at,
                    format!("another rule of this file has the id `{}`", written.id.value),
                    "give each rule an id of its own",
                );
            }
            drafts.extend(self.rule(&document.defaults, written));
        }
        drafts
    }

    /// One rule. Every part is read, whatever is wrong with the others.
    fn rule(&mut self, defaults: &'a Defaults, written: &'a RuleWritten) -> Option<Draft> {
        let known = self.known_words(written);
        let tunnel = self.tunnel(written);
        let shadow = written.mode.or(defaults.mode) == Some(Mode::Shadow);
        let selector = self.selector(defaults, written, tunnel);
        let grant = self.effect_words(written, selector.as_ref().map(|selector| &selector.to));
        let terms = self.terms(written);
        let floor = self.floor(written, shadow);
        let condition = self.condition(written);
        let windows: Vec<Option<Window>> = written.windows.iter().map(|window| Window::build(window, self.report)).collect();
        let windows: Option<Box<[Window]>> = windows.into_iter().collect();
        let dates = self.dates(defaults, written);
        let (owner, reason) = self.owner(defaults, written);
        if !known {
            return None;
        }
        let (Selector { from, to, methods, paths }, (not_before, expires), (lease, limits)) = (selector?, dates?, terms?);
        let name = RuleRef {
            id: format!("{}/{}", self.file.document.name.value, written.id.value).into(),
            place: format!("{}:{}", self.file.source.name, written.id.at).into(),
            owner: owner?,
        };
        let rule = Rule {
            name,
            effect: written.effect.value,
            shadow,
            floor: floor?,
            tunnel: tunnel?,
            from,
            to,
            methods,
            paths,
            condition: condition?,
            windows: windows?,
            not_before,
            expires,
            grant: grant?,
            lease,
            limits,
            reason: reason?,
        };
        Some(Draft { rule, place: RulePlace { file: self.number, at: written.id.at, when: written.when.as_ref().map(|when| when.at) } })
    }

    /// Words that this binary does not know yet, or that stand in the wrong file.
    fn known_words(&mut self, written: &RuleWritten) -> bool {
        let mut known = true;
        if let Some(word) = &written.mcp {
            known = false;
            let message = "this binary does not know `mcp`: tool calls come with a later version";
            self.report.error_hint(word.at, message, "remove the field until then");
        }
        if let Some(word) = &written.stage {
            known = false;
            self.report.error_hint(
                word.at,
                "a rule has no stage",
                "the stage belongs to the upstream, in the catalogue; `mode: shadow` rehearses a rule",
            );
        }
        known
    }

    fn tunnel(&mut self, written: &RuleWritten) -> Option<bool> {
        let Some(tunnel) = written.tunnel.as_ref().filter(|tunnel| tunnel.value) else { return Some(false) };
        if written.effect.value != Effect::Allow {
            let hint = "a deny without `methods` and `paths` covers tunnels too";
            self.report.error_hint(tunnel.at, format!("`tunnel` belongs to allow rules, this is a {}", written.effect.value.name()), hint);
            return None;
        }
        let inside = [&written.methods, &written.paths].into_iter().flatten().next();
        if let Some(word) = inside {
            self.report.error_hint(
                word.at,
                "a tunnel is judged by its host alone: its methods and paths cannot be seen",
                "remove `methods` and `paths`, or `tunnel`",
            );
            return None;
        }
        Some(true)
    }

    fn selector(&mut self, defaults: &Defaults, written: &RuleWritten, tunnel: Option<bool>) -> Option<Selector> {
        let from = written.from.as_ref().or(defaults.from.as_ref());
        let to = written.to.as_ref().or(defaults.to.as_ref());
        for (word, name, hint) in [
            (from, "from", "name workloads in `from`, here or in `defaults`"),
            (to, "to", "name upstreams of the catalogue in `to`, here or in `defaults`"),
        ] {
            if word.is_none() {
                self.missing(written, name, hint);
            }
        }
        let from = from.and_then(|from| self.from(from));
        let to = to.and_then(|to| self.to(to, tunnel == Some(true)));
        // A deny that names neither covers everything; nothing else may leave them to chance.
        let all = tunnel != Some(false) || written.mcp.is_some() || written.effect.value == Effect::Deny;
        if !all && written.methods.is_none() {
            self.missing(written, "methods", "name them, as in `[GET, HEAD]`; `\"*\"` is every method");
        }
        if !all && written.paths.is_none() {
            self.missing(written, "paths", "name them, as in `[/v1/charges, \"/v1/charges/**\"]`; `\"/**\"` is every path");
        }
        let methods = match &written.methods {
            Some(methods) => self.methods(methods),
            None => all.then_some(Methods::ALL),
        };
        let paths = match &written.paths {
            Some(paths) => self.paths(paths),
            None => all.then(|| vec![PathPattern::all()]),
        };
        Some(Selector { from: from?, to: to?, methods: methods?, paths: paths? })
    }

    fn missing(&mut self, written: &RuleWritten, field: &str, hint: &str) {
        let (effect, id) = (written.effect.value.name(), &written.id.value);
        self.report.error_hint(written.id.at, format!("{effect} rule `{id}` has no `{field}`"), hint);
    }

    fn from(&mut self, written: &Spanned<OneOrMore>) -> Option<Vec<IdentityPattern>> {
        let found: Vec<_> = OneOrMore::each(written).map(|text| self.identity(text)).collect();
        self.sound("from", written.at, found)
    }

    fn identity(&mut self, text: Spanned<&str>) -> Option<IdentityPattern> {
        let literal = text.value == "**" || text.value.contains("://");
        let pattern = if literal {
            match IdentityPattern::parse(text.value) {
                Ok(pattern) => pattern,
                Err(error) => {
                    let hint = "write it as in `spiffe://prod.example/ns/billing/**`";
                    self.report.error_hint(text.at, format!("`{}` is no identity: {error}", text.value), hint);
                    return None;
                }
            }
        } else {
            match self.names.find(self.number, &self.file.source.name, text.value) {
                Meaning::One(pattern) => pattern,
                Meaning::Disputed => {
                    let message = format!("the files of this directory mean different workloads by `{}`", text.value);
                    self.report.error_hint(text.at, message, "declare it in this file, or give the two different names");
                    return None;
                }
                Meaning::Unknown => {
                    let known = self.names.known(&self.file.source.name);
                    self.report.unknown_name(text.at, "identity", text.value, &known);
                    return None;
                }
            }
        };
        if !self.file.bounds.allow_identity(&pattern) {
            let hint = "name workloads within the bounds, or ask whoever owns the configuration to widen `bounds`";
            self.report.error_hint(text.at, format!("`{pattern}` is outside the bounds of this directory"), hint);
            return None;
        }
        Some(pattern)
    }

    fn to(&mut self, written: &Spanned<OneOrMore>, tunnel: bool) -> Option<Targets> {
        let mut found: Vec<Option<(u32, Arc<str>)>> = Vec::new();
        let mut all = false;
        for text in OneOrMore::each(written) {
            if text.value == "*" && self.file.bounds.is_all() && !tunnel {
                all = true;
            } else {
                let upstream = self.upstream(text, tunnel);
                found.push(upstream);
            }
        }
        if all && found.iter().all(Option::is_some) {
            return Some(Targets::All);
        }
        let mut named = self.sound("to", written.at, found)?;
        named.sort_unstable();
        named.dedup();
        Some(Targets::Named(named))
    }

    fn upstream(&mut self, text: Spanned<&str>, tunnel: bool) -> Option<(u32, Arc<str>)> {
        if text.value == "*" {
            let message = if tunnel { "a tunnel rule names its upstreams" } else { "`*` is outside the bounds of this directory" };
            self.report.error_hint(text.at, message, "name the upstreams in `to`");
            return None;
        }
        let Some(upstream) = self.world.catalogue.by_name(text.value) else {
            let known: Vec<&str> = self.world.catalogue.all().iter().map(|upstream| &*upstream.name).collect();
            self.report.unknown_name(text.at, "upstream", text.value, &known);
            return None;
        };
        if !self.file.bounds.allow_upstream(&upstream.name) {
            let hint = "name upstreams within the bounds, or ask whoever owns the configuration to widen `bounds`";
            self.report.error_hint(text.at, format!("upstream `{}` is outside the bounds of this directory", upstream.name), hint);
            return None;
        }
        if tunnel && upstream.intercept {
            let hint = "write a rule with `methods` and `paths`; tunnels are for upstreams with `intercept: false`";
            self.report.error_hint(
                text.at,
                format!("upstream `{}` is intercepted: a tunnel rule never matches there", upstream.name),
                hint,
            );
            return None;
        }
        Some((upstream.index.0, Arc::clone(&upstream.name)))
    }

    fn methods(&mut self, written: &Spanned<OneOrMore>) -> Option<Methods> {
        let found: Vec<_> = OneOrMore::each(written).map(|text| self.method(text)).collect();
        self.sound("methods", written.at, found).map(|all| Methods(all.iter().fold(0, |bits, methods| bits | methods.0)))
    }

    fn method(&mut self, text: Spanned<&str>) -> Option<Methods> {
        if text.value == "*" {
            return Some(Methods::ALL);
        }
        let upper = text.value.to_ascii_uppercase();
        if upper != text.value {
            self.report.error_hint(
                text.at,
                format!("methods are in upper case: `{}` would never match", text.value),
                format!("write `{upper}`"),
            );
            return None;
        }
        let Ok(method) = Method::from_bytes(text.value.as_bytes()) else {
            self.report.error_hint(text.at, format!("`{}` is no method", text.value), "write it as in `[GET, POST]`");
            return None;
        };
        let bits = self.methods.learn(&method);
        if bits.is_none() {
            self.report.error_hint(
                text.at,
                "the policies name more than 48 methods of their own",
                "write `\"*\"` with a condition on `request.method`",
            );
        }
        bits
    }

    fn paths(&mut self, written: &Spanned<OneOrMore>) -> Option<Vec<PathPattern>> {
        let mut found: Vec<Option<PathPattern>> = Vec::new();
        for text in OneOrMore::each(written) {
            let pattern = PathPattern::parse(text.value);
            if let Err(error) = &pattern {
                self.report.error_hint(
                    text.at,
                    format!("`{}` is no path pattern: {error}", text.value),
                    "write it as in `/v1/charges`, `/v1/*/refund`, `/v1/**`",
                );
            }
            found.push(pattern.ok());
        }
        self.sound("paths", written.at, found)
    }

    /// All of a list, if it has any and each is sound.
    fn sound<T>(&mut self, field: &str, at: Place, found: Vec<Option<T>>) -> Option<Vec<T>> {
        if found.is_empty() {
            self.report.error_hint(at, format!("`{field}` is empty: the rule would never match"), "name something, or remove the rule");
            return None;
        }
        found.into_iter().collect()
    }

    /// What belongs to some effects only. The grant of an allow rule: `Some(None)` puts nothing on.
    #[expect(
        clippy::option_option,
        reason = "the outer one says whether the words were sound, the inner one whether a credential is put on"
    )]
    fn effect_words(&mut self, written: &RuleWritten, to: Option<&Targets>) -> Option<Option<Arc<GrantTerms>>> {
        let (effect, id) = (written.effect.value, &written.id.value);
        if effect == Effect::Deny
            && let Some(window) = written.windows.first()
        {
            self.report.error_hint(
                window.from.at,
                "a deny has no windows: outside of them it would let through",
                "write the windows on the allow rules",
            );
        }
        if effect == Effect::Require && written.when.is_none() {
            self.missing(written, "when", "say what is required; a rule that always refuses is a deny");
        }
        if effect != Effect::Allow {
            if let Some(expires) = &written.expires {
                let message = format!("a {} does not expire: after its end it would let through", effect.name());
                self.report.error_hint(expires.at(), message, "remove `expires`; take the rule out when it is no longer wanted");
            }
            if let Some(grant) = &written.grant {
                self.report.error_hint(grant.credential.at, format!("a {} grants nothing", effect.name()), "remove `grant`");
            }
            return Some(None);
        }
        let meant_as_tunnel = written.tunnel.as_ref().is_some_and(|tunnel| tunnel.value);
        match (&written.grant, meant_as_tunnel) {
            (None, true) => Some(None),
            (None, false) => {
                self.report.error_hint(
                    written.id.at,
                    format!("allow rule `{id}` has no `grant`"),
                    "name a credential of the upstream, or write `grant: none`: stripped, and nothing in its place",
                );
                None
            }
            (Some(grant), _) => {
                let terms = self.grant(grant, to);
                if meant_as_tunnel && matches!(terms, Some(Some(_))) {
                    self.report.error_hint(grant.credential.at, "nothing can be put on inside a tunnel", "remove `grant`");
                    return None;
                }
                terms
            }
        }
    }

    fn floor(&mut self, written: &RuleWritten, shadow: bool) -> Option<bool> {
        let Some(floor) = written.floor.as_ref().filter(|floor| floor.value) else { return Some(false) };
        let problem = if written.effect.value != Effect::Deny {
            Some(("`floor` belongs to deny rules", "remove it"))
        } else if !self.file.bounds.is_all() {
            Some((
                "`floor` needs `bounds: all`",
                "it refuses traffic that the upstream's owner only observes; ask whoever owns the configuration",
            ))
        } else if shadow {
            Some(("a shadow rule decides nothing, so it is no floor", "remove `floor` or `mode: shadow`"))
        } else {
            None
        };
        if let Some((message, hint)) = problem {
            self.report.error_hint(floor.at, message, hint);
            return None;
        }
        Some(true)
    }

    #[expect(clippy::option_option, reason = "the outer one says whether the text was sound, the inner one whether there is a condition")]
    fn condition(&mut self, written: &RuleWritten) -> Option<Option<u32>> {
        let Some(when) = &written.when else { return Some(None) };
        let (number, condition) = match self.conditions.find(self.file.source, when) {
            Ok(found) => found,
            Err(problems) => {
                for problem in problems {
                    self.report.push(problem);
                }
                return None;
            }
        };
        let never = condition.notes.constant == Some(false) || condition.facts.contradictory();
        if never || condition.notes.constant == Some(true) {
            let message = if never { "the condition contradicts itself: it is never true" } else { "the condition is always true" };
            self.report.error_hint(when.at, message, "conditions are for what differs from request to request: correct it or remove it");
            return None;
        }
        Some(Some(number))
    }

    fn dates(&mut self, defaults: &Defaults, written: &RuleWritten) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
        let not_before = match &written.not_before {
            None => Some(None),
            Some(time) => time.build(self.report).map(Some),
        };
        if written.effect.value != Effect::Allow {
            return not_before.map(|not_before| (not_before, None));
        }
        let Some(time) = written.expires.as_ref().or(defaults.expires.as_ref()) else {
            self.missing(written, "expires", "every allow ends: write a date, here or in `defaults`");
            return None;
        };
        let expires = time.build(self.report)?;
        if let (Some(Some(not_before)), Some(at)) = (not_before, written.not_before.as_ref().map(crate::written::WrittenTime::at))
            && not_before >= expires
        {
            self.report.error_hint(at, "the rule begins after its end", "swap `not_before` and `expires`");
            return None;
        }
        not_before.map(|not_before| (not_before, Some(expires)))
    }

    fn owner(&mut self, defaults: &'a Defaults, written: &'a RuleWritten) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let allow = written.effect.value == Effect::Allow;
        let mut read = |own: Option<&'a Spanned<String>>, field: &str, hint: &str, without: &str| {
            let text = own.filter(|text| !text.value.trim().is_empty());
            if text.is_none() && allow {
                self.missing(written, field, hint);
                return None;
            }
            Some(Arc::from(text.map_or(without, |text| text.value.trim())))
        };
        let owner =
            read(written.owner.as_ref().or(defaults.owner.as_ref()), "owner", "name who answers for it, here or in `defaults`", NOBODY);
        let reason =
            read(written.reason.as_ref().or(defaults.reason.as_ref()), "reason", "write a ticket or a sentence, here or in `defaults`", "");
        (owner, reason)
    }
}

/// The owner of a deny or require that names none.
pub(super) const NOBODY: &str = "nobody";

const NAME_HINT: &str = "write letters, digits, `-`, `_` and `.`, 64 at most";

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
