import numpy as np
import pytest

from collectors.baseline import Baseline
from collectors.minutes import WINDOWS_MIN, Minutes
from collectors.windows import Windows, block_stream, row
from tests.collectors.fleets import background, fault, twelve, watch

CLUSTERS = twelve()
FIRST = 29_000_040 // 60 * 60  # a full hour
BEGIN = FIRST + 60 * 60  # the first levels are in force by then


def learnt(minutes, streams, until):
    baselines = {}
    for stream in streams:
        baselines[stream] = Baseline(12, FIRST // 60)
        for hour in range(FIRST, until // 60 * 60, 60):
            baselines[stream].fold(minutes.events(stream, hour, hour + 60), minutes.watching(stream, hour, hour + 60))
    return baselines


@pytest.fixture(scope="module")
def minutes():
    minutes = Minutes(CLUSTERS)
    for stream, seed in (("dram", 1), ("sram", 2)):
        watch(minutes, CLUSTERS, FIRST, 72 * 60, stream)
        for one in background(CLUSTERS, 2.0, FIRST, 72 * 60, seed):
            minutes.observe(fault(one.time_ns // 60_000_000_000, one.cluster, stream=stream))
    return minutes


@pytest.fixture(scope="module")
def baselines(minutes):
    return learnt(minutes, ("dram", "sram"), BEGIN)


@pytest.mark.parametrize("window_min", WINDOWS_MIN)
def test_a_row_holds_the_sums_of_its_window_stream_by_stream(minutes, baselines, window_min):
    end = BEGIN + 30
    window = row(minutes, baselines, end - 1, window_min)
    for index, stream in enumerate(("dram", "sram")):
        counts = minutes.counts(stream, end - window_min, end)[WINDOWS_MIN.index(window_min)]
        assert (window.observed[index] == counts.sum(axis=0)).all()
        # 2 novel faults per host and hour, 2 hosts
        assert window.expected[index].sum() == pytest.approx(12 * 4 * window_min / 60, rel=0.15)


def test_all_windows_at_once_are_the_single_rows(minutes, baselines):
    windows = Windows(minutes, baselines, BEGIN + 17, BEGIN + 80)
    rows = windows.rows(np.ones(63, bool))
    for index, minute in ((0, BEGIN + 17), (43, BEGIN + 60), (62, BEGIN + 79)):
        for window, window_min in enumerate(WINDOWS_MIN):
            single = row(minutes, baselines, minute, window_min)
            assert windows.totals[window, index] == single.observed.sum()
            for stream in (0, 1):
                at = window * 63 + index
                counts = np.zeros(12)
                counts[rows[stream].columns] = rows[stream].counts[at]
                assert counts == pytest.approx(single.observed[stream] / single.overdispersion[stream], rel=1e-5)
                means = single.expected[stream] / single.overdispersion[stream]
                assert rows[stream].means[at] == pytest.approx(means, rel=1e-5)
    came = [minutes.events(stream, BEGIN + 17, BEGIN + 80).minutes - BEGIN - 17 for stream in ("dram", "sram")]
    assert np.flatnonzero(windows.arrived).tolist() == sorted({*came[0].tolist(), *came[1].tolist()})


def test_a_row_for_the_scan_keeps_the_clusters_that_count(minutes, baselines):
    single = row(minutes, baselines, BEGIN + 40, 3)
    for stream, scaled in enumerate(single.scaled()):
        assert scaled.columns.tolist() == np.flatnonzero(single.observed[stream]).tolist()
        assert scaled.counts.shape == (1, len(scaled.columns)) and scaled.means.shape == (1, 12)


def test_a_silent_cluster_has_neither_counts_nor_expectation(minutes):
    masked = Minutes(CLUSTERS)
    hosts = minutes.watching("dram", FIRST, BEGIN + 60)
    hosts[-60:, 4] = 0
    masked.set_watching("dram", FIRST, hosts)
    for one in background(CLUSTERS, 2.0, FIRST, 72 * 60, 1):
        masked.observe(one)
    full, without = (row(m, learnt(m, ("dram",), BEGIN), BEGIN + 59, 60) for m in (minutes, masked))
    assert not without.observed[0, 4] and not without.expected[0, 4]
    others = [column for column in range(12) if column != 4]
    assert (without.expected[0, others] == full.expected[0, others]).all()


def test_a_block_holds_the_same_rows_hour_by_hour(minutes, baselines):
    block = block_stream(minutes, "dram", baselines["dram"], BEGIN // 60, 2)
    rows = Windows(minutes, {"dram": baselines["dram"]}, BEGIN, BEGIN + 120).rows(np.ones(120, bool))[0]
    whole = rows.counts.reshape(len(WINDOWS_MIN), 120, -1)
    assert len(block.counts) >= len(rows.columns)
    for counts, column, hour in zip(block.counts, block.columns, block.hours, strict=True):
        at = int(np.flatnonzero(rows.columns == column)[0])
        # an hour's windows are scaled as if all of them lay within it
        assert counts == pytest.approx(whole[:, hour * 60 : hour * 60 + 60, at], rel=0.05)
    means = rows.means.reshape(len(WINDOWS_MIN), 120, 12)
    assert block.means[1] == pytest.approx(means[:, 119], rel=1e-4)


def test_what_is_cut_from_a_block_was_not_watched(minutes, baselines):
    block = block_stream(minutes, "dram", baselines["dram"], BEGIN // 60, 2)
    cut = np.zeros((2, 12), bool)
    cut[1, 3] = True
    rest = block.without(cut)
    assert not rest.means[1, :, 3].any() and rest.means[0, :, 3].all() and rest.means[1, :, 2].all()
    assert not ((rest.columns == 3) & (rest.hours == 1)).any() and ((rest.columns == 3) & (rest.hours == 0)).any()
