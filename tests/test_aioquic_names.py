"""The list of aioquic's private names: each exists, each is used, and no other is used.

Uses are found in the source: `self._name` and methods in classes that derive from one of aioquic's,
and `x._name` for the receivers in `RECEIVERS`.
"""

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic.connection import QuicConnection
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender
from pair import stock

import rawquic
from rawquic.connection import aioquic_names

if importlib.util.find_spec("rawquic._fastpath") is None:
    pytest.skip(
        "rawquic._fastpath is not built, and the fast connection imports it",
        allow_module_level=True,
    )

PACKAGE = Path(rawquic.__file__).parent
SOURCES = sorted([*(PACKAGE / "connection").glob("*.py"), *(PACKAGE / "endpoint").glob("*.py")])

CONNECTION = stock(True)
CONNECTION.connect(("192.0.2.1", 1), 0.0)
OBJECTS: dict[str, Any] = {
    "connection": CONNECTION,
    "sender": QuicStreamSender(0, True),
    "receiver": QuicStreamReceiver(0, True),
    "stream": QuicStream(0),
    "recovery": CONNECTION._loss,
    "pacer": CONNECTION._loss._pacer,
    "tls": CONNECTION.tls,
}
BASES = {
    QuicConnection: "connection",
    QuicStreamSender: "sender",
    QuicStreamReceiver: "receiver",
    QuicStream: "stream",
    QuicPacketRecovery: "recovery",
    QuicPacketPacer: "pacer",
    tls.Context: "tls",
}
# What a name stands for, where it is not `self`.
RECEIVERS = {
    "connection": "connection",
    "loss": "recovery",
    "_loss": "recovery",
    "tls": "tls",
    "sender": "sender",
    "receiver": "receiver",
    "stream": "stream",
    "_stream": "stream",
}
LISTED: dict[str, set[str]] = {
    "connection": {*aioquic_names.CONNECTION_ATTRIBUTES, *aioquic_names.CONNECTION_METHODS},
    "sender": set(aioquic_names.SENDER_ATTRIBUTES),
    "receiver": set(aioquic_names.RECEIVER_ATTRIBUTES),
    "stream": set(),
    "recovery": set(aioquic_names.RECOVERY_ATTRIBUTES),
    "pacer": set(),
    "tls": set(aioquic_names.TLS_ATTRIBUTES),
}


def uses(source: Path) -> Iterator[tuple[str, str]]:
    """(kind of object, private name) for each use of aioquic's privates in a file."""
    module = importlib.import_module(f"rawquic.{source.parent.name}.{source.stem}")
    tree = ast.parse(source.read_text())
    for node in tree.body:
        kind = None
        if isinstance(node, ast.ClassDef):
            cls = getattr(module, node.name)
            kind = next((BASES[base] for base in cls.__mro__ if base in BASES), None)
        for each in ast.walk(node):
            if isinstance(each, ast.FunctionDef) and kind is not None:
                name, receiver = each.name, kind
            elif isinstance(each, ast.Attribute):
                name, receiver = each.attr, _kind(each.value, kind)
            else:
                continue
            if _is_private(name) and receiver is not None and _has(receiver, name):
                yield receiver, name


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _has(kind: str, name: str) -> bool:
    return hasattr(OBJECTS[kind], name)


def _kind(node: ast.expr, kind_of_self: str | None) -> str | None:
    if isinstance(node, ast.Name):
        return kind_of_self if node.id == "self" else RECEIVERS.get(node.id)
    if isinstance(node, ast.Attribute):
        return RECEIVERS.get(node.attr)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
        return kind_of_self
    return None


def used() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {kind: set() for kind in OBJECTS}
    for source in SOURCES:
        for kind, name in uses(source):
            found[kind].add(name)
    return found


USED = used()


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_listed_exists(kind: str) -> None:
    missing = {name for name in LISTED[kind] if not _has(kind, name)}
    assert not missing, f"aioquic's {kind} has no {missing} any more"


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_used_is_listed(kind: str) -> None:
    assert not USED[kind] - LISTED[kind]


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_listed_is_used(kind: str) -> None:
    assert not LISTED[kind] - USED[kind]


def test_methods_and_attributes_are_told_apart() -> None:
    for name in aioquic_names.CONNECTION_METHODS:
        assert callable(getattr(QuicConnection, name))
    for name in aioquic_names.CONNECTION_ATTRIBUTES:
        assert not hasattr(QuicConnection, name)


def test_the_lists_have_no_name_twice_and_are_sorted() -> None:
    for name, value in vars(aioquic_names).items():
        if isinstance(value, tuple):
            assert list(value) == sorted(set(value)), name


def test_the_search_finds_uses() -> None:
    """It would fail with an empty search, or one that does not see a kind of use."""
    assert {"_handle_ack_frame", "_network_paths", "_QuicConnection__frame_handlers"} <= USED[
        "connection"
    ]
    assert "_rtt_smoothed" in USED["recovery"]  # through a local name
    assert "_pacer" in USED["recovery"]  # through self._loss
    assert "_peer_certificate" in USED["tls"]
    assert "_ranges" in USED["receiver"] and "_buffer_stop" in USED["sender"]


def test_no_other_file_looks_into_aioquic() -> None:
    for source in PACKAGE.rglob("*.py"):
        if source in SOURCES:
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aioquic"):
                assert not any(_is_private(alias.name) for alias in node.names), source
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                receiver = node.value
                name = receiver.attr if isinstance(receiver, ast.Attribute) else None
                assert name not in ("tls", "_loss"), f"{source}: {ast.unparse(node)}"
