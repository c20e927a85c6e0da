//! Text to value: the tree, then the form; every mistake that can be found in one run.

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use super::diagnostic::Diagnostic;
use super::form::{Findings, Form};
use super::source::Source;
use super::tree;

/// Largest file, in bytes, checked before the parser sees it.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Deepest nesting of sequences and mappings.
pub const MAX_DEPTH: usize = 32;
/// Most nodes (scalars, sequences, mappings) of one file.
pub const MAX_NODES: usize = 1_000_000;

/// Parses one document.
///
/// # Errors
/// Everything that the file's form forbids: all mistakes of the text, all unknown fields, and the mistakes of each entry of
/// [`Entries`](super::Entries), item of [`Items`](super::Items) and [`Lenient`](super::Lenient) field. What it understands is judged in
/// full by the `build` functions of the written forms.
pub fn parse<T: DeserializeOwned>(source: &Source) -> Result<T, Vec<Diagnostic>> {
    match parse_all(source) {
        (Some(value), found) if found.is_empty() => Ok(value),
        (_, found) => Err(found),
    }
}

/// As [`parse`], and gives what could be read beside its mistakes, so that the rest can be judged in the same run. A value with mistakes
/// is good for finding more of them and for nothing else.
#[must_use]
pub fn parse_all<T: DeserializeOwned>(source: &Source) -> (Option<T>, Vec<Diagnostic>) {
    let (root, found) = match tree::read(source) {
        Ok(read) => read,
        Err(found) => return (None, found),
    };
    let findings = Findings { source, found: RefCell::new(found) };
    let read = T::deserialize(Form { node: &root, findings: &findings }).map_err(|mistake| mistake.report(&findings, root.at));
    let mut found = findings.found.into_inner();
    found.sort_by_key(|diagnostic| diagnostic.place);
    (read.ok(), found)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::written::{Entries, Items, Lenient, Place, Spanned};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        id: Spanned<String>,
        #[serde(default)]
        paths: Vec<Spanned<String>>,
        #[serde(default)]
        on: bool,
        effect: Option<Effect>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Effect {
        Deny,
        Allow(Spanned<u8>),
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        rules: Items<Rule>,
        #[serde(default)]
        named: Entries<Spanned<u32>>,
        #[serde(default)]
        share: Lenient<Option<f64>>,
    }

    fn source(text: &str) -> Source {
        Source::new("rules.yaml", text)
    }

    fn told(text: &str) -> Vec<String> {
        parse::<File>(&source(text)).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_and_names_know_their_places() {
        let file: File =
            parse(&source("rules:\n  - id: \u{e4}a\n    paths: [/x, \"/y/*\"]\n    effect: { allow: 3 }\nnamed: { b: 2, a: 1 }\n"))
                .unwrap();
        let rule = &file.rules[0];
        assert_eq!((rule.id.at, rule.paths[1].at, rule.on), (Place { line: 2, column: 9 }, Place { line: 3, column: 17 }, false));
        assert!(matches!(&rule.effect, Some(Effect::Allow(share)) if share.at == Place { line: 4, column: 22 }));
        assert_eq!(file.named.names().collect::<Vec<_>>(), ["b", "a"]);
        let (name, value) = file.named.iter().next().unwrap();
        assert_eq!((name.at, value.at, value.value), (Place { line: 5, column: 10 }, Place { line: 5, column: 13 }, 2));
    }

    #[test]
    fn scalars_have_one_reading() {
        let one = |text: &str| parse::<File>(&source(&format!("rules: [{{ id: x, {text} }}]")));
        assert!(one("on: true").unwrap().rules[0].on);
        for text in [
            "on: yes",
            "on: True",
            "on: \"true\"",
            "on: 1",
            "on:",
            "effect: { allow: 256 }",
            "effect: { allow: -1 }",
            "effect: { allow: \"1\" }",
        ] {
            assert!(one(text).is_err(), "{text}");
        }
        for text in ["effect: allow", "effect: { deny: 1 }", "effect: { deny: , allow: 1 }", "effect: [deny]", "effect: maybe"] {
            assert!(one(text).is_err(), "{text}");
        }
        assert!(matches!(one("effect: deny").unwrap().rules[0].effect, Some(Effect::Deny)));
        assert!(parse::<File>(&source("rules: []\nshare: .nan")).is_err());
        assert_eq!(parse::<File>(&source("rules: []\nshare: 0.5")).unwrap().share.0, Some(0.5));
    }

    #[test]
    fn every_part_is_judged_in_one_run() {
        let text = "rules:\n  - { id: a, pathes: [] }\n  - { id: b, on: 1, colour: x }\n  - [c]\n  - { id: d }\nnamed: { x: y, z: 1, w: [] }\nshare: much\nowner: me\n";
        insta::assert_snapshot!(told(text).join("\n"), @r#"
    rules.yaml:2:14: unknown field `pathes` (did you mean `paths`?)
    rules.yaml:3:18: expected true or false, found a single value (write `true` or `false`; `yes`, `no`, `on` and `off` are texts)
    rules.yaml:3:21: unknown field `colour` (the fields here are: id, paths, on, effect)
    rules.yaml:4:5: expected a mapping, found a list (write `{ name: value }`, or indented lines of `name: value`)
    rules.yaml:6:13: expected a whole number, found a single value
    rules.yaml:6:25: expected a whole number, found a list
    rules.yaml:7:8: expected a number, found a single value
    rules.yaml:8:1: unknown field `owner` (the fields here are: rules, named, share)
    "#);
    }

    /// A hostile file costs little, whatever it is made of.
    #[test]
    fn hostile_texts_end_soon() {
        let bomb = (1..9).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
            let before = format!("*a{}, ", n - 1).repeat(9);
            format!("{text}a{n}: &a{n} [{before}]\n")
        });
        let (many, long) = if cfg!(debug_assertions) { (20_000, 1 << 20) } else { (500_000, MAX_BYTES - 10) };
        let texts = [
            ("alias bomb", bomb),
            ("nested lists", "[".repeat(100_000)),
            ("nested mappings", "{a: ".repeat(100_000)),
            ("nested blocks", (0..2000).map(|depth| " ".repeat(depth) + "- ").collect::<Vec<_>>().join("\n")),
            ("nested keys", "? ".repeat(100_000)),
            ("long scalar", format!("rules: {}", "a".repeat(long))),
            ("too long", "a".repeat(MAX_BYTES + 1)),
            ("long comment", format!("#{}", "a".repeat(long))),
            ("long key", format!("{}: 1", "a".repeat(100_000))),
            ("open quote", format!("rules: \"{}", "\\n".repeat(100_000))),
            ("aliases", format!("rules: [{}]", "*a, ".repeat(many))),
            ("unknown fields", format!("rules: []\n{}", (0..many).map(|n| format!("f{n}: 1")).collect::<Vec<_>>().join("\n"))),
            ("unknown fields on one line", format!("{{{}}}", (0..many).map(|n| format!("f{n}: \u{e4}")).collect::<Vec<_>>().join(", "))),
            ("one key", "rules: []\n".repeat(many)),
            ("wrong items", format!("rules: [{}]", "1, ".repeat(many))),
            ("directives", "%YAML 1.2\n".repeat(100_000)),
        ];
        // unoptimised code on a busy machine is an order slower, so it gets less to read and more time
        let bound = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
        for (name, text) in texts {
            #[expect(clippy::disallowed_methods, reason = "the test measures real time")]
            let began = Instant::now();
            let errors = parse::<File>(&source(&text)).unwrap_err();
            let shown: usize = errors.iter().map(|error| error.render().len()).sum();
            let took = began.elapsed();
            assert!(took < bound, "{name}: {took:?}");
            assert!(shown < 100_000, "{name}: {shown} bytes of diagnostics");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _either = parse::<File>(&source(&text)).map_err(|errors| errors.iter().map(Diagnostic::render).collect::<String>());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = String::from_utf8_lossy(&bytes);
            let _either = parse::<File>(&source(&text)).map_err(|errors| errors.iter().map(|one| one.render() + &one.to_github()).collect::<String>());
        }

        #[test]
        fn no_yaml_panics(text in "(rules|named|id|paths|on|effect|allow|[\\[\\]{}:,\\-#&*!|>'\"%@`~? \n\t0-9]|\u{e4}|\u{1f511}|\r){0,40}") {
            let _either = parse::<File>(&source(&text)).map_err(|errors| errors.iter().map(|one| one.render() + &one.to_json().to_string()).collect::<String>());
        }
    }
}
