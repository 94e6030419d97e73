"""`import` and `bursts` as a person meets them."""

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.report import Alive, encode
from collectors.commands import bursts, import_
from collectors.minutes import MINUTE_NS, minute_of
from collectors.store import Store
from tests.collectors import scripted_agent
from tests.collectors.bursts import CELESTIAL, revision
from tests.collectors.running import RunningCollector, wait_for, write_config, write_inventory
from tests.collectors.scripted_agent import Agents, ScriptedAgent

NOW_NS = time.time_ns()
START_NS = NOW_NS - 3 * 3600 * 10**9
DAY_NS = 86_400 * 10**9


@pytest.fixture
def config(tmp_path) -> Path:
    agents = [ScriptedAgent("h0"), ScriptedAgent("h1")]
    for port, agent in enumerate(agents, start=1):
        agent.port = port
    return write_config(tmp_path, write_inventory(tmp_path / "inventory.json", agents, per_cluster=1))


def faults(number: int, **changes):
    made = [replace(scripted_agent.fault(n), time_ns=START_NS + n * MINUTE_NS, cluster="fra") for n in range(number)]
    return [replace(fault, **changes) for fault in made]


def alive(minute: int, cluster: str = "fra", hosts_up: int = 7, **changes) -> Alive:
    return Alive(time_ns=START_NS + minute * MINUTE_NS, cluster=cluster, hosts_up=hosts_up, hosts=9, **changes)


def write(path: Path, *lines, junk: bytes = b"") -> Path:
    path.write_bytes("".join(encode(line) + "\n" for line in lines).encode() + junk)
    return path


def run(command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def opened(config: Path):
    return contextlib.closing(Store(config.parent / "state" / "collector.sqlite3"))


def stored(config: Path) -> int:
    with opened(config) as store:
        return len(store.latest_faults(10**6))


def test_a_history_goes_in_once(tmp_path, config):
    history = write(tmp_path / "h.ndjson", alive(0), *faults(20))
    first = run(import_, history, "--config", config)
    assert first.exit_code == 0 and "20 faults and 1 alive lines imported" in first.output
    again = run(import_, history, "--config", config)
    assert again.exit_code == 0 and "imported before" in again.output
    longer = write(tmp_path / "longer.ndjson", alive(0), *faults(25), alive(60, hosts_up=5))
    third = run(import_, longer, "--config", config)
    assert "5 faults and 2 alive lines imported; 20 faults were there already" in third.output
    assert stored(config) == 25


def test_a_broken_off_import_is_completed_by_the_next(tmp_path, config, monkeypatch):
    monkeypatch.setattr("collectors.importing.BATCH", 6)
    history = write(tmp_path / "h.ndjson", alive(0), *faults(20))
    whole, batches = Store.import_faults, iter(range(2))

    def breaks_off(self, *arguments):
        if next(batches, None) is None:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(Store, "import_faults", breaks_off)
    assert run(import_, history, "--config", config).exit_code != 0
    assert stored(config) == 12
    monkeypatch.setattr(Store, "import_faults", whole)
    assert "8 faults" in run(import_, history, "--config", config).output
    assert stored(config) == 20


def test_alive_lines_become_exposure_that_holds_to_the_files_end(tmp_path, config):
    history = write(tmp_path / "h.ndjson", alive(2), alive(5, hosts_up=4), alive(4, "nyc"), *faults(10))
    assert run(import_, history, "--config", config).exit_code == 0
    first = minute_of(START_NS)
    with opened(config) as store:
        watching = store.watching_hosts("dram", first, first + 11, ("fra", "nyc")).T.tolist()
    assert watching == [[0, 0, 7, 7, 7, 4, 4, 4, 4, 4, 0, 0], [0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 0, 0]]


def test_bad_and_old_lines_are_counted_and_named(tmp_path, config):
    old = replace(faults(1)[0], time_ns=NOW_NS - 100 * DAY_NS)
    stranger = replace(faults(1)[0], cluster="atlantis")
    history = write(tmp_path / "h.ndjson", *faults(3), old, stranger, junk=b'\xff\xfe\n{}\n{"kind": "mem')
    outcome = run(import_, history, "--config", config)
    assert outcome.exit_code == 0
    assert "3 faults" in outcome.output and "1 are older" in outcome.output and "4 lines unusable" in outcome.output
    assert "line 5: cluster 'atlantis'" in outcome.output
    assert stored(config) == 3


@pytest.mark.parametrize("name", ["missing.ndjson", ""])
def test_no_history_is_a_sentence(tmp_path, config, name):
    outcome = run(import_, tmp_path / name, "--config", config)
    assert outcome.exit_code == 2 and "can't be read" in outcome.output


def test_a_running_collector_takes_the_import_over(tmp_path):
    agent = ScriptedAgent("h0")
    with Agents(agent):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", [agent]), pull_interval_s=0.5)
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.json("/api/status")["state"] == "learning")
            days = write(tmp_path / "h.ndjson", replace(alive(0), time_ns=NOW_NS - 3 * DAY_NS), *faults(10))
            assert run(import_, days, "--config", config).exit_code == 0
            wait_for(lambda: (collector.json("/api/status")["history_days"] or 0) >= 2.99)
            assert collector.faults() == 0  # the counters are of what was pulled
            assert collector.json("/api/status")["clusters"][0]["watching"] == {"dram": 1}
            assert collector.get("/healthz") == "ok\n"


def keep(config: Path, *revisions) -> None:
    with opened(config) as store:
        store.record_step(revisions, {}, {})


def test_bursts_before_there_is_a_store(config):
    outcome = run(bursts, "list", "--config", config)
    assert outcome.exit_code == 2 and "no store yet" in outcome.output


def test_bursts_are_listed_latest_first(config):
    later = revision(burst_id="later", t_start_ns=CELESTIAL.t_start_ns + 10**12, label="fleet", kind="retract")
    keep(config, CELESTIAL, revision(rev=2, kind="update"), later)
    lines = run(bursts, "list", "--config", config).output.splitlines()
    assert len(lines) == 2
    assert "later" in lines[0] and "retracted" in lines[0]
    assert "rev 2" in lines[1] and "celestial" in lines[1] and "2/3 clusters" in lines[1]
    document = json.loads(run(bursts, "list", "--json", "--config", config).output)
    assert [(b["burst_id"], b["rev"]) for b in document["bursts"]] == [
        (CELESTIAL.burst_id, 1), (CELESTIAL.burst_id, 2), ("later", 1),
    ]  # fmt: skip


def test_a_burst_is_shown(config):
    keep(config, CELESTIAL, revision(rev=2, kind="update"))
    shown = run(bursts, "show", CELESTIAL.burst_id, "--config", config)
    assert shown.exit_code == 0
    for words in ("revision 2 (update)", "RA 84°", "celestial     96.00 %", "extrapolated from 15 days", "fra"):
        assert words in shown.output
    document = json.loads(run(bursts, "show", CELESTIAL.burst_id, "--json", "--config", config).output)
    assert [b["rev"] for b in document["bursts"]] == [1, 2]
    assert document["bursts"][0] == CELESTIAL.document()


def test_an_unknown_burst_is_a_sentence(config):
    keep(config, CELESTIAL)
    outcome = run(bursts, "show", "nothing", "--config", config)
    assert outcome.exit_code == 2 and "bursts list" in outcome.output
