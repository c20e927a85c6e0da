//! What a reload cannot change: said aloud, never ignored in silence.

use super::file::Config;

/// Names what differs between two configurations and takes a restart: sockets, threads, state and sinks are set up once.
#[must_use]
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    let listeners = |config: &Config| -> Vec<_> {
        let key = |listener: &super::file::ListenerSpec| (listener.name.to_string(), listener.address.clone(), listener.permissions);
        let mut all: Vec<_> = config.listeners.iter().map(key).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let changes = [
        ("listeners", listeners(old) != listeners(new)),
        ("threads", old.threads != new.threads),
        ("state", old.state != new.state),
        ("admin", old.admin != new.admin),
        ("status", old.status != new.status),
        ("revocations", old.revocations != new.revocations),
        ("telemetry", old.telemetry != new.telemetry),
        ("audit", old.audit != new.audit),
        ("drain", old.drain != new.drain),
        ("limits", old.limits != new.limits),
    ];
    changes.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect()
}
