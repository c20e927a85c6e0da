//! address: the only place that turns a name into an address.
//!
//! Enters: a host and a port, and the networks that the upstream may lie in. Leaves: addresses that were checked and may be dialled as
//! they are (pinned: nobody resolves the name again). It never gives a metadata service or exeat's own listeners, and without an
//! explicit reach nothing but public unicast. It fails to `address_refused`, `upstream_unreachable` and `upstream_timeout`.

mod check;
mod connect;
mod error;
mod resolver;

pub use check::{Blocked, OwnListeners, Reach, check};
pub use connect::connect;
pub use error::AddressError;
pub use resolver::{Lookup, Pinned, Resolver};
