//! `lease` and `limits`: what an allow rule wants beside its grant.

use std::time::Duration;

use super::rules::Team;
use crate::live::{Binding, LEASE_CEILING, LeaseTerms, LimitTerms, MOST_USES, Per, Quota, Rate, Whose, bindings};
use crate::policy::document::{Effect, LeaseWritten, LimitsWritten, OneOrMore, RuleWritten, WhoseWritten};
use crate::written::Spanned;

/// Most of a rate in a second; more is no limit.
const MOST_RATE: u32 = 1_000_000;
const RATE_HINT: &str = "write a number and a time, as in `50/s`, `600/minute` or `1000/hour`";
const QUOTA_HINT: &str = "write a number and a window, as in `20/day`, `100/hour` or `10/minute`";

impl Team<'_, '_> {
    /// The words of a rule; `None` where one of them is not sound.
    pub(super) fn terms(&mut self, written: &RuleWritten) -> Option<(Option<LeaseTerms>, Option<LimitTerms>)> {
        let effect = written.effect.value;
        if effect != Effect::Allow {
            let asked = "write it on the allow rules; `when: lease.active` asks for a lease anywhere";
            let words = [
                (written.lease.as_ref().map(|word| word.at), "lease", asked),
                (written.limits.as_ref().map(|word| word.at), "limits", "write it on the allow rules"),
            ];
            let mut sound = true;
            for (at, word, hint) in words {
                let Some(at) = at else { continue };
                sound = false;
                self.report.error_hint(at, format!("`{word}` belongs to allow rules, this is a {}", effect.name()), hint);
            }
            return sound.then_some((None, None));
        }
        let lease = written.lease.as_ref().map(|lease| self.lease(&lease.value));
        let limits = written.limits.as_ref().map(|limits| self.limits(limits));
        match (lease, limits) {
            (Some(None), _) | (_, Some(None)) => None,
            (lease, limits) => Some((lease.flatten(), limits.flatten())),
        }
    }

    fn lease(&mut self, written: &LeaseWritten) -> Option<LeaseTerms> {
        let kind = &written.kind;
        let sound = crate::live::is_attribute(&kind.value);
        if !sound {
            let message = format!("`{}` is no kind of a lease", kind.value);
            self.report.error_hint(kind.at, message, "a kind has 1 to 64 of a-z, A-Z, 0-9, `.`, `-` and `_`");
        }
        let max_ttl = match &written.max_ttl {
            None => Some(None),
            Some(ttl) => ttl.build(self.report, Duration::from_secs(1), LEASE_CEILING).map(Some),
        };
        let max_uses = match &written.max_uses {
            None => Some(None),
            Some(uses) if uses.value == 0 || uses.value > u64::from(MOST_USES) => {
                let message = format!("`max_uses: {}` is out of bounds: at least 1, at most {MOST_USES}", uses.value);
                self.report.error_hint(uses.at, message, "leave it out for as many as the lease itself has");
                None
            }
            Some(uses) => u32::try_from(uses.value).ok().map(Some),
        };
        let bound = match &written.bind {
            None => Some((false, false)),
            Some(bind) => self.bind(bind),
        };
        let (max_ttl, max_uses, (uid, pod)) = (max_ttl?, max_uses?, bound?);
        sound.then(|| LeaseTerms { kind: kind.value.as_str().into(), max_ttl, max_uses, uid, pod })
    }

    /// Whether the lease must be bound to the uid, and whether to the pod.
    fn bind(&mut self, written: &Spanned<OneOrMore>) -> Option<(bool, bool)> {
        let mut bound = Some((false, false));
        for word in OneOrMore::each(written) {
            match bindings().iter().find(|(known, _)| *known == word.value) {
                Some((_, Ok(Binding::Identity))) => {}
                Some((_, Ok(Binding::Uid))) => bound = bound.map(|(_, pod)| (true, pod)),
                Some((_, Ok(Binding::Pod))) => bound = bound.map(|(uid, _)| (uid, true)),
                Some((_, Err(what))) => {
                    let message = format!("no identity proves `{}` yet: it comes with {what}", word.value);
                    self.report.error_hint(word.at, message, "remove it until then; a lease is always bound to the workload");
                    bound = None;
                }
                None => {
                    let known: Vec<&str> = bindings().iter().filter(|(_, proof)| proof.is_ok()).map(|(word, _)| *word).collect();
                    self.report.unknown_name(word.at, "binding", word.value, &known);
                    bound = None;
                }
            }
        }
        bound
    }

    fn limits(&mut self, written: &Spanned<LimitsWritten>) -> Option<LimitTerms> {
        let LimitsWritten { rate, burst, quota, per } = &written.value;
        if rate.is_none() && quota.is_none() {
            self.report.error_hint(written.at, "`limits` limits nothing", "write a `rate`, a `quota`, or both");
            return None;
        }
        if let (Some(burst), None) = (burst, rate) {
            self.report.error_hint(burst.at, "a burst belongs to a rate", "write `rate`, or remove `burst`");
            return None;
        }
        let rate = match rate {
            None => Some(None),
            Some(rate) => self.rate(rate, burst.as_ref()).map(Some),
        };
        let quota = match quota {
            None => Some(None),
            Some(quota) => self.quota(quota).map(Some),
        };
        let whose = match per {
            Some(WhoseWritten::Rule) => Whose::Rule,
            Some(WhoseWritten::Workload) | None => Whose::Workload,
        };
        Some(LimitTerms { rate: rate?, quota: quota?, whose })
    }

    fn rate(&mut self, written: &Spanned<String>, burst: Option<&Spanned<u64>>) -> Option<Rate> {
        let (count, per) = self.count("rate", written, RATE_HINT)?;
        if per == Per::Day {
            let hint = "write `quota: N/day`; a bucket that fills for a day is a quota that nobody can foresee";
            self.report.error_hint(written.at, "a rate is by second, minute or hour", hint);
            return None;
        }
        let Some(burst) = burst else { return Some(Rate { count, per, burst: count }) };
        let most = u64::from(MOST_RATE);
        if !(1..=most).contains(&burst.value) {
            let message = format!("`burst: {}` is out of bounds: at least 1, at most {most}", burst.value);
            self.report.error_hint(burst.at, message, "write how many may come at once");
            return None;
        }
        u32::try_from(burst.value).ok().map(|burst| Rate { count, per, burst })
    }

    fn quota(&mut self, written: &Spanned<String>) -> Option<Quota> {
        let (count, per) = self.count("quota", written, QUOTA_HINT)?;
        if per == Per::Second {
            self.report.error_hint(written.at, "a quota is by minute, hour or day", "write `rate: N/s`");
            return None;
        }
        Some(Quota { count, per })
    }

    /// `N/TIME`.
    fn count(&mut self, word: &str, written: &Spanned<String>, hint: &str) -> Option<(u32, Per)> {
        let text = written.value.as_str();
        let read = text.split_once('/').filter(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        let per = read.and_then(|(_, per)| [Per::Second, Per::Minute, Per::Hour, Per::Day].into_iter().find(|known| known.name() == per));
        let (Some((number, _)), Some(per)) = (read, per) else {
            self.report.error_hint(written.at, format!("`{text}` is no {word}"), hint);
            return None;
        };
        match number.parse::<u32>() {
            Ok(0) => {
                let message = format!("a {word} of 0 lets nothing through");
                self.report.error_hint(written.at, message, "write a deny, or remove the rule");
                None
            }
            Ok(count) if count <= MOST_RATE || word == "quota" => Some((count, per)),
            Ok(_) | Err(_) => {
                self.report.error_hint(written.at, format!("`{text}` is more than can be counted"), "remove the limit, or lower it");
                None
            }
        }
    }
}
