//! The server's end: answers every request of every connection until the process ends.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Result, bail};
use bytes::Bytes;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use serde_json::json;

use crate::wire::*;

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
    while let Ok((send, recv)) = connection.accept_bi().await {
        let job = answer(connection.clone(), count.clone(), block.clone(), send, recv);
        tokio::spawn(async move {
            // An error here is a request that the client gave up.
            let _ = job.await;
        });
    }
    datagrams.abort();
    uni.abort();
}

async fn accept_uni(connection: Connection, block: Bytes) {
    while let Ok(mut recv) = connection.accept_uni().await {
        let (connection, block) = (connection.clone(), block.clone());
        tokio::spawn(async move {
            let (wanted, _) = head(&mut recv).await?;
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
        ECHO => {
            if !rest.is_empty() {
                send.write_chunk(rest).await?;
            }
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
                send.write_chunk(chunk.bytes).await?;
            }
        }
        DIGEST => {
            let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
            digest.update(&rest);
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
                digest.update(&chunk.bytes);
            }
            send.write_all(digest.finish().as_ref()).await?;
        }
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
