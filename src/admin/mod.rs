//! admin: how operators and platforms ask exeat about itself.
//!
//! Two servers with different doors: **status** is read-only, names nobody and may face the network (livez, readyz, metrics, keys); **admin**
//! is a unix socket that asks the kernel who is there, or loopback TCP with a token. Enters: facts by value or closure. Leaves: answers.
//! Neither shows a secret, and neither can slow a worker: they live on the household's runtime, with few and short connections.

mod client;
mod guard;
mod health;
mod route;
mod routes;
mod server;

pub use client::{AskError, ask};
pub use guard::Guard;
pub use health::Health;
pub use route::{Admin, Answering, Question, Reply, Route};
pub use routes::{Answer, Status};
pub use server::{Door, Socket, bind, serve};
