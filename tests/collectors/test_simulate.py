import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from agent.report import Alive, MemoryFault
from collectors.commands_history import simulate
from collectors.history import read
from collectors.incidents import KINDS, RACK_HOSTS, Burst, fleet_of
from collectors.inventory import Inventory, load
from collectors.minutes import DAY_NS, MINUTE_NS, minute_of
from collectors.simulate import Simulation
from collectors.world import RESTLESS
from tests.collectors.fleets import CITIES, cities

END = 29_000_000
DAY_MIN = 1440


@pytest.fixture
def two_clusters(tmp_path):
    path = tmp_path / "inventory.json"
    groups = [
        {
            "targets": ["right-1:7001", "right-2:7002"],
            "labels": {"cluster": "b", "latitude": "0", "longitude": "90"},
        },
        {"targets": ["left:1"], "labels": {"cluster": "a", "latitude": "40", "longitude": "-90", "host": "left-1"}},
    ]
    path.write_text(json.dumps(groups))
    return path


def lines_of(inventory, days=5, **settings):
    return list(Simulation(inventory, END - days * DAY_MIN, END, **settings).lines())


def novel(lines):
    return [line for line in lines if isinstance(line, MemoryFault) and line.novel]


def test_lines_come_in_the_order_of_time_and_within_the_span():
    times = [line.time_ns for line in lines_of(cities(), days=2)]
    assert times == sorted(times)
    assert times[0] == (END - 2 * DAY_MIN) * MINUTE_NS and minute_of(times[-1]) == END - 1


def test_hosts_are_exactly_those_of_the_inventory(two_clusters):
    inventory = load(two_clusters)
    lines = lines_of(inventory, novel_per_host_hour=0.5)
    assert {(line.cluster, line.host) for line in novel(lines)} == {
        (host.cluster, host.name) for host in inventory.hosts
    }
    assert {(line.cluster, line.hosts) for line in lines if isinstance(line, Alive)} == {("a", 1), ("b", 2)}


def test_hosts_of_weighty_targets_are_made_up():
    for line in novel(lines_of(cities(), days=1)):
        assert line.host.startswith(f"{line.cluster}-h")


def test_the_rate_is_the_one_asked_for():
    inventory = cities()
    number = len(novel(lines_of(inventory, days=3)))
    expected = sum(cluster.hosts for cluster in inventory.clusters) * 1.5e-4 * 72
    assert number == pytest.approx(expected, rel=0.1)


def test_counts_vary_more_than_a_poisson_process():
    one = Inventory(tuple(cluster for cluster in cities().clusters if cluster.hosts == 50_000), cities().hosts)
    lines = novel(lines_of(one, days=2, novel_per_host_hour=2e-3))
    counts = Counter(minute_of(line.time_ns) // 10 for line in lines)
    tens = [counts[ten] for ten in range((END - 2 * DAY_MIN) // 10, END // 10)]
    mean = sum(tens) / len(tens)
    # gamma of shape 20: the variance is mean * (1 + mean / 20); the day's course adds a little
    assert 1.3 < sum((n - mean) ** 2 for n in tens) / len(tens) / mean < 2.8 and mean > 12


def test_no_device_is_novel_twice_within_seven_days(two_clusters):
    seen = defaultdict(list)
    for line in novel(lines_of(load(two_clusters), days=30, novel_per_host_hour=0.1)):
        seen[line.host, line.device].append(line.time_ns)
    gaps = [later - earlier for times in seen.values() for earlier, later in itertools.pairwise(times)]
    assert gaps and min(gaps) > 7 * DAY_NS


def test_repeats_follow_their_novel_fault(two_clusters):
    failed = set()
    lines = [line for line in lines_of(load(two_clusters), novel_per_host_hour=0.5) if isinstance(line, MemoryFault)]
    for line in lines:
        if line.novel:
            failed.add((line.host, line.device))
        else:
            assert (line.host, line.device) in failed
    assert sum(not line.novel for line in lines) == pytest.approx(2 * len(novel(lines)), rel=0.25)
    without = lines_of(load(two_clusters), novel_per_host_hour=0.5, repeats_per_novel=0.0)
    assert [line for line in without if isinstance(line, MemoryFault)] == novel(without) != []


def rises(inventory, burst):
    """Novel faults in the burst's minutes, per cluster, for each expected without it."""
    lines = novel(lines_of(inventory, days=1, incidents=(burst.incident(inventory.clusters),)))
    first = minute_of(burst.start_ns)
    inside = Counter(line.cluster for line in lines if first <= minute_of(line.time_ns) < first + burst.duration_min)
    return {
        cluster.name: inside[cluster.name] / (cluster.hosts * 1.5e-4 * burst.duration_min / 60)
        for cluster in inventory.clusters
    }


@pytest.fixture(scope="module")
def big_cities():
    return Inventory(tuple(c for c in cities().clusters if c.hosts > 8000), cities().hosts)


def test_a_burst_in_the_sky_raises_the_clusters_below_it(big_cities):
    burst = Burst(start_ns=(END - 700) * MINUTE_NS, duration_min=20, amplitude=100.0, ground_deg=(45.0, 8.0))
    rise = rises(big_cities, burst)
    facing = {"cai1", "dub1", "dxb1", "fra1", "mad1", "mil1", "par1", "tlv1", "waw1", "yyz1"}
    assert facing < rise.keys() and {name for name, factor in rise.items() if factor > 30} == facing


def test_a_burst_in_one_cluster_or_everywhere(big_cities):
    start = {"start_ns": (END - 700) * MINUTE_NS, "duration_min": 20, "amplitude": 50.0}
    name = big_cities.clusters[3].name
    alone = rises(big_cities, Burst(cluster=name, **start))
    assert alone[name] > 25 and max(factor for other, factor in alone.items() if other != name) < 12
    assert min(rises(big_cities, Burst(**start)).values()) > 25


def test_a_rack_s_failures_stand_in_the_history_with_their_hosts():
    incident = KINDS["rack-50"].make(fleet_of(cities()), END - 700, np.random.default_rng(1))
    lines = novel(lines_of(cities(), days=1, incidents=(incident,)))
    (rack,) = incident.failures
    name = cities().clusters[rack.column].name
    hit = [line for line in lines if line.cluster == name and 0 <= minute_of(line.time_ns) - END + 700 < 5]
    racks = Counter((int(line.host.rpartition("-h")[2]) - 1) // RACK_HOSTS for line in hit)
    assert racks[rack.rack] >= 50 and sum(racks.values()) < 55


def test_a_backlog_is_written_at_the_minute_at_which_it_is_booked():
    incident = KINDS["fleet-backlog"].make(fleet_of(cities()), END - 700, np.random.default_rng(1))
    minutes = Counter(minute_of(line.time_ns) for line in novel(lines_of(cities(), days=1, incidents=(incident,))))
    assert sum(minutes[END - 700 - before] for before in range(1, 61)) == 0
    assert 30 < minutes[END - 700] < 120, "an hour's faults in one minute"


def test_a_restless_fleet_tells_of_its_reboots():
    unrest = replace(RESTLESS, reboot_waves_per_year=400.0)
    alive = [line for line in lines_of(cities(), days=2, unrest=unrest) if isinstance(line, Alive)]
    told = defaultdict(list)
    for line in alive:
        told[line.cluster].append(line.hosts_up)
    changes = {name: sum(a != b for a, b in itertools.pairwise(up)) for name, up in told.items()}
    assert max(changes.values()) >= 2, "away and back"
    assert min(len(up) for up in told.values()) >= 9, "each cluster every six hours, whatever happens"


def run(*arguments):
    return CliRunner().invoke(simulate, [str(argument) for argument in arguments])


def test_the_same_seed_writes_the_same_file_and_replaces_the_old_one(tmp_path):
    out, again, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    out.write_text("old")
    common = ("--fleet", CITIES, "--days", 1, "--end", "2026-11-23T18:00:00Z")
    for path, seed in ((out, 1), (again, 1), (other, 2)):
        assert run(*common, "--out", path, "--seed", seed).exit_code == 0
    assert out.read_bytes() == again.read_bytes() != other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"], "no half-written file stays"


def test_incidents_and_unrest_are_asked_for_by_name(tmp_path):
    out, plain = tmp_path / "h", tmp_path / "plain"
    common = ("--fleet", CITIES, "--days", 1, "--end", "2026-11-23T18:00:00Z")
    options = ("--incident", "device@2026-11-23T17:00:00Z", "--incident", "fleet-30@2026-11-23T12:00:00Z")
    assert run(*common, "--out", out, *options, "--gamma-shape", 2, "--restless").exit_code == 0
    assert run(*common, "--out", plain).exit_code == 0
    history, quiet = (read(path, cities().cluster_names) for path in (out, plain))
    assert max(fault.count for fault in history.faults) == 10_000
    noon = minute_of(history.last_time_ns) - 6 * 60 + 1
    first, usual = (
        sum(fault.novel and 0 <= minute_of(fault.time_ns) - noon < 20 for fault in lines.faults)
        for lines in (history, quiet)
    )
    assert first > 10 * usual > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--burst-ra", 10], "--burst-ra and --burst-dec go together"),
        (["--burst-ra", 10, "--burst-dec", 5], "give --burst-at"),
        (["--burst-at", "2026-11-23T12:00:00Z"], "needs one place"),
        (["--burst-at", "2026-11-23T12:00:00Z", "--burst-cluster", "fra9"], "no such cluster"),
        (["--burst-at", "2025-11-23T12:00:00Z", "--burst-cluster", "all"], "outside the history"),
        (["--incident", "flood@2026-11-23T12:00:00Z"], "'flood' is none of device"),
        (["--incident", "device@2025-11-23T12:00:00Z"], "--incident device lies outside the history"),
        (["--incident", "cohort@2026-11-23T12:00:00Z"], "needs an inventory whose targets have the label 'cohort'"),
        (["--incident", "device@noon"], "not a time"),
        (["--burst-at", "noon", "--burst-cluster", "all"], "not a time"),
        (["--burst-at", "2026-11-23T12:00:00", "--burst-cluster", "all"], "has no time zone"),
    ],
)
def test_senseless_options_are_one_sentence_and_status_two(tmp_path, arguments, words):
    result = run("--fleet", CITIES, "--out", tmp_path / "h", "--end", "2026-11-23T18:00:00Z", *arguments)
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_or_an_inventory_that_cannot_be_read(tmp_path):
    result = run("--fleet", CITIES, "--out", tmp_path / "none" / "h", "--days", 1)
    assert result.exit_code == 2 and "can't write the history" in result.output
    result = run("--fleet", tmp_path / "none.json", "--out", tmp_path / "h")
    assert result.exit_code == 2 and "can't read the inventory" in result.output
