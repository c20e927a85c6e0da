//! Names of listeners, identities, upstreams and credentials: short, plain, safe in a log line, a metric label and a file name.

use crate::written::{Entries, Report, Spanned};

/// Most bytes of a name.
const LONGEST: usize = 63;

/// Whether a text is a name.
fn is_name(text: &str) -> bool {
    text.len() <= LONGEST
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Reports every name of a mapping that is none.
pub(super) fn check<T>(what: &str, entries: &Entries<T>, report: &mut Report) {
    for (name, _) in entries.iter() {
        check_one(what, name, report);
    }
}

fn check_one(what: &str, name: &Spanned<String>, report: &mut Report) {
    if !is_name(name) {
        let hint = "letters, digits, `-`, `_` and `.`, beginning with a letter or digit, 63 at most";
        report.error_hint(name.at, format!("`{}` cannot be the name of {what}", name.value), hint);
    }
}
