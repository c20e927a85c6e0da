//! `Kept`: the revocations that outlive the process, and their entry in the state.
//!
//! What operators revoked and what the watched file names are kept apart: what leaves the file is restored, what an operator revoked is
//! not. The file's last known set is kept too, so that a file that is gone at the next start opens nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::live::{Block, Target};
use crate::state::{State, StateError};

/// The entry's name in the state.
const ENTRY: &str = "revocations";
/// Blocks of either origin: more is a mistake, and memory is bounded.
pub(super) const MOST: usize = 10_000;

/// Blocks by target.
pub(super) type Set = BTreeMap<Target, Block>;

/// All revocations by origin.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    /// Of operators: admin server, command line, signal.
    pub(super) own: Set,
    /// Of the watched file.
    pub(super) file: Set,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    version: u32,
    own: Vec<Saved>,
    file: Vec<Saved>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    target: String,
    reason: String,
    by: String,
    since: Timestamp,
}

impl Kept {
    /// What the state keeps.
    ///
    /// # Errors
    /// The entry cannot be read. exeat does not start then: it would let through what was revoked.
    pub(super) fn read(state: &State) -> Result<Self, StateError> {
        let Some(bytes) = state.read_overwritten(ENTRY)? else { return Ok(Self::default()) };
        let damaged = |why| StateError::Damaged { entry: ENTRY.to_owned(), why };
        let entry: Entry = serde_json::from_slice(&bytes).map_err(|_| damaged("it is not the JSON that exeat writes"))?;
        if entry.version != 1 {
            return Err(damaged("it was written by another version of exeat"));
        }
        let set = |saved: Vec<Saved>| saved.into_iter().map(Saved::block).collect::<Option<Set>>();
        let both = set(entry.own).zip(set(entry.file));
        both.map(|(own, file)| Self { own, file }).ok_or_else(|| damaged("it names a target that this version does not know"))
    }

    /// What [`Kept::write`] writes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let saved = |set: &Set| set.values().map(Saved::of).collect();
        // Strings, numbers and lists alone: this cannot fail.
        serde_json::to_vec(&Entry { version: 1, own: saved(&self.own), file: saved(&self.file) }).unwrap_or_default()
    }

    /// Makes it durable. Blocks.
    ///
    /// # Errors
    /// See [`StateError`]; the former entry stands then.
    pub(super) fn write(state: &State, bytes: &[u8]) -> Result<(), StateError> {
        state.overwrite(ENTRY, bytes)
    }

    /// The block of this target: an operator's before the file's.
    pub(super) fn get(&self, target: &Target) -> Option<&Block> {
        self.own.get(target).or_else(|| self.file.get(target))
    }

    /// Every block, one a target.
    pub(super) fn all(&self) -> impl Iterator<Item = &Block> {
        self.own.values().chain(self.file.values().filter(|block| !self.own.contains_key(&block.target)))
    }
}

impl Saved {
    fn of(block: &Block) -> Self {
        Self { target: block.target.to_string(), reason: block.reason.to_string(), by: block.by.to_string(), since: block.since }
    }

    fn block(self) -> Option<(Target, Block)> {
        let target: Target = self.target.parse().ok()?;
        Some((target.clone(), Block::new(target, self.reason, self.by, self.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(target: &str) -> (Target, Block) {
        let target: Target = target.parse().unwrap();
        (target.clone(), Block::new(target, "a \"reason\"", "uid 0", Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_is_damaged_opens_nothing() {
        let state = State::ephemeral();
        assert!(Kept::read(&state).unwrap().own.is_empty());
        let own = ["everything", "workload spiffe://t.example/ns/a/sa/b", "rule a/b"].into_iter().map(block).collect();
        let kept = Kept { own, file: [block("upstream ledger"), block("everything")].into() };
        Kept::write(&state, &kept.bytes()).unwrap();
        let again = Kept::read(&state).unwrap();
        assert_eq!((again.own, again.file), (kept.own.clone(), kept.file.clone()));
        assert_eq!(kept.all().count(), 4, "one a target");
        for damaged in ["", "{}", "[]", r#"{"version":2,"own":[],"file":[]}"#, r#"{"version":1,"own":[{"target":"x"}],"file":[]}"#] {
            state.write(ENTRY, damaged.as_bytes()).unwrap();
            assert!(matches!(Kept::read(&state), Err(StateError::Damaged { .. })), "{damaged}");
        }
        let unknown = r#"{"version":1,"own":[{"target":"planet mars","reason":"","by":"","since":"2026-11-25T00:00:00Z"}],"file":[]}"#;
        state.write(ENTRY, unknown.as_bytes()).unwrap();
        assert!(Kept::read(&state).is_err(), "what cannot be understood is not skipped");
    }
}
