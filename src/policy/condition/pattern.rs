//! Regular expressions of conditions: compiled at load to a complete automaton of bounded size. A match takes one step per byte, takes no
//! lock and allocates nothing, which a lazily built automaton could not promise.

use std::fmt;

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};

/// Largest automaton in bytes. Everyday expressions take one to ten KiB.
const MOST: usize = 128 * 1024;
/// Longest expression in bytes.
const LONGEST: usize = 512;

/// A compiled regular expression.
pub(super) struct Pattern {
    text: Box<str>,
    automaton: dense::DFA<Vec<u32>>,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

impl Pattern {
    /// Compiles one.
    ///
    /// # Errors
    /// Syntax, or an automaton over 128 KiB, in the operator's words.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        if !text.is_ascii() {
            return Err("a regular expression is written in ASCII".to_owned());
        }
        if text.len() > LONGEST {
            return Err(format!("a regular expression has at most {LONGEST} bytes"));
        }
        // ASCII classes, as RE2 has them: `\d` is 0-9 in every CEL implementation.
        let syntax = syntax::Config::new().unicode(false).utf8(false).nest_limit(32);
        let config = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .match_kind(MatchKind::All)
            .dfa_size_limit(Some(MOST))
            .determinize_size_limit(Some(4 * MOST));
        let thompson = regex_automata::nfa::thompson::Config::new().nfa_size_limit(Some(4 * MOST)).utf8(false);
        let automaton = dense::Builder::new().syntax(syntax).thompson(thompson).configure(config).build(text).map_err(|error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), nested);
            if error.is_size_limit_exceeded() || cause.contains("exceeded limit") {
                return format!("the regular expression is too large: its automaton has more than {} KiB", MOST / 1024);
            }
            format!("the regular expression is not valid: {cause}")
        })?;
        Ok(Self { text: text.into(), automaton })
    }

    /// Whether it matches anywhere; `None` for a text that is not ASCII, where implementations of CEL would differ from these classes.
    pub(super) fn matches(&self, text: &str) -> Option<bool> {
        if !text.is_ascii() {
            return None;
        }
        let input = Input::new(text).anchored(Anchored::No).earliest(true);
        self.automaton.try_search_fwd(&input).ok().map(|found| found.is_some())
    }

    /// Whether it is tied to both ends.
    pub(super) fn is_anchored(&self) -> bool {
        self.text.starts_with('^') && self.text.ends_with('$') && !self.text.ends_with("\\$") && !self.text.contains('|')
            || self.text.starts_with("^(") && self.text.ends_with(")$")
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// The innermost cause, on one line: the outer ones only say that something failed.
fn nested(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let text = innermost.to_string();
    text.lines().last().unwrap_or(&text).trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_like_a_search() {
        let version = Pattern::compile("^v[0-9]+[.]\\d+$").unwrap();
        assert_eq!(version.matches("v1.20"), Some(true));
        assert_eq!(version.matches("xv1.20"), Some(false));
        assert_eq!(version.matches("v1.2\u{e9}"), None);
        assert_eq!(Pattern::compile("b+").unwrap().matches("abbc"), Some(true));
        assert_eq!(Pattern::compile("(?i)TOKEN").unwrap().matches("a token"), Some(true));
        assert_eq!(Pattern::compile("").unwrap().matches(""), Some(true));
    }

    #[test]
    fn what_is_too_large_or_wrong_is_refused_quickly() {
        for text in ["(a|b", "[0-9]{1000}{1000}", "(a|aa)*b.{200}c", "[ab]*a[ab]{20}", "\\bx\u{e9}", &"a".repeat(600)] {
            assert!(Pattern::compile(text).is_err(), "{text}");
        }
    }

    #[test]
    fn anchors() {
        for (text, expected) in [("^a$", true), ("^(a|b)$", true), ("^a|b$", false), ("a$", false), ("^a", false), ("^a\\$", false)] {
            assert_eq!(Pattern::compile(text).unwrap().is_anchored(), expected, "{text}");
        }
    }
}
