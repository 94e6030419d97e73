"""What goes wrong in real fleets: the rest goes on, and a sentence says what didn't."""

import json
import time
import tracemalloc
from dataclasses import replace

from click.testing import CliRunner

from agent.report import Alive, encode
from collectors.commands import import_, replay
from collectors.minutes import DAY_NS, MINUTE_NS
from tests.collectors import scripted_agent
from tests.collectors.running import CITIES, RunningCollector, wait_for, write_config, write_inventory
from tests.collectors.scripted_agent import Agents, ScriptedAgent

HOUR_NS = 3600 * 10**9


def edit(inventory, **changes) -> None:
    """Other labels for hosts, by name; a label that is None goes away, a host that is None leaves."""
    groups = json.loads(inventory.read_text())
    for name, labels in changes.items():
        (group,) = [g for g in groups if g["labels"]["host"] == name]
        if labels is None:
            groups.remove(group)
            continue
        merged = group["labels"] | labels
        group["labels"] = {key: value for key, value in merged.items() if value is not None}
    scratch = inventory.with_suffix(".new")
    scratch.write_text(json.dumps(groups))
    scratch.replace(inventory)


def place(city: str) -> dict[str, str]:
    ((cluster, latitude, longitude),) = [row for row in CITIES if row[0] == city]
    return {"cluster": cluster, "latitude": str(latitude), "longitude": str(longitude)}


def logged(collector, words: str) -> str:
    return wait_for(lambda: next((line for line in collector.log if words in line), None))


def faults_of(collector) -> dict[str, float]:
    """Novel faults per cluster, as counted."""
    lines = collector.get("/metrics").splitlines()
    found = [line for line in lines if line.startswith("flipwatch_cluster_novel_faults_total") and '"dram"' in line]
    return {line.split('cluster="')[1].split('"')[0]: float(line.split()[-1]) for line in found}


def test_faults_from_the_future_and_the_far_past_are_named_and_hold_up_nobody(tmp_path):
    agents = [ScriptedAgent(f"h{n}") for n in range(2)]
    agents[0].add(1, time_ns=time.time_ns() + HOUR_NS)
    agents[0].add(1, time_ns=time.time_ns() - 200 * DAY_NS)
    agents[0].add(1, time_ns=time.time_ns() - 5 * HOUR_NS)  # out of order, and all right
    agents[1].add(4)
    with Agents(*agents):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", agents))
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.faults() == 7)
            sentence = logged(collector, "lie in the future")
            assert "h0: 1 of 3 new faults lie in the future and wait until then" in sentence
            assert "1 of 3 new faults are older than history_days and only counted" in sentence
            wait_for(lambda: collector.json("/api/status")["state"] == "learning")
            assert collector.get("/healthz") == "ok\n"


def test_a_cluster_without_coordinates_is_pulled_and_said_and_the_others_are_correlated(tmp_path):
    agents = [ScriptedAgent(f"h{n}") for n in range(3)]
    for agent in agents:
        agent.add(2)
    with Agents(*agents):
        inventory = write_inventory(tmp_path / "inventory.json", agents, per_cluster=1)
        edit(inventory, h2={"latitude": None, "longitude": None})
        with RunningCollector(write_config(tmp_path, inventory)) as collector:
            wait_for(lambda: collector.faults() == 6)
            assert "tok: without the labels latitude and longitude" in logged(collector, "take no part")
            status = wait_for(lambda: (s := collector.json("/api/status"))["state"] == "learning" and s)
            assert [c["cluster"] for c in status["clusters"]] == ["fra", "nyc", "tok"]
            assert any("tok" in sentence for sentence in status["inventory_warnings"])
            assert "tok: without the labels" in collector.get("/")
            edit(inventory, h2=place("tok"))  # and once it has a place, it belongs to the others
            wait_for(lambda: collector.json("/api/status")["inventory_warnings"] == [])
            wait_for(lambda: collector.json("/api/status")["state"] == "learning")
            assert collector.get("/healthz") == "ok\n"


def test_a_label_that_some_hosts_of_a_cluster_lack_is_still_an_error(tmp_path):
    agents = [ScriptedAgent("h0"), ScriptedAgent("h1")]
    with Agents(*agents):
        inventory = write_inventory(tmp_path / "inventory.json", agents)
        with RunningCollector(write_config(tmp_path, inventory)) as collector:
            edit(inventory, h1={"latitude": None})
            sentence = wait_for(lambda: collector.json("/api/status")["health"]["inventory"])
            assert "has no label 'latitude'" in sentence and "former inventory stays" in sentence


def test_two_clusters_at_one_place_are_said_and_work(tmp_path):
    agents = [ScriptedAgent(f"h{n}") for n in range(3)]
    for agent in agents:
        agent.add(2)
    with Agents(*agents):
        inventory = write_inventory(tmp_path / "inventory.json", agents, per_cluster=1)
        edit(inventory, h1=place("fra") | {"cluster": "twin"})
        with RunningCollector(write_config(tmp_path, inventory)) as collector:
            wait_for(lambda: collector.faults() == 6)
            wait_for(lambda: collector.json("/api/status")["state"] == "learning")
            assert collector.json("/api/status")["inventory_warnings"] == [
                "fra, twin stand at one place, so no direction can tell them apart"
            ]
            assert collector.get("/healthz") == "ok\n"


def test_a_fault_belongs_to_the_cluster_that_was_in_force_at_its_time(tmp_path):
    """The host moves while it can't be reached; what it saw before is told only afterwards."""
    agents = [ScriptedAgent("h0"), ScriptedAgent("h1")]
    with Agents(*agents):
        inventory = write_inventory(tmp_path / "inventory.json", agents, per_cluster=1)
        with RunningCollector(write_config(tmp_path, inventory)) as collector:
            wait_for(lambda: all(c["watching"] for c in collector.json("/api/status")["clusters"]))
            agents[0].manners = scripted_agent.error_500
            wait_for(lambda: collector.json("/api/status")["agents_in_trouble"] == 1)
            agents[0].add(3)
            edit(inventory, h0=place("nyc"), h1=place("nyc"))
            assert "h0 moved: what it saw before now stays with fra" in logged(collector, "h0 moved")
            assert "1 moved (h0 from fra to nyc)" in logged(collector, "1 moved")
            agents[0].add(2)
            agents[0].manners = None
            wait_for(lambda: collector.faults() == 5)
            assert faults_of(collector) == {"fra": 3.0, "nyc": 2.0}
        with RunningCollector(write_config(tmp_path, inventory)) as collector:  # and that outlives a restart
            agents[0].add(1)
            wait_for(lambda: collector.faults() == 6)
            assert faults_of(collector) == {"fra": 3.0, "nyc": 3.0}


def test_a_host_that_leaves_is_named_and_its_faults_stay(tmp_path):
    agents = [ScriptedAgent("h0"), ScriptedAgent("h1")]
    agents[1].add(3)
    with Agents(*agents):
        inventory = write_inventory(tmp_path / "inventory.json", agents)
        with RunningCollector(write_config(tmp_path, inventory)) as collector:
            wait_for(lambda: collector.faults() == 3)
            edit(inventory, h1=None)
            assert "1 hosts in 1 clusters, 1 left (h1)" in logged(collector, "left").replace(";", ",")
            assert collector.faults() == 3
            assert faults_of(collector) == {"fra": 3.0}


def history_lines(now_ns: int) -> list[str]:
    """Fifteen days with a gap of three, in an order that nobody planned."""
    alive = [
        Alive(time_ns=now_ns - day * DAY_NS, cluster=city, hosts_up=up, hosts=40)
        for day, up in ((15, 40), (9, 0), (6, 39))
        for city in ("fra", "nyc", "tok")
    ]
    faults = [
        replace(scripted_agent.fault(n), time_ns=now_ns - n * 21 * MINUTE_NS, cluster=("fra", "nyc", "tok")[n % 3])
        for n in range(1000)
    ]
    return [encode(line) for line in (*faults[::2], *alive, *faults[1::2])]


def test_a_history_with_a_gap_torn_lines_and_any_order_replays_as_if_it_were_whole(tmp_path):
    agents = [ScriptedAgent(f"h{n}") for n in range(3)]
    for port, agent in enumerate(agents, start=1):
        agent.port = port
    inventory = write_inventory(tmp_path / "inventory.json", agents, per_cluster=1)
    lines = history_lines(1_795_453_620 * 10**9)
    whole, torn = tmp_path / "whole.ndjson", tmp_path / "torn.ndjson"
    whole.write_text("\n".join(sorted(lines)) + "\n")
    half = lines[7][: len(lines[7]) // 2]
    torn.write_bytes("\n".join([*lines[:9], half, "\0" * 40, *lines[9:]]).encode() + b'\n{"kind":"mem')
    outcomes = [
        CliRunner().invoke(replay, [str(path), "--inventory", str(inventory), "--json"]) for path in (whole, torn)
    ]
    assert [outcome.exit_code for outcome in outcomes] == [0, 0]
    assert outcomes[0].stdout == outcomes[1].stdout
    for words in ("line 10: not JSON", "line 11: not JSON", "3 lines couldn't be used"):
        assert words in outcomes[1].stderr


def test_an_import_holds_a_batch_in_memory_and_not_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("collectors.importing.BATCH", 200)
    agent = ScriptedAgent("h0")
    agent.port = 1
    config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", [agent]))
    now_ns = time.time_ns()
    history = tmp_path / "h.ndjson"
    with history.open("w") as file:
        for n in range(2500):
            line = replace(scripted_agent.fault(n), time_ns=now_ns - n * 10**9, cluster="fra", detail={"n": "x" * 2000})
            file.write(encode(line) + "\n")
        file.write(encode(replace(line, time_ns=now_ns + HOUR_NS)) + "\n")
    tracemalloc.start()
    try:
        outcome = CliRunner().invoke(import_, [str(history), "--config", str(config)])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert outcome.exit_code == 0 and "2500 faults" in outcome.output
    assert "line 2501: time_ns" in outcome.output and "s in the future" in outcome.output
    assert peak_bytes < history.stat().st_size / 2
