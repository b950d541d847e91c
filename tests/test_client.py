"""rawquic.client: connecting, what can go wrong with it, and many sessions on one socket."""

import asyncio
import pickle
import socket
import time
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from loopback import DEADLINE, Certificate, Relay, echo, error_of, pair, until, waiting, within

import rawquic
from rawquic import (
    CertificateInvalid,
    ClosedByPeer,
    ConfigError,
    ConnectionRefused,
    Endpoint,
    HandshakeFailed,
    HandshakeTimeout,
    Server,
    ServerOptions,
)
from rawquic.selfsigned import self_signed

pytestmark = pytest.mark.timeout(30)


async def round_trip(session: rawquic.RawQuicSession, data: bytes = b"there and back") -> None:
    send, recv = await within(session.open_bi())
    await within(send.write(data))
    send.finish()
    assert await within(recv.read(-1)) == data


async def test_connect_is_a_context_manager_or_awaited(
    certificate: Certificate, echo_server: Server
) -> None:
    async with rawquic.connect(*echo_server.local_address, **certificate.client) as session:
        await round_trip(session)
    assert session.closed
    session = await rawquic.connect(*echo_server.local_address, **certificate.client)
    async with session:
        await round_trip(session)
    session = await asyncio.wait_for(
        rawquic.connect(*echo_server.local_address, **certificate.client), DEADLINE
    )
    await round_trip(session)
    await within(session.aclose())


async def test_an_exception_in_the_context_closes_with_1(certificate: Certificate) -> None:
    peers: list[rawquic.RawQuicSession] = []

    async def keep(session: rawquic.RawQuicSession) -> None:
        peers.append(session)
        await session.wait_closed()

    async with rawquic.serve(keep, "127.0.0.1", 0, **certificate.server) as server:
        with pytest.raises(KeyError):
            async with rawquic.connect(*server.local_address, **certificate.client):
                await until(lambda: peers)
                raise KeyError
        await within(peers[0].wait_closed())
        assert isinstance(peers[0].close_reason, ClosedByPeer)
        assert peers[0].close_reason.code == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_hosts(certificate: Certificate, host: str) -> None:
    async with (
        rawquic.serve(echo, "::", 0, **certificate.server) as server,
        rawquic.connect(host, server.local_address[1], **certificate.client) as session,
    ):
        assert session.connection.server_name == host
        await round_trip(session)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let the name "several.test" have these addresses, in this order."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        if host != "several.test":
            return await real(host, port, **options)
        return [each for name in hosts for each in await real(name, port, **options)]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


async def test_the_next_address_is_tried(
    certificate: Certificate, echo_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first one nothing listens, and the host says so: no waiting."""
    resolve_to(monkeypatch, "::1", "127.0.0.1")
    port = echo_server.local_address[1]
    began = time.monotonic()
    async with rawquic.connect(
        "several.test", port, server_name="localhost", **certificate.client
    ) as session:
        assert session.remote_address == ("127.0.0.1", port)
        await round_trip(session)
    assert time.monotonic() - began < 3


async def test_a_silent_address_does_not_hold_up_the_next(
    certificate: Certificate, echo_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8305 §5: the next address is tried a quarter of a second later."""
    resolve_to(monkeypatch, "127.0.0.3", "127.0.0.1")
    port = echo_server.local_address[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.3", port))
        began = time.monotonic()
        async with rawquic.connect(
            "several.test", port, server_name="localhost", **certificate.client
        ) as session:
            assert session.remote_address[0] == "127.0.0.1"
            assert 0.2 < time.monotonic() - began < 3


async def test_when_all_addresses_fail(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, "127.0.0.3", "127.0.0.1")
    port = unused_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.3", port))
        error = await error_of(
            rawquic.connect("several.test", port, timeout=0.6, **certificate.client)
        )
        assert type(error) is HandshakeTimeout
        assert f"127.0.0.3:{port}, 127.0.0.1:{port}" in str(error)


async def test_local_address(certificate: Certificate, echo_server: Server) -> None:
    async with rawquic.connect(
        *echo_server.local_address, local_address=("127.0.0.2", 0), **certificate.client
    ) as session:
        assert session.local_address[0] == "127.0.0.2"
        await until(lambda: echo_server.sessions)
        (peer,) = echo_server.sessions
        assert peer.remote_address == session.local_address
        with pytest.raises(OSError, match=r"cannot bind UDP 127\.0\.0\.2"):
            await rawquic.connect(
                *echo_server.local_address,
                local_address=session.local_address,
                **certificate.client,
            )


async def test_alpn_is_negotiated(certificate: Certificate) -> None:
    async with rawquic.serve(
        echo, "127.0.0.1", 0, alpn=("first", "second"), **certificate.server
    ) as server:
        for offered, agreed in ((["second", "first"], "first"), ("second", "second")):
            async with rawquic.connect(
                *server.local_address,
                alpn=offered,
                **certificate.client,
            ) as session:
                assert session.connection.alpn == agreed
        error = await error_of(
            rawquic.connect(*server.local_address, alpn=["other"], **certificate.client)
        )
        assert type(error) is HandshakeFailed
        assert error.by_peer and "ALPN" in str(error)


# -- certificates ----------------------------------------------------------------------------------


async def test_pins(certificate: Certificate, echo_server: Server) -> None:
    leaf = x509.load_pem_x509_certificate(certificate.cert)
    digest = leaf.fingerprint(hashes.SHA256())
    colons = ":".join(f"{byte:02X}" for byte in digest)
    wrong = bytes(32)
    for pins in (digest, digest.hex(), colons, [wrong, digest]):
        # Neither a chain nor a name is looked at.
        async with rawquic.connect(
            *echo_server.local_address, pinned_sha256=pins, server_name="other.test"
        ) as session:
            await round_trip(session)
    error = await error_of(rawquic.connect(*echo_server.local_address, pinned_sha256=[wrong]))
    assert type(error) is CertificateInvalid
    assert digest.hex() in str(error)
    with pytest.raises(ConfigError, match="pinned_sha256"):
        await rawquic.connect(*echo_server.local_address, pinned_sha256="abc")


async def test_verify_can_be_turned_off(echo_server: Server) -> None:
    async with rawquic.connect(*echo_server.local_address, verify=False) as session:
        await round_trip(session)


@pytest.mark.parametrize("form", ["cafile", "PEM", "text", "DER"])
async def test_trust_anchors(
    certificate: Certificate, echo_server: Server, tmp_path: Any, form: str
) -> None:
    options: dict[str, Any] = {}
    if form == "cafile":
        options["cafile"] = tmp_path / "ca.pem"
        options["cafile"].write_bytes(certificate.cert)
    elif form == "DER":
        leaf = x509.load_pem_x509_certificate(certificate.cert)
        from cryptography.hazmat.primitives.serialization import Encoding

        options["cadata"] = leaf.public_bytes(Encoding.DER)
    else:
        options["cadata"] = certificate.cert.decode() if form == "text" else certificate.cert
    async with rawquic.connect(*echo_server.local_address, **options) as session:
        await round_trip(session)


async def test_a_certificate_that_nobody_vouches_for(
    echo_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = self_signed(["localhost", "127.0.0.1"])
    waits = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", noted)
    for options in ({}, {"cadata": other}):
        error = await error_of(rawquic.connect(*echo_server.local_address, **options))
        assert type(error) is CertificateInvalid, error
        assert not error.by_peer
        assert str(error).endswith(
            "(to trust it: cafile= or cadata=, or pinned_sha256= with its hash)"
        )
    # Two round trips, in case a close gets lost; not two of those that it began by assuming.
    assert len(waits) == 2 and max(waits) < 0.5


async def test_a_certificate_for_another_name(
    certificate: Certificate, echo_server: Server
) -> None:
    error = await error_of(
        rawquic.connect(*echo_server.local_address, server_name="other.test", **certificate.client)
    )
    assert type(error) is CertificateInvalid
    assert "hostname 'other.test' doesn't match either of localhost, 127.0.0.1" in str(error)
    assert "Pattern" not in str(error)
    assert "(server_name= is the name to expect in place of the host; " in str(error)


# -- nobody there ----------------------------------------------------------------------------------


def unused_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_nothing_listens(certificate: Certificate) -> None:
    for host in ("127.0.0.1", "localhost"):
        began = time.monotonic()
        error = await error_of(rawquic.connect(host, unused_port(), **certificate.client))
        assert type(error) is ConnectionRefused, error
        assert "port unreachable" in str(error)
        assert time.monotonic() - began < 3
        assert type(pickle.loads(pickle.dumps(error))) is ConnectionRefused


async def test_messages_put_ipv6_addresses_in_brackets(certificate: Certificate) -> None:
    port = unused_port()
    error = await error_of(rawquic.connect("::1", port, **certificate.client))
    assert str(error) == f"[::1]:{port}: UDP port unreachable"
    async with (
        rawquic.serve(echo, "::1", 0, **certificate.server) as server,
        rawquic.connect(*server.local_address, **certificate.client) as session,
    ):
        assert f"client of [::1]:{server.local_address[1]}, open" in repr(session)
        with pytest.raises(OSError, match=rf"cannot bind UDP \[::1\]:{server.local_address[1]}"):
            await rawquic.serve(echo, *server.local_address, **certificate.server)


async def test_nobody_answers(certificate: Certificate) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        host, port = hole.getsockname()
        began = time.monotonic()
        error = await error_of(rawquic.connect(host, port, timeout=0.5, **certificate.client))
        assert 0.4 < time.monotonic() - began < 0.9
        assert type(error) is HandshakeTimeout
        assert isinstance(error, TimeoutError)
        assert f"{host}:{port}" in str(error) and "0.5 s" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (HandshakeTimeout, str(error))


async def test_a_cancelled_connect_leaves_nothing(certificate: Certificate) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        hole.setblocking(False)
        port = unused_port()
        before = asyncio.all_tasks()
        connecting = asyncio.ensure_future(
            within(
                rawquic.connect(
                    *hole.getsockname(), local_address=("127.0.0.1", port), **certificate.client
                )
            )
        )
        await within(asyncio.get_running_loop().sock_recv(hole, 2000))
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert asyncio.all_tasks() == before
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))  # the socket is closed


async def test_hosts_that_cannot_be_reached(certificate: Certificate) -> None:
    with pytest.raises(OSError, match="no-such-host"):
        await rawquic.connect("no-such-host.invalid", 1, **certificate.client)
    with pytest.raises(OSError, match="no address"):
        await rawquic.connect("::1", 1, local_address=("127.0.0.1", 0), **certificate.client)
    with pytest.raises(OSError, match="cannot bind UDP 'no-such-host"):
        await rawquic.connect(
            "127.0.0.1", 1, local_address=("no-such-host.invalid", 0), **certificate.client
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": None}, "timeout=None: it must be seconds, more than 0"),
        ({"timeout": "5"}, "timeout='5'"),
        ({"host": ""}, "host=''"),
        ({"host": None}, "host=None: it must be a name or an IP address"),
        ({"port": 0}, "port=0: it must be an integer from 1 to 65,535"),
        ({"port": 65536}, "port=65536"),
        ({"port": "443"}, "port='443'"),
        ({"server_name": 5}, "server_name=5"),
        ({"server_name": "ü" * 64}, "is no host name"),
        ({"local_address": "127.0.0.1"}, r"local_address='127.0.0.1': .* pair \(host, port\)"),
        ({"local_address": ("127.0.0.1", -1)}, "port=-1"),
        ({"config": {}}, "config must be a rawquic.Config, not dict"),
        ({"pinned_sha256": None}, "pinned_sha256: None"),
        ({"alpn": ()}, "alpn"),
        ({"alpn": None}, "alpn=None"),
        ({"keyfile": "key.pem"}, "with a certfile only"),
        ({"password": "secret"}, "with a certfile only"),
        ({"cafile": "no-such-ca.pem"}, "no-such-ca.pem"),
        ({"capath": "no-such-folder"}, "no-such-folder"),
        ({"cadata": b"junk"}, "cadata"),
        ({"cadata": 5}, "cadata must be PEM or DER, as str or bytes, not int"),
        ({"certfile": "no-such-cert.pem"}, "no-such-cert.pem"),
    ],
)
async def test_arguments_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    """They are errors at the call, before anything is sent."""
    with pytest.raises(ConfigError, match=message):
        rawquic.connect(**{"host": "127.0.0.1", "port": 1, **options})


@pytest.mark.parametrize("address", ["127.0.0.1", ("127.0.0.1",), ("127.0.0.1", 65536), None])
def test_local_addresses_that_an_endpoint_cannot_use(address: Any) -> None:
    with pytest.raises(ConfigError, match=r"local_address=|port=65536"):
        Endpoint(address)


async def test_an_international_name_is_asked_for_in_ascii() -> None:
    """RFC 6066 §3: SNI carries the form of RFC 5890; so do certificates."""
    certificate = Certificate(*self_signed(["xn--bcher-kva.example"]))
    async with (
        rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.connect(
            *server.local_address, server_name="bücher.example", **certificate.client
        ) as session,
    ):
        assert session.connection.server_name == "xn--bcher-kva.example"


async def test_a_handshake_over_a_bad_path(certificate: Certificate) -> None:
    """The first datagram of each end gets lost, whatever it is."""
    relay = Relay()
    lost = {True: 0, False: 0}

    def lose_first(data: bytes, to_server: bool) -> bool:
        lost[to_server] += 1
        return lost[to_server] == 1

    relay.drop = lose_first
    quick = rawquic.Config(initial_rtt=0.05)
    async with pair(certificate, relay=relay, config=quick, server_config=quick) as (
        client,
        peer,
        _,
    ):
        assert len(relay.lost) == 2
        client.send_datagram(b"x")
        assert await within(peer.read_datagram()) == b"x"


# -- Endpoint --------------------------------------------------------------------------------------


async def test_many_sessions_on_one_socket(certificate: Certificate) -> None:
    async with (
        rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server,
        Endpoint(("127.0.0.1", 0)) as endpoint,
    ):
        sessions = [
            await within(endpoint.connect(*server.local_address, **certificate.client))
            for _ in range(5)
        ]
        assert {session.local_address for session in sessions} == {endpoint.local_address}
        assert len({session.connection.id for session in sessions}) == 5
        await asyncio.gather(
            *(round_trip(each, bytes([n]) * 30_000) for n, each in enumerate(sessions))
        )
        sessions[0].close()
        await round_trip(sessions[1])
    assert all(session.closed for session in sessions)


async def test_a_client_and_a_server_on_one_socket(certificate: Certificate) -> None:
    options = ServerOptions(handler=echo, **certificate.server)
    async with (
        Endpoint(("127.0.0.1", 0), server=options) as left,
        Endpoint(("127.0.0.1", 0), server=options) as right,
    ):
        assert left.server is not None and right.server is not None
        assert left.local_address == left.server.local_address
        there, back = await asyncio.gather(
            within(left.connect(*right.local_address, **certificate.client)),
            within(right.connect(*left.local_address, **certificate.client)),
        )
        for session, near, far in ((there, left, right), (back, right, left)):
            await round_trip(session)
            assert session.local_address == near.local_address
            assert session.remote_address == far.local_address
        assert len(left.server.sessions) == len(right.server.sessions) == 1
        # It can even talk to itself.
        alone = await within(left.connect(*left.local_address, **certificate.client))
        await round_trip(alone)
        await within(there.aclose())
        await within(back.aclose())
        await within(alone.aclose())


async def test_an_endpoint_that_is_not_open(certificate: Certificate) -> None:
    endpoint = Endpoint(("127.0.0.1", 0))
    with pytest.raises(RuntimeError, match="not open"):
        _ = endpoint.local_address
    with pytest.raises(RuntimeError, match="not open"):
        await endpoint.connect("127.0.0.1", 1)
    await endpoint.aclose()
    await endpoint.open()
    with pytest.raises(RuntimeError, match="open already"):
        await endpoint.open()
    await endpoint.aclose()
    await endpoint.aclose()
    with pytest.raises(RuntimeError, match="closed; make a new one"):
        await endpoint.open()


async def test_an_aclose_of_an_endpoint_that_is_cancelled_closes_it(
    certificate: Certificate,
) -> None:
    """Its server's handlers would have 30 seconds; then there would be nobody to close the rest."""
    ended: list[bool] = []

    async def handle(session: rawquic.RawQuicSession) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(session.closed)

    endpoint = Endpoint(
        ("127.0.0.1", 0), server=ServerOptions(handler=handle, **certificate.server)
    )
    await endpoint.open()
    address = endpoint.local_address
    assert endpoint.server is not None
    async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
        incoming = await within(rawquic.connect(*address, **certificate.client))
        outgoing = await within(endpoint.connect(*server.local_address, **certificate.client))
        await until(lambda: endpoint.server.sessions)
        closing = await waiting(endpoint.aclose())
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(closing)
        assert outgoing.closed
        await within(incoming.wait_closed())
        assert isinstance(incoming.close_reason, rawquic.ClosedByPeer)
        await within(endpoint.server.wait_closed())
    assert ended == [True]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(address)  # the socket is closed


async def test_two_tasks_that_aclose_an_endpoint(certificate: Certificate) -> None:
    async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
        endpoint = Endpoint(("127.0.0.1", 0))
        await endpoint.open()
        session = await within(endpoint.connect(*server.local_address, **certificate.client))
        await within(asyncio.gather(endpoint.aclose(), endpoint.aclose()))
        assert session.closed


async def test_an_endpoint_ends_while_it_connects(certificate: Certificate) -> None:
    """Neither hangs until the connect's own timeout."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        endpoint = Endpoint(("127.0.0.1", 0))
        await endpoint.open()
        connecting = await waiting(
            endpoint.connect(*hole.getsockname(), timeout=20, **certificate.client)
        )
        began = time.monotonic()
        await within(endpoint.aclose())
        error = await error_of(connecting)
        assert type(error) is rawquic.ClosedLocally, error
        assert time.monotonic() - began < 3


async def test_an_endpoint_whose_server_cannot_start() -> None:
    options = ServerOptions(handler=echo, certfile="no-such-file.pem")
    endpoint = Endpoint(("127.0.0.1", 0), server=options)
    with pytest.raises(ConfigError, match="no-such-file"):
        await endpoint.open()
    with pytest.raises(RuntimeError, match="not open"):
        _ = endpoint.local_address


async def test_use_after_aclose(certificate: Certificate, echo_server: Server) -> None:
    async with Endpoint(("127.0.0.1", 0)) as endpoint:
        pass
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="closed"):
        await within(endpoint.connect(*echo_server.local_address, **certificate.client))
    assert time.monotonic() - began < 3


async def test_the_aead_provider_can_be_chosen(certificate: Certificate) -> None:
    there = rawquic.backend_info()["aead"]
    assert isinstance(there, list)
    for provider in ("openssl", "ipsec-mb"):
        config = rawquic.Config(aead=provider)
        if provider in there:
            async with pair(certificate, config=config) as (client, _, _):
                send, recv = await within(client.open_bi())
                await within(client.connection.ping())
                assert send.id == recv.id
        else:
            with pytest.raises(ConfigError, match=f"Config.aead='{provider}': here it can be"):
                await rawquic.connect("127.0.0.1", 1, config=config)


async def test_what_comes_before_there_is_a_session(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt keeps what the compiled loop tells of meanwhile."""
    acked = asyncio.Event()
    race = rawquic.client._race

    async def handle(session: rawquic.RawQuicSession) -> None:
        await session.connection.ping()  # nothing of the handshake comes with what follows
        async with await session.open_uni() as send:
            await send.write(b"x")
        await send.wait_acked()
        acked.set()
        await session.wait_closed()

    async def late(*arguments: Any) -> Any:
        attempt = await race(*arguments)
        await acked.wait()
        return attempt

    monkeypatch.setattr(rawquic.client, "_race", late)
    async with (
        rawquic.serve(handle, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.connect(*server.local_address, **certificate.client) as session,
    ):
        recv = await within(session.accept_uni())
        assert await within(recv.read(-1)) == b"x"
