//! capture: HOW traffic reached us.
//!
//! Enters: a connection's facts and a request head. Leaves: an [`Arrival`] per connection and one canonical [`Destination`] per
//! request, or a refusal. It never looks at credentials and never resolves a name. It fails to `malformed` and `misdirected`.

mod arrival;
mod cgroup;
mod config;
mod destination;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod head;
mod hold;
mod process;
mod proof;
mod target;

pub use arrival::{Arrival, Mode, Peer};
pub use cgroup::Cgroups;
pub use config::{ListenAddress, Listener, ListenerConfig, ListenerTlsConfig};
pub use destination::{Destination, Host, HostError, Scheme, parse_authority};
pub use head::{HeadLimits, check};
pub use hold::Hold;
pub use process::{Asks, Executable, Process, Sha256};
pub use proof::Proof;
pub use target::{Target, host_field, target};
