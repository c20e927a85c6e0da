//! The stories of exeat, told from outside: a real binary, real sockets, unmodified clients, upstreams that remember every byte.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::large_futures,
    clippy::too_many_lines,
    clippy::format_push_string,
    clippy::format_collect,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::let_underscore_must_use,
    unreachable_pub,
    missing_docs,
    reason = "black-box tests: they fail loudly, read the real clock and the environment, and nobody links against them"
)]

mod addresses;
mod adoption;
mod broker_api;
mod canary;
mod client_cert;
mod demo;
mod drain;
mod faults;
mod harness;
mod harness_story;
mod hostile;
mod idle;
mod leases;
mod limits;
mod kubernetes;
mod mesh;
mod misdirection;
mod processes;
mod protocols;
mod records;
mod refusals;
mod reload;
mod responses;
mod restart;
mod revocation;
mod revocation_drill;
mod spiffe;
mod spire;
mod spire_broker;
mod uids;
mod unmodified;
