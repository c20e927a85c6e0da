//! The load: which connection sends when, and what came back.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::connection::{Connection, State, Step};
use crate::options::Options;
use crate::report::Report;
use crate::tls;

/// After so many errors nothing that is measured means anything.
const MAX_ERRORS: u64 = 20_000;
/// How long the last answers are waited for.
const FINISH: Duration = Duration::from_secs(10);

pub(crate) struct Generator {
    options: Options,
    /// The different requests, sent in turn.
    requests: Vec<Vec<u8>>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Open loop: connections that wait for a request.
    idle: Vec<usize>,
    /// Open loop: requests that wait for a connection, by due time.
    queue: VecDeque<Instant>,
    /// Connections whose last connect or request failed: taken up again from the main loop, since a connect that fails at once would
    /// recurse.
    retry: Vec<usize>,
    report: Report,
    buffer: Vec<u8>,
}

impl Generator {
    pub(crate) fn new(options: Options) -> io::Result<Self> {
        let tls = match &options.tls {
            Some(name) => {
                Some((tls::client(b"http/1.1").map_err(io::Error::other)?, ServerName::try_from(name.clone()).map_err(io::Error::other)?))
            }
            None => None,
        };
        let now = Instant::now();
        Ok(Generator {
            requests: options.all(),
            tls,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: (0..options.conns).map(|_| Connection::new(now)).collect(),
            idle: Vec::new(),
            queue: VecDeque::new(),
            retry: Vec::new(),
            report: Report::new(now, now),
            buffer: vec![0; 65_536],
            options,
        })
    }

    /// Generates the load and says what came of it.
    pub(crate) fn run(mut self) -> io::Result<String> {
        let start = Instant::now();
        self.report.from = start + Duration::from_secs_f64(self.options.warmup);
        self.report.until = self.report.from + Duration::from_secs_f64(self.options.duration);
        for index in 0..self.connections.len() {
            match (self.options.open_loop(), self.options.close) {
                (false, _) => self.start(index, start),
                (true, true) => self.idle.push(index),
                (true, false) => self.open(index),
            }
        }
        let mut events = vec![Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 1024];
        let (mut sent, mut before) = (0_u64, None);
        loop {
            let now = Instant::now();
            if now >= self.report.until {
                break;
            }
            if self.spent() && self.outstanding() == 0 {
                self.report.until = now;
                break;
            }
            if before.is_none() && now >= self.report.from {
                before = Some(self.received());
            }
            let mut wait = self.report.until - now;
            if self.options.open_loop() {
                wait = wait.min(self.send_due(start, now, &mut sent));
            }
            if !self.retry.is_empty() {
                wait = wait.min(Duration::from_millis(1));
            }
            let ready = self.wait(&mut events, wait)?;
            for index in std::mem::take(&mut self.retry) {
                self.next(index);
            }
            for event in &events[..ready] {
                self.event(event.data.u64() as usize, event.flags);
            }
        }
        if self.options.finish {
            self.finish(&mut events)?;
        }
        self.charge_unanswered();
        let bytes = self.received() - before.unwrap_or_default();
        let backlog = self.queue.len();
        Ok(self.report.line(bytes, backlog))
    }

    /// Whether as many requests were sent as there shall be.
    fn spent(&self) -> bool {
        self.options.requests > 0 && self.report.sent >= self.options.requests
    }

    fn outstanding(&self) -> usize {
        self.connections.iter().filter(|connection| connection.armed || connection.state == State::Busy).count()
    }

    /// Nothing new is sent; what is outstanding is waited for, so that no request is cut off in the middle.
    fn finish(&mut self, events: &mut [Event]) -> io::Result<()> {
        let limit = Instant::now() + FINISH;
        // A connection that is still being made would send when it stands.
        let unsent = self.connections.iter_mut().filter(|connection| connection.armed);
        unsent.for_each(|connection| connection.armed = false);
        let busy = |connection: &Connection| !matches!(connection.state, State::Closed | State::Idle);
        while self.connections.iter().any(busy) && Instant::now() < limit {
            let ready = self.wait(events, Duration::from_millis(10))?;
            for event in &events[..ready] {
                self.event(event.data.u64() as usize, event.flags);
            }
        }
        Ok(())
    }

    fn wait(&self, events: &mut [Event], wait: Duration) -> io::Result<usize> {
        let limit = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        match epoll::wait(&self.epoll, events, Some(&limit)) {
            Ok(ready) => Ok(ready),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends, or queues, every request due by now; returns how long until the next.
    fn send_due(&mut self, start: Instant, now: Instant, sent: &mut u64) -> Duration {
        loop {
            let due = start + Duration::from_secs_f64(*sent as f64 / self.options.rate);
            if due > now {
                return due - now;
            }
            *sent += 1;
            match self.idle.pop() {
                Some(index) => self.start(index, due),
                None => self.queue.push_back(due),
            }
        }
    }

    /// Open loop: requests due but unanswered at the end are counted with the wait that they already had.
    fn charge_unanswered(&mut self) {
        if !self.options.open_loop() {
            return;
        }
        let now = Instant::now();
        let out = self.connections.iter().filter(|connection| connection.armed || connection.state == State::Busy);
        for due in self.queue.iter().copied().chain(out.map(|connection| connection.due)) {
            self.report.waited(now.saturating_duration_since(due));
        }
    }

    fn received(&self) -> u64 {
        self.connections.iter().map(|connection| connection.response.bytes).sum()
    }

    fn open(&mut self, index: usize) {
        self.report.connects += 1;
        let tls = self.tls.as_ref().map(|(config, name)| (config, name));
        match self.connections[index].open(self.options.target, tls) {
            Ok(()) => self.watch(index, EventFlags::IN | EventFlags::OUT),
            Err(error) => self.failed(index, format!("connect: {error}")),
        }
    }

    /// Tells epoll what this connection waits for.
    fn watch(&mut self, index: usize, interest: EventFlags) {
        let connection = &mut self.connections[index];
        let before = std::mem::replace(&mut connection.interest, interest);
        let Some(stream) = connection.stream() else { return };
        let data = EventData::new_u64(index as u64);
        let told = if before.is_empty() {
            epoll::add(&self.epoll, stream, data, interest)
        } else if before != interest {
            epoll::modify(&self.epoll, stream, data, interest)
        } else {
            Ok(())
        };
        if let Err(error) = told {
            self.failed(index, format!("epoll: {error}"));
        }
    }

    fn failed(&mut self, index: usize, why: String) {
        let now = Instant::now();
        let connection = &mut self.connections[index];
        // A kept-alive connection that the server closes while nothing is outstanding is no error.
        if connection.armed || connection.state == State::Busy {
            self.report.failed(now, why);
        }
        connection.armed = false;
        connection.close();
        self.idle.retain(|other| *other != index);
        if self.report.errors > MAX_ERRORS {
            self.report.until = now.max(self.report.from + Duration::from_nanos(1));
        }
        self.retry.push(index);
    }

    /// The connection is free: what does it do now?
    fn next(&mut self, index: usize) {
        let now = Instant::now();
        if now >= self.report.until || self.spent() {
            return;
        }
        if !self.options.open_loop() {
            self.start(index, now);
        } else if let Some(due) = self.queue.pop_front() {
            self.start(index, due);
        } else if !self.idle.contains(&index) {
            self.idle.push(index);
        }
    }

    fn start(&mut self, index: usize, due: Instant) {
        let connection = &mut self.connections[index];
        connection.due = due;
        connection.armed = true;
        match connection.state {
            State::Closed => self.open(index),
            State::Idle => self.send(index),
            State::Connecting | State::Tunnelling | State::Busy => {}
        }
    }

    fn send(&mut self, index: usize) {
        if self.spent() {
            self.connections[index].armed = false;
            return;
        }
        let connection = &mut self.connections[index];
        connection.armed = false;
        let turn = self.report.sent % self.requests.len() as u64;
        self.report.sent += 1;
        match connection.put(State::Busy, &self.requests[turn as usize]) {
            Ok(()) => self.flush(index),
            Err(error) => self.failed(index, format!("write: {error}")),
        }
    }

    fn flush(&mut self, index: usize) {
        match self.connections[index].flush() {
            Ok(true) => self.watch(index, EventFlags::IN | EventFlags::OUT),
            Ok(false) => self.watch(index, EventFlags::IN),
            Err(error) => self.failed(index, format!("write: {error}")),
        }
    }

    fn event(&mut self, index: usize, flags: EventFlags) {
        let broken = EventFlags::ERR | EventFlags::HUP;
        if self.connections[index].stream().is_none() {
            return;
        }
        if self.connections[index].state == State::Connecting && flags.intersects(EventFlags::OUT | broken) {
            return self.connected(index);
        }
        if flags.contains(EventFlags::OUT) {
            self.flush(index);
        }
        if flags.intersects(EventFlags::IN | broken) {
            self.readable(index);
        }
    }

    fn connected(&mut self, index: usize) {
        if let Some(error) = self.connections[index].connect_error() {
            return self.failed(index, format!("connect: {error}"));
        }
        match &self.options.connect {
            Some(authority) => {
                self.report.tunnels += 1;
                let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
                match self.connections[index].put(State::Tunnelling, head.as_bytes()) {
                    Ok(()) => self.flush(index),
                    Err(error) => self.failed(index, format!("write: {error}")),
                }
            }
            None => self.ready(index),
        }
    }

    /// TCP, and the tunnel where there is one, stands.
    fn ready(&mut self, index: usize) {
        self.connections[index].state = State::Idle;
        if self.connections[index].armed {
            self.send(index);
        } else {
            self.next(index);
        }
    }

    fn readable(&mut self, index: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let step = self.connections[index].step(&mut buffer);
            if self.connections[index].wants_flush() {
                self.flush(index);
            }
            match step {
                Ok(Step::More) => {}
                Ok(Step::Wait) => break,
                Ok(Step::Answered { more }) => {
                    self.answered(index);
                    if !more || self.connections[index].stream().is_none() || self.options.close {
                        break;
                    }
                }
                Ok(Step::Ended) => {
                    self.ended(index);
                    break;
                }
                Err(error) => {
                    self.failed(index, format!("read: {error}"));
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn ended(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.state == State::Busy && connection.response.ends_with_connection() {
            connection.response.close = true;
            return self.answered(index);
        }
        let state = connection.state;
        self.failed(index, format!("closed by the peer while {state:?}"));
    }

    fn answered(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let status = connection.response.status;
        if connection.state == State::Tunnelling {
            connection.response.reset();
            return match status {
                200 => self.ready(index),
                _ => self.failed(index, format!("CONNECT answered {status}")),
            };
        }
        self.report.answered(Instant::now(), connection.due, status);
        connection.state = State::Idle;
        if self.options.close || connection.response.close {
            connection.close();
        }
        self.next(index);
    }
}
