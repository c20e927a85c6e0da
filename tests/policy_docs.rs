//! `docs/policy.md` is run: its files are written, its commands are called, and what it shows is what they print. After a change of output:
//! `EXEAT_DOCS=write cargo test --test policy_docs`.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "a test reads files and fails loudly")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md")
}

/// Fenced blocks: the language and the lines.
fn blocks(text: &str) -> Vec<(String, Vec<String>)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, Vec<String>)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => open = Some((language.to_owned(), Vec::new())),
            (None, Some((language, mut lines))) => {
                lines.push(line.to_owned());
                open = Some((language, lines));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// Words of a command line; quotes hold blanks together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("a word").push(c),
        }
    }
    words
}

/// What differs from run to run: the nanoseconds of one decision.
fn stable(line: &str) -> String {
    match line.rsplit_once(", ") {
        Some((before, time)) if line.starts_with("cost ") && time.ends_with(" ns") => format!("{before}, .. ns"),
        _ => line.to_owned(),
    }
}

#[test]
fn the_page_shows_what_the_binary_prints() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = fs::read_to_string(page()).expect("the page");
    let mut written = text.clone();
    let (mut files, mut commands) = (0, 0);
    for (language, lines) in blocks(&text) {
        if language == "yaml" {
            let name = lines[0].strip_prefix("# file: ").unwrap_or_else(|| panic!("a file without its name: {}", lines[0]));
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, lines.join("\n") + "\n").expect("written");
            files += 1;
        } else if language == "console" {
            let call = words(lines[0].strip_prefix("$ exeat ").expect("a command of exeat"));
            let output = Command::new(env!("CARGO_BIN_EXE_exeat")).args(&call).current_dir(dir.path()).output().expect("exeat runs");
            assert!(output.status.success(), "{call:?}: {}", String::from_utf8_lossy(&output.stderr));
            let printed: Vec<String> = String::from_utf8(output.stdout).expect("text").lines().map(stable).collect();
            let fenced = |output: &[String]| format!("```console\n{}\n```", [&lines[..1], output].concat().join("\n"));
            if std::env::var_os("EXEAT_DOCS").is_some() {
                written = written.replace(&fenced(&lines[1..]), &fenced(&printed));
            } else {
                assert_eq!(lines[1..], printed, "docs/policy.md is not what `{}` prints", lines[0]);
            }
            commands += 1;
        }
    }
    if written != text {
        fs::write(page(), written).expect("written");
    }
    assert!(files > 3 && commands > 4, "{files} files, {commands} commands");
}

#[test]
fn every_lint_has_its_row() {
    let page = fs::read_to_string(page()).expect("the page");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/compile");
    let mut seen = 0;
    for name in ["lints.rs", "contradictions.rs", "unused.rs"] {
        let source = fs::read_to_string(root.join(name)).expect("the source");
        for call in ["warn(", "warn_when(", ".warning("] {
            for after in source.split(call).skip(1) {
                if let Some(code) = after.trim_start().strip_prefix('"').and_then(|after| after.split('"').next()) {
                    assert!(page.contains(&format!("| `{code}` |")), "docs/policy.md has no row for lint `{code}`");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 20, "{seen}");
}
