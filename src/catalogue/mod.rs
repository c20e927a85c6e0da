//! catalogue: WHICH upstreams exist, who owns them, which credential profiles may be used there.
//!
//! Enters: a canonical [`Destination`](crate::capture::Destination) or an upstream's name. Leaves: the [`Upstream`] it belongs to.
//! A host is written once, here. It never guesses: what is not listed is `unlisted`.

mod config;
mod lookup;
mod profile;
mod upstream;

pub use config::{InjectConfig, ObserveConfig, StageConfig, Surroundings, UpstreamConfig, parse_origin};
pub use lookup::{Catalogue, Overlap};
pub use profile::{JWT_SVID, Placement, Profile};
pub use upstream::{Deadlines, HostPattern, Origin, Protocol, Roots, Stage, StripOptions, TlsProfile, Upstream, UpstreamIndex};
