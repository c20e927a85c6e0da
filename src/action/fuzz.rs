//! Whatever a server makes of a path is among its readings.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use super::readings::{MAX_SEGMENTS, Readings};

/// A path: its readings hold what servers of every habit see, and none of them escapes from what all readings allow.
pub fn path(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    let Ok(readings) = Readings::of(path) else { return };
    let all: Vec<&str> = readings.iter().collect();
    assert_eq!((all[0], readings.as_written()), (path, path));
    assert!(all.len() <= 8, "{all:?}");
    for (at, reading) in all.iter().enumerate() {
        assert!(!all[..at].contains(reading), "{reading:?} is there twice");
        assert!(!reading.chars().any(|c| c.is_ascii_control()), "{reading:?}");
        assert!(!reading.starts_with('/') || super::segments(reading).count() <= MAX_SEGMENTS, "{reading:?}");
    }
    if !path.starts_with('/') {
        return;
    }
    for level in levels(path) {
        for habits in 0..32_u8 {
            let seen = served(&level, habits);
            assert!(all.contains(&seen.as_str()), "{path:?} is served as {seen:?} (habits {habits:05b}) and read as {all:?}");
        }
    }
    if all.iter().all(|reading| is_inside(reading)) {
        for seen in [parameters_first(path), folded_twice(path)] {
            assert!(is_inside(&seen), "{path:?} is served as {seen:?} and read as {all:?}");
        }
    }
}

fn is_inside(path: &str) -> bool {
    path == "/public" || path.starts_with("/public/")
}

/// As written, decoded but for slashes, decoded once, decoded twice.
fn levels(path: &str) -> [String; 4] {
    let once = decoded(path.as_bytes(), false);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    [path.to_owned(), text(&decoded(path.as_bytes(), true)), text(&once), text(&decoded(&once, false))]
}

fn decoded(text: &[u8], keeps_slashes: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 3).filter(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        let value = digits.filter(|_| text[at] == b'%').and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match value {
            Some(b'/' | b'\\') if keeps_slashes => out.push(b'%'),
            Some(value) => {
                out.push(value);
                at += 2;
            }
            None => out.push(text[at]),
        }
        at += 1;
    }
    out
}

/// What a server with these habits serves, by plain replacement of text.
fn served(text: &str, habits: u8) -> String {
    let has = |bit: u8| habits >> bit & 1 == 1;
    let mut text = if has(0) { text.replace('\\', "/") } else { text.to_owned() };
    if !text.starts_with('/') {
        return text;
    }
    if has(1) {
        text = text.split('/').map(|segment| segment.split(';').next().unwrap()).collect::<Vec<_>>().join("/");
    }
    if has(2) {
        text = merged(&text);
    }
    if has(3) {
        text = without_dots(&text);
    }
    if has(4) && text.len() > 1 {
        text = text.strip_suffix('/').unwrap_or(&text).to_owned();
    }
    text
}

fn merged(text: &str) -> String {
    let mut text = text.to_owned();
    while text.contains("//") {
        text = text.replace("//", "/");
    }
    text
}

/// RFC 3986 section 5.2.4, letter by letter, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let (mut input, mut output) = (path.to_owned(), String::new());
    while !input.is_empty() {
        if input.starts_with("/./") {
            input.replace_range(..2, "");
        } else if input == "/." {
            "/".clone_into(&mut input);
        } else if input.starts_with("/../") || input == "/.." {
            input = if input == "/.." { "/".to_owned() } else { input[3..].to_owned() };
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input[1..].find('/').map_or(input.len(), |end| end + 1);
            output.push_str(&input[..end]);
            input.replace_range(..end, "");
        }
    }
    output
}

/// Servlet containers: parameters go before anything is decoded.
fn parameters_first(path: &str) -> String {
    let bare = served(path, 0b00010);
    served(&String::from_utf8_lossy(&decoded(bare.as_bytes(), false)), 0b01100)
}

/// A proxy that folds, before a server that decodes and folds.
fn folded_twice(path: &str) -> String {
    let folded = served(path, 0b01100);
    served(&String::from_utf8_lossy(&decoded(folded.as_bytes(), false)), 0b01100)
}
