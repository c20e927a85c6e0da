//! Where a running exeat keeps things, by its configuration: for commands that stand beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http::HeaderValue;
use serde_json::Value;

use super::args::{AdminArg, CONFIG, ConfigArg};
use crate::admin;
use crate::capture::ListenAddress;
use crate::clock::SystemClock;
use crate::config::{self, AdminGuard, Config, StatePlace};
use crate::written::Diagnostic;

/// The configuration; every mistake as text.
pub(super) fn config(args: &ConfigArg) -> Result<Config, String> {
    let mistakes = |mistakes: Vec<Diagnostic>| mistakes.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n");
    config::load(&args.config, &SystemClock).map(|loaded| loaded.config).map_err(mistakes)
}

/// The state directory.
pub(super) fn state(args: &ConfigArg) -> Result<PathBuf, String> {
    match config(args)?.state {
        StatePlace::Directory(path) => Ok(path),
        StatePlace::Ephemeral => Err("`state: ephemeral` keeps nothing; ask the status server of the running exeat instead (/jwks)".into()),
    }
}

/// Why the running exeat could not be asked.
pub(super) enum Unasked {
    /// The configuration does not tell where it is.
    Config(String),
    /// It does not answer, or says no.
    Refused(String),
}

impl Unasked {
    /// Tells the operator and gives the exit code.
    pub(super) fn told(self) -> ExitCode {
        let (why, code) = match self {
            Self::Config(why) => (why, ExitCode::from(CONFIG)),
            Self::Refused(why) => (why, ExitCode::FAILURE),
        };
        eprintln!("exeat: {why}");
        code
    }
}

/// Asks the running exeat through its admin server. `--admin` says where it is without reading the configuration: a revocation must not
/// wait for somebody to mend a file.
pub(super) fn ask(args: &AdminArg, method: &str, path: &str, body: Option<&Value>) -> Result<String, Unasked> {
    let (address, token) = door(args)?;
    let authorization = token.as_deref().map(authorization).transpose()?;
    admin::ask(&address, authorization.as_ref(), method, path, body).map_err(|error| Unasked::Refused(error.to_string()))
}

fn door(args: &AdminArg) -> Result<(ListenAddress, Option<PathBuf>), Unasked> {
    if let Some(address) = &args.admin {
        return Ok((named(address)?, args.token_file.clone()));
    }
    let hint = "`--admin unix:///run/exeat/admin.sock` asks without reading the configuration";
    let config = config(&args.config).map_err(|why| Unasked::Config(format!("{why}\n{hint}")))?;
    let admin = config.admin.ok_or_else(|| {
        let why = "this configuration has no admin server; add `admin: { address: \"unix:///run/exeat/admin.sock\" }` and restart exeat";
        Unasked::Config(why.to_owned())
    })?;
    let token = match admin.guard {
        AdminGuard::Uids(_) => None,
        AdminGuard::TokenFile(path) => Some(path),
    };
    Ok((admin.address, args.token_file.clone().or(token)))
}

/// An address as `admin` takes it.
fn named(address: &str) -> Result<ListenAddress, Unasked> {
    if let Some(path) = address.strip_prefix("unix://") {
        return Ok(ListenAddress::Unix(path.into()));
    }
    let loopback = address.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback());
    let wrong = || Unasked::Config(format!("--admin {address}: write `unix:///run/exeat/admin.sock`, or a loopback `127.0.0.1:PORT`"));
    loopback.map(ListenAddress::Tcp).ok_or_else(wrong)
}

fn authorization(path: &Path) -> Result<HeaderValue, Unasked> {
    let wrong = |why: String| Unasked::Config(format!("admin token {}: {why}", path.display()));
    let token = std::fs::read_to_string(path).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim_end())).map_err(|_| wrong("it fits no header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
