//! exeat: a permission to go out, per request.
//!
//! exeat sits beside a workload, takes its outbound HTTP, gRPC and WebSocket traffic as it is, proves who is asking, removes the static
//! credentials that the application sent, asks policy, obtains a short-lived credential scoped to this very access, puts it on, forwards,
//! and leaves a trace and a tamper-evident record.
//!
//! # The way of a request
//! `arrival -> identify -> strip -> read the action -> decide -> obtain -> inject -> Clearance | Refusal`
//!
//! The rooms below stand in the order in which a request meets them. A room uses only rooms above it; `tests/architecture.rs` holds
//! that law, and the fences around foreign crates and [`secret::Secret::expose`].
//!
//! # What always holds
//! * Every request is judged by itself; per connection only the peer's proof is taken.
//! * To an upstream in stage `enforce` nothing leaves that the application sent as a credential; what leaves is the credential of the permit.
//! * No rule, no identity, an error, an expiry, a full queue: refused, with a stable code.
//! * No access without a record. No secret in any output. Every buffer, queue and wait has a bound.
//!
//! # What is deliberately absent
//! A switch that turns verification off, a default that lets unknown traffic out, a store of the application's own secrets.

// -- ground floor: tools that know nothing of the house
pub mod clock;
pub mod secret;
pub mod written;
pub mod refusal;
pub mod edits;
pub mod address;
pub mod jose;
pub mod tls;
pub mod outcall;
pub mod state;
// -- the request's way, front door to back door
pub mod capture;
pub mod catalogue;
pub mod identity;
pub mod strip;
pub mod action;
pub mod live;
pub mod policy;
pub mod credentials;
pub mod inject;
pub mod dial;
// -- what is remembered
pub mod audit;
pub mod evidence;
pub mod telemetry;
// -- the household
pub mod config;
pub mod snapshot;
pub mod gate;
pub mod proxy;
pub mod control;
pub mod admin;
pub mod app;
pub mod demo;
pub mod cli;
// -- for fuzzers and tests alone: not in any build that users have
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
