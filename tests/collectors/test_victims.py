"""From a host's labels, facts and parts over the store to the factors of a day and of a burst."""

import contextlib
from dataclasses import replace

import pytest

from agent.report import AgentHeader, Change, JournalSpan
from collectors.correlator import Correlator
from collectors.feed import Feed
from collectors.history import History
from collectors.history import replay as replayed
from collectors.inventory import Cluster, Host, Inventory
from collectors.minutes import MINUTE_NS, Minutes, minute_of
from collectors.population import FleetAttributes, Population, Victims, host_attributes, victim_of
from collectors.recording import Pulled
from collectors.store import Store
from tests.collectors import fleets
from tests.collectors.running import RunningCollector, wait_for, write_config, write_inventory
from tests.collectors.scripted_agent import Agents, ScriptedAgent, fault

NOW_NS = 29_924_000 * MINUTE_NS
LABELS = {"cluster": "fra", "latitude": "50", "__scheme__": "https", "rack": "r17", "vendor": "as labelled", "row": ""}
FACTS = {"kernel": "6.9", "vendor": "Acme", "parts": ["P1", "P2"], "cores": 8}


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(Store(tmp_path / "s.sqlite3")) as opened:
        yield opened


def pulled(*faults, host: str = "h1", facts=FACTS, received_ns: int = NOW_NS) -> Pulled:
    journal = f"journal-of-{host}"
    placed = tuple(replace(f, journal=journal, seq=n) for n, f in enumerate(faults, start=1))
    header = AgentHeader(
        time_ns=received_ns, complete_until_ns=received_ns, boot_id="b", host="?", cursor="c", facts=facts,
        journals=(JournalSpan(journal=journal, first_seq=1, last_seq=len(faults)),), watching={"dram": 0},
    )  # fmt: skip
    return Pulled(host, "fra", header, placed, received_ns, LABELS)


def test_places_numbers_and_what_is_empty_are_nothing_to_share():
    shared = host_attributes(LABELS, FACTS)
    assert shared == (("kernel", "6.9"), ("part", "P1"), ("part", "P2"), ("rack", "r17"), ("vendor", "as labelled"))


def test_of_the_hosts_parts_the_victim_is_the_one_that_failed():
    shared = host_attributes(LABELS, FACTS)
    found = victim_of(replace(fault(), cluster="fra", detail={"part": "P2"}), shared)
    assert [value for name, value in found.attributes if name == "part"] == ["P2"]
    assert found.cluster == "fra" and ("rack", "r17") in found.attributes
    vague = victim_of(replace(fault(), detail={"part": 7}), shared)
    assert [value for name, value in vague.attributes if name == "part"] == ["P1", "P2"]


def test_a_novel_fault_keeps_what_its_host_had_then(store):
    store.record([pulled(replace(fault(), time_ns=NOW_NS))], {"h1"})
    (before,) = store.victims_since(0)
    assert ("kernel", "6.9") in before.attributes and ("part", "P1") in before.attributes
    later = pulled(replace(fault(), time_ns=NOW_NS), replace(fault(), time_ns=NOW_NS + 1), facts={"kernel": "7.0"})
    store.record([later], {"h1"})
    kept, new = store.victims_since(0)
    assert kept == before and ("kernel", "7.0") in new.attributes
    assert store.facts() == {"h1": {"kernel": "7.0"}}
    assert store.victims_since(NOW_NS + 1) == [new]


def test_what_is_fed_are_the_same_victims_after_a_restart(store):
    faults = [replace(fault(n), time_ns=NOW_NS - n * MINUTE_NS, novel=n != 2) for n in range(4)]
    clusters = (Cluster("fra", 50.0, 8.0),)
    live, restarted = Victims(), Victims()
    feed = Feed(store, Minutes(clusters), live, 90)
    for number in range(1, 5):
        store.record([pulled(*faults[:number])], {"h1"})
        feed.advance(NOW_NS + MINUTE_NS, None, NOW_NS + MINUTE_NS)
    Feed(store, Minutes(clusters), restarted, 90).advance(NOW_NS + MINUTE_NS, None, NOW_NS + MINUTE_NS)
    minute = minute_of(NOW_NS)
    assert len(live.between(0, minute + 1)) == 3
    assert live.between(0, minute + 1) == restarted.between(0, minute + 1)


def test_a_fault_from_the_future_is_fed_when_its_time_has_come(store):
    minutes, victims = Minutes((Cluster("fra", 50.0, 8.0),)), Victims()
    feed = Feed(store, minutes, victims, 90)
    store.record([pulled(replace(fault(), time_ns=NOW_NS + 600 * 10**9))], {"h1"})
    feed.advance(NOW_NS, None, NOW_NS)
    assert victims.between(0, 10**9) == []
    feed.advance(NOW_NS + 660 * 10**9, None, NOW_NS + 660 * 10**9)
    assert [victim.minute for victim in victims.between(0, 10**9)] == [minute_of(NOW_NS) + 10]


def test_hosts_that_the_inventory_only_counts_have_what_their_cluster_has_in_common():
    targets = [Host(f"t{n}:1", f"t{n}", "fra", {"region": "eu", "rack": f"r{n}", "hosts": "50"}) for n in range(2)]
    attributes = FleetAttributes(Inventory((Cluster("fra", 50, 8, labels={"region": "eu"}),), tuple(targets)), {})
    assert attributes.of(replace(fault(), cluster="fra", host="fra-h7")) == (("region", "eu"),)
    assert attributes.of(replace(fault(), cluster="fra", host="t1")) == (("rack", "r1"), ("region", "eu"))
    known = Population(["fra"])
    known.set_host("gone", "fra", (("rack", "r9"),))
    attributes.fill(known)
    assert known.hosts("rack", "r1") == {"fra": 50} and known.hosts("rack", "r9") == {}


def test_a_replayed_burst_of_one_rack_names_the_rack():
    fleet = fleets.cities()
    clusters = tuple(replace(cluster, hosts=200) for cluster in fleet.clusters[:12])
    hosts = [
        Host(f"{c.name}-h{n}:1", f"{c.name}-h{n}", c.name, {"rack": f"{c.name}-r{n // 20}"})
        for c in clusters
        for n in range(200)
    ]
    attributes = FleetAttributes(Inventory(clusters, tuple(hosts)), {})
    correlator = Correlator(clusters)
    attributes.fill(correlator.population)
    first, last = minute_of(NOW_NS), minute_of(NOW_NS) + 16 * 1440
    for stream in ("dram", "canary"):
        fleets.watch(correlator.minutes, clusters, first, last - first + 1, stream)
    quiet = fleets.background(clusters, 0.002, first, last - first - 60, seed=3)
    rack = [
        fleets.fault(last - 30 + n % 4, clusters[4].name, host=f"{clusters[4].name}-h{60 + n}", device=f"d{n}")
        for n in range(16)
    ]
    opened = Change(time_ns=(last - 90) * MINUTE_NS, id="kernel", action="open", cohort="canary")
    canary = fleets.fault(last - 28, clusters[4].name, stream="canary")  # shown, not scanned
    history = History(faults=[*quiet, *rack, canary], changes=[opened], last_time_ns=last * MINUTE_NS)
    revisions = list(replayed(history, correlator, attributes.of))
    final = revisions[-1]
    assert final.change_ids == ("kernel",)
    assert final.streams == {"dram": 16, "canary": 1}
    assert final.factors[0].attribute == "rack" and final.factors[0].value == f"{clusters[4].name}-r3"
    assert (final.factors[0].victims, final.factors[0].hosts, final.factors[0].hosts_total) == (16, 20, 2400)


def test_the_last_days_factors_reach_people_and_machines_and_survive_a_restart(tmp_path):
    agents = [ScriptedAgent(f"h{n}") for n in range(24)]
    for n, agent in enumerate(agents):
        agent.facts = {"kernel": "bad" if n % 2 else "good"}
    for agent in agents[1::2]:
        agent.add(1)
    with Agents(*agents):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", agents))
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.faults() == 12)
        with RunningCollector(config) as collector:  # looked for at the start, and every hour
            (factor,) = wait_for(lambda: collector.json("/api/status")["factors_24h"])
            assert (factor["attribute"], factor["value"], factor["victims"]) == ("kernel", "bad", 12)
            assert (factor["victims_total"], factor["hosts"], factor["hosts_total"]) == (12, 12, 24)
            assert 'flipwatch_factor_victims{attribute="kernel",value="bad"} 12.0' in collector.get("/metrics")
            page = collector.get("/")
            assert "Shared by the victims" in page and "12 of 24" in page
            line = wait_for(lambda: next((x for x in collector.log if "shared by the victims" in x), None))
            assert "kernel bad (12 of 12 victims, 12 of 24 hosts)" in line
