//! The parts of a condition that joined by `&&` make it, for explanations: which of them is not true.

use std::sync::Arc;

use super::evaluate::{Env, Failed};
use super::parse::parse_all;
use super::program::Condition;

impl Condition {
    /// The parts that keep it from being true, each with what it is: those that are false, else those that have no value. A condition that
    /// cannot be taken apart is its own only part. Parses again, so it is for those who ask why.
    pub(in crate::policy) fn untrue(&self, env: &Env<'_>) -> Vec<(String, Option<Failed>)> {
        let whole = || match self.holds(env) {
            Ok(true) => Vec::new(),
            Ok(false) => vec![(self.text.trim().to_owned(), None)],
            Err(why) => vec![(self.text.trim().to_owned(), Some(why))],
        };
        let Some(parts) = split(&self.text) else { return whole() };
        let texts: Vec<Arc<str>> = parts.iter().map(|part| Arc::from(*part)).collect();
        let mut judged = Vec::new();
        for (part, parsed) in parts.iter().zip(parse_all(&texts)) {
            let Ok(parsed) = parsed else { return whole() };
            judged.push(((*part).to_owned(), parsed.holds(env)));
        }
        let no: Vec<_> = judged.iter().filter(|(_, value)| *value == Ok(false)).map(|(part, _)| (part.clone(), None)).collect();
        if !no.is_empty() {
            return no;
        }
        judged.into_iter().filter_map(|(part, value)| Some((part, Some(value.err()?)))).collect()
    }
}

/// The parts between `&&` that stand in no bracket and no text. `None`: there is one part, or `||` or `?` binds them otherwise.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match (quote, c) {
            // what follows a backslash in a text never ends it
            (Some(_), '\\') => drop(characters.next()),
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.checked_sub(1)?,
            (None, '?' | '|') if depth == 0 => return None,
            (None, '&') if depth == 0 && characters.next_if(|(_, next)| *next == '&').is_some() => {
                parts.push(text.get(start..at)?.trim());
                start = at + 2;
            }
            (Some(_) | None, _) => {}
        }
    }
    parts.push(text.get(start..)?.trim());
    (parts.len() > 1).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_and_joins() {
        assert_eq!(split("a && b&&c"), Some(vec!["a", "b", "c"]));
        assert_eq!(split("(a && b) && x['&&'] == \"a && 'b'\""), Some(vec!["(a && b)", "x['&&'] == \"a && 'b'\""]));
        assert_eq!(split(r"x == 'a\'&& b' && c"), Some(vec![r"x == 'a\'&& b'", "c"]));
        for one in ["a", "a && b || c", "a ? b && c : d", "(a && b)", "a) && b"] {
            assert_eq!(split(one), None, "{one}");
        }
    }
}
