"""Incidents: what each adds to a block of minutes, and to whom."""

from collections import Counter

import numpy as np
import pytest

from collectors.evaluation.fleets import fleet
from collectors.incidents import (
    BACKLOG_CLUSTER_MIN,
    KINDS,
    RACK_HOSTS,
    RACK_MIN,
    ROLLOUT_MIN,
    TENFOLD,
    Burst,
    Fleet,
    Incident,
    Rise,
    draw,
    fleet_of,
)
from collectors.inventory import Cluster, Host, Inventory
from collectors.minutes import MINUTE_NS, minute_of
from collectors.sky import zeniths
from collectors.world import Block

FIRST = 29_000_000
START = FIRST + 200
FLEET = fleet(400_000)


def block(expected=0.0, minutes=320, clusters=FLEET.clusters):
    shape = (minutes, len(clusters))
    return Block(FIRST, np.ones(shape, np.int64), np.full(shape, expected))


def drawn(kind, expected=0.0, seed=1):
    random = np.random.default_rng(seed)
    incident = KINDS[kind].make(FLEET, START, random)
    return incident, draw(FLEET, block(expected), [incident], random)


def test_nothing_happens_without_an_incident():
    faults = draw(FLEET, block(0.5), [], np.random.default_rng(0))
    assert len(faults.minute) == faults.ordinary == pytest.approx(0.5 * 320 * 40, rel=0.05)
    assert (faults.host < FLEET.hosts[faults.column]).all() and (faults.host >= 0).all()
    means = [faults.host[faults.column == column].mean() for column in range(40)]
    assert np.mean(means / FLEET.hosts) == pytest.approx(0.5, abs=0.03), "every host is as likely"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_does_something_within_its_time(kind):
    incident, faults = drawn(kind, expected=0.2)
    extra = faults.minute[faults.ordinary :]
    assert incident.end_minute > START
    if "backlog" in kind:
        assert not len(extra)
    else:
        assert len(extra) and extra.min() >= START and extra.max() < incident.end_minute


@pytest.mark.parametrize(("kind", "racks", "failures"), [("rack-50", 1, 50), ("racks-2", 2, 30), ("racks-3", 3, 20)])
def test_racks_fail_in_clusters_of_their_own(kind, racks, failures):
    _, faults = drawn(kind)
    by_rack = Counter(zip(faults.column.tolist(), (faults.host // RACK_HOSTS).tolist(), strict=True))
    assert list(by_rack.values()) == [failures] * racks and len({column for column, _ in by_rack}) == racks
    assert faults.minute.min() == START and faults.minute.max() < START + RACK_MIN


def test_the_same_rack_fails_as_a_whole_however_the_blocks_are_cut():
    incident = KINDS["rack-50"].make(FLEET, START + 3, np.random.default_rng(1))
    parts = [
        draw(FLEET, Block(begin, np.ones((5, 40), np.int64), np.zeros((5, 40))), [incident], np.random.default_rng(2))
        for begin in range(START, START + 20, 5)
    ]
    assert sum(len(part.minute) for part in parts) == 50


def test_one_device_with_ten_thousand_errors_is_one_novel_fault():
    _, faults = drawn("device")
    assert len(faults.minute) == 1 and faults.repeats.tolist() == [10_000]


def test_a_region_rises_tenfold_around_its_centre():
    incident, _ = drawn("region")
    (rise,) = incident.rises
    inside = rise.shares[0] > 0
    assert set(np.unique(rise.shares)) == {0.0, TENFOLD} and 3 <= inside.sum() < 20
    up = zeniths(FLEET.clusters)[inside]
    assert np.degrees(np.arccos((up @ up.T).min())) < 2 * 1500 / 111.2


def test_a_cohort_s_roll_out_hits_its_own_hosts_and_is_announced():
    incident, faults = drawn("cohort", expected=0.5)
    opened, closed = incident.changes
    members = FLEET.cohorts[opened.cohort]
    extra = slice(faults.ordinary, None)
    assert len(faults.host[extra])
    assert all(host in members[column] for column, host in zip(faults.column[extra], faults.host[extra], strict=True))
    assert (opened.action, closed.action) == ("open", "close")
    assert minute_of(opened.time_ns) < START and minute_of(closed.time_ns) == START + ROLLOUT_MIN
    expected = 0.5 * ROLLOUT_MIN * TENFOLD * FLEET.share(opened.cohort).sum()
    assert len(faults.minute[extra]) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("kind", ["staged", "staged-bands"])
def test_staged_roll_outs_go_from_one_part_to_the_next(kind):
    incident, _ = drawn(kind)
    raised = np.zeros((3 * ROLLOUT_MIN, 40), bool)
    for rise in incident.rises:
        begin = rise.first_minute - START
        raised[begin : begin + len(rise.shares)] |= rise.shares > 0
    stages = raised[::ROLLOUT_MIN]
    assert stages.any(axis=1).all() and (raised == np.repeat(stages, ROLLOUT_MIN, axis=0)).all()
    assert bool(incident.changes) == (kind == "staged")
    if kind == "staged-bands":
        assert (stages.sum(axis=0) == 1).all(), "every cluster in one stage"


def test_a_backlog_is_booked_at_once_and_loses_nothing():
    incident, faults = drawn("cluster-backlog", expected=0.5)
    (backlog,) = incident.backlogs
    (column,) = backlog.columns
    of_it = faults.minute[faults.column == column]
    silent = (of_it >= START - BACKLOG_CLUSTER_MIN) & (of_it < START)
    assert not silent.any()
    assert (of_it == START).sum() == pytest.approx(0.5 * BACKLOG_CLUSTER_MIN, rel=0.5)
    assert len(of_it) == pytest.approx(0.5 * 320, rel=0.25)


def test_a_burst_adds_amplitude_times_response_of_the_expectation():
    clusters = (Cluster("under", 10.0, 20.0, hosts=9), Cluster("side", 10.0, 80.0, hosts=9), Cluster("far", -10, -160))
    for exponent, side in ((0, 1.0), (1, None), (2, None)):
        burst = Burst(
            start_ns=START * MINUTE_NS, duration_min=10, amplitude=8.0, ground_deg=(10.0, 20.0), exponent=exponent
        )
        (rise,) = burst.incident(clusters).rises
        cosine = (zeniths(clusters) @ zeniths(clusters)[0])[1]
        np.testing.assert_allclose(rise.shares[0], [8, 8 * (cosine**exponent if side is None else side), 0], rtol=1e-6)
    many = draw(Fleet(clusters), block(2.0, clusters=clusters), [burst.incident(clusters)], np.random.default_rng(0))
    assert (many.column[many.ordinary :] == 0).sum() == pytest.approx(2.0 * 8 * 10, rel=0.25)


def test_a_rise_that_begins_before_the_block_is_cut_to_it():
    rise = Rise(FIRST - 50, np.full((100, 40), 10.0))
    faults = draw(FLEET, block(0.5), [Incident(rises=(rise,))], np.random.default_rng(0))
    extra = faults.minute[faults.ordinary :]
    assert extra.min() == FIRST and extra.max() == FIRST + 49


def test_the_cohorts_of_an_inventory_are_its_labels():
    hosts = (
        Host("a:1", "a", "x", {"cohort": "old"}),
        Host("b:1", "b", "x", {"cohort": "new", "hosts": "3"}),
        Host("c:1", "c", "y", {"cohort": "new"}),
        Host("d:1", "d", "y"),
    )
    site = fleet_of(Inventory((Cluster("x", 0, 0, hosts=4), Cluster("y", 0, 9, hosts=2)), hosts))
    assert [members.tolist() for members in site.cohorts["new"]] == [[1, 2, 3], [0]]
    assert site.share("new").tolist() == [0.75, 0.5] and site.share("old").tolist() == [0.25, 0.0]
