//! The tree read as a form: a serde deserializer that goes on after a mistake where it can.
//!
//! serde's own way ends at the first mistake. Here unknown fields are reported and passed over, and an entry of [`Entries`], an item of
//! [`Items`] or a [`Lenient`] field that does not fit is reported and left out, so that one run shows the mistakes of every one of them.
//! The result of such a run is thrown away: a report with an error is no value.
//!
//! [`Entries`]: super::source::Entries
//! [`Items`]: super::source::Items
//! [`Lenient`]: super::source::Lenient

use std::cell::RefCell;
use std::fmt;

use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer as _, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::diagnostic::{Diagnostic, MOST};
use super::source::{LENIENT, Place, SPANNED, Source, TOLERANT};
use super::suggest::suggest;
use super::tree::{Node, Value};

/// Where mistakes go while a tree is read.
pub(super) struct Findings<'a> {
    pub(super) source: &'a Source,
    pub(super) found: RefCell<Vec<Diagnostic>>,
}

impl Findings<'_> {
    /// Whether no more mistakes are told.
    fn full(&self) -> bool {
        self.found.borrow().len() >= MOST
    }
}

/// A mistake on its way to the place where it happened.
#[derive(Debug)]
pub(super) enum Mistake {
    /// It has been reported.
    Reported,
    /// It has not, and may not know its place yet.
    Told { message: String, hint: Option<String>, code: &'static str, at: Option<Place> },
}

impl Mistake {
    fn new(message: impl Into<String>) -> Self {
        Self::Told { message: message.into(), hint: None, code: "invalid", at: None }
    }

    fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Told { message, code, at, .. } => Self::Told { message, hint: Some(text.into()), code, at },
            Self::Reported => Self::Reported,
        }
    }

    fn code(self, word: &'static str) -> Self {
        match self {
            Self::Told { message, hint, at, .. } => Self::Told { message, hint, code: word, at },
            Self::Reported => Self::Reported,
        }
    }

    /// The innermost place wins.
    fn at(self, place: Place) -> Self {
        match self {
            Self::Told { message, hint, code, at: None } => Self::Told { message, hint, code, at: Some(place) },
            known @ (Self::Told { at: Some(_), .. } | Self::Reported) => known,
        }
    }

    /// Writes it down at this place, unless it knows a better one or was written down before.
    pub(super) fn report(self, findings: &Findings<'_>, place: Place) -> Self {
        if let Self::Told { message, hint, code, at } = self
            && !findings.full()
        {
            let mut diagnostic = Diagnostic::error(findings.source, at.unwrap_or(place), message).with_code(code);
            diagnostic.hint = hint;
            findings.found.borrow_mut().push(diagnostic);
        }
        Self::Reported
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported => f.write_str("reported"),
            Self::Told { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for Mistake {}

fn one_of(wrong: &str, known: &[&str], what: &str) -> Option<String> {
    match suggest(wrong, known.iter().copied()) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if known.is_empty() => None,
        None => Some(format!("{what}: {}", known.join(", "))),
    }
}

/// What was found, without repeating a text: it may be a secret in the wrong place.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else serde can find is a text to the operator")]
fn found(unexpected: &Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Unsigned(number) => format!("`{number}`"),
        Unexpected::Signed(number) => format!("`{number}`"),
        Unexpected::Float(number) => format!("`{number}`"),
        Unexpected::Bool(word) => format!("`{word}`"),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping".to_owned(),
        _ => "a text".to_owned(),
    }
}

impl de::Error for Mistake {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", found(&unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let told = Self::new(format!("unknown word `{variant}`")).code("unknown-word");
        match one_of(variant, expected, "the words here are") {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let told = Self::new(format!("unknown field `{field}`")).code("unknown-field");
        match one_of(field, expected, "the fields here are") {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("field `{field}` is missing")).code("missing-field")
    }
}

/// One node, read as whatever the form asks for.
#[derive(Clone, Copy)]
pub(super) struct Form<'a> {
    pub(super) node: &'a Node,
    pub(super) findings: &'a Findings<'a>,
}

impl<'a> Form<'a> {
    fn of(self, node: &'a Node) -> Self {
        Self { node, findings: self.findings }
    }

    /// Reads one part of a tolerant collection; one with any mistake in it is left out, so that nobody judges what was never written.
    fn whole<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Mistake> {
        let before = self.findings.found.borrow().len();
        let read = seed.deserialize(self).map_err(|mistake| mistake.report(self.findings, self.node.at))?;
        if self.findings.found.borrow().len() == before { Ok(read) } else { Err(Mistake::Reported) }
    }

    /// What stands here instead of what was expected.
    fn wrong(self, expected: &str) -> Mistake {
        let found = match &self.node.value {
            Value::Broken => return Mistake::Reported,
            Value::Scalar { .. } if self.node.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        };
        Mistake::new(format!("expected {expected}, found {found}")).at(self.node.at)
    }

    fn plain(self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, plain: true } => Some(text),
            Value::Scalar { .. } | Value::Sequence(_) | Value::Mapping(_) | Value::Broken => None,
        }
    }

    fn entries(self) -> Result<&'a [(Node, Node)], Mistake> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            Value::Scalar { .. } | Value::Sequence(_) | Value::Broken => {
                Err(self.wrong("a mapping").hint("write `{ name: value }`, or indented lines of `name: value`"))
            }
        }
    }

    fn items(self) -> Result<&'a [Node], Mistake> {
        match &self.node.value {
            Value::Sequence(items) => Ok(items),
            Value::Scalar { .. } | Value::Mapping(_) | Value::Broken => {
                Err(self.wrong("a list").hint("write `[one, another]`, or indented lines of `- one`"))
            }
        }
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let text = self.plain().ok_or_else(|| self.wrong("a whole number"))?;
        let read = if let Ok(number) = text.parse::<u64>() {
            visitor.visit_u64(number)
        } else if let Ok(number) = text.parse::<i64>() {
            visitor.visit_i64(number)
        } else {
            return Err(self.wrong("a whole number"));
        };
        read.map_err(|mistake: Mistake| mistake.at(self.node.at))
    }

    fn float<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let number = self.plain().and_then(|text| text.parse::<f64>().ok()).filter(|number| number.is_finite());
        visitor.visit_f64(number.ok_or_else(|| self.wrong("a number"))?)
    }

    /// Fields of a form: unknown ones are reported, all of them, also where the form fails before.
    fn fields<'de, V: Visitor<'de>>(self, known: &'static [&'static str], visitor: V) -> Result<V::Value, Mistake> {
        let entries = self.entries()?;
        for (key, _) in entries {
            if self.findings.full() {
                break;
            }
            if let Some(name) = key.text()
                && !known.contains(&name)
            {
                let _reported = <Mistake as de::Error>::unknown_field(name, known).report(self.findings, key.at);
            }
        }
        let pairs = Pairs { form: self, entries: entries.iter(), value: None, known: Some(known), tolerant: false };
        visitor.visit_map(pairs).map_err(|mistake| mistake.at(self.node.at))
    }
}

impl<'de> Deserializer<'de> for Form<'_> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
            Value::Broken => Err(Mistake::Reported),
            Value::Scalar { .. } if self.node.is_null() => visitor.visit_unit(),
            Value::Scalar { text, plain: true } => match &**text {
                "true" => visitor.visit_bool(true),
                "false" => visitor.visit_bool(false),
                text if text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() => self.integer(visitor),
                text if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') && text.parse::<f64>().is_ok() => self.float(visitor),
                text => visitor.visit_str(text),
            },
            Value::Scalar { text, plain: false } => visitor.visit_str(text),
        }
        .map_err(|mistake: Mistake| mistake.at(self.node.at))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.plain() {
            Some("true") => visitor.visit_bool(true),
            Some("false") => visitor.visit_bool(false),
            Some(_) | None => Err(self.wrong("true or false").hint("write `true` or `false`; `yes`, `no`, `on` and `off` are texts")),
        }
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.float(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.float(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.node.text() {
            Some(text) if !self.node.is_null() => visitor.visit_str(text).map_err(|mistake: Mistake| mistake.at(self.node.at)),
            Some(_) | None => Err(self.wrong("a text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.node.is_null() { visitor.visit_unit() } else { Err(self.wrong("nothing")) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Mistake> {
        match name {
            SPANNED => visitor.visit_seq(Place3 { form: self, step: 0 }),
            LENIENT => visitor.visit_seq(Once { form: Some(self) }),
            TOLERANT => match &self.node.value {
                Value::Sequence(items) => visitor.visit_seq(List { form: self, items: items.iter(), tolerant: true }),
                Value::Scalar { .. } | Value::Mapping(_) | Value::Broken => {
                    let entries = self.entries()?.iter();
                    visitor.visit_map(Pairs { form: self, entries, value: None, known: None, tolerant: true })
                }
            },
            _ => visitor.visit_newtype_struct(self),
        }
        .map_err(|mistake| mistake.at(self.node.at))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_seq(List { form: self, items: self.items()?.iter(), tolerant: false }).map_err(|mistake| mistake.at(self.node.at))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _name: &'static str, _len: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let entries = self.entries()?.iter();
        visitor
            .visit_map(Pairs { form: self, entries, value: None, known: None, tolerant: false })
            .map_err(|mistake| mistake.at(self.node.at))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.fields(fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        let mistake = |form: Self| form.wrong("a word, or one `word: ..`").hint(format!("the words here are: {}", words.join(", ")));
        let (word, content) = match &self.node.value {
            Value::Scalar { .. } if !self.node.is_null() => (self.node, None),
            Value::Mapping(entries) => match entries.as_slice() {
                [(word, content)] => (word, Some(self.of(content))),
                _ => return Err(mistake(self)),
            },
            Value::Scalar { .. } | Value::Sequence(_) | Value::Broken => return Err(mistake(self)),
        };
        visitor.visit_enum(Choice { word: self.of(word), content }).map_err(|mistake| mistake.at(self.node.at))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }
}

/// Entries of a mapping.
struct Pairs<'a> {
    form: Form<'a>,
    entries: std::slice::Iter<'a, (Node, Node)>,
    value: Option<&'a Node>,
    /// The fields of a form; others have been reported and are passed over.
    known: Option<&'static [&'static str]>,
    /// An entry that fails is reported here, because the one who asks goes on to the next.
    tolerant: bool,
}

impl<'de> MapAccess<'de> for Pairs<'_> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        for (key, value) in self.entries.by_ref() {
            if self.known.is_some_and(|known| !key.text().is_some_and(|name| known.contains(&name))) {
                continue;
            }
            self.value = Some(value);
            return seed.deserialize(self.form.of(key)).map(Some).map_err(|mistake| mistake.at(key.at));
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mistake> {
        let node = self.value.take().ok_or(Mistake::Reported)?;
        if self.tolerant {
            self.form.of(node).whole(seed)
        } else {
            seed.deserialize(self.form.of(node)).map_err(|mistake| mistake.at(node.at))
        }
    }
}

/// Items of a list.
struct List<'a> {
    form: Form<'a>,
    items: std::slice::Iter<'a, Node>,
    tolerant: bool,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Mistake;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let read = if self.tolerant {
            self.form.of(node).whole(seed)
        } else {
            seed.deserialize(self.form.of(node)).map_err(|mistake| mistake.at(node.at))
        };
        read.map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// Line, column and value of a node, for `Spanned`.
struct Place3<'a> {
    form: Form<'a>,
    step: u8,
}

impl<'de> SeqAccess<'de> for Place3<'_> {
    type Error = Mistake;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        let number = |number: u32| -> U32Deserializer<Mistake> { number.into_deserializer() };
        self.step += 1;
        match self.step {
            1 => seed.deserialize(number(self.form.node.at.line)).map(Some),
            2 => seed.deserialize(number(self.form.node.at.column)).map(Some),
            _ => seed.deserialize(self.form).map(Some),
        }
    }
}

/// The one value of a `Lenient` field; a mistake in it is reported here.
struct Once<'a> {
    form: Option<Form<'a>>,
}

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Mistake;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        let Some(form) = self.form.take() else { return Ok(None) };
        seed.deserialize(form).map(Some).map_err(|mistake| mistake.report(form.findings, form.node.at))
    }
}

/// A word, alone or with its content.
struct Choice<'a> {
    word: Form<'a>,
    content: Option<Form<'a>>,
}

impl<'de, 'a> EnumAccess<'de> for Choice<'a> {
    type Error = Mistake;
    type Variant = Content<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), Mistake> {
        let text = self.word.node.text().unwrap_or_default();
        let word: StrDeserializer<'_, Mistake> = text.into_deserializer();
        let variant = seed.deserialize(word).map_err(|mistake| mistake.at(self.word.node.at))?;
        Ok((variant, Content { word: self.word, content: self.content }))
    }
}

/// What stands behind a word.
struct Content<'a> {
    word: Form<'a>,
    content: Option<Form<'a>>,
}

impl<'a> Content<'a> {
    fn needed(&self) -> Result<Form<'a>, Mistake> {
        let word = self.word.node.text().unwrap_or_default();
        let told = || Mistake::new(format!("`{word}` needs a value")).hint(format!("write `{{ {word}: .. }}`")).at(self.word.node.at);
        self.content.ok_or_else(told)
    }
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Mistake;

    fn unit_variant(self) -> Result<(), Mistake> {
        let word = self.word.node.text().unwrap_or_default();
        match self.content {
            Some(content) if !content.node.is_null() => {
                Err(Mistake::new(format!("`{word}` stands alone, without a value")).hint(format!("write `{word}`")).at(content.node.at))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Mistake> {
        seed.deserialize(self.needed()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.needed()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Mistake> {
        self.needed()?.fields(fields, visitor)
    }
}
