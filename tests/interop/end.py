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


async def run(stack: Any, settings: Settings, order: dict[str, Any]) -> dict[str, Any]:
    host, port = order["host"], order["port"]
    other = dataclasses.replace(settings, alpn=OTHER_ALPN)
    async with (
        stack.connecting(host, port, settings) as connect,
        stack.connecting(host, port, other) as connect_other,
    ):
        client = Client(connect, connect_other, settings.alpn, **order["options"])
        await CASES[order["case"]](client)
    return {}


if __name__ == "__main__":
    agent.main(run)
