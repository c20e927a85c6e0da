//! The whole file as written, and the [`Config`] that it means.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::credential::{CredentialConfig, CredentialSpec};
use super::limits::{Drain, DrainConfig, Limits, LimitsConfig};
use super::load::{Files, Loaded};
use super::outputs::{Audit, AuditConfig, Telemetry, TelemetryConfig};
use super::policies::{Found, PolicyDirectoryConfig};
use super::schema::PROVIDES;
use super::servers::{Admin, AdminConfig, RevocationsConfig, Status, StatusConfig};
use super::{listeners, names};
use crate::capture::{ListenAddress, ListenerConfig, Mode};
use crate::catalogue::{Catalogue, ObserveConfig, Surroundings, Upstream, UpstreamConfig};
use crate::clock::Timestamp;
use crate::identity::{Around, Identity, IdentityConfig, PodSettings, SpiffeId, is_trust_domain};
use crate::written::{self, Diagnostic, Entries, Items, Lenient, Report, Source, Spanned};

/// The configuration of one exeat process. Relative paths are relative to this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// `config/v1`.
    exeat: Spanned<String>,
    /// Names that this binary must provide; `exeat version --json` lists them.
    #[serde(default)]
    requires: Items<Spanned<String>>,
    /// Directory of keys, CA, revocations and leases (0700), or `ephemeral`: in memory only.
    state: Spanned<String>,
    /// The SPIFFE trust domain whose workloads exeat speaks for.
    trust_domain: Spanned<String>,
    /// Worker threads. Default: one for each processor.
    #[serde(default)]
    threads: Lenient<Option<Spanned<usize>>>,
    /// Where traffic comes in.
    #[serde(default)]
    listeners: Entries<ListenerConfig>,
    /// Who may be asking.
    #[serde(default)]
    identities: Entries<IdentityConfig>,
    /// Where traffic goes: a host is written once, here.
    #[serde(default)]
    upstreams: Entries<UpstreamConfig>,
    /// What is put on requests.
    #[serde(default)]
    credentials: Entries<CredentialConfig>,
    /// What happens to destinations that no upstream lists. Default: refuse.
    #[serde(default)]
    unlisted: Lenient<Option<UnlistedConfig>>,
    /// Directories of policy files.
    #[serde(default)]
    policies: Items<PolicyDirectoryConfig>,
    /// Traces.
    #[serde(default)]
    telemetry: Lenient<TelemetryConfig>,
    /// Where audit records go. Default: `audit` in `state`, or standard output where state is ephemeral.
    #[serde(default)]
    audit: Lenient<Option<AuditConfig>>,
    /// The admin server. Default: none.
    #[serde(default)]
    admin: Lenient<Option<AdminConfig>>,
    /// The status server. Default: none.
    #[serde(default)]
    status: Lenient<Option<StatusConfig>>,
    /// What is revoked from a file.
    #[serde(default)]
    revocations: Lenient<RevocationsConfig>,
    /// Limits that differ from their defaults.
    #[serde(default)]
    limits: Lenient<LimitsConfig>,
    /// How exeat stops.
    #[serde(default)]
    drain: Lenient<DrainConfig>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum UnlistedConfig {
    /// Refused with `unlisted`.
    Refuse,
    /// Tunnelled and recorded until a date.
    Observe(ObserveConfig),
}

/// What happens to destinations that no upstream lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// Refused with `unlisted`.
    Refuse,
    /// Tunnelled and recorded; refused from then on.
    Observe {
        /// 30 days ahead at most.
        until: Timestamp,
    },
}

/// Where exeat keeps what outlives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatePlace {
    /// This directory.
    Directory(PathBuf),
    /// Nowhere: keys, CA and revocations are gone with the process.
    Ephemeral,
}

/// What a TLS listener shows.
#[derive(Debug, Clone)]
pub enum ListenerTls {
    /// The certificate as it was read, and where its key is.
    Files {
        /// The chain in PEM.
        certificate: Arc<[u8]>,
        /// The key's file; `exeat check` does not need it.
        key: PathBuf,
    },
    /// exeat's own SVID of a Workload API, as it is at each handshake.
    Svid {
        /// The identity's name in the configuration.
        identity: Arc<str>,
        /// Which Workload API.
        settings: PodSettings,
    },
}

/// One listener, with the identities that it accepts.
#[derive(Debug, Clone)]
pub struct ListenerSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: ListenAddress,
    /// Mode of a unix socket.
    pub permissions: u32,
    /// How it takes traffic in.
    pub mode: Mode,
    /// What it shows, where it speaks TLS.
    pub tls: Option<ListenerTls>,
    /// The upstream of a `route` listener; it has exactly one exact origin.
    pub route: Option<Arc<str>>,
    /// Asked in this order; at least one.
    pub identities: Vec<Identity>,
}

/// The file in meaning form; upstreams, profiles and policies stand beside it in [`Loaded`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Where exeat keeps what outlives it.
    pub state: StatePlace,
    /// The SPIFFE trust domain.
    pub trust_domain: Arc<str>,
    /// Worker threads; `None` is one for each processor.
    pub threads: Option<NonZeroUsize>,
    /// Where traffic comes in, in the order of the file.
    pub listeners: Vec<ListenerSpec>,
    /// What issues credentials, in the order of the file.
    pub credentials: Vec<CredentialSpec>,
    /// What happens to destinations that no upstream lists.
    pub unlisted: Unlisted,
    /// Traces.
    pub telemetry: Telemetry,
    /// Where audit records go.
    pub audit: Audit,
    /// The admin server.
    pub admin: Option<Admin>,
    /// The status server.
    pub status: Option<Status>,
    /// The file of revocations that is watched.
    pub revocations: Option<PathBuf>,
    /// Every limit.
    pub limits: Limits,
    /// How exeat stops.
    pub drain: Drain,
}

/// Judges a file: all mistakes at once.
pub(super) fn build(source: &Source, base: &Path, files: &mut Files, now: Timestamp) -> Result<Loaded, Vec<Diagnostic>> {
    let (file, found) = written::parse_all::<File>(source);
    let Some(file) = file else { return Err(found) };
    let mut report = Report::new(source.clone());
    for diagnostic in found {
        report.push(diagnostic);
    }
    let built = file.build(source, base, files, now, &mut report);
    let (errors, warnings) = report.finish();
    match built {
        Some(loaded) if errors.is_empty() => Ok(Loaded { warnings, ..loaded }),
        Some(_) | None => Err(errors),
    }
}

impl File {
    fn build(self, source: &Source, base: &Path, files: &mut Files, now: Timestamp, report: &mut Report) -> Option<Loaded> {
        self.check_version(report);
        self.check_names(report);
        self.check_peers(report);
        let trust_domain = self.trust_domain(report);
        let limits = self.limits.build(report);
        let drain = self.drain.build(report);
        let threads = self.threads(report);
        let state = self.state(base, report);
        let audit = self.audit(base, state.as_ref(), report);
        let unlisted = self.unlisted(now, report);
        let addresses = self.server_addresses();
        let admin = self.admin.as_ref().map(|admin| admin.build(base, report));
        let status = self.status.as_ref().map(|status| status.build(report));
        let revocations = self.revocations.0.build(base, report);
        let telemetry = self.telemetry.0.build(base, report);

        let used: Vec<String> = self.upstreams.iter().flat_map(|(_, upstream)| upstream.credential_names()).map(str::to_owned).collect();
        let credential_names: Vec<String> = self.credentials.names().map(str::to_owned).collect();
        let upstream_names: Vec<String> = self.upstreams.names().map(str::to_owned).collect();
        let whole = self.upstreams.is_whole();
        let upstreams = upstreams(self.upstreams, &credential_names, &limits, base, files, now, report);
        let credentials = credentials(self.credentials, upstreams.as_deref().filter(|_| whole), &used, base, report);
        let catalogue = match Catalogue::new(upstreams.unwrap_or_default()) {
            Ok(catalogue) => catalogue,
            Err(overlap) => {
                report.error(written::Place::START, overlap.to_string());
                return None;
            }
        };
        let targets = listeners::Targets { names: &upstream_names, catalogue: &catalogue };
        let (endpoint, broker) = (super::outputs::socket("SPIFFE_ENDPOINT_SOCKET"), super::outputs::socket("SPIFFE_BROKER_SOCKET"));
        let mut read = |path: &Path| files.bytes(&base.join(path));
        let mut around = Around {
            trust_domain: trust_domain.as_deref(),
            endpoint_socket: endpoint.as_deref(),
            broker_socket: broker.as_deref(),
            base,
            read: &mut read,
        };
        let listeners = listeners::build(self.listeners, self.identities, &mut around, &targets, &addresses, report);
        let directories: Vec<_> =
            self.policies.into_iter().filter_map(|policy| policy.build(base, trust_domain.as_deref(), &upstream_names, report)).collect();
        if directories.is_empty() && !report.failed() {
            report.warning(
                "no-policy",
                self.exeat.at,
                "no policy directory: every request is refused",
                "add `policies: [{ directory: PATH, bounds: all }]`",
            );
        }
        let mut found = Found::default();
        for directory in directories {
            directory.read(files, report, &mut found, source);
        }
        let config = Config {
            state: state?,
            trust_domain: trust_domain?,
            threads,
            listeners: listeners?,
            credentials: credentials?,
            unlisted: unlisted?,
            telemetry: telemetry?,
            audit: audit?,
            admin: admin.map_or(Some(None), |admin| admin.map(Some))?,
            status: status.map_or(Some(None), |status| status.map(Some))?,
            revocations,
            limits,
            drain,
        };
        let profiles = config.credentials.iter().map(|credential| Arc::clone(&credential.profile)).collect();
        Some(Loaded::new(config, catalogue, profiles, found))
    }

    fn check_version(&self, report: &mut Report) {
        match self.exeat.as_str() {
            "config/v1" => {}
            "policy/v1" => report.error_hint(
                self.exeat.at,
                "this is a policy file",
                "name the configuration; policy files stand in the directories of `policies`",
            ),
            other => report.error_hint(
                self.exeat.at,
                format!("`{other}` is not a form of configuration that this binary knows"),
                "write `exeat: config/v1`",
            ),
        }
        for name in &self.requires {
            if !PROVIDES.contains(&name.value.as_str()) {
                let near = written::suggest(name, PROVIDES.iter().copied());
                let hint = near.map_or_else(
                    || "`exeat version --json` lists what this binary provides".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                report.error_hint(name.at, format!("this binary does not provide `{}`", name.value), hint);
            }
        }
    }

    fn check_names(&self, report: &mut Report) {
        names::check("a listener", &self.listeners, report);
        names::check("an identity", &self.identities, report);
        names::check("an upstream", &self.upstreams, report);
        names::check("a credential", &self.credentials, report);
    }

    /// SPIFFE IDs of upstreams, and whether anything could open what the Workload API alone opens.
    fn check_peers(&self, report: &mut Report) {
        let from_the_api = self.identities.iter().any(|(_, identity)| identity.brings_svid());
        for (name, upstream) in self.upstreams.iter() {
            if let Some(written) = upstream.spiffe_id()
                && let Err(error) = SpiffeId::parse(written)
            {
                let message = format!("`{}` is not a SPIFFE ID: {error}", written.value);
                report.error_hint(written.at, message, "spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT");
            }
            if let Some(at) = upstream.needs_svid().filter(|_| !from_the_api) {
                let message = format!("upstream `{}` needs the workload's own SVID, and no identity brings one", name.value);
                report.error_hint(
                    at,
                    message,
                    "add `identities: { pod: { spiffe: {} } }` and accept it on a listener, or `broker_api` for one exeat per host",
                );
            }
        }
        for (name, _) in self.credentials.iter().filter(|(_, credential)| credential.is_jwt_svid() && !from_the_api) {
            let message = format!("credential `{}` is the workload's own JWT-SVID, and no identity brings one", name.value);
            report.error_hint(
                name.at,
                message,
                "add `identities: { pod: { spiffe: {} } }` and accept it on a listener, or `broker_api` for one exeat per host",
            );
        }
    }

    fn trust_domain(&self, report: &mut Report) -> Option<Arc<str>> {
        if is_trust_domain(&self.trust_domain) {
            return Some(self.trust_domain.value.as_str().into());
        }
        let hint = if self.trust_domain.starts_with("spiffe://") {
            "write it without `spiffe://`"
        } else {
            "1 to 255 of a-z, 0-9, `.`, `-` and `_`"
        };
        report.error_hint(self.trust_domain.at, format!("`{}` is not a trust domain", self.trust_domain.value), hint);
        None
    }

    fn threads(&self, report: &mut Report) -> Option<NonZeroUsize> {
        let written = self.threads.as_ref()?;
        let threads = NonZeroUsize::new(written.value).filter(|threads| threads.get() <= 256);
        if threads.is_none() {
            report.error_hint(
                written.at,
                format!("`{}` threads cannot be had", written.value),
                "1 to 256; leave it out for one for each processor",
            );
        }
        threads
    }

    fn state(&self, base: &Path, report: &mut Report) -> Option<StatePlace> {
        match self.state.as_str() {
            "" => {
                report.error_hint(self.state.at, "`state` names no directory", "write `state: /var/lib/exeat`, or `ephemeral`");
                None
            }
            "ephemeral" => {
                let message = "state is ephemeral: keys, CA and revocations are gone with the process";
                report.warning("ephemeral", self.state.at, message, "name a directory wherever tokens must verify after a restart");
                Some(StatePlace::Ephemeral)
            }
            directory => Some(StatePlace::Directory(base.join(directory))),
        }
    }

    fn audit(&self, base: &Path, state: Option<&StatePlace>, report: &mut Report) -> Option<Audit> {
        match (&self.audit.0, state?) {
            (Some(audit), _) => audit.build(base, report),
            (None, StatePlace::Directory(directory)) => Some(Audit::File(directory.join("audit"))),
            (None, StatePlace::Ephemeral) => Some(Audit::Stdout),
        }
    }

    fn unlisted(&self, now: Timestamp, report: &mut Report) -> Option<Unlisted> {
        match &self.unlisted.0 {
            None | Some(UnlistedConfig::Refuse) => Some(Unlisted::Refuse),
            Some(UnlistedConfig::Observe(observe)) => {
                let until = observe.unlisted(now, report)?;
                let message = "destinations that no upstream lists are let through, unjudged and unstripped, and recorded";
                report.warning("unlisted-observed", observe.at(), message, "list what you learn, then write `unlisted: refuse`");
                Some(Unlisted::Observe { until })
            }
        }
    }

    /// Addresses of the servers that are no listeners, to find two that want the same.
    fn server_addresses(&self) -> Vec<(&'static str, Spanned<String>)> {
        let admin = self.admin.as_ref().map(|admin| ("admin", admin.written_address().clone()));
        let status = self.status.as_ref().map(|status| ("status", status.address.clone()));
        admin.into_iter().chain(status).collect()
    }
}

/// All upstreams, or `None` when any of them is wrong.
fn upstreams(
    written: Entries<UpstreamConfig>,
    credential_names: &[String],
    limits: &Limits,
    base: &Path,
    files: &mut Files,
    now: Timestamp,
    report: &mut Report,
) -> Option<Vec<Arc<Upstream>>> {
    let names: Vec<&str> = credential_names.iter().map(String::as_str).collect();
    let mut read = |path: &Path| files.bytes(&base.join(path));
    let mut around = Surroundings { now, credentials: &names, deadlines: limits.deadlines(), read: &mut read, claimed: HashMap::new() };
    let built: Vec<Option<Upstream>> =
        (0..).zip(written).map(|(index, (name, upstream))| upstream.build(index, &name, &mut around, report)).collect();
    built.into_iter().map(|upstream| upstream.map(Arc::new)).collect()
}

/// All credential definitions, or `None` when any of them is wrong. Without upstreams nothing is said of audiences that they would give.
fn credentials(
    written: Entries<CredentialConfig>,
    upstreams: Option<&[Arc<Upstream>]>,
    used: &[String],
    base: &Path,
    report: &mut Report,
) -> Option<Vec<CredentialSpec>> {
    let mut built = Vec::new();
    for (name, credential) in written {
        let users = upstreams.map(|all| {
            let lists = |upstream: &&Arc<Upstream>| upstream.credentials.iter().any(|known| **known == *name.value);
            all.iter().filter(lists).map(AsRef::as_ref).collect::<Vec<&Upstream>>()
        });
        if !used.contains(&name.value) {
            let message = format!("no upstream lists credential `{}`", name.value);
            report.warning("unused", name.at, message, "list it under `credentials` of an upstream, or take it away");
        }
        built.push(credential.build(&name, base, users.as_deref(), report));
    }
    built.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::config::{Loaded, load};

    fn clock() -> ManualClock {
        ManualClock::new("2026-11-21T12:00:00Z".parse().unwrap())
    }

    fn example(name: &str) -> Loaded {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
        load(&path, &clock()).unwrap_or_else(|errors| panic!("{}", errors.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n")))
    }

    #[test]
    fn the_examples_load() {
        for name in ["local.yaml", "sidecar.yaml", "host.yaml", "mesh.yaml"] {
            let loaded = example(name);
            println!("{name}: {}\n{}", loaded.digest, loaded.warnings.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n"));
            assert!(loaded.policy_errors.is_empty() && !loaded.policies.is_empty());
        }
    }
}
