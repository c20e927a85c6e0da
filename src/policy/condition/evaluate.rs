//! Evaluation: three-valued as CEL defines it (`false && error` is false, `true || error` is true), without allocating.

use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use super::pattern::Pattern;
use super::program::{Condition, Moment, Number, NumberAttribute, Order, Part, Span, Test, Text, TextAttribute};
use super::query::{self, Lookup};
use crate::capture::Peer;
use crate::clock::Timestamp;
use crate::live::Lease;
use crate::policy::going::Going;
use crate::policy::request::AccessRequest;
use crate::strip::Stripped;

/// What a condition is evaluated against.
#[derive(Debug, Clone, Copy)]
pub(in crate::policy) struct Env<'a> {
    pub(in crate::policy) request: &'a AccessRequest<'a>,
    pub(in crate::policy) stripped: &'a Stripped,
    /// The reading of the path that is judged.
    pub(in crate::policy) path: &'a str,
    pub(in crate::policy) now: Timestamp,
    /// What the request could go by.
    pub(in crate::policy) going: &'a Going<'a>,
    /// The lease that the rule's condition reads.
    lease: Option<&'a Lease>,
    head: Head,
    item: Item<'a>,
}

/// Whether the head is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    Whole,
    /// Only what a record keeps of it: neither headers nor query.
    Recorded {
        /// What cannot be known is taken to be in favour of the request.
        in_favour: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Item<'a> {
    None,
    Text(&'a str),
    Number(i64),
}

/// Why a condition has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The attribute, header or key is not there.
    #[error("an attribute that it reads is absent")]
    Absent,
    /// A header or query key appears more than once, or servers differ about it.
    #[error("a header or query key that it reads appears more than once")]
    Repeated,
    /// Not UTF-8, not a number, or not ASCII where a regular expression looks.
    #[error("a value that it reads has another form than expected")]
    Form,
    /// A value that must be decoded first has more than 1 KiB.
    #[error("an encoded value that it reads is longer than 1 KiB")]
    TooLong,
    /// Inside a tunnel the request cannot be seen.
    #[error("it reads what a tunnel hides")]
    Hidden,
    /// Beyond what a point in time can be.
    #[error("a time is out of range")]
    Range,
    /// Records do not hold headers, query or body size.
    #[error("it reads what records do not hold")]
    Unrecorded,
}

/// Room for a value that has to be decoded or lowered; untouched (and not cleared) until then.
#[expect(clippy::large_enum_variant, reason = "it lives on the stack of one comparison: a box would be an allocation for each request")]
enum Scratch {
    Empty,
    Used([u8; 1024]),
}

/// A text before decoding and lowering.
#[derive(Clone, Copy)]
struct Raw<'a> {
    text: &'a str,
    encoded: bool,
    lower: bool,
}

impl<'a> Raw<'a> {
    const fn plain(text: &'a str) -> Self {
        Self { text, encoded: false, lower: false }
    }

    fn finish(self, scratch: &'a mut Scratch) -> Result<&'a str, Failed> {
        let decode = self.encoded && query::is_encoded(self.text);
        let lower = self.lower && self.text.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'%');
        if !decode && !lower {
            return Ok(self.text);
        }
        *scratch = Scratch::Used([0; 1024]);
        let Scratch::Used(room) = scratch else { return Err(Failed::TooLong) };
        let mut len = 0;
        let mut put = |byte: u8| {
            let slot = room.get_mut(len).ok_or(Failed::TooLong)?;
            *slot = if self.lower { byte.to_ascii_lowercase() } else { byte };
            len += 1;
            Ok(())
        };
        if decode {
            query::decoded(self.text).try_for_each(&mut put)?;
        } else {
            self.text.bytes().try_for_each(&mut put)?;
        }
        std::str::from_utf8(room.get(..len).unwrap_or_default()).map_err(|_| Failed::Form)
    }
}

impl Condition {
    /// Its value for one reading of one request.
    pub(in crate::policy) fn holds(&self, env: &Env<'_>) -> Result<bool, Failed> {
        env.test(&self.test)
    }
}

impl<'a> Env<'a> {
    /// Nothing is read before a condition asks for it.
    pub(in crate::policy) const fn new(going: &'a Going<'a>, stripped: &'a Stripped, path: &'a str) -> Self {
        Self { request: going.request(), stripped, path, now: going.now(), going, lease: None, head: Head::Whole, item: Item::None }
    }

    /// The same with the lease that a condition reads.
    pub(in crate::policy) const fn seeing(self, lease: Option<&'a Lease>) -> Self {
        Self { lease, ..self }
    }

    /// Of a request that only a record is left of.
    pub(in crate::policy) const fn recorded(self, in_favour: bool) -> Self {
        Self { head: Head::Recorded { in_favour }, ..self }
    }

    /// Whether a condition without a value for want of a record is taken to be in favour of the request.
    pub(in crate::policy) fn favours(&self, value: Result<bool, Failed>) -> bool {
        value == Err(Failed::Unrecorded) && self.head == Head::Recorded { in_favour: true }
    }

    /// The lease that the condition reads; a record tells at most that there was one.
    fn lease(&self) -> Result<Option<&'a Lease>, Failed> {
        if self.head == Head::Whole { Ok(self.lease) } else { Err(Failed::Unrecorded) }
    }

    fn test(&self, test: &Test) -> Result<bool, Failed> {
        match test {
            Test::Constant(value) => Ok(*value),
            Test::Not(inner) => self.test(inner).map(|value| !value),
            Test::And(all) => self.first(all, false),
            Test::Or(all) => self.first(all, true),
            Test::If(parts) => {
                let [condition, yes, no] = &**parts;
                if self.test(condition)? { self.test(yes) } else { self.test(no) }
            }
            Test::Same(sides, same) => {
                let [left, right] = &**sides;
                Ok((self.test(left)? == self.test(right)?) == *same)
            }
            Test::Number(order, sides) => {
                let [left, right] = &**sides;
                Ok(order.holds(&self.number(left)?, &self.number(right)?))
            }
            Test::NumberIn(number, list) => self.number(number).map(|number| list.binary_search(&number).is_ok()),
            Test::Text(order, sides) => self.compare(*order, sides),
            Test::TextIn(text, list) => self.is_in(text, list),
            Test::Part(part, sides) => self.has_part(*part, sides),
            Test::Matches(text, pattern) => self.matches(text, pattern),
            Test::Moment(order, left, right) => Ok(order.holds(&self.moment(*left)?, &self.moment(*right)?)),
            Test::Span(order, left, right) => Ok(order.holds(&self.span(*left), &self.span(*right))),
            Test::Address(order, wanted) => self.address().map(|address| order.holds(&address, wanted)),
            Test::Within(network) => self.address().map(|address| network.contains(&address)),
            Test::HasText(attribute) => present(self.text_attribute(*attribute).map(|_| ())),
            Test::HasNumber(attribute) => present(self.number_attribute(*attribute).map(|_| ())),
            Test::HasAddress => present(self.address().map(|_| ())),
            Test::HasHeader(name) => present(self.header(name).map(|_| ())),
            Test::HasQuery(key) => match self.lookup(key)? {
                Lookup::Absent => Ok(false),
                Lookup::Once(_) | Lookup::Repeated => Ok(true),
                Lookup::Disputed => Err(Failed::Repeated),
            },
            Test::LeaseActive => Ok(self.lease()?.is_some_and(|lease| self.going.uses_left(lease) != Some(0))),
            Test::HasLeaseAttribute(key) => Ok(self.lease()?.is_some_and(|lease| lease.attributes.contains_key(&**key))),
            Test::AnyText(items, inner) => self.fold(items.iter().map(|item| Item::Text(item)), inner, true),
            Test::AllText(items, inner) => self.fold(items.iter().map(|item| Item::Text(item)), inner, false),
            Test::AnyNumber(items, inner) => self.fold(items.iter().map(|item| Item::Number(*item)), inner, true),
            Test::AllNumber(items, inner) => self.fold(items.iter().map(|item| Item::Number(*item)), inner, false),
        }
    }

    /// `||` looks for the first true, `&&` for the first false; an error counts only when none is found.
    fn first(&self, all: &[Test], wanted: bool) -> Result<bool, Failed> {
        decide(all.iter().map(|test| self.test(test)), wanted)
    }

    fn fold<'i>(&self, items: impl Iterator<Item = Item<'i>>, inner: &Test, wanted: bool) -> Result<bool, Failed>
    where
        'a: 'i,
    {
        let outer: Env<'i> = *self;
        decide(items.map(|item| Env { item, ..outer }.test(inner)), wanted)
    }

    // What needs a scratch is never inlined: the frames of the recursion stay small.
    #[inline(never)]
    fn compare(&self, order: Order, [left, right]: &[Text; 2]) -> Result<bool, Failed> {
        let (mut first, mut second) = (Scratch::Empty, Scratch::Empty);
        Ok(order.holds(self.text(left, &mut first)?, self.text(right, &mut second)?))
    }

    #[inline(never)]
    fn is_in(&self, text: &Text, list: &[Box<str>]) -> Result<bool, Failed> {
        let mut scratch = Scratch::Empty;
        let text = self.text(text, &mut scratch)?;
        Ok(list.binary_search_by(|item| (**item).cmp(text)).is_ok())
    }

    #[inline(never)]
    fn has_part(&self, part: Part, [whole, wanted]: &[Text; 2]) -> Result<bool, Failed> {
        let (mut first, mut second) = (Scratch::Empty, Scratch::Empty);
        let (whole, wanted) = (self.text(whole, &mut first)?, self.text(wanted, &mut second)?);
        Ok(match part {
            Part::Starts => whole.starts_with(wanted),
            Part::Ends => whole.ends_with(wanted),
            Part::Contains => memchr::memmem::find(whole.as_bytes(), wanted.as_bytes()).is_some(),
        })
    }

    #[inline(never)]
    fn matches(&self, text: &Text, pattern: &Pattern) -> Result<bool, Failed> {
        let mut scratch = Scratch::Empty;
        pattern.matches(self.text(text, &mut scratch)?).ok_or(Failed::Form)
    }

    fn number(&self, number: &Number) -> Result<i64, Failed> {
        match number {
            Number::Literal(value) => Ok(*value),
            Number::Attribute(attribute) => self.number_attribute(*attribute),
            Number::Size(text) => {
                let mut scratch = Scratch::Empty;
                i64::try_from(self.text(text, &mut scratch)?.chars().count()).map_err(|_| Failed::Range)
            }
            Number::Item => match self.item {
                Item::Number(value) => Ok(value),
                Item::None | Item::Text(_) => Err(Failed::Absent),
            },
            Number::If(parts) => {
                let (condition, yes, no) = &**parts;
                if self.test(condition)? { self.number(yes) } else { self.number(no) }
            }
        }
    }

    fn number_attribute(&self, attribute: NumberAttribute) -> Result<i64, Failed> {
        match attribute {
            NumberAttribute::Port => Ok(i64::from(self.request.destination.port)),
            NumberAttribute::Uid => match self.request.peer {
                Peer::Tcp { uid: Some(uid), .. } | Peer::Unix { uid, .. } => Ok(i64::from(*uid)),
                Peer::Tcp { uid: None, .. } => Err(Failed::Absent),
            },
            NumberAttribute::LeaseUsesLeft => {
                self.lease()?.and_then(|lease| self.going.uses_left(lease)).map(i64::from).ok_or(Failed::Absent)
            }
            NumberAttribute::BodySize => {
                let digits = self.header(&CONTENT_LENGTH)?;
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(Failed::Form);
                }
                digits.parse().map_err(|_| Failed::Form)
            }
        }
    }

    fn text<'s>(&'s self, text: &'s Text, scratch: &'s mut Scratch) -> Result<&'s str, Failed> {
        self.raw(text)?.finish(scratch)
    }

    fn raw<'s>(&'s self, text: &'s Text) -> Result<Raw<'s>, Failed> {
        match text {
            Text::Literal(value) => Ok(Raw::plain(value)),
            Text::Attribute(attribute) => self.text_attribute(*attribute),
            Text::Header(name) => self.header(name).map(Raw::plain),
            Text::Query(key) => match self.lookup(key)? {
                Lookup::Absent => Err(Failed::Absent),
                Lookup::Repeated | Lookup::Disputed => Err(Failed::Repeated),
                Lookup::Once(text) => Ok(Raw { text, encoded: true, lower: false }),
            },
            Text::LeaseAttribute(key) => {
                let text = self.lease()?.and_then(|lease| lease.attributes.get(&**key)).ok_or(Failed::Absent)?;
                Ok(Raw::plain(text))
            }
            Text::Item => match self.item {
                Item::Text(value) => Ok(Raw::plain(value)),
                Item::None | Item::Number(_) => Err(Failed::Absent),
            },
            Text::Lower(inner) => self.raw(inner).map(|raw| Raw { lower: true, ..raw }),
            Text::If(parts) => {
                let (condition, yes, no) = &**parts;
                if self.test(condition)? { self.raw(yes) } else { self.raw(no) }
            }
        }
    }

    fn text_attribute(&self, attribute: TextAttribute) -> Result<Raw<'_>, Failed> {
        let id = &self.request.workload.id;
        Ok(Raw::plain(match attribute {
            TextAttribute::SpiffeId => id.as_str(),
            TextAttribute::TrustDomain => id.trust_domain(),
            TextAttribute::Namespace => id.namespace().ok_or(Failed::Absent)?,
            TextAttribute::ServiceAccount => id.service_account().ok_or(Failed::Absent)?,
            TextAttribute::Pod => self.request.workload.attestation.pod().ok_or(Failed::Absent)?,
            TextAttribute::Host => self.request.destination.host.as_str(),
            TextAttribute::Upstream => &self.request.upstream.name,
            TextAttribute::Scheme => self.request.destination.scheme.as_str(),
            TextAttribute::Method => self.request.action.method.as_str(),
            TextAttribute::Path if self.request.tunnel => return Err(Failed::Hidden),
            TextAttribute::Path => self.path,
            TextAttribute::LeaseKind => &self.lease()?.ok_or(Failed::Absent)?.kind,
            TextAttribute::ContentType => {
                let value = self.header(&CONTENT_TYPE)?;
                let kind = value.split(';').next().unwrap_or_default().trim_matches([' ', '\t']);
                return Ok(Raw { text: kind, encoded: false, lower: true });
            }
        }))
    }

    /// A header as the upstream will see it. The head of a CONNECT is not the head of what is said inside.
    fn header(&self, name: &http::HeaderName) -> Result<&str, Failed> {
        if self.request.tunnel {
            return Err(Failed::Hidden);
        }
        if self.head != Head::Whole {
            return Err(Failed::Unrecorded);
        }
        match self.stripped.header(self.request.parts, name) {
            None => Err(Failed::Absent),
            Some(Err(())) => Err(Failed::Repeated),
            Some(Ok(bytes)) => std::str::from_utf8(bytes).map_err(|_| Failed::Form),
        }
    }

    fn lookup(&self, key: &str) -> Result<Lookup<'_>, Failed> {
        if self.request.tunnel {
            return Err(Failed::Hidden);
        }
        if self.head != Head::Whole {
            return Err(Failed::Unrecorded);
        }
        Ok(query::find(self.stripped.query(self.request.parts), key))
    }

    fn address(&self) -> Result<IpAddr, Failed> {
        match self.request.peer {
            Peer::Tcp { address, .. } => Ok(address.ip().to_canonical()),
            Peer::Unix { .. } => Err(Failed::Absent),
        }
    }

    fn moment(&self, moment: Moment) -> Result<Timestamp, Failed> {
        match moment {
            Moment::Literal(at) => Ok(at),
            Moment::Now(offset) => self.now.checked_add(offset).map_err(|_| Failed::Range),
        }
    }

    fn span(&self, span: Span) -> jiff::SignedDuration {
        match span {
            Span::Literal(length) => length,
            Span::Since(from) => self.now.duration_since(from),
            Span::Until(to) => to.duration_since(self.now),
        }
    }
}

/// Presence: what is there in a form that cannot be read is there.
const fn present(found: Result<(), Failed>) -> Result<bool, Failed> {
    match found {
        Ok(()) | Err(Failed::Repeated | Failed::Form | Failed::TooLong | Failed::Range) => Ok(true),
        Err(Failed::Absent) => Ok(false),
        Err(why @ (Failed::Hidden | Failed::Unrecorded)) => Err(why),
    }
}

fn decide(mut values: impl Iterator<Item = Result<bool, Failed>>, wanted: bool) -> Result<bool, Failed> {
    let mut failed = None;
    let found = values.any(|value| match value {
        Ok(value) => value == wanted,
        Err(why) => {
            // What is not known could still decide; another error could not.
            if why == Failed::Unrecorded {
                failed = Some(why);
            }
            failed.get_or_insert(why);
            false
        }
    });
    match (found, failed) {
        (true, _) => Ok(wanted),
        (false, Some(why)) => Err(why),
        (false, None) => Ok(!wanted),
    }
}
