//! `unix_peer` as written.

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::claim::UnixClaim;
use crate::capture::Sha256;
use crate::identity::SpiffeId;
use crate::identity::config::workload_id;
use crate::written::{Items, Place, Report, Spanned};

/// Workloads by what the kernel tells of a process.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::identity) struct UnixPeerConfig {
    /// Asked in this order; the first of which all is proven is the caller. A process that is none of them is rejected.
    workloads: Spanned<Items<UnixWorkload>>,
}

/// One workload: what is written must all be proven. All but the uid needs a unix socket.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnixWorkload {
    /// The user that the kernel names.
    uid: Option<Spanned<u32>>,
    /// Absolute path of the program. Without `sha256` it must be the very file that exeat sees there.
    executable: Option<Spanned<String>>,
    /// Digest of the program's content, 64 hexadecimal digits.
    sha256: Option<Spanned<String>>,
    /// Control group, as `/proc/PID/cgroup` shows it; groups beneath it count.
    cgroup: Option<Spanned<String>>,
    /// uid of the Kubernetes pod.
    pod_uid: Option<Spanned<String>>,
    /// Full id of the container, 64 hexadecimal digits.
    container: Option<Spanned<String>>,
    /// Its SPIFFE ID, within the trust domain.
    id: Spanned<String>,
}

impl UnixPeerConfig {
    pub(in crate::identity) fn build(self, trust_domain: Option<&str>, report: &mut Report) -> Option<Vec<(UnixClaim, SpiffeId)>> {
        if self.workloads.is_empty() {
            report.error_hint(self.workloads.at, "an identity without workloads rejects everybody", "list at least one `{ uid, id }`");
            return None;
        }
        let mut built: Vec<(UnixClaim, SpiffeId)> = Vec::new();
        let mut whole = true;
        for workload in self.workloads.value {
            let at = workload.uid.as_ref().map_or(workload.id.at, |uid| uid.at);
            let id = workload_id(&workload.id, trust_domain, report);
            let Some(claim) = workload.claim(report) else {
                whole = false;
                continue;
            };
            if let Some((former, _)) = built.iter().find(|(former, _)| former.is_implied_by(&claim)) {
                told_twice(former, &claim, at, report);
                whole = false;
            }
            match id {
                Some(id) => built.push((claim, id)),
                None => whole = false,
            }
        }
        whole.then_some(built)
    }
}

fn told_twice(former: &UnixClaim, claim: &UnixClaim, at: Place, report: &mut Report) {
    match claim.uid {
        Some(uid) if !claim.needs_process() && former.uid.is_some() => {
            report.error_hint(at, format!("uid {uid} is listed twice"), "a uid is one workload");
        }
        Some(_) | None => {
            report.error_hint(at, "this workload is never found: one before it asks for less", "write first those that ask for more");
        }
    }
}

impl UnixWorkload {
    fn claim(&self, report: &mut Report) -> Option<UnixClaim> {
        if self.uid.is_none() && self.cgroup.is_none() && self.pod_uid.is_none() && self.container.is_none() {
            let hint = "add `uid`, `cgroup`, `pod_uid` or `container`: a program alone can be run by anybody";
            report.error_hint(self.id.at, "nothing says whose process this workload is", hint);
            return None;
        }
        if let (Some(sha256), None) = (&self.sha256, &self.executable) {
            report.error_hint(sha256.at, "a digest needs the program that it is of", "add `executable: /path`");
            return None;
        }
        let absolute = |text: &str| Path::new(text).is_absolute() && !text.contains("/../") && !text.ends_with('/');
        let executable = checked(self.executable.as_ref(), absolute, "an absolute path", "write /usr/bin/name", report);
        let digest = checked(
            self.sha256.as_ref(),
            |text| Sha256::parse(text).is_some(),
            "a SHA-256 digest",
            "64 hexadecimal digits, as `sha256sum FILE` prints them",
            report,
        );
        let cgroup = checked(
            self.cgroup.as_ref(),
            absolute,
            "a control group",
            "an absolute path that is not the root, as in /proc/PID/cgroup: /system.slice/app.service",
            report,
        );
        let pod = |text: &str| (32..=36).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        let pod =
            checked(self.pod_uid.as_ref(), pod, "the uid of a pod", "`kubectl get pod NAME -o jsonpath={.metadata.uid}` prints it", report);
        let container = |text: &str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let container = checked(
            self.container.as_ref(),
            container,
            "the full id of a container",
            "64 hexadecimal digits; a name or a short id is not unique",
            report,
        );
        Some(UnixClaim {
            uid: self.uid.as_ref().map(|uid| uid.value),
            executable: executable?,
            sha256: digest?.and_then(|digest| Sha256::parse(&digest)),
            cgroup: cgroup?,
            pod: pod?,
            container: container?,
        })
    }
}

/// `None` when it is written and wrong.
#[expect(clippy::option_option, reason = "wrong, absent and given are three things")]
fn checked(
    written: Option<&Spanned<String>>,
    right: impl Fn(&str) -> bool,
    what: &str,
    hint: &str,
    report: &mut Report,
) -> Option<Option<Arc<str>>> {
    let Some(written) = written else { return Some(None) };
    if right(written) {
        return Some(Some(written.value.as_str().into()));
    }
    report.error_hint(written.at, format!("`{}` is not {what}", written.value), hint);
    None
}
