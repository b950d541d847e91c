"""What a closed connection leaves behind, and how often it repeats its close."""

import pytest

from rawquic.endpoint.linger import MAX_PACKETS, Lingering


def lingering(packets: list[bytes]) -> Lingering:
    return Lingering(packets, ("192.0.2.1", 5), "198.51.100.7", 3.5, 0.02)


def test_the_close_is_repeated_ever_more_rarely() -> None:
    """RFC 9000 §10.2.1."""
    closing = lingering([b"close"])
    answered = [number for number in range(1, 1001) if closing.should_repeat()]
    assert answered == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_a_draining_connection_answers_nothing() -> None:
    """RFC 9000 §10.2.2."""
    draining = lingering([])
    assert not any(draining.should_repeat() for _ in range(1000))


@pytest.mark.parametrize("count", range(5))
def test_only_the_last_packets_are_kept(count: int) -> None:
    packets = [bytes([number]) * 1200 for number in range(count)]
    kept = lingering(packets).packets
    assert kept == packets[-MAX_PACKETS:]
    assert sum(map(len, kept)) <= 2400


def test_what_it_knows() -> None:
    item = lingering([b"close"])
    assert item.address == ("192.0.2.1", 5) and item.local == "198.51.100.7"
    assert item.deadline == 3.5 and item.round_trip == 0.02
    assert item.ids == set()


def test_it_holds_no_connection() -> None:
    """A closed connection must cost no more than its packets: there is room for nothing else."""
    with pytest.raises(AttributeError):
        lingering([]).connection = object()  # type: ignore[attr-defined]
