"""SIGHUP: the collector takes over its settings and its inventory, or says why not and goes on."""

import re
import signal
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path

from collectors.config import AT_RESTART, CollectorConfig, load, reloaded
from tests.collectors.running import RunningCollector, wait_for, write_config, write_inventory
from tests.collectors.scripted_agent import Agents, ScriptedAgent


def test_what_waits_for_a_restart(tmp_path: Path) -> None:
    old = load(write_config(tmp_path, tmp_path / "inventory.json"))
    new = replace(old, pull_interval_s=3.0, listen="127.0.0.1:1", history_days=30)
    config, waiting = reloaded(old, new)
    assert waiting == ["listen"] and config == replace(old, pull_interval_s=3.0, history_days=30)
    assert {*AT_RESTART} < {field.name for field in fields(CollectorConfig)}


def test_the_example_says_what_waits_for_a_restart() -> None:
    text = (Path(__file__).parents[2] / "deploy/examples/collector.toml").read_text()
    (said,) = re.findall(r"^# A reload .*?;", text, re.DOTALL | re.MULTILINE)
    patterns = re.findall(r"[a-z]+_[a-z_*]+|listen", said)
    keys = [field.name for field in fields(CollectorConfig)]
    assert {key for key in keys if any(fnmatchcase(key, one) for one in patterns)} == {*AT_RESTART}


def test_it_goes_on_with_other_settings(tmp_path: Path) -> None:
    agents = [ScriptedAgent(f"h{number}") for number in range(2)]
    with Agents(*agents):
        first = write_config(tmp_path, write_inventory(tmp_path / "one.json", agents[:1]), pull_interval_s=3600)
        with RunningCollector(first) as collector:
            write_config(tmp_path, write_inventory(tmp_path / "both.json", agents), pull_interval_s=0.2)
            collector.signal(signal.SIGHUP)
            wait_for(lambda: all(agent.requests for agent in agents))
            status = wait_for(lambda: collector.json("/api/status"))
            assert sum(cluster["hosts"] for cluster in status["clusters"]) == 2

            write_config(tmp_path, tmp_path / "nowhere.json")
            collector.signal(signal.SIGHUP)
            sentence = wait_for(lambda: collector.json("/api/status")["health"]["config"])
            assert "nowhere.json" in sentence and "the former settings stay in force" in sentence
            assert sentence.replace("'", "&#39;") in collector.get("/") or sentence in collector.get("/")
            write_config(tmp_path, tmp_path / "both.json", pull_interval_s=0.3)
            collector.signal(signal.SIGHUP)
            wait_for(lambda: not collector.json("/api/status")["health"]["config"])
            assert collector.stop() == 0
