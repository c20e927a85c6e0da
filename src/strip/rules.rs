//! `Rules`: an upstream's exceptions, made ready when the configuration is loaded.

use std::sync::Arc;

use super::names::fold;
use crate::catalogue::{Placement, Profile, StripOptions, Upstream};

/// What `strip: { keep, also }` of one upstream says. The default keeps nothing and adds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    keep: Names,
    also: Names,
    /// Either says something; for nearly every upstream neither does.
    exceptions: bool,
}

/// An entry of `keep` or `also` that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{entry}` is neither a header name nor `header:NAME`, `query:NAME` or `cookie:NAME`")]
pub struct BadRule {
    /// As written.
    pub entry: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    headers: Vec<Box<[u8]>>,
    query: Vec<Box<[u8]>>,
    cookies: Vec<Box<[u8]>>,
}

impl Names {
    fn parse(entries: &[String]) -> Result<Self, BadRule> {
        let mut names = Self::default();
        for entry in entries {
            let (slot, name) = entry.split_once(':').unwrap_or(("header", entry));
            let token = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b':' | b';' | b',' | b'='));
            let list = match slot {
                "header" => &mut names.headers,
                "query" => &mut names.query,
                "cookie" => &mut names.cookies,
                _ => return Err(BadRule { entry: entry.clone() }),
            };
            if !token {
                return Err(BadRule { entry: entry.clone() });
            }
            // Cookie names tell cases apart (RFC 6265 section 4.1.1); the others do not.
            list.push(if slot == "cookie" { name.as_bytes().into() } else { fold(name.as_bytes()).to_vec().into() });
        }
        Ok(names)
    }

    fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.query.is_empty() && self.cookies.is_empty()
    }
}

impl Rules {
    /// Reads an upstream's exceptions.
    ///
    /// # Errors
    /// An entry that names no slot: passing over an `also` would let a credential out.
    pub fn new(options: &StripOptions) -> Result<Self, BadRule> {
        let (keep, also) = (Names::parse(&options.keep)?, Names::parse(&options.also)?);
        let exceptions = !(keep.is_empty() && also.is_empty());
        Ok(Self { keep, also, exceptions })
    }

    /// What an upstream's exceptions say, and every slot in which it takes a credential: whatever the application puts there is one,
    /// although neither the slot's name nor the value's shape may say so, and although the rule of a request grants another or none.
    ///
    /// # Errors
    /// As [`Rules::new`].
    pub fn of(upstream: &Upstream, profiles: &[Arc<Profile>]) -> Result<Self, BadRule> {
        let bound = profiles.iter().filter(|profile| upstream.credentials.contains(&profile.name));
        let slots = bound.filter_map(|profile| match &profile.placement {
            Placement::Header(name) => Some(name.as_str().to_owned()),
            Placement::Query(name) => Some(format!("query:{name}")),
            Placement::Bearer | Placement::Basic { .. } => None,
        });
        let mut options = upstream.strip.clone();
        let slots: Vec<String> = slots.filter(|slot| !options.keep.contains(slot)).collect();
        options.also.extend(slots);
        Self::new(&options)
    }

    pub(super) fn keeps_header(&self, name: &[u8]) -> bool {
        self.exceptions && listed(&self.keep.headers, name)
    }

    pub(super) fn adds_header(&self, name: &[u8]) -> bool {
        self.exceptions && listed(&self.also.headers, name)
    }

    pub(super) fn keeps_query(&self, folded: &[u8]) -> bool {
        self.keep.query.iter().any(|kept| **kept == *folded)
    }

    pub(super) fn adds_query(&self, folded: &[u8]) -> bool {
        self.also.query.iter().any(|added| **added == *folded)
    }

    pub(super) fn keeps_cookie(&self, name: &[u8]) -> bool {
        self.keep.cookies.iter().any(|kept| **kept == *name)
    }
}

fn listed(names: &[Box<[u8]>], name: &[u8]) -> bool {
    !names.is_empty() && names.iter().any(|listed| **listed == *fold(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_name_a_slot() {
        let options = |keep: &[&str]| StripOptions { keep: keep.iter().map(ToString::to_string).collect(), also: Vec::new() };
        let rules = Rules::new(&options(&["X_Api_Key", "query:Token", "cookie:Theme", "header:x-b"])).unwrap();
        assert!(rules.keeps_header(b"x-api-key") && rules.keeps_header(b"x_api_key") && rules.keeps_header(b"x-b"));
        assert!(rules.keeps_query(b"token") && rules.keeps_cookie(b"Theme") && !rules.keeps_cookie(b"theme"));
        for bad in ["", "body:x", "query:", "a b", "query:a=b"] {
            assert_eq!(Rules::new(&options(&[bad])), Err(BadRule { entry: bad.to_owned() }), "{bad}");
        }
        assert_eq!(Rules::new(&StripOptions::default()).unwrap(), Rules::default());
    }
}
