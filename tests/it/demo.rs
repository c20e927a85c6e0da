//! Story: what a newcomer runs first holds: the demo comes to its end by itself, and what it prints was observed.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::clients;
use crate::harness::exeat::command;

/// The longest that it may take on a machine with much else to do; alone it takes a second.
const SOON: Duration = Duration::from_secs(40);

#[test]
fn the_demo_holds_in_an_empty_folder() {
    let folder = TempDir::with_prefix("exeat-it-demo-").expect("a directory");
    let began = Instant::now();
    let output = clients::output(command(&["demo", "--yes"]).current_dir(folder.path()).env("TMPDIR", folder.path()));
    let took = began.elapsed();
    let (story, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let told = format!("{}\n{story}\n{errors}", output.status);
    assert!(output.status.success(), "{told}");
    assert!(took < SOON, "it took {took:?}:\n{told}");
    // The steps follow each other; in each one stands what it is told for.
    let mut rest = &*story;
    for line in [
        "\n1. A legacy program calls its orders service",
        "authorization: Bearer sk-live-…",
        "✓ the static key left in no header and no query",
        "✓ a token came instead: sub \"spiffe://demo.local/ns/shop/sa/legacy-app\"",
        "✓ scope \"orders:read\", 60 s to live, verified by the served JWKS; the answer is 200",
        "\n2. DELETE is allowed by policy",
        "DELETE /orders/42 -> 200\n",
        "DELETE /orders/42 -> 403 exeat-refusal: no_rule\n",
        "from the edit to the refusal",
        "\n3. A thief takes the minted token",
        "past exeat, with the token of step 1 -> 401\n",
        "it is not meant for this audience",
        "\n4. What operations see",
        "exeat.policy.rule = orders/read\n",
        "INTERNAL obtain credential",
        "attributes in all; the audit line:)\n",
        "{\"kind\":\"access\"",
        "✓ one trace, one line, no secret in either",
        "\n5. next: your own program",
        "exeat check -c exeat.yaml\n",
    ] {
        let Some(at) = rest.find(line) else { panic!("`{line}` is not where it should stand:\n{told}") };
        rest = &rest[at + line.len()..];
    }
    // What the upstream received stands in the second column: a minted token, and the key nowhere.
    assert!(story.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().windows(3).any(is_minted)), "{told}");
    assert!(!story.contains("sk-live-4f9a") && !errors.contains("sk-live-4f9a"), "the static key was printed:\n{told}");
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0, "it leaves nothing behind");
}

/// A minted token begins with the JSON of its head in base64.
fn is_minted(words: &[&str]) -> bool {
    words[..2] == ["authorization:", "Bearer"] && words[2].starts_with("eyJ")
}
