//! `exeat check`: everything that is wrong with a configuration and its policies, and what somebody should look at. Opens no socket and
//! needs no secret. Exit code 1 when there is an error, with `--strict` also when there is a warning.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::args::{CheckArgs, CheckFormat};
use crate::capture::Mode;
use crate::catalogue::{HostPattern, Origin, Stage, Upstream};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, ListenerSpec, Loaded};
use crate::policy::{self, Ground, PolicySet};
use crate::written::{Diagnostic, Severity};

pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let finding = look(&args.config.config, &SystemClock);
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = match args.format {
        CheckFormat::Text => finding.text(coloured),
        CheckFormat::Json => finding.json(),
        CheckFormat::Github => finding.github(),
        CheckFormat::Sarif => super::sarif::log(&finding.diagnostics),
    };
    let mut out = std::io::stdout().lock();
    // a closed pipe on the way out changes nothing about the configuration
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    if finding.good(args.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a look at a configuration finds.
struct Finding {
    diagnostics: Vec<Diagnostic>,
    /// What it all means, where it means something.
    whole: Option<(Loaded, PolicySet)>,
}

fn look(path: &Path, clock: &dyn Clock) -> Finding {
    let mut loaded = match config::load(path, clock) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return Finding { diagnostics, whole: None },
    };
    let mut diagnostics = std::mem::take(&mut loaded.policy_errors);
    let readable = diagnostics.is_empty();
    diagnostics.append(&mut loaded.warnings);
    let profiles = loaded.profiles.iter().map(|profile| (Arc::clone(&profile.name), Arc::clone(profile))).collect();
    match policy::compile(&loaded.policies, &loaded.catalogue, &profiles, &loaded.config.trust_domain, clock.now()) {
        Ok((set, warnings)) => {
            diagnostics.extend(warnings);
            let ground = Ground { set: &set, catalogue: &loaded.catalogue, profiles: &loaded.profiles };
            diagnostics.extend(policy::run_beside(&loaded.policy_tests, &ground, &loaded.config.trust_domain));
            Finding { diagnostics, whole: readable.then_some((loaded, set)) }
        }
        Err(errors) => {
            diagnostics.extend(errors);
            Finding { diagnostics, whole: None }
        }
    }
}

impl Finding {
    fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    fn good(&self, strict: bool) -> bool {
        self.count(Severity::Error) == 0 && (!strict || self.count(Severity::Warning) == 0)
    }

    fn verdict(&self) -> String {
        let counted = |count: usize, what: &str| match count {
            0 => format!("no {what}"),
            1 => format!("1 {what}"),
            more => format!("{more} {what}s"),
        };
        format!("{}, {}", counted(self.count(Severity::Error), "error"), counted(self.count(Severity::Warning), "warning"))
    }

    fn text(&self, coloured: bool) -> String {
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            let shown = if coloured { diagnostic.render_coloured() } else { diagnostic.render() };
            let _written = writeln!(text, "{shown}\n");
        }
        if let Some((loaded, set)) = &self.whole {
            text.push_str(&summary(loaded, set));
        }
        let _written = writeln!(text, "{}", self.verdict());
        text
    }

    fn json(&self) -> String {
        let whole = self.whole.as_ref().map(|(loaded, set)| {
            let cost = set.certificate().cost;
            serde_json::json!({
                "listeners": loaded.config.listeners.iter().map(|listener| &*listener.name).collect::<Vec<_>>(),
                "upstreams": loaded.catalogue.all().iter().map(|upstream| &*upstream.name).collect::<Vec<_>>(),
                "credentials": loaded.profiles.iter().map(|profile| &*profile.name).collect::<Vec<_>>(),
                "policy_files": loaded.policies.iter().map(|file| &*file.source.name).collect::<Vec<_>>(),
                "rules": set.len(),
                "revision": set.revision(),
                "digest": loaded.digest.to_string(),
                "worst_case": { "nodes": cost.nodes, "postings": cost.postings, "conditions": cost.conditions },
            })
        });
        let found = self.diagnostics.iter().map(Diagnostic::to_json).collect::<Vec<_>>();
        format!("{:#}\n", serde_json::json!({ "ok": self.good(false), "diagnostics": found, "summary": whole }))
    }

    fn github(&self) -> String {
        self.diagnostics.iter().map(|diagnostic| diagnostic.to_github() + "\n").collect()
    }
}

/// What the files mean, in a table for people.
fn summary(loaded: &Loaded, set: &PolicySet) -> String {
    let mut text = String::new();
    let _written = writeln!(text, "listeners");
    table(&mut text, loaded.config.listeners.iter().map(listener_row));
    let _written = writeln!(text, "upstreams");
    table(&mut text, loaded.catalogue.all().iter().map(|upstream| upstream_row(upstream)));
    let (rules, files) = (set.len(), loaded.policies.len());
    let _written = writeln!(text, "policy\n  {rules} rules in {files} files, {}\n  {}\n", set.revision(), set.certificate());
    text
}

fn listener_row(listener: &ListenerSpec) -> Vec<String> {
    let capture = match (listener.mode, &listener.route) {
        (Mode::Route, Some(upstream)) => format!("route {upstream}"),
        (Mode::Route, None) => "route".to_owned(),
        (Mode::Host, _) => "host".to_owned(),
        (Mode::Forward, _) => "forward".to_owned(),
    };
    let identities = listener.identities.iter().map(|identity| &*identity.name).collect::<Vec<_>>().join(", ");
    vec![listener.name.to_string(), capture, listener.address.to_string(), format!("identity {identities}")]
}

fn upstream_row(upstream: &Upstream) -> Vec<String> {
    let stage = match upstream.stage {
        _ if !upstream.intercept => "tunnel".to_owned(),
        Stage::Enforce => "enforce".to_owned(),
        Stage::Observe { until, rehearse, enforce_percent } => {
            let rehearse = if rehearse { ", rehearse" } else { "" };
            let part = if enforce_percent > 0 { format!(", {enforce_percent} % enforced") } else { String::new() };
            format!("observe until {}{rehearse}{part}", until.strftime("%Y-%m-%d %H:%MZ"))
        }
    };
    let origins = upstream.origins.iter().map(origin).collect::<Vec<_>>().join(", ");
    let credentials = if upstream.credentials.is_empty() { "no credential".to_owned() } else { upstream.credentials.join(", ") };
    vec![upstream.name.to_string(), stage, origins, credentials, upstream.owner.to_string()]
}

fn origin(origin: &Origin) -> String {
    let (star, host) = match &origin.host {
        HostPattern::Exact(host) => ("", host),
        HostPattern::OneLabelUnder(suffix) => ("*.", suffix),
    };
    let (open, close) = if host.as_str().contains(':') { ("[", "]") } else { ("", "") };
    let port = if origin.port == origin.scheme.default_port() { String::new() } else { format!(":{}", origin.port) };
    format!("{}://{star}{open}{host}{close}{port}", origin.scheme.as_str())
}

/// Columns as wide as their widest cell.
fn table(text: &mut String, rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.collect();
    let wide = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default();
    for row in &rows {
        let line =
            row.iter().enumerate().fold(String::from(" "), |line, (column, cell)| format!("{line} {cell:<width$} ", width = wide(column)));
        let _written = writeln!(text, "{}", line.trim_end());
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn example(name: &str) -> Finding {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
        look(&path, &ManualClock::new("2026-11-21T12:00:00Z".parse().unwrap()))
    }

    #[test]
    fn the_examples_are_right_policies_included() {
        for name in ["local.yaml", "sidecar.yaml", "host.yaml", "mesh.yaml"] {
            let finding = example(name);
            assert!(finding.good(false) && finding.whole.is_some(), "{}", finding.text(false));
        }
    }

    #[test]
    fn a_right_configuration_is_summed_up() {
        let finding = example("sidecar.yaml");
        let (loaded, set) = finding.whole.as_ref().unwrap();
        let text = summary(loaded, set).replace(set.revision(), "REVISION");
        insta::assert_snapshot!(text, @r#"
    listeners
      egress  forward       127.0.0.1:15001                identity pod
      mesh    host          127.0.0.1:15002                identity pod
      ledger  route ledger  unix:///run/exeat/ledger.sock  identity pod

    upstreams
      ledger   enforce  https://ledger.internal.example:8443  ledger-jwt         team-ledger@example.com
      stripe   enforce  https://api.payments.example          stripe-restricted  team-billing@example.com
      objects  enforce  https://*.s3.example                  objects-jwt        team-storage@example.com

    policy
      7 rules in 2 files, REVISION
      worst case of any request: 11 nodes, 3 postings, 1 conditions (about 1 us), at upstream `stripe`
    "#);
        assert!(!finding.good(true), "a long-lived secret is a warning, and `--strict` counts it");
        let json: serde_json::Value = serde_json::from_str(&finding.json()).unwrap();
        assert_eq!((json["ok"].as_bool(), json["summary"]["rules"].as_u64()), (Some(true), Some(set.len() as u64)));
        assert!(finding.github().lines().all(|line| line.starts_with("::warning file=")));
    }

    #[test]
    fn mistakes_of_all_files_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exeat.yaml");
        std::fs::write(&path, "exeat: config/v1\nstate: ephemeral\ncolour: blue\n").unwrap();
        let finding = look(&path, &SystemClock);
        assert!(!finding.good(false) && finding.whole.is_none());
        assert!(finding.text(false).ends_with("2 errors, no warning\n"), "{}", finding.text(false));
        assert_eq!(finding.github().lines().count(), 2);
    }
}
