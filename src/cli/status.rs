//! `exeat status`: asks the running exeat through its admin server.

use std::process::ExitCode;

use serde_json::Value;

use super::args::StatusArgs;
use super::place;

pub(super) fn status(args: &StatusArgs) -> ExitCode {
    match place::ask(&args.ask, "GET", "/v1/status", None) {
        Ok(text) if args.json => print!("{text}"),
        Ok(text) => print!("{}", page(&serde_json::from_str(&text).unwrap_or_default())),
        Err(unasked) => return unasked.told(),
    }
    ExitCode::SUCCESS
}

/// The document as a page for people.
fn page(document: &Value) -> String {
    let text = |pointer: &str| match document.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let mut lines = vec![
        format!(
            "exeat {}  {}  up {} s",
            text("/version"),
            if document["ready"] == true { "ready" } else { "NOT READY" },
            text("/uptime_s")
        ),
        format!("policy     {} (revision {})", text("/policy"), text("/revision")),
        format!(
            "reload     {} ok, {} failed; serving since {}",
            text("/reload/succeeded"),
            text("/reload/failed"),
            text("/reload/serving_since")
        ),
        format!("audit      {} lines, {} of {} slots in use", text("/audit/written"), text("/audit/outstanding"), text("/audit/limit")),
    ];
    if document.pointer("/leases/live").and_then(Value::as_u64).unwrap_or(0) > 0 {
        lines.push(format!("leases     {} live", text("/leases/live")));
    }
    let list = |pointer: &str| document.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    lines.extend(
        list("/checks")
            .iter()
            .filter(|check| check["ok"] == false)
            .map(|check| format!("[-] {}: {}", word(&check["check"]), word(&check["why"]))),
    );
    lines.extend(list("/reload/needs_restart").iter().map(|name| format!("[!] a change of `{}` needs a restart", word(name))));
    if !list("/revocations").is_empty() {
        lines.extend(super::revoke::list(document).lines().map(str::to_owned));
    }
    lines.extend(list("/listeners").iter().map(|one| format!("listener   {:<20} {}", word(&one["name"]), word(&one["address"]))));
    lines.extend(
        list("/upstreams")
            .iter()
            .map(|one| format!("upstream   {:<20} {:<12} {}", word(&one["name"]), word(&one["stage"]), word(&one["owner"]))),
    );
    for one in list("/upstreams") {
        observed(&one, &mut lines);
    }
    lines.join("\n") + "\n"
}

/// What an observed upstream has to tell: what would be, and whether its credentials could be had.
fn observed(one: &Value, lines: &mut Vec<String>) {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let (name, would) = (word(&one["name"]), &one["would_be"]);
    if would.is_object() {
        lines.push(format!("would-be   {name:<20} {} allowed, {} denied", would["allowed"], would["denied"]));
    }
    for reason in would["reasons"].as_array().into_iter().flatten() {
        lines.push(format!(
            "             {} denied: {} by {}",
            reason["count"],
            word(&reason["code"]),
            reason["rule"].as_str().unwrap_or("no rule")
        ));
    }
    let Some(rehearsals) = one["rehearsals"].as_array() else { return };
    if rehearsals.is_empty() {
        lines.push(format!("rehearsal  {name:<20} none yet: no request came that a rule with a credential would allow"));
    }
    for rehearsal in rehearsals {
        let (credential, workload) = (word(&rehearsal["credential"]), word(&rehearsal["workload"]));
        let count = format!("{} obtained, {} failed", rehearsal["obtained"], rehearsal["failed"]);
        let ended = rehearsal["failure"].as_str().map_or_else(|| "the swap would work".to_owned(), |why| format!("FAILED at last: {why}"));
        lines.push(format!("rehearsal  {name:<20} {credential} for {workload}: {count}; {ended}"));
    }
}
