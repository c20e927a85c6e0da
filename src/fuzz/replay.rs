//! The corpora replayed, then changed for a moment: what a fuzzer found once is found again by every run of the tests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::TARGETS;

/// How long each target is fed with changed inputs, beside the replay: `EXEAT_FUZZ_SECONDS=60` makes it longer, `EXEAT_FUZZ_SEED=7` chooses
/// the changes.
const SECONDS: f64 = 0.3;

fn told(variable: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a test that is scaled from outside")]
    std::env::var(variable).ok()
}

/// xorshift64*: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % sides.max(1)
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no input", folder.display());
    files.into_iter().map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect()
}

/// Words that inputs are made of: bytes that parsers look for.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b" ",
    b"/",
    b"//",
    b"%2e",
    b"%2F",
    b"%25",
    b"..",
    b";",
    b":",
    b"@",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"=",
    b"&",
    b"\0",
    b"\xff",
    b"-",
    b"0",
    b"9999999999",
    b"true",
    b"null",
    b"chunked",
    b"\r\n\r\n",
    b"'",
    b"(",
    b")",
    b"&&",
    b"|",
    b"a",
];

/// One input changed in one to four places, sometimes with a piece of another.
fn mutated(one: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = one.to_vec();
    for _ in 0..=dice.throw(4) {
        let at = dice.throw(bytes.len() + 1);
        let end = (at + 1 + dice.throw(16)).min(bytes.len());
        match dice.throw(6) {
            0 if at < bytes.len() => bytes[at] = u8::try_from(dice.throw(256)).unwrap(),
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.throw(8),
            2 => drop(bytes.splice(at..end.max(at), [])),
            3 => drop(bytes.splice(at..at, WORDS[dice.throw(WORDS.len())].iter().copied())),
            4 => {
                let from = dice.throw(other.len() + 1);
                let piece = &other[from..(from + dice.throw(64)).min(other.len())];
                drop(bytes.splice(at..at, piece.iter().copied()));
            }
            _ => {
                let again = bytes[at..end.max(at)].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
    bytes
}

/// Runs a target; where it panics, the input is shown so that it can be kept.
fn fed(name: &str, target: fn(&[u8]), data: &[u8], whence: &str) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(data)));
    if outcome.is_err() {
        let mut hex = String::new();
        for byte in data {
            write!(hex, "{byte:02x}").unwrap();
        }
        panic!("target `{name}` fails on {whence}; its input as text: {:?}, in hex: {hex}", String::from_utf8_lossy(data));
    }
}

fn instant() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the test has a budget of real time")]
    Instant::now()
}

#[test]
fn every_target_holds_on_its_corpus_and_near_it() {
    let seed = told("EXEAT_FUZZ_SEED").and_then(|text| text.parse().ok()).unwrap_or(1_u64);
    let budget = Duration::from_secs_f64(told("EXEAT_FUZZ_SECONDS").and_then(|text| text.parse().ok()).unwrap_or(SECONDS));
    let only = told("EXEAT_FUZZ_TARGET");
    for (at, (name, target)) in TARGETS.iter().enumerate().filter(|(_, (name, _))| only.as_ref().is_none_or(|only| only == name)) {
        let inputs = corpus(name);
        let began = instant();
        for (file, data) in &inputs {
            fed(name, *target, data, &file.display().to_string());
        }
        let replayed = began.elapsed();
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | u64::try_from(at).unwrap() << 1 | 1);
        let (began, mut rounds) = (instant(), 0_u32);
        while began.elapsed() < budget {
            let (one, other) = (&inputs[dice.throw(inputs.len())].1, &inputs[dice.throw(inputs.len())].1);
            rounds += 1;
            let data = mutated(one, other, &mut dice);
            fed(name, *target, &data, &format!("EXEAT_FUZZ_SEED={seed}, round {rounds}"));
        }
        println!("{name}: {} inputs in {replayed:?}, {rounds} changed ones (EXEAT_FUZZ_SEED={seed})", inputs.len());
    }
}

#[test]
fn every_target_is_a_fuzzers_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let named: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    for name in &named {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name} is not in tests/fuzz/Cargo.toml");
        let body = std::fs::read_to_string(folder.join(format!("targets/{name}.rs"))).unwrap();
        assert!(body.contains(&format!("exeat::fuzz::run(\"{name}\", data)")), "{name}");
    }
    let corpora = std::fs::read_dir(folder.join("corpus")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(corpora.into_iter().all(|corpus| named.contains(&corpus.as_str())), "a corpus without a target");
}
