//! Seals: lines that say where the chain stood, and at whose hand. A chain that a process left in order ends with a `stop` seal; one that
//! begins behind a line that is no seal shows a crash or a cut. With a key, `mac` covers the line before it, and so, by `prev`, all
//! lines before: who does not hold the key cannot write another chain up to a seal.

use super::json::{hex, put};
use crate::secret::FingerprintKey;

/// Why a seal was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// A process begins.
    Start,
    /// A minute has passed and lines were written.
    Interval,
    /// The last line of a segment.
    Rotate,
    /// The first line of the next segment.
    Segment,
    /// The process ends in order.
    Stop,
}

impl At {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Interval => "interval",
            Self::Rotate => "rotate",
            Self::Segment => "segment",
            Self::Stop => "stop",
        }
    }
}

/// What a seal says.
pub(super) struct Seal<'a> {
    pub(super) at: At,
    /// Host or pod.
    pub(super) instance: &'a str,
    /// Bytes of an unfinished line that a crash left and the start removed.
    pub(super) cut: u64,
    /// Passages that go on into a new segment.
    pub(super) open: Vec<u128>,
}

const MAC_KEY: &[u8] = b",\"mac\":\"";

impl Seal<'_> {
    /// Writes its fields behind `kind` and `time`; the line began at `from`.
    pub(super) fn write(&self, out: &mut Vec<u8>, from: usize, key: Option<&FingerprintKey>) {
        put!(out, "at", word self.at.name());
        put!(out, "instance", text self.instance);
        put!(out, "version", word env!("CARGO_PKG_VERSION"));
        if self.cut > 0 {
            put!(out, "cut", number self.cut);
        }
        if !self.open.is_empty() {
            out.extend_from_slice(b",\"open\":[");
            for (at, id) in self.open.iter().enumerate() {
                out.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
                hex(out, id.to_be_bytes());
                out.push(b'"');
            }
            out.push(b']');
        }
        if let Some(key) = key {
            let mac = mac(key, out.get(from..).unwrap_or_default());
            out.extend_from_slice(MAC_KEY);
            out.extend_from_slice(mac.as_bytes());
            out.push(b'"');
        }
    }
}

fn mac(key: &FingerprintKey, body: &[u8]) -> String {
    key.fingerprint(&[b"exeat audit seal 1\0", body].concat()).to_string()
}

/// Judges the `mac` of a seal's body: `None` when it carries none.
pub(super) fn mac_holds(body: &[u8], key: &FingerprintKey) -> Option<bool> {
    let inner = body.strip_suffix(b"\"")?;
    let (before, written) = inner.split_at_checked(inner.len().checked_sub(16)?)?;
    let covered = before.strip_suffix(MAC_KEY)?;
    Some(mac(key, covered).as_bytes() == written)
}
