//! JSON written by hand into one buffer: no tree, no allocation but the buffer's growth.
//!
//! Everything that comes from outside goes through [`text`]; keys and words are literals.

/// Two lower-case hex digits. Counted on the two halves of a word, so that a whole id is a few vector instructions.
pub(crate) const fn hex_pair(byte: u8) -> [u8; 2] {
    let digits = (byte as u16 >> 4 | (byte as u16) << 8) & 0x0f0f;
    // 10 and above carry into the fifth bit; `a` stands 39 behind where `9` ends.
    let letters = (digits + 0x0606) >> 4 & 0x0101;
    (digits + 0x3030 + letters * 39).to_le_bytes()
}

/// Appends lower-case hex.
pub(super) fn hex<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(bytes.map(hex_pair).as_flattened());
}

/// Appends `,"KEY":` and a value. The forms: `text` (escaped), `word` (a literal without anything to escape), `number`, `flag`, `hex`.
macro_rules! put {
    ($out:expr, $key:literal, text $value:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":\"").as_bytes());
        $crate::audit::json::text($out, $value);
        $out.push(b'"');
    }};
    ($out:expr, $key:literal, word $value:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":\"").as_bytes());
        $out.extend_from_slice($value.as_bytes());
        $out.push(b'"');
    }};
    ($out:expr, $key:literal, number $value:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":").as_bytes());
        $out.extend_from_slice(itoa::Buffer::new().format($value).as_bytes());
    }};
    ($out:expr, $key:literal, flag $value:expr) => {{
        let value: bool = $value;
        $out.extend_from_slice(if value {
            concat!(",\"", $key, "\":true").as_bytes()
        } else {
            concat!(",\"", $key, "\":false").as_bytes()
        });
    }};
    ($out:expr, $key:literal, hex $value:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":\"").as_bytes());
        $crate::audit::json::hex($out, $value);
        $out.push(b'"');
    }};
    ($out:expr, $key:literal, shown $value:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":\"").as_bytes());
        $crate::audit::json::shown($out, format_args!("{}", $value));
        $out.push(b'"');
    }};
}
pub(super) use put;

/// Whether a byte cannot stand in a JSON string as it is (RFC 8259 section 7).
const fn special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Appends the inside of a JSON string.
pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    let mut rest = value.as_bytes();
    // Without an early exit this is a few vector instructions; nearly every text ends here.
    if !rest.iter().fold(false, |found, byte| found | special(*byte)) {
        out.extend_from_slice(rest);
        return;
    }
    while let Some(at) = rest.iter().position(|byte| special(*byte)) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, tail)) = tail.split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&hex_pair(*other));
            }
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
}

/// Appends what `Display` writes, escaped.
pub(super) fn shown(out: &mut Vec<u8>, value: std::fmt::Arguments<'_>) {
    struct Escaped<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Escaped<'_> {
        fn write_str(&mut self, part: &str) -> std::fmt::Result {
            text(self.0, part);
            Ok(())
        }
    }
    // Writing to memory cannot fail, and a `Display` that does leaves a shorter text, which is still valid JSON.
    let written = std::fmt::Write::write_fmt(&mut Escaped(out), value);
    debug_assert!(written.is_ok(), "memory takes every text");
}

/// Replaces the comma of the first [`put!`] since `from` by an opening brace and closes the object; an empty object when nothing was put.
pub(super) fn close_object(out: &mut Vec<u8>, from: usize) {
    match out.get_mut(from) {
        Some(first) => *first = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_reads_back(value in "\\PC*|[\\x00-\\x7f]*|.*") {
            let mut out = b"\"".to_vec();
            text(&mut out, &value);
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), value.clone());
            prop_assert!(!out.contains(&b'\n'));
            let mut again = b"\"".to_vec();
            shown(&mut again, format_args!("{value}"));
            again.push(b'"');
            prop_assert_eq!(out, again);
        }
    }

    #[test]
    fn objects_open_with_a_brace() {
        let mut out = b"[".to_vec();
        put!(&mut out, "a", number 1_u8);
        put!(&mut out, "b", flag true);
        put!(&mut out, "c", hex [0xab_u8, 1]);
        close_object(&mut out, 1);
        out.push(b']');
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), serde_json::json!([{"a": 1, "b": true, "c": "ab01"}]));
        let mut empty = Vec::new();
        close_object(&mut empty, 0);
        assert_eq!(empty, b"{}");
    }
}
