//! Documentation that is checked: what a page says of names and defaults is what the binary says.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "a test reads files and fails loudly")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn exeat(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_exeat")).args(args).output().expect("exeat runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// `| `name` | default | ..` of a Markdown table.
fn rows(page: &str) -> Vec<(String, String)> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let named = |cells: Vec<String>| Some((cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?.to_owned(), cells.get(2)?.clone()));
    page.lines().filter(|line| line.starts_with('|')).filter_map(|line| named(cells(line))).collect()
}

#[test]
fn every_limit_of_the_schema_has_its_row_with_its_default() {
    let page = std::fs::read_to_string(root("docs/limits.md")).expect("the page");
    let rows = rows(&page);
    let schema: serde_json::Value = serde_json::from_str(&exeat(&["schema", "config"])).expect("a schema");
    let definitions = schema["$defs"].as_object().expect("definitions");
    let mut seen = 0;
    for of in ["LimitsConfig", "DrainConfig"] {
        for (name, property) in definitions[of]["properties"].as_object().expect("properties") {
            let said = property["description"].as_str().unwrap_or_default();
            let default = said.rsplit_once("Default ").map_or("", |(_, rest)| rest.split(['.', ';']).next().unwrap_or_default());
            let row = rows.iter().find(|(row, _)| row == name).unwrap_or_else(|| panic!("docs/limits.md has no row for `{name}`"));
            assert_eq!(row.1, default, "the default of `{name}`");
            seen += 1;
        }
    }
    assert_eq!(seen, rows.len(), "docs/limits.md names a limit that the schema lacks");
    assert!(seen > 20);
}

#[test]
fn the_readme_lists_every_command() {
    let readme = std::fs::read_to_string(root("README.md")).expect("the page");
    let help = exeat(&["--help"]);
    let (_, commands) = help.split_once("Commands:").expect("commands");
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help" && name.chars().all(|c| c.is_ascii_lowercase()))
        .collect();
    let options = commands.find("Options:").expect("options");
    let names: Vec<&str> = names.into_iter().filter(|name| commands.split_at(options).0.contains(&format!("  {name} "))).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(readme.contains(&format!("exeat {name}")), "README.md does not name `exeat {name}`");
    }
}

/// Every Rust file below a folder, as one text.
fn code(folder: &Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            code(&path, all);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            all.push_str(&std::fs::read_to_string(&path).expect("text"));
        }
    }
}

/// The functions of a text that stand under `#[test]` or `#[tokio::test]`.
fn tests_of(code: &str) -> std::collections::BTreeSet<&str> {
    let mut names = std::collections::BTreeSet::new();
    let mut is_test = false;
    for line in code.lines().map(str::trim_start) {
        let declared = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some(name) = declared.and_then(|rest| rest.split_once('(')) {
            if is_test {
                names.insert(name.0);
            }
            is_test = false;
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.contains('{') || line.contains('}') {
            is_test = false;
        }
    }
    names
}

#[test]
fn only_what_is_annotated_is_a_test() {
    let code = "#[test]\nfn one() {\n}\nfn two() {\n}\n  #[tokio::test]\n  #[expect(dead_code, reason = \"r\")]\n  async fn three() {\n}\npub fn four() {}\n";
    assert_eq!(tests_of(code).into_iter().collect::<Vec<_>>(), ["one", "three"]);
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut all = String::new();
    for folder in ["src", "tests"] {
        code(&root(folder), &mut all);
    }
    let tests = tests_of(&all);
    let (mut named, mut rows) = (0, 0);
    for page in std::fs::read_dir(root("docs")).expect("the pages") {
        let page = page.expect("an entry").path();
        let text = std::fs::read_to_string(&page).expect("text");
        let mut shows = false;
        for line in text.lines() {
            if !line.starts_with('|') {
                shows = false;
                continue;
            }
            let last = line.trim_end().trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
            if !shows || last.starts_with("--") {
                shows |= last == "shown by";
                continue;
            }
            let before = named;
            for name in last.split('`').skip(1).step_by(2) {
                // A script of the build is no function.
                let is_file = name.contains('/') && root(name).is_file();
                assert!(tests.contains(name) || is_file, "{} names `{name}`, which is no test", page.display());
                named += usize::from(!is_file);
            }
            assert!(named > before || !page.ends_with("limits.md"), "{}: no test shows {line}", page.display());
            rows += 1;
        }
    }
    assert!(named > 100 && rows > 80, "only {named} tests are named in {rows} rows");
}

/// The fenced YAML blocks of a page, each with the file name that its first line gives.
fn policies(page: &str) -> Vec<(String, String)> {
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let named = |block: &str| {
        let name = block.lines().next()?.strip_prefix("# policies/")?.to_owned();
        Some((name, block.to_owned()))
    };
    blocks.filter_map(named).collect()
}

#[test]
fn the_policies_of_a_page_load_beside_the_example() {
    let page = std::fs::read_to_string(root("docs/leases-and-limits.md")).expect("the page");
    let files = policies(&page);
    assert_eq!(files.len(), 2);
    let dir = tempfile::tempdir().expect("a directory");
    for place in ["config", "policies/host"] {
        std::fs::create_dir_all(dir.path().join(place)).expect("made");
    }
    for (name, text) in files {
        std::fs::write(dir.path().join("policies/host").join(name), text).expect("written");
    }
    let config = dir.path().join("config/exeat.yaml");
    std::fs::copy(root("config/host.yaml"), &config).expect("copied");
    let said = exeat(&["check", "-c", &config.display().to_string()]);
    assert!(said.contains("with a lease and limits"), "{said}");
}

#[test]
fn every_command_of_the_adoption_page_exists_with_its_flags() {
    let page = std::fs::read_to_string(root("docs/adoption.md")).expect("the page");
    let mut seen = 0;
    for line in page.lines().filter(|line| line.starts_with("exeat ")) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let of: Vec<&str> = words.iter().take(if words[0] == "policy" { 2 } else { 1 }).copied().collect();
        let help = exeat(&[&of[..], &["--help"]].concat());
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(*flag), "`{line}`: {of:?} has no {flag}");
        }
        seen += 1;
    }
    assert!(seen >= 7, "{seen} commands");
}

/// The snippets of docs/identity.md are listeners and identities; the rest of a file is put around them.
#[test]
fn every_snippet_of_the_identity_page_is_a_configuration() {
    let page = std::fs::read_to_string(root("docs/identity.md")).expect("the page");
    let house = tempfile::tempdir().expect("a directory");
    let at = |name: &str| house.path().join(name);
    std::fs::create_dir_all(at("policies")).expect("a directory");
    std::fs::create_dir_all(at("tls")).expect("a directory");
    let authority = {
        let mut params = rcgen::CertificateParams::new(vec!["exeat.prod.example".to_owned()]).expect("a name");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").pem()
    };
    for name in ["tls/exeat.pem", "tls/bundle.pem"] {
        std::fs::write(at(name), &authority).expect("written");
    }
    let snippets: Vec<&str> = page.split("```yaml identity\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(snippets.len() >= 5, "{} snippets", snippets.len());
    for snippet in snippets {
        let file = at("exeat.yaml");
        let rest = "upstreams: { u: { owner: team@prod.example, origins: [\"https://u.prod.example\"] } }\npolicies: [{ directory: policies, bounds: all }]\n";
        std::fs::write(&file, format!("exeat: config/v1\nstate: ephemeral\ntrust_domain: prod.example\n{snippet}{rest}")).expect("written");
        exeat(&["check", "-c", &file.display().to_string()]);
    }
}
