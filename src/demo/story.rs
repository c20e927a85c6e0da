//! The story, step by step. Each step observes what it prints, and says so when it does not hold.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{self, Answer};
use super::folder::Folder;
use super::page::{Page, cut};
use super::sink::Sink;
use super::upstream::{Received, Upstream, Verify};
use crate::app::{self, Running, Signals};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::jose::{self, Expected};

/// The key that the legacy program was given years ago. It opens nothing.
const STATIC_KEY: &str = "sk-live-4f9a1c7e2b8d6053";
const ISSUER: &str = "https://exeat.demo.local";
/// Waiting for a file to be noticed, a span to be exported, a line to be written: over long before this.
const PATIENCE: Duration = Duration::from_secs(15);

/// Plays the story, with its files below `folder`. With `yes` it waits for nobody.
#[must_use]
pub fn play(yes: bool, folder: &Path) -> ExitCode {
    match Stage::set(folder).and_then(|stage| stage.play(&mut Page::new(!yes))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("exeat demo: this step does not hold: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that stands on the stage.
struct Stage {
    orders: Upstream,
    ledger: Upstream,
    spans: Sink,
    exeat: Running,
    // Last: the folder goes when everything that writes to it has stopped.
    folder: Folder,
}

type Step = Result<(), String>;

impl Stage {
    fn set(below: &Path) -> Result<Self, String> {
        let said = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| format!("{what}: {error}")
        };
        let folder = Folder::create(below).map_err(said("the demo's folder"))?;
        // The upstreams verify with the keys that exeat serves; they learn where once exeat listens.
        let served: Arc<std::sync::OnceLock<std::net::SocketAddr>> = Arc::default();
        let verify = verifier(Arc::clone(&served));
        let orders = Upstream::start(Arc::clone(&verify)).map_err(said("the orders service"))?;
        let ledger = Upstream::start(verify).map_err(said("the ledger service"))?;
        let spans = Sink::start().map_err(said("the collector"))?;
        folder.write(orders.address, ledger.address, spans.address).map_err(said("the demo's files"))?;
        let exeat = app::start(&folder.config(), Signals::Ignored).map_err(|failed| failed.to_string())?;
        let status = exeat.status().ok_or("exeat serves no status")?;
        served.set(status).map_err(|_| "set twice")?;
        until("exeat is ready", || {
            client::call(status, "GET", "/readyz", &[("host", "status")]).ok().filter(|answer| answer.status == 200)
        })?;
        Ok(Self { orders, ledger, spans, exeat, folder })
    }

    fn play(self, page: &mut Page) -> Step {
        println!(
            "exeat demo: an issuer, two upstreams, exeat and a legacy program, all on loopback; files in {}",
            self.folder.path().display()
        );
        let received = self.swap(page)?;
        self.delete(page)?;
        self.replay(page, &received)?;
        self.records(page)?;
        Self::next(page);
        self.exeat.stop();
        Ok(())
    }

    fn call(&self, method: &str) -> Result<Answer, String> {
        let to = self.exeat.listener("orders").ok_or("exeat does not listen")?;
        let bearer = format!("Bearer {STATIC_KEY}");
        let headers =
            [("host", "orders.internal"), ("authorization", bearer.as_str()), ("x-api-key", STATIC_KEY), ("accept", "application/json")];
        client::call(to, method, &format!("/orders/42?api_key={STATIC_KEY}"), &headers).map_err(|error| format!("calling exeat: {error}"))
    }

    fn swap(&self, page: &mut Page) -> Result<Received, String> {
        page.step("A legacy program calls its orders service with the key that it always used");
        let answer = self.call("GET")?;
        let received = self.orders.take_last().ok_or("the request did not reach the upstream")?;
        let before = [
            "GET /orders/42?api_key=sk-live-…",
            "host: orders.internal",
            "authorization: Bearer sk-live-…",
            "x-api-key: sk-live-…",
            "accept: application/json",
        ]
        .map(str::to_owned);
        let mut after = vec![format!("{} {}", received.method, received.target)];
        after.extend(received.headers.iter().map(|(name, value)| cut(&format!("{name}: {value}"), 60)));
        page.columns(("what the program sent", "what the upstream received"), &before, &after);
        if std::iter::once(&received.target).chain(received.headers.iter().map(|(_, value)| value)).any(|text| text.contains(STATIC_KEY)) {
            return Err("the static key reached the upstream".into());
        }
        let claims = received.verdict.as_ref().map_err(|why| format!("the upstream refused the token: {why}"))?;
        let number = |name: &str| claims.get(name).and_then(serde_json::Value::as_i64).unwrap_or_default();
        page.fact("the static key left in no header and no query: it never left this machine");
        page.fact(&format!("a token came instead: sub {}, aud {}", claims["sub"], claims["aud"]));
        page.fact(&format!(
            "scope {}, {} s to live, verified by the served JWKS; the answer is {}",
            claims["scope"],
            number("exp") - number("iat"),
            answer.status
        ));
        expect(answer.status == 200, "the legacy call is answered with 200")?;
        Ok(received)
    }

    fn delete(&self, page: &mut Page) -> Step {
        page.step("DELETE is allowed by policy; somebody edits the file; DELETE is refused");
        let allowed = self.call("DELETE")?;
        Page::say(&format!("DELETE /orders/42 -> {}", allowed.status));
        expect(allowed.status == 200, "DELETE is allowed before the edit")?;
        drop(self.orders.take_last());
        let edited = clock();
        self.folder.forbid_delete().map_err(|error| format!("editing the policy: {error}"))?;
        Page::say("policies/orders.yaml: the rule `cancel` is taken out");
        let refused = until("DELETE is refused", || self.call("DELETE").ok().filter(|answer| answer.status == 403))?;
        let took = clock().saturating_duration_since(edited);
        Page::say(&format!("DELETE /orders/42 -> {} exeat-refusal: {}", refused.status, refused.header("exeat-refusal").unwrap_or("?")));
        Page::block(&refused.body);
        page.fact(&format!("{} ms from the edit to the refusal", took.as_millis()));
        // Requests between edit and reload were judged by the old rules; after the refusal nothing may arrive.
        drop(self.orders.take_last());
        expect(self.call("DELETE")?.status == 403 && self.orders.take_last().is_none(), "no byte of a refused request reaches the upstream")
    }

    fn replay(&self, page: &mut Page, received: &Received) -> Step {
        page.step("A thief takes the minted token to another upstream");
        let token = received
            .headers
            .iter()
            .find(|(name, _)| name == "authorization")
            .map(|(_, value)| value.as_str())
            .ok_or("no token was seen")?;
        let answer = client::call(self.ledger.address, "GET", "/entries", &[("host", "ledger.internal"), ("authorization", token)])
            .map_err(|error| format!("calling the ledger: {error}"))?;
        Page::say(&format!("GET /entries at the ledger service, past exeat, with the token of step 1 -> {}", answer.status));
        Page::block(&answer.body);
        expect(answer.status == 401, "the ledger refuses the token of another audience")?;
        page.fact("the token is good for one upstream, one scope and one minute");
        Ok(())
    }

    fn records(&self, page: &mut Page) -> Step {
        page.step("What operations see: the trace and the audit line of step 1");
        let line = until("the audit line is written", || self.audit_line())?;
        let record: serde_json::Value = serde_json::from_str(&line).map_err(|error| format!("the audit line is no JSON: {error}"))?;
        let trace_id = record.get("trace_id").and_then(serde_json::Value::as_str).ok_or("the audit line names no trace")?.to_owned();
        let spans = until("the spans are exported", || self.spans.trace(&trace_id))?;
        let all = spans.iter().map(|span| span.attributes.len()).sum::<usize>();
        let mut shown = spans.clone();
        for span in &mut shown {
            span.attributes.retain(|(name, _)| told(name));
        }
        Page::block(&crate::telemetry::tree(&shown));
        Page::say(&format!("({all} attributes in all; the audit line:)"));
        Page::block(&wrapped(&line));
        expect(!line.contains(STATIC_KEY) && !format!("{spans:?}").contains(STATIC_KEY), "no record holds the key")?;
        page.fact("one trace, one line, no secret in either; each line holds the hash of the former");
        Ok(())
    }

    /// The first access to `/orders/42` that was answered: step 1.
    fn audit_line(&self) -> Option<String> {
        let text = read_all(&self.folder.audit());
        text.lines().find(|line| line.contains("\"/orders/42\"") && line.contains("\"GET\"")).map(str::to_owned)
    }

    fn next(page: &mut Page) {
        page.step("next: your own program");
        Page::say("exeat.yaml");
        Page::block(NEXT);
        Page::say("policies/app.yaml");
        Page::block(&next_policy(SystemClock.now()));
        Page::say("exeat check -c exeat.yaml");
        Page::say("exeat run -c exeat.yaml       # then point the program at http://127.0.0.1:15001");
    }
}

/// Twenty lines that stand on their own with [`NEXT_POLICY`].
const NEXT: &str = r#"exeat: config/v1
state: ./exeat-state
trust_domain: my.example
listeners:
  api: { address: 127.0.0.1:15001, capture: route, upstream: api, identity: [app] }
identities:
  app: { fixed: { id: "spiffe://my.example/ns/default/sa/app" } }
upstreams:
  api:
    owner: me@example.com
    origins: ["https://api.internal.example"]
    credentials: [api-token]
    stage: enforce
credentials:
  api-token:
    local_jwt: { issuer: "https://exeat.my.example", audience: "https://api.internal.example", scopes: [read], ttl: 60s }
    inject: bearer
policies: [{ directory: ./policies, bounds: all }]
audit: { file: ./exeat-audit }
status: { address: 127.0.0.1:15090 }
"#;

const NEXT_POLICY: &str = r#"exeat: policy/v1
name: app
defaults: { owner: me@example.com, reason: first steps, expires: DATE, from: [app] }
identities: { app: { spiffe: "spiffe://my.example/ns/default/sa/app" } }
rules:
  - { id: read, effect: allow, to: [api], methods: [GET], paths: ["/**"], grant: api-token }
"#;

/// The policy, good for 90 days from now.
fn next_policy(now: Timestamp) -> String {
    let expires = now + Duration::from_hours(90 * 24);
    NEXT_POLICY.replace("DATE", &expires.strftime("%Y-%m-%dT00:00:00Z").to_string())
}

/// What a reader looks for in a span; the rest is in the collector.
fn told(name: &str) -> bool {
    const TOLD: &[&str] = &[
        "url.path",
        "url.full",
        "http.response.status_code",
        "exeat.identity.id",
        "exeat.decision",
        "exeat.policy.rule",
        "exeat.policy.revision",
        "exeat.credential.stripped",
        "exeat.credential.stripped.places",
        "exeat.credential.issued.name",
        "exeat.credential.issued.scope",
        "exeat.credential.issued.ttl_s",
        "exeat.credential.issued.cache",
    ];
    TOLD.contains(&name)
}

/// Long lines in rows of 110 characters.
fn wrapped(line: &str) -> String {
    let characters: Vec<char> = line.chars().collect();
    characters.chunks(110).map(|row| row.iter().collect::<String>()).collect::<Vec<_>>().join("\n")
}

fn read_all(path: &Path) -> String {
    if path.is_dir() {
        let mut files: Vec<_> = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        return files.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect();
    }
    std::fs::read_to_string(path).unwrap_or_default()
}

fn verifier(served: Arc<std::sync::OnceLock<std::net::SocketAddr>>) -> Verify {
    Arc::new(move |token, audience| {
        let status = *served.get().ok_or("the keys are not served yet")?;
        let keys = client::call(status, "GET", "/jwks", &[("host", "status")]).map_err(|error| format!("fetching the keys: {error}"))?;
        let keys = jose::parse_jwks(keys.body.as_bytes()).map_err(|error| error.to_string())?;
        let expected = Expected { typ: "at+jwt", issuer: ISSUER, audience, leeway: Duration::ZERO };
        jose::verify(token.as_bytes(), &keys, &expected, SystemClock.now())
            .map(serde_json::Value::Object)
            .map_err(|error| error.to_string())
    })
}

fn expect(holds: bool, what: &str) -> Step {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn clock() -> Instant {
    SystemClock.instant()
}

/// Asks again and again until there is an answer, for a bounded time.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    let begun = clock();
    while clock().saturating_duration_since(begun) < PATIENCE {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("{what}: not within {} s", PATIENCE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_it_ends_with_are_good() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        std::fs::write(folder.path().join("exeat.yaml"), NEXT).unwrap();
        std::fs::write(folder.path().join("policies/app.yaml"), next_policy(SystemClock.now())).unwrap();
        let loaded = crate::config::load(&folder.path().join("exeat.yaml"), &SystemClock).unwrap();
        assert!(loaded.warnings.is_empty() && loaded.policy_errors.is_empty(), "{:?}", loaded.warnings);
        let profiles = loaded.profiles.iter().map(|profile| (Arc::clone(&profile.name), Arc::clone(profile))).collect();
        let (set, warnings) =
            crate::policy::compile(&loaded.policies, &loaded.catalogue, &profiles, &loaded.config.trust_domain, SystemClock.now()).unwrap();
        assert_eq!(set.len(), 1);
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(NEXT.lines().count(), 20);
    }
}
