//! lg: a small single-threaded HTTP/1.1 load generator for the benchmark.
//!
//! * closed loop (no `--rate`): every connection sends its next request as soon as the last is answered;
//! * open loop (`--rate R`): request i is DUE at t0 + i/R whatever the server does, and its latency runs from that due time, so a
//!   stall is charged to every request that it delays (no coordinated omission);
//! * `--close`: a new connection per request; `--connect H:P`: CONNECT through the target first;
//! * `--tls SNI`: TLS inside (after CONNECT where given), certificates not verified: it is a load tool;
//! * `--cycle N`: N different requests in turn, `{n}` in host, path and headers is the number (from `--from`); `--requests N`: so many and no more;
//!   `--finish`: the last answers are waited for, so that no request is cut off;
//! * `--idle N`: open N connections, one request on each, and hold them until stdin closes.
//!
//! Prints one JSON object on stdout.
mod connection;
mod generator;
mod idle;
mod options;
mod report;
mod response;
mod tls;

use std::num::NonZeroU64;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = match options::Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("lg: {why}");
            return ExitCode::from(64);
        }
    };
    // Both are wishes: with few descriptors the connects fail and say so, with a coarse timer the pacing is coarser.
    let files = rustix::process::Rlimit { current: Some(65_536), maximum: Some(65_536) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));

    let ran = if options.idle > 0 { idle::hold(&options) } else { generator::Generator::new(options).and_then(generator::Generator::run) };
    match ran {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("lg: {why}");
            ExitCode::FAILURE
        }
    }
}
