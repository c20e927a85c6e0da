//! Edits: changes to a request head, computed first and applied later, as often as there are attempts.
//!
//! Rooms read `http::request::Parts` and return `Edits`; only the engine's shell applies them. Applying is idempotent.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use smallvec::SmallVec;

/// Removals first, then settings; a new path and query where the query changed.
#[derive(Clone, Default)]
pub struct Edits {
    removed: SmallVec<[HeaderName; 4]>,
    set: SmallVec<[(HeaderName, HeaderValue); 2]>,
    target: Option<PathAndQuery>,
}

impl Edits {
    /// Removes every field of that name.
    pub fn remove(&mut self, name: HeaderName) {
        if !self.removed.contains(&name) {
            self.removed.push(name);
        }
    }

    /// Replaces every field of that name by one.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.set.retain(|(existing, _)| *existing != name);
        self.set.push((name, value));
    }

    /// Replaces path and query.
    pub fn retarget(&mut self, target: PathAndQuery) {
        self.target = Some(target);
    }

    /// Whether that header is removed or replaced: what a reader of the edited head no longer sees as it was.
    #[must_use]
    pub fn touches(&self, name: &HeaderName) -> bool {
        self.removed.contains(name) || self.set.iter().any(|(set, _)| set == name)
    }

    /// The value that a header will have if these edits set it.
    #[must_use]
    pub fn value_of(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.set.iter().find(|(set, _)| set == name).map(|(_, value)| value)
    }

    /// The new path and query, if they change.
    #[must_use]
    pub const fn target(&self) -> Option<&PathAndQuery> {
        self.target.as_ref()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.set.is_empty() && self.target.is_none()
    }

    /// Adds later edits behind these; what they set wins.
    pub fn then(&mut self, later: Self) {
        for name in later.removed {
            self.set.retain(|(set, _)| *set != name);
            self.remove(name);
        }
        for (name, value) in later.set {
            self.set(name, value);
        }
        if later.target.is_some() {
            self.target = later.target;
        }
    }

    /// Changes a header map; the target is the caller's to take.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.removed {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
    }
}

impl std::fmt::Debug for Edits {
    /// Names only: a new query may hold the injected key, which has no `sensitive` mark as header values have.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set: SmallVec<[&HeaderName; 2]> = self.set.iter().map(|(name, _)| name).collect();
        f.debug_struct("Edits").field("removed", &self.removed).field("set", &set).field("retargeted", &self.target.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_comes_first_and_applying_twice_changes_nothing() {
        let mut edits = Edits::default();
        edits.remove(http::header::AUTHORIZATION);
        edits.set(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer new"));
        let mut headers = HeaderMap::new();
        headers.append(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer old"));
        headers.append(http::header::AUTHORIZATION, HeaderValue::from_static("Basic old"));
        edits.apply(&mut headers);
        edits.apply(&mut headers);
        assert_eq!(headers.get_all(http::header::AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer new"]);
    }
}
