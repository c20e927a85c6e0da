//! proxy: the shell around the engine. Everything of HTTP that touches a socket, and nothing that judges.
//!
//! Enters: connections of the listeners. Leaves: answers to the callers, requests to [`dial`](crate::dial), and one record for each
//! passage, whatever became of it. Each request goes through the head check and [`gate`](crate::gate) by itself; what the gate cleared is
//! forwarded with the edits of the gate. It never changes a body, never forwards a byte before the gate's word, and fails to a refusal
//! with a stable code, or to a closed connection where no answer can be given.
//!
//! One worker is one thread with its own runtime, its own accept loops and its own pool; nothing in here is locked.
//! The way of a connection: `listen` (`peer`, `looks`, `attest`) -> `secure` where it is TLS -> `connection` (`stream`, `scan`, `drive`) -> `service` -> `forward` -> `body`, and for those that are taken
//! over `tunnel`, `intercept`, `upgrade`. `passage` and `in_flight` remember what lives, `shares` counts it.

mod attest;
mod body;
mod connection;
mod drive;
mod forward;
mod in_flight;
mod intercept;
mod limits;
mod listen;
mod looks;
mod passage;
mod peer;
mod respond;
mod scan;
mod secure;
mod service;
mod shares;
mod sock_diag;
mod stream;
mod tunnel;
mod upgrade;
mod worker;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(any(test, fuzzing))]
pub mod fuzz_answers;
#[cfg(any(test, fuzzing))]
pub mod fuzz_streams;

pub use forward::Via;
pub use limits::Limits;
pub use listen::{Listeners, Workers};
pub use worker::Shared;
