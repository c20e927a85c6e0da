//! The admin and status servers as written, and what they mean.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::capture::ListenAddress;
use crate::written::{Report, Spanned};

/// The admin server as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminConfig {
    /// `unix:///path`, or a loopback `IP:PORT` with `token_file`.
    address: Spanned<String>,
    /// Uids that a unix socket admits. Default: exeat's own.
    allow_uids: Option<Spanned<Vec<u32>>>,
    /// File with the token that a TCP address asks for.
    token_file: Option<Spanned<String>>,
}

/// The admin server: changes things, so it knows who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens: a unix socket (0600) or TCP loopback.
    pub address: ListenAddress,
    /// Who is admitted.
    pub guard: AdminGuard,
}

/// Who may use the admin server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminGuard {
    /// Unix socket: these uids, told by the kernel; `None` is exeat's own uid alone.
    Uids(Option<Vec<u32>>),
    /// TCP loopback: whoever has the token in this file.
    TokenFile(PathBuf),
}

impl AdminConfig {
    /// Where the address stands.
    pub(super) const fn written_address(&self) -> &Spanned<String> {
        &self.address
    }

    pub(super) fn build(&self, base: &Path, report: &mut Report) -> Option<Admin> {
        let address = ListenAddress::build(&self.address, report)?;
        let guard = match (&address, &self.allow_uids, &self.token_file) {
            (ListenAddress::Unix(_), uids, None) => {
                if uids.as_ref().is_some_and(|uids| uids.is_empty()) {
                    report.error_hint(
                        self.address.at,
                        "`allow_uids` is empty: nobody could ask",
                        "list uids, or remove the field for exeat's own",
                    );
                    return None;
                }
                AdminGuard::Uids(uids.as_ref().map(|uids| uids.value.clone()))
            }
            (ListenAddress::Tcp(_), None, Some(file)) if address.is_local() => AdminGuard::TokenFile(base.join(&file.value)),
            (ListenAddress::Tcp(_), None, Some(_)) => {
                report.error_hint(
                    self.address.at,
                    "the admin server never leaves this host",
                    "use a unix socket, or an address on 127.0.0.1 or [::1]",
                );
                return None;
            }
            (ListenAddress::Unix(_), _, Some(file)) => {
                report.error_hint(file.at, "a unix socket asks the kernel who it is, not for a token", "write `allow_uids: [0]`");
                return None;
            }
            (ListenAddress::Tcp(_), Some(uids), _) => {
                report.error_hint(uids.at, "TCP does not tell the admin server who asks", "use a unix socket, or `token_file`");
                return None;
            }
            (ListenAddress::Tcp(_), None, None) => {
                report.error_hint(
                    self.address.at,
                    "an admin server on TCP needs a token",
                    "use unix:///run/exeat/admin.sock, or add `token_file: PATH`",
                );
                return None;
            }
        };
        Some(Admin { address, guard })
    }
}

/// Revocations as written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevocationsConfig {
    /// A file that is watched: one target a line, `# reason` behind it. What it names is revoked, beside what operators revoke.
    file: Option<Spanned<String>>,
}

impl RevocationsConfig {
    pub(super) fn build(&self, base: &Path, report: &mut Report) -> Option<PathBuf> {
        let file = self.file.as_ref()?;
        if file.is_empty() {
            report.error_hint(file.at, "`file` names no file", "write `revocations: { file: revoked }`, or take it away");
            return None;
        }
        let path = base.join(&file.value);
        if !path.exists() {
            report.warning("no-file", file.at, format!("there is no {}", path.display()), "create it, empty: nothing is revoked then");
        }
        Some(path)
    }
}

/// The status server as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusConfig {
    /// `IP:PORT` or `unix:///path`.
    pub(super) address: Spanned<String>,
}

/// The status server: livez, readyz, metrics, keys and discovery; read-only, names nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where it listens.
    pub address: ListenAddress,
}

impl StatusConfig {
    pub(super) fn build(&self, report: &mut Report) -> Option<Status> {
        Some(Status { address: ListenAddress::build(&self.address, report)? })
    }
}
