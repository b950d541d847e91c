//! quinn as a peer of rawquic's benchmarks.
//!
//! `rawquic-bench-quinn server SETTINGS` prints `{"port", "pid", "versions"}` and serves until its
//! standard input ends. `rawquic-bench-quinn client SETTINGS` runs a work for each JSON line of its
//! input, or a case of `tests/interop/cases.py`, and prints the result. SETTINGS is `bench/stacks.Settings` as JSON. One thread, as the
//! Python ends have.

mod cases;
mod client;
mod server;
mod wire;

use std::fs::File;
use std::io::BufReader;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::quic::Suite;
use rustls::{CipherSuite, RootCertStore};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

#[derive(Deserialize)]
struct Settings {
    certfile: String,
    keyfile: String,
    cafile: String,
    host: String,
    udp_payload: u16,
    stream_window: u32,
    window: u32,
    send_buffer: u64,
    socket_buffer: i32,
    max_streams: u32,
    cipher: String,
    congestion: String,
    gso: bool,
    insecure: bool,
}

impl Settings {
    fn transport(&self) -> Result<Arc<TransportConfig>> {
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.window))
            .send_window(self.send_buffer)
            .initial_mtu(self.udp_payload)
            .min_mtu(1200)
            .mtu_discovery_config(None)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.max_streams))
            .max_concurrent_uni_streams(VarInt::from_u32(self.max_streams))
            .datagram_receive_buffer_size(Some(1 << 20))
            .datagram_send_buffer_size(1 << 20)
            .enable_segmentation_offload(self.gso);
        match self.congestion.as_str() {
            "" | "cubic" => {
                if self.udp_payload > 1472 {
                    // Its own initial window holds no packet of this size.
                    let mut factory = quinn::congestion::CubicConfig::default();
                    factory.initial_window(10 * u64::from(self.udp_payload));
                    config.congestion_controller_factory(Arc::new(factory));
                }
            }
            "newreno" => {
                let factory = quinn::congestion::NewRenoConfig::default();
                config.congestion_controller_factory(Arc::new(factory));
            }
            "bbr" => {
                let factory = quinn::congestion::BbrConfig::default();
                config.congestion_controller_factory(Arc::new(factory));
            }
            other => bail!("quinn has no congestion control {other}"),
        }
        Ok(Arc::new(config))
    }

    fn provider(&self) -> Result<CryptoProvider> {
        let wanted = match self.cipher.as_str() {
            "aes-128-gcm" => CipherSuite::TLS13_AES_128_GCM_SHA256,
            "aes-256-gcm" => CipherSuite::TLS13_AES_256_GCM_SHA384,
            "chacha20-poly1305" => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            other => bail!("there is no cipher {other}"),
        };
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(|suite| suite.suite() == wanted);
        Ok(provider)
    }

    /// Room for the packets of the peer; quinn's own default is 1,472 bytes.
    fn endpoint(&self) -> Result<EndpointConfig> {
        let mut config = EndpointConfig::default();
        if self.udp_payload > 1472 {
            config.max_udp_payload_size(self.udp_payload)?;
        }
        Ok(config)
    }

    fn socket(&self, address: SocketAddr) -> Result<UdpSocket> {
        let socket = UdpSocket::bind(address)?;
        for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
            let value = self.socket_buffer;
            // SAFETY: the option's value is an int that outlives the call.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const value).cast(),
                    size_of::<i32>() as libc::socklen_t,
                );
            }
        }
        Ok(socket)
    }
}

/// Initial packets are protected with AES-128-GCM whatever the connection negotiates (RFC 9001 §5.2).
fn initial_suite() -> Result<Suite> {
    ring::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .and_then(|suite| suite.quic_suite())
        .context("the provider has no suite for Initial packets")
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let mut reader = BufReader::new(File::open(path).context(path.to_string())?);
    Ok(rustls_pemfile::certs(&mut reader).collect::<Result<_, _>>()?)
}

fn key(path: &str) -> Result<PrivateKeyDer<'static>> {
    let mut reader = BufReader::new(File::open(path).context(path.to_string())?);
    rustls_pemfile::private_key(&mut reader)?.context("no private key in the file")
}

fn server_endpoint(settings: &Settings) -> Result<Endpoint> {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(settings.provider()?))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificates(&settings.certfile)?, key(&settings.keyfile)?)?;
    tls.alpn_protocols = vec![wire::ALPN.to_vec()];
    let crypto = QuicServerConfig::with_initial(Arc::new(tls), initial_suite()?)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(settings.transport()?);
    let socket = settings.socket(SocketAddr::new(settings.host.parse()?, 0))?;
    let runtime = Arc::new(TokioRuntime);
    Ok(Endpoint::new(settings.endpoint()?, Some(config), socket, runtime)?)
}

fn client_endpoint(settings: &Settings, alpn: &[u8]) -> Result<Endpoint> {
    let provider = Arc::new(settings.provider()?);
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut tls = if settings.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(unverified::Anyone(provider)))
            .with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&settings.cafile)? {
            roots.add(certificate)?;
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicClientConfig::with_initial(Arc::new(tls), initial_suite()?)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(settings.transport()?);
    let socket = settings.socket(SocketAddr::new(settings.host.parse()?, 0))?;
    let runtime = Arc::new(TokioRuntime);
    let mut endpoint = Endpoint::new(settings.endpoint()?, None, socket, runtime)?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

mod unverified {
    //! The choice of a user who asked for no verification.

    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub struct Anyone(pub Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

fn versions() -> Value {
    // Cargo.lock is what was built: the versions cannot drift from what runs.
    let lock = include_str!("../Cargo.lock");
    let version = |package: &str| {
        let mut lines = lock.lines();
        lines.find(|line| *line == format!("name = \"{package}\""))?;
        lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')
    };
    json!({
        "quinn": version("quinn"),
        "quinn-proto": version("quinn-proto"),
        "rustls": version("rustls"),
        "crypto": format!("ring {}", version("ring").unwrap_or("?")),
    })
}

async fn serve(settings: &Settings) -> Result<()> {
    let endpoint = server_endpoint(settings)?;
    let port = endpoint.local_addr()?.port();
    println!("{}", json!({"port": port, "pid": std::process::id(), "versions": versions()}));
    let serving = tokio::spawn(server::run(endpoint));
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    serving.abort();
    Ok(())
}

#[derive(Deserialize)]
struct Order {
    #[serde(default)]
    work: String,
    case: Option<String>,
    host: String,
    port: u16,
    #[serde(default)]
    options: client::Options,
    #[serde(default = "patience")]
    timeout: f64,
}

fn patience() -> f64 {
    120.0
}

async fn obey(settings: &Settings) -> Result<()> {
    println!("{}", json!({"pid": std::process::id(), "versions": versions()}));
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let order: Order = serde_json::from_str(&line)?;
        let address = SocketAddr::new(order.host.parse()?, order.port);
        let peer = client::Peer { endpoint: client_endpoint(settings, wire::ALPN)?, address };
        let limit = Duration::from_secs_f64(order.timeout);
        let work = async {
            match order.case {
                Some(case) => {
                    let stranger = client_endpoint(settings, b"nobody-speaks-this")?;
                    cases::run(&case, &peer, &stranger, &order.options).await
                }
                None => client::run(&order.work, &peer, &order.options).await,
            }
        };
        let result = match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("TimeoutError")),
        };
        println!("{}", result.unwrap_or_else(|error| json!({"error": format!("{error:#}")})));
        // The packets that close the connections leave before the socket goes.
        let closing = peer.endpoint.wait_idle();
        let _ = tokio::time::timeout(Duration::from_millis(200), closing).await;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, role, settings] = arguments.as_slice() else {
        bail!("usage: rawquic-bench-quinn server|client SETTINGS");
    };
    let settings: Settings = serde_json::from_str(settings)?;
    match role.as_str() {
        "server" => serve(&settings).await,
        "client" => obey(&settings).await,
        other => bail!("{other} is neither server nor client"),
    }
}
