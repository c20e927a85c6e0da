//! The law of the house: flow order is reading order is dependency order. See the crate doc.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    missing_docs,
    reason = "a test reads the source tree and fails loudly"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// A room may use only rooms that stand before it.
const FLOW: &[&str] = &[
    "secret",
    "clock",
    "written",
    "refusal",
    "edits",
    "address",
    "jose",
    "tls",
    "outcall",
    "state",
    "capture",
    "catalogue",
    "identity",
    "strip",
    "action",
    "live",
    "policy",
    "credentials",
    "inject",
    "dial",
    "audit",
    "evidence",
    "telemetry",
    "config",
    "snapshot",
    "gate",
    "proxy",
    "control",
    "admin",
    "app",
    "demo",
    "cli",
    "fuzz",
    "main",
];

/// A word, and where alone it may stand (prefixes of paths below `src/`).
const FENCES: &[(&str, &[&str])] = &[
    ("pingora_core", &["app", "proxy/listen", "live", "dial"]),
    ("hyper::", &["outcall", "proxy", "dial", "admin", "demo"]),
    ("h2::", &["outcall", "proxy", "dial", "admin", "demo"]),
    // the Broker API's connection is opened and judged there; tonic takes it in hyper's IO traits alone
    ("hyper_util::", &["outcall", "proxy", "dial", "admin", "demo", "identity/broker_api/line"]),
    ("http_body_util::", &["outcall", "proxy", "dial", "admin", "demo"]),
    ("serde_yaml", &["written"]),
    ("opentelemetry", &["telemetry"]),
    // gRPC: spans to a collector, and an agent's two APIs, whose messages are nobody else's business
    ("tonic::", &["telemetry", "identity/workload_api", "identity/broker_api"]),
    ("jsonwebtoken", &["jose"]),
    ("arc_swap", &["snapshot", "live", "identity"]),
    ("std::env", &["config", "cli"]),
    (
        ".expose()",
        &["secret", "state", "inject", "credentials/providers", "identity/kubernetes", "jose", "tls", "outcall", "telemetry/init"],
    ),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// Whether the room's door declares this file as a module of its tests or as its fuzz targets: neither is in any build that users have.
fn is_of_tests(file: &Path) -> bool {
    let (Some(name), Some(folder)) = (file.file_stem(), file.parent()) else { return false };
    let door = fs::read_to_string(folder.join("mod.rs")).unwrap_or_default();
    let name = name.to_string_lossy();
    [
        "#[cfg(test)]\nmod",
        "#[cfg(any(test, fuzzing))]\nmod",
        "#[cfg(any(test, fuzzing))]\npub mod",
        "#[cfg(any(test, fuzzing))]\npub(crate) mod",
        "#[cfg(any(test, fuzzing))]\npub(super) mod",
    ]
    .iter()
    .any(|declared| door.contains(&format!("{declared} {name};")))
}

/// Production code of a file: without comment lines, and without each item that stands under `#[cfg(test)]`. What follows such an item is
/// production again: a house that rustfmt keeps closes an item where it began it.
fn production(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if !line.trim_start().starts_with("#[cfg(test)]") {
            if !line.trim_start().starts_with("//") {
                kept.push(line);
            }
            continue;
        }
        let attribute = |line: &&str| line.trim_start().starts_with("#[") && line.ends_with(']');
        let Some(first) = std::iter::once(line).chain(lines.by_ref()).find(|line| !attribute(line) && !line.is_empty()) else { break };
        if first.ends_with([';', ',', '}']) {
            continue;
        }
        lines.find(|last| indent(last) == indent(line) && (last.trim_start().starts_with('}') || last.ends_with(';')));
    }
    kept.join("\n")
}

/// Names that follow `crate::`, also the first of each path inside one brace group.
fn uses(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut start) = (0, true);
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if depth == 0 && start && (c.is_alphanumeric() || c == '_') => word.push(c),
                    _ => {}
                }
                if !(c.is_alphanumeric() || c == '_' || word.is_empty()) {
                    names.push(std::mem::take(&mut word));
                    start = false;
                }
            }
            if !word.is_empty() {
                names.push(word);
            }
        } else {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn rooms_use_only_rooms_above_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 10, "the sources were found");
    let rank = |room: &str| FLOW.iter().position(|name| *name == room);
    let mut broken = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).expect("below src").with_extension("").to_string_lossy().replace('\\', "/");
        if inside == "lib" || is_of_tests(&file) {
            continue;
        }
        let own = inside.split('/').next().expect("a name").to_owned();
        let Some(here) = rank(&own) else {
            broken.push(format!("src/{inside}.rs: `{own}` is not a room of FLOW"));
            continue;
        };
        let text = production(&fs::read_to_string(&file).expect("source is text"));
        for used in uses(&text) {
            match rank(&used) {
                Some(there) if there <= here => {}
                Some(_) => broken.push(format!("src/{inside}.rs: {own} must not use {used}")),
                None => broken.push(format!("src/{inside}.rs: crate::{used} is not a room")),
            }
        }
        if text.contains("super::super") {
            broken.push(format!("src/{inside}.rs: super::super goes round the law"));
        }
        for (word, allowed) in FENCES {
            if text.contains(word) && !allowed.iter().any(|prefix| inside == *prefix || inside.starts_with(&format!("{prefix}/"))) {
                broken.push(format!("src/{inside}.rs: `{word}` belongs to {allowed:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_check_sees_upward_uses() {
    assert_eq!(uses("use crate::{edits::Edits, gate::{pass, Clearance}};\nuse crate::secret::Secret;"), ["edits", "gate", "secret"]);
    assert_eq!(uses("let x = crate::proxy::run();"), ["proxy"]);
}

#[test]
fn only_what_is_annotated_is_of_the_tests() {
    let text = "a\n#[cfg(test)]\nmod tests;\nb\n    #[cfg(test)]\n    #[must_use]\n    fn held(\n        x: u8,\n    ) -> u8 {\n        x;\n    }\n// c\nd\n\
        #[cfg(test)]\nmod tests {\n    e;\n}\nf";
    assert_eq!(production(text), "a\nb\nd\nf");
}
