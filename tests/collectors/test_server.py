"""The whole collector as a process: killed in a loop, starved of disk, given a new inventory, looked at."""

import contextlib
import random
import re
import sqlite3
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from collectors.inventory import Host
from collectors.pull import Agent
from collectors.server import heard_until_ns
from collectors.store import Store
from tests.collectors import scripted_agent
from tests.collectors.running import RunningCollector, flipwatch, wait_for, write_config, write_inventory
from tests.collectors.scripted_agent import Agents, ScriptedAgent
from tests.conftest import require

KILLS = 10
ASKED = Agent(Host(target="h:1", name="h", cluster="fra"))


def stored(config_dir) -> list[tuple[str | None, int | None]]:
    with contextlib.closing(Store(config_dir / "state" / "collector.sqlite3")) as store:
        return sorted((found.fault.journal, found.fault.seq) for found in store.latest_faults(10**6))


def test_the_scan_waits_for_the_slowest_agent_that_answers_but_three_minutes_at_most():
    """Seconds before now until which each agent has told all."""

    def heard(*agents: tuple[str, int]) -> int:
        told = [replace(ASKED, state=state, complete_until_ns=-ago_s * 10**9) for state, ago_s in agents]
        return heard_until_ns(told, 0) // 10**9

    assert heard() == 0
    assert heard(("ok", 5), ("ok", 40)) == -40
    assert heard(("ok", 5), ("silent", 40)) == -5
    assert heard(("ok", 5), ("ok", 1000)) == -180
    assert heard(("ok", -30)) == 0, "a clock that is ahead"


def test_kill_9_in_a_loop_while_faults_flow_loses_none_and_doubles_none(tmp_path):
    agents = [ScriptedAgent(f"h{n}") for n in range(4)]
    stop = threading.Event()
    dice = random.Random(1)

    def flow() -> None:
        while not stop.is_set():
            dice.choice(agents).add(dice.randrange(1, 40))
            time.sleep(0.01)

    flowing = threading.Thread(target=flow)
    with Agents(*agents):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", agents), pull_faults_max=30)
        flowing.start()
        try:
            seen = 0
            for _ in range(KILLS):
                with RunningCollector(config) as collector:
                    wait_for(lambda c=collector, n=seen: c.faults() > n)  # each life gets somewhere
                    seen = collector.faults()
                    time.sleep(dice.random() * 0.2)
        finally:
            stop.set()
            flowing.join()
        injected = sorted(
            (j, seq + 1) for agent in agents for j, kept in agent.journals.items() for seq in range(len(kept))
        )
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.faults() >= len(injected))
            assert collector.json("/api/status")["lost"] == 0
            assert collector.faults() == len(injected)
            assert collector.stop() == 0
    assert stored(tmp_path) == injected


def test_what_people_and_machines_see(tmp_path):
    agents = [ScriptedAgent(f"h{n}") for n in range(4)]
    agents[0].add(3, device="<script>alert(1)</script>", detail={"label": "\u202e & <b>"})
    agents[1].add(2, detail={"path": "/srv/a.log", "flip": {"offset_bytes": 7, "bit": 2, "stored": 0}})
    agents[2].manners = scripted_agent.garbage
    agents[3].add(5)
    agents[3].first_seq = {"journal-of-h3": 1}
    with Agents(*agents):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", agents))
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.faults() == 10)
            agents[3].add(4)
            agents[3].first_seq = {"journal-of-h3": 9}
            wait_for(lambda: collector.json("/api/status")["lost"] == 3)
            status = wait_for(lambda: (s := collector.json("/api/status"))["state"] == "learning" and s)
            assert status["faults"] == {"dram": {"faults": 11, "errors": 11, "novel": 11}}
            assert [(a["host"], a["state"]) for a in status["agents"]] == [("h2", "garbage")]
            assert status["late_faults"] == 0
            assert status["losses"] == [{"cluster": "nyc", "host": "h3", "journal": "journal-of-h3", "faults": 3}]
            assert {c["cluster"]: c["watching"] for c in status["clusters"]} == {"fra": {"dram": 2}, "nyc": {"dram": 1}}
            assert collector.json("/api/bursts") == {"bursts": []}
            page = collector.get("/")
            assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
            for words in ("byte 7 bit 2: 1 became 0", "not JSON", "garbage", "/srv/a.log", "learning", "journal-of-h3"):
                assert words in page
            assert collector.get("/healthz") == "ok\n"
            text = collector.get("/metrics")
            checked = subprocess.run(
                [require("promtool"), "check", "metrics"], input=text, text=True, capture_output=True, timeout=30
            )
            assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
            assert 'flipwatch_cluster_novel_faults_total{cluster="nyc",stream="dram"} 6.0' in text
            # a second collector must not use the same state
            second = subprocess.run(
                flipwatch("collector", "--config", config), capture_output=True, text=True, timeout=60
            )
            assert second.returncode == 2
            assert "another collector is using it" in second.stderr and "Traceback" not in second.stderr
            assert collector.stop() == 0
            assert "Traceback" not in "".join(collector.log)
        with RunningCollector(config) as again:  # counters are persisted
            assert 'flipwatch_cluster_novel_faults_total{cluster="nyc",stream="dram"} 6.0' in again.get("/metrics")


def test_another_inventory_is_taken_over_and_a_bad_one_is_shown(tmp_path):
    agents = [ScriptedAgent(f"h{n}") for n in range(4)]
    for agent in agents:
        agent.add(2)
    with Agents(*agents):
        inventory = write_inventory(tmp_path / "inventory.json", agents[:2])
        with RunningCollector(write_config(tmp_path, inventory)) as collector:
            wait_for(lambda: collector.faults() == 4)
            inventory.write_text(
                '[{"targets": ["h:1"], "labels": {"cluster": "x", "latitude": "91", "longitude": "0"}}]'
            )
            sentence = wait_for(lambda: collector.json("/api/status")["health"]["inventory"])
            assert "latitude" in sentence and "91" in sentence and "former inventory stays" in sentence
            agents[0].add(1)
            wait_for(lambda: collector.faults() == 5)
            write_inventory(inventory, agents)
            wait_for(lambda: collector.faults() == 9)
            assert [c["cluster"] for c in collector.json("/api/status")["clusters"]] == ["fra", "nyc"]
            assert collector.json("/api/status")["health"]["inventory"] == ""


def test_a_store_that_cannot_be_written_is_loud_and_loses_nothing(tmp_path):
    agent = ScriptedAgent("h0")
    agent.add(3)
    with Agents(agent):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", [agent]))
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.faults() == 3)
            # a trigger is trouble of the store's own kind: an error at the write, with the file as it was
            with contextlib.closing(sqlite3.connect(tmp_path / "state" / "collector.sqlite3", timeout=20)) as db, db:
                db.execute("CREATE TRIGGER full BEFORE INSERT ON faults BEGIN SELECT RAISE(FAIL, 'disk full'); END")
            agent.add(4)
            # other writes, of a step, go well meanwhile, so each may say for a moment that all is well
            wait_for(lambda: re.match("503 .*disk full", collector.get("/healthz")))
            wait_for(lambda: "flipwatch_store_up 0.0" in collector.get("/metrics"))
            wait_for(lambda: "disk full" in collector.get("/"))
            assert collector.faults() == 3
            with contextlib.closing(sqlite3.connect(tmp_path / "state" / "collector.sqlite3", timeout=20)) as db, db:
                db.execute("DROP TRIGGER full")
            wait_for(lambda: collector.faults() == 7)
            wait_for(lambda: collector.get("/healthz") == "ok\n")
            assert any("disk full" in line for line in collector.log)
    assert stored(tmp_path) == [("journal-of-h0", seq) for seq in range(1, 8)]


def test_a_failing_correlator_is_loud_and_pulling_goes_on(tmp_path):
    agent = ScriptedAgent("h0")
    with Agents(agent):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", [agent]))
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.json("/api/status")["state"] == "learning")
            store = tmp_path / "state" / "collector.sqlite3"
            with contextlib.closing(sqlite3.connect(store, timeout=20)) as db:
                db.execute("ALTER TABLE imports RENAME TO gone")  # only the correlator reads it
            wait_for(lambda: collector.get("/healthz").startswith("503 the last step failed"))
            assert 'flipwatch_correlator_state{state="failed"} 1.0' in collector.get("/metrics")
            agent.add(3)
            wait_for(lambda: collector.faults() == 3)
            with contextlib.closing(sqlite3.connect(store, timeout=20)) as db:
                db.execute("ALTER TABLE gone RENAME TO imports")
            wait_for(lambda: collector.get("/healthz") == "ok\n")
            assert collector.json("/api/status")["state"] == "learning"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"listen": "203.0.113.1:1"}, "listen = 203.0.113.1:1"),
        ({"state_dir": "/no/such/place"}, "state_dir = /no/such/place"),
        ({"inventory": "/no/inventory.json"}, "/no/inventory.json"),
        ({"history_days": -1}, "history_days = -1"),
    ],
)
def test_a_collector_that_cannot_start_says_why_in_a_sentence(tmp_path, changes, words):
    inventory = write_inventory(tmp_path / "inventory.json", [ScriptedAgent("h0")])
    config = write_config(tmp_path, **({"inventory": str(inventory)} | changes))
    ended = subprocess.run(flipwatch("collector", "--config", config), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert words in ended.stderr and "Traceback" not in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if line.startswith("Error")]) == 1


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    agent = ScriptedAgent("h0")
    with Agents(agent):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", [agent]))
        with RunningCollector(config) as collector:
            page = collector.get("/")
    for loaded in ("<script", "src=", "url(", "@import", "http://", "https://", '<link rel="stylesheet"'):
        assert loaded not in page
