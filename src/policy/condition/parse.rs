//! Text to condition. The `cel` parser recurses, so it runs on a thread with room for the deepest text that is let in.

use std::sync::Arc;

use cel::parser::{ParseError, Parser};

use super::check::Checker;
use super::facts::Facts;
use super::program::{Condition, Notes, Test};

/// Longest condition in bytes.
const LONGEST: usize = 2048;
/// Most steps of one evaluation.
const MOST_STEPS: usize = 1024;
/// Enough for [`LONGEST`] bytes of the deepest nesting, in a debug build; only what is used is ever touched.
const STACK: usize = 256 * 1024 * 1024;

/// One mistake in a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct Problem {
    /// In characters from the beginning of the condition.
    pub(in crate::policy) offset: usize,
    /// In characters.
    pub(in crate::policy) length: usize,
    pub(in crate::policy) message: String,
    pub(in crate::policy) hint: String,
}

impl Problem {
    fn whole(message: String, hint: &str) -> Vec<Self> {
        vec![Self { offset: 0, length: 1, message, hint: hint.to_owned() }]
    }
}

/// Parses and checks conditions, in their order.
pub(in crate::policy) fn parse_all(texts: &[Arc<str>]) -> Vec<Result<Condition, Vec<Problem>>> {
    let work = || texts.iter().map(parse).collect();
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("conditions".to_owned()).stack_size(STACK).spawn_scoped(scope, work);
        let failed = |why: &str| {
            texts.iter().map(|_| Err(Problem::whole(format!("the condition could not be parsed: {why}"), "try again"))).collect()
        };
        match worker {
            Ok(worker) => worker.join().unwrap_or_else(|_| failed("its parser gave up")),
            Err(error) => failed(&error.to_string()),
        }
    })
}

fn parse(text: &Arc<str>) -> Result<Condition, Vec<Problem>> {
    if text.trim().is_empty() {
        return Err(Problem::whole("the condition is empty".to_owned(), "remove `when`, or write a condition"));
    }
    if text.len() > LONGEST {
        return Err(Problem::whole(format!("the condition has {} bytes; {LONGEST} are the most", text.len()), "split the rule"));
    }
    // After the first mistake the parser only guesses.
    let parser = Parser::new().max_recursion_depth(48).error_recovery_limit(1);
    let (expr, info) = parser
        .parse_with_source_info(text)
        .map_err(|errors| errors.errors.first().map_or_else(unreadable, |error| vec![syntax(text, error)]))?;
    let mut checker = Checker::new(text, &info);
    let test = checker.condition(&expr);
    match test {
        Some(test) if checker.problems.is_empty() => {
            let cost = test.cost();
            if cost > MOST_STEPS {
                let message = format!("the condition takes up to {cost} steps; {MOST_STEPS} are the most");
                return Err(Problem::whole(message, "shorten its lists, or split the rule"));
            }
            let mut notes = checker.notes;
            notes.negative.sort();
            notes.negative.dedup();
            Ok(Condition { text: Arc::clone(text), facts: Facts::of(&test), test, notes })
        }
        // Nobody may take an empty list for a sound condition.
        Some(_) | None if checker.problems.is_empty() => Err(unreadable()),
        Some(_) | None => Err(checker.problems),
    }
}

fn unreadable() -> Vec<Problem> {
    Problem::whole("the condition cannot be read".to_owned(), "write it in simpler parts")
}

impl Condition {
    /// What stands for a condition that could not be read.
    pub(in crate::policy) fn never(text: Arc<str>) -> Self {
        Self { text, test: Test::Constant(false), facts: Facts::default(), notes: Notes::default() }
    }

    /// How much of a decision's budget one evaluation takes: one for everyday conditions.
    pub(in crate::policy) fn weight(&self) -> u64 {
        u64::try_from(self.test.cost().div_ceil(32)).unwrap_or(u64::MAX)
    }
}

/// The parser's message without its list of token names.
fn syntax(text: &str, error: &ParseError) -> Problem {
    let message = error.msg.split(" expecting ").next().unwrap_or_default();
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let message = message.replace("'<EOF>'", "the end").replace("<EOF>", "the end");
    let line = usize::try_from(error.pos.0).unwrap_or(1).max(1);
    let column = usize::try_from(error.pos.1).unwrap_or(1).max(1);
    let before: usize = text.split_inclusive('\n').take(line - 1).map(|line| line.chars().count()).sum();
    let offset = (before + column - 1).min(text.chars().count());
    Problem {
        offset,
        length: 1,
        message: format!("the condition is not valid CEL: {message}"),
        hint: "text is quoted, `&&` and `||` join, `==` compares".to_owned(),
    }
}
