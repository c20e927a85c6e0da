//! An upstream as written, and the [`Upstream`](super::Upstream) that it means.

mod inject;
mod origin;
mod stage;
mod upstream;

pub use inject::InjectConfig;
pub use origin::parse_origin;
pub use stage::{ObserveConfig, StageConfig};
pub use upstream::{Surroundings, UpstreamConfig};
