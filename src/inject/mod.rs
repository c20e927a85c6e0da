//! inject: puts the credential on a request.
//!
//! Enters: the permit, its credential, the head and strip's edits. Leaves: edits that set exactly one slot, marked sensitive, to be
//! applied after strip's. It refuses (`internal`) a credential that is not of the permit's terms: the last door that a wrong one would
//! have to pass. On the way back [`redacted`] takes an echo of the credential out of a header or trailer.

mod placement;
mod reflection;

pub use placement::edits;
pub use reflection::redacted;
