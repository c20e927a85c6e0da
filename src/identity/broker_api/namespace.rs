//! Whether the agent and exeat mean the same process by the same number: only within one pid namespace do they.

use std::fs;

use tokio::net::UnixStream;

/// A number of exeat's namespace may be anybody's in another, so that the agent would vouch for a process that nobody asked about. Both
/// must be in the one namespace that `/proc` shows: there `NSpid` of `/proc/PID/status` has one number (proc(5)).
pub(super) fn is_shared(stream: &UnixStream) -> Result<(), String> {
    let agent = stream.peer_cred().ok().and_then(|told| told.pid()).filter(|pid| *pid > 0);
    let Some(agent) = agent else {
        return Err("the agent runs in a pid namespace that exeat does not see".to_owned());
    };
    for (who, place) in [("exeat", "self".to_owned()), ("the agent", agent.to_string())] {
        let status = fs::read_to_string(format!("/proc/{place}/status"))
            .map_err(|error| format!("/proc does not show in which pid namespace {who} runs: {error}"))?;
        if numbers(&status) != Some(1) {
            return Err(format!("{who} runs in a pid namespace of its own"));
        }
    }
    Ok(())
}

/// How many numbers a process has: one in each namespace, from that of `/proc` to its own.
fn numbers(status: &str) -> Option<usize> {
    status.lines().find_map(|line| line.strip_prefix("NSpid:")).map(|rest| rest.split_ascii_whitespace().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_of_the_same_namespace_is_told_from_one_of_another() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(is_shared(&near), Ok(()), "this very process is at both ends");
        assert_eq!(numbers("Name:\tx\nNSpid:\t4711\nNSpgid:\t1\n"), Some(1));
        assert_eq!(numbers("Name:\tx\nNSpid:\t4711\t7\nNSpgid:\t1\t1\n"), Some(2));
        assert_eq!(numbers("Name:\tx\n"), None);
    }
}
