//! written: YAML as operators write it.
//!
//! Enters: the text of one file with the name under which the operator knows it. Leaves: a value whose parts remember where they stand
//! ([`Spanned`], [`Entries`]), or [`Diagnostic`]s with file, line, caret and hint. It reads no file, expands nothing and guesses nothing:
//! merge keys, aliases, duplicate keys, second documents, `yes` for `true` and oversized or deeply nested texts are errors. It fails to
//! diagnostics, never to a panic.

mod diagnostic;
mod form;
mod parse;
mod report;
mod scalar;
mod source;
mod suggest;
mod tree;

pub use diagnostic::{Diagnostic, Severity};
pub use parse::{MAX_BYTES, MAX_DEPTH, MAX_NODES, parse, parse_all};
pub use report::Report;
pub use scalar::{WrittenDuration, WrittenSize, WrittenTime, duration};
pub use source::{Entries, Items, Lenient, Place, Source, Spanned};
pub use suggest::suggest;
