//! The checker: a parsed expression to the typed tree, or everything that is wrong with it, each at its place.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue, SelectExpr, SourceInfo};
use http::HeaderName;
use ipnet::IpNet;

use super::parse::Problem;
use super::pattern::Pattern;
use super::program::{Map, Moment, Notes, Number, NumberAttribute, Order, Span, Test, Text, TextAttribute};
use super::schema::{self, Attribute, Known};
use crate::live;
use crate::written::suggest;

/// Deepest nesting of an expression.
const DEEPEST: usize = 48;

/// All that conditions can say.
const SUBSET: &str = "conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() \
                      timestamp() duration() ip() cidr().containsIP()";

/// A typed value while the tree is built.
#[derive(Debug, Clone)]
pub(super) enum Typed {
    Bool(Test),
    Number(Number),
    Text(Text),
    Moment(Moment),
    Span(Span),
    Address,
    AddressLiteral(std::net::IpAddr),
    Network(IpNet),
    Map(Map),
}

impl Typed {
    /// The type as CEL calls it.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Number(_) => "int",
            Self::Text(_) => "string",
            Self::Moment(_) => "timestamp",
            Self::Span(_) => "duration",
            Self::Address | Self::AddressLiteral(_) => "address",
            Self::Network(_) => "network",
            Self::Map(_) => "map",
        }
    }
}

/// The type of the variable of `exists` and `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemType {
    Text,
    Number,
}

/// The state of one check.
pub(super) struct Checker<'a> {
    source: &'a str,
    info: &'a SourceInfo,
    pub(super) problems: Vec<Problem>,
    pub(super) item: Option<(String, ItemType)>,
    depth: usize,
    reads: BTreeSet<String>,
    guards: BTreeSet<String>,
    pub(super) notes: Notes,
}

impl<'a> Checker<'a> {
    pub(super) fn new(source: &'a str, info: &'a SourceInfo) -> Self {
        Self {
            source,
            info,
            problems: Vec::new(),
            item: None,
            depth: 0,
            reads: BTreeSet::new(),
            guards: BTreeSet::new(),
            notes: Notes::default(),
        }
    }

    /// The whole condition.
    pub(super) fn condition(&mut self, expr: &IdedExpr) -> Option<Test> {
        let typed = self.typed(expr)?;
        let Typed::Bool(test) = typed else {
            let message = format!("the condition must be a boolean, found {}", typed.kind());
            self.problem(expr, message, "compare it with something, as in `request.port == 443`");
            return None;
        };
        self.notes.unguarded = self.reads.difference(&self.guards).cloned().collect();
        negative(&test, true, &mut self.notes.negative);
        if let Test::Constant(value) = test {
            self.notes.constant = Some(value);
        }
        Some(test)
    }

    /// The type and meaning of an expression; `None` when a problem was found in it.
    pub(super) fn typed(&mut self, expr: &IdedExpr) -> Option<Typed> {
        if self.depth >= DEEPEST {
            self.problem(expr, "the condition is nested too deeply", "split it into several rules");
            return None;
        }
        self.depth += 1;
        let typed = match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal),
            Expr::Select(select) if select.test => self.has(expr, select).map(Typed::Bool),
            Expr::Ident(_) | Expr::Select(_) => self.attribute(expr),
            Expr::Call(call) => self.call(expr, call),
            Expr::Comprehension(comprehension) => self.comprehension(expr, comprehension).map(Typed::Bool),
            Expr::List(_) => self.refuse(expr, "a list stands only to the right of `in`, or before `.exists()` and `.all()`"),
            Expr::Map(_) | Expr::Struct(_) => self.refuse(expr, "maps and messages are not part of conditions"),
            Expr::Unspecified => self.refuse(expr, "the condition is incomplete"),
        };
        self.depth -= 1;
        typed
    }

    /// A boolean expression.
    pub(super) fn test(&mut self, expr: &IdedExpr) -> Option<Test> {
        let typed = self.typed(expr)?;
        if let Typed::Bool(test) = typed {
            return Some(test);
        }
        self.problem(expr, format!("expected a boolean, found {}", typed.kind()), "compare it with something");
        None
    }

    /// A text expression; `role` says what for.
    pub(super) fn text(&mut self, expr: &IdedExpr, role: &str) -> Option<Text> {
        let typed = self.typed(expr)?;
        if let Typed::Text(text) = typed {
            return Some(text);
        }
        self.problem(expr, format!("{role} must be a string, found {}", typed.kind()), "quote it if it is meant to be text");
        None
    }

    fn literal(&mut self, expr: &IdedExpr, literal: &LiteralValue) -> Option<Typed> {
        match literal {
            LiteralValue::Boolean(value) => Some(Typed::Bool(Test::Constant(*value.inner()))),
            LiteralValue::Int(value) => Some(Typed::Number(Number::Literal(*value.inner()))),
            LiteralValue::String(value) => Some(Typed::Text(Text::Literal(value.inner().into()))),
            LiteralValue::UInt(_) => self.refuse(expr, "unsigned literals are not part of conditions: write the number without `u`"),
            LiteralValue::Double(_) => self.refuse(expr, "numbers with a fraction are not part of conditions"),
            LiteralValue::Bytes(_) => self.refuse(expr, "byte strings are not part of conditions"),
            LiteralValue::Null => self.refuse(expr, "`null` is not part of conditions: `has()` tells whether something is there"),
        }
    }

    fn attribute(&mut self, expr: &IdedExpr) -> Option<Typed> {
        let Some(name) = dotted(expr) else {
            return self.refuse(expr, "only attributes such as `request.host` have fields");
        };
        if let Some((item, kind)) = &self.item
            && *item == name
        {
            return Some(match kind {
                ItemType::Text => Typed::Text(Text::Item),
                ItemType::Number => Typed::Number(Number::Item),
            });
        }
        if let Some(known) = schema::find(&name) {
            return Some(self.read(known));
        }
        if let Some((map, key)) = map_field(&name) {
            return self.entry(expr, map, key).map(Typed::Text);
        }
        self.unknown(expr, &name);
        None
    }

    fn read(&mut self, known: &Known) -> Typed {
        // An absent body size or content type is the caller's choice and documented to be an error; asking first would say nothing more.
        let told = [Attribute::Number(NumberAttribute::BodySize), Attribute::Text(TextAttribute::ContentType)];
        if known.optional && !told.contains(&known.attribute) {
            self.reads.insert(known.name.to_owned());
        }
        self.notes.lease |= known.name.starts_with("lease.");
        match known.attribute {
            // Whoever asked whether a lease is active knows that it has a kind.
            Attribute::LeaseActive => {
                self.guards.insert(schema::name_of(Attribute::Text(TextAttribute::LeaseKind)).to_owned());
                Typed::Bool(Test::LeaseActive)
            }
            Attribute::Text(attribute) => Typed::Text(Text::Attribute(attribute)),
            Attribute::Number(attribute) => Typed::Number(Number::Attribute(attribute)),
            Attribute::Map(map) => Typed::Map(map),
            Attribute::Address => Typed::Address,
            Attribute::Now => Typed::Moment(Moment::Now(jiff::SignedDuration::ZERO)),
        }
    }

    /// `has(...)`.
    fn has(&mut self, expr: &IdedExpr, select: &SelectExpr) -> Option<Test> {
        let Some(operand) = dotted(&select.operand) else {
            return self.refuse(expr, "`has()` asks for an attribute, as in `has(source.namespace)`");
        };
        let name = format!("{operand}.{}", select.field);
        if let Some(known) = schema::find(&name) {
            self.guards.insert(known.name.to_owned());
            self.notes.lease |= known.name.starts_with("lease.");
            return Some(match known.attribute {
                Attribute::Text(attribute) => Test::HasText(attribute),
                Attribute::Number(attribute) => Test::HasNumber(attribute),
                Attribute::Address => Test::HasAddress,
                Attribute::Map(_) | Attribute::Now | Attribute::LeaseActive => Test::Constant(true),
            });
        }
        if let Some((map, key)) = map_field(&name) {
            return self.contains(expr, map, key);
        }
        self.unknown(&select.operand, &name);
        None
    }

    /// `request.headers['k']`, `request.query['k']`, `lease.attrs['k']`.
    pub(super) fn entry(&mut self, expr: &IdedExpr, map: Map, key: &str) -> Option<Text> {
        self.reads.insert(entry_name(map, key));
        Some(match map {
            Map::Headers => Text::Header(self.header_name(expr, key)?),
            Map::Query => Text::Query(key.into()),
            Map::LeaseAttributes => Text::LeaseAttribute(self.lease_attribute(expr, key)?),
        })
    }

    /// `'k' in request.headers`, `has(request.headers.k)`.
    pub(super) fn contains(&mut self, expr: &IdedExpr, map: Map, key: &str) -> Option<Test> {
        self.guards.insert(entry_name(map, key));
        Some(match map {
            Map::Headers => Test::HasHeader(self.header_name(expr, key)?),
            Map::Query => Test::HasQuery(key.into()),
            Map::LeaseAttributes => Test::HasLeaseAttribute(self.lease_attribute(expr, key)?),
        })
    }

    fn lease_attribute(&mut self, expr: &IdedExpr, key: &str) -> Option<Box<str>> {
        self.notes.lease = true;
        if !live::is_attribute(key) {
            let message = format!("no lease has an attribute `{key}`: it would never be found");
            self.problem(expr, message, "names have 1 to 64 of a-z, A-Z, 0-9, `.`, `-` and `_`");
            return None;
        }
        Some(key.into())
    }

    fn header_name(&mut self, expr: &IdedExpr, key: &str) -> Option<HeaderName> {
        if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.problem(
                expr,
                format!("header names are in lower case here: `{key}` would never be found"),
                format!("write `{}`", key.to_lowercase()),
            );
            return None;
        }
        let name = HeaderName::from_bytes(key.as_bytes()).ok();
        if name.is_none() {
            self.problem(expr, format!("`{key}` is not a header name"), "write it as in `request.headers['idempotency-key']`");
        }
        name
    }

    fn unknown(&mut self, expr: &IdedExpr, name: &str) {
        if let Some((word, what)) = schema::later(name) {
            self.problem(expr, format!("this binary does not know `{word}` in conditions: it comes with {what}"), "remove it until then");
            return;
        }
        let names = || schema::SCHEMA.iter().map(|known| known.name);
        let below: Vec<&str> = names().filter(|known| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))).collect();
        if !below.is_empty() {
            self.problem(expr, format!("`{name}` is not a value"), format!("its attributes are {}", below.join(", ")));
            return;
        }
        let hint = suggest(name, names()).map_or_else(
            || format!("the attributes are {}", names().collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        self.problem(expr, format!("there is no attribute `{name}`"), hint);
    }

    pub(super) fn refuse<T>(&mut self, expr: &IdedExpr, message: &str) -> Option<T> {
        self.problem(expr, message, SUBSET);
        None
    }

    /// A regular expression, compiled.
    pub(super) fn pattern(&mut self, expr: &IdedExpr) -> Option<Pattern> {
        let Expr::Literal(LiteralValue::String(text)) = &expr.expr else {
            self.problem(expr, "the regular expression must be a literal", "it is compiled once, when the policy is loaded");
            return None;
        };
        match Pattern::compile(text.inner()) {
            Ok(pattern) => {
                if !pattern.is_anchored() {
                    self.notes.unanchored.push(pattern.text().to_owned());
                }
                Some(pattern)
            }
            Err(message) => {
                self.problem(expr, message, "`startsWith`, `endsWith`, `contains` and `in` often say the same");
                None
            }
        }
    }

    /// Adds a problem at the place of an expression.
    pub(super) fn problem(&mut self, expr: &IdedExpr, message: impl Into<String>, hint: impl Into<String>) {
        let (begin, end) = self.span(expr);
        self.problem_at(begin, end.saturating_sub(begin).max(1), message, hint);
    }

    pub(super) fn problem_at(&mut self, offset: usize, length: usize, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem { offset, length, message: message.into(), hint: hint.into() });
    }

    /// First and last character of an expression, as well as the parser tells: it knows tokens, not ranges.
    pub(super) fn span(&self, expr: &IdedExpr) -> (usize, usize) {
        let own = self.info.offset_for(expr.id).map(|(begin, end)| (begin as usize, (end as usize) + 1));
        let parts: Vec<&IdedExpr> = match &expr.expr {
            Expr::Select(select) => vec![&*select.operand],
            Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).collect(),
            Expr::List(list) => list.elements.iter().collect(),
            Expr::Comprehension(comprehension) => vec![&comprehension.iter_range],
            Expr::Ident(_) | Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => Vec::new(),
        };
        let ranges = own.into_iter().chain(parts.into_iter().map(|part| self.span(part)));
        let (begin, mut end) = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 1));
        if let (Expr::Select(select), Some((dot, _))) = (&expr.expr, own) {
            end = end.max(dot + 1 + select.field.chars().count());
        }
        (begin, end.min(self.source.chars().count()).max(begin + 1))
    }
}

/// `a.b.c`.
#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum: nothing else is a name")]
fn dotted(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => dotted(&select.operand).map(|name| format!("{name}.{}", select.field)),
        _ => None,
    }
}

/// `request.headers.k`.
fn map_field(name: &str) -> Option<(Map, &str)> {
    let (map, key) = name.rsplit_once('.')?;
    match schema::find(map)?.attribute {
        Attribute::Map(map) => Some((map, key)),
        Attribute::Text(_) | Attribute::Number(_) | Attribute::Address | Attribute::Now | Attribute::LeaseActive => None,
    }
}

fn entry_name(map: Map, key: &str) -> String {
    format!("{}['{key}']", schema::name_of(Attribute::Map(map)))
}

/// Collects what the caller writes and whose absence or difference makes the test true.
fn negative(test: &Test, positive: bool, found: &mut Vec<String>) {
    let mut of_text = |texts: &[Text]| {
        for text in texts {
            match text {
                Text::Header(name) => found.push(entry_name(Map::Headers, name.as_str())),
                Text::Query(key) => found.push(entry_name(Map::Query, key)),
                Text::Lower(inner) => match &**inner {
                    Text::Header(name) => found.push(entry_name(Map::Headers, name.as_str())),
                    Text::Query(key) => found.push(entry_name(Map::Query, key)),
                    Text::Literal(_) | Text::Attribute(_) | Text::LeaseAttribute(_) | Text::Item | Text::Lower(_) | Text::If(_) => {}
                },
                Text::Literal(_) | Text::Attribute(_) | Text::LeaseAttribute(_) | Text::Item | Text::If(_) => {}
            }
        }
    };
    match test {
        Test::Not(inner) => negative(inner, !positive, found),
        Test::And(all) | Test::Or(all) => all.iter().for_each(|inner| negative(inner, positive, found)),
        Test::If(parts) => parts.iter().for_each(|inner| negative(inner, positive, found)),
        Test::AnyText(_, inner) | Test::AllText(_, inner) | Test::AnyNumber(_, inner) | Test::AllNumber(_, inner) => {
            negative(inner, positive, found);
        }
        Test::Text(order, sides) if (*order == Order::NotEqual) == positive => of_text(&**sides),
        Test::TextIn(text, _) | Test::Matches(text, _) if !positive => of_text(std::slice::from_ref(&**text)),
        Test::Part(_, sides) if !positive => of_text(&**sides),
        Test::HasHeader(name) if !positive => found.push(entry_name(Map::Headers, name.as_str())),
        Test::HasQuery(key) if !positive => found.push(entry_name(Map::Query, key)),
        Test::Constant(_)
        | Test::Same(..)
        | Test::Number(..)
        | Test::NumberIn(..)
        | Test::Text(..)
        | Test::TextIn(..)
        | Test::Part(..)
        | Test::Matches(..)
        | Test::Moment(..)
        | Test::Span(..)
        | Test::Address(..)
        | Test::Within(_)
        | Test::HasText(_)
        | Test::HasNumber(_)
        | Test::HasAddress
        | Test::HasHeader(_)
        | Test::HasQuery(_)
        | Test::LeaseActive
        | Test::HasLeaseAttribute(_) => {}
    }
}
