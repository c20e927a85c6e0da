//! The SPIFFE Broker API (experimental): whoever connects is the workload that the agent says its process is, with that workload's own SVID.
//!
//! Enters: the process at the other end of a unix socket, held so that its number cannot become another's. Leaves: the workload that the
//! agent attested, and what it may show to an upstream: its own X.509-SVID and JWT-SVIDs, never exeat's. The agent is asked once per
//! process, over one connection that both sides authenticate (SPIFFE Broker API, sections 3 to 6; SPIFFE Broker Endpoint, sections 3 to 6).
//! It fails to `unauthenticated` where the agent gives no identity, and to `not_ready` where the agent does not answer.

mod api;
mod config;
mod line;
mod messages;
mod namespace;
mod process;
mod source;

pub use api::BrokerApi;
pub(super) use config::BrokerApiConfig;
pub use config::BrokerApiSettings;
pub use process::Referred;
pub use source::BrokerIdentity;
