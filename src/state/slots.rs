//! Entries that are overwritten in place: two slots in one file of fixed size, the newer valid one counts.
//!
//! Replacing a file waits for the file system's journal, and with it for whatever else is being written (the audit log); overwriting
//! blocks that are there already waits for these blocks alone. A write that a crash cuts short spoils the older slot: the newer one
//! stands, and nobody had been told of the write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// What a slot begins with.
const MAGIC: &[u8; 8] = b"exeat s1";
/// Magic, number, length, hash.
const HEADER: usize = 8 + 8 + 8 + 32;
/// The least that a slot holds, so that few entries ever outgrow it.
const LEAST: usize = 64 * 1024;

/// What a valid slot holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot<'a> {
    number: u64,
    place: usize,
    pub(super) bytes: &'a [u8],
}

/// The newer of the valid slots of a file.
pub(super) fn newest(file: &[u8]) -> Option<Slot<'_>> {
    let half = file.len() / 2;
    let slots = [0, 1].map(|place| slot(file.get(place * half..(place + 1) * half)?, place));
    slots.into_iter().flatten().max_by_key(|slot| slot.number)
}

fn slot(bytes: &[u8], place: usize) -> Option<Slot<'_>> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let (magic, header) = header.split_first_chunk::<8>()?;
    let (number, header) = header.split_first_chunk::<8>()?;
    let (len, hash) = header.split_first_chunk::<8>()?;
    let content = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let number = u64::from_le_bytes(*number);
    (magic == MAGIC && hash == hashed(number, content)).then_some(Slot { number, place, bytes: content })
}

fn hashed(number: u64, content: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(&number.to_le_bytes()).update(content).finalize().as_bytes()
}

fn filled(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&hashed(number, content));
    bytes.extend_from_slice(content);
    bytes
}

/// How a content is written over what the file holds now.
pub(super) enum Writing {
    /// These bytes at this offset, into the slot that does not count.
    InPlace(Vec<u8>, u64),
    /// A new file: there was none, or the content has outgrown its slots.
    Anew(Vec<u8>),
}

/// Plans a write over `file`, which may be empty or damaged.
pub(super) fn plan(file: &[u8], content: &[u8]) -> Writing {
    let half = file.len() / 2;
    let current = newest(file);
    let number = current.as_ref().map_or(1, |slot| slot.number.saturating_add(1));
    let bytes = filled(number, content);
    match current {
        Some(slot) if bytes.len() <= half => Writing::InPlace(bytes, if slot.place == 0 { half as u64 } else { 0 }),
        Some(_) | None => {
            let size = bytes.len().next_power_of_two().max(LEAST);
            let mut file = bytes;
            // Both slots are written out, so that later writes change no size and no map of blocks.
            file.resize(2 * size, 0);
            Writing::Anew(file)
        }
    }
}

/// Writes into a slot; durable when this returns.
pub(super) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The file after a write of which only a part arrived; all of it where `part` is none.
    fn after(mut file: Vec<u8>, content: &[u8], part: Option<usize>) -> Vec<u8> {
        match plan(&file, content) {
            Writing::Anew(new) => new,
            Writing::InPlace(bytes, offset) => {
                let (offset, part) = (usize::try_from(offset).unwrap(), part.unwrap_or(bytes.len()).min(bytes.len()));
                file[offset..offset + part].copy_from_slice(&bytes[..part]);
                file
            }
        }
    }

    #[test]
    fn the_newer_slot_counts_and_an_entry_may_outgrow_its_slots() {
        let mut file = Vec::new();
        for (round, content) in ["one", "two", "", "four"].iter().enumerate() {
            file = after(file, content.as_bytes(), None);
            assert_eq!(newest(&file).unwrap().bytes, content.as_bytes());
            assert_eq!((file.len(), newest(&file).unwrap().number), (2 * LEAST, round as u64 + 1));
        }
        let large = vec![b'x'; 3 * LEAST];
        file = after(file, &large, None);
        assert_eq!((newest(&file).unwrap().bytes, file.len()), (&large[..], 8 * LEAST));
        assert_eq!(newest(b"{"), None);
        assert_eq!(newest(&vec![0; 2 * LEAST]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever part of a write arrives, the former content or the new one is read, never a mixture.
        #[test]
        fn a_write_cut_short_leaves_the_former(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 2..6), part in 0_usize..400) {
            let (last, before) = contents.split_last().unwrap();
            let file = before.iter().fold(Vec::new(), |file, content| after(file, content, None));
            let torn = after(file, last, Some(part));
            let read = newest(&torn).unwrap().bytes.to_vec();
            prop_assert!(read == *before.last().unwrap() || read == *last);
        }

        #[test]
        fn no_bytes_panic(file in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _none = newest(&file);
        }
    }
}
