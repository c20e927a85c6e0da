//! What a file declares and nobody uses: names of workloads, owners of rules.

use super::driver::Loaded;
use super::names::directory;
use crate::policy::document::{Document, OneOrMore};
use crate::written::Report;

pub(super) fn look(loaded: &[Loaded<'_>], reports: &mut [Report]) {
    for (file, report) in loaded.iter().zip(reports) {
        for (name, _) in file.document.identities.iter() {
            let neighbours = loaded.iter().filter(|other| directory(&other.source.name) == directory(&file.source.name));
            if !neighbours.into_iter().any(|other| mentions(&other.document, &name.value)) {
                let message = format!("no rule of this directory uses identity `{}`", name.value);
                report.warning("unused-identity", name.at, message, "name it in `from`, or take it away");
            }
        }
        let rules = &file.document.rules;
        if let Some(owner) = &file.document.defaults.owner
            && !rules.is_empty()
            && rules.iter().all(|rule| rule.owner.is_some())
        {
            let message = format!("owner `{}` answers for nothing: every rule names an owner of its own", owner.value);
            report.warning("unused-owner", owner.at, message, "take it out of `defaults`, or out of the rules that it is meant for");
        }
    }
}

fn mentions(document: &Document, name: &str) -> bool {
    let lists = document.rules.iter().map(|rule| &rule.from).chain([&document.defaults.from]);
    lists.flatten().flat_map(OneOrMore::each).any(|text| text.value == name)
}
