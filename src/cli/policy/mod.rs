//! `exeat policy ..`: one file a subcommand. All of them read files alone; none needs a running exeat.

mod command;
mod diff;
mod explain;
mod log;
mod promote;
mod replay;
mod suggest;
mod unused;
mod reach;
mod test;
mod world;

pub(super) use command::{PolicyCommand, run};
