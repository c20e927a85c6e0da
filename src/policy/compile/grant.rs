//! `grant`: what an allow rule puts on. It can only narrow what the catalogue gives.

use std::sync::Arc;
use std::time::Duration;

use super::rules::Team;
use crate::catalogue::Profile;
use crate::policy::document::{GrantWritten, OneOrMore};
use crate::policy::permit::GrantTerms;
use crate::policy::rule::Targets;
use crate::written::Place;

/// Shortest life of a credential that can still be used before it ends.
const SHORTEST: Duration = Duration::from_secs(1);

impl Team<'_, '_> {
    /// The terms of a grant; `Some(None)` for `none`.
    #[expect(clippy::option_option, reason = "the outer one says whether the text was sound, the inner one whether a credential is put on")]
    pub(super) fn grant(&mut self, written: &GrantWritten, to: Option<&Targets>) -> Option<Option<Arc<GrantTerms>>> {
        let name = &written.credential;
        if name.value == "none" {
            let narrowed = written.scope.as_ref().map(|scope| scope.at).or(written.ttl.as_ref().map(crate::written::WrittenDuration::at));
            if let Some(at) = narrowed {
                self.report.error_hint(at, "`none` has neither scope nor ttl", "write `grant: none`");
                return None;
            }
            return Some(None);
        }
        let Some(profile) = self.world.profiles.get(name.value.as_str()).map(Arc::clone) else {
            let mut known: Vec<&str> = self.world.profiles.keys().map(|name| &**name).chain(["none"]).collect();
            known.sort_unstable();
            self.report.unknown_name(name.at, "credential", &name.value, &known);
            return None;
        };
        let bound = to.is_none_or(|to| self.is_bound(name.at, &profile, to));
        let scopes = match &written.scope {
            None => Some(profile.scopes.clone()),
            Some(scope) => self.scopes(scope.at, &OneOrMore::each(scope).map(|word| word.value.to_owned()).collect::<Vec<_>>(), &profile),
        };
        let ttl = match &written.ttl {
            None => Some(profile.ttl),
            Some(ttl) => ttl.build(self.report, SHORTEST, profile.ttl),
        };
        let (scopes, ttl) = (scopes?, ttl?);
        bound.then(|| Some(Arc::new(GrantTerms { profile, scopes, ttl })))
    }

    /// Whether every upstream of the rule lets this credential be used there.
    fn is_bound(&mut self, at: Place, profile: &Profile, to: &Targets) -> bool {
        let without: Vec<&str> = self
            .world
            .catalogue
            .all()
            .iter()
            .filter(|upstream| to.contains(upstream.index.0) && !upstream.credentials.contains(&profile.name))
            .map(|upstream| &*upstream.name)
            .collect();
        if without.is_empty() {
            return true;
        }
        let (names, more) =
            (without.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "), without.len().saturating_sub(5));
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let message = format!("credential `{}` may not be used at upstream {names}{more}", profile.name);
        self.report.error_hint(at, message, "list it in the upstream's `credentials`, or name other upstreams in `to`");
        false
    }

    /// The written scopes, if the credential knows them all.
    #[expect(
        clippy::option_option,
        reason = "the outer one says whether the text was sound, the inner one whether the credential has scopes"
    )]
    fn scopes(&mut self, at: Place, words: &[String], profile: &Profile) -> Option<Option<Arc<[Arc<str>]>>> {
        let Some(known) = &profile.scopes else {
            self.report.error_hint(at, format!("credential `{}` knows no scopes", profile.name), "remove `scope`");
            return None;
        };
        let mut wanted: Vec<Arc<str>> =
            words.iter().flat_map(|word| word.split(' ')).filter(|word| !word.is_empty()).map(Arc::from).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            self.report.error_hint(at, "the list of scopes is empty", "leave `scope` out for all of the credential's scopes");
            return None;
        }
        let names: Vec<&str> = known.iter().map(|scope| &**scope).collect();
        let mut sound = true;
        for word in wanted.iter().filter(|word| !known.contains(word)) {
            sound = false;
            self.report.unknown_name(at, "scope", word, &names);
        }
        sound.then(|| Some(wanted.into()))
    }
}
