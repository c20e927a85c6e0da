//! Facts: what must hold of single attributes for a condition to be true. Enough to tell that two conditions exclude each other, or that
//! one contradicts itself or its rule; what it cannot tell it leaves open.

use std::collections::{BTreeMap, BTreeSet};

use super::program::{Moment, Number, NumberAttribute, Order, Part, Test, Text, TextAttribute};

/// A thing that a fact can be about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Text(TextAttribute),
    Header(String),
    Query(String),
    Number(NumberAttribute),
    /// The time, in nanoseconds.
    Now,
    /// Whether it is there.
    Presence(Box<Self>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    Word(Word),
    Range(Range),
    Is(bool),
}

/// What a text may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Word {
    one_of: Option<BTreeSet<Box<str>>>,
    none_of: BTreeSet<Box<str>>,
    starts: Box<str>,
}

/// What a number may be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    from: i128,
    to: i128,
    not: BTreeSet<i128>,
}

impl Word {
    fn one_of(values: impl Iterator<Item = Box<str>>) -> Self {
        Self { one_of: Some(values.collect()), ..Self::default() }
    }

    /// What both allow; `None` when that is nothing.
    fn and(self, other: Self) -> Option<Self> {
        let starts = match (other.starts.starts_with(&*self.starts), self.starts.starts_with(&*other.starts)) {
            (true, _) => other.starts,
            (false, true) => self.starts,
            (false, false) => return None,
        };
        let none_of: BTreeSet<Box<str>> = self.none_of.union(&other.none_of).cloned().collect();
        let one_of = match (self.one_of, other.one_of) {
            (Some(one), Some(two)) => Some(one.intersection(&two).cloned().collect()),
            (one, two) => one.or(two),
        };
        let one_of = one_of.map(|mut values: BTreeSet<Box<str>>| {
            values.retain(|value| value.starts_with(&*starts) && !none_of.contains(value));
            values
        });
        let some = one_of.as_ref().is_none_or(|values| !values.is_empty());
        some.then_some(Self { one_of, none_of, starts })
    }
}

impl Range {
    fn and(self, other: &Self) -> Option<Self> {
        let (from, to) = (self.from.max(other.from), self.to.min(other.to));
        let not: BTreeSet<i128> = self.not.union(&other.not).copied().collect();
        let some = from <= to && !(from == to && not.contains(&from));
        some.then_some(Self { from, to, not })
    }
}

/// Facts by what they are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::policy) struct Facts {
    known: BTreeMap<About, Fact>,
    contradictory: bool,
}

impl Facts {
    /// Of a condition that is true.
    pub(super) fn of(test: &Test) -> Self {
        let mut facts = Self::default();
        facts.learn(test, true);
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

    /// The only values that these attributes may have, each with its name: method, upstream, path, SPIFFE ID.
    pub(in crate::policy) fn selected(&self) -> impl Iterator<Item = (Selected, Vec<&str>)> {
        let values = |attribute| match self.known.get(&About::Text(attribute)) {
            Some(Fact::Word(Word { one_of: Some(values), .. })) => Some(values.iter().map(|value| &**value).collect::<Vec<_>>()),
            Some(Fact::Word(_) | Fact::Range(_) | Fact::Is(_)) | None => None,
        };
        let about = [
            (Selected::Method, TextAttribute::Method),
            (Selected::Upstream, TextAttribute::Upstream),
            (Selected::Path, TextAttribute::Path),
            (Selected::Workload, TextAttribute::SpiffeId),
        ];
        about.into_iter().filter_map(move |(what, attribute)| Some((what, values(attribute)?)))
    }

    /// What holds when a test has this value.
    fn learn(&mut self, test: &Test, value: bool) {
        match (test, value) {
            (Test::And(all), true) | (Test::Or(all), false) => all.iter().for_each(|test| self.learn(test, value)),
            (Test::Not(inner), _) => self.learn(inner, !value),
            (Test::Text(order, sides), _) => self.learn_text(if value { *order } else { order.negated() }, sides),
            (Test::TextIn(text, list), _) => {
                let values = list.iter().cloned();
                let word = if value { Word::one_of(values) } else { Word { none_of: values.collect(), ..Word::default() } };
                self.add_text(text, word);
            }
            (Test::Part(Part::Starts, sides), true) => {
                if let [text, Text::Literal(starts)] = &**sides {
                    self.add_text(text, Word { starts: starts.clone(), ..Word::default() });
                }
            }
            (Test::Number(order, sides), _) => self.learn_number(if value { *order } else { order.negated() }, sides),
            (Test::NumberIn(number, list), true) => {
                if let (Number::Attribute(attribute), Some(from), Some(to)) = (&**number, list.iter().min(), list.iter().max()) {
                    self.add_number(About::Number(*attribute), Order::GreaterEqual, i128::from(*from));
                    self.add_number(About::Number(*attribute), Order::LessEqual, i128::from(*to));
                }
            }
            (Test::Moment(order, left, right), _) => {
                let order = if value { *order } else { order.negated() };
                for (left, order, right) in [(left, order, right), (right, order.turned(), left)] {
                    if let (Moment::Now(offset), Moment::Literal(at)) = (left, right) {
                        self.add_number(About::Now, order, at.as_nanosecond() - offset.as_nanos());
                    }
                }
            }
            (Test::HasHeader(name), _) => self.present(About::Header(name.as_str().to_owned()), value),
            (Test::HasQuery(key), _) => self.present(About::Query(key.to_string()), value),
            (Test::HasText(attribute), _) => self.present(About::Text(*attribute), value),
            (Test::HasNumber(attribute), _) => self.present(About::Number(*attribute), value),
            (
                Test::Constant(_)
                | Test::And(_)
                | Test::Or(_)
                | Test::If(_)
                | Test::Same(..)
                | Test::NumberIn(..)
                | Test::Part(..)
                | Test::Matches(..)
                | Test::Span(..)
                | Test::Address(..)
                | Test::Within(_)
                | Test::HasAddress
                | Test::AnyText(..)
                | Test::AllText(..)
                | Test::AnyNumber(..)
                | Test::AllNumber(..),
                _,
            ) => {}
        }
    }

    fn learn_text(&mut self, order: Order, sides: &[Text; 2]) {
        let [left, right] = sides;
        for (left, right) in [(left, right), (right, left)] {
            let Text::Literal(value) = right else { continue };
            match order {
                Order::Equal => self.add_text(left, Word::one_of(std::iter::once(value.clone()))),
                Order::NotEqual => self.add_text(left, Word { none_of: BTreeSet::from([value.clone()]), ..Word::default() }),
                Order::Less | Order::LessEqual | Order::Greater | Order::GreaterEqual => self.add_text(left, Word::default()),
            }
        }
    }

    fn learn_number(&mut self, order: Order, sides: &[Number; 2]) {
        let [left, right] = sides;
        for (left, order, right) in [(left, order, right), (right, order.turned(), left)] {
            if let (Number::Attribute(attribute), Number::Literal(value)) = (left, right) {
                self.add_number(About::Number(*attribute), order, i128::from(*value));
                self.present(About::Number(*attribute), true);
            }
        }
    }

    /// A text that was compared was there.
    fn add_text(&mut self, text: &Text, word: Word) {
        if let Some(about) = about_text(text) {
            self.add(about.clone(), Fact::Word(word));
            self.present(about, true);
        }
    }

    fn add_number(&mut self, about: About, order: Order, value: i128) {
        let (from, to, not) = match order {
            Order::Equal => (value, value, None),
            Order::NotEqual => (i128::MIN, i128::MAX, Some(value)),
            Order::Less => (i128::MIN, value - 1, None),
            Order::LessEqual => (i128::MIN, value, None),
            Order::Greater => (value + 1, i128::MAX, None),
            Order::GreaterEqual => (value, i128::MAX, None),
        };
        self.add(about, Fact::Range(Range { from, to, not: not.into_iter().collect() }));
    }

    fn present(&mut self, about: About, is: bool) {
        self.add(About::Presence(Box::new(about)), Fact::Is(is));
    }

    fn add(&mut self, about: About, fact: Fact) {
        let both = match (self.known.get(&about).cloned(), fact) {
            (None, fact) => Some(fact),
            (Some(Fact::Word(old)), Fact::Word(new)) => old.and(new).map(Fact::Word),
            (Some(Fact::Range(old)), Fact::Range(new)) => old.and(&new).map(Fact::Range),
            (Some(Fact::Is(old)), Fact::Is(new)) => (old == new).then_some(Fact::Is(old)),
            (Some(old), _) => Some(old),
        };
        match both {
            Some(fact) => {
                self.known.insert(about, fact);
            }
            None => self.contradictory = true,
        }
    }
}

/// A part of a rule's selector that a condition can name too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum Selected {
    Method,
    Upstream,
    Path,
    Workload,
}

fn about_text(text: &Text) -> Option<About> {
    match text {
        Text::Attribute(attribute) => Some(About::Text(*attribute)),
        Text::Header(name) => Some(About::Header(name.as_str().to_owned())),
        Text::Query(key) => Some(About::Query(key.to_string())),
        Text::Literal(_) | Text::Item | Text::Lower(_) | Text::If(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::parse_all;
    use super::*;

    fn facts(text: &str) -> Facts {
        let mut parsed = parse_all(&[Arc::from(text)]);
        parsed.pop().unwrap().unwrap_or_else(|problems| panic!("{text}: {problems:?}")).facts
    }

    #[test]
    fn what_contradicts_itself_is_seen_and_nothing_else() {
        for (text, expected) in [
            ("request.port == 443 && request.port > 500", true),
            ("request.port == 443 && request.port != 443", true),
            ("request.port in [80, 443] && request.port > 443", true),
            ("request.port >= 443 && !(request.port > 443) && request.port != 443", true),
            ("request.port != 443 && request.port != 80", false),
            ("request.host == 'a' && request.host != 'a'", true),
            ("request.host in ['a', 'b'] && !(request.host in ['a', 'b', 'c'])", true),
            ("request.host in ['a', 'b'] && request.host != 'a'", false),
            ("request.path.startsWith('/a') && request.path == '/b'", true),
            ("request.path.startsWith('/a') && request.path.startsWith('/b')", true),
            ("request.path.startsWith('/a') && request.path.startsWith('/a/b')", false),
            ("!('x' in request.headers) && request.headers['x'] == '1'", true),
            ("!('x' in request.headers) && request.headers['y'] == '1'", false),
            ("'k' in request.query && !('k' in request.query)", true),
            ("!has(source.uid) && source.uid == 1", true),
            ("now > timestamp('2026-12-01T00:00:00Z') && now < timestamp('2026-11-01T00:00:00Z')", true),
            ("now > timestamp('2026-11-01T00:00:00Z') && now - duration('1h') < timestamp('2026-11-01T00:00:00Z')", false),
            ("!(request.port == 1 || request.port != 1)", true),
            ("request.port == 1 || request.port == 2", false),
        ] {
            assert_eq!(facts(text).contradictory(), expected, "{text}");
        }
        assert!(facts("request.host == 'a'").excludes(&facts("request.host != 'a'")));
        assert!(!facts("request.host == 'a'").excludes(&facts("request.port == 1")));
    }
}
