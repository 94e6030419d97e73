"""Novelty: seven proven quiet days, gaps borne up to a day, and nothing that can't be known."""

import pytest

from agent.novelty import DAY_NS, History

START_NS = 1_000 * DAY_NS


def day(number: float) -> int:
    return START_NS + int(number * DAY_NS)


@pytest.mark.parametrize(("quiet_days", "novel"), [(0, False), (6.99, False), (7, True), (400, True)])
def test_seven_quiet_days_from_the_beginning_of_what_is_known(quiet_days: float, novel: bool) -> None:
    assert History(since_ns=START_NS).is_novel(day(quiet_days)) is novel


@pytest.mark.parametrize(("quiet_days", "novel"), [(0, False), (6.9, False), (7.1, True)])
def test_seven_quiet_days_after_a_fault(quiet_days: float, novel: bool) -> None:
    history = History(since_ns=START_NS).with_fault(day(100))
    assert history.is_novel(day(100 + quiet_days)) is novel
    assert history.with_fault(day(50)) == history  # a fault told late doesn't make the last one earlier


def test_gaps_below_a_day_in_seven_are_borne() -> None:
    history = History(since_ns=START_NS)
    for number in range(20, 40, 2):  # four hours every second day: at most 16 in seven days
        history = history.with_gap(day(number), day(number + 4 / 24))
    assert history.is_novel(day(41))
    assert len(history.gaps) <= 5  # what lies further back than seven days is forgotten


def test_gaps_of_a_day_begin_the_history_anew() -> None:
    history = History(since_ns=START_NS).with_gap(day(20), day(20.5)).with_gap(day(22), day(22.5))
    assert history.decidable_ns == day(29.5)
    assert not history.is_novel(day(29.4)) and history.is_novel(day(29.6))


def test_a_gap_before_the_history_began_does_not_count() -> None:
    history = History(since_ns=day(10)).with_gap(day(0), day(10.5))
    assert history.is_novel(day(17))


def test_a_clock_that_is_set_moves_everything_along() -> None:
    history = History(since_ns=START_NS).with_gap(day(20), day(20.1)).with_fault(day(21))
    shifted = history.shifted(3 * DAY_NS)
    for number in (20, 25, 27.9, 28.1):
        assert shifted.is_novel(day(number + 3)) is history.is_novel(day(number))
    assert shifted.shifted(-3 * DAY_NS) == history


def test_it_survives_as_json() -> None:
    for history in (History(since_ns=1), History(since_ns=1).with_gap(2, 3).with_fault(4)):
        assert History.from_json(history.as_json()) == history
