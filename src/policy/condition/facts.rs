//! Facts: what must hold of single attributes for a condition to be true. Enough to tell that two conditions exclude each other, or that
//! one contradicts itself; what it cannot tell it leaves open.

use std::collections::{BTreeMap, BTreeSet};

use super::program::{Number, NumberAttribute, Order, Test, Text, TextAttribute};

/// A thing that a fact can be about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Text(TextAttribute),
    Header(String),
    Query(String),
    Number(NumberAttribute),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    OneOf(BTreeSet<Box<str>>),
    Between(i128, i128),
}

/// Facts by what they are about; `None` when no value can satisfy them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::policy) struct Facts {
    known: BTreeMap<About, Fact>,
    contradictory: bool,
}

impl Facts {
    /// Of a condition: its top-level conjunction.
    pub(super) fn of(test: &Test) -> Self {
        let mut facts = Self::default();
        facts.learn(test);
        facts
    }

    /// No request satisfies them.
    pub(in crate::policy) const fn contradictory(&self) -> bool {
        self.contradictory
    }

    /// No request satisfies both.
    pub(in crate::policy) fn excludes(&self, other: &Self) -> bool {
        let mut both = self.clone();
        for (about, fact) in &other.known {
            both.add(about.clone(), fact.clone());
        }
        both.contradictory || other.contradictory
    }

    fn learn(&mut self, test: &Test) {
        match test {
            Test::And(all) => all.iter().for_each(|test| self.learn(test)),
            Test::Text(Order::Equal, sides) => {
                let [left, right] = &**sides;
                for (left, right) in [(left, right), (right, left)] {
                    if let (Some(about), Text::Literal(value)) = (about_text(left), right) {
                        self.add(about, Fact::OneOf(BTreeSet::from([value.clone()])));
                    }
                }
            }
            Test::TextIn(text, list) => {
                if let Some(about) = about_text(text) {
                    self.add(about, Fact::OneOf(list.iter().cloned().collect()));
                }
            }
            Test::Number(order, sides) => {
                let [left, right] = &**sides;
                for (left, order, right) in [(left, *order, right), (right, order.turned(), left)] {
                    if let (Number::Attribute(attribute), Number::Literal(value)) = (left, right)
                        && *attribute != NumberAttribute::LeaseUsesLeft
                        && let Some((from, to)) = interval(order, i128::from(*value))
                    {
                        self.add(About::Number(*attribute), Fact::Between(from, to));
                    }
                }
            }
            Test::Constant(_)
            | Test::Not(_)
            | Test::Or(_)
            | Test::If(_)
            | Test::Same(..)
            | Test::NumberIn(..)
            | Test::Text(..)
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
            | Test::HasLeaseAttribute(_)
            | Test::AnyText(..)
            | Test::AllText(..)
            | Test::AnyNumber(..)
            | Test::AllNumber(..) => {}
        }
    }

    fn add(&mut self, about: About, fact: Fact) {
        let narrowed = match (self.known.remove(&about), fact) {
            (None, fact) => fact,
            (Some(Fact::OneOf(old)), Fact::OneOf(new)) => Fact::OneOf(old.intersection(&new).cloned().collect()),
            (Some(Fact::Between(from, to)), Fact::Between(least, most)) => Fact::Between(from.max(least), to.min(most)),
            (Some(old), _) => old,
        };
        self.contradictory |= match &narrowed {
            Fact::OneOf(values) => values.is_empty(),
            Fact::Between(from, to) => from > to,
        };
        self.known.insert(about, narrowed);
    }
}

fn about_text(text: &Text) -> Option<About> {
    match text {
        // Two rules may go by two leases: what one says of its own excludes nothing of the other.
        Text::Attribute(TextAttribute::LeaseKind)
        | Text::LeaseAttribute(_)
        | Text::Literal(_)
        | Text::Item
        | Text::Lower(_)
        | Text::If(_) => None,
        Text::Attribute(attribute) => Some(About::Text(*attribute)),
        Text::Header(name) => Some(About::Header(name.as_str().to_owned())),
        Text::Query(key) => Some(About::Query(key.to_string())),
    }
}

const fn interval(order: Order, value: i128) -> Option<(i128, i128)> {
    match order {
        Order::Equal => Some((value, value)),
        Order::NotEqual => None,
        Order::Less => Some((i128::MIN, value - 1)),
        Order::LessEqual => Some((i128::MIN, value)),
        Order::Greater => Some((value + 1, i128::MAX)),
        Order::GreaterEqual => Some((value, i128::MAX)),
    }
}
