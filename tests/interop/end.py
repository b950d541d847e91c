"""One end of one stack in a process of its own: `bench/agent.py`, whose client runs cases."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "bench"))

import agent
from cases import CASES, Client
from stacks import Settings

OTHER_ALPN = "nobody-speaks-this"
SESSIONS: list[Any] = []  # where this end is rawquic: those of the case in hand


def noting(function: Any) -> Any:
    """`connect`, or the handler of a server, with its sessions kept in SESSIONS."""

    async def noted(*session: Any) -> Any:
        SESSIONS.extend(session)
        result = await function(*session)
        if not session:
            SESSIONS.append(result)
        return result

    return noted


def ecn() -> dict[str, Any]:
    """What became of ECN on the connections of the last case."""
    told = [session.connection.stats().ecn for session in SESSIONS]
    SESSIONS.clear()
    return {"ecn": told}


async def run(stack: Any, settings: Settings, order: dict[str, Any]) -> dict[str, Any]:
    host, port = order["host"], order["port"]
    other = dataclasses.replace(settings, alpn=OTHER_ALPN)
    async with (
        stack.connecting(host, port, settings) as connect,
        stack.connecting(host, port, other) as connect_other,
    ):
        if sys.argv[2] == "rawquic":
            connect = noting(connect)
        client = Client(connect, connect_other, settings.alpn, **order["options"])
        await CASES[order["case"]](client)
        return ecn()


if __name__ == "__main__":
    if sys.argv[1:3] == ["server", "rawquic"]:
        from stacks import rawquic_stack

        rawquic_stack.serve_perf = noting(rawquic_stack.serve_perf)
    agent.main(run, ecn)
