//! What became of a test file.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::written::{Diagnostic, Place, Severity, Source};

/// The outcome of one test file.
#[derive(Debug)]
pub struct Outcome {
    /// Its name as shown.
    pub file: Arc<str>,
    /// Of its rows, then of its invariants.
    pub results: Vec<TestResult>,
}

/// The outcome of one row or invariant.
#[derive(Debug)]
pub struct TestResult {
    /// As written.
    pub name: String,
    pub(super) source: Source,
    /// Where it stands.
    pub place: Place,
    /// The rules that decided, in force and with shadow rules.
    pub reached: BTreeSet<Arc<str>>,
    /// Why it does not hold.
    pub failure: Option<Failure>,
}

/// Why a test does not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What the file says.
    pub expected: String,
    /// What is.
    pub got: String,
    /// The predicates that decided, one a line.
    pub why: Vec<String>,
}

impl Outcome {
    /// How many do not hold.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.results.iter().filter(|result| result.failure.is_some()).count()
    }

    /// Each failure as a message about the file.
    #[must_use]
    pub fn diagnostics(&self, severity: Severity) -> Vec<Diagnostic> {
        self.results.iter().filter_map(|result| result.diagnostic(severity)).collect()
    }
}

impl TestResult {
    /// The failure as a message about the file.
    #[must_use]
    pub fn diagnostic(&self, severity: Severity) -> Option<Diagnostic> {
        let Failure { expected, got, why } = self.failure.as_ref()?;
        let message = format!("test `{}` fails: expected {expected}, got {got}", self.name);
        let diagnostic = match severity {
            Severity::Error => Diagnostic::error(&self.source, self.place, message).with_code("policy-test"),
            Severity::Warning => Diagnostic::warning("policy-test", &self.source, self.place, message),
        };
        Some(if why.is_empty() { diagnostic } else { diagnostic.with_hint(why.join("\n")) })
    }
}
