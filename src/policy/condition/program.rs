//! The typed tree that a condition becomes. Every type has its own expressions, so nothing is looked up or checked at run time.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;
use jiff::SignedDuration;

use super::facts::Facts;
use super::pattern::Pattern;
use crate::clock::Timestamp;

/// A condition, ready to be evaluated.
#[derive(Debug)]
pub(in crate::policy) struct Condition {
    /// As written.
    pub(in crate::policy) text: Arc<str>,
    pub(super) test: Test,
    /// What must hold of single attributes when it is true.
    pub(in crate::policy) facts: Facts,
    /// What lints say of it.
    pub(in crate::policy) notes: Notes,
}

/// Observations for lints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::policy) struct Notes {
    /// It is the same for every request.
    pub(in crate::policy) constant: Option<bool>,
    /// Optional attributes that are read although nothing asked whether they are there.
    pub(in crate::policy) unguarded: Vec<String>,
    /// Headers and query keys, which the caller writes, whose absence or difference makes the condition true.
    pub(in crate::policy) negative: Vec<String>,
    /// Regular expressions that are not tied to both ends.
    pub(in crate::policy) unanchored: Vec<String>,
}

/// A boolean.
#[derive(Debug, Clone)]
pub(super) enum Test {
    Constant(bool),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
    If(Box<[Self; 3]>),
    Same(Box<[Self; 2]>, bool),
    Number(Order, Box<[Number; 2]>),
    NumberIn(Box<Number>, Box<[i64]>),
    Text(Order, Box<[Text; 2]>),
    TextIn(Box<Text>, Box<[Box<str>]>),
    Part(Part, Box<[Text; 2]>),
    Matches(Box<Text>, Arc<Pattern>),
    Moment(Order, Moment, Moment),
    Span(Order, Span, Span),
    Address(Order, IpAddr),
    Within(IpNet),
    HasText(TextAttribute),
    HasNumber(NumberAttribute),
    HasAddress,
    HasHeader(HeaderName),
    HasQuery(Box<str>),
    AnyText(Box<[Box<str>]>, Box<Self>),
    AllText(Box<[Box<str>]>, Box<Self>),
    AnyNumber(Box<[i64]>, Box<Self>),
    AllNumber(Box<[i64]>, Box<Self>),
}

/// How two values of one type compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Order {
    pub(super) fn holds<T: Ord + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterEqual => left >= right,
        }
    }

    /// What holds when it does not.
    pub(super) const fn negated(self) -> Self {
        match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Less => Self::GreaterEqual,
            Self::LessEqual => Self::Greater,
            Self::Greater => Self::LessEqual,
            Self::GreaterEqual => Self::Less,
        }
    }

    /// The same comparison with its sides exchanged.
    pub(super) const fn turned(self) -> Self {
        match self {
            Self::Equal | Self::NotEqual => self,
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
        }
    }
}

/// Where one text stands in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Starts,
    Ends,
    Contains,
}

/// An integer.
#[derive(Debug, Clone)]
pub(super) enum Number {
    Literal(i64),
    Attribute(NumberAttribute),
    Size(Box<Text>),
    Item,
    If(Box<(Test, Self, Self)>),
}

/// A text.
#[derive(Debug, Clone)]
pub(super) enum Text {
    Literal(Box<str>),
    Attribute(TextAttribute),
    Header(HeaderName),
    Query(Box<str>),
    Item,
    Lower(Box<Self>),
    If(Box<(Test, Self, Self)>),
}

/// A point in time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    Literal(Timestamp),
    Now(SignedDuration),
}

/// A length of time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Span {
    Literal(SignedDuration),
    /// From this point to now.
    Since(Timestamp),
    /// From now to this point.
    Until(Timestamp),
}

/// Attributes that are texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum TextAttribute {
    SpiffeId,
    TrustDomain,
    Namespace,
    ServiceAccount,
    Host,
    Upstream,
    Scheme,
    Method,
    Path,
    ContentType,
}

/// Attributes that are integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum NumberAttribute {
    Uid,
    Port,
    BodySize,
}

/// Attributes that map names to texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Map {
    Headers,
    Query,
}

impl Test {
    /// How many steps an evaluation takes at most, for the order of tests and the limit of a condition's size.
    pub(super) fn cost(&self) -> usize {
        let times = |items: usize, inner: &Self| items.max(1).saturating_mul(inner.cost());
        1 + match self {
            Self::Constant(_) => 0,
            Self::Number(_, sides) => sides.iter().map(Number::cost).sum(),
            Self::NumberIn(number, _) => 1 + number.cost(),
            Self::HasText(_) | Self::HasNumber(_) | Self::HasAddress | Self::Moment(..) | Self::Span(..) | Self::Address(..) => 1,
            Self::Within(_) => 2,
            Self::HasHeader(_) => 3,
            Self::HasQuery(_) => 6,
            Self::Not(inner) => inner.cost(),
            Self::And(all) | Self::Or(all) => all.iter().map(Self::cost).sum(),
            Self::If(parts) => parts.iter().map(Self::cost).sum(),
            Self::Same(sides, _) => sides.iter().map(Self::cost).sum(),
            Self::Text(_, sides) | Self::Part(_, sides) => sides.iter().map(Text::cost).sum(),
            Self::TextIn(text, _) => 3 + text.cost(),
            Self::Matches(text, _) => 10 + text.cost(),
            Self::AnyText(items, inner) | Self::AllText(items, inner) => times(items.len(), inner),
            Self::AnyNumber(items, inner) | Self::AllNumber(items, inner) => times(items.len(), inner),
        }
    }
}

impl Number {
    fn cost(&self) -> usize {
        match self {
            Self::Literal(_) | Self::Item => 0,
            Self::Attribute(_) => 1,
            Self::Size(text) => 2 + text.cost(),
            Self::If(parts) => parts.0.cost() + parts.1.cost() + parts.2.cost(),
        }
    }
}

impl Text {
    fn cost(&self) -> usize {
        match self {
            Self::Literal(_) | Self::Item => 0,
            Self::Attribute(_) => 1,
            Self::Header(_) => 3,
            Self::Query(_) => 6,
            Self::Lower(text) => 2 + text.cost(),
            Self::If(parts) => parts.0.cost() + parts.1.cost() + parts.2.cost(),
        }
    }
}
