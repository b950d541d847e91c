"""Every field of Config: what is allowed, and an error that names the field and the range."""

import copy
import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from rawquic.config import CIPHER_SUITES, FIELD_NAMES, Config
from rawquic.errors import ConfigError

# field: (good values, bad values, what the message must say of the range)
POSITIVE = ([0.001, 1, 86_400.0], [0, -1, -0.5, float("nan"), float("inf"), "5", True, b"1", 1e10])
SECONDS = "seconds, more than 0"
SWITCH = ([True, False], [0, 1, None, "yes"], "True or False")
STREAMS = ([0, 1, 65_536], [-1, 65_537, 1.5, None, "3", True], "an integer from 0 to 65,536")
WINDOW = (
    [1024, 1 << 20, 1 << 30],
    [1023, 0, -5, (1 << 30) + 1, 1e6, None, "9", True],
    "an integer from 1,024 to 1,073,741,824",
)
SOCKET = (
    [4096, 1 << 30],
    [4095, 0, -1, (1 << 30) + 1, None, 5000.0],
    "an integer from 4,096 to 1,073,741,824",
)
MTU = ([1200, 65527], [1199, 65528, 0, -1, None, 1300.0, "1300"], "an integer from 1,200 to 65,527")
PATH = ([None, "folder/name", Path("x")], [5, b"bytes", True, ["x"]], "a path, or None")
FIELDS: dict[str, tuple[list[Any], list[Any], str]] = {
    "max_idle_timeout": ([*POSITIVE[0], None], POSITIVE[1], SECONDS),
    "keep_alive_interval": ([*POSITIVE[0], None], POSITIVE[1], SECONDS),
    "max_concurrent_bidi_streams": STREAMS,
    "max_concurrent_uni_streams": STREAMS,
    "stream_receive_window": WINDOW,
    "receive_window": WINDOW,
    "send_window": WINDOW,
    "datagram_receive_buffer_size": (
        [1200, 1 << 30, None],
        [1199, 0, -1, (1 << 30) + 1, 2000.0],
        "an integer from 1,200 to 1,073,741,824, or None",
    ),
    "datagram_send_buffer_size": (
        [1200, 1 << 30],
        [1199, 0, None, (1 << 30) + 1, 2000.0],
        "an integer from 1,200 to 1,073,741,824",
    ),
    "initial_mtu": MTU,
    "mtu_upper_bound": MTU,
    "congestion_control": (
        ["cubic", "newreno"],
        ["reno", "CUBIC", "", None, 5, ["cubic"]],
        "one of 'cubic', 'newreno'",
    ),
    "initial_rtt": ([0.001, 60], [*POSITIVE[1], None, 60.1], "seconds, more than 0 and at most 60"),
    "max_ack_delay": (
        [0.001, 16.383],
        [*POSITIVE[1], None, 16.384],
        "seconds, more than 0 and at most 16.383",
    ),
    "enable_gso": SWITCH,
    "enable_gro": SWITCH,
    "enable_ecn": SWITCH,
    "socket_receive_buffer": SOCKET,
    "socket_send_buffer": SOCKET,
    "handshake_timeout": (POSITIVE[0], [*POSITIVE[1], None], SECONDS),
    "max_handshakes": ([1, 1 << 20], [0, -1, (1 << 20) + 1, None, 5.0], "an integer from 1 to"),
    "accept_backlog": ([1, 1 << 20], [0, -1, (1 << 20) + 1, None, 5.0], "an integer from 1 to"),
    "close_timeout": (
        [0, 0.0, 5.0],
        [-0.1, None, float("nan"), float("inf"), "5", True],
        "seconds, at least 0",
    ),
    "stateless_reset_key": (
        [None, bytes(16), bytes(64)],
        [b"", bytes(15), "x" * 32, bytearray(32), 5],
        "at least 16 bytes, or None",
    ),
    "busy_poll": ([0, 5e-5, 1.0], [-1, 1.1, None, "1", float("nan"), True], "seconds, at least 0"),
    "aead": (["auto"], ["AUTO", "", None, 5], "one of 'auto', 'openssl', 'ipsec-mb'"),
    "allow_migration": SWITCH,
    "versions": (
        [(1,), [2], (2, 1)],
        [(), [], (3,), (1, 1), 1, None, "1", ("1",), (1.0,), (True,), ([1],)],
        "a sequence without repeats out of (1, 2)",
    ),
    "cipher_suites": (
        [list(CIPHER_SUITES), CIPHER_SUITES[1:2]],
        [(), ("TLS_AES_128_CCM_SHA256",), CIPHER_SUITES[0], None, (CIPHER_SUITES[0],) * 2],
        "a sequence without repeats out of",
    ),
    "keylog_file": PATH,
    "qlog_dir": PATH,
}


def test_every_field_is_tested() -> None:
    assert set(FIELDS) == set(FIELD_NAMES)


@pytest.mark.parametrize("name", FIELDS)
def test_good_values(name: str) -> None:
    for value in FIELDS[name][0]:
        kept = getattr(Config(**{name: value}), name)
        assert kept == (tuple(value) if isinstance(value, list) else value)


BAD = [(name, value) for name, (_, values, _) in FIELDS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BAD, ids=repr)
def test_a_bad_value_names_field_and_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**{name: value})
    message = str(caught.value)
    assert f"Config.{name}" in message
    assert FIELDS[name][2] in message
    if name != "stateless_reset_key":
        assert repr(value) in message


def test_a_bad_reset_key_is_not_told() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(stateless_reset_key=b"secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("congestion_control", "bbr"),
    ],
)
def test_what_is_not_there_yet_says_so(name: str, value: Any) -> None:
    with pytest.raises(NotImplementedError, match=f"{name}.* not there yet"):
        Config(**{name: value})


def test_it_is_frozen_and_by_keyword() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.initial_mtu = 1500  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config(30.0)  # type: ignore[misc]
    with pytest.raises(TypeError, match="max_idle_timout"):
        Config(max_idle_timout=5)  # type: ignore[call-arg]


def test_it_can_be_replaced_copied_compared_and_pickled() -> None:
    config = Config(max_idle_timeout=5, versions=[2, 1])
    assert dataclasses.replace(config, initial_mtu=1400).max_idle_timeout == 5
    with pytest.raises(ConfigError):
        dataclasses.replace(config, initial_mtu=1)
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
    assert config != Config()
    assert hash(config) == hash(Config(max_idle_timeout=5, versions=(2, 1)))


def test_defaults_that_the_documentation_gives() -> None:
    config = Config()
    assert config.max_idle_timeout == 30.0 and config.keep_alive_interval is None
    assert config.max_concurrent_bidi_streams == config.max_concurrent_uni_streams == 100
    assert (config.initial_mtu, config.mtu_upper_bound) == (1200, 1452)
    assert config.congestion_control == "cubic" and config.aead == "auto"
    assert config.socket_receive_buffer == config.socket_send_buffer == 4 << 20
    assert config.handshake_timeout == 10.0 and config.close_timeout == 5.0
    assert config.busy_poll == 0.0 and config.allow_migration is True


def test_every_field_is_documented() -> None:
    assert Config.__doc__ is not None
    for name in FIELD_NAMES:
        assert name in Config.__doc__, name


# -- the table in docs/api.md ----------------------------------------------------------------------


def table() -> dict[str, list[str]]:
    """field: [default, unit, range, meaning]."""
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text("utf-8")
    section = page.partition("## Config\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}


def as_shown(value: Any) -> str:
    if value == CIPHER_SUITES:
        return "all three"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value >> 20} MiB" if value >= 1 << 20 else f"{value:,g}"
    return f"`{value!r}`".replace("'", '"')


def test_the_table_names_every_field_and_its_default() -> None:
    config = Config()
    assert {name: row[0] for name, row in table().items()} == {
        name: as_shown(getattr(config, name)) for name in FIELD_NAMES
    }
    assert list(table()) == list(FIELD_NAMES)
    assert all(len(row) == 4 and row[2] and row[3] for row in table().values())


def bounds(text: str) -> list[float]:
    """The numbers of a range: "1 KiB to 1 GiB", "an integer from 0 to 65,536"."""
    found = re.findall(r"(\d[\d,.]*)(?: ([KMG])iB)?", text)
    return [float(n.replace(",", "")) * 1024 ** " KMG".index(unit or " ") for n, unit in found]


def test_the_table_gives_the_ranges_that_are_checked() -> None:
    for name, (_, unit, allowed, _) in table().items():
        if not unit:
            continue
        with pytest.raises(ConfigError) as caught:
            Config(**{name: -1})
        said = str(caught.value).partition(": it must be ")[2]
        assert bounds(allowed) == bounds(said.replace(" and at most 1e+09", "")), name


def test_the_reset_key_is_not_shown() -> None:
    assert "reset" not in repr(Config(stateless_reset_key=b"sixteen bytes or"))
