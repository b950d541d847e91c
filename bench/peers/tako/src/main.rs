//! tako's raw QUIC server as a peer of rawquic's benchmarks: the perf protocol on its sessions.
//!
//! `rawquic-bench-tako server SETTINGS` prints `{"port", "pid", "versions"}` and serves until its
//! standard input ends. tako fixes the transport itself: ALPN "h3", its own windows and MTU.

#[path = "../../quinn/src/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../../quinn/src/wire.rs"]
#[allow(dead_code)]
mod wire;

use std::net::UdpSocket;

use anyhow::{Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tako::webtransport::{RawQuicSession, serve_webtransport};
use tokio::io::AsyncReadExt;

#[derive(Deserialize)]
struct Settings {
    certfile: String,
    keyfile: String,
    host: String,
}

fn version(package: &str) -> Option<&'static str> {
    let mut lines = include_str!("../Cargo.lock").lines();
    lines.find(|line| *line == format!("name = \"{package}\""))?;
    lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, role, settings] = arguments.as_slice() else {
        bail!("usage: rawquic-bench-tako server SETTINGS");
    };
    if role != "server" {
        bail!("tako is a server only");
    }
    let settings: Settings = serde_json::from_str(settings)?;
    // It does not say which port it took: take a free one.
    let port = UdpSocket::bind((settings.host.as_str(), 0))?.local_addr()?.port();
    let block = Bytes::from(wire::random(wire::CHUNK)?);
    let address = format!("{}:{port}", settings.host);
    tokio::spawn(async move {
        let handler = move |session: RawQuicSession| {
            let block = block.clone();
            Box::pin(async move { server::session(session.connection().clone(), block).await })
                as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        };
        serve_webtransport(&address, &settings.certfile, &settings.keyfile, handler).await;
        // It logs its errors and returns.
        std::process::exit(1);
    });
    tokio::task::yield_now().await;
    let versions = json!({"tako-rs": version("tako-rs"), "quinn": version("quinn")});
    println!("{}", json!({"port": port, "pid": std::process::id(), "versions": versions}));
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
