//! Text to a tree of nodes that know their places: YAML without what makes one text mean two things (aliases, tags, merge keys,
//! duplicate keys, second documents), within budgets of size, depth and number.

use std::collections::HashSet;
use std::sync::Arc;

use serde_yaml::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span};

use super::diagnostic::{Diagnostic, MOST};
use super::parse::{MAX_BYTES, MAX_DEPTH, MAX_NODES};
use super::source::{Place, Source};

/// One value of the text.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// A scalar; quoted and block scalars are text, plain ones may be read as numbers and words.
    Scalar {
        text: Box<str>,
        plain: bool,
    },
    Sequence(Vec<Node>),
    /// Keys are plain or quoted scalars.
    Mapping(Vec<(Node, Node)>),
    /// Something that was reported while reading: nothing more is said of it.
    Broken,
}

impl Node {
    /// Nothing was written, or `null`, or `~`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(&**text, "" | "~" | "null"))
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Sequence(_) | Value::Mapping(_) | Value::Broken => None,
        }
    }
}

/// A collection that is not yet closed.
enum Open {
    Sequence(Place, Vec<Node>),
    Mapping { at: Place, entries: Vec<(Node, Node)>, key: Option<Node>, known: HashSet<Box<str>> },
}

/// What can be said without knowing the form of the file.
pub(super) fn read(source: &Source) -> Result<(Node, Vec<Diagnostic>), Vec<Diagnostic>> {
    if source.text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; {MAX_BYTES} are the most that is read", source.text.len());
        return Err(vec![Diagnostic::file_error(Arc::clone(&source.name), message).with_hint("split it into several files")]);
    }
    if let Some(at) = lone_carriage_return(&source.text) {
        let message = "a carriage return stands alone: YAML ends the line there, and a comment with it, while editors show one line";
        return Err(vec![Diagnostic::error(source, at, message).with_hint("end every line with a line feed")]);
    }
    let options = granit_parser::options! {
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH + 1,
        block_nesting_limit: MAX_DEPTH + 1,
    };
    let mut builder = Builder { source, open: Vec::new(), root: None, nodes: 0, found: Vec::new() };
    for event in Parser::new_from_str_with_options(&source.text, options) {
        let step = match event {
            Ok(_) if builder.found.len() >= MOST => {
                Err(Box::new(Diagnostic::error(source, Place::START, "too many mistakes: the rest is not read")))
            }
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => Err(Box::new(scan_error(source, &error))),
        };
        if let Err(fatal) = step {
            builder.found.push(*fatal);
            return Err(builder.found);
        }
    }
    match builder.root {
        Some(root) if !root.is_null() => Ok((root, builder.found)),
        Some(_) | None => {
            builder.found.push(Diagnostic::error(source, Place::START, "the file is empty"));
            Err(builder.found)
        }
    }
}

/// Where the first carriage return is that no line feed follows.
fn lone_carriage_return(text: &str) -> Option<Place> {
    let bytes = text.as_bytes();
    let found = memchr::memchr_iter(b'\r', bytes).find(|at| bytes.get(at + 1) != Some(&b'\n'))?;
    let before = text.get(..found)?;
    let line = before.rsplit('\n').next().unwrap_or_default();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Some(Place { line: number(memchr::memchr_iter(b'\n', before.as_bytes()).count() + 1), column: number(line.chars().count() + 1) })
}

struct Builder<'a> {
    source: &'a Source,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    found: Vec<Diagnostic>,
}

impl Builder<'_> {
    /// One event; an error ends the reading, what is only found does not.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's other events say nothing about values")]
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Box<Diagnostic>> {
        let at = place(span);
        match event {
            Event::Scalar(text, style, _, tag) => {
                self.tag(tag.is_some(), span);
                self.put(Node { at, value: Value::Scalar { text: text.into(), plain: style == ScalarStyle::Plain } })
            }
            Event::SequenceStart(_, _, tag) => {
                self.tag(tag.is_some(), span);
                self.enter(Open::Sequence(at, Vec::new()), at)
            }
            Event::MappingStart(_, _, tag) => {
                self.tag(tag.is_some(), span);
                self.enter(Open::Mapping { at, entries: Vec::new(), key: None, known: HashSet::new() }, at)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Sequence(at, items)) => self.put(Node { at, value: Value::Sequence(items) }),
                Some(Open::Mapping { at, entries, .. }) => self.put(Node { at, value: Value::Mapping(entries) }),
                None => Ok(()),
            },
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let error = Diagnostic::error(self.source, at, "`*` begins a YAML alias, and aliases are not supported");
                self.found.push(error.with_hint("quote a pattern that begins with `*`: \"*\""));
                self.put(Node { at, value: Value::Broken })
            }
            Event::Anchor(..) => {
                let error = Diagnostic::error(self.source, at, "`&` begins a YAML anchor, and anchors are not supported");
                self.found.push(error.with_hint("write the value out where it is used; quote a text that begins with `&`"));
                Ok(())
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                let error = Diagnostic::error(self.source, at, "a second document begins here; a file holds one");
                Err(Box::new(error.with_hint("remove the `---`")))
            }
            // stream and document marks, and whatever says nothing about values
            _ => Ok(()),
        }
    }

    fn tag(&mut self, tagged: bool, span: &Span) {
        if tagged {
            let error = Diagnostic::error(self.source, place(span), "YAML tags (`!`) are not supported");
            self.found.push(error.with_hint("quote a text that begins with `!`"));
        }
    }

    fn enter(&mut self, collection: Open, at: Place) -> Result<(), Box<Diagnostic>> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Box::new(over_depth(self.source, at)));
        }
        self.open.push(collection);
        Ok(())
    }

    /// A whole node goes to where it belongs.
    fn put(&mut self, node: Node) -> Result<(), Box<Diagnostic>> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let error = Diagnostic::error(self.source, node.at, format!("the file holds more than {MAX_NODES} values"));
            return Err(Box::new(error.with_code("over-budget").with_hint("split it into several files")));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence(_, items)) => items.push(node),
            Some(Open::Mapping { entries, key, known, .. }) => match key.take() {
                Some(name) => {
                    if judge_key(&name, known, self.source, &mut self.found) {
                        entries.push((name, node));
                    }
                }
                None => *key = Some(node),
            },
        }
        Ok(())
    }
}

/// Whether an entry counts. The first of two equal keys stays, so that both are judged against the same form.
fn judge_key(key: &Node, known: &mut HashSet<Box<str>>, source: &Source, found: &mut Vec<Diagnostic>) -> bool {
    let Value::Scalar { text, plain } = &key.value else {
        if !matches!(key.value, Value::Broken) {
            found.push(Diagnostic::error(source, key.at, "a key is a word, not a list or a mapping"));
        }
        return false;
    };
    if *plain && &**text == "<<" {
        let error = Diagnostic::error(source, key.at, "merge keys (`<<`) are not supported");
        found.push(error.with_hint("write the fields out where they are used"));
        return false;
    }
    if !known.insert(text.clone()) {
        let error = Diagnostic::error(source, key.at, format!("`{text}` stands twice in this mapping"));
        found.push(error.with_code("duplicate-key").with_hint("keep one of the two"));
        return false;
    }
    true
}

fn over_depth(source: &Source, at: Place) -> Diagnostic {
    Diagnostic::error(source, at, format!("nested more than {MAX_DEPTH} levels deep")).with_code("over-budget")
}

/// The scanner's error in the operator's words.
fn scan_error(source: &Source, error: &ScanError) -> Diagnostic {
    let marker = error.marker();
    let at = place_of(marker.line(), marker.col());
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let text = text.split(" at byte ").next().unwrap_or(text).split(" at char ").next().unwrap_or(text).lines().next().unwrap_or_default();
    if text.contains("anchor or alias") {
        let error = Diagnostic::error(source, at, "`*` begins a YAML alias, `&` an anchor");
        return error.with_hint("quote a pattern that begins with `*`: \"*\"");
    }
    if text.contains("nesting") || text.contains("recursion") {
        return over_depth(source, at);
    }
    let hint =
        if text.contains("tab") { "indent with spaces" } else { "the text is no YAML from here on; the mistake may stand a little before" };
    Diagnostic::error(source, at, text.trim_end_matches([':', ' '])).with_hint(hint)
}

fn place(span: &Span) -> Place {
    place_of(span.start.line(), span.start.col())
}

/// The scanner counts lines from 1 and columns from 0.
fn place_of(line: usize, column: usize) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    Place { line: number(line), column: number(column.saturating_add(1)) }
}
