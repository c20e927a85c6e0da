//! `exeat revoke` and `exeat restore`: take access away from a running exeat, and give it back.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{RestoreArgs, RevokeArgs, USAGE};
use super::place;
use crate::live::Target;

pub(super) fn revoke(args: &RevokeArgs) -> ExitCode {
    if args.list {
        return shown(place::ask(&args.ask, "GET", "/v1/revocations", None), args.json, list);
    }
    wish(&args.target, "/v1/revoke", &args.reason, args.json, &args.ask, receipt)
}

pub(super) fn restore(args: &RestoreArgs) -> ExitCode {
    wish(&args.target, "/v1/restore", &args.reason, args.json, &args.ask, restored)
}

fn wish(words: &[String], path: &str, reason: &str, json: bool, ask: &super::args::AdminArg, page: fn(&Value) -> String) -> ExitCode {
    let target = words.join(" ");
    if let Err(error) = target.parse::<Target>() {
        eprintln!("exeat: `{target}` is no target: {error}");
        return ExitCode::from(USAGE);
    }
    shown(place::ask(ask, "POST", path, Some(&json!({ "target": target, "reason": reason }))), json, page)
}

fn shown(answer: Result<String, place::Unasked>, json: bool, page: fn(&Value) -> String) -> ExitCode {
    let text = match answer {
        Ok(text) => text,
        Err(unasked) => return unasked.told(),
    };
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    print!("{}", if json { text } else { page(&document) });
    // In force, and nevertheless somebody must act: a restart would lift it.
    if document.get("durable") == Some(&Value::Bool(false)) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn word(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

fn warnings(document: &Value) -> impl Iterator<Item = String> {
    let all = document.get("warnings").and_then(Value::as_array).cloned().unwrap_or_default();
    all.into_iter().map(|one| format!("[!] {}\n", one.as_str().unwrap_or("-")))
}

/// The acknowledgement, for people.
fn receipt(document: &Value) -> String {
    let already = if document.get("already") == Some(&Value::Bool(true)) { " (it was already)" } else { "" };
    let word = |pointer: &str| word(document, pointer);
    let number = |pointer: &str| document.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let (asked, cannot) = (number("/grants/issuer_asked"), number("/grants/issuer_cannot"));
    let mut page = vec![format!(
        "revoked {}{already}: {} passages ended, {} grants discarded, in {} us\n",
        word("/target"),
        word("/passages_ended"),
        word("/grants/discarded"),
        word("/took_us"),
    )];
    if asked > 0 {
        page.push(format!("issuers are asked to revoke {asked} of them; `grant_revoked` in the audit tells how it went\n"));
    }
    if cannot > 0 {
        let ends = word("/grants/last_ends");
        page.push(format!("{cannot} of them no issuer takes back: they are used no more, and end by themselves (the last: {ends})\n"));
    }
    if document.get("durable") == Some(&Value::Bool(false)) {
        let why = word("/not_durable_because");
        page.push(format!("[-] NOT DURABLE: it holds until this exeat ends, and a restart would lift it: {why}\n"));
    }
    page.extend(warnings(document));
    page.concat()
}

fn restored(document: &Value) -> String {
    let mut page = if document.get("restored") == Some(&Value::Bool(true)) {
        format!("restored {}\n", word(document, "/target"))
    } else {
        format!("{} was not revoked by an operator: nothing to restore\n", word(document, "/target"))
    };
    page.extend(warnings(document));
    page
}

/// The blocks in force, one a line.
pub(super) fn list(document: &Value) -> String {
    let all = document.get("revocations").and_then(Value::as_array).cloned().unwrap_or_default();
    if all.is_empty() {
        return "nothing is revoked\n".to_owned();
    }
    let line = |one: &Value| {
        let reason = word(one, "/reason");
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let (target, since, by, ended) = (word(one, "/target"), word(one, "/since"), word(one, "/by"), word(one, "/passages_ended"));
        format!("revoked    {target}  since {since} by {by}, {ended} passages ended{because}\n")
    };
    all.iter().map(line).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_reads() {
        let block =
            json!({ "target": "upstream ledger", "reason": "INC-7", "by": "uid 0", "since": "2026-11-25T03:00:00Z", "passages_ended": 41 });
        let acknowledged = json!({
            "target": "upstream ledger", "revocation": block, "already": false, "passages_ended": 41, "durable": false,
            "grants": { "discarded": 3, "issuer_asked": 1, "issuer_cannot": 2, "last_ends": "2026-11-25T03:01:00Z" },
            "not_durable_because": "state /var/lib/exeat: cannot write the entry: No space left on device",
            "warnings": ["there is no upstream ledgre now: the block holds and meets nothing until there is; did you mean `ledger`?"],
            "took_us": 2140,
        });
        insta::assert_snapshot!(receipt(&acknowledged), @r"
        revoked upstream ledger: 41 passages ended, 3 grants discarded, in 2140 us
        issuers are asked to revoke 1 of them; `grant_revoked` in the audit tells how it went
        2 of them no issuer takes back: they are used no more, and end by themselves (the last: 2026-11-25T03:01:00Z)
        [-] NOT DURABLE: it holds until this exeat ends, and a restart would lift it: state /var/lib/exeat: cannot write the entry: No space left on device
        [!] there is no upstream ledgre now: the block holds and meets nothing until there is; did you mean `ledger`?
        ");
        insta::assert_snapshot!(
            list(&json!({ "revocations": [block] })),
            @"revoked    upstream ledger  since 2026-11-25T03:00:00Z by uid 0, 41 passages ended: INC-7"
        );
        insta::assert_snapshot!(list(&json!({ "revocations": [] })), @"nothing is revoked");
        let lifted = json!({ "target": "upstream ledger", "restored": true, "warnings": ["everything is still revoked; `exeat restore everything` lifts that"] });
        insta::assert_snapshot!(restored(&lifted), @r"
        restored upstream ledger
        [!] everything is still revoked; `exeat restore everything` lifts that
        ");
        insta::assert_snapshot!(restored(&json!({ "target": "rule a/b", "restored": false, "warnings": [] })), @"rule a/b was not revoked by an operator: nothing to restore");
    }
}
