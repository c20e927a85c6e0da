//! Edits: changes to a request head, computed first and applied later, as often as there are attempts.
//!
//! Rooms read `http::request::Parts` and return `Edits`; only the engine's shell applies them. Applying is idempotent.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use smallvec::SmallVec;

/// Removals first, then settings; a new path and query where the query changed.
#[derive(Clone, Default)]
pub struct Edits {
    // Few are usual, and edits are moved more often than they grow.
    removed: SmallVec<[HeaderName; 2]>,
    set: SmallVec<[(HeaderName, HeaderValue); 1]>,
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

    /// The same, taken out, so that it need not be copied.
    #[must_use]
    pub const fn take_target(&mut self) -> Option<PathAndQuery> {
        self.target.take()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.set.is_empty() && self.target.is_none()
    }

    /// These behind earlier ones, of which only what still matters is copied.
    #[must_use]
    pub fn after(mut self, earlier: &Self) -> Self {
        for (name, value) in &earlier.set {
            if !self.touches(name) {
                self.set.push((name.clone(), value.clone()));
            }
        }
        for name in &earlier.removed {
            if !self.touches(name) {
                self.removed.push(name.clone());
            }
        }
        if self.target.is_none() {
            self.target.clone_from(&earlier.target);
        }
        self
    }

    /// Changes a header map; the target is the caller's to take.
    pub fn apply(self, headers: &mut HeaderMap) {
        for name in &self.removed {
            // What is set replaces every field of its name anyway; and most names are not there, which is seen without hashing them.
            if headers.keys().any(|there| there == name) && !self.set.iter().any(|(set, _)| set == name) {
                headers.remove(name);
            }
        }
        for (name, value) in self.set {
            headers.insert(name, value);
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
    use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn later_edits_win_and_earlier_ones_stay() {
        let key = HeaderName::from_static("x-api-key");
        let mut earlier = Edits::default();
        earlier.remove(AUTHORIZATION);
        earlier.remove(key.clone());
        earlier.remove(COOKIE);
        earlier.set(COOKIE, HeaderValue::from_static("theme=dark"));
        earlier.retarget(PathAndQuery::from_static("/p?b=2"));
        let mut later = Edits::default();
        later.set(AUTHORIZATION, HeaderValue::from_static("Bearer new"));
        let both = later.after(&earlier);
        let mut headers = HeaderMap::new();
        for name in [AUTHORIZATION, AUTHORIZATION, key.clone(), COOKIE, COOKIE] {
            headers.append(name, HeaderValue::from_static("old"));
        }
        both.clone().apply(&mut headers);
        assert_eq!(headers.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer new"]);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["theme=dark"]);
        assert!(!headers.contains_key(&key));
        assert_eq!(both.target().unwrap(), "/p?b=2");
        let mut last = Edits::default();
        last.remove(COOKIE);
        last.retarget(PathAndQuery::from_static("/q"));
        let all = last.after(&both);
        assert!(all.value_of(&COOKIE).is_none() && all.touches(&COOKIE) && all.touches(&key));
        assert_eq!(all.target().unwrap(), "/q");
    }

    #[test]
    fn removal_comes_first_and_applying_twice_changes_nothing() {
        let mut edits = Edits::default();
        edits.remove(AUTHORIZATION);
        edits.set(AUTHORIZATION, HeaderValue::from_static("Bearer new"));
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer old"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Basic old"));
        edits.clone().apply(&mut headers);
        edits.apply(&mut headers);
        assert_eq!(headers.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer new"]);
    }
}
