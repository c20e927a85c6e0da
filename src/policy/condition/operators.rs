//! Operators and functions of the subset.

use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

use super::check::{Checker, Typed};
use super::duration;
use super::program::{Moment, Number, Order, Part, Span, Test, Text};
use crate::clock::Timestamp;
use crate::written::suggest;

/// Every function that a condition may call.
const FUNCTIONS: &[&str] = &[
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "lowerAscii",
    "containsIP",
    "cidr",
    "ip",
    "timestamp",
    "duration",
    "has",
    "exists",
    "all",
];

impl Checker<'_> {
    pub(super) fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Option<Typed> {
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            (operators::LOGICAL_AND, None, [_, _]) => self.chain(expr, operators::LOGICAL_AND).map(all).map(Typed::Bool),
            (operators::LOGICAL_OR, None, [_, _]) => self.chain(expr, operators::LOGICAL_OR).map(any).map(Typed::Bool),
            (operators::LOGICAL_NOT, None, [inner]) => self.test(inner).map(not).map(Typed::Bool),
            (operators::CONDITIONAL, None, [condition, yes, no]) => self.conditional(condition, yes, no),
            (operators::IN, None, [left, right]) => self.is_in(left, right).map(Typed::Bool),
            (operators::INDEX, None, [map, key]) => self.index(map, key).map(Typed::Text),
            (operators::NEGATE, None, [inner]) => self.negate(inner),
            (operators::ADD | operators::SUBSTRACT, None, [left, right]) => {
                self.time_arithmetic(expr, left, right, call.func_name == operators::SUBSTRACT)
            }
            (operators::MULTIPLY | operators::DIVIDE | operators::MODULO, None, _) => {
                self.refuse(expr, "arithmetic is not part of conditions")
            }
            (name, None, [left, right]) if order(name).is_some() => self.compare(expr, order(name)?, left, right).map(Typed::Bool),
            (name, target, args) => self.function(expr, name, target, args),
        }
    }

    /// The members of `a && b && c`, which the parser nests.
    fn chain(&mut self, expr: &IdedExpr, operator: &str) -> Option<Vec<Test>> {
        let mut found = Vec::new();
        let mut sound = true;
        let mut open = vec![expr];
        while let Some(next) = open.pop() {
            if let Expr::Call(call) = &next.expr
                && call.func_name == operator
                && call.target.is_none()
            {
                open.extend(call.args.iter().rev());
            } else if let Some(test) = self.test(next) {
                found.push(test);
            } else {
                sound = false;
            }
        }
        // Their order does not change the value, so the cheap ones go first.
        found.sort_by_key(Test::cost);
        sound.then_some(found)
    }

    fn conditional(&mut self, condition: &IdedExpr, yes: &IdedExpr, no: &IdedExpr) -> Option<Typed> {
        let (test, left, right) = (self.test(condition), self.typed(yes), self.typed(no));
        let (test, left, right) = (test?, left?, right?);
        match (left, right) {
            (Typed::Bool(left), Typed::Bool(right)) => Some(Typed::Bool(Test::If(Box::new([test, left, right])))),
            (Typed::Number(left), Typed::Number(right)) => Some(Typed::Number(Number::If(Box::new((test, left, right))))),
            (Typed::Text(left), Typed::Text(right)) => Some(Typed::Text(Text::If(Box::new((test, left, right))))),
            (left, right) => {
                let message =
                    format!("both branches of `? :` must be bool, int or string of one type, found {} and {}", left.kind(), right.kind());
                self.problem(no, message, "give both branches the same type");
                None
            }
        }
    }

    fn index(&mut self, map: &IdedExpr, key: &IdedExpr) -> Option<Text> {
        let typed = self.typed(map)?;
        let Typed::Map(found) = typed else {
            let message = format!("only maps have entries, found {}", typed.kind());
            self.problem(map, message, "write `request.headers['k']`, `request.query['k']` or `lease.attrs['k']`");
            return None;
        };
        let Expr::Literal(LiteralValue::String(text)) = &key.expr else {
            return self.refuse(key, "the key must be a literal string");
        };
        self.entry(key, found, text.inner())
    }

    fn negate(&mut self, inner: &IdedExpr) -> Option<Typed> {
        let Typed::Number(Number::Literal(value)) = self.typed(inner)? else {
            return self.refuse(inner, "arithmetic is not part of conditions");
        };
        let Some(negated) = value.checked_neg() else {
            return self.refuse(inner, "the number is out of range");
        };
        Some(Typed::Number(Number::Literal(negated)))
    }

    fn time_arithmetic(&mut self, expr: &IdedExpr, left: &IdedExpr, right: &IdedExpr, minus: bool) -> Option<Typed> {
        let (left, right) = (self.typed(left), self.typed(right));
        match (left?, right?, minus) {
            (Typed::Moment(Moment::Now(offset)), Typed::Span(Span::Literal(length)), _) => {
                let sum = if minus { offset.checked_sub(length) } else { offset.checked_add(length) };
                let Some(sum) = sum else { return self.refuse(expr, "the duration is out of range") };
                Some(Typed::Moment(Moment::Now(sum)))
            }
            (Typed::Moment(Moment::Now(offset)), Typed::Moment(Moment::Literal(from)), true) if offset.is_zero() => {
                Some(Typed::Span(Span::Since(from)))
            }
            (Typed::Moment(Moment::Literal(to)), Typed::Moment(Moment::Now(offset)), true) if offset.is_zero() => {
                Some(Typed::Span(Span::Until(to)))
            }
            _ => self.refuse(expr, "the only arithmetic is on `now`: `now - duration('1h')`, `now - timestamp('2026-12-01T00:00:00Z')`"),
        }
    }

    fn compare(&mut self, expr: &IdedExpr, order: Order, left: &IdedExpr, right: &IdedExpr) -> Option<Test> {
        let equality = matches!(order, Order::Equal | Order::NotEqual);
        let (first, second) = (self.typed(left), self.typed(right));
        match (first?, second?) {
            (Typed::Number(Number::Literal(left)), Typed::Number(Number::Literal(right))) => {
                Some(Test::Constant(order.holds(&left, &right)))
            }
            (Typed::Text(Text::Literal(left)), Typed::Text(Text::Literal(right))) => Some(Test::Constant(order.holds(&left, &right))),
            (Typed::Number(left), Typed::Number(right)) => Some(Test::Number(order, Box::new([left, right]))),
            (Typed::Text(left), Typed::Text(right)) => Some(Test::Text(order, Box::new([left, right]))),
            (Typed::Moment(left), Typed::Moment(right)) => Some(Test::Moment(order, left, right)),
            (Typed::Span(left), Typed::Span(right)) => Some(Test::Span(order, left, right)),
            (Typed::Bool(left), Typed::Bool(right)) if equality => Some(Test::Same(Box::new([left, right]), order == Order::Equal)),
            (Typed::Address, Typed::AddressLiteral(wanted)) | (Typed::AddressLiteral(wanted), Typed::Address) if equality => {
                Some(Test::Address(order, wanted))
            }
            (left_type, right_type) if left_type.kind() == right_type.kind() => {
                self.refuse(expr, "these two cannot be compared in this way")
            }
            (left_type, right_type) => {
                let message = format!("{} cannot be compared with {}", left_type.kind(), right_type.kind());
                let hint =
                    if right_type.kind() == "string" { "remove the quotes if a number is meant" } else { "both sides must be of one type" };
                self.problem(right, message, hint);
                None
            }
        }
    }

    fn function(&mut self, expr: &IdedExpr, name: &str, target: Option<&IdedExpr>, args: &[IdedExpr]) -> Option<Typed> {
        match (name, target, args) {
            ("size", Some(text), []) | ("size", None, [text]) => {
                self.text(text, "what `size` measures").map(|text| Typed::Number(Number::Size(Box::new(text))))
            }
            ("startsWith", Some(whole), [wanted]) => self.part(Part::Starts, whole, wanted),
            ("endsWith", Some(whole), [wanted]) => self.part(Part::Ends, whole, wanted),
            ("contains", Some(whole), [wanted]) => self.part(Part::Contains, whole, wanted),
            ("lowerAscii", Some(text), []) => {
                self.text(text, "what `lowerAscii` changes").map(|text| Typed::Text(Text::Lower(Box::new(text))))
            }
            ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
                let (text, pattern) = (self.text(text, "what `matches` looks at"), self.pattern(pattern));
                Some(Typed::Bool(Test::Matches(Box::new(text?), Arc::new(pattern?))))
            }
            ("containsIP", Some(network), [address]) => self.within(network, address).map(Typed::Bool),
            ("cidr", None, [text]) => self.constant(text, "a network such as '10.0.0.0/8'", |text| text.parse().ok()).map(Typed::Network),
            ("ip", None, [text]) => self.constant(text, "an IP address", |text| text.parse().ok()).map(Typed::AddressLiteral),
            ("timestamp", None, [text]) => {
                let time = |text: &str| text.contains('T').then(|| text.parse::<Timestamp>().ok()).flatten();
                self.constant(text, "an RFC 3339 time such as '2026-12-01T00:00:00Z'", time).map(|at| Typed::Moment(Moment::Literal(at)))
            }
            ("duration", None, [text]) => {
                self.constant(text, "a duration such as '1h30m'", duration::parse).map(|length| Typed::Span(Span::Literal(length)))
            }
            (name, target, args) => self.no_function(expr, name, target, args),
        }
    }

    fn part(&mut self, part: Part, whole: &IdedExpr, wanted: &IdedExpr) -> Option<Typed> {
        let (whole, wanted) = (self.text(whole, "what is looked at"), self.text(wanted, "what is looked for"));
        Some(Typed::Bool(Test::Part(part, Box::new([whole?, wanted?]))))
    }

    fn within(&mut self, network: &IdedExpr, address: &IdedExpr) -> Option<Test> {
        match (self.typed(network)?, self.typed(address)?) {
            (Typed::Network(network), Typed::Address) => Some(Test::Within(network)),
            _ => self.refuse(address, "`containsIP` is written `cidr('10.0.0.0/8').containsIP(source.ip)`"),
        }
    }

    fn constant<T>(&mut self, expr: &IdedExpr, what: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = if let Expr::Literal(LiteralValue::String(text)) = &expr.expr { parse(text.inner()) } else { None };
        if value.is_none() {
            self.problem(expr, format!("expected {what}, as a literal string"), "it is read once, when the policy is loaded");
        }
        value
    }

    fn no_function(&mut self, expr: &IdedExpr, name: &str, target: Option<&IdedExpr>, args: &[IdedExpr]) -> Option<Typed> {
        // The parser tells the place of the parenthesis; the name stands before it.
        let (begin, end) = self.span(expr);
        let open = target.map_or(begin, |target| self.span(target).1);
        let begin = if target.is_some() { open + 1 } else { begin.saturating_sub(name.chars().count()) };
        let length = name.chars().count().min(end.saturating_sub(begin)).max(1);
        if FUNCTIONS.contains(&name) {
            let hint = match name {
                "size" | "lowerAscii" => format!("write `x.{name}()`"),
                "cidr" | "ip" | "timestamp" | "duration" => format!("write `{name}('..')`"),
                "has" => "write `has(source.namespace)`".to_owned(),
                "exists" | "all" => format!("write `['a', 'b'].{name}(x, ..)`"),
                _ => format!("write `x.{name}(..)` with one argument"),
            };
            self.problem_at(begin, length, format!("`{name}` is not called in this way, with {} arguments", args.len()), hint);
            return None;
        }
        let hint = suggest(name, FUNCTIONS.iter().copied())
            .map_or_else(|| format!("the functions are {}", FUNCTIONS.join(", ")), |near| format!("did you mean `{near}`?"));
        self.problem_at(begin, length, format!("there is no function `{name}`"), hint);
        None
    }
}

fn order(name: &str) -> Option<Order> {
    Some(match name {
        operators::EQUALS => Order::Equal,
        operators::NOT_EQUALS => Order::NotEqual,
        operators::LESS => Order::Less,
        operators::LESS_EQUALS => Order::LessEqual,
        operators::GREATER => Order::Greater,
        operators::GREATER_EQUALS => Order::GreaterEqual,
        _ => return None,
    })
}

fn not(test: Test) -> Test {
    if let Test::Constant(value) = test { Test::Constant(!value) } else { Test::Not(Box::new(test)) }
}

/// A conjunction without its constants; a false one decides it, whatever the others are.
fn all(mut tests: Vec<Test>) -> Test {
    if tests.iter().any(|test| matches!(test, Test::Constant(false))) {
        return Test::Constant(false);
    }
    tests.retain(|test| !matches!(test, Test::Constant(true)));
    match tests.len() {
        0 => Test::Constant(true),
        1 => tests.pop().unwrap_or(Test::Constant(false)),
        _ => Test::And(tests),
    }
}

fn any(mut tests: Vec<Test>) -> Test {
    if tests.iter().any(|test| matches!(test, Test::Constant(true))) {
        return Test::Constant(true);
    }
    tests.retain(|test| !matches!(test, Test::Constant(false)));
    match tests.len() {
        0 => Test::Constant(false),
        1 => tests.pop().unwrap_or(Test::Constant(false)),
        _ => Test::Or(tests),
    }
}
