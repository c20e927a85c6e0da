//! `Report`: collects what `build` functions find in one file, so that all of it is shown at once.

use super::diagnostic::{Diagnostic, MOST, Severity};
use super::source::{Place, Source};
use super::suggest::suggest;

/// Collector of one file's diagnostics; of each severity the first hundred are kept.
#[derive(Debug)]
pub struct Report {
    source: Source,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Report {
    /// For one file, still empty.
    #[must_use]
    pub const fn new(source: Source) -> Self {
        Self { source, errors: Vec::new(), warnings: Vec::new() }
    }

    /// An error without a hint.
    pub fn error(&mut self, at: Place, message: impl Into<String>) {
        self.add(at, message, |error| error);
    }

    /// An error with the next step.
    pub fn error_hint(&mut self, at: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(at, message, |error| error.with_hint(hint));
    }

    /// An error about a value that must not be shown: neither the message nor the line repeat it.
    pub fn error_hidden(&mut self, at: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(at, message, |error| error.with_hint(hint).without_value());
    }

    /// A name that nothing carries: `what` is the kind of thing, `known` are those that exist.
    pub fn unknown_name(&mut self, at: Place, what: &str, name: &str, known: &[&str]) {
        let hint = match suggest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("there is no {what} yet: declare one"),
            None => format!("known: {}", known.iter().take(20).copied().collect::<Vec<_>>().join(", ")),
        };
        self.add(at, format!("there is no {what} `{name}`"), |error| error.with_code("unknown-name").with_hint(hint));
    }

    /// A warning: `code` is the stable word that programs filter by.
    pub fn warning(&mut self, code: &'static str, at: Place, message: impl Into<String>, hint: impl Into<String>) {
        if self.warnings.len() < MOST {
            self.warnings.push(Diagnostic::warning(code, &self.source, at, message).with_hint(hint));
        }
    }

    /// Takes a ready diagnostic.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let list = match diagnostic.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        list.push(diagnostic);
    }

    fn add(&mut self, at: Place, message: impl Into<String>, finish: impl FnOnce(Diagnostic) -> Diagnostic) {
        if self.errors.len() < MOST {
            self.errors.push(finish(Diagnostic::error(&self.source, at, message)));
        }
    }

    /// Whether any error was found so far.
    #[must_use]
    pub const fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Errors and warnings, each in the order of the file.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let place = |diagnostic: &Diagnostic| diagnostic.place.map_or((0, 0), |at| (at.line, at.column));
        self.errors.sort_by_key(place);
        self.warnings.sort_by_key(place);
        (self.errors, self.warnings)
    }
}
