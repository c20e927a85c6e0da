//! The command line.

use std::net::SocketAddr;

/// What to serve, or where to send what.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Address that connections go to.
    pub(crate) target: SocketAddr,
    /// Host and port that requests name.
    pub(crate) host: String,
    pub(crate) path: String,
    /// Connections.
    pub(crate) conns: usize,
    /// Streams of each connection (HTTP/2).
    pub(crate) streams: usize,
    /// Messages of each stream; then it ends in order and the next begins.
    pub(crate) messages: usize,
    /// Bytes of a message.
    pub(crate) size: usize,
    /// Seconds.
    pub(crate) duration: f64,
    /// Requests per second of `get`; 0 = closed loop.
    pub(crate) rate: f64,
    /// CONNECT to this authority first.
    pub(crate) connect: Option<String>,
    /// TLS with this server name, inside the tunnel where there is one.
    pub(crate) tls: Option<String>,
    /// Where the echo listens; behind each `h1` address also on the `span` - 1 ports that follow.
    pub(crate) h2c: Vec<SocketAddr>,
    pub(crate) h1: Vec<SocketAddr>,
    pub(crate) span: u16,
}

impl Options {
    /// Reads the arguments; the error names the option.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            target: SocketAddr::from(([127, 0, 0, 1], 8080)),
            host: "up.test".into(),
            path: "/bench.Echo/Stream".into(),
            conns: 4,
            streams: 25,
            messages: 1_000,
            size: 100,
            duration: 3.0,
            rate: 0.0,
            connect: None,
            tls: None,
            h2c: Vec::new(),
            h1: Vec::new(),
            span: 1,
        };
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--target" => options.target = read(&name, &value)?,
                "--host" => options.host = value,
                "--path" => options.path = value,
                "--conns" => options.conns = read(&name, &value)?,
                "--streams" => options.streams = read(&name, &value)?,
                "--messages" => options.messages = read(&name, &value)?,
                "--size" => options.size = read(&name, &value)?,
                "--duration" => options.duration = read(&name, &value)?,
                "--rate" => options.rate = read(&name, &value)?,
                "--connect" => options.connect = Some(value),
                "--tls" => options.tls = Some(value),
                "--h2c" => options.h2c.push(read(&name, &value)?),
                "--h1" => options.h1.push(read(&name, &value)?),
                "--span" => options.span = read(&name, &value)?,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }
}

fn read<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name}: {text:?} cannot be read"))
}
