//! Policy directories as written, and the files in them.

use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::load::Files;
use crate::policy::{Bounds, IdentityPattern, PolicyFile, TestFile};
use crate::written::{Diagnostic, Report, Source, Spanned};

/// One directory of policy files as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyDirectoryConfig {
    /// Its `*.yaml` files are read in the order of their names; no recursion, dotfiles are ignored. `*.test.yaml` files are policy tests.
    directory: Spanned<String>,
    /// What the rules in it may speak of: `all`, or identities and upstreams.
    bounds: BoundsConfig,
    /// What a failing policy test in it does. `require`: no rules are taken, at a reload the former ones stay. Default: `warn`.
    #[serde(default)]
    tests: TestsConfig,
}

/// What a failing policy test does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Tests")]
enum TestsConfig {
    /// It is told.
    #[default]
    Warn,
    /// No rules are taken.
    Require,
}

/// What a policy directory holds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) policies: Vec<PolicyFile>,
    pub(super) tests: Vec<TestFile>,
    /// What could not be read.
    pub(super) errors: Vec<Diagnostic>,
}

/// Ends the name of a test file.
const TEST: &str = ".test.yaml";

#[derive(Debug)]
enum BoundsConfig {
    All,
    Unknown(Spanned<String>),
    Within(WithinConfig),
}

/// What the rules of a directory may speak of.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WithinConfig {
    /// SPIFFE IDs; `*` is one path segment, `**` at the end is all beneath.
    identities: Spanned<Vec<Spanned<String>>>,
    /// Names of upstreams.
    upstreams: Spanned<Vec<Spanned<String>>>,
}

impl<'de> Deserialize<'de> for BoundsConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shell(BoundsConfig);
        impl<'de> Deserialize<'de> for Shell {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(BoundsVisitor).map(Self)
            }
        }
        struct BoundsVisitor;
        impl<'de> Visitor<'de> for BoundsVisitor {
            type Value = BoundsConfig;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`all` or a mapping of `identities` and `upstreams`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                if text == "all" {
                    Ok(BoundsConfig::All)
                } else {
                    Ok(BoundsConfig::Unknown(Spanned::new(text.to_owned(), crate::written::Place::START)))
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                WithinConfig::deserialize(MapAccessDeserializer::new(map)).map(BoundsConfig::Within)
            }
        }
        let spanned = Spanned::<Shell>::deserialize(deserializer)?;
        Ok(match spanned.value.0 {
            BoundsConfig::Unknown(text) => BoundsConfig::Unknown(Spanned::new(text.value, spanned.at)),
            known @ (BoundsConfig::All | BoundsConfig::Within(_)) => known,
        })
    }
}

impl JsonSchema for BoundsConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bounds".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let within = generator.subschema_for::<WithinConfig>();
        schemars::json_schema!({ "oneOf": [{ "const": "all" }, within] })
    }
}

/// A directory in meaning form.
pub(super) struct PolicyDirectory {
    pub(super) path: PathBuf,
    written: Spanned<String>,
    bounds: Bounds,
    tests: TestsConfig,
}

impl PolicyDirectoryConfig {
    pub(super) fn build(
        self,
        base: &Path,
        trust_domain: Option<&str>,
        upstreams: &[String],
        report: &mut Report,
    ) -> Option<PolicyDirectory> {
        let bounds = match self.bounds {
            BoundsConfig::All => Bounds::All,
            BoundsConfig::Unknown(text) => {
                let hint = "write `all`, or `{ identities: [..], upstreams: [..] }`";
                report.error_hint(text.at, format!("`{}` is no bound", text.value), hint);
                return None;
            }
            BoundsConfig::Within(within) => within.build(trust_domain, upstreams, report)?,
        };
        Some(PolicyDirectory { path: base.join(&self.directory.value), written: self.directory, bounds, tests: self.tests })
    }
}

impl WithinConfig {
    fn build(self, trust_domain: Option<&str>, upstreams: &[String], report: &mut Report) -> Option<Bounds> {
        let mut whole = true;
        for (list, what) in [(&self.identities, "identities"), (&self.upstreams, "upstreams")] {
            if list.is_empty() {
                report.error_hint(
                    list.at,
                    format!("no {what}: no rule of this directory could be loaded"),
                    "list at least one, or write `bounds: all`",
                );
                whole = false;
            }
        }
        let mut identities = Vec::new();
        for pattern in &self.identities.value {
            match identity_pattern(pattern, trust_domain) {
                Ok(pattern) => identities.push(pattern),
                Err((message, hint)) => {
                    report.error_hint(pattern.at, message, hint);
                    whole = false;
                }
            }
        }
        let known: Vec<&str> = upstreams.iter().map(String::as_str).collect();
        for name in &self.upstreams.value {
            if !known.contains(&name.value.as_str()) {
                report.unknown_name(name.at, "upstream", name, &known);
                whole = false;
            }
        }
        let upstreams = self.upstreams.value.into_iter().map(|name| name.value.into()).collect();
        whole.then_some(Bounds::Within { identities, upstreams })
    }
}

fn identity_pattern(text: &str, trust_domain: Option<&str>) -> Result<IdentityPattern, (String, &'static str)> {
    let example = "write spiffe://TRUST_DOMAIN/ns/billing/sa/app, /ns/*/sa/app or /ns/billing/**";
    let pattern = IdentityPattern::parse(text).map_err(|error| (format!("`{text}` is no pattern of SPIFFE IDs: {error}"), example))?;
    let domain = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).map_or("", |(domain, _)| domain);
    if trust_domain.is_some_and(|own| own != domain) {
        let hint = "exeat speaks for workloads of its own trust domain only";
        return Err((format!("`{text}` is not in the trust domain of this file"), hint));
    }
    Ok(pattern)
}

impl PolicyDirectory {
    /// Reads the files of the directory. What goes wrong here leaves the configuration usable: exeat listens and refuses `not_ready`.
    pub(super) fn read(&self, files: &mut Files, report: &mut Report, found: &mut Found, config: &Source) {
        let names = match files.list(&self.path) {
            Ok(names) => names,
            Err(error) => {
                let message = format!("the policy directory cannot be read: {error}");
                found.errors.push(Diagnostic::error(config, self.written.at, message).with_hint("paths are relative to this file"));
                return;
            }
        };
        for ignored in &names.ignored {
            let message = format!("`{ignored}` in `{}` is not read: policy files end in `.yaml`", self.written.value);
            report.warning("ignored-file", self.written.at, message, "rename it, or take it away");
        }
        let (tests, policies): (Vec<PathBuf>, Vec<PathBuf>) = names.yaml.into_iter().partition(|path| is_test(path));
        if policies.is_empty() {
            let message = format!("the policy directory `{}` holds no policy file", self.written.value);
            report.warning("no-policy", self.written.at, message, "without a rule every request is refused: add a *.yaml file");
        }
        for path in policies {
            if let Some(source) = source(files, &path, "policy file", found) {
                found.policies.push(PolicyFile { source, bounds: self.bounds.clone() });
            }
        }
        for path in tests {
            if let Some(source) = source(files, &path, "policy test", found) {
                found.tests.push(TestFile { source, required: self.tests == TestsConfig::Require });
            }
        }
    }
}

/// Whether a file is a policy test, by its name.
fn is_test(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(TEST))
}

fn source(files: &mut Files, path: &Path, what: &str, found: &mut Found) -> Option<Source> {
    let shown = super::load::shown(path);
    match files.text(path) {
        Ok(text) => Some(Source::new(shown, text)),
        Err(error) => {
            found.errors.push(Diagnostic::file_error(shown, format!("the {what} cannot be read: {error}")));
            None
        }
    }
}

/// The policy files of a directory that no configuration names, for commands that compare: without bounds.
///
/// # Errors
/// The directory or a file in it that cannot be read.
pub fn policies_in(directory: &Path) -> Result<Vec<PolicyFile>, Vec<Diagnostic>> {
    let shown = super::load::shown(directory);
    let (mut files, mut found) = (Files::default(), Found::default());
    let whole = |error: String| vec![Diagnostic::file_error(shown.clone(), format!("the policy directory cannot be read: {error}"))];
    for path in files.list(directory).map_err(whole)?.yaml.into_iter().filter(|path| !is_test(path)) {
        if let Some(source) = source(&mut files, &path, "policy file", &mut found) {
            found.policies.push(PolicyFile { source, bounds: Bounds::All });
        }
    }
    if found.errors.is_empty() { Ok(found.policies) } else { Err(found.errors) }
}

/// Policy tests by file or directory: a directory's are those that end in `.test.yaml`.
///
/// # Errors
/// What cannot be read.
pub fn tests_at(paths: &[PathBuf]) -> Result<Vec<TestFile>, Vec<Diagnostic>> {
    let (mut files, mut found) = (Files::default(), Found::default());
    for path in paths {
        let all = if path.is_dir() {
            let whole = |error: String| vec![Diagnostic::file_error(super::load::shown(path), error)];
            files.list(path).map_err(whole)?.yaml.into_iter().filter(|path| is_test(path)).collect()
        } else {
            vec![path.clone()]
        };
        for path in all {
            if let Some(source) = source(&mut files, &path, "policy test", &mut found) {
                found.tests.push(TestFile { source, required: true });
            }
        }
    }
    if found.errors.is_empty() { Ok(found.tests) } else { Err(found.errors) }
}
