//! `exeat policy explain`: why one request is decided as it is: every candidate with the predicate that failed, the nearest rule where none
//! matches, what shadow rules would change, and what the decision cost. Exit code 0, whatever the decision.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::world::{World, complaints, from_flags, lines};
use crate::cli::args::{CONFIG, ConfigArg, USAGE};
use crate::clock::{Clock, SystemClock};
use crate::policy::{Answer, Candidate, Denied, PolicySet, Question, RequestWritten, RuleRef};
use crate::refusal::Refusal;
use crate::written::{self, Place, Report, Source};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    request: RequestFlags,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// A request as flags; they lie over what `--request` names.
#[derive(Debug, Default, clap::Args)]
pub(super) struct RequestFlags {
    /// A file with the request: `from`, `to`, `method`, `path`, `headers`, `query`, `body_size`, `at`.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// The workload, a SPIFFE ID.
    #[arg(long, value_name = "SPIFFE-ID")]
    from: Option<String>,
    /// The upstream, by its name in the catalogue.
    #[arg(long, value_name = "UPSTREAM")]
    to: Option<String>,
    /// Which of its origins, where it has several.
    #[arg(long, value_name = "HOST:PORT")]
    origin: Option<String>,
    /// The method.
    #[arg(long)]
    method: Option<String>,
    /// The path as it is sent; a query may follow.
    #[arg(long)]
    path: Option<String>,
    /// A header field, `name: value`; may be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The size of the body in bytes.
    #[arg(long, value_name = "BYTES")]
    body_size: Option<u64>,
    /// A CONNECT to an upstream that is not intercepted.
    #[arg(long)]
    tunnel: bool,
    /// When: a date or an RFC 3339 time. Default: now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

impl RequestFlags {
    /// The request, or what is wrong with it and the exit code.
    pub(super) fn question(&self, world: &World) -> Result<Question, (String, u8)> {
        let flags = from_flags(&self.as_value()?);
        let mut layers = vec![written::parse::<RequestWritten>(&flags).map_err(|mistakes| (lines(&mistakes), USAGE))?];
        let mut source = flags;
        if let Some(path) = &self.request {
            let text = std::fs::read_to_string(path).map_err(|error| (format!("`{}` cannot be read: {error}", path.display()), USAGE))?;
            source = Source::new(path.display().to_string(), text);
            layers.push(written::parse::<RequestWritten>(&source).map_err(|mistakes| (lines(&mistakes), CONFIG))?);
        }
        let mut report = Report::new(source);
        let layers: Vec<&RequestWritten> = layers.iter().collect();
        Question::read(&layers, &world.ground(), Some(SystemClock.now()), Place::START, &mut report)
            .ok_or_else(|| (complaints(report), if self.request.is_some() { CONFIG } else { USAGE }))
    }

    fn as_value(&self) -> Result<Value, (String, u8)> {
        let mut value = serde_json::Map::new();
        let texts = [("from", &self.from), ("to", &self.to), ("origin", &self.origin), ("method", &self.method), ("path", &self.path)];
        for (name, text) in texts.into_iter().chain([("at", &self.at)]) {
            if let Some(text) = text {
                value.insert(name.to_owned(), text.as_str().into());
            }
        }
        if let Some(size) = self.body_size {
            value.insert("body_size".to_owned(), size.into());
        }
        if self.tunnel {
            value.insert("tunnel".to_owned(), true.into());
        }
        let mut headers = serde_json::Map::new();
        for header in &self.headers {
            let (name, text) = header.split_once(':').ok_or_else(|| (format!("`{header}` is no header: write `name: value`"), USAGE))?;
            let values = headers.entry(name.trim().to_ascii_lowercase()).or_insert_with(|| Value::Array(Vec::new()));
            values.as_array_mut().into_iter().for_each(|values| values.push(text.trim().into()));
        }
        if !headers.is_empty() {
            value.insert("headers".to_owned(), headers.into());
        }
        Ok(value.into())
    }
}

pub(super) fn explain(args: &ExplainArgs) -> ExitCode {
    let world = match World::load(&args.config.config) {
        Ok(world) => world,
        Err(code) => return code,
    };
    let question = match args.request.question(&world) {
        Ok(question) => question,
        Err((why, code)) => {
            eprintln!("exeat: {why}");
            return ExitCode::from(code);
        }
    };
    if args.json {
        println!("{:#}", document(&question, &world.set));
    } else {
        print!("{}", page(&question, &world.set));
    }
    ExitCode::SUCCESS
}

/// For people.
fn page(question: &Question, set: &PolicySet) -> String {
    let mut text = String::new();
    let _written = writeln!(text, "request    {} at {} by {}", question.action(), question.upstream().name, question.workload());
    let _written = writeln!(text, "at         {}, {}", question.at, set.revision());
    match question.answer(set) {
        Err(refusal) => {
            let _written = writeln!(text, "decision   deny ({}), before policy is asked: {}", refusal.code.name(), refusal.detail);
        }
        Ok(answer) => {
            let cost = answer.cost;
            let _written = write!(text, "{}", answer.explanation);
            let (nodes, rules, conditions) = (cost.nodes, cost.postings, cost.conditions);
            let _written = writeln!(text, "cost       {nodes} nodes, {rules} rules, {conditions} conditions, {} ns", took(question, set));
        }
    }
    text
}

/// For programs.
fn document(question: &Question, set: &PolicySet) -> Value {
    let head = json!({
        "policy": set.revision(),
        "time": question.at.to_string(),
        "identity": question.workload().to_string(),
        "to": format!("{}:{}", question.upstream().name, question.destination().port),
        "action": question.action(),
    });
    let body = match question.answer(set) {
        Ok(answer) => judged(&answer, took(question, set)),
        Err(refusal) => unread(&refusal),
    };
    let mut whole = serde_json::Map::new();
    for part in [body, head] {
        whole.extend(part.as_object().cloned().into_iter().flatten());
    }
    whole.into()
}

fn unread(refusal: &Refusal) -> Value {
    json!({ "decision": "deny", "code": refusal.code.name(), "rule": null, "at": null, "owner": null, "failed": refusal.detail })
}

fn judged(answer: &Answer, ns: u128) -> Value {
    let explained = &answer.explanation;
    let (decision, code, rule) = parts(&explained.outcome);
    let (would, would_code, would_rule) = parts(&explained.would_be);
    let matching = |candidate: &&Candidate| candidate.misses.is_empty() && Some(&candidate.rule.id) != rule.map(|rule| &rule.id);
    let also = |candidate: &Candidate| {
        let shadow = if candidate.shadow { " (shadow)" } else { "" };
        format!("{} would {}{shadow}", candidate.rule.id, candidate.effect.name())
    };
    json!({
        "decision": decision,
        "code": code,
        "rule": rule.map(|rule| &*rule.id),
        "at": rule.map(|rule| &*rule.place),
        "owner": rule.map(|rule| &*rule.owner),
        "failed": failed(answer),
        "also": explained.candidates.iter().filter(matching).map(also).collect::<Vec<_>>(),
        "near_miss": explained.near_miss.as_ref().map(candidate),
        "shadow": {
            "decision": would,
            "code": would_code,
            "rule": would_rule.map(|rule| &*rule.id),
            "changed": (decision, code) != (would, would_code),
        },
        "stage": {
            "observe_until": explained.observed.map(|until| until.to_string()),
            "floor": explained.floor.as_ref().map(|rule| &*rule.id),
        },
        "candidates": explained.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "cost": { "nodes": answer.cost.nodes, "rules": answer.cost.postings, "conditions": answer.cost.conditions },
        "ns": u64::try_from(ns).unwrap_or(u64::MAX),
    })
}

fn parts(outcome: &Result<RuleRef, Denied>) -> (&'static str, Option<&'static str>, Option<&RuleRef>) {
    match outcome {
        Ok(rule) => ("allow", None, Some(rule)),
        Err(denied) => ("deny", Some(denied.code.name()), denied.rule.as_ref()),
    }
}

/// The predicate that decided: the condition of the rule that refused, or what keeps the nearest rule from allowing.
fn failed(answer: &Answer) -> Option<String> {
    let explained = &answer.explanation;
    let refused = explained.outcome.as_ref().err()?;
    match &refused.rule {
        Some(rule) => explained.candidates.iter().find(|candidate| candidate.rule.id == rule.id)?.condition.clone(),
        None => explained.near_miss.as_ref()?.misses.first().map(ToString::to_string),
    }
}

fn candidate(candidate: &Candidate) -> Value {
    let misses = candidate.misses.iter().map(|miss| json!({ "field": miss.field(), "why": miss.to_string() })).collect::<Vec<_>>();
    json!({
        "rule": &*candidate.rule.id,
        "at": &*candidate.rule.place,
        "owner": &*candidate.rule.owner,
        "effect": candidate.effect.name(),
        "shadow": candidate.shadow,
        "path": candidate.reading,
        "matches": candidate.misses.is_empty(),
        "misses": misses,
    })
}

/// Nanoseconds of one decision, made often enough that the first touch of memory does not count.
fn took(question: &Question, set: &PolicySet) -> u128 {
    const ROUNDS: u32 = 64;
    let clock = SystemClock;
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let Ok(took) = question.timed(set, &clock) else { return 0 };
        best = best.min(took);
    }
    best.as_nanos()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::clock::ManualClock;

    fn world() -> World {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sidecar.yaml");
        World::read(&path, &ManualClock::new("2026-11-21T12:00:00Z".parse().unwrap())).unwrap()
    }

    fn flags(method: &str, path: &str) -> RequestFlags {
        let text = |text: &str| Some(text.to_owned());
        RequestFlags {
            from: text("spiffe://prod.example/ns/billing/sa/billing-app"),
            to: text("stripe"),
            method: text(method),
            path: text(path),
            at: text("2026-11-23T12:00:00Z"),
            ..RequestFlags::default()
        }
    }

    fn shown(flags: &RequestFlags) -> String {
        let world = world();
        let text = page(&flags.question(&world).unwrap(), &world.set)
            .replace(world.set.revision(), "REVISION")
            .replace(concat!(env!("CARGO_MANIFEST_DIR"), "/"), "");
        let stable = |line: &str| if line.starts_with("cost") { line.rsplit_once(", ").unwrap().0.to_owned() } else { line.to_owned() };
        text.lines().map(stable).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_nearest_rule_says_what_is_missing() {
        insta::assert_snapshot!(shown(&RequestFlags { body_size: Some(900), ..flags("POST", "/v1/charges") }), @r#"
    request    POST /v1/charges at stripe by spiffe://prod.example/ns/billing/sa/billing-app
    at         2026-11-23T12:00:00Z, REVISION
    decision   deny (no_rule)
      allow billing/create-charge at policies/billing/billing.yaml:9:9 (PAY-812), path /v1/charges
          condition: `request.body_size < 65536 && 'idempotency-key' in request.headers` is false
      allow billing/read-charges at policies/billing/billing.yaml:16:9 (PAY-812), path /v1/charges
          method: it is for GET
      deny floor/no-key-management at policies/floor/floor.yaml:7:9 (SEC-1), path /v1/charges
          path: it is for /v1/api_keys/**, /v1/webhook_endpoints/**
      nearest: allow billing/create-charge at policies/billing/billing.yaml:9:9 (PAY-812), path /v1/charges
          condition: `request.body_size < 65536 && 'idempotency-key' in request.headers` is false
    cost       5 nodes, 2 rules, 1 conditions
"#);
    }

    #[test]
    fn a_deny_is_named_beside_what_would_have_allowed() {
        insta::assert_snapshot!(shown(&flags("GET", "/v1/charges/../api_keys")), @r#"
    request    GET /v1/charges/../api_keys at stripe by spiffe://prod.example/ns/billing/sa/billing-app
    at         2026-11-23T12:00:00Z, REVISION
    decision   deny (denied), by floor/no-key-management at policies/floor/floor.yaml:7:9 (owner team-security@example.com)
    * allow billing/read-charges at policies/billing/billing.yaml:16:9 (PAY-812), path /v1/charges/../api_keys
    * deny floor/no-key-management at policies/floor/floor.yaml:7:9 (SEC-1), path /v1/api_keys
      deny floor/no-key-management at policies/floor/floor.yaml:7:9 (SEC-1), path /v1/charges/../api_keys
          path: it is for /v1/api_keys/**, /v1/webhook_endpoints/**
      allow billing/read-charges at policies/billing/billing.yaml:16:9 (PAY-812), path /v1/api_keys
          path: it is for /v1/charges/**
      allow billing/create-charge at policies/billing/billing.yaml:9:9 (PAY-812), path /v1/charges/../api_keys
          method: it is for POST
          path: it is for /v1/charges, /v1/charges/*/refund
          condition: `request.body_size < 65536 && 'idempotency-key' in request.headers` is false
      allow billing/create-charge at policies/billing/billing.yaml:9:9 (PAY-812), path /v1/api_keys
          method: it is for POST
          path: it is for /v1/charges, /v1/charges/*/refund
          condition: `request.body_size < 65536 && 'idempotency-key' in request.headers` is false
    cost       11 nodes, 2 rules, 0 conditions
"#);
    }

    #[test]
    fn what_the_edge_refuses_is_not_asked() {
        insta::assert_snapshot!(shown(&flags("GET", "/v1/%00")), @r#"
    request    GET /v1/%00 at stripe by spiffe://prod.example/ns/billing/sa/billing-app
    at         2026-11-23T12:00:00Z, REVISION
    decision   deny (malformed), before policy is asked: the path holds an escaped control character
"#);
    }

    #[test]
    fn programs_get_the_same() {
        let world = world();
        let flags = RequestFlags { headers: vec!["idempotency-key: k1".into()], body_size: Some(900), ..flags("POST", "/v1/charges") };
        let allowed = document(&flags.question(&world).unwrap(), &world.set);
        assert_eq!((allowed["decision"].as_str(), allowed["rule"].as_str()), (Some("allow"), Some("billing/create-charge")));
        assert_eq!((allowed["action"].as_str(), allowed["to"].as_str()), (Some("POST /v1/charges"), Some("stripe:443")));
        assert!(allowed["cost"]["nodes"].as_u64() > Some(0) && allowed["ns"].as_u64() > Some(0), "{allowed:#}");
        let refused = document(&RequestFlags { headers: Vec::new(), ..flags }.question(&world).unwrap(), &world.set);
        assert_eq!(refused["near_miss"]["misses"][0]["field"], "when", "{refused:#}");
        assert!(refused["failed"].as_str().unwrap().contains("idempotency-key"));
    }

    #[test]
    fn a_request_that_says_too_little_is_told_what_is_missing() {
        let (why, code) = RequestFlags { to: Some("strip".into()), ..RequestFlags::default() }.question(&world()).unwrap_err();
        assert_eq!(code, USAGE);
        insta::assert_snapshot!(why, @r#"
    the request has no `from` (name one workload, as in `spiffe://prod.example/ns/billing/sa/app`)
    there is no upstream `strip` (did you mean `stripe`?)
"#);
    }
}
