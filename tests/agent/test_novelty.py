"""Novelty: the first fault after seven proven quiet days, and only then."""

import pytest

from agent.novelty import DAY_NS, GAPS_MAX_NS, QUIET_NS, History

NOW = 1_795_000_000 * 10**9
HOUR_NS = DAY_NS // 24


def days(count: float) -> int:
    return NOW + int(count * DAY_NS)


@pytest.mark.parametrize(("age_days", "novel"), [(0, False), (6.9, False), (7, True), (7.1, True), (400, True)])
def test_nothing_is_novel_before_seven_days_were_watched(age_days: float, novel: bool) -> None:
    assert History(since_ns=NOW).is_novel(days(age_days)) is novel


@pytest.mark.parametrize(("pause_days", "novel"), [(0, False), (6.9, False), (7, True), (7.1, True)])
def test_a_fault_ends_the_quiet_for_seven_days(pause_days: float, novel: bool) -> None:
    history = History(since_ns=days(-100)).with_fault(NOW)
    assert history.is_novel(days(pause_days)) is novel


def test_a_fault_older_than_the_latest_changes_nothing() -> None:
    history = History(since_ns=days(-100)).with_fault(NOW)
    assert history.with_fault(days(-3)) == history


def test_gaps_below_a_day_in_all_are_borne() -> None:
    history = History(since_ns=NOW)
    for day in range(1, 6):
        history = history.with_gap(days(day), days(day) + 4 * HOUR_NS)
    assert history.since_ns == NOW and history.is_novel(days(7.1))
    broken = history.with_gap(days(6), days(6) + 4 * HOUR_NS)
    assert broken == History(since_ns=days(6) + 4 * HOUR_NS), "the sixth makes a day"
    assert not broken.is_novel(days(13)) and broken.is_novel(days(14))


def test_a_gap_of_a_day_begins_the_history_anew() -> None:
    assert History(since_ns=NOW).with_gap(days(9), days(9) + GAPS_MAX_NS - 1).since_ns == NOW
    assert History(since_ns=NOW).with_gap(days(9), days(9) + GAPS_MAX_NS).since_ns == days(10)


def test_gaps_are_forgotten_after_seven_days() -> None:
    history = History(since_ns=NOW)
    for day in range(1, 100, 2):
        history = history.with_gap(days(day), days(day) + 5 * HOUR_NS)
        assert len(history.gaps) <= 4
    assert history.since_ns == NOW


def test_a_gap_from_before_the_history_counts_from_its_beginning() -> None:
    assert History(since_ns=NOW).with_gap(days(-30), days(0.5)).since_ns == NOW


def test_a_step_of_the_clock_moves_everything_and_proves_nothing() -> None:
    history = History(since_ns=NOW, last_fault_ns=days(1), gaps=((days(2), days(2.1)),))
    moved = history.shifted(QUIET_NS)
    assert moved.is_novel(days(7.9) + QUIET_NS) is False and moved.is_novel(days(8) + QUIET_NS) is True
    assert moved.shifted(-QUIET_NS) == history


def test_json_round_trip() -> None:
    for history in (History(since_ns=1), History(since_ns=1, last_fault_ns=2, gaps=((3, 4), (5, 6)))):
        assert History.from_json(history.as_json()) == history
