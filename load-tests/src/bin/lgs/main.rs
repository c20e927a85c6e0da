//! lgs: HTTP/2 and long streams for the benchmark, where `lg` does HTTP/1.1 requests: a server that echoes, and clients that send one message
//! after the other.
//!
//! * `lgs serve --h2c IP:PORT --h1 IP:PORT`: echoes each piece of a gRPC-like call (h2 prior knowledge), and each byte behind an upgrade to
//!   WebSocket; answers every other HTTP/1.1 request with 128 bytes;
//! * `lgs get`: GETs over HTTP/2, `--streams` at a time on each connection; `--connect H:P`, `--tls SNI` and `--rate R` as of `lg`;
//! * `lgs stream`: calls over HTTP/2 that stay open while messages go there and back, one at a time each;
//! * `lgs ws`: the same through a WebSocket.
//!
//! The clients print one JSON object: messages, messages per second, their latencies, streams that ended otherwise than they should.
mod get;
mod options;
mod serve;
mod stream;
mod tally;
#[path = "../../tls.rs"]
mod tls;
mod ws;

use std::process::ExitCode;

/// A failure anywhere: the tool says it and ends.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let options = match options::Options::parse(args) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("lgs: {why}");
            return ExitCode::from(64);
        }
    };
    let files = rustix::process::Rlimit { current: Some(20_000), maximum: Some(20_000) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    let ran = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from).and_then(|runtime| {
        let tasks = tokio::task::LocalSet::new();
        match mode.as_str() {
            "serve" => tasks.block_on(&runtime, serve::serve(&options)).map(|()| String::new()),
            "get" => tasks.block_on(&runtime, get::run(&options)),
            "stream" => tasks.block_on(&runtime, stream::run(&options)),
            "ws" => tasks.block_on(&runtime, ws::run(&options)),
            _ => Err(format!("unknown mode {mode:?}: serve, get, stream or ws").into()),
        }
    });
    match ran {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("lgs: {why}");
            ExitCode::FAILURE
        }
    }
}
