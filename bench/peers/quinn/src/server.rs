//! The server's end: answers every request of every connection until the process ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Result, bail};
use bytes::Bytes;
use quinn::{
    Connection, ConnectionError, Endpoint, ReadError, RecvStream, SendStream, VarInt, WriteError,
};
use serde_json::json;

use crate::wire::*;

const CLOSES_TOLD: usize = 32;

/// The application codes with which peers closed the last sessions of this process.
static CLOSES: Mutex<VecDeque<u64>> = Mutex::new(VecDeque::new());

/// Datagrams for the sink: how many came, and from when to when.
#[derive(Default)]
struct DatagramCount {
    datagrams: u64,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

type Count = Arc<Mutex<DatagramCount>>;

pub async fn run(endpoint: Endpoint) {
    let block = Bytes::from(random(CHUNK).expect("the system has random bytes"));
    while let Some(incoming) = endpoint.accept().await {
        let block = block.clone();
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                session(connection, block).await;
            }
        });
    }
}

pub async fn session(connection: Connection, block: Bytes) {
    let count = Count::default();
    let datagrams = tokio::spawn(take_datagrams(connection.clone(), count.clone()));
    let uni = tokio::spawn(accept_uni(connection.clone(), block.clone()));
    let ended = loop {
        let (send, recv) = match connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => break error,
        };
        let job = answer(connection.clone(), count.clone(), block.clone(), send, recv);
        tokio::spawn(async move {
            // An error here is a request that the client gave up.
            let _ = job.await;
        });
    };
    if let ConnectionError::ApplicationClosed(close) = ended {
        let mut closes = CLOSES.lock().expect("no holder panics");
        closes.push_back(close.error_code.into_inner());
        if closes.len() > CLOSES_TOLD {
            closes.pop_front();
        }
    }
    datagrams.abort();
    uni.abort();
}

async fn accept_uni(connection: Connection, block: Bytes) {
    while let Ok(mut recv) = connection.accept_uni().await {
        let (connection, block) = (connection.clone(), block.clone());
        tokio::spawn(async move {
            let (wanted, rest) = head(&mut recv).await?;
            if wanted == DIGEST {
                let digest = digest(&mut recv, &rest).await?;
                let mut send = connection.open_uni().await?;
                send.write_all(&digest).await?;
                send.finish()?;
                return Ok(());
            }
            drain(&mut recv).await?;
            let mut send = connection.open_uni().await?;
            pour(&mut send, &block, wanted).await?;
            send.finish()?;
            anyhow::Ok(())
        });
    }
}

/// The number that a request begins with, and what came with it.
async fn head(recv: &mut RecvStream) -> Result<(u64, Bytes)> {
    let mut data: Vec<u8> = Vec::new();
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
        if data.is_empty() && chunk.bytes.len() >= WORD {
            let number = u64::from_be_bytes(chunk.bytes[..WORD].try_into()?);
            return Ok((number, chunk.bytes.slice(WORD..)));
        }
        data.extend_from_slice(&chunk.bytes);
        if data.len() >= WORD {
            let number = u64::from_be_bytes(data[..WORD].try_into()?);
            return Ok((number, Bytes::from(data).slice(WORD..)));
        }
    }
    bail!("a request of fewer than {WORD} bytes")
}

/// The SHA-256 of `rest` and of what follows.
async fn digest(recv: &mut RecvStream, rest: &[u8]) -> Result<Vec<u8>> {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(rest);
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
        digest.update(&chunk.bytes);
    }
    Ok(digest.finish().as_ref().to_vec())
}

/// Everything back: the bytes, the end, a reset, a stop.
async fn echo(send: &mut SendStream, recv: &mut RecvStream, rest: Bytes) -> Result<()> {
    let mut data = rest;
    loop {
        if !data.is_empty() {
            match send.write_chunk(data).await {
                Err(WriteError::Stopped(code)) => return Ok(recv.stop(code)?),
                done => done?,
            }
        }
        data = match recv.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => chunk.bytes,
            Ok(None) => return Ok(send.finish()?),
            Err(ReadError::Reset(code)) => return Ok(send.reset(code)?),
            Err(error) => return Err(error.into()),
        };
    }
}

async fn answer(
    connection: Connection,
    count: Count,
    block: Bytes,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<()> {
    let Ok((wanted, rest)) = head(&mut recv).await else {
        send.reset(VarInt::from_u32(0))?;
        return Ok(());
    };
    match wanted {
        ECHO => return echo(&mut send, &mut recv, rest).await,
        DIGEST => send.write_all(&digest(&mut recv, &rest).await?).await?,
        RANDOM => {
            let mut argument = rest.to_vec();
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
                argument.extend_from_slice(&chunk.bytes);
            }
            let Ok(bytes) = <[u8; WORD]>::try_from(argument.as_slice()) else {
                send.reset(VarInt::from_u32(0))?;
                return Ok(());
            };
            let mut left = u64::from_be_bytes(bytes);
            let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
            while left > 0 {
                let data = random(left.min(CHUNK as u64) as usize)?;
                left -= data.len() as u64;
                digest.update(&data);
                send.write_chunk(Bytes::from(data)).await?;
            }
            send.write_all(digest.finish().as_ref()).await?;
        }
        CLOSE => {
            let mut code = rest.to_vec();
            while let Some(chunk) = recv.read_chunk(WORD, true).await? {
                code.extend_from_slice(&chunk.bytes);
            }
            let code = u64::from_be_bytes(code.as_slice().try_into()?);
            connection.close(VarInt::from_u64(code)?, b"as asked");
            return Ok(());
        }
        UPDATE_KEYS => {
            drain(&mut recv).await?;
            connection.force_key_update();
        }
        REPORT => {
            drain(&mut recv).await?;
            send.write_all(report(&connection, &count).as_bytes()).await?;
        }
        UNTIL_STOPPED => {
            drain(&mut recv).await?;
            loop {
                send.write_chunk(block.clone()).await?;
            }
        }
        _ => {
            drain(&mut recv).await?;
            pour(&mut send, &block, wanted).await?;
        }
    }
    send.finish()?;
    Ok(())
}

fn report(connection: &Connection, count: &Count) -> String {
    let (user, system) = cpu();
    let count = count.lock().expect("no holder panics");
    let seconds = match (count.first, count.last) {
        (Some(first), Some(last)) => (last - first).as_secs_f64(),
        _ => 0.0,
    };
    json!({
        "cpu_user": user,
        "cpu_system": system,
        "rss": rss(),
        "counters": counters(connection),
        "datagrams": count.datagrams,
        "datagram_bytes": count.bytes,
        "datagram_seconds": seconds,
        "closes": *CLOSES.lock().expect("no holder panics"),
    })
    .to_string()
}

async fn take_datagrams(connection: Connection, count: Count) {
    while let Ok(data) = connection.read_datagram().await {
        if data.first() == Some(&SINK) {
            let now = Instant::now();
            let mut count = count.lock().expect("no holder panics");
            count.first.get_or_insert(now);
            count.last = Some(now);
            count.datagrams += 1;
            count.bytes += data.len() as u64;
        } else {
            // One that does not fit is lost, as datagrams may be.
            let _ = connection.send_datagram(data);
        }
    }
}
