//! Fields that were looked into before and hold no credential: what a workload sends beside its keys, it sends again and again.
//!
//! A field is known by a hash of its name and value, keyed at random for this thread, and not kept. That two fields have one hash by chance is
//! as likely as a guess of 64 bits; who could make it happen would let through a credential of his own, which he could as well write backwards.

use std::cell::RefCell;
use std::hash::Hasher as _;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

use crate::secret::random;

/// Fields that one worker knows.
const KNOWN: usize = 256;

struct Harmless {
    seed: SharedSeed,
    number: u64,
    /// By the first eight bits of their marks.
    known: [u64; KNOWN],
}

thread_local! {
    static HARMLESS: RefCell<Harmless> = RefCell::new(Harmless::new());
}

impl Harmless {
    fn new() -> Self {
        let mut random_bytes = [0; 16];
        random(&mut random_bytes);
        let [seed, number] = [0, 8].map(|at| random_bytes.iter().skip(at).take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        Self { seed: SharedSeed::from_u64(seed), number, known: [0; KNOWN] }
    }

    /// Never 0, which stands for none.
    fn mark(&self, name: &[u8], value: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.number ^ name.len() as u64, &self.seed);
        hasher.write(name);
        hasher.write(value);
        hasher.finish() | 1
    }
}

const fn place(mark: u64) -> usize {
    (mark >> 56) as usize
}

/// What a field is known by.
pub(super) fn mark(name: &[u8], value: &[u8]) -> u64 {
    HARMLESS.with_borrow(|harmless| harmless.mark(name, value))
}

/// Whether the field of this mark holds no credential, whatever else the upstream's rules take for one.
pub(super) fn knows(mark: u64) -> bool {
    HARMLESS.with_borrow(|harmless| harmless.known.get(place(mark)) == Some(&mark))
}

/// The field of this mark was looked into, and holds none.
pub(super) fn learn(mark: u64) {
    HARMLESS.with_borrow_mut(|harmless| {
        if let Some(known) = harmless.known.get_mut(place(mark)) {
            *known = mark;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_learnt_is_known() {
        let fields: Vec<_> = (0..64).map(|nth| (format!("x-{nth}"), format!("value {nth}"))).collect();
        let marks: Vec<_> = fields.iter().map(|(name, value)| mark(name.as_bytes(), value.as_bytes())).collect();
        assert!(marks.iter().all(|mark| !knows(*mark)));
        for (at, mark) in marks.iter().enumerate() {
            learn(*mark);
            assert!(knows(*mark));
            assert!(marks.get(at + 1..).unwrap().iter().all(|later| !knows(*later)));
        }
    }

    #[test]
    fn a_mark_is_of_name_and_value_and_of_where_one_ends() {
        let same = mark(b"x-a", b"bc");
        assert_eq!(mark(b"x-a", b"bc"), same);
        for (name, value) in [(&b"x-ab"[..], &b"c"[..]), (b"x-", b"abc"), (b"x-a", b"bd"), (b"x-b", b"bc"), (b"x-a", b"bc ")] {
            assert_ne!(mark(name, value), same);
        }
        assert_ne!(std::thread::spawn(|| mark(b"x-a", b"bc")).join().unwrap(), same, "the key is the thread's own");
    }
}
