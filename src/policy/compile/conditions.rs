//! The conditions of a set: each text is parsed once, however many rules use it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::driver::Loaded;
use crate::policy::condition::{Condition, Problem, parse_all};
use crate::written::{Diagnostic, Place, Source, Spanned};

/// Most text of all different conditions together, in bytes: about a second of parsing.
const MOST: usize = 1024 * 1024;

/// Parsed conditions by their text.
pub(super) struct Conditions {
    numbers: FxHashMap<Arc<str>, usize>,
    parsed: Vec<Result<Condition, Vec<Problem>>>,
}

impl Conditions {
    pub(super) fn parse(loaded: &[Loaded<'_>]) -> Self {
        let mut numbers = FxHashMap::default();
        let mut texts: Vec<Arc<str>> = Vec::new();
        let mut size = 0;
        for rule in loaded.iter().flat_map(|file| &file.document.rules) {
            let Some(when) = &rule.when else { continue };
            if numbers.contains_key(when.value.as_str()) || size > MOST {
                continue;
            }
            size += when.value.len();
            let text: Arc<str> = when.value.as_str().into();
            numbers.insert(Arc::clone(&text), texts.len());
            texts.push(text);
        }
        Self { numbers, parsed: parse_all(&texts) }
    }

    /// The number of a condition; its mistakes as diagnostics at their places.
    pub(super) fn find(&self, source: &Source, when: &Spanned<String>) -> Result<(u32, &Condition), Vec<Diagnostic>> {
        let Some(number) = self.numbers.get(when.value.as_str()) else {
            let message = format!("the different conditions of all files have more than {MOST} bytes");
            return Err(vec![Diagnostic::error(source, when.at, message).with_hint("let rules share conditions, or fold rules into one")]);
        };
        match self.parsed.get(*number) {
            Some(Ok(condition)) => Ok((u32::try_from(*number).unwrap_or(u32::MAX), condition)),
            Some(Err(problems)) => Err(problems.iter().map(|problem| show(source, when, problem)).collect()),
            None => Err(Vec::new()),
        }
    }

    /// All, in the order of their numbers. In place of one with mistakes stands one that is never true; no sound rule has its number.
    pub(super) fn into_list(self) -> Vec<Condition> {
        self.numbers_in_order()
            .into_iter()
            .zip(self.parsed)
            .map(|(text, parsed)| parsed.unwrap_or_else(|_| Condition::never(text)))
            .collect()
    }

    fn numbers_in_order(&self) -> Vec<Arc<str>> {
        let mut texts: Vec<(usize, Arc<str>)> = self.numbers.iter().map(|(text, number)| (*number, Arc::clone(text))).collect();
        texts.sort_unstable();
        texts.into_iter().map(|(_, text)| text).collect()
    }
}

fn show(source: &Source, when: &Spanned<String>, problem: &Problem) -> Diagnostic {
    match locate(source, when, problem.offset) {
        Some(at) => {
            let mut diagnostic = Diagnostic::error(source, at, problem.message.clone());
            diagnostic.length = problem.length;
            diagnostic.with_hint(problem.hint.clone())
        }
        None => {
            Diagnostic::error(source, when.at, format!("{} (in `{}`)", problem.message, when.value.trim())).with_hint(problem.hint.clone())
        }
    }
}

/// The place of a character of the condition in its file: the line of the condition that holds it is looked for from where the value
/// begins, which is right for plain, quoted and block texts, and says nothing where quoting changed the line.
fn locate(source: &Source, when: &Spanned<String>, offset: usize) -> Option<Place> {
    let mut left = offset;
    let mut row = 0;
    let mut held = "";
    for line in when.value.split('\n') {
        held = line;
        let length = line.chars().count();
        if left <= length {
            break;
        }
        left -= length + 1;
        row += 1;
    }
    if held.trim().is_empty() {
        return None;
    }
    let first = usize::try_from(when.at.line).ok()?;
    source.text.lines().enumerate().skip(first.saturating_sub(1)).take(row + 3).find_map(|(index, line)| {
        let from =
            if index + 1 == first { line.char_indices().nth(when.at.column.saturating_sub(1) as usize).map_or(0, |(at, _)| at) } else { 0 };
        let found = line.get(from..)?.find(held)? + from;
        let column = line.get(..found)?.chars().count() + left + 1;
        Some(Place { line: u32::try_from(index + 1).ok()?, column: u32::try_from(column).ok()? })
    })
}
