//! `exeat policy ..`: one file a subcommand. All of them read files alone; none needs a running exeat.

mod command;
mod explain;
mod world;

pub(super) use command::{PolicyCommand, run};
