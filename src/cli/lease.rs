//! `exeat lease`: opens, shows, renews and ends leases of a running exeat.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::args::{LeaseCommand, LeaseOpenArgs, USAGE};
use super::place;

pub(super) fn lease(command: &LeaseCommand) -> ExitCode {
    match command {
        LeaseCommand::Open(args) => match wish(args) {
            Ok(wish) => shown(place::ask(&args.ask, "POST", "/v1/leases", Some(&wish)), args.json, one),
            Err(why) => wrong(&why),
        },
        LeaseCommand::List(args) => shown(place::ask(&args.ask, "GET", "/v1/leases", None), args.json, list),
        LeaseCommand::Show(args) => {
            with_id(&args.id, |id| shown(place::ask(&args.ask, "GET", &format!("/v1/leases/{id}"), None), args.json, one))
        }
        LeaseCommand::Renew(args) => with_id(&args.id, |id| {
            let longer = json!({ "ttl": args.ttl });
            shown(place::ask(&args.ask, "POST", &format!("/v1/leases/{id}/renew"), Some(&longer)), args.json, one)
        }),
        LeaseCommand::End(args) => with_id(&args.id, |id| {
            shown(place::ask(&args.ask, "POST", &format!("/v1/leases/{id}/end"), Some(&json!({}))), args.json, ended)
        }),
    }
}

fn wrong(why: &str) -> ExitCode {
    eprintln!("exeat: {why}");
    ExitCode::from(USAGE)
}

/// An id goes into a path: nothing in it may have a meaning there.
fn with_id(id: &str, ask: impl FnOnce(&str) -> ExitCode) -> ExitCode {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if id.is_empty() || !id.bytes().all(plain) { wrong("that is no name of a lease; `exeat lease list` shows them") } else { ask(id) }
}

fn wish(args: &LeaseOpenArgs) -> Result<Value, String> {
    let mut attributes = Map::new();
    for attribute in &args.attributes {
        let (name, text) = attribute.split_once('=').ok_or_else(|| format!("`{attribute}` is no attribute: write NAME=TEXT"))?;
        attributes.insert(name.to_owned(), text.into());
    }
    let mut wish =
        json!({ "workload": args.workload, "kind": args.kind, "ttl": args.ttl, "attributes": attributes, "reason": args.reason });
    if let Some(fields) = wish.as_object_mut() {
        let counted = [("uses", args.uses), ("uid", args.uid)];
        fields.extend(counted.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
        fields.extend(args.pod_uid.iter().map(|uid| ("pod_uid".to_owned(), uid.as_str().into())));
    }
    Ok(wish)
}

fn shown(answer: Result<String, place::Unasked>, json: bool, page: fn(&Value) -> String) -> ExitCode {
    match answer {
        Ok(text) if json => print!("{text}"),
        Ok(text) => print!("{}", page(&serde_json::from_str(&text).unwrap_or_default())),
        Err(unasked) => return unasked.told(),
    }
    ExitCode::SUCCESS
}

fn word(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

fn line(lease: &Value) -> String {
    let standing = match lease.pointer("/ended/by") {
        Some(_) => format!("ended {} by {}", word(lease, "/ended/at"), word(lease, "/ended/by")),
        None => format!("until {}", word(lease, "/until")),
    };
    let left = match lease.get("uses") {
        Some(Value::Number(uses)) => format!(", {} of {uses} uses left", word(lease, "/uses_left")),
        Some(_) | None => String::new(),
    };
    format!("{}  {}  {standing}{left}\n", word(lease, "/id"), word(lease, "/workload"))
}

fn list(document: &Value) -> String {
    let all = document.get("leases").and_then(Value::as_array).cloned().unwrap_or_default();
    if all.is_empty() { "there are no leases\n".to_owned() } else { all.iter().map(line).collect() }
}

fn one(lease: &Value) -> String {
    let mut page = line(lease);
    let mut row = |name: &str, text: String| page.extend(["  ", &format!("{name:<11}"), &text, "\n"]);
    row("kind", word(lease, "/kind"));
    for (name, field) in [("uid", "/uid"), ("pod", "/pod_uid")] {
        if lease.pointer(field).is_some_and(|value| !value.is_null()) {
            row(name, word(lease, field));
        }
    }
    for (name, text) in lease.get("attributes").and_then(Value::as_object).into_iter().flatten() {
        row("attribute", format!("{name}={}", text.as_str().unwrap_or("-")));
    }
    row("opened", format!("{} by {}", word(lease, "/opened"), word(lease, "/by")));
    if !word(lease, "/reason").is_empty() {
        row("reason", word(lease, "/reason"));
    }
    page
}

fn ended(document: &Value) -> String {
    let mut page = line(document.get("lease").unwrap_or(&Value::Null));
    page.extend(["  ", &word(document, "/grants/discarded"), " grants discarded, in ", &word(document, "/took_us"), " us\n"]);
    let warnings = document.get("warnings").and_then(Value::as_array).cloned().unwrap_or_default();
    page.extend(warnings.iter().map(|warning| format!("[!] {}\n", warning.as_str().unwrap_or("-"))));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_reads() {
        let lease = json!({
            "id": "release-00ff", "kind": "release", "workload": "spiffe://prod.example/ns/ci/sa/job", "uid": null,
            "attributes": { "tag": "v1.4.0" }, "reason": "REL-77", "by": "uid 0", "opened": "2026-11-25T03:00:00Z",
            "until": "2026-11-25T03:20:00Z", "live": true, "ended": null, "uses": 5, "uses_left": 4,
        });
        insta::assert_snapshot!(one(&lease), @r#"
release-00ff  spiffe://prod.example/ns/ci/sa/job  until 2026-11-25T03:20:00Z, 4 of 5 uses left
  kind       release
  attribute  tag=v1.4.0
  opened     2026-11-25T03:00:00Z by uid 0
  reason     REL-77
"#);
        let mut over = lease.clone();
        over["ended"] = json!({ "at": "2026-11-25T03:05:00Z", "by": "uid 0" });
        over["uses"] = Value::Null;
        insta::assert_snapshot!(list(&json!({ "leases": [lease, over.clone()] })), @r#"
release-00ff  spiffe://prod.example/ns/ci/sa/job  until 2026-11-25T03:20:00Z, 4 of 5 uses left
release-00ff  spiffe://prod.example/ns/ci/sa/job  ended 2026-11-25T03:05:00Z by uid 0
"#);
        insta::assert_snapshot!(list(&json!({ "leases": [] })), @r#"
there are no leases
"#);
        let receipt = json!({ "lease": over, "grants": { "discarded": 2 }, "warnings": ["a worker is late"], "took_us": 1800 });
        insta::assert_snapshot!(ended(&receipt), @r#"
release-00ff  spiffe://prod.example/ns/ci/sa/job  ended 2026-11-25T03:05:00Z by uid 0
  2 grants discarded, in 1800 us
[!] a worker is late
"#);
    }
}
