//! Holds idle connections, so that what each costs the proxy can be read from its memory.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::options::Options;
use crate::response::Response;

/// Opens the connections, answers one request on each, prints the count and waits for stdin to close.
pub(crate) fn hold(options: &Options) -> io::Result<String> {
    let request = options.request();
    let mut held = Vec::with_capacity(options.idle);
    let mut failed = 0_u32;
    while held.len() < options.idle && failed <= 200 {
        match one(options, &request) {
            Ok(stream) => held.push(stream),
            Err(_) => failed += 1,
        }
    }
    println!("{{\"held\":{},\"failed\":{failed}}}", held.len());
    io::stdout().flush()?;
    io::stdin().read_line(&mut String::new())?;
    Ok(String::new())
}

fn one(options: &Options, request: &[u8]) -> io::Result<TcpStream> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&options.target, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(request)?;
    let mut response = Response::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if response.feed(&buffer[..count], false) {
            return Ok(stream);
        }
    }
}
