//! The table of all targets.

/// A name and what runs under it.
type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its corpus.
pub const TARGETS: &[Target] = &[
    ("path", crate::action::fuzz::path),
    ("authority", crate::capture::fuzz::authority),
    ("wire", crate::proxy::fuzz::wire),
    ("head", crate::proxy::fuzz::head),
    ("h2_head", crate::proxy::fuzz_streams::h2_head),
    ("answer", crate::proxy::fuzz_answers::answer),
    ("strip", crate::strip::fuzz::strip),
    ("trace", crate::telemetry::fuzz::trace),
    ("jws", crate::jose::fuzz::jws),
    ("service_account", crate::identity::service_account),
    ("svid", crate::identity::fuzz::svid),
    ("workload_api", crate::identity::fuzz::workload_api),
    ("broker_api", crate::identity::fuzz::broker_api),
    ("config", crate::config::fuzz::config),
    ("policy", crate::policy::fuzz::policy),
    ("policy_test", crate::policy::fuzz::policy_test),
    ("condition", crate::policy::fuzz::condition),
    ("audit", crate::audit::fuzz::audit),
    ("kept", crate::control::fuzz::kept),
    ("admin", crate::app::fuzz::admin),
];

/// Runs one target. A name that is none does nothing, which a fuzzer shows by finding no coverage.
pub fn run(name: &str, data: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(data);
    }
}
