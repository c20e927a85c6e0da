//! The command line as written, and its way to the subcommands.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// 64: the command line is wrong (sysexits `EX_USAGE`).
pub(super) const USAGE: u8 = 64;
/// 78: the configuration is wrong (sysexits `EX_CONFIG`).
pub(super) const CONFIG: u8 = 78;

/// A sidecar that gives each outbound request a short-lived credential of its own, and takes the static ones away.
#[derive(Debug, Parser)]
#[command(name = "exeat", version, propagate_version = true, arg_required_else_help = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play the whole story on loopback: issuer, upstream, policy and traffic in one process.
    Demo(DemoArgs),
    /// Run the proxy.
    ///
    /// SIGHUP reads the configuration again. SIGTERM and SIGINT drain and stop; a second one stops at once. SIGUSR1 revokes everything,
    /// as `exeat revoke everything` does: every request is refused and every stream ends, also after a restart, until
    /// `exeat restore everything`.
    Run(RunArgs),
    /// Check configuration and policies; opens no socket and needs no secret.
    Check(CheckArgs),
    /// Ask a running exeat how it is.
    Status(StatusArgs),
    /// Who talked to whom since the start: workloads, upstreams, passages.
    Edges(StatusArgs),
    /// Take access away from a running exeat, at once and durably.
    Revoke(RevokeArgs),
    /// Lift a revocation.
    Restore(RestoreArgs),
    /// Leases: time-boxed access for one task.
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Print the public keys that upstreams verify tokens with (JWKS, RFC 7517).
    Jwks(ConfigArg),
    /// Print the interception CA's certificate (PEM), for the trust stores of clients.
    Ca(CaArgs),
    /// Ask policy: test it, explain a decision, see who can do what and what a change changes.
    #[command(subcommand)]
    Policy(super::policy::PolicyCommand),
    /// Audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print the JSON Schema of a file format.
    Schema {
        /// Which file.
        #[arg(value_enum)]
        of: Schema,
    },
    /// Print shell completions.
    Completions {
        /// For this shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print version and capabilities.
    Version {
        /// As JSON, with the names that `requires` may list.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Play without waiting for Enter; exit 1 if any step does not hold.
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ConfigArg {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "EXEAT_CONFIG", default_value = "/etc/exeat/exeat.yaml")]
    pub(super) config: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// More of exeat's own log lines: once for debug, twice for trace. Other crates stay at warnings: they print whole heads.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Form of the log lines on stderr.
    #[arg(long, value_enum, env = "EXEAT_LOG_FORMAT", default_value_t = LogFormat::Json)]
    pub(super) log_format: LogFormat,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// How findings are printed.
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub(super) format: CheckFormat,
    /// Warnings count as errors.
    #[arg(long)]
    pub(super) strict: bool,
}

/// Where the running exeat is asked.
#[derive(Debug, clap::Args)]
pub(super) struct AdminArg {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// The admin server, without reading the configuration: `unix:///run/exeat/admin.sock` or `127.0.0.1:PORT`.
    #[arg(long, value_name = "ADDRESS", env = "EXEAT_ADMIN")]
    pub(super) admin: Option<String>,
    /// The file with the admin token, where the admin server is on TCP.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(super) token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) ask: AdminArg,
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// `everything`, or one of `workload ID`, `upstream NAME`, `credential NAME`, `rule POLICY/RULE`, `lease ID`, `grant ID`.
    #[arg(required_unless_present = "list", num_args = 1..=2, value_name = "TARGET")]
    pub(super) target: Vec<String>,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(super) reason: String,
    /// Show what is revoked.
    #[arg(long, conflicts_with_all = ["target", "reason"])]
    pub(super) list: bool,
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) ask: AdminArg,
}

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// As it was revoked; `exeat revoke --list` shows what is.
    #[arg(required = true, num_args = 1..=2, value_name = "TARGET")]
    pub(super) target: Vec<String>,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(super) reason: String,
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) ask: AdminArg,
}

#[derive(Debug, Subcommand)]
pub(super) enum LeaseCommand {
    /// Open one.
    Open(LeaseOpenArgs),
    /// Show all.
    List(LeaseListArgs),
    /// Show one.
    Show(LeaseArgs),
    /// Let a live one last longer: up to 24 h since its opening.
    Renew(LeaseRenewArgs),
    /// End one: refused from the next request on, its streams end, what was obtained under it goes.
    End(LeaseArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct LeaseOpenArgs {
    /// For whom: a SPIFFE ID.
    #[arg(long, value_name = "ID")]
    pub(super) workload: String,
    /// Which task: the kind that rules name.
    #[arg(long)]
    pub(super) kind: String,
    /// How long: 90s, 20m, 8h; 24 h at most.
    #[arg(long, value_name = "TIME")]
    pub(super) ttl: String,
    /// How often; as often as its time allows if not given.
    #[arg(long)]
    pub(super) uses: Option<u32>,
    /// Only for processes of this uid.
    #[arg(long)]
    pub(super) uid: Option<u32>,
    /// Only for processes of the Kubernetes pod of this uid.
    #[arg(long, value_name = "UID")]
    pub(super) pod_uid: Option<String>,
    /// What conditions read as `lease.attrs`.
    #[arg(long = "attribute", value_name = "NAME=TEXT")]
    pub(super) attributes: Vec<String>,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(super) reason: String,
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) ask: AdminArg,
}

#[derive(Debug, clap::Args)]
pub(super) struct LeaseListArgs {
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) ask: AdminArg,
}

#[derive(Debug, clap::Args)]
pub(super) struct LeaseArgs {
    /// Its name; `exeat lease list` shows them.
    pub(super) id: String,
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) ask: AdminArg,
}

#[derive(Debug, clap::Args)]
pub(super) struct LeaseRenewArgs {
    /// Its name; `exeat lease list` shows them.
    pub(super) id: String,
    /// How long from now: 90s, 20m, 8h.
    #[arg(long, value_name = "TIME")]
    pub(super) ttl: String,
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) ask: AdminArg,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check the hash chain; names the first line that does not fit.
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The audit file or its directory.
    pub(super) path: PathBuf,
    /// The state directory of the exeat that wrote it: with its key the seals are checked too.
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct CaArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// The system's roots first, in one file: for variables that replace the roots.
    #[arg(long)]
    pub(super) bundle: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Schema {
    /// `exeat.yaml`.
    Config,
    /// Policy files.
    Policy,
    /// Policy tests.
    #[value(name = "policytest")]
    PolicyTest,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum CheckFormat {
    /// Snippets with carets.
    Text,
    /// One JSON document.
    Json,
    /// GitHub annotations.
    Github,
    /// SARIF 2.1.0, for code hosts and editors.
    Sarif,
}

/// Parses the command line, runs the subcommand, says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    if let Err(why) = super::harden::process() {
        eprintln!("exeat: {why}");
        return ExitCode::FAILURE;
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let failed = error.use_stderr();
            // A closed pipe on the way out is nobody's error.
            drop(error.print());
            return if failed { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match args.command {
        Command::Demo(demo) => crate::demo::play(demo.yes, &std::env::temp_dir()),
        Command::Run(run) => super::run::run(&run),
        Command::Check(check) => super::check::check(&check),
        Command::Status(status) => super::status::status(&status),
        Command::Edges(edges) => super::edges::edges(&edges),
        Command::Revoke(revoke) => super::revoke::revoke(&revoke),
        Command::Restore(restore) => super::revoke::restore(&restore),
        Command::Lease(lease) => super::lease::lease(&lease),
        Command::Jwks(config) => super::jwks::jwks(&config),
        Command::Ca(ca) => super::ca::ca(&ca),
        Command::Policy(command) => super::policy::run(&command),
        Command::Audit(AuditCommand::Verify(verify)) => super::audit::verify(&verify),
        Command::Schema { of } => super::schema::schema(of),
        Command::Completions { shell } => super::completions::completions(shell),
        Command::Version { json } => super::version::version(json),
    }
}

/// The command line's definition, for completions.
pub(super) fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}
