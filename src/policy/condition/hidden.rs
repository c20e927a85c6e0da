//! What a condition reads that nobody sees inside a tunnel.

use super::program::{Condition, Number, NumberAttribute, Test, Text, TextAttribute};

impl Condition {
    /// The first attribute that is hidden inside a tunnel, by its name.
    pub(in crate::policy) fn reads_inside(&self) -> Option<&'static str> {
        of_test(&self.test)
    }
}

fn of_test(test: &Test) -> Option<&'static str> {
    match test {
        Test::Not(inner) | Test::AnyText(_, inner) | Test::AllText(_, inner) | Test::AnyNumber(_, inner) | Test::AllNumber(_, inner) => {
            of_test(inner)
        }
        Test::And(all) | Test::Or(all) => all.iter().find_map(of_test),
        Test::If(parts) => parts.iter().find_map(of_test),
        Test::Same(sides, _) => sides.iter().find_map(of_test),
        Test::Number(_, sides) => sides.iter().find_map(of_number),
        Test::NumberIn(number, _) => of_number(number),
        Test::Text(_, sides) | Test::Part(_, sides) => sides.iter().find_map(of_text),
        Test::TextIn(text, _) | Test::Matches(text, _) => of_text(text),
        Test::HasText(attribute) => of_attribute(*attribute),
        Test::HasNumber(NumberAttribute::BodySize) => Some("request.body_size"),
        Test::HasHeader(_) => Some("request.headers"),
        Test::HasQuery(_) => Some("request.query"),
        Test::Constant(_)
        | Test::HasNumber(_)
        | Test::Moment(..)
        | Test::Span(..)
        | Test::Address(..)
        | Test::Within(_)
        | Test::HasAddress => None,
    }
}

fn of_number(number: &Number) -> Option<&'static str> {
    match number {
        Number::Attribute(NumberAttribute::BodySize) => Some("request.body_size"),
        Number::Size(text) => of_text(text),
        Number::If(parts) => of_test(&parts.0).or_else(|| of_number(&parts.1)).or_else(|| of_number(&parts.2)),
        Number::Attribute(_) | Number::Literal(_) | Number::Item => None,
    }
}

fn of_text(text: &Text) -> Option<&'static str> {
    match text {
        Text::Attribute(attribute) => of_attribute(*attribute),
        Text::Header(_) => Some("request.headers"),
        Text::Query(_) => Some("request.query"),
        Text::Lower(inner) => of_text(inner),
        Text::If(parts) => of_test(&parts.0).or_else(|| of_text(&parts.1)).or_else(|| of_text(&parts.2)),
        Text::Literal(_) | Text::Item => None,
    }
}

const fn of_attribute(attribute: TextAttribute) -> Option<&'static str> {
    match attribute {
        TextAttribute::Path => Some("request.path"),
        TextAttribute::ContentType => Some("request.content_type"),
        TextAttribute::SpiffeId
        | TextAttribute::TrustDomain
        | TextAttribute::Namespace
        | TextAttribute::ServiceAccount
        | TextAttribute::Host
        | TextAttribute::Upstream
        | TextAttribute::Scheme
        | TextAttribute::Method => None,
    }
}
