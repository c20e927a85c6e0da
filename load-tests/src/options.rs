//! The command line.

use std::net::SocketAddr;

/// What to send, where, and how fast.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Address that connections go to.
    pub(crate) target: SocketAddr,
    /// The Host field (and the authority of an absolute-form target).
    pub(crate) host: String,
    /// Request target, query included.
    pub(crate) path: String,
    pub(crate) method: String,
    /// Whole header lines, `name: value`.
    pub(crate) headers: Vec<String>,
    /// Bytes of body.
    pub(crate) body: usize,
    pub(crate) conns: usize,
    /// Seconds measured.
    pub(crate) duration: f64,
    /// Seconds before that.
    pub(crate) warmup: f64,
    /// Requests per second; 0 = closed loop.
    pub(crate) rate: f64,
    pub(crate) close: bool,
    pub(crate) connect: Option<String>,
    pub(crate) tls: Option<String>,
    pub(crate) absolute: bool,
    /// Connections to hold idle; 0 = generate load.
    pub(crate) idle: usize,
    /// How many different requests there are: `{n}` in host, path and headers is `from`, `from` + 1, .. in turn.
    pub(crate) cycle: usize,
    pub(crate) from: usize,
    /// Requests to send in all; 0 = as many as the duration allows.
    pub(crate) requests: u64,
    /// Wait for the answers that are outstanding at the end.
    pub(crate) finish: bool,
}

impl Options {
    /// Reads the arguments; the error names the option and what it wants.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            target: SocketAddr::from(([127, 0, 0, 1], 8080)),
            host: "up.test".into(),
            path: "/".into(),
            method: "GET".into(),
            headers: Vec::new(),
            body: 0,
            conns: 16,
            duration: 5.0,
            warmup: 1.0,
            rate: 0.0,
            close: false,
            connect: None,
            tls: None,
            absolute: false,
            idle: 0,
            cycle: 1,
            from: 0,
            requests: 0,
            finish: false,
        };
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--target" => options.target = number(&name, &value()?, "IP:PORT")?,
                "--host" => options.host = value()?,
                "--path" => options.path = value()?,
                "--method" => options.method = value()?,
                "--header" => options.headers.push(value()?),
                "--body" => options.body = number(&name, &value()?, "a number of bytes")?,
                "--conns" => options.conns = number(&name, &value()?, "a number of connections")?,
                "--duration" => options.duration = number(&name, &value()?, "seconds")?,
                "--warmup" => options.warmup = number(&name, &value()?, "seconds")?,
                "--rate" => options.rate = number(&name, &value()?, "requests per second")?,
                "--idle" => options.idle = number(&name, &value()?, "a number of connections")?,
                "--cycle" => options.cycle = number::<usize>(&name, &value()?, "a number of requests")?.max(1),
                "--from" => options.from = number(&name, &value()?, "a number")?,
                "--requests" => options.requests = number(&name, &value()?, "a number of requests")?,
                "--finish" => options.finish = true,
                "--connect" => options.connect = Some(value()?),
                "--tls" => options.tls = Some(value()?),
                "--close" => options.close = true,
                "--absolute" => options.absolute = true,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }

    /// The bytes of every different request, in the order in which they are sent.
    pub(crate) fn all(&self) -> Vec<Vec<u8>> {
        let numbered = |number: usize| {
            let put = |text: &str| text.replace("{n}", &number.to_string());
            Options {
                host: put(&self.host),
                path: put(&self.path),
                headers: self.headers.iter().map(|line| put(line)).collect(),
                ..self.clone()
            }
        };
        (self.from..self.from + self.cycle).map(|number| numbered(number).request()).collect()
    }

    /// The bytes of one request as it is written.
    pub(crate) fn request(&self) -> Vec<u8> {
        let authority = if self.absolute { format!("http://{}", self.host) } else { String::new() };
        let mut head =
            format!("{} {authority}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: lg\r\nAccept: */*\r\n", self.method, self.path, self.host);
        for line in &self.headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if self.close {
            head.push_str("Connection: close\r\n");
        }
        if self.body > 0 {
            head.push_str(&format!("Content-Length: {}\r\n", self.body));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + self.body, b'x');
        bytes
    }

    /// Whether requests are due at fixed times.
    pub(crate) fn open_loop(&self) -> bool {
        self.rate > 0.0
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} wants {what}, not {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn a_request_is_what_the_options_say() {
        let options = parse("--host api.test --path /v1?q=1 --method POST --header x-a:b --body 3 --close").unwrap();
        let text = String::from_utf8(options.request()).unwrap();
        assert!(text.starts_with("POST /v1?q=1 HTTP/1.1\r\nHost: api.test\r\n"), "{text}");
        assert!(text.ends_with("x-a:b\r\nConnection: close\r\nContent-Length: 3\r\n\r\nxxx"), "{text}");
        assert!(parse("--absolute --path /p").unwrap().request().starts_with(b"GET http://up.test/p HTTP/1.1\r\n"));
    }

    #[test]
    fn requests_of_a_cycle_differ_by_their_number() {
        let all = parse("--host s{n}.test --path /p/{n} --header x-n:{n} --cycle 2").unwrap().all();
        assert_eq!(all.len(), 2);
        assert!(all[1].starts_with(b"GET /p/1 HTTP/1.1\r\nHost: s1.test\r\n") && all[1].ends_with(b"x-n:1\r\n\r\n"));
        assert_eq!(parse("--cycle 0 --from 7 --path /{n}").unwrap().all()[0][..6], *b"GET /7");
    }

    #[test]
    fn mistakes_name_the_option() {
        assert_eq!(parse("--rate fast").unwrap_err(), "--rate wants requests per second, not \"fast\"");
        assert_eq!(parse("--conns").unwrap_err(), "--conns needs a value");
        assert_eq!(parse("--loud").unwrap_err(), "unknown option --loud");
    }
}
