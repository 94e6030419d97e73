import json
import random
from dataclasses import replace

import numpy as np
import pytest

from collectors.correlator import LEARNING_DAYS, Correlator
from collectors.incidents import Burst
from collectors.minutes import MINUTE_NS
from collectors.revision import Revision
from collectors.scan import responses
from collectors.simulate import Simulation
from collectors.sky import ground_direction, separation_deg, unit_vectors
from tests.collectors.fleets import background, cities, fault, feed, off_deg, steps, twelve, watch

DAY_MIN = 1440
FIRST = 20_000 * DAY_MIN
BURST = FIRST + 15 * DAY_MIN - 60
END = BURST + 60
SOURCE_DEG = (-10.0, 60.0)
FLEET = twelve()


def quiet_fleet(days=15, seed=1, rate=0.05, **settings):
    """A correlator fed with Poisson faults, the first minute FIRST, not yet stepped."""
    correlator = Correlator(FLEET, **settings)
    watch(correlator.minutes, FLEET, FIRST, days * DAY_MIN)
    for one in background(FLEET, rate, FIRST, days * DAY_MIN, seed):
        correlator.minutes.observe(one)
    return correlator


def celestial(begin=BURST, per_facing_cluster=9):
    """Ten minutes of faults in the clusters that face SOURCE_DEG, in the order of time."""
    source = unit_vectors(*(np.array(angle) for angle in SOURCE_DEG))
    shares = responses(FLEET, source[None], 1)[0] * per_facing_cluster
    draw = np.random.default_rng(5)
    faults = [
        fault(begin + int(draw.integers(10)), cluster.name)
        for cluster, number in zip(FLEET, shares.round().astype(int), strict=True)
        for _ in range(number)
    ]
    return sorted(faults, key=lambda one: one.time_ns)


def run(correlator, faults=(), until=END):
    """Steps as live: through the last hour minute by minute, each fault observed in its minute."""
    revisions = steps(correlator, BURST - 6, BURST)
    pending = list(faults)
    for minute in range(BURST, until):
        while pending and pending[0].time_ns < (minute + 1) * MINUTE_NS:
            correlator.minutes.observe(pending.pop(0))
        revisions += steps(correlator, minute, minute + 1)
    return revisions


@pytest.fixture(scope="module")
def burst_revisions():
    return run(quiet_fleet(), celestial())


def test_a_burst_from_one_direction_is_raised_once_and_named(burst_revisions):
    first, last = burst_revisions[0], burst_revisions[-1]
    assert [r.kind for r in burst_revisions] == ["new"] + ["update"] * (len(burst_revisions) - 1)
    assert [r.rev for r in burst_revisions] == list(range(1, len(burst_revisions) + 1))
    assert {r.burst_id for r in burst_revisions} == {first.burst_id}
    assert last.label == "celestial" and last.posterior["celestial"] > 0.9
    assert off_deg(last, *SOURCE_DEG) < 30
    assert last.far_per_year < 1e-3 and last.extrapolated_from_days == 14
    assert BURST - 3 <= last.t_start_ns // MINUTE_NS <= BURST + 1
    assert BURST + 8 <= last.t_end_ns // MINUTE_NS <= BURST + 12
    assert len(last.clusters) == 12
    assert sum(share.observed for share in last.clusters) >= len(celestial())
    assert sum(share.expected for share in last.clusters) < 1


def test_the_sky_position_is_that_of_the_middle_of_the_best_window(burst_revisions):
    last = burst_revisions[-1]
    assert last.window_min * MINUTE_NS == last.t_end_ns - last.t_start_ns
    ground = ground_direction(last.ra_deg, last.dec_deg, (last.t_start_ns + last.t_end_ns) // 2)
    told = unit_vectors(np.array(last.ground_latitude_deg), np.array(last.ground_longitude_deg))
    assert separation_deg(ground, told) < 1e-6


def test_a_burst_is_active_until_it_has_been_quiet_for_a_while():
    correlator = quiet_fleet()
    last = run(correlator, celestial())[-1]
    quiet_ns = 15 * MINUTE_NS
    assert correlator.active(last.t_end_ns + quiet_ns - 1) == [last]
    assert correlator.active(last.t_end_ns + quiet_ns) == []


def test_nothing_is_ever_called_impossible():
    last = run(quiet_fleet(), celestial(per_facing_cluster=300), until=BURST + 12)[-1]
    assert last.statistic_nats > 3000 and 0 < last.far_per_year < 1e-40


def test_two_pulses_with_a_quiet_time_between_them_are_two_bursts_and_none_is_retracted():
    revisions = run(quiet_fleet(), [*celestial(), *celestial(BURST + 30)])
    assert {r.kind for r in revisions} == {"new", "update"}
    last = {r.burst_id: r for r in revisions}
    assert [r.t_start_ns // MINUTE_NS >= BURST + 27 for r in last.values()] == [False, True]
    assert all(r.window_min <= 15 for r in last.values())


def test_faults_whose_time_is_uncertain_wait_for_a_longer_window():
    late = [replace(one, time_error_s=1500.0) for one in celestial()]
    revisions = run(quiet_fleet(), late)
    assert revisions and {r.window_min for r in revisions} <= {30, 60}
    at_once = quiet_fleet()
    for one in late:
        at_once.minutes.observe(one)
    assert story(steps(at_once, END - 1, END)[-1]) == story(revisions[-1])


def test_a_rise_of_the_whole_fleet_is_labelled_fleet():
    faults = [fault(BURST + i % 10, cluster.name) for i in range(40) for cluster in FLEET[i % 2 :: 2]]
    faults.sort(key=lambda one: one.time_ns)
    assert run(quiet_fleet(), faults)[-1].label == "fleet"


def test_a_rise_of_one_cluster_is_labelled_local():
    last = run(quiet_fleet(), [fault(BURST + i // 3, FLEET[7].name) for i in range(30)])[-1]
    assert last.label == "local"
    assert max(last.clusters, key=lambda share: share.observed).cluster == FLEET[7].name


def test_two_faults_are_never_a_burst_and_silence_is_none():
    rare = quiet_fleet(rate=0.0)
    assert run(rare, [fault(BURST, FLEET[0].name), fault(BURST, FLEET[1].name)]) == []
    dip = Correlator(FLEET)
    watch(dip.minutes, FLEET, FIRST, 15 * DAY_MIN)
    for one in background(FLEET, 4.0, FIRST, 15 * DAY_MIN - 120, 3):
        dip.minutes.observe(one)
    assert steps(dip, END - 200, END) == [] and dip.status.state == "live"


def test_nothing_is_raised_while_learning():
    correlator = quiet_fleet(days=LEARNING_DAYS)
    for one in celestial(begin=FIRST + LEARNING_DAYS * DAY_MIN - 30):
        correlator.minutes.observe(one)
    assert steps(correlator, FIRST, FIRST + LEARNING_DAYS * DAY_MIN, 600) == []
    status = correlator.status
    assert (status.state, status.threshold_nats, status.far_per_year) == ("learning", None, None)
    assert status.statistic_nats == 0, "nothing is scanned yet, so no past window may pass for the present one"
    assert status.history_days == pytest.approx(LEARNING_DAYS, abs=0.001)
    steps(correlator, FIRST + LEARNING_DAYS * DAY_MIN, FIRST + LEARNING_DAYS * DAY_MIN + 1)
    assert correlator.status.state == "live"


def test_less_history_means_a_stricter_threshold():
    thresholds = {}
    for rate in (1.0, 1 / 3):
        correlator = quiet_fleet(false_alarms_per_year=rate)
        steps(correlator, END - 1, END)
        thresholds[rate] = correlator.status.threshold_nats
        tail = correlator._tail
    assert tail.far_per_year(thresholds[1.0]) == pytest.approx(1 / 3)
    assert tail.far_per_year(thresholds[1 / 3]) == pytest.approx(1 / 9)


def test_an_empty_fleet_is_no_trouble():
    correlator = Correlator(FLEET)
    assert correlator.step(END * MINUTE_NS) == []
    assert correlator.status.state == "learning" and correlator.status.history_days == 0
    assert correlator.expected_per_minute("dram").tolist() == [0.0] * 12


def test_a_quiet_month_stays_quiet():
    # 30 a year are asked for, so a third of that while history is short: 16 live days hold .44 on average, and more
    # than 4 have a probability of 1e-4
    revisions = steps(
        quiet_fleet(days=30, seed=11, false_alarms_per_year=30.0), FIRST + 14 * DAY_MIN, FIRST + 30 * DAY_MIN, 120
    )
    assert len({r.burst_id for r in revisions}) <= 4


def test_a_restart_raises_nothing_twice(burst_revisions):
    correlator = quiet_fleet()
    for one in celestial():
        correlator.minutes.observe(one)
    correlator.restore(burst_revisions, END - 1)
    assert steps(correlator, END, END + 10) == []
    assert correlator.active(END * MINUTE_NS - 40 * MINUTE_NS) == [burst_revisions[-1]]


def test_a_restart_in_the_middle_goes_on_with_the_same_burst(burst_revisions):
    before = quiet_fleet()
    told = run(before, celestial(), until=BURST + 5)
    after = quiet_fleet()
    for one in celestial():
        after.minutes.observe(one)
    after.restore(told, BURST + 4)
    more = steps(after, BURST + 5, END)
    assert {r.burst_id for r in more} == {told[0].burst_id} and {r.kind for r in more} == {"update"}
    assert more[0].rev == told[-1].rev + 1
    assert story(more[-1]) == story(burst_revisions[-1])


def story(revision):
    """What must not depend on how the data came: all but the name, the number, and what was known of rates by then."""
    told_then = ("burst_id", "rev", "kind", "far_per_year", "extrapolated_from_days", "calibration_id")
    return {k: v for k, v in revision.document().items() if k not in told_then}


@pytest.mark.parametrize("seed", range(3))
def test_data_up_to_six_hours_late_in_any_order_end_in_the_same_place(burst_revisions, seed):
    shuffle = random.Random(seed)
    late = celestial()
    shuffle.shuffle(late)
    correlator = quiet_fleet()
    revisions = run(correlator, until=END + 4 * 60)
    assert revisions == []
    while late:
        for one in [late.pop() for _ in range(min(len(late), 9))]:
            correlator.minutes.observe(one)
        end = END + 4 * 60
        revisions += steps(correlator, end, end + 1)
    assert story(revisions[-1]) == story(burst_revisions[-1])


def test_data_later_than_six_hours_are_not_scanned():
    correlator = quiet_fleet(days=16)
    steps(correlator, END + 370, END + 371)
    for one in celestial():
        correlator.minutes.observe(one)
    assert steps(correlator, END + 371, END + 372) == []


def test_a_burst_is_retracted_when_its_clusters_turn_out_not_to_have_watched():
    correlator = quiet_fleet()
    told = run(correlator, celestial())
    hosts = correlator.minutes.watching("dram", BURST - 5, BURST + 15)
    correlator.minutes.set_watching("dram", BURST - 5, np.zeros_like(hosts))
    (retracted,) = steps(correlator, END, END + 1)
    assert (retracted.kind, retracted.burst_id, retracted.rev) == ("retract", told[0].burst_id, told[-1].rev + 1)
    assert correlator.active(END * MINUTE_NS) == []
    correlator.minutes.set_watching("dram", BURST - 5, hosts)
    (back,) = steps(correlator, END + 1, END + 2)
    assert (back.kind, back.burst_id, back.rev) == ("update", told[0].burst_id, told[-1].rev + 2)


def test_a_partial_minute_never_says_more_than_the_full_one():
    correlator = quiet_fleet()
    burst = celestial()
    statistics = []
    steps(correlator, BURST - 1, BURST)
    for one in burst:
        correlator.minutes.observe(replace(one, time_ns=BURST * MINUTE_NS))
        correlator.step(BURST * MINUTE_NS + 1)
        statistics.append(correlator.status.statistic_nats)
    assert statistics == sorted(statistics) and statistics[-1] > statistics[0]


def test_an_old_burst_does_not_blind_the_scan():
    thresholds = []
    for faults in ([], celestial(begin=FIRST + 8 * DAY_MIN, per_facing_cluster=30)):
        correlator = quiet_fleet()
        for one in faults:
            correlator.minutes.observe(one)
        steps(correlator, END - 1, END)
        thresholds.append(correlator.status.threshold_nats)
    assert thresholds[1] == pytest.approx(thresholds[0], abs=2.0)


def test_an_import_of_older_history_makes_a_learning_correlator_live():
    correlator = Correlator(FLEET)
    watch(correlator.minutes, FLEET, END - 60, 60)
    steps(correlator, END - 60, END - 1)
    assert correlator.status.state == "learning"
    watch(correlator.minutes, FLEET, FIRST, 15 * DAY_MIN)
    for one in background(FLEET, 0.05, FIRST, 15 * DAY_MIN - 60, 1):
        correlator.minutes.observe(one)
    steps(correlator, END - 1, END)
    assert correlator.status.state == "live"
    # 0.05 novel faults per host and hour, 2 hosts, 60 minutes
    assert correlator.expected_per_minute("dram").mean() == pytest.approx(0.05 * 2 / 60, rel=0.2)


def test_the_shadows_of_a_forgotten_burst_say_nothing():
    correlator = quiet_fleet(days=16, rate=0.2)
    last = run(correlator, celestial())[-1]
    assert steps(correlator, END, END + 14 * 60) == []
    again = quiet_fleet(days=16, rate=0.2)
    for one in celestial():
        again.minutes.observe(one)
    again.restore([last], END)
    for after_min in (0, 330, 345, 360, 375):
        assert steps(again, END + after_min, END + after_min + 1) == []


def test_a_burst_that_lasts_longer_than_the_memory_stays_one():
    correlator = quiet_fleet(days=17)
    end = BURST + 14 * 60
    faults = [fault(minute, FLEET[7].name) for minute in range(BURST, end)]
    revisions = run(correlator, faults, until=end)
    assert {r.burst_id for r in revisions} == {revisions[0].burst_id}
    assert {r.kind for r in revisions[1:]} == {"update"}
    assert revisions[-1].t_start_ns // MINUTE_NS <= BURST + 1
    assert revisions[-1].t_end_ns // MINUTE_NS >= end - 15 and revisions[-1].label == "local"


def test_old_data_that_come_while_learning_are_learnt():
    rates = []
    for missing in (False, True):
        correlator = Correlator(FLEET)
        watch(correlator.minutes, FLEET, FIRST, 5 * DAY_MIN)
        faults = background(FLEET, 0.5, FIRST, 5 * DAY_MIN, 2)
        for one in faults[len(faults) // 2 :] if missing else faults:
            correlator.minutes.observe(one)
        steps(correlator, FIRST + 5 * DAY_MIN - 1, FIRST + 5 * DAY_MIN)
        if missing:
            for one in faults[: len(faults) // 2]:
                correlator.minutes.observe(one)
        correlator.step((FIRST + 5 * DAY_MIN) * MINUTE_NS - 1)
        rates.append(correlator.expected_per_minute("dram"))
    assert (rates[0] == rates[1]).all() and rates[0].all()


def test_two_bursts_are_two():
    second = BURST + 150
    faults = sorted(celestial() + celestial(begin=second), key=lambda one: one.time_ns)
    last = {r.burst_id: r for r in run(quiet_fleet(days=16), faults, until=second + 30)}
    assert len(last) == 2
    starts = sorted(r.t_start_ns // MINUTE_NS for r in last.values())
    assert abs(starts[0] - BURST) <= 2 and abs(starts[1] - second) <= 2


def test_the_document_has_the_keys_of_the_contract_and_comes_back(burst_revisions):
    revision = burst_revisions[-1]
    document = json.loads(json.dumps(revision.document()))
    contract = (
        "burst_id rev kind t_start t_end label posterior far_per_year ra_deg dec_deg area90_deg2 factors clusters"
    )
    assert set(contract.split()) <= set(document)
    assert document["t_start"].endswith("Z") and document["factors"] == []
    assert set(document["clusters"][0]) == {"cluster", "observed", "expected", "overdispersion"}
    assert Revision.from_document(document) == revision


def test_forty_cities_find_their_burst():
    inventory = cities()
    begin, end = FIRST, FIRST + 14 * DAY_MIN + 60
    source = (30.0, 10.0)
    burst = Burst(start_ns=(end - 20) * MINUTE_NS, duration_min=10, amplitude=32.0, ground_deg=source)
    correlator = Correlator(inventory.clusters)
    feed(
        correlator,
        Simulation(inventory, begin, end, seed=4, incidents=(burst.incident(inventory.clusters),)).lines(),
        inventory.clusters,
    )
    last = steps(correlator, end - 25, end)[-1]
    assert last.label == "celestial" and off_deg(last, *source) < 30
    assert abs(last.t_start_ns // MINUTE_NS - (end - 20)) <= 2
