//! What a record says, read back: the fields that replay, suggestion and promotion need. Unknown fields are passed over, so that logs of
//! another version can be read; what is needed and missing makes the line a bad one.
//!
//! Every text in here was written by a workload or an upstream: whoever shows one goes through [`shown`].

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Deserialize, Deserializer};

use crate::clock::Timestamp;

/// One line of the log, read back.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its number in the chain.
    pub seq: u64,
    /// Its time: of the request's head, else of the writing.
    pub time: Timestamp,
    /// What it says.
    pub entry: Entry,
}

/// What a line says, by its kind.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A finished passage.
    Access(Box<Recorded>),
    /// An event of the household.
    Event(RecordedEvent),
    /// A kind that nobody learns from: seals, gaps, edges, what is still open.
    Other,
}

/// A finished passage.
#[derive(Debug, Clone, Deserialize)]
pub struct Recorded {
    /// W3C trace id, 32 hex digits.
    pub trace_id: Box<str>,
    /// The proven caller's SPIFFE ID.
    #[serde(default, deserialize_with = "named")]
    pub workload: Option<Box<str>>,
    /// The other end of the connection.
    #[serde(default)]
    pub peer: RecordedPeer,
    /// The catalogue's name.
    pub upstream: Option<Box<str>>,
    /// The exact origin, `https://host:port`.
    pub destination: Option<Box<str>>,
    /// The method.
    pub method: Box<str>,
    /// As written, without query; a segment that looked like a credential is `[redacted]`.
    pub path: Box<str>,
    /// A CONNECT that was carried as bytes.
    #[serde(default)]
    pub tunnel: bool,
    /// `allowed`, `refused`, `aborted`.
    pub outcome: Box<str>,
    /// `allow`, `deny`, `shadow_deny`, `none`.
    pub decision: Box<str>,
    /// The stable code of a refusal.
    pub code: Option<Box<str>>,
    /// The rule that decided.
    #[serde(default, deserialize_with = "named")]
    pub rule: Option<Box<str>>,
    /// What shadow rules or the stage `enforce` would have done.
    pub would_be: Option<RecordedWouldBe>,
    /// `enforce` or `observe`.
    pub stage: Option<Box<str>>,
    /// Content hash of the policy set that judged it.
    pub policy: Option<Box<str>>,
    /// What was put on.
    pub credential: Option<RecordedCredential>,
    /// The HTTP status that the caller saw.
    pub status: Option<u16>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RecordedPeer {
    /// Of TCP.
    pub address: Option<std::net::SocketAddr>,
    /// Where the kernel told it.
    pub uid: Option<u32>,
}

/// What would have been.
#[derive(Debug, Clone, Deserialize)]
pub struct RecordedWouldBe {
    /// `allow` or `deny`.
    pub outcome: Box<str>,
    /// The code that the refusal would have had.
    pub code: Option<Box<str>>,
    /// The rule that would have decided.
    #[serde(default, deserialize_with = "named")]
    pub rule: Option<Box<str>>,
}

/// The credential that was put on.
#[derive(Debug, Clone, Deserialize)]
pub struct RecordedCredential {
    /// Its definition.
    pub name: Box<str>,
}

/// An event of the household.
#[derive(Debug, Clone, Deserialize)]
pub struct RecordedEvent {
    /// `start`, `grant_issued`, `rehearsed` and so on.
    pub event: Box<str>,
    /// The credential definition it is about.
    pub credential: Option<Box<str>>,
    /// The upstream it is about.
    pub upstream: Option<Box<str>>,
    /// The workload it is about.
    pub workload: Option<Box<str>>,
    /// The operator's line.
    pub detail: Option<Box<str>>,
}

/// A thing by its id: `{"id": .., ..}`, or the id alone.
fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Named {
        Whole { id: Box<str> },
        Id(Box<str>),
    }
    Ok(Option::<Named>::deserialize(deserializer)?.map(|named| match named {
        Named::Whole { id } | Named::Id(id) => id,
    }))
}

/// A text of a record as it may be shown: control characters, and those that turn or hide text, as `\u{..}`.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
    };
    if !text.chars().any(hides) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hides(c) {
            let _written = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}
