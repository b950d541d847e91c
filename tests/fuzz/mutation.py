"""Seeded mutation of bytes, and numbers near the bounds of varints (RFC 9000 §16)."""

import random

# The last and first of each size of a varint, and about the largest count of streams.
SIZES = (0, 1, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30)
EDGES = (*SIZES, 1 << 60, (1 << 60) + 1, (1 << 62) - 1)


def varint(rng: random.Random) -> int:
    return rng.choice(EDGES) if rng.random() < 0.5 else rng.randrange(1 << rng.randrange(1, 62))


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few changes: flips, cuts, copies, insertions."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + rng.randrange(1, 8)]
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randrange(1, 8))
        else:
            out[at:at] = out[:at][-8:]
    return bytes(out)
