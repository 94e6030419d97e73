import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.inventory import Cluster
from collectors.minutes import WINDOWS_MIN, Minutes
from tests.collectors.fleets import fault, watch

CLUSTERS = (Cluster("a", 0, 0, hosts=3), Cluster("b", 0, 90, hosts=5))
FIRST = 29_000_000


def counts_of(minutes, begin=FIRST, end=FIRST + 10):
    return minutes.counts("dram", begin, end).sum(axis=1)


@pytest.mark.parametrize(
    ("time_error_s", "smallest"), [(0, 3), (180, 3), (180.5, 5), (300, 5), (1800, 30), (1801, 60), (3600, 60)]
)
def test_a_fault_counts_only_in_windows_as_long_as_its_time_error(time_error_s, smallest):
    minutes = Minutes(CLUSTERS)
    watch(minutes, CLUSTERS, FIRST, 10)
    assert minutes.observe(fault(FIRST + 4, "b", time_error_s=time_error_s))
    expected = [[0, float(window >= smallest)] for window in WINDOWS_MIN]
    assert counts_of(minutes).tolist() == expected


@pytest.mark.parametrize(
    "other",
    [{"novel": False}, {"time_error_s": 3601.0}, {"cluster": "unknown"}, {"cluster": None}],
)
def test_what_the_scan_does_not_use(other):
    minutes = Minutes(CLUSTERS)
    watch(minutes, CLUSTERS, FIRST, 10)
    minutes.take_changed()
    assert not minutes.observe(fault(FIRST, "a") if not other else fault(FIRST, **({"cluster": "a"} | other)))
    assert minutes.take_changed() is None and not counts_of(minutes).any()


def test_a_fault_counts_once_whatever_its_count():
    minutes = Minutes(CLUSTERS)
    watch(minutes, CLUSTERS, FIRST, 10)
    minutes.observe(fault(FIRST, "a", count=10_000))
    assert counts_of(minutes)[-1].tolist() == [1, 0]


def test_counts_of_a_cluster_that_nobody_watches_are_masked():
    minutes = Minutes(CLUSTERS)
    minutes.set_watching("dram", FIRST, np.array([[3, 0], [3, 5]]))
    for minute in (FIRST, FIRST + 1):
        minutes.observe(fault(minute, "b"))
    assert minutes.counts("dram", FIRST, FIRST + 2)[-1].tolist() == [[0, 0], [0, 1]]
    assert minutes.watching("dram", FIRST - 1, FIRST + 3).tolist() == [[0, 0], [3, 0], [3, 5], [0, 0]]


def test_what_changed_is_told_once():
    minutes = Minutes(CLUSTERS)
    watch(minutes, CLUSTERS, FIRST, 10)
    assert minutes.take_changed() == FIRST
    watch(minutes, CLUSTERS, FIRST, 10)
    assert minutes.take_changed() is None, "the same hosts again are no change"
    minutes.set_watching("dram", FIRST, np.array([[3, 5], [3, 5], [2, 5]]))
    minutes.observe(fault(FIRST + 7, "a"))
    assert minutes.take_changed() == FIRST + 2


def test_a_senseless_time_costs_no_memory_and_hurts_nobody():
    minutes = Minutes(CLUSTERS)
    watch(minutes, CLUSTERS, FIRST, 10)
    for minute in (0, 10**8):
        minutes.observe(fault(minute, "a"))
    assert not counts_of(minutes).any() and minutes.first_minute == FIRST


def test_forgetting():
    minutes = Minutes(CLUSTERS)
    watch(minutes, CLUSTERS, FIRST, 10)
    for minute in (FIRST, FIRST + 5):
        minutes.observe(fault(minute, "a"))
    minutes.forget_before(FIRST + 5)
    assert minutes.first_minute == FIRST + 5
    assert minutes.counts("dram", FIRST, FIRST + 10)[-1, :, 0].nonzero()[0].tolist() == [5]
    assert minutes.watching("dram", FIRST, FIRST + 10)[:, 0].tolist() == [0] * 5 + [3] * 5


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30), st.integers(0, 4)), max_size=12))
def test_overwriting_is_overwriting(blocks):
    minutes, model = Minutes(CLUSTERS), np.zeros((300, 2), np.int64)
    for begin, number, hosts in blocks:
        minutes.set_watching("dram", FIRST + begin, np.full((number, 2), hosts))
        model[begin : begin + number] = hosts
    assert (minutes.watching("dram", FIRST, FIRST + 300) == model).all()


def test_counts_in_bulk_are_the_same_as_one_by_one():
    one_by_one, bulk = Minutes(CLUSTERS), Minutes(CLUSTERS)
    for minutes in (one_by_one, bulk):
        watch(minutes, CLUSTERS, FIRST, 200)
        minutes.take_changed(), minutes.take_added()
    at, columns, numbers = np.array([FIRST + 130, FIRST + 4, FIRST + 4]), np.array([1, 0, 1]), np.array([2, 1, 0])
    for minute, column, number in zip(at, columns, numbers, strict=True):
        for _ in range(number):
            one_by_one.observe(fault(int(minute), CLUSTERS[column].name, time_error_s=300))
    bulk.add_counts("dram", at, columns, numbers, window=WINDOWS_MIN.index(5))
    for minutes in (one_by_one, bulk):
        assert minutes.take_changed() == FIRST + 4
        assert sorted(minutes.take_added().tolist()) == [FIRST + 4, FIRST + 130, FIRST + 130]
    assert (one_by_one.counts("dram", FIRST, FIRST + 200) == bulk.counts("dram", FIRST, FIRST + 200)).all()
    assert bulk.counts("dram", FIRST, FIRST + 200).sum() == 3 * 5  # in all windows but the shortest


def test_a_calm_hour_is_kept_as_one_row():
    minutes = Minutes(CLUSTERS)
    watch(minutes, CLUSTERS, FIRST // 60 * 60, 600)
    assert {len(hosts) for hosts in minutes._watching["dram"].hours.values()} == {1}
