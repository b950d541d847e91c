"""Blocks that the kernel may send from, against a model of connections and of the kernel.

The model's kernel is a pipe for each block that was lent: it has its pages by reference, as a
socket would, until all packets in the block were acknowledged, and for any time when one was lost
or the connection has ended. What it holds must never change.
"""

import ctypes
import math
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest_plugins = ["fastpath_parts.build"]

PAGE = os.sysconf("SC_PAGE_SIZE")
HELD_MOST = 200  # pipes at once
SEEDS = range(8)


class Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def vmsplice(pipe: int, pieces: list[tuple[int, int]]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    array = (Piece * len(pieces))(*pieces)
    given: int = libc.vmsplice(pipe, array, ctypes.c_size_t(len(pieces)), 0)
    if given < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return given


class Held:
    """Pages of a block that the kernel has: its first and its last one."""

    def __init__(self, address: int, size: int, pattern: int) -> None:
        self.pattern = pattern
        self._end, self._start = os.pipe()
        given = vmsplice(self._start, [(address, PAGE), (address + size - PAGE, PAGE)])
        assert given == 2 * PAGE

    def sent(self) -> None:
        """The kernel sends them: they are what was sealed. It is done with them."""
        got = os.read(self._end, 2 * PAGE)
        self.close()
        assert got == bytes([self.pattern]) * (2 * PAGE), "pages changed while the kernel had them"

    def close(self) -> None:
        os.close(self._end)
        os.close(self._start)


@pytest.fixture(scope="module", autouse=True)
def _lending() -> None:
    """Skip where the kernel takes no pages."""
    scratch = ctypes.create_string_buffer(2 * PAGE)
    try:
        Held(ctypes.addressof(scratch), 2 * PAGE, 0).close()
    except (OSError, AttributeError) as error:
        pytest.skip(f"no pages can be given to a pipe here: {error}")


@dataclass
class Lent:
    """What the model knows of a block: numbers in flight or lost, and the kernel's part."""

    address: int
    pattern: int
    first: int
    behind: int
    open: set[int]
    held: Held | None
    lost: bool = False


@dataclass
class Connection:
    blocks: Any
    next: int = 0
    lent: "deque[Lent]" = field(default_factory=deque)
    lost: set[int] = field(default_factory=set)  # and remembered
    ever_lost: bool = False

    def open(self) -> list[int]:
        return sorted(number for block in self.lent for number in block.open)

    def settled(self) -> int:
        """No packet below it is in flight, or lost and remembered."""
        open = next((block.open for block in self.lent if block.open), set())
        return min([*open, *self.lost], default=self.next)


class Model:
    """Random operations; each of them checks what it gets."""

    def __init__(self, parts: ModuleType, seed: int) -> None:
        self.parts = parts
        self.random = random.Random(seed)
        self.zeros = bytes(parts.BLOCK_SIZE)
        self.connections = [Connection(parts.Lender()) for _ in range(3)]
        self.lenders: dict[int, Connection] = {}  # by address: whose packets it had last
        self.used: dict[int, Lent] = {}  # by address: what it had last, of the same connection
        self.held: list[Held] = []  # what the kernel has, and nobody knows
        self.pattern = 0
        self.most = 0
        self.seen: Counter[str] = Counter()

    def content(self, address: int) -> bytes:
        return ctypes.string_at(address, self.parts.BLOCK_SIZE)

    def one(self) -> Connection:
        return self.random.choice(self.connections)

    def send(self) -> None:
        """Take a block, build in it, and lend it or not."""
        who = self.one()
        spares, settled = self.parts.blocks_spare(), who.settled()
        full = self.parts.blocks_in_all() == self.parts.BLOCKS_AT_ONCE
        address = who.blocks.take(settled)
        self.settle(who, settled)
        lent = [block.address for other in self.connections for block in other.lent]
        if address is None:
            # After a loss it does not look closely which of its blocks had no part in it.
            assert full and (who.ever_lost or not any(self.is_own(who, spare) for spare in spares))
            self.seen["none"] += 1
            return
        assert address % PAGE == 0
        assert address not in lent, "it is lent"
        self.most = max(self.most, self.parts.blocks_in_all())
        self.check_pages(who, address)
        self.build(who, address)

    def settle(self, who: Connection, settled: float) -> None:
        """Blocks that the connection's list has no more: their packets must be settled."""
        kept = who.blocks.lent()
        while who.lent and who.lent[0].address not in kept:
            assert who.lent[0].behind <= settled
            self.forget(who, who.lent[0])

    def is_own(self, who: Connection, address: int) -> bool:
        """True where the connection knows that the kernel is done with the block."""
        before = self.used.get(address)
        return before is not None and self.lenders[address] is who and not before.lost

    def check_pages(self, who: Connection, address: int) -> None:
        """Fresh ones are right always; old ones are, where they are known to be its own."""
        content, before = self.content(address), self.used.get(address)
        if content == self.zeros:
            if before is not None:
                self.seen["lost" if self.lenders[address] is who else "another's"] += 1
            return
        assert self.is_own(who, address), "old pages"
        assert before is not None and content == bytes([before.pattern]) * len(content)
        self.seen["kept"] += 1

    def build(self, who: Connection, address: int) -> None:
        self.pattern = self.pattern % 255 + 1
        ctypes.memset(address, self.pattern, self.parts.BLOCK_SIZE)
        first = who.next
        who.next += self.random.randrange(1, 50)
        if self.random.random() < 0.1:  # packets went another way before them
            first = self.random.randrange(first, who.next)
        block = Lent(address, self.pattern, first, who.next, set(), None)
        self.lenders[address], self.used[address] = who, block
        chance = self.random.random()
        if chance < 0.15:
            who.blocks.put(address)
        elif chance < 0.2:
            who.blocks.put(address, False)  # something went wrong
            block.lost = True
        else:
            block.open = set(range(first, who.next))
            block.held = Held(address, self.parts.BLOCK_SIZE, self.pattern)
            who.blocks.lend(address, first, who.next)
            who.lent.append(block)

    def forget(self, who: Connection, block: Lent) -> None:
        """Its packets are settled: it has left the connection's list."""
        assert who.lent.popleft() is block
        if block.held is not None:
            self.held.append(block.held)
            block.held = None

    def acknowledge(self) -> None:
        who = self.one()
        numbers = who.open()[: self.random.choice((1, 10, 100, 1000))]
        if self.random.random() < 0.3:  # with gaps
            numbers = [number for number in numbers if self.random.random() < 0.9]
        for block in who.lent:
            block.open.difference_update(numbers)
            if not block.open and not block.lost and block.held is not None:
                block.held.sent()
                block.held = None

    def lose(self) -> None:
        who = self.one()
        for number in who.open()[: self.random.choice((1, 1, 3, 60))]:
            for block in who.lent:
                if number in block.open:
                    block.open.remove(number)
                    block.lost = True
            who.lost.add(number)
            who.ever_lost = True
            who.blocks.lost(number)

    def forget_lost(self) -> None:
        self.one().lost.clear()

    def give_back(self) -> None:
        """As the data plane does with nothing outstanding; any time is right."""
        who = self.one()
        settled = who.settled()
        who.blocks.give_back(settled)
        assert not who.lent or who.blocks.lent() == [
            block.address for block in who.lent if block.behind > settled
        ]
        self.settle(who, settled)

    def end(self) -> None:
        who = self.one()
        for block in who.lent:
            block.lost = block.lost or bool(block.open)
        who.blocks.end()
        assert who.blocks.lent() == []
        self.seen["ended with blocks"] += bool(who.lent)
        self.settle(who, math.inf)
        self.connections.remove(who)
        self.connections.append(Connection(self.parts.Lender()))

    def release(self) -> None:
        """The kernel sends some of what is not known of."""
        self.random.shuffle(self.held)
        while len(self.held) > HELD_MOST or (self.held and self.random.random() < 0.5):
            self.held.pop().sent()

    def check(self) -> None:
        for who in self.connections:
            assert who.blocks.lent() == [block.address for block in who.lent]
        spare = self.parts.blocks_spare()
        lent = sum(len(who.lent) for who in self.connections)
        assert self.parts.blocks_in_all() == len(set(spare)) + lent
        assert len(set(spare)) == len(spare)

    def run(self, steps: int) -> None:
        operations: list[tuple[int, Callable[[], None]]] = [
            (60, self.send),
            (20, self.acknowledge),
            (3, self.lose),
            (5, self.forget_lost),
            (5, self.release),
            (3, self.give_back),
            (1, self.end),
        ]
        weights = [weight for weight, _ in operations]
        if self.random.random() < 0.5:  # nearly nothing is acknowledged: all blocks are in use
            weights[1] = 5
        for _ in range(steps):
            self.random.choices([call for _, call in operations], weights)[0]()
            self.check()

    def finish(self) -> None:
        while any(who.lent for who in self.connections):
            self.end()
        for held in self.held:
            held.sent()
        self.held.clear()
        self.check()

    def close(self) -> None:
        """The pipes, also of a model that failed."""
        for held in [*self.held, *(block.held for who in self.connections for block in who.lent)]:
            if held is not None:
                held.close()


@pytest.fixture
def blocks(parts: ModuleType) -> ModuleType:
    """The parts, with no block in the process."""
    parts.forget_blocks()
    return parts


@pytest.mark.parametrize("seed", SEEDS)
def test_against_a_model(blocks: ModuleType, seed: int) -> None:
    model = Model(blocks, seed)
    try:
        model.run(1000)
        model.finish()
        assert blocks.blocks_in_all() == len(blocks.blocks_spare())
        assert 0 < model.most <= blocks.BLOCKS_AT_ONCE
        assert model.seen["another's"] and model.seen["lost"] and model.seen["kept"]
    finally:
        model.close()
        print(f"seed {seed}: at most {model.most} blocks, {dict(model.seen)}")


def taken(lender: Any) -> int:
    """A block, after so many copies as that may take."""
    while (address := lender.take(0)) is None:
        pass
    return int(address)


def test_pages_that_are_locked_into_memory(blocks: ModuleType) -> None:
    """They cannot be given back to the system, but replaced."""
    first, second = blocks.Lender(), blocks.Lender()
    addresses = [first.take(0) for _ in range(blocks.BLOCKS_AT_ONCE)]
    address = addresses.pop()
    if ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(blocks.BLOCK_SIZE)):
        pytest.skip("no memory may be locked here")
    ctypes.memset(address, 1, blocks.BLOCK_SIZE)
    first.put(address)
    assert taken(second) == address
    assert ctypes.string_at(address, blocks.BLOCK_SIZE) == bytes(blocks.BLOCK_SIZE)


def test_others_get_the_blocks_of_a_connection_that_ended_and_rarely(blocks: ModuleType) -> None:
    mapped_before = None
    for _ in range(5):
        lender = blocks.Lender()
        copies = 0
        for number in range(blocks.BLOCKS_AT_ONCE):
            while (address := lender.take(0)) is None:
                copies += 1
            ctypes.memset(address, 1, blocks.BLOCK_SIZE)
            lender.lend(address, number, number + 1)
        assert lender.take(0) is None
        lender.end()
        assert blocks.blocks_in_all() == len(blocks.blocks_spare()) == blocks.BLOCKS_AT_ONCE
        if mapped_before is None:
            assert copies == 0
            mapped_before = mapped()
        else:
            assert copies == blocks.BLOCKS_AT_ONCE * blocks.COPIES
    assert mapped() - mapped_before < blocks.BLOCKS_AT_ONCE * blocks.BLOCK_SIZE


def mapped() -> int:
    """Bytes of this process's address space that are in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
