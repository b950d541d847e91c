"""What a closed connection leaves behind, and how often it repeats its close."""

import pytest

from rawquic.endpoint.linger import MAX_PACKETS, Lingering

PEER = ("192.0.2.1", 5)


def lingering(packets: list[bytes]) -> Lingering:
    return Lingering(packets, PEER, "198.51.100.7", 0.02)


def test_the_close_is_repeated_ever_more_rarely() -> None:
    """RFC 9000 §10.2.1."""
    closing = lingering([b"close"])
    answered = [number for number in range(1, 1001) if closing.should_repeat(50, PEER, number)]
    assert answered == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_what_came_together_is_answered_once() -> None:
    closing = lingering([b"close"])
    assert [closing.should_repeat(50, PEER, now) for now in (1, 1, 1, 1, 2, 2, 2, 3)] == [
        *(True, False, False, False),
        *(False, False, False),
        True,
    ]


def test_a_draining_connection_answers_nothing() -> None:
    """RFC 9000 §10.2.2."""
    draining = lingering([])
    assert not any(draining.should_repeat(50, PEER, number) for number in range(1000))


def test_another_address_gets_no_answer() -> None:
    """RFC 9000 §10.2.1."""
    closing = lingering([b"close"])
    assert not any(closing.should_repeat(1200, ("192.0.2.1", 6), number) for number in range(100))
    assert closing.should_repeat(50, PEER, 100)


def test_no_more_than_three_times_what_came_goes_to_an_address_that_is_not_validated() -> None:
    """RFC 9000 §8.1, §10.2.1."""
    closing = Lingering([bytes(500)], PEER, None, 0.02, 100)
    answered = [number for number in range(1, 101) if closing.should_repeat(30, PEER, number)]
    assert answered == [8, 16, 32, 64]
    assert closing.room == 100 + 100 * 90 - 4 * 500


@pytest.mark.parametrize("count", range(5))
def test_only_the_last_packets_are_kept(count: int) -> None:
    packets = [bytes([number]) * 1200 for number in range(count)]
    kept = lingering(packets).packets
    assert kept == packets[-MAX_PACKETS:]
    assert sum(map(len, kept)) <= 2400


def test_what_it_knows() -> None:
    item = lingering([b"close"])
    assert item.address == PEER and item.local == "198.51.100.7"
    assert item.round_trip == 0.02
    assert item.ids == set()


def test_it_holds_no_connection() -> None:
    """A closed connection must cost no more than its packets: there is room for nothing else."""
    with pytest.raises(AttributeError):
        lingering([]).connection = object()  # type: ignore[attr-defined]
