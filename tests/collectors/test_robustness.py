"""Fleets that nothing was tuned on, and what isn't a burst: all through the very same correlator."""

import copy
import functools
import json
from dataclasses import replace

import numpy as np
import pytest

from agent.report import Change
from collectors.correlator import Correlator
from collectors.inventory import Cluster
from collectors.mapping import sky_map
from collectors.minutes import MINUTE_NS
from collectors.scan import responses
from collectors.sky import angles_deg, directions, separation_deg, unit_vectors
from tests.collectors.fleets import cities, off_deg, steps

DAY_MIN = 1440
FIRST = 20_000 * DAY_MIN
BURST = FIRST + 14 * DAY_MIN + 700
RATE_PER_HOST_HOUR = 1.5e-4


@functools.cache
def learned(places, unrest, streams, seed):
    """One that has a history until an hour before BURST; the rates vary by gamma factors of variance `unrest`."""
    clusters = [Cluster(name, *place, hosts=hosts) for name, *place, hosts in places]
    correlator, random = Correlator(clusters, streams=streams), np.random.default_rng(seed)
    hosts, minutes = np.array([cluster.hosts for cluster in clusters]), BURST - 60 - FIRST
    for stream in streams:
        correlator.minutes.set_watching(stream, FIRST, np.tile(hosts, (minutes, 1)))
    slices = random.gamma(1 / unrest, unrest, (minutes // 10, len(clusters))) if unrest else 1.0
    slices = np.broadcast_to(slices, (minutes // 10, len(clusters))).repeat(10, axis=0)
    put(correlator, random.poisson(slices * hosts * RATE_PER_HOST_HOUR / 60))
    steps(correlator, BURST - 61, BURST - 60)
    return correlator


def correlator_of(clusters, *, seed=1, unrest=0.0, until=BURST + 120, rise=None, streams=("dram",)):
    """A copy of one that has learned, and the hours after that; rise(minute) multiplies their expectation."""
    places = tuple((c.name, c.latitude_deg, c.longitude_deg, c.hosts) for c in clusters)
    correlator = copy.deepcopy(learned(places, unrest, streams, seed))
    hosts = np.array([cluster.hosts for cluster in clusters])
    minutes = np.arange(BURST - 60, until)
    for stream in {*streams, "canary", "record"}:
        correlator.minutes.set_watching(stream, BURST - 60, np.tile(hosts, (len(minutes), 1)))
    factors = np.stack([np.broadcast_to(rise(m) if rise else 1.0, len(clusters)) for m in minutes.tolist()])
    put(correlator, np.random.default_rng(seed + 1).poisson(factors * hosts * RATE_PER_HOST_HOUR / 60), BURST - 60)
    return correlator


def put(correlator, counts, first=FIRST, stream="dram"):
    at, columns = np.nonzero(counts)
    correlator.minutes.add_counts(stream, first + at, columns, counts[at, columns])


def lift(clusters, amplitude, place_deg=(20.0, 60.0), begin=BURST, minutes=10):
    """A burst of `minutes` from above this place."""
    f = responses(clusters, unit_vectors(*(np.array(angle) for angle in place_deg))[None], 1)[0]
    return lambda minute: 1 + amplitude * f * (begin <= minute < begin + minutes)


def evenly(number, hosts):
    return [Cluster(f"c{i:04}", *angles_deg(d), hosts=hosts) for i, d in enumerate(directions(number))]


def told(correlator, until=BURST + 40, every_min=5):
    """The last revision of each burst that stands."""
    last = {r.burst_id: r for r in steps(correlator, BURST - 60, until, every_min)}
    return [revision for revision in last.values() if revision.kind != "retract"]


def test_six_clusters():
    clusters = evenly(6, 60_000)
    (burst,) = told(correlator_of(clusters, rise=lift(clusters, 60)))
    assert burst.label in ("celestial", "region", "incoherent") and off_deg(burst, 20, 60) < 60


def test_one_cluster_has_most_of_the_hosts():
    clusters = [replace(cluster, hosts=400_000 if i == 5 else 5000) for i, cluster in enumerate(cities().clusters)]
    (burst,) = told(correlator_of(clusters, rise=lift(clusters, 40)))
    assert off_deg(burst, 20, 60) < 60


def test_all_in_one_hemisphere():
    clusters = [cluster for cluster in cities().clusters if -30 < cluster.longitude_deg < 150]
    (burst,) = told(correlator_of(clusters, rise=lift(clusters, 60, (-10.0, 120.0))))
    assert burst.label in ("celestial", "region"), "what nobody watches can't tell the two apart"
    assert off_deg(burst, -10, 120) < 40


@pytest.mark.parametrize("unrest", [0.0, 0.3])
def test_other_unrest(unrest):
    """Whatever it is, it is measured: quiet stays quiet, and a burst is found."""
    clusters = cities().clusters
    assert told(correlator_of(clusters, unrest=unrest, seed=3)) == []
    (burst,) = told(correlator_of(clusters, unrest=unrest, rise=lift(clusters, 64)))
    assert burst.label == "celestial"


def test_two_pulses_from_one_direction_stay_celestial():
    clusters = cities().clusters
    first, second = lift(clusters, 64), lift(clusters, 64, begin=BURST + 45)
    bursts = told(correlator_of(clusters, rise=lambda m: first(m) * second(m)), until=BURST + 90)
    assert bursts and {burst.label for burst in bursts} == {"celestial"}


@pytest.mark.parametrize(
    ("wave_min", "pause_min", "labels"),
    [(20, 45, {"rollout"}), (40, 10, {"rollout"}), (20, 2, {"incoherent", "fleet", "region", "rollout"})],
)
def test_two_places_one_after_the_other_are_a_staged_change(wave_min, pause_min, labels):
    """In two bursts, where the second renames the first, in one, or in one window, where they can't be told apart."""
    clusters = cities().clusters
    longitude = np.array([cluster.longitude_deg for cluster in clusters])
    waves = [(longitude < -30), (longitude > 60)]

    def rise(minute):
        stage = (minute - BURST) // (wave_min + pause_min)
        inside = minute >= BURST and (minute - BURST) % (wave_min + pause_min) < wave_min and stage < 2
        return np.where(waves[stage], 40.0, 1.0) if inside else 1.0

    bursts = told(correlator_of(clusters, rise=rise, until=BURST + 160), until=BURST + 150)
    assert bursts and {burst.label for burst in bursts} <= labels
    assert pause_min == 2 or all(burst.posterior["celestial"] == 0 for burst in bursts)
    assert all(sum(burst.posterior.values()) == pytest.approx(1) for burst in bursts)


def test_a_dip_is_no_burst():
    clusters = [replace(cluster, hosts=cluster.hosts * 20) for cluster in cities().clusters]
    dip = lift(clusters, -0.95, minutes=60)
    assert told(correlator_of(clusters, rise=dip), until=BURST + 100) == []


def test_a_glitch_of_one_cluster_is_local():
    clusters = cities().clusters
    correlator = correlator_of(clusters)
    glitch = np.zeros((1, 40), int)
    glitch[0, 17] = 300
    put(correlator, glitch, BURST)
    (burst,) = told(correlator)
    assert burst.label == "local"
    assert max(burst.clusters, key=lambda share: share.observed).cluster == clusters[17].name


def test_six_hundred_clusters():
    clusters = evenly(600, 60)
    correlator = correlator_of(clusters, rise=lift(clusters, 200), until=BURST + 20)
    (burst,) = told(correlator, until=BURST + 15, every_min=30)
    assert burst.label == "celestial" and off_deg(burst, 20, 60) < 20


@pytest.mark.parametrize("streams", [("dram",), ("dram", "canary")])
def test_canaries_and_records_are_shown_and_scanned_only_if_configured(streams):
    clusters = cities().clusters
    correlator = correlator_of(clusters, streams=streams, rise=lift(clusters, 64))
    more = np.zeros((1, 40), int)
    more[0, 7] = 9
    put(correlator, more, BURST + 4, "record")
    put(correlator, more, BURST + 4, "canary")
    (burst,) = told(correlator)
    assert burst.streams["record"] == burst.streams["canary"] == 9
    scanned = sum(burst.streams[stream] for stream in streams)
    assert sum(share.observed for share in burst.clusters) == scanned


def test_late_faults_are_counted_and_not_scanned():
    clusters = cities().clusters
    correlator = correlator_of(clusters, until=BURST + 600)
    steps(correlator, BURST + 430, BURST + 431)
    before = correlator.status.late_faults
    late = np.zeros((1, 40), int)
    late[0, 3] = 50
    put(correlator, late, BURST)
    assert steps(correlator, BURST + 431, BURST + 432) == [] and correlator.status.late_faults == before + 50


def change(identity, action, minute, cohort="new"):
    return Change(time_ns=minute * MINUTE_NS, id=identity, action=action, cohort=cohort)


def cohort_world(with_changes, shuffle=None):
    """A quarter of the hosts of every second cluster got new firmware, and rises fortyfold."""
    clusters = cities().clusters
    chosen = np.arange(40) % 2 == 0
    correlator = correlator_of(clusters, rise=lambda m: 1 + 10.0 * chosen * (BURST <= m < BURST + 20))
    for index, cluster in enumerate(clusters):
        for number in range(8):
            cohort = "new" if chosen[index] and number < 2 else "old"
            correlator.population.set_host(f"{cluster.name}-{number}", cluster.name, (("cohort", cohort),))
    changes = [change("a", "open", BURST - 30), change("a", "close", BURST + 60), change("b", "open", BURST + 80)]
    changes += [change("c", "close", BURST - 5), change("c", "open", BURST - 90)]
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(changes)
    return correlator, changes if with_changes else []


def test_an_open_change_makes_it_a_roll_out_whenever_it_is_told():
    found = []
    for seed in range(3):
        correlator, changes = cohort_world(True, seed)
        for one in changes[:seed]:
            correlator.take_change(one)
        steps(correlator, BURST - 60, BURST + 12, 4)
        for one in changes[seed:] + changes:
            correlator.take_change(one)
        (burst,) = told(correlator, until=BURST + 60) or [correlator.active(BURST * MINUTE_NS)[-1]]
        found.append(burst)
    assert {burst.label for burst in found} == {"rollout"} and {burst.change_ids for burst in found} == {("a",)}
    assert len({json.dumps(burst.document()["posterior"]) for burst in found}) == 1
    (without,) = told(cohort_world(False)[0])
    assert without.label != "rollout" and without.change_ids == ()


def test_a_restart_with_the_calibration_slides_nothing_again(monkeypatch):
    clusters = cities().clusters
    before = correlator_of(clusters)
    steps(before, BURST - 1, BURST)
    calibration = json.loads(json.dumps(before.calibration()))
    assert len(calibration["blocks"]) == 5
    places = [Cluster(c.name, c.latitude_deg, c.longitude_deg, hosts=c.hosts) for c in clusters]
    after = Correlator(places, streams=("dram",))
    after.restore([], BURST - 1, calibration)
    after.minutes = copy.deepcopy(before.minutes)
    monkeypatch.setattr(after, "_slide", None)  # it would raise
    steps(after, BURST - 1, BURST)
    assert after.status == before.status and after.calibration() == calibration
    other = Correlator(places[:-1], streams=("dram",))
    other.restore([], BURST - 1, calibration)
    assert other.calibration()["blocks"] == {}, "other clusters, another calibration"


def test_another_day_slides_only_what_is_new(monkeypatch):
    correlator = correlator_of(cities().clusters, until=BURST + 3 * DAY_MIN)
    steps(correlator, BURST - 1, BURST)
    before = len(correlator.calibration()["blocks"])
    slid, slide = [], correlator._slide
    monkeypatch.setattr(correlator, "_slide", lambda block: slid.append(block) or slide(block))
    steps(correlator, BURST + 2 * DAY_MIN, BURST + 2 * DAY_MIN + 1)
    assert len(slid) == 1 and len(correlator.calibration()["blocks"]) == before + 1


def test_minute_by_minute_or_hours_at_once_is_the_same():
    clusters = cities().clusters
    ends = []
    for every_min in (1, 120):
        correlator = correlator_of(clusters, rise=lift(clusters, 40))
        last = steps(correlator, BURST - 60, BURST + 60, every_min)[-1].document()
        ends.append({key: value for key, value in last.items() if key not in ("rev", "kind", "burst_id")})
    assert ends[0] == ends[1]


def test_the_map_of_a_revision_points_where_the_revision_says():
    clusters = cities().clusters
    (burst,) = told(correlator_of(clusters, rise=lift(clusters, 64)))
    sky = sky_map(burst, clusters)
    assert sky.shape == (768,) and sky.sum() == pytest.approx(1)
    mean = sky @ directions(768)
    ground = unit_vectors(np.array(burst.ground_latitude_deg), np.array(burst.ground_longitude_deg))
    assert separation_deg(mean / np.linalg.norm(mean), ground) < 0.1
    antipode = unit_vectors(np.array(burst.antipode_latitude_deg), np.array(burst.antipode_longitude_deg))
    assert separation_deg(-ground, antipode) < 1e-6
    assert 0 < burst.area50_deg2 < burst.area90_deg2 and len(burst.calibration_id) == 12
