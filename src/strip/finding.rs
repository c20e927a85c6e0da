//! `Finding`: a static credential met on the way, without the credential.

use std::cell::RefCell;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::shape;
use crate::secret::Fingerprint;

/// Longest name in a place, in bytes.
const NAME: usize = 64;
/// Places that one worker keeps; a full set begins anew.
const PLACES: usize = 512;

/// What a found credential looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `Authorization: Bearer` with an opaque value.
    Bearer,
    /// A compact JWS.
    Jwt,
    /// `Basic`.
    Basic,
    /// `Digest`.
    Digest,
    /// An AWS signature or access key.
    Aws,
    /// A key under a known or suspicious name, or with a vendor's shape.
    ApiKey,
    /// A session or other cookie.
    Cookie,
    /// A password in the userinfo of a target.
    Password,
    /// Anything else in a slot that is always emptied.
    Other,
}

impl Kind {
    /// The word in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Jwt => "jwt",
            Self::Basic => "basic",
            Self::Digest => "digest",
            Self::Aws => "aws",
            Self::ApiKey => "api_key",
            Self::Cookie => "cookie",
            Self::Password => "password",
            Self::Other => "other",
        }
    }
}

/// Where it stood: slot and name, as in `header:authorization`, `query:api_key`, `cookie:session`, `userinfo`, `subprotocol`, `trailer:x-api-key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it looks like.
    pub kind: Kind,
    /// Slot and name; a name that the workload chose freely is cut at 64 bytes.
    pub place: Arc<str>,
    /// Stands for the value.
    pub fingerprint: Fingerprint,
    /// Left in place because the upstream's `strip.keep` says so.
    pub kept: bool,
}

/// The place of a finding: `slot` alone, or `slot:name`. A name that itself looks like a credential, or is no plain text, is not shown.
/// Workers keep the places that they have named, so that a usual finding allocates nothing.
pub(super) fn place(slot: &'static str, name: &[u8]) -> Arc<str> {
    thread_local! {
        static PLACES_NAMED: RefCell<FxHashSet<Arc<str>>> = RefCell::default();
    }
    let mut text = smallvec::SmallVec::<[u8; 96]>::from_slice(slot.as_bytes());
    if !name.is_empty() {
        text.push(b':');
        if shape::find(name).is_some() {
            text.extend_from_slice(b"[redacted]");
        } else if name.len() <= NAME && name.iter().all(u8::is_ascii_graphic) {
            text.extend_from_slice(name);
        } else {
            text.extend(name.iter().take(NAME).map(|byte| if byte.is_ascii_graphic() { *byte } else { b'?' }));
        }
    }
    let text = std::str::from_utf8(&text).unwrap_or(slot);
    PLACES_NAMED.with_borrow_mut(|places| {
        if let Some(known) = places.get(text) {
            return Arc::clone(known);
        }
        if places.len() >= PLACES {
            places.clear();
        }
        let named: Arc<str> = text.into();
        places.insert(Arc::clone(&named));
        named
    })
}
