//! What an operator writes: read alike each time, and every mistake has its place.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::path::Path;

use super::file;
use super::load::Files;
use super::restart_needed;
use crate::clock::Timestamp;
use crate::written::{Diagnostic, MAX_BYTES, Source};

/// A configuration file. The files that it names are not there.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let source = Source::new("exeat.yaml", text);
    let read = || file::build(&source, Path::new("/nonexistent"), &mut Files::default(), now);
    match (read(), read()) {
        (Ok(one), Ok(other)) => {
            assert!(text.len() <= MAX_BYTES);
            assert!(restart_needed(&one.config, &other.config).is_empty(), "a file differs from itself");
            told(text, &one.warnings);
            told(text, &one.policy_errors);
            assert_eq!(format!("{:?}", one.catalogue), format!("{:?}", other.catalogue));
        }
        (Err(one), Err(other)) => {
            assert!(!one.is_empty(), "refused without a reason");
            assert!(one.iter().map(Diagnostic::render).eq(other.iter().map(Diagnostic::render)), "told differently each time");
            told(text, &one);
        }
        _ => panic!("right and wrong at once"),
    }
}

/// Each message stands in the file, in all its forms, and shows little of it.
pub(crate) fn told(text: &str, all: &[Diagnostic]) {
    let lines = text.lines().count().max(1) + 1;
    assert!(all.len() <= 1000, "{} messages", all.len());
    for one in all {
        assert!(
            one.place.is_none_or(|place| usize::try_from(place.line).unwrap() <= lines && place.line > 0 && place.column > 0),
            "{}",
            one.render()
        );
        let shown = one.render().len() + one.to_github().len() + one.to_json().to_string().len();
        assert!(shown < 200_000, "a message of {shown} bytes");
    }
}
