//! The client's end: the works of `rawquic/perf/works.py`, measured the same way.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::{try_join, try_join_all};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::wire::*;

const FIRST_SIZE: u64 = 1 << 20;
const LARGEST_SIZE: u64 = 1 << 32;
const STALL: Duration = Duration::from_millis(250);
const SETTLE: Duration = Duration::from_millis(50);
const OPENING_AT_ONCE: usize = 32;
const DATAGRAM_HEAD: usize = 1 + WORD;

#[derive(Deserialize, Clone)]
#[serde(default)]
pub struct Options {
    duration: f64,
    pub size: Option<u64>,
    streams: u64,
    open_streams: u64,
    connections: usize,
    count: Option<i64>,
    request_size: usize,
    answer_size: u64,
    at_once: usize,
    datagram_size: usize,
    window: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            duration: 2.0,
            size: None,
            streams: 1,
            open_streams: 0,
            connections: 1,
            count: None,
            request_size: 64,
            answer_size: 64,
            at_once: 1,
            datagram_size: 1100,
            window: 256,
        }
    }
}

#[derive(Clone)]
pub struct Peer {
    pub endpoint: Endpoint,
    pub address: SocketAddr,
}

impl Peer {
    pub async fn connect(&self) -> Result<Connection> {
        Ok(self.endpoint.connect(self.address, "localhost")?.await?)
    }

    async fn connect_all(&self, count: usize) -> Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(self.connect().await?);
        }
        Ok(connections)
    }
}

/// A measurement; the names are those of `rawquic.perf.Result`.
#[derive(Default)]
struct Outcome {
    seconds: f64,
    bytes: u64,
    count: u64,
    lost: u64,
    stall: Option<f64>,
    latencies: Vec<f64>,
    client_cpu: Option<f64>,
    server_cpu: Option<f64>,
    server_rss_per_session: Option<i64>,
    client_counters: Map<String, Value>,
    server_counters: Map<String, Value>,
}

impl Outcome {
    fn json(mut self, work: &str) -> Value {
        self.latencies.sort_by(f64::total_cmp);
        let last = self.latencies.len().saturating_sub(1);
        let latency: Map<String, Value> = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)]
            .into_iter()
            .filter(|_| !self.latencies.is_empty())
            .map(|(name, rank)| {
                let index = last.min((rank * self.latencies.len() as f64) as usize);
                (name.to_string(), json!((self.latencies[index] * 1e7).round() / 10.0))
            })
            .collect();
        let rate = |n: u64| if self.seconds > 0.0 { n as f64 / self.seconds } else { 0.0 };
        json!({
            "work": work,
            "seconds": self.seconds,
            "bytes": self.bytes,
            "count": self.count,
            "lost": self.lost,
            "stall": self.stall,
            "latency": latency,
            "client_cpu": self.client_cpu,
            "server_cpu": self.server_cpu,
            "server_rss_per_session": self.server_rss_per_session,
            "client_counters": self.client_counters,
            "server_counters": self.server_counters,
            "megabytes_per_second": rate(self.bytes) / 1e6,
            "per_second": rate(self.count),
        })
    }
}

pub async fn report(connection: &Connection) -> Result<Value> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&REPORT.to_be_bytes()).await?;
    send.finish()?;
    Ok(serde_json::from_slice(&recv.read_to_end(1 << 20).await?)?)
}

fn total_cpu() -> f64 {
    let (user, system) = cpu();
    user + system
}

fn server_cpu(report: &Value) -> f64 {
    ["cpu_user", "cpu_system"].iter().filter_map(|name| report[name].as_f64()).sum()
}

/// Both ends' usage over a stretch of one session; the reports are outside of the clock.
struct Meter {
    connection: Connection,
    server: Value,
    counters: Map<String, Value>,
    cpu: f64,
    started: Instant,
}

impl Meter {
    async fn start(connection: &Connection) -> Result<Meter> {
        let server = report(connection).await?;
        Ok(Meter {
            connection: connection.clone(),
            server,
            counters: counters(connection),
            cpu: total_cpu(),
            started: Instant::now(),
        })
    }

    /// Stop the clock and ask the server; returns its report.
    async fn stop(self, outcome: &mut Outcome) -> Result<Value> {
        outcome.seconds = self.started.elapsed().as_secs_f64();
        outcome.client_cpu = Some(total_cpu() - self.cpu);
        outcome.client_counters = difference(&counters(&self.connection), &self.counters);
        let after = report(&self.connection).await?;
        outcome.server_cpu = Some(server_cpu(&after) - server_cpu(&self.server));
        let empty = Map::new();
        outcome.server_counters = difference(
            after["counters"].as_object().unwrap_or(&empty),
            self.server["counters"].as_object().unwrap_or(&empty),
        );
        Ok(after)
    }
}

/// How many are still to be done: a number, or until a moment.
struct Quota {
    left: Cell<Option<i64>>,
    end: Instant,
}

impl Quota {
    fn new(options: &Options) -> Quota {
        let end = Instant::now() + Duration::from_secs_f64(options.duration);
        Quota { left: Cell::new(options.count), end }
    }

    fn take(&self) -> bool {
        match self.left.get() {
            None => Instant::now() < self.end,
            Some(left) => {
                self.left.set(Some(left - 1));
                left > 0
            }
        }
    }
}

pub async fn run(work: &str, peer: &Peer, options: &Options) -> Result<Value> {
    let outcome = match work {
        "verify" => return verify(peer).await,
        "download" | "upload" | "both" => transfer(work, peer, options).await?,
        "hashed-download" => hashed_download(peer, options).await?,
        "requests" => requests(peer, options).await?,
        "ping-pong" => ping_pong(peer, options).await?,
        "datagrams" => datagrams(peer, options).await?,
        "datagram-echo" => datagram_echo(peer, options).await?,
        "handshakes" => handshakes(peer, options).await?,
        "idle" => idle(peer, options).await?,
        _ => bail!("there is no work {work}"),
    };
    Ok(outcome.json(work))
}

fn close_all(connections: &[Connection]) {
    for connection in connections {
        connection.close(VarInt::from_u32(0), b"");
    }
}

// Transfers

async fn fetch(connection: &Connection, size: u64) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&size.to_be_bytes()).await?;
    send.finish()?;
    let got = drain(&mut recv).await?;
    ensure!(got == size, "{size} bytes were asked for, {got} came");
    Ok(())
}

async fn give(connection: &Connection, block: &Bytes, size: u64) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&1u64.to_be_bytes()).await?;
    pour(&mut send, block, size).await?;
    send.finish()?;
    ensure!(drain(&mut recv).await? == 1, "an upload was not answered with one byte");
    Ok(())
}

/// Streams that the server would echo, on which nothing moves; it has heard of each one.
async fn hold_open(connection: &Connection, count: u64) -> Result<Vec<(SendStream, RecvStream)>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let (mut send, recv) = connection.open_bi().await?;
        send.write_all(&ECHO.to_be_bytes()).await?;
        send.write_all(b"x").await?;
        held.push((send, recv));
    }
    for (_, recv) in &mut held {
        recv.read_chunk(1, true).await?;
    }
    Ok(held)
}

async fn transfer(work: &str, peer: &Peer, options: &Options) -> Result<Outcome> {
    let connections = peer.connect_all(options.connections).await?;
    let parts = options.connections as u64 * options.streams;
    let block = Bytes::from(vec![0; CHUNK]);
    let move_one = async |connection: &Connection, size: u64| -> Result<()> {
        match work {
            "download" => fetch(connection, size).await,
            "upload" => give(connection, &block, size).await,
            _ => try_join(fetch(connection, size), give(connection, &block, size))
                .await
                .map(|_| ()),
        }
    };
    let move_all = async |size: u64| -> Result<f64> {
        let started = Instant::now();
        let each = (size / parts).max(1);
        let jobs = connections
            .iter()
            .flat_map(|connection| (0..options.streams).map(move |_| connection))
            .map(|connection| move_one(connection, each));
        try_join_all(jobs).await?;
        Ok(started.elapsed().as_secs_f64())
    };
    let mut held = Vec::new();
    for connection in &connections {
        held.push(hold_open(connection, options.open_streams).await?);
    }
    let mut size = FIRST_SIZE.min(options.size.unwrap_or(FIRST_SIZE));
    let mut seconds = move_all(size).await?;
    while options.size.is_none() && seconds < options.duration / 4.0 && size < LARGEST_SIZE {
        size = LARGEST_SIZE.min(size * 4);
        seconds = move_all(size).await?;
    }
    let wanted = options.size.unwrap_or((size as f64 / seconds * options.duration) as u64);
    let wanted = wanted.max(parts).min(LARGEST_SIZE);
    let both = if work == "both" { 2 } else { 1 };
    let mut outcome = Outcome { bytes: wanted * both, count: parts, ..Outcome::default() };
    let meter = Meter::start(&connections[0]).await?;
    move_all(wanted).await?;
    meter.stop(&mut outcome).await?;
    drop(held);
    close_all(&connections);
    Ok(outcome)
}

/// Random bytes on a fresh connection, hashed at both ends: goodput and the worst stall.
async fn hashed_download(peer: &Peer, options: &Options) -> Result<Outcome> {
    let size = options.size.unwrap_or(FIRST_SIZE);
    let connection = peer.connect().await?;
    let mut outcome = Outcome { bytes: size, count: 1, ..Outcome::default() };
    let meter = Meter::start(&connection).await?;
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let (mut told, mut left, mut stall) = (BytesMut::new(), size, Duration::ZERO);
    let mut progress = Instant::now();
    let (mut send, mut recv) = connection.open_bi().await?;
    put(&mut send, &[&RANDOM.to_be_bytes(), &size.to_be_bytes()]).await?;
    while let Some(chunk) = recv.read_chunk(CHUNK, true).await? {
        let now = Instant::now();
        stall = stall.max(now - progress);
        progress = now;
        let body = left.min(chunk.bytes.len() as u64) as usize;
        digest.update(&chunk.bytes[..body]);
        told.extend_from_slice(&chunk.bytes[body..]);
        left -= body as u64;
        ensure!(told.len() <= DIGEST_SIZE, "too many bytes came");
    }
    outcome.stall = Some(stall.as_secs_f64());
    meter.stop(&mut outcome).await?;
    ensure!(told == digest.finish().as_ref(), "other bytes came");
    close_all(&[connection]);
    Ok(outcome)
}

// Requests

async fn ask(connection: &Connection, request: &Bytes, answer_size: u64) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_chunk(request.clone()).await?;
    send.finish()?;
    let got = drain(&mut recv).await?;
    ensure!(got == answer_size, "an answer of {answer_size} bytes was asked for, {got} came");
    Ok(())
}

async fn requests(peer: &Peer, options: &Options) -> Result<Outcome> {
    let connections = peer.connect_all(options.connections).await?;
    let mut request = vec![0; options.request_size.max(WORD)];
    request[..WORD].copy_from_slice(&options.answer_size.to_be_bytes());
    let request = Bytes::from(request);
    for connection in &connections {
        ask(connection, &request, options.answer_size).await?;
    }
    let meter = Meter::start(&connections[0]).await?;
    let (quota, latencies) = (Quota::new(options), RefCell::new(Vec::new()));
    let worker = async |connection: &Connection| -> Result<()> {
        while quota.take() {
            let started = Instant::now();
            ask(connection, &request, options.answer_size).await?;
            latencies.borrow_mut().push(started.elapsed().as_secs_f64());
        }
        Ok(())
    };
    let jobs = connections
        .iter()
        .flat_map(|connection| (0..options.at_once).map(move |_| connection))
        .map(&worker);
    try_join_all(jobs).await?;
    let latencies = latencies.take();
    let mut outcome = Outcome {
        bytes: latencies.len() as u64 * (request.len() as u64 + options.answer_size),
        count: latencies.len() as u64,
        latencies,
        ..Outcome::default()
    };
    meter.stop(&mut outcome).await?;
    close_all(&connections);
    Ok(outcome)
}

async fn exchange(send: &mut SendStream, recv: &mut RecvStream, message: &Bytes) -> Result<()> {
    send.write_chunk(message.clone()).await?;
    let mut left = message.len();
    while left > 0 {
        let chunk = recv.read_chunk(left, true).await?;
        left -= chunk.context("the server ended a stream that it was to echo")?.bytes.len();
    }
    Ok(())
}

async fn ping_pong(peer: &Peer, options: &Options) -> Result<Outcome> {
    let connection = peer.connect().await?;
    let message = Bytes::from(vec![0; options.request_size]);
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&ECHO.to_be_bytes()).await?;
    exchange(&mut send, &mut recv, &message).await?;
    let meter = Meter::start(&connection).await?;
    let quota = Quota::new(options);
    let mut latencies = Vec::new();
    while quota.take() {
        let started = Instant::now();
        exchange(&mut send, &mut recv, &message).await?;
        latencies.push(started.elapsed().as_secs_f64());
    }
    let count = latencies.len() as u64;
    let bytes = 2 * count * message.len() as u64;
    let mut outcome = Outcome { bytes, count, latencies, ..Outcome::default() };
    meter.stop(&mut outcome).await?;
    close_all(&[connection]);
    Ok(outcome)
}

// Datagrams

fn fitting(connection: &Connection, options: &Options) -> Result<usize> {
    let limit = connection.max_datagram_size().context("the server takes no datagrams")?;
    Ok(options.datagram_size.min(limit).max(DATAGRAM_HEAD))
}

async fn datagrams(peer: &Peer, options: &Options) -> Result<Outcome> {
    let connection = peer.connect().await?;
    let mut data = vec![0; fitting(&connection, options)?];
    data[0] = SINK;
    let data = Bytes::from(data);
    let meter = Meter::start(&connection).await?;
    let quota = Quota::new(options);
    let mut sent = 0u64;
    while quota.take() {
        connection.send_datagram_wait(data.clone()).await?;
        sent += 1;
    }
    let mut outcome = Outcome::default();
    let mut after = meter.stop(&mut outcome).await?;
    let got = |report: &Value| report["datagrams"].as_u64().unwrap_or(0);
    while got(&after) < sent {
        tokio::time::sleep(SETTLE).await;
        let again = report(&connection).await?;
        let settled = got(&again) == got(&after);
        after = again;
        if settled {
            break;
        }
    }
    outcome.count = got(&after);
    outcome.bytes = after["datagram_bytes"].as_u64().unwrap_or(0);
    outcome.seconds = after["datagram_seconds"].as_f64().unwrap_or(0.0);
    outcome.lost = sent.saturating_sub(outcome.count);
    close_all(&[connection]);
    Ok(outcome)
}

async fn datagram_echo(peer: &Peer, options: &Options) -> Result<Outcome> {
    let connection = peer.connect().await?;
    let size = fitting(&connection, options)?;
    let epoch = Instant::now();
    let fresh = || {
        let mut data = BytesMut::with_capacity(size);
        data.put_u8(BOUNCE);
        data.put_u64(epoch.elapsed().as_nanos() as u64);
        data.resize(size, 0);
        data.freeze()
    };
    let meter = Meter::start(&connection).await?;
    let quota = Quota::new(options);
    let mut outcome = Outcome::default();
    for _ in 0..options.window {
        connection.send_datagram(fresh())?;
    }
    while quota.take() {
        match tokio::time::timeout(STALL, connection.read_datagram()).await {
            Ok(data) => {
                let data = data?;
                outcome.count += 1;
                let sent = u64::from_be_bytes(data[1..DATAGRAM_HEAD].try_into()?);
                let age = epoch.elapsed().as_nanos() as u64 - sent;
                outcome.latencies.push(age as f64 * 1e-9);
                connection.send_datagram(fresh())?;
            }
            Err(_) => {
                outcome.lost += options.window as u64;
                for _ in 0..options.window {
                    connection.send_datagram(fresh())?;
                }
            }
        }
    }
    outcome.bytes = 2 * outcome.count * size as u64;
    meter.stop(&mut outcome).await?;
    close_all(&[connection]);
    Ok(outcome)
}

// Connections

async fn handshakes(peer: &Peer, options: &Options) -> Result<Outcome> {
    let control = peer.connect().await?;
    let meter = Meter::start(&control).await?;
    let (quota, latencies) = (Quota::new(options), RefCell::new(Vec::new()));
    let worker = async || -> Result<()> {
        while quota.take() {
            let started = Instant::now();
            let connection = peer.connect().await?;
            latencies.borrow_mut().push(started.elapsed().as_secs_f64());
            connection.close(VarInt::from_u32(0), b"");
        }
        Ok(())
    };
    try_join_all((0..options.at_once).map(|_| worker())).await?;
    let latencies = latencies.take();
    let mut outcome =
        Outcome { count: latencies.len() as u64, latencies, ..Outcome::default() };
    meter.stop(&mut outcome).await?;
    close_all(&[control]);
    Ok(outcome)
}

async fn idle(peer: &Peer, options: &Options) -> Result<Outcome> {
    let control = peer.connect().await?;
    let mut connections = peer.connect_all(8).await?;
    tokio::time::sleep(SETTLE).await;
    let before = report(&control).await?;
    let (started, used) = (Instant::now(), total_cpu());
    let room = Rc::new(tokio::sync::Semaphore::new(OPENING_AT_ONCE));
    let open_one = async || -> Result<Connection> {
        let _place = room.acquire().await?;
        peer.connect().await
    };
    connections.extend(try_join_all((0..options.connections).map(|_| open_one())).await?);
    let mut outcome = Outcome {
        seconds: started.elapsed().as_secs_f64(),
        count: options.connections as u64,
        client_cpu: Some(total_cpu() - used),
        ..Outcome::default()
    };
    tokio::time::sleep(4 * SETTLE).await;
    let after = report(&control).await?;
    let rss = |report: &Value| report["rss"].as_i64().unwrap_or(0);
    let grown = rss(&after) - rss(&before);
    outcome.server_rss_per_session = Some(grown / options.connections.max(1) as i64);
    close_all(&connections);
    close_all(&[control]);
    Ok(outcome)
}

// Proof

pub async fn put(send: &mut SendStream, parts: &[&[u8]]) -> Result<()> {
    for part in parts {
        send.write_all(part).await?;
    }
    send.finish()?;
    Ok(())
}

async fn verify(peer: &Peer) -> Result<Value> {
    const SIZE: usize = 1 << 20;
    let connection = peer.connect().await?;
    let data = random(SIZE)?;
    let digest = sha256(&data);

    let (mut send, mut recv) = connection.open_bi().await?;
    put(&mut send, &[&DIGEST.to_be_bytes(), &data]).await?;
    ensure!(recv.read_to_end(SIZE).await? == digest, "upload: other bytes came");

    let (mut send, mut recv) = connection.open_bi().await?;
    put(&mut send, &[&RANDOM.to_be_bytes(), &(SIZE as u64).to_be_bytes()]).await?;
    let answer = recv.read_to_end(SIZE + DIGEST_SIZE).await?;
    ensure!(answer.len() == SIZE + DIGEST_SIZE, "download: {} bytes came", answer.len());
    ensure!(sha256(&answer[..SIZE]) == answer[SIZE..], "download: other bytes came");

    let (mut send, mut recv) = connection.open_bi().await?;
    let word = ECHO.to_be_bytes();
    let parts: [&[u8]; 2] = [&word, &data];
    let (_, echo) = try_join(put(&mut send, &parts), async {
        Ok(recv.read_to_end(SIZE).await?)
    })
    .await?;
    ensure!(sha256(&echo) == digest, "echo: other bytes came");

    let size = connection.max_datagram_size().context("no datagrams")?.min(1000);
    let mut waiting = std::collections::HashSet::new();
    for _ in 0..64 {
        let mut data = random(size)?;
        data[0] = BOUNCE;
        waiting.insert(Bytes::from(data.clone()));
        connection.send_datagram(Bytes::from(data))?;
    }
    while !waiting.is_empty() {
        match tokio::time::timeout(Duration::from_secs(2), connection.read_datagram()).await {
            Ok(data) => ensure!(waiting.remove(&data?), "a datagram came back changed, or twice"),
            Err(_) => break,
        }
    }
    ensure!(waiting.len() < 64, "no datagram came back");
    close_all(&[connection]);
    Ok(json!({"sha256": {
        "upload": hex(&digest),
        "download": hex(&answer[SIZE..]),
        "echo": hex(&digest),
        "datagrams": "compared",
    }}))
}
