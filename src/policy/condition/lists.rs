//! Literal lists: `in`, `exists`, `all`.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{ComprehensionExpr, Expr, LiteralValue, operators};

use super::check::{Checker, ItemType, Typed};
use super::program::{Map, Number, Test};

/// Longest list of `in`.
const LONGEST_IN: usize = 1024;
/// Longest list of `exists` and `all`.
const LONGEST_LOOP: usize = 64;

/// A literal list of one type, sorted, without duplicates.
enum Items {
    Texts(Box<[Box<str>]>),
    Numbers(Box<[i64]>),
}

impl Checker<'_> {
    /// `x in [..]`, `'k' in request.headers`.
    pub(super) fn is_in(&mut self, left: &IdedExpr, right: &IdedExpr) -> Option<Test> {
        if let Expr::List(_) = right.expr {
            let (value, items) = (self.typed(left), self.items(right, LONGEST_IN));
            return match (value?, items?) {
                (Typed::Text(text), Items::Texts(list)) => Some(Test::TextIn(Box::new(text), list)),
                (Typed::Number(number), Items::Numbers(list)) => Some(Test::NumberIn(Box::new(number), list)),
                (value, items) => {
                    let of = if matches!(items, Items::Texts(_)) { "strings" } else { "ints" };
                    self.problem(left, format!("{} is never in a list of {of}", value.kind()), "both sides of `in` must be of one type");
                    None
                }
            };
        }
        let typed = self.typed(right)?;
        if let Typed::Map(map) = typed {
            return self.key_in(left, map);
        }
        self.problem(right, format!("`in` looks into a list or a map, found {}", typed.kind()), "write `x in ['a', 'b']`");
        None
    }

    fn key_in(&mut self, key: &IdedExpr, map: Map) -> Option<Test> {
        let Expr::Literal(LiteralValue::String(text)) = &key.expr else {
            return self.refuse(key, "the key must be a literal string");
        };
        self.contains(key, map, text.inner())
    }

    /// `[..].exists(x, ..)`, `[..].all(x, ..)`.
    pub(super) fn comprehension(&mut self, expr: &IdedExpr, macro_call: &ComprehensionExpr) -> Option<Test> {
        let Some((any, body)) = exists_or_all(macro_call) else {
            return self.refuse(expr, "of the macros only `has`, `exists` and `all` are part of conditions");
        };
        if self.item.is_some() {
            return self.refuse(expr, "`exists` and `all` do not nest");
        }
        if !matches!(macro_call.iter_range.expr, Expr::List(_)) {
            return self.refuse(&macro_call.iter_range, "`exists` and `all` go over a literal list, as in `['a', 'b'].exists(x, ..)`");
        }
        let items = self.items(&macro_call.iter_range, LONGEST_LOOP)?;
        let kind = if matches!(items, Items::Texts(_)) { ItemType::Text } else { ItemType::Number };
        self.item = Some((macro_call.iter_var.clone(), kind));
        let inner = self.test(body);
        self.item = None;
        let inner = Box::new(inner?);
        Some(match (items, any) {
            (Items::Texts(list), true) => Test::AnyText(list, inner),
            (Items::Texts(list), false) => Test::AllText(list, inner),
            (Items::Numbers(list), true) => Test::AnyNumber(list, inner),
            (Items::Numbers(list), false) => Test::AllNumber(list, inner),
        })
    }

    fn items(&mut self, expr: &IdedExpr, longest: usize) -> Option<Items> {
        let Expr::List(list) = &expr.expr else { return None };
        if list.elements.len() > longest {
            self.problem(expr, format!("the list has {} items; {longest} are the most here", list.elements.len()), "split the rule");
            return None;
        }
        let mut texts = BTreeSet::new();
        let mut numbers = BTreeSet::new();
        for element in &list.elements {
            match self.typed(element)? {
                Typed::Text(super::program::Text::Literal(text)) => {
                    texts.insert(text);
                }
                Typed::Number(Number::Literal(number)) => {
                    numbers.insert(number);
                }
                Typed::Bool(_)
                | Typed::Number(_)
                | Typed::Text(_)
                | Typed::Moment(_)
                | Typed::Span(_)
                | Typed::Address
                | Typed::AddressLiteral(_)
                | Typed::Network(_)
                | Typed::Map(_) => return self.refuse(element, "the items of a list are literal strings or literal integers"),
            }
        }
        match (texts.is_empty(), numbers.is_empty()) {
            (false, true) => Some(Items::Texts(texts.into_iter().collect())),
            (true, false) => Some(Items::Numbers(numbers.into_iter().collect())),
            (true, true) => self.refuse(expr, "the list is empty"),
            (false, false) => self.refuse(expr, "the items of a list are of one type"),
        }
    }
}

/// What the parser made of `exists` and `all`: an accumulator that starts false or true and takes the body with `||` or `&&`.
fn exists_or_all(call: &ComprehensionExpr) -> Option<(bool, &IdedExpr)> {
    let Expr::Call(step) = &call.loop_step.expr else { return None };
    let any = match step.func_name.as_str() {
        operators::LOGICAL_OR => true,
        operators::LOGICAL_AND => false,
        _ => return None,
    };
    let start = Expr::Literal(LiteralValue::Boolean((!any).into()));
    let plain = call.iter_var2.is_none() && call.accu_init.expr == start && call.result.expr == Expr::Ident(call.accu_var.clone());
    match step.args.as_slice() {
        [accumulator, body] if plain && accumulator.expr == Expr::Ident(call.accu_var.clone()) => Some((any, body)),
        _ => None,
    }
}
