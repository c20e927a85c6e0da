//! Entries that are overwritten in place.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use super::slots::{Writing, newest, plan};

/// Any bytes as a file of slots: what is then written is read again, and a write that is cut short leaves the former.
pub(crate) fn slots(file: &[u8], content: &[u8], part: usize) {
    let former = newest(file).map(|slot| slot.bytes.to_vec());
    let written = match plan(file, content) {
        Writing::Anew(bytes) => bytes,
        Writing::InPlace(bytes, offset) => {
            let offset = usize::try_from(offset).unwrap();
            let mut torn = file.to_vec();
            let arrived = part.min(bytes.len());
            torn[offset..offset + arrived].copy_from_slice(&bytes[..arrived]);
            let read = newest(&torn).map(|slot| slot.bytes.to_vec());
            assert!(read == former || read.as_deref() == Some(content), "a write that was cut short leaves a mixture");
            let mut whole = file.to_vec();
            whole[offset..offset + bytes.len()].copy_from_slice(&bytes);
            whole
        }
    };
    assert_eq!(newest(&written).expect("just written").bytes, content);
}
