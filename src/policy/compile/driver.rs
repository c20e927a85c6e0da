//! The order of the work, and what concerns a set as a whole.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustc_hash::{FxHashMap, FxHashSet};

use super::conditions::Conditions;
use super::names::Names;
use super::rules::{Draft, Team};
use super::{conflicts, contradictions, lints, unused};
use crate::catalogue::{Catalogue, Profile};
use crate::clock::Timestamp;
use crate::policy::bounds::Bounds;
use crate::policy::certificate::{Excess, certify};
use crate::policy::document::Document;
use crate::policy::index::{Index, MOST_POSTINGS, ways};
use crate::policy::permit::GrantTerms;
use crate::policy::rule::{MethodTable, Rule};
use crate::policy::set::PolicySet;
use crate::written::{Diagnostic, Report, Source, parse};

/// One policy file and what its directory may speak of.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    /// Its text.
    pub source: Source,
    /// Of its directory.
    pub bounds: Bounds,
}

/// What rules may refer to.
pub(super) struct World<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) profiles: &'a FxHashMap<Arc<str>, Arc<Profile>>,
    pub(super) trust_domain: &'a str,
    pub(super) now: Timestamp,
}

/// A file that could be parsed.
pub(super) struct Loaded<'a> {
    pub(super) source: &'a Source,
    pub(super) bounds: &'a Bounds,
    pub(super) document: Document,
}

/// Compiles all policy files of a snapshot. `trust_domain` is what `k8s` names belong to; `now` is what ends are compared with.
///
/// # Errors
/// Everything that is wrong with any of the files, in their order. Nothing is loaded then.
#[expect(clippy::implicit_hasher, reason = "the program has one hasher for its own names")]
pub fn compile(
    files: &[PolicyFile],
    catalogue: &Catalogue,
    profiles: &FxHashMap<Arc<str>, Arc<Profile>>,
    trust_domain: &str,
    now: Timestamp,
) -> Result<(PolicySet, Vec<Diagnostic>), Vec<Diagnostic>> {
    let world = World { catalogue, profiles, trust_domain, now };
    let mut broken = Vec::new();
    let mut loaded = Vec::new();
    for file in files {
        match parse::<Document>(&file.source) {
            Ok(document) => loaded.push(Loaded { source: &file.source, bounds: &file.bounds, document }),
            Err(errors) => broken.extend(errors),
        }
    }
    let mut reports: Vec<Report> = loaded.iter().map(|file| Report::new(file.source.clone())).collect();
    let (names, conditions, drafts, methods) = read_rules(&world, &loaded, &mut reports);
    drop(names);
    let set = assemble(&world, drafts, conditions, methods, &mut reports);
    unused::look(&loaded, &mut reports);
    let mut errors = broken;
    let mut warnings = Vec::new();
    for report in reports {
        let (bad, odd) = report.finish();
        errors.extend(bad);
        warnings.extend(odd);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let revision = revision(&loaded);
    Ok((PolicySet { revision, ..set }, warnings))
}

fn read_rules<'a>(world: &World<'_>, loaded: &'a [Loaded<'a>], reports: &mut [Report]) -> (Names<'a>, Conditions, Vec<Draft>, MethodTable) {
    let names = Names::gather(world, loaded, reports);
    let conditions = Conditions::parse(loaded);
    let mut methods = MethodTable::default();
    let mut policies: FxHashSet<&str> = FxHashSet::default();
    let mut drafts = Vec::new();
    for (number, (file, report)) in loaded.iter().zip(reports.iter_mut()).enumerate() {
        let name = &file.document.name;
        if !policies.insert(name.value.as_str()) {
            report.error_hint(
                name.at,
                format!("another file holds a policy `{}` already", name.value),
                "give each policy a name of its own",
            );
        }
        let mut team = Team { world, file, number, names: &names, conditions: &conditions, methods: &mut methods, report };
        drafts.extend(team.rules());
    }
    (names, conditions, drafts, methods)
}

/// Index, certificate, conflicts and lints of the rules that are sound by themselves.
fn assemble(world: &World<'_>, drafts: Vec<Draft>, conditions: Conditions, methods: MethodTable, reports: &mut [Report]) -> PolicySet {
    let (mut rules, places): (Vec<_>, Vec<_>) = drafts.into_iter().map(|draft| (draft.rule, draft.place)).unzip();
    share_equal_grants(&mut rules);
    let conditions = conditions.into_list();
    let total: usize = rules.iter().map(|rule| ways(rule).count()).sum();
    if total > MOST_POSTINGS {
        let largest = rules.iter().zip(&places).max_by_key(|(rule, _)| ways(rule).count());
        if let Some((rule, place)) = largest
            && let Some(report) = reports.get_mut(place.file)
        {
            let count = ways(rule).count();
            let message =
                format!("all rules together have {total} combinations of identity, upstream and path; {MOST_POSTINGS} are the most");
            report.error_hint(place.at, message, format!("rule `{}` alone has {count}: write patterns instead of lists", rule.name.id));
        }
        return PolicySet::default();
    }
    let index = Index::build(&rules);
    let (certificate, excesses) = certify(&index, &rules, &conditions, world.catalogue);
    for excess in &excesses {
        if let Some(place) = excess.rules.first().and_then(|rule| places.get(*rule as usize))
            && let Some(report) = reports.get_mut(place.file)
        {
            let names: Vec<&str> = excess.rules.iter().filter_map(|rule| rules.get(*rule as usize)).map(|rule| &*rule.name.id).collect();
            report.error_hint(
                place.at,
                over_budget(excess, &names),
                "give them identities, upstreams or paths of their own, or fold them into one rule",
            );
        }
    }
    let upstreams = u32::try_from(world.catalogue.all().len()).unwrap_or(u32::MAX);
    let set = PolicySet { rules, conditions, methods, index, upstreams, certificate, revision: Arc::from("") };
    if excesses.is_empty() {
        conflicts::find(&set, &places, reports);
        lints::look(&set, world, &places, reports);
        contradictions::look(&set, world.catalogue, &places, reports);
    }
    set
}

/// Equal terms become one value: rules that grant the same share it, and whoever compares them compares addresses first.
fn share_equal_grants(rules: &mut [Rule]) {
    let mut known: FxHashSet<Arc<GrantTerms>> = FxHashSet::default();
    for terms in rules.iter_mut().filter_map(|rule| rule.grant.as_mut()) {
        match known.get(terms) {
            Some(same) => *terms = Arc::clone(same),
            None => {
                known.insert(Arc::clone(terms));
            }
        }
    }
}

fn over_budget(excess: &Excess, names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(shown.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let place = excess.upstream.as_ref().map_or_else(String::new, |upstream| format!(" to upstream `{upstream}`"));
    format!(
        "one request{place} could cost {} {}; {} are the most: rules {}{more} meet in it",
        excess.count,
        excess.what,
        excess.budget,
        shown.join(", ")
    )
}

/// Names the content, whatever order the files come in.
fn revision(loaded: &[Loaded<'_>]) -> Arc<str> {
    let mut texts: Vec<(&str, &str)> = loaded.iter().map(|file| (file.document.name.value.as_str(), &*file.source.text)).collect();
    texts.sort_unstable();
    let mut hash = digest::Context::new(&digest::SHA256);
    for (name, text) in texts {
        for part in [name, text] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
    }
    let digest = hash.finish();
    let hex = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    format!("sha256:{hex}").into()
}
