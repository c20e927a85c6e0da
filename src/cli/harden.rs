//! Before anything else: no core dump and no debugger may read the memory of a process that holds credentials, and little of it is held.

use nix::sys::{prctl, resource};

/// Core limit 0 and not dumpable (prctl(2) `PR_SET_DUMPABLE`): also keeps `/proc/self/mem` from other processes of the same uid.
///
/// # Errors
/// The kernel refused; the message names the call.
pub(super) fn process() -> Result<(), String> {
    // Huge pages would round what an idle process holds up to megabytes: 40 MB resident instead of 18. A kernel that has none needs no word.
    let _small = prctl::set_thp_disable(true);
    resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0).map_err(|error| format!("cannot set the core limit to 0: {error}"))?;
    prctl::set_dumpable(false).map_err(|error| format!("cannot make the process undumpable: {error}"))
}

/// As many open files as the hard limit allows: two descriptors a connection add up.
pub(super) fn open_files() {
    if let Ok((soft, hard)) = resource::getrlimit(resource::Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = resource::setrlimit(resource::Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "cannot raise the limit of open files");
    }
}
