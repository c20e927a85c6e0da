//! Names for workloads, as the files of one directory declare them.

use rustc_hash::FxHashMap;

use super::driver::{Loaded, World};
use crate::identity::is_path_segment;
use crate::policy::document::IdentityWritten;
use crate::policy::pattern::IdentityPattern;
use crate::written::{Report, Spanned};

/// Names by directory. A name that a file declares itself hides one of its neighbours.
pub(super) struct Names<'a> {
    own: Vec<FxHashMap<&'a str, IdentityPattern>>,
    shared: FxHashMap<(&'a str, &'a str), Vec<IdentityPattern>>,
}

/// What a name stands for.
pub(super) enum Meaning {
    One(IdentityPattern),
    /// Two neighbours mean different things by it.
    Disputed,
    Unknown,
}

impl<'a> Names<'a> {
    pub(super) fn gather(world: &World<'_>, loaded: &'a [Loaded<'a>], reports: &mut [Report]) -> Self {
        let mut names = Self { own: Vec::new(), shared: FxHashMap::default() };
        for (file, report) in loaded.iter().zip(reports) {
            let mut own = FxHashMap::default();
            for (name, written) in file.document.identities.iter() {
                if let Some(pattern) = read(world, written, report) {
                    own.insert(name.value.as_str(), pattern.clone());
                    let shared = names.shared.entry((directory(&file.source.name), name.value.as_str())).or_default();
                    if !shared.contains(&pattern) {
                        shared.push(pattern);
                    }
                }
            }
            names.own.push(own);
        }
        names
    }

    pub(super) fn find(&self, file: usize, source: &str, name: &str) -> Meaning {
        if let Some(pattern) = self.own.get(file).and_then(|own| own.get(name)) {
            return Meaning::One(pattern.clone());
        }
        match self.shared.get(&(directory(source), name)).map(Vec::as_slice) {
            Some([pattern]) => Meaning::One(pattern.clone()),
            Some([_, ..]) => Meaning::Disputed,
            Some([]) | None => Meaning::Unknown,
        }
    }

    /// Every name that a file could use, for suggestions.
    pub(super) fn known(&self, source: &str) -> Vec<&'a str> {
        let mut known: Vec<&str> = self.shared.keys().filter(|(place, _)| *place == directory(source)).map(|(_, name)| *name).collect();
        known.sort_unstable();
        known
    }
}

pub(super) fn directory(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn read(world: &World<'_>, written: &IdentityWritten, report: &mut Report) -> Option<IdentityPattern> {
    match written {
        IdentityWritten::Spiffe(text) => match IdentityPattern::parse(&text.value) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                report.error_hint(
                    text.at,
                    format!("`{}` is no identity: {error}", text.value),
                    "write it as in `spiffe://prod.example/ns/billing/sa/app`",
                );
                None
            }
        },
        IdentityWritten::K8s(account) => {
            let sound = |part: &Spanned<String>, report: &mut Report| {
                let sound = is_path_segment(&part.value);
                if !sound {
                    report.error_hint(
                        part.at,
                        format!("`{}` is no Kubernetes name", part.value),
                        "a pattern is written as a SPIFFE ID: `{ spiffe: \"spiffe://..\" }`",
                    );
                }
                sound
            };
            let both = (sound(&account.namespace, report), sound(&account.service_account, report));
            let text = format!("spiffe://{}/ns/{}/sa/{}", world.trust_domain, account.namespace.value, account.service_account.value);
            if both == (true, true) { IdentityPattern::parse(&text).ok() } else { None }
        }
    }
}
