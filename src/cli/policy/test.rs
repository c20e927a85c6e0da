//! `exeat policy test`: runs policy tests and says which rules none of them reaches. Exit code 1 when a test fails or none was found, 78 when a
//! file cannot be read.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::json;

use super::world::{World, refused};
use crate::cli::args::ConfigArg;
use crate::config;
use crate::policy::{Outcome, RuleRef, Suite, TestResult};
use crate::written::{Diagnostic, Severity};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct TestArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Test files, or directories with `*.test.yaml` files. Default: those in the policy directories.
    paths: Vec<PathBuf>,
    /// How the outcome is printed.
    #[arg(long, value_enum, default_value_t = TestFormat::Text)]
    format: TestFormat,
    /// List the rules that decide no row.
    #[arg(long)]
    coverage: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TestFormat {
    /// For people.
    Text,
    /// One JSON document.
    Json,
    /// `JUnit` XML, for build servers.
    Junit,
    /// GitHub annotations.
    Github,
}

pub(super) fn test(args: &TestArgs) -> ExitCode {
    let world = match World::load(&args.config.config) {
        Ok(world) => world,
        Err(code) => return code,
    };
    let run = match Run::of(&world, &args.paths) {
        Ok(run) => run,
        Err(mistakes) => return refused(&mistakes),
    };
    let uncovered = args.coverage.then(|| run.uncovered(&world));
    print!("{}", run.shown(args.format, uncovered.as_deref()));
    if run.count() == 0 {
        eprintln!("exeat: no policy test was found: they stand in `*.test.yaml` files beside the policies");
    }
    if run.count() > 0 && run.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What became of all files.
struct Run {
    outcomes: Vec<Outcome>,
}

impl Run {
    fn of(world: &World, paths: &[PathBuf]) -> Result<Self, Vec<Diagnostic>> {
        let files = if paths.is_empty() { world.loaded.policy_tests.clone() } else { config::tests_at(paths)? };
        let (mut outcomes, mut mistakes) = (Vec::new(), Vec::new());
        for file in &files {
            match Suite::read(&file.source, &world.ground()) {
                Ok(suite) => outcomes.push(suite.run(&world.ground(), &world.loaded.config.trust_domain)),
                Err(found) => mistakes.extend(found),
            }
        }
        if mistakes.is_empty() { Ok(Self { outcomes }) } else { Err(mistakes) }
    }

    fn count(&self) -> usize {
        self.outcomes.iter().map(|outcome| outcome.results.len()).sum()
    }

    fn failed(&self) -> usize {
        self.outcomes.iter().map(Outcome::failed).sum()
    }

    /// Rules that decided no row, neither in force nor as shadow rules.
    fn uncovered<'w>(&self, world: &'w World) -> Vec<&'w RuleRef> {
        let reached: BTreeSet<&Arc<str>> =
            self.outcomes.iter().flat_map(|outcome| &outcome.results).flat_map(|result| &result.reached).collect();
        world.set.names().filter(|rule| !reached.contains(&rule.id)).collect()
    }

    fn shown(&self, format: TestFormat, uncovered: Option<&[&RuleRef]>) -> String {
        match format {
            TestFormat::Text => self.text(uncovered),
            TestFormat::Json => self.json(uncovered),
            TestFormat::Junit => self.junit(),
            TestFormat::Github => self.github(uncovered),
        }
    }

    fn text(&self, uncovered: Option<&[&RuleRef]>) -> String {
        let mut text = String::new();
        for outcome in &self.outcomes {
            let _written = writeln!(text, "{}", outcome.file);
            for result in &outcome.results {
                let Some(failure) = &result.failure else {
                    let _written = writeln!(text, "  ok    {}", result.name);
                    continue;
                };
                let _written = writeln!(text, "  FAIL  {} (line {})", result.name, result.place.line);
                let _written = writeln!(text, "        expected {}\n        got      {}", failure.expected, failure.got);
                for line in &failure.why {
                    let _written = writeln!(text, "        {line}");
                }
            }
        }
        if let Some(uncovered) = uncovered {
            let _written = writeln!(text, "{} rules decide no row", uncovered.len());
            for rule in uncovered {
                let _written = writeln!(text, "  {} at {}", rule.id, rule.place);
            }
        }
        let _written = writeln!(text, "{} tests, {} failed", self.count(), self.failed());
        text
    }

    fn json(&self, uncovered: Option<&[&RuleRef]>) -> String {
        let one = |outcome: &Outcome, result: &TestResult| {
            let failure = result.failure.as_ref();
            json!({
                "file": &*outcome.file,
                "line": result.place.line,
                "name": result.name,
                "ok": failure.is_none(),
                "expected": failure.map(|failure| &failure.expected),
                "got": failure.map(|failure| &failure.got),
                "why": failure.map(|failure| &failure.why),
            })
        };
        let results: Vec<_> = self.outcomes.iter().flat_map(|outcome| outcome.results.iter().map(|result| one(outcome, result))).collect();
        let uncovered =
            uncovered.map(|rules| rules.iter().map(|rule| json!({ "rule": &*rule.id, "at": &*rule.place })).collect::<Vec<_>>());
        format!("{:#}\n", json!({ "tests": self.count(), "failed": self.failed(), "results": results, "uncovered": uncovered }))
    }

    /// The form that build servers read: `testsuites`, `testsuite`, `testcase`, `failure`.
    fn junit(&self) -> String {
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _written = writeln!(text, "<testsuites name=\"exeat policy test\" tests=\"{}\" failures=\"{}\">", self.count(), self.failed());
        for outcome in &self.outcomes {
            let (name, tests, failures) = (xml(&outcome.file), outcome.results.len(), outcome.failed());
            let _written = writeln!(text, "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\">");
            for result in &outcome.results {
                let case = format!("    <testcase classname=\"{name}\" name=\"{}\" line=\"{}\"", xml(&result.name), result.place.line);
                let _written = match &result.failure {
                    None => writeln!(text, "{case}/>"),
                    Some(failure) => {
                        let message = xml(&format!("expected {}, got {}", failure.expected, failure.got));
                        let why = xml(&failure.why.join("\n"));
                        writeln!(text, "{case}>\n      <failure message=\"{message}\">{why}</failure>\n    </testcase>")
                    }
                };
            }
            text.push_str("  </testsuite>\n");
        }
        text.push_str("</testsuites>\n");
        text
    }

    fn github(&self, uncovered: Option<&[&RuleRef]>) -> String {
        let failed = self.outcomes.iter().flat_map(|outcome| outcome.diagnostics(Severity::Error));
        let mut text: String = failed.map(|failed| failed.to_github() + "\n").collect();
        for rule in uncovered.unwrap_or_default() {
            let _written = writeln!(text, "::notice title=exeat policy test::no test reaches {} at {}", rule.id, rule.place);
        }
        text
    }
}

/// XML 1.0 section 2.4, and no control characters, which no escape may name (section 2.2).
fn xml(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' => safe.push_str("&#10;"),
            c if c.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}
