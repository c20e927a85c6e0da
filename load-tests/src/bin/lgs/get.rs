//! Requests over HTTP/2: a number of streams on each connection, through a CONNECT tunnel and TLS where asked for.
//!
//! Closed loop: each stream asks again as soon as it was answered. Open loop: request i is due at i / rate whatever the server does, and its
//! latency runs from there, as in `lg`.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustls::pki_types::ServerName;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::options::Options;
use crate::stream::PATIENCE;
use crate::tally::Tally;
use crate::{Failure, tls};

/// After so many failures nothing that is measured means anything.
const MAX_FAILED: u64 = 10_000;

/// One connection, with as many places as it has streams.
struct Lane {
    sender: SendRequest<Bytes>,
    places: Semaphore,
}

/// Asks until the time is over; what is under way then is answered before the end.
pub(crate) async fn run(options: &Options) -> Result<String, Failure> {
    let mut lanes = Vec::new();
    for _ in 0..options.conns {
        lanes.push(Rc::new(Lane { sender: open(options).await?, places: Semaphore::new(options.streams) }));
    }
    let tally = Rc::new(RefCell::new(Tally::default()));
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(options.duration);
    let tasks =
        if options.rate > 0.0 { paced(options, &lanes, &tally, began, until).await? } else { unpaced(options, &lanes, &tally, until) };
    for task in tasks {
        task.await?;
    }
    let line = tally.borrow_mut().line(began);
    Ok(line)
}

fn unpaced(options: &Options, lanes: &[Rc<Lane>], tally: &Rc<RefCell<Tally>>, until: Instant) -> Vec<JoinHandle<()>> {
    let each = lanes.iter().flat_map(|lane| (0..options.streams).map(move |_| Rc::clone(lane)));
    each.map(|lane| {
        let (options, tally) = (options.clone(), Rc::clone(tally));
        tokio::task::spawn_local(async move {
            while Instant::now() < until && tally.borrow().failed < MAX_FAILED {
                one(&lane, &options, &tally, Instant::now()).await;
            }
        })
    })
    .collect()
}

async fn paced(
    options: &Options,
    lanes: &[Rc<Lane>],
    tally: &Rc<RefCell<Tally>>,
    began: Instant,
    until: Instant,
) -> Result<Vec<JoinHandle<()>>, Failure> {
    let (timer, mut tasks) = (Timer::new()?, Vec::new());
    for (number, lane) in lanes.iter().cycle().enumerate() {
        let due = began + Duration::from_secs_f64(number as f64 / options.rate);
        if due >= until || tally.borrow().failed >= MAX_FAILED {
            break;
        }
        timer.wait(due).await?;
        let (lane, options, tally) = (Rc::clone(lane), options.clone(), Rc::clone(tally));
        tasks.push(tokio::task::spawn_local(async move { one(&lane, &options, &tally, due).await }));
    }
    Ok(tasks)
}

async fn one(lane: &Lane, options: &Options, tally: &RefCell<Tally>, due: Instant) {
    tally.borrow_mut().opened += 1;
    let asked = timeout(PATIENCE, ask(lane, options)).await.map_err(Failure::from).flatten();
    let mut tally = tally.borrow_mut();
    if let Ok(good) = asked {
        tally.echoed(due.elapsed());
        tally.non2xx += u64::from(!good);
    }
    tally.stream(asked.map(|_| ()));
}

/// Whether the answer is a 2xx.
async fn ask(lane: &Lane, options: &Options) -> Result<bool, Failure> {
    let _place = lane.places.acquire().await?;
    let mut sender = lane.sender.clone().ready().await?;
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let head = Request::get(format!("{scheme}://{}{}", options.host, options.path)).header("user-agent", "lgs").body(())?;
    let (answer, _) = sender.send_request(head, true)?;
    let answer = answer.await?;
    let good = answer.status().is_success();
    let mut body = answer.into_body();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
    }
    Ok(good)
}

/// A connection that is ready for requests.
async fn open(options: &Options) -> Result<SendRequest<Bytes>, Failure> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(options.target)).await??;
    stream.set_nodelay(true)?;
    if let Some(authority) = &options.connect {
        timeout(PATIENCE, tunnel(&mut stream, authority)).await??;
    }
    let Some(name) = &options.tls else { return speak(stream).await };
    let connector = tokio_rustls::TlsConnector::from(tls::client(b"h2")?);
    let stream = timeout(PATIENCE, connector.connect(ServerName::try_from(name.clone())?, stream)).await??;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => speak(stream).await,
        _ => Err("HTTP/2 was not agreed on (ALPN)".into()),
    }
}

async fn tunnel(stream: &mut TcpStream, authority: &str) -> Result<(), Failure> {
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        if head.len() > 16_384 {
            return Err("no end of the head".into());
        }
    }
    let status = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if status == b"200" { Ok(()) } else { Err(format!("CONNECT: answered {}", String::from_utf8_lossy(status)).into()) }
}

async fn speak<IO: AsyncRead + AsyncWrite + Unpin + 'static>(io: IO) -> Result<SendRequest<Bytes>, Failure> {
    let (sender, connection) = timeout(PATIENCE, h2::client::handshake(io)).await??;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// Waits to the microsecond: the runtime's own timer counts milliseconds, and every latency would hold the rest of one.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    #[expect(
        deprecated,
        reason = "what makes `new` unsound is a descriptor that is not owned; this one is, and `register` asks for `unsafe`"
    )]
    fn new() -> Result<Self, Failure> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Timer(AsyncFd::new(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    async fn wait(&self, due: Instant) -> Result<(), Failure> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Late already: the answers have their turn all the same.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: none, it_value: once })?;
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?)) {
                Ok(read) => return read.map(|_| ()).map_err(Failure::from),
                Err(_) => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Response;
    use tokio::net::TcpListener;

    use super::*;

    /// Answers 200, and 404 under `/none`.
    async fn serve(listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let status = if request.uri().path() == "/none" { 404 } else { 200 };
                    let mut out = respond.send_response(Response::builder().status(status).body(()).unwrap(), false).unwrap();
                    out.send_data(Bytes::from_static(b"answer"), true).unwrap();
                }
            });
        }
    }

    fn said(words: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let words = format!("--target {} --duration 0.2 {words}", listener.local_addr().unwrap());
            tokio::task::spawn_local(serve(listener));
            run(&Options::parse(words.split_whitespace().map(String::from)).unwrap()).await.unwrap()
        })
    }

    #[test]
    fn a_fixed_rate_asks_so_often_and_no_more() {
        let line = said("--rate 500 --conns 2 --streams 3");
        assert!(line.starts_with("{\"requests\":100,\"all\":100,") && line.contains("\"non2xx\":0,\"errors\":0,"), "{line}");
    }

    #[test]
    fn other_answers_than_2xx_are_told_apart() {
        let line = said("--rate 100 --path /none");
        assert!(line.starts_with("{\"requests\":20,\"all\":20,") && line.contains("\"non2xx\":20,\"errors\":0,"), "{line}");
    }

    #[test]
    fn without_a_rate_every_stream_asks_again_when_it_was_answered() {
        let line = said("--conns 1 --streams 2");
        assert!(!line.starts_with("{\"requests\":0,") && line.contains("\"non2xx\":0,\"errors\":0,"), "{line}");
    }
}
