//! SARIF 2.1.0 (OASIS, 27 March 2020): findings in the form that code hosts and editors take.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::written::{Diagnostic, Severity};

/// The log of one run: one rule for each kind of finding, one result for each finding (sections 3.13, 3.14, 3.19, 3.27).
pub(super) fn log(diagnostics: &[Diagnostic]) -> String {
    let mut codes: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let rules: Vec<Value> = codes.iter().map(|code| json!({ "id": code, "name": pascal(code) })).collect();
    let results: Vec<Value> = diagnostics.iter().map(|diagnostic| result(diagnostic, &codes)).collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "exeat", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn result(diagnostic: &Diagnostic, codes: &[&str]) -> Value {
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let hint = diagnostic.hint.as_ref().map_or_else(String::new, |hint| format!("\n{hint}"));
    let mut place = json!({ "artifactLocation": { "uri": uri(&diagnostic.file) } });
    if let (Some(at), Some(place)) = (diagnostic.place, place.as_object_mut()) {
        let length = u32::try_from(diagnostic.length.max(1)).unwrap_or(1);
        let region = json!({ "startLine": at.line, "startColumn": at.column, "endColumn": at.column.saturating_add(length) });
        place.insert("region".to_owned(), region);
    }
    json!({
        "ruleId": diagnostic.code,
        "ruleIndex": codes.iter().position(|code| *code == diagnostic.code),
        "level": level,
        "message": { "text": format!("{}{hint}", diagnostic.message) },
        "locations": [{ "physicalLocation": place }],
    })
}

/// A path as a URI reference (section 3.4.3): an absolute one gets its scheme, what RFC 3986 does not allow is escaped.
fn uri(path: &str) -> String {
    let mut uri = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~') {
            uri.push(char::from(byte));
        } else {
            let _written = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

/// `long-lived` is `LongLived`: names of rules are identifiers (section 3.49.7).
fn pascal(code: &str) -> String {
    let word = |word: &str| word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect::<String>();
    code.split('-').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::written::{Place, Source};

    #[test]
    fn a_log_has_what_the_standard_requires() {
        let source = Source::new("policies/a b.yaml", "rules:\n  - id: x\n");
        let found = [
            Diagnostic::warning("long-lived", &source, Place { line: 2, column: 9 }, "rule `x` ends late").with_hint("shorten it"),
            Diagnostic::error(&source, Place { line: 2, column: 9 }, "no `effect`"),
            Diagnostic::file_error("/etc/exeat/exeat.yaml", "it cannot be read"),
        ];
        let log: Value = serde_json::from_str(&log(&found)).unwrap();
        // required by the schema: version, runs; run.tool; tool.driver; driver.name; rule.id; result.message
        assert_eq!((log["version"].as_str(), log["runs"].as_array().unwrap().len()), (Some("2.1.0"), 1));
        let driver = &log["runs"][0]["tool"]["driver"];
        assert_eq!(driver["name"], "exeat");
        let rules = driver["rules"].as_array().unwrap();
        assert!(rules.iter().all(|rule| rule["id"].is_string()) && rules.len() == 2);
        assert_eq!(rules[1]["name"], "LongLived");
        let results = log["runs"][0]["results"].as_array().unwrap();
        assert_eq!(results.len(), 3);
        for (result, found) in results.iter().zip(&found) {
            assert!(result["message"]["text"].as_str().unwrap().starts_with(&found.message));
            assert!(["none", "note", "warning", "error"].contains(&result["level"].as_str().unwrap()));
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[index]["id"], result["ruleId"]);
        }
        let first = &results[0]["locations"][0]["physicalLocation"];
        assert_eq!(first["artifactLocation"]["uri"], "policies/a%20b.yaml");
        assert_eq!(first["region"], json!({ "startLine": 2, "startColumn": 9, "endColumn": 10 }));
        let last = &results[2]["locations"][0]["physicalLocation"];
        assert_eq!(last["artifactLocation"]["uri"], "file:///etc/exeat/exeat.yaml");
        assert!(last["region"].is_null(), "a file as a whole has no region");
    }
}
