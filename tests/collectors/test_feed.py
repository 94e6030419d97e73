"""The feed: what the store gets reaches the minutes once, wherever it came from."""

import contextlib
from dataclasses import replace

import pytest

from collectors.correlator import places
from collectors.feed import Feed
from collectors.inventory import Cluster
from collectors.minutes import DAY_NS, MINUTE_NS, WINDOWS_MIN, Minutes, minute_of
from collectors.population import Victims
from collectors.store import Store
from tests.collectors.scripted_agent import fault

CLUSTERS = (Cluster("fra", 50.0, 8.0), Cluster("nyc", 40.0, -74.0))
NOW_NS = 29_924_000 * MINUTE_NS + 30 * 10**9
NOW = minute_of(NOW_NS)


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(Store(tmp_path / "s.sqlite3")) as opened:
        yield opened


def put(store: Store, *times_ns: int, time_error_s: float = 0) -> None:
    lines = [replace(fault(), time_ns=time_ns, time_error_s=time_error_s, cluster="fra") for time_ns in times_ns]
    store.begin_import()
    store.import_faults((line, ()) for line in lines)


def watch(store: Store, name: str, begin: int, end: int, hosts: int = 5) -> None:
    store.finish_import(name, name, [("fra", "dram", begin, end, hosts)])


def counts(minutes: Minutes, begin: int, end: int) -> list[float]:
    return minutes.counts("dram", begin, end)[len(WINDOWS_MIN) - 1, :, 0].tolist()


def test_each_fault_is_fed_once(store):
    minutes = Minutes(CLUSTERS)
    feed = Feed(store, minutes, Victims(), 90)
    watch(store, "a", NOW - 10, NOW + 2)
    put(store, NOW_NS, NOW_NS - MINUTE_NS)
    feed.advance(NOW_NS, None, NOW_NS)
    assert counts(minutes, NOW - 2, NOW + 1) == [0, 1, 1]
    feed.advance(NOW_NS + 1, None, NOW_NS + 1)
    put(store, NOW_NS + 2)
    feed.advance(NOW_NS + 2, None, NOW_NS + 2)
    assert counts(minutes, NOW - 2, NOW + 1) == [0, 1, 2]


def test_what_not_everybody_could_tell_yet_waits(store):
    minutes = Minutes(CLUSTERS)
    feed = Feed(store, minutes, Victims(), 90)
    watch(store, "a", NOW - 10, NOW + 2)
    put(store, NOW_NS - 5, NOW_NS)
    feed.advance(NOW_NS, None, NOW_NS - 1)
    assert sum(counts(minutes, NOW - 2, NOW + 1)) == 1
    feed.advance(NOW_NS, None, NOW_NS)
    feed.advance(NOW_NS, None, NOW_NS)
    assert sum(counts(minutes, NOW - 2, NOW + 1)) == 2


def test_a_vague_time_waits_for_those_who_tell_later(store):
    minutes = Minutes(CLUSTERS)
    feed = Feed(store, minutes, Victims(), 90)
    watch(store, "a", NOW - 10, NOW + 2)
    put(store, NOW_NS, time_error_s=5)
    put(store, NOW_NS, time_error_s=3000)
    seen = []
    for heard_s in (4, 5, 59, 60):
        feed.advance(NOW_NS + 60 * 10**9, None, NOW_NS + heard_s * 10**9)
        seen.append(sum(minutes.counts("dram", NOW, NOW + 1)[-1, :, 0]))
    assert seen == [0, 1, 1, 2]


def test_a_fault_of_a_wrong_clock_is_not_fed(store):
    minutes = Minutes(CLUSTERS)
    watch(store, "a", NOW - 200 * 1440, NOW + 5)
    put(store, NOW_NS + 2 * MINUTE_NS, 2**62, NOW_NS - 91 * DAY_NS, NOW_NS)
    Feed(store, minutes, Victims(), 90).advance(NOW_NS, None, NOW_NS)
    assert sum(counts(minutes, NOW - 200 * 1440, NOW + 5)) == 1
    assert minutes.first_minute == minute_of(NOW_NS - 90 * DAY_NS)


def test_exposure_that_changed_late_is_fed_again(store):
    minutes = Minutes(CLUSTERS)
    feed = Feed(store, minutes, Victims(), 90)
    feed.advance(NOW_NS, None, NOW_NS)  # nothing is there yet
    watch(store, "a", NOW - 10, NOW)
    feed.advance(NOW_NS, None, NOW_NS)
    watch(store, "b", NOW - 100, NOW - 90)
    feed.advance(NOW_NS, None, NOW_NS)
    assert minutes.watching("dram", NOW - 100, NOW - 99)[0].tolist() == [0, 0]
    feed.advance(NOW_NS, (NOW - 100) * MINUTE_NS, NOW_NS)
    assert minutes.watching("dram", NOW - 100, NOW - 99)[0].tolist() == [5, 0]


def test_hosts_may_come_and_go_without_another_correlator():
    assert places(CLUSTERS) == places((replace(CLUSTERS[0], hosts=9), CLUSTERS[1]))
    assert places(CLUSTERS) != places((replace(CLUSTERS[0], latitude_deg=51.0), CLUSTERS[1]))
    assert places(CLUSTERS) != places(CLUSTERS[:1])
