//! `exeat edges`: who talked to whom since the start, asked of the running exeat's admin server.

use std::process::ExitCode;

use serde_json::Value;

use super::args::StatusArgs;
use super::place;

pub(super) fn edges(args: &StatusArgs) -> ExitCode {
    match place::ask(&args.ask, "GET", "/v1/edges", None) {
        Ok(text) if args.json => print!("{text}"),
        Ok(text) => print!("{}", page(&serde_json::from_str(&text).unwrap_or_default())),
        Err(unasked) => return unasked.told(),
    }
    ExitCode::SUCCESS
}

fn page(document: &Value) -> String {
    let edges = document["edges"].as_array().map(Vec::as_slice).unwrap_or_default();
    if edges.is_empty() {
        return "nobody has asked for anything yet\n".to_owned();
    }
    let text = |edge: &Value, field: &str| edge[field].as_str().unwrap_or("-").to_owned();
    let number = |edge: &Value, field: &str| edge[field].as_u64().unwrap_or_default();
    let wide = |field: &str| edges.iter().map(|edge| text(edge, field).len()).max().unwrap_or_default();
    let (workload, upstream) = (wide("workload"), wide("upstream"));
    let line = |edge: &Value| {
        let failed = match number(edge, "failed") {
            0 => String::new(),
            failed => format!(", {failed} refused or failed"),
        };
        let (from, to) = (text(edge, "workload"), text(edge, "upstream"));
        format!("{from:<workload$}  ->  {to:<upstream$}  {}{failed}\n", number(edge, "passages"))
    };
    edges.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_a_table() {
        let edge = |workload: &str, upstream: &str, passages: u64, failed: u64| serde_json::json!({ "workload": workload, "upstream": upstream, "passages": passages, "failed": failed });
        let document = serde_json::json!({ "edges": [
            edge("spiffe://prod.example/ns/billing/sa/app", "ledger", 1200, 0),
            edge("spiffe://prod.example/ns/ci/sa/job", "registry", 7, 3),
        ] });
        insta::assert_snapshot!(page(&document), @"
        spiffe://prod.example/ns/billing/sa/app  ->  ledger    1200
        spiffe://prod.example/ns/ci/sa/job       ->  registry  7, 3 refused or failed
        ");
        assert_eq!(page(&Value::Null), "nobody has asked for anything yet\n");
    }
}
