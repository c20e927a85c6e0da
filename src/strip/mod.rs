//! strip: WHAT the application should not have sent.
//!
//! Enters: a request head and the upstream's [`Rules`]. Leaves: [`Stripped`]: the findings, and the edits that remove them, as the
//! proof that later rooms demand. It never changes anything itself and never lets a value out: a finding holds a keyed fingerprint.
//!
//! Slots: `Authorization` and its like with any scheme; headers and gRPC metadata of known and suspicious names; every cookie that is not
//! kept; query keys and presigned URLs; user information; WebSocket subprotocols; baggage; trailers; last, any value with the
//! shape of a credential under any name. What `Connection` nominates is examined like the rest, so a nomination hides nothing. The path
//! is not a slot: it cannot be changed without changing what is asked ([`redact_path`] keeps it out of records).
//!
//! On purpose not removed: signatures over a body that webhooks send (`x-hub-signature-256`), keys for encryption at rest
//! (`x-amz-server-side-encryption-customer-key`), CSRF, paging and lock tokens. `also` adds them where an upstream needs it.

mod detector;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod finding;
mod harmless;
mod lists;
mod names;
mod query;
mod redact;
mod rules;
mod scan;
mod shape;

pub use detector::{Stripped, examine, trailers};
pub use finding::{Finding, Findings, Kind};
pub(crate) use query::percent_decoded;
pub use redact::redact_path;
pub use rules::{BadRule, Rules};
