//! What the state directory, the watched file and the admin server are given.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::kept::{Kept, MOST};
use super::revocation_file::{LONGEST_REASON, parse};
use crate::clock::Timestamp;
use crate::fuzz::Input;
use crate::live::{LeaseBook, Opening, Target};
use crate::state::{State, fuzz::slots};
use crate::written;

/// One of: the slots of a file, the watched file, the entries of revocations and leases, an opening of a lease; the first byte says which.
pub fn kept(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 5 {
        0 => {
            let (part, cut) = (input.number(), input.number());
            let (file, content) = input.0.split_at(cut.min(input.0.len()));
            slots(file, content, part);
        }
        1 => watched(input.0),
        2 => revocations(input.0),
        3 => leases(input.0),
        _ => opening(&mut input),
    }
}

fn watched(data: &[u8]) {
    let lines = parse(&String::from_utf8_lossy(data));
    assert!(lines.named.len() <= MOST);
    let mut again = String::new();
    for (target, reason) in &lines.named {
        assert!(reason.chars().count() <= LONGEST_REASON && !reason.chars().any(char::is_control));
        assert_eq!(target.to_string().parse::<Target>().as_ref(), Ok(target));
        writeln!(again, "{target} # {reason}").unwrap();
    }
    let read = parse(&again);
    assert_eq!((read.named.len(), &read.mistake), (lines.named.len(), &None), "{again}");
    assert!(read.named.iter().map(|(target, _)| target).eq(lines.named.iter().map(|(target, _)| target)));
}

fn revocations(data: &[u8]) {
    let state = State::ephemeral();
    state.write("revocations", data).unwrap();
    let Ok(kept) = Kept::read(&state) else { return };
    let own: Vec<_> = kept.all().map(|block| block.target.to_string()).collect();
    Kept::write(&state, &kept.bytes()).unwrap();
    let again = Kept::read(&state).expect("what was written is read");
    assert!(again.all().map(|block| block.target.to_string()).eq(own));
}

fn leases(data: &[u8]) {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let state = Arc::new(State::ephemeral());
    state.write("leases", data).unwrap();
    let Ok(book) = LeaseBook::open(Arc::clone(&state), now) else { return };
    let ids = |book: &LeaseBook| {
        book.leases()
            .all()
            .into_iter()
            .map(|lease| (lease.id.to_string(), lease.until, lease.uses_left(), lease.is_live(now)))
            .collect::<Vec<_>>()
    };
    let held = ids(&book);
    let again = LeaseBook::open(state, now).expect("what was written is read");
    for ((id, until, left, live), before) in ids(&again).iter().zip(&held) {
        assert_eq!((id, until, live), (&before.0, &before.1, &before.3));
        assert!(*left <= before.2, "a restart gives uses back: {before:?} and then {left:?}");
    }
}

fn opening(input: &mut Input<'_>) {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let mut text = || String::from_utf8_lossy(input.line()).into_owned();
    let (workload, kind, ttl, uses, reason) = (text(), text(), text(), text(), text());
    let Some(ttl) = written::duration(&ttl) else { return };
    let mut attributes = BTreeMap::new();
    while !input.is_empty() && attributes.len() < 32 {
        let line = String::from_utf8_lossy(input.line()).into_owned();
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        attributes.insert(name.to_owned(), value.to_owned());
    }
    let opening = Opening { workload, kind, ttl, uses: uses.parse().ok(), uid: None, pod_uid: None, attributes, reason };
    let state = Arc::new(State::ephemeral());
    let book = LeaseBook::open(Arc::clone(&state), now).unwrap();
    let Ok(lease) = book.open_lease(opening, &[], "uid 0", now) else { return };
    assert!(lease.is_live(now) && lease.until > now && lease.until <= now + std::time::Duration::from_hours(24));
    assert!(lease.attributes.len() <= 16 && lease.attributes.values().all(|text| text.len() <= 256 && !text.chars().any(char::is_control)));
    let again = LeaseBook::open(state, now).expect("what was written is read");
    let again = again.leases().get(&lease.id).map(Arc::clone).expect("it is there");
    assert_eq!((&again.workload, &again.kind, &again.attributes), (&lease.workload, &lease.kind, &lease.attributes));
}
