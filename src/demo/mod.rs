//! demo: the whole story in one process on loopback, for somebody who has two minutes.
//!
//! An issuer, two upstreams that verify tokens, exeat itself with a real configuration in a folder of its own, and a legacy program with a
//! static key. Nothing in it is played: every line that is printed was observed on a socket.

mod client;
mod folder;
mod page;
mod sink;
mod story;
mod upstream;

pub use story::play;
