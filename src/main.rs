//! The binary comes when the rooms are there.

fn main() {}
