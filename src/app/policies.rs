//! The last good policy set: kept in the state, so that a restart with a broken file serves what served before.

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::policy::{Bounds, IdentityPattern, PolicyFile};
use crate::state::State;
use crate::written::Source;

const ENTRY: &str = "policies-last-good.json";

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    taken: Timestamp,
    files: Vec<KeptFile>,
}

#[derive(Serialize, Deserialize)]
struct KeptFile {
    name: String,
    text: String,
    /// `None` is `bounds: all`.
    within: Option<(Vec<String>, Vec<String>)>,
}

/// Keeps a set that compiled.
pub(super) fn keep(state: &State, files: &[PolicyFile], clock: &dyn Clock) {
    let files = files.iter().map(|file| KeptFile {
        name: file.source.name.to_string(),
        text: file.source.text.to_string(),
        within: within(&file.bounds),
    });
    let kept = Kept { version: 1, taken: clock.now(), files: files.collect() };
    let written = serde_json::to_vec(&kept)
        .map_err(|error| error.to_string())
        .and_then(|bytes| state.write(ENTRY, &bytes).map_err(|error| error.to_string()));
    if let Err(error) = written {
        tracing::warn!(%error, "the last good policies cannot be kept: a restart with broken files would refuse everything");
    }
}

/// The set that was kept last, and when.
pub(super) fn last_good(state: &State) -> Option<(Vec<PolicyFile>, Timestamp)> {
    let kept: Kept = serde_json::from_slice(&state.read(ENTRY).ok()??).ok()?;
    if kept.version != 1 {
        return None;
    }
    let file = |file: KeptFile| Some(PolicyFile { source: Source::new(file.name, file.text), bounds: bounds(file.within)? });
    Some((kept.files.into_iter().map(file).collect::<Option<_>>()?, kept.taken))
}

fn within(bounds: &Bounds) -> Option<(Vec<String>, Vec<String>)> {
    match bounds {
        Bounds::All => None,
        Bounds::Within { identities, upstreams } => {
            Some((identities.iter().map(ToString::to_string).collect(), upstreams.iter().map(ToString::to_string).collect()))
        }
    }
}

/// `None` when a kept pattern is none any more: the set is not used at all rather than with other bounds.
fn bounds(within: Option<(Vec<String>, Vec<String>)>) -> Option<Bounds> {
    let Some((identities, upstreams)) = within else { return Some(Bounds::All) };
    let identities = identities.iter().map(|pattern| IdentityPattern::parse(pattern).ok()).collect::<Option<_>>()?;
    Some(Bounds::Within { identities, upstreams: upstreams.into_iter().map(Into::into).collect() })
}
