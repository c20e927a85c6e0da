//! `Definition`: a credential definition with what issues it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustc_hash::FxHashMap;

use super::provider::CredentialProvider;
use crate::catalogue::Profile;

/// SHA-256 over everything in a definition that shapes its credentials. Another digest is another credential: nothing that was issued
/// under the former is used.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of the parts, each with its length, so that no two lists of parts give one digest.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One definition of the configuration: its terms, and who issues.
pub struct Definition {
    /// What policy and injection know of it.
    pub profile: Arc<Profile>,
    /// Who issues.
    pub provider: Arc<dyn CredentialProvider>,
    /// Of everything that shapes the credential.
    pub digest: Digest,
}

impl Definition {
    /// A definition whose digest covers its profile and `shape`: whatever else the configuration says of it (issuer, paths, key names),
    /// never a secret's value.
    #[must_use]
    pub fn new(profile: Arc<Profile>, provider: Arc<dyn CredentialProvider>, shape: &[&str]) -> Self {
        let written = format!("{profile:?}");
        let parts: Vec<&[u8]> = std::iter::once(&*written).chain(shape.iter().copied()).map(str::as_bytes).collect();
        let digest = Digest::of(&parts);
        Self { profile, provider, digest }
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition").field("name", &self.profile.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// All definitions of one snapshot, by name.
#[derive(Debug, Default)]
pub struct Definitions(FxHashMap<Arc<str>, Arc<Definition>>);

impl Definitions {
    /// Indexes them; of two with one name the later stands (the configuration refuses that).
    #[must_use]
    pub fn new(definitions: impl IntoIterator<Item = Definition>) -> Self {
        Self(definitions.into_iter().map(|definition| (Arc::clone(&definition.profile.name), Arc::new(definition))).collect())
    }

    /// By its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Definition>> {
        self.0.get(name)
    }

    /// All, sorted by name.
    #[must_use]
    pub fn all(&self) -> Vec<&Arc<Definition>> {
        let mut all: Vec<_> = self.0.values().collect();
        all.sort_by(|a, b| a.profile.name.cmp(&b.profile.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_lists_apart() {
        let of = |parts: &[&str]| Digest::of(&parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab"]), of(&["ab", ""]));
    }
}
