//! `Suite`: one test file, read on its ground and run.

use std::sync::Arc;

use super::document::{RowWritten, TestDocument};
use super::ground::Ground;
use super::invariant::Invariant;
use super::outcome::Outcome;
use super::question::Question;
use super::request::RequestWritten;
use super::row::{Expected, Row};
use crate::clock::Timestamp;
use crate::refusal::Code;
use crate::written::{Diagnostic, Place, Report, Severity, Source, Spanned, parse_all};

/// Most failing rows of one file whose reasons are looked for: whoever has more has one reason for all, and a reload must end.
const MOST_EXPLAINED: usize = 20;

/// A test file as it was found.
#[derive(Debug, Clone)]
pub struct TestFile {
    /// Its text.
    pub source: Source,
    /// A failing test keeps the rules from being taken.
    pub required: bool,
}

/// One test file, ready to run.
#[derive(Debug)]
pub struct Suite {
    source: Source,
    rows: Vec<Row>,
    invariants: Vec<Invariant>,
}

impl Suite {
    /// Reads a test file. Names of upstreams and rules must exist on the ground.
    ///
    /// # Errors
    /// Every mistake of the file.
    pub fn read(source: &Source, ground: &Ground<'_>) -> Result<Self, Vec<Diagnostic>> {
        if let Some(line) = source.text.lines().position(|line| line.trim_end() == "exeat: policy/v1") {
            let at = Place { line: u32::try_from(line + 1).unwrap_or(1), column: 8 };
            let wrong =
                Diagnostic::error(source, at, "this is a policy file, and its name says that it is a test: its rules are not loaded");
            return Err(vec![wrong.with_hint("name the file so that it does not end in `.test.yaml`")]);
        }
        let (document, found) = parse_all::<TestDocument>(source);
        let Some(document) = document else { return Err(found) };
        let mut report = Report::new(source.clone());
        for mistake in found {
            report.push(mistake);
        }
        let at = document.at.build(&mut report);
        let rows = document.table.iter().filter_map(|row| read_row(&document, row, ground, at, &mut report)).collect();
        let held = document.invariants.iter().filter_map(|held| Invariant::read(held, ground, at?, &mut report)).collect();
        match report.finish() {
            (errors, _) if errors.is_empty() => Ok(Self { source: source.clone(), rows, invariants: held }),
            (errors, _) => Err(errors),
        }
    }

    /// Runs every row and looks at every invariant.
    #[must_use]
    pub fn run(&self, ground: &Ground<'_>, trust_domain: &str) -> Outcome {
        let mut explained = 0;
        let rows = self.rows.iter().map(|row| {
            let result = row.run(ground.set, &self.source, explained < MOST_EXPLAINED);
            explained += usize::from(result.failure.is_some());
            result
        });
        let held = self.invariants.iter().map(|held| held.look(ground, trust_domain, &self.source));
        Outcome { file: Arc::clone(&self.source.name), results: rows.chain(held).collect() }
    }
}

fn read_row(document: &TestDocument, row: &RowWritten, ground: &Ground<'_>, at: Option<Timestamp>, report: &mut Report) -> Option<Row> {
    let base = match &row.base {
        None => None,
        Some(name) => {
            let found = document.requests.get(&name.value);
            if found.is_none() {
                report.unknown_name(name.at, "request", &name.value, &document.requests.names().collect::<Vec<_>>());
                return None;
            }
            found
        }
    };
    let layers: Vec<&RequestWritten> = row.set.iter().chain(base).collect();
    // the row's own time is above the request's
    let own = match &row.at {
        Some(time) => Some(time.build(report)?),
        None => None,
    };
    let mut question = Question::read(&layers, ground, own.or(at), row.name.at, report)?.enforced();
    question.at = own.unwrap_or(question.at);
    let expected = Expected {
        outcome: row.expect.value,
        code: code(row.code.as_ref(), report)?,
        rule: rule(row.rule.as_ref(), ground, report)?,
        grant: row.grant.as_ref().map(|grant| grant.value.as_str().into()),
        would_be: row.would_be.as_ref().map(|would| would.value),
    };
    Some(Row { name: row.name.value.as_str().into(), place: row.name.at, question, expected })
}

#[expect(clippy::option_option, reason = "the outer one says whether the word was sound, the inner one whether it was there")]
fn code(written: Option<&Spanned<String>>, report: &mut Report) -> Option<Option<Code>> {
    let Some(written) = written else { return Some(None) };
    let found = Code::ALL.iter().find(|code| code.name() == written.value);
    if found.is_none() {
        report.unknown_name(written.at, "code", &written.value, &Code::ALL.iter().map(|code| code.name()).collect::<Vec<_>>());
    }
    found.map(|code| Some(*code))
}

#[expect(clippy::option_option, reason = "as above")]
fn rule(written: Option<&Spanned<String>>, ground: &Ground<'_>, report: &mut Report) -> Option<Option<Arc<str>>> {
    let Some(written) = written else { return Some(None) };
    known_rule(&written.value, written.at, ground, report).map(Some)
}

/// The rule of this name; a name that no rule has is a mistake of the test.
pub(super) fn known_rule(name: &str, at: Place, ground: &Ground<'_>, report: &mut Report) -> Option<Arc<str>> {
    let mut ids = ground.set.rules.iter().map(|rule| &rule.name.id);
    let found = ids.clone().find(|id| &***id == name).cloned();
    if found.is_none() {
        let known: Vec<&str> = ids.by_ref().map(|id| &**id).collect();
        report.unknown_name(at, "rule", name, &known);
    }
    found
}

/// Runs test files as they stand beside the rules: what fails is an error where its directory requires its tests, else a warning.
#[must_use]
pub fn run_beside(files: &[TestFile], ground: &Ground<'_>, trust_domain: &str) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    for file in files {
        let severity = if file.required { Severity::Error } else { Severity::Warning };
        match Suite::read(&file.source, ground) {
            Ok(suite) => told.extend(suite.run(ground, trust_domain).diagnostics(severity)),
            Err(mistakes) => told.extend(mistakes.into_iter().map(|mistake| mistake.with_severity(severity))),
        }
    }
    told
}
