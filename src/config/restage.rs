//! Another stage for one upstream, written into the text of a configuration: everything else of it stays as it is, comments and all.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::written::{Diagnostic, Place, Source, Spanned, parse};

/// The mappings of a file, with the places of their keys and values; what is no mapping is empty.
struct Outline(Vec<(Spanned<String>, Spanned<Self>)>);

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Outline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Outline(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Outline, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Outline(Vec::new()))
            }

            fn visit_str<E>(self, _: &str) -> Result<Outline, E> {
                Ok(Outline(Vec::new()))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Outline, E> {
                Ok(Outline(Vec::new()))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Outline, E> {
                Ok(Outline(Vec::new()))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Outline, E> {
                Ok(Outline(Vec::new()))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Outline, E> {
                Ok(Outline(Vec::new()))
            }

            fn visit_unit<E>(self) -> Result<Outline, E> {
                Ok(Outline(Vec::new()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Outline {
    fn get(&self, name: &str) -> Option<(&Spanned<String>, &Spanned<Self>)> {
        self.0.iter().find(|(key, _)| key.value == name).map(|(key, value)| (key, value))
    }
}

/// The text with `stage` of `upstream` written as `stage` (in one line of YAML).
///
/// # Errors
/// The text is no configuration, or has no such upstream.
pub fn restage(source: &Source, upstream: &str, stage: &str) -> Result<String, Vec<Diagnostic>> {
    let outline: Outline = parse(source)?;
    let missing = |why: &str| vec![Diagnostic::file_error(source.name.to_string(), format!("upstream `{upstream}` {why}"))];
    let upstreams = outline.get("upstreams").and_then(|(_, upstreams)| upstreams.get(upstream));
    let (_, fields) = upstreams.ok_or_else(|| missing("is not there"))?;
    let text = &*source.text;
    if let Some((key, value)) = fields.get("stage") {
        let key_ends = offset(text, key.at).map(|at| at + key_length(text, at));
        let (Some(key_ends), Some(begins)) = (key_ends, offset(text, value.at)) else {
            return Err(missing("has a stage that cannot be found"));
        };
        return Ok(replaced(text, key_ends, begins, stage));
    }
    let (first, _) = fields.0.first().ok_or_else(|| missing("has no fields"))?;
    let at = offset(text, first.at).ok_or_else(|| missing("cannot be found in the text"))?;
    let line = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let before = text.get(line..at).unwrap_or_default();
    let new = if before.trim().is_empty() { format!("stage: {stage}\n{before}") } else { format!("stage: {stage}, ") };
    Ok(spliced(text, at, at, &new))
}

/// The bytes before a place.
fn offset(text: &str, at: Place) -> Option<usize> {
    let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
    let begins: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let column = usize::try_from(at.column).ok()?.checked_sub(1)?;
    let inside: usize = text.get(begins..)?.chars().take(column).map(char::len_utf8).sum();
    Some(begins + inside)
}

/// `stage`, or the same in quotes.
fn key_length(text: &str, at: usize) -> usize {
    let quoted = text.get(at..).is_some_and(|rest| rest.starts_with(['"', '\'']));
    if quoted { "'stage'".len() } else { "stage".len() }
}

/// The value goes from its first byte to its end; a block mapping below its key becomes one line beside it.
fn replaced(text: &str, key_ends: usize, begins: usize, stage: &str) -> String {
    let rest = text.get(begins..).unwrap_or_default();
    let between = text.get(key_ends..begins).unwrap_or_default();
    if rest.starts_with('{') {
        return spliced(text, begins, begins + flow_length(rest), stage);
    }
    if !between.contains('\n') {
        return spliced(text, begins, begins + scalar_length(rest), stage);
    }
    let line = text.get(..begins).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let indent = begins - line;
    let colon = between.find(':').map_or(0, |colon| colon + 1);
    let (from, to) = (key_ends + colon, line + block_length(text.get(line..).unwrap_or_default(), indent));
    spliced(text, from, to, &format!(" {stage}"))
}

/// To the brace that closes the first.
fn flow_length(text: &str) -> usize {
    let (mut depth, mut quote, mut comment, mut former) = (0_usize, None, false, ' ');
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if comment => comment = c != '\n',
            (Some(open), c) if c == open && (open == '\'' || former != '\\') => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') if former.is_whitespace() => comment = true,
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            (Some(_) | None, _) => {}
        }
        former = if former == '\\' && c == '\\' { ' ' } else { c };
    }
    text.len()
}

fn scalar_length(text: &str) -> usize {
    match text.chars().next() {
        Some(quote @ ('"' | '\'')) => text.get(1..).and_then(|rest| rest.find(quote)).map_or(text.len(), |end| end + 2),
        Some(_) | None => text.find(|c: char| c.is_whitespace() || matches!(c, ',' | '}')).unwrap_or(text.len()),
    }
}

/// The lines of a block, without the last line feed; what is indented less ends it, blank lines and comments before that do not belong to it.
fn block_length(text: &str, indent: usize) -> usize {
    let (mut length, mut read) = (0, 0);
    for line in text.split_inclusive('\n') {
        let content = line.trim();
        if !content.is_empty() && line.len() - line.trim_start().len() < indent {
            break;
        }
        read += line.len();
        if !content.is_empty() && !content.starts_with('#') {
            length = read - (line.len() - line.trim_end_matches(['\n', '\r']).len());
        }
    }
    length
}

fn spliced(text: &str, from: usize, to: usize, new: &str) -> String {
    let (before, after) = (text.get(..from).unwrap_or_default(), text.get(to..).unwrap_or_default());
    format!("{before}{new}{after}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &str, stage: &str) -> String {
        restage(&Source::new("exeat.yaml", text), "ledger", stage).unwrap()
    }

    #[test]
    fn every_way_of_writing_it_is_found_and_nothing_else_is_touched() {
        for (before, after) in [
            (
                "upstreams:\n  ledger:\n    owner: a # who\n    stage: enforce # for now\n",
                "upstreams:\n  ledger:\n    owner: a # who\n    stage: X # for now\n",
            ),
            ("upstreams:\n  ledger:\n    stage: \"enforce\"\n    owner: a\n", "upstreams:\n  ledger:\n    stage: X\n    owner: a\n"),
            (
                "upstreams:\n  ledger:\n    stage: { observe: { until: 2026-12-01, rehearse: true } } # \"}\n    owner: a\n",
                "upstreams:\n  ledger:\n    stage: X # \"}\n    owner: a\n",
            ),
            (
                "upstreams:\n  ledger:\n    stage: # of the stage:\n      observe:\n        until: 2026-12-01\n\n        # why\n        rehearse: true\n\n    # next\n    owner: a\n",
                "upstreams:\n  ledger:\n    stage: X\n\n    # next\n    owner: a\n",
            ),
            (
                "upstreams:\n  ledger: { owner: a, stage: enforce, origins: [] }\n",
                "upstreams:\n  ledger: { owner: a, stage: X, origins: [] }\n",
            ),
            ("upstreams:\n  ledger: { owner: a, stage: {observe: {until: '}'}} }\n", "upstreams:\n  ledger: { owner: a, stage: X }\n"),
            ("upstreams:\n  ledger:\n    # who\n    owner: größe\n", "upstreams:\n  ledger:\n    # who\n    stage: X\n    owner: größe\n"),
            ("upstreams:\n  ledger: { owner: a }\n", "upstreams:\n  ledger: { stage: X, owner: a }\n"),
            (
                "upstreams:\n  other: { stage: enforce }\n  ledger:\n    owner: a\n    stage: enforce",
                "upstreams:\n  other: { stage: enforce }\n  ledger:\n    owner: a\n    stage: X",
            ),
        ] {
            assert_eq!(told(before, "X"), after, "{before}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        let text = "upstreams:\n  other: { owner: a }\n";
        assert!(
            restage(&Source::new("exeat.yaml", text), "ledger", "enforce").unwrap_err()[0].to_string().contains("`ledger` is not there")
        );
        assert!(restage(&Source::new("exeat.yaml", "upstreams: ["), "ledger", "enforce").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,60}", stage in "(upstreams:\n  ledger:\n    stage:[ \n]{0,8}[{}'\"#a-z:,\n ]{0,30})") {
            let _whatever = restage(&Source::new("exeat.yaml", text), "ledger", "enforce");
            let _whatever = restage(&Source::new("exeat.yaml", stage), "ledger", "enforce");
        }
    }
}
