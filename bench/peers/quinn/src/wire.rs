//! The words of the perf protocol (see `rawquic/perf/protocol.py`), and what both ends measure.

use anyhow::{Result, bail};
use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use serde_json::{Map, Value, json};

pub const ALPN: &[u8] = b"perf";
pub const WORD: usize = 8;
pub const UNTIL_STOPPED: u64 = u64::MAX;
pub const ECHO: u64 = u64::MAX - 1;
pub const DIGEST: u64 = u64::MAX - 2;
pub const RANDOM: u64 = u64::MAX - 3;
pub const REPORT: u64 = u64::MAX - 4;
pub const CLOSE: u64 = u64::MAX - 5;
pub const UPDATE_KEYS: u64 = u64::MAX - 6;
pub const SINK: u8 = 0;
pub const BOUNCE: u8 = 1;
pub const CHUNK: usize = 65536;
pub const DIGEST_SIZE: usize = 32;

/// User and system CPU seconds of this process, by getrusage(2).
pub fn cpu() -> (f64, f64) {
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid place for the result.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    (seconds(usage.ru_utime), seconds(usage.ru_stime))
}

/// Resident memory of this process, bytes.
pub fn rss() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()))
        .unwrap_or(0);
    // SAFETY: no memory is involved.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
}

/// The connection's counters under the names that rawquic has for them.
pub fn counters(connection: &Connection) -> Map<String, Value> {
    let stats = connection.stats();
    let value = json!({
        "packets_sent": stats.path.sent_packets,
        "packets_lost": stats.path.lost_packets,
        "bytes_retransmitted": stats.path.lost_bytes,
        "udp_datagrams_sent": stats.udp_tx.datagrams,
        "udp_datagrams_received": stats.udp_rx.datagrams,
        // Its count of receive calls is one per datagram, whatever the kernel joined.
        "socket_send_calls": stats.udp_tx.ios,
        "socket_datagrams_sent": stats.udp_tx.datagrams,
        "socket_datagrams_received": stats.udp_rx.datagrams,
    });
    value.as_object().cloned().unwrap_or_default()
}

pub fn difference(after: &Map<String, Value>, before: &Map<String, Value>) -> Map<String, Value> {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    after
        .iter()
        .map(|(name, value)| {
            let start = before.get(name).map(number).unwrap_or(0);
            (name.clone(), json!(number(value) - start))
        })
        .collect()
}

pub fn random(size: usize) -> Result<Vec<u8>> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut data = vec![0; size];
    if SystemRandom::new().fill(&mut data).is_err() {
        bail!("no random bytes");
    }
    Ok(data)
}

pub fn sha256(data: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, data).as_ref().to_vec()
}

pub fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Write `size` bytes of `block` over and over, without copying them.
pub async fn pour(send: &mut SendStream, block: &Bytes, size: u64) -> Result<()> {
    let mut left = size;
    while left > 0 {
        let take = left.min(block.len() as u64);
        send.write_chunk(block.slice(..take as usize)).await?;
        left -= take;
    }
    Ok(())
}

/// Read to the end; how many bytes there were.
pub async fn drain(recv: &mut RecvStream) -> Result<u64> {
    let mut size = 0;
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
        size += chunk.bytes.len() as u64;
    }
    Ok(size)
}
