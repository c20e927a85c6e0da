//! Finds the end of an HTTP/1.1 response, whatever pieces it comes in.

/// Where the parser stands in the response.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Head,
    /// Bytes of body still to come.
    Length(u64),
    ChunkSize,
    /// Bytes of this chunk still to come, its line end included.
    Chunk(u64),
    Trailer,
    /// The body ends with the connection.
    UntilClose,
}

/// One response after the other; `reset` between them.
#[derive(Debug)]
pub(crate) struct Response {
    stage: Stage,
    line: Vec<u8>,
    /// Status of the head read last; 0 before the first.
    pub(crate) status: u16,
    /// Whether the peer said that it closes.
    pub(crate) close: bool,
    /// Bytes fed since the start, over all responses.
    pub(crate) bytes: u64,
}

impl Response {
    pub(crate) fn new() -> Self {
        Response { stage: Stage::Head, line: Vec::with_capacity(1024), status: 0, close: false, bytes: 0 }
    }

    /// Forgets the response; the byte count stays.
    pub(crate) fn reset(&mut self) {
        self.stage = Stage::Head;
        self.line.clear();
        self.status = 0;
        self.close = false;
    }

    /// Whether the end of the connection is the end of this response.
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.stage == Stage::UntilClose
    }

    /// Takes the next bytes; true when a whole response has been read. A response to CONNECT ends with its head.
    pub(crate) fn feed(&mut self, mut data: &[u8], connect: bool) -> bool {
        self.bytes += data.len() as u64;
        while let Some((&first, rest)) = data.split_first() {
            match self.stage {
                Stage::Head => {
                    let before = self.line.len();
                    let from = before.saturating_sub(3);
                    self.line.extend_from_slice(data);
                    let Some(at) = self.line[from..].windows(4).position(|four| four == b"\r\n\r\n") else { return false };
                    let end = from + at + 4;
                    data = &data[end - before..];
                    let whole = self.head(end, connect);
                    self.line.clear();
                    if whole {
                        return true;
                    }
                }
                Stage::Length(left) => {
                    let taken = left.min(data.len() as u64);
                    if taken == left {
                        return true;
                    }
                    self.stage = Stage::Length(left - taken);
                    data = &data[taken as usize..];
                }
                Stage::Chunk(left) => {
                    let taken = left.min(data.len() as u64);
                    self.stage = if taken == left { Stage::ChunkSize } else { Stage::Chunk(left - taken) };
                    data = &data[taken as usize..];
                }
                Stage::ChunkSize => {
                    data = rest;
                    if first == b'\n' {
                        self.stage = match chunk_size(&self.line) {
                            0 => Stage::Trailer,
                            size => Stage::Chunk(size + 2),
                        };
                        self.line.clear();
                    } else {
                        self.line.push(first);
                    }
                }
                Stage::Trailer => {
                    data = rest;
                    if first == b'\n' {
                        let empty = self.line.iter().all(|byte| *byte == b'\r');
                        self.line.clear();
                        if empty {
                            return true;
                        }
                    } else {
                        self.line.push(first);
                    }
                }
                Stage::UntilClose => return false,
            }
        }
        false
    }

    /// Reads the head that ends at `end`; true when nothing follows it.
    fn head(&mut self, end: usize, connect: bool) -> bool {
        let text = String::from_utf8_lossy(&self.line[..end]).to_ascii_lowercase();
        self.status = text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let (mut length, mut chunked) = (None, false);
        for line in text.split("\r\n").skip(1) {
            let Some((name, value)) = line.split_once(':') else { continue };
            match name {
                "content-length" => length = value.trim().parse::<u64>().ok(),
                "transfer-encoding" => chunked = value.contains("chunked"),
                "connection" => self.close = value.contains("close"),
                _ => {}
            }
        }
        if connect || self.status == 204 || self.status == 304 {
            return true;
        }
        if (100..200).contains(&self.status) {
            return false;
        }
        self.stage = match length {
            _ if chunked => Stage::ChunkSize,
            Some(0) => return true,
            Some(length) => Stage::Length(length),
            None => Stage::UntilClose,
        };
        false
    }
}

fn chunk_size(line: &[u8]) -> u64 {
    let text = std::str::from_utf8(line).unwrap_or("0");
    u64::from_str_radix(text.split(';').next().unwrap_or("0").trim(), 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to cut the bytes in two must end at the same place.
    fn whole(bytes: &[u8]) -> Response {
        let mut last = Response::new();
        for cut in 1..bytes.len() {
            let mut response = Response::new();
            assert!(!response.feed(&bytes[..cut], false), "ended early at {cut}");
            assert!(response.feed(&bytes[cut..], false), "did not end when cut at {cut}");
            last = response;
        }
        last
    }

    #[test]
    fn ends_by_length_by_chunks_and_by_status() {
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").status, 200);
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n").status, 200);
        assert_eq!(whole(b"HTTP/1.1 204 No Content\r\n\r\n").status, 204);
        assert!(whole(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx").close);
    }

    #[test]
    fn an_interim_response_is_not_the_answer() {
        let response = whole(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(response.status, 200);
    }

    #[test]
    fn without_a_length_the_connection_ends_it() {
        let mut response = Response::new();
        assert!(!response.feed(b"HTTP/1.1 200 OK\r\n\r\nsome", false));
        assert!(response.ends_with_connection());
        assert!(Response::new().feed(b"HTTP/1.1 200 Connection established\r\n\r\n", true));
    }
}
