//! The client's end of the cases of `tests/interop/cases.py`: what each proves is said there.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::{try_join, try_join_all};
use quinn::crypto::rustls::HandshakeData;
use quinn::{
    Connection, ConnectionError, Endpoint, ReadError, RecvStream, SendStream, TransportErrorCode,
    VarInt, WriteError,
};
use serde_json::{Value, json};

use crate::client::{Options, Peer, put, report};
use crate::wire::*;

const SIZES: [usize; 9] = [1, 2, 8, 1199, 1200, 1453, 4096, 65_537, 300_000];
const AT_ONCE: [usize; 2] = [100, 80];
const DATAGRAMS: usize = 64;
const PATIENCE: Duration = Duration::from_millis(500);
const CODES: [u64; 3] = [0, 42, (1 << 62) - 1];
const CODE_BITS: [u32; 3] = [14, 30, 62];
const UPDATES: u64 = 3;
const PAUSE: Duration = Duration::from_millis(10);
const NO_APPLICATION_PROTOCOL: u8 = 120;

pub async fn run(case: &str, peer: &Peer, stranger: &Endpoint, options: &Options) -> Result<Value> {
    let size = options.size.unwrap_or(1 << 20) as usize;
    if case == "handshake" {
        other_alpn(peer, stranger).await?;
    }
    let connection = peer.connect().await?;
    let result = match case {
        "handshake" => handshake(&connection).await,
        "echo" => echo(&connection).await,
        "uni" => uni(&connection).await,
        "streams" => streams(&connection).await,
        "datagrams" => datagrams(&connection).await,
        "reset" => reset(&connection).await,
        "stop" => stop(&connection).await,
        "close-client" => close_here(&connection, peer).await,
        "close-server" => close_there(peer).await,
        "keys-client" => keys(&connection, true).await,
        "keys-server" => keys(&connection, false).await,
        "upload" => upload(&connection, size).await,
        "download" => download(&connection, size).await,
        _ => bail!("there is no case {case}"),
    };
    connection.close(VarInt::from_u32(0), b"");
    result.map(|()| json!({}))
}

fn some(size: usize) -> Result<Bytes> {
    Ok(Bytes::from(random(size)?))
}

async fn echoed(connection: &Connection, size: usize) -> Result<()> {
    let data = some(size)?;
    let (mut send, mut recv) = connection.open_bi().await?;
    let word = ECHO.to_be_bytes();
    let parts: [&[u8]; 2] = [&word, &data];
    let (_, echo) =
        try_join(put(&mut send, &parts), async { Ok(recv.read_to_end(size + 1).await?) }).await?;
    ensure!(sha256(&echo) == sha256(&data), "{size} bytes: others came back");
    Ok(())
}

/// A stream that is echoed, of which both ends know.
async fn open_echo(connection: &Connection) -> Result<(SendStream, RecvStream)> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&ECHO.to_be_bytes()).await?;
    exchange(&mut send, &mut recv, 1).await?;
    Ok((send, recv))
}

async fn exchange(send: &mut SendStream, recv: &mut RecvStream, size: usize) -> Result<()> {
    let data = some(size)?;
    let mut echo = vec![0; size];
    let reading = async { recv.read_exact(&mut echo).await.context("the echo ended") };
    try_join(async { Ok(send.write_all(&data).await?) }, reading).await?;
    ensure!(echo == data, "other bytes came back");
    Ok(())
}

async fn ask(connection: &Connection, parts: &[&[u8]]) -> Result<Vec<u8>> {
    let (mut send, mut recv) = connection.open_bi().await?;
    put(&mut send, parts).await?;
    Ok(recv.read_to_end(1 << 28).await?)
}

async fn other_alpn(peer: &Peer, stranger: &Endpoint) -> Result<()> {
    match stranger.connect(peer.address, "localhost")?.await {
        Ok(_) => bail!("a connection with another ALPN was taken"),
        Err(ConnectionError::ConnectionClosed(close))
            if close.error_code == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL) =>
        {
            Ok(())
        }
        Err(error) => bail!("another ALPN was not refused with alert 120: {error}"),
    }
}

async fn handshake(connection: &Connection) -> Result<()> {
    let data = connection.handshake_data().context("no handshake data")?;
    let data = data.downcast::<HandshakeData>().ok().context("data of another kind")?;
    ensure!(data.protocol.as_deref() == Some(ALPN), "ALPN {:?}", data.protocol);
    echoed(connection, 1).await
}

async fn echo(connection: &Connection) -> Result<()> {
    for size in SIZES {
        echoed(connection, size).await?;
    }
    let sizes = random(8 * 2)?;
    let sizes = sizes.chunks(2).map(|two| 2 * usize::from(u16::from_be_bytes([two[0], two[1]])));
    try_join_all(sizes.map(|size| echoed(connection, size + 1))).await?;
    Ok(())
}

async fn uni(connection: &Connection) -> Result<()> {
    let mut expected = Vec::new();
    for size in SIZES {
        let data = some(size)?;
        let mut send = connection.open_uni().await?;
        put(&mut send, &[&DIGEST.to_be_bytes(), &data]).await?;
        expected.push(sha256(&data));
    }
    let mut answers = Vec::new();
    for _ in SIZES {
        answers.push(connection.accept_uni().await?.read_to_end(DIGEST_SIZE).await?);
    }
    expected.sort();
    answers.sort();
    ensure!(answers == expected, "other digests came");
    Ok(())
}

async fn streams(connection: &Connection) -> Result<()> {
    for count in AT_ONCE {
        let mut open = Vec::new();
        for _ in 0..count {
            open.push(open_echo(connection).await?);
        }
        let jobs = open.iter_mut().map(|(send, recv)| async move {
            exchange(send, recv, 10_000).await?;
            send.finish()?;
            ensure!(recv.read_to_end(1).await?.is_empty(), "more came than was sent");
            Ok(())
        });
        try_join_all(jobs).await?;
    }
    Ok(())
}

async fn datagrams(connection: &Connection) -> Result<()> {
    let limit = connection.max_datagram_size().context("no datagrams")?.min(1100);
    let mut waiting = std::collections::HashSet::new();
    for i in 0..DATAGRAMS {
        let mut data = random(10 + (limit - 10) * i / (DATAGRAMS - 1))?;
        data[0] = BOUNCE;
        waiting.insert(Bytes::from(data));
    }
    while !waiting.is_empty() {
        for data in &waiting {
            connection.send_datagram(data.clone())?;
        }
        while let Ok(data) = tokio::time::timeout(PATIENCE, connection.read_datagram()).await {
            waiting.remove(&data?);
            if waiting.is_empty() {
                break;
            }
        }
    }
    Ok(())
}

async fn reset(connection: &Connection) -> Result<()> {
    for code in CODES {
        let (mut send, mut recv) = open_echo(connection).await?;
        send.reset(VarInt::from_u64(code)?)?;
        match recv.read_chunk(usize::MAX, true).await {
            Err(ReadError::Reset(got)) => ensure!(got.into_inner() == code, "{got} for {code}"),
            other => bail!("no reset: {other:?}"),
        }
    }
    echoed(connection, 1000).await
}

async fn stop(connection: &Connection) -> Result<()> {
    for code in CODES {
        let (mut send, mut recv) = open_echo(connection).await?;
        recv.stop(VarInt::from_u64(code)?)?;
        loop {
            match send.write_all(b"x").await {
                Err(WriteError::Stopped(got)) => {
                    ensure!(got.into_inner() == code, "{got} for {code}");
                    break;
                }
                done => done?,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    echoed(connection, 1000).await
}

async fn close_here(connection: &Connection, peer: &Peer) -> Result<()> {
    for bits in CODE_BITS {
        let code = u64::from_be_bytes(random(8)?.as_slice().try_into()?) >> (64 - bits) | 1;
        let session = peer.connect().await?;
        echoed(&session, 1).await?;
        session.close(VarInt::from_u64(code)?, b"why");
        loop {
            let told = report(connection).await?;
            let closes = told["closes"].as_array().context("the server does not tell")?;
            if closes.contains(&json!(code)) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn close_there(peer: &Peer) -> Result<()> {
    for code in CODES {
        let session = peer.connect().await?;
        let (mut send, _recv) = session.open_bi().await?;
        put(&mut send, &[&CLOSE.to_be_bytes(), &code.to_be_bytes()]).await?;
        match session.closed().await {
            ConnectionError::ApplicationClosed(close) => {
                let got = close.error_code;
                ensure!(got.into_inner() == code, "{got} for {code}");
            }
            other => bail!("not closed by the application: {other}"),
        }
    }
    Ok(())
}

/// How many updates our server counts.
async fn updates(connection: &Connection, name: &str) -> Result<u64> {
    report(connection).await?["counters"][name].as_u64().context("the server does not count")
}

async fn keys(connection: &Connection, by_client: bool) -> Result<()> {
    let name = if by_client { "peer_key_updates" } else { "key_updates" };
    let (mut send, mut recv) = open_echo(connection).await?;
    let before = updates(connection, name).await?;
    for wanted in 1..=UPDATES {
        if by_client {
            connection.force_key_update();
        } else {
            ask(connection, &[&UPDATE_KEYS.to_be_bytes()]).await?;
        }
        loop {
            exchange(&mut send, &mut recv, 10_000).await?;
            if updates(connection, name).await? >= before + wanted {
                break;
            }
            if by_client {
                // It ignores the call while keys from before the last update are kept.
                connection.force_key_update();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn upload(connection: &Connection, size: usize) -> Result<()> {
    let data = some(size)?;
    let answer = ask(connection, &[&DIGEST.to_be_bytes(), &data]).await?;
    ensure!(answer == sha256(&data), "other bytes came");
    Ok(())
}

async fn download(connection: &Connection, size: usize) -> Result<()> {
    let answer = ask(connection, &[&RANDOM.to_be_bytes(), &(size as u64).to_be_bytes()]).await?;
    ensure!(answer.len() == size + DIGEST_SIZE, "{} bytes came", answer.len());
    ensure!(sha256(&answer[..size]) == answer[size..], "other bytes came");
    Ok(())
}
