"""What dashboards/metrics.md says of the metrics, what real daemons expose and what was promised: all the same."""

import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from agent.metrics import AgentCollector, View
from collectors import metrics
from tests.agent.test_host import SENSORS
from tests.collectors.test_collector_metrics import overview
from tests.dashboards.world import World

DASHBOARDS = Path(__file__).parents[2] / "dashboards"
TABLE = DASHBOARDS / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.+?) \| (.*?) \|$", re.M)
NAME = re.compile(r"(?<![\w:])flipwatch_\w+(?![\w:])")

# What users, dashboards and rules build on: these names and labels stay, others may be added.
PROMISED = {
    "agent": """
        flipwatch_memory_errors_total{stream,device,severity} flipwatch_novel_faults_total{stream}
        flipwatch_open_faults{stream,severity} flipwatch_device_action{device,action,rule}
        flipwatch_device_last_fault_timestamp_seconds{stream,device}
        flipwatch_device_info{device,label,serial,part} flipwatch_device_size_bytes{device}
        flipwatch_source_up{source} flipwatch_source_poll_seconds{source} flipwatch_ecc_blind{reason}
        flipwatch_journal_bytes{} flipwatch_journal_faults_total{} flipwatch_journal_dropped_total{}
        flipwatch_build_info{}
    """,
    "scrubber": """
        flipwatch_records_verified_total{store,format} flipwatch_records_corrupt{store,format,verdict}
        flipwatch_scrub_bytes_total{store} flipwatch_scrub_pass_ratio{store}
        flipwatch_scrub_oldest_unverified_seconds{store} flipwatch_scrub_unverifiable_bytes{store,reason}
    """,
    "collector": """
        flipwatch_cluster_novel_faults_total{cluster,stream} flipwatch_cluster_expected_faults_total{cluster,stream}
        flipwatch_cluster_watching_hosts{cluster,stream} flipwatch_agents{cluster,state}
        flipwatch_pull_lag_seconds{cluster} flipwatch_pull_lost_faults_total{cluster} flipwatch_bursts_active{cause}
        flipwatch_bursts_total{cause,kind} flipwatch_scan_statistic_nats{} flipwatch_scan_false_alarms_per_year{}
        flipwatch_correlator_state{state} flipwatch_step_seconds{} flipwatch_alert_delivery_up{}
    """,
}

# What the world has none of: sensors, and victims that share something. A test of its own shows each.
ELSEWHERE = {"flipwatch_host_temperature_celsius", "flipwatch_factor_victims"}


@dataclass(frozen=True)
class Documented:
    kind: str
    labels: frozenset[str]
    meaning: str
    condition: str  # when it has series


@dataclass(frozen=True)
class Exposed:
    kind: str
    labels: frozenset[str] | None  # None: no series to tell them by
    meaning: str


def documented() -> dict[str, dict[str, Documented]]:
    """By daemon, then by name."""
    sections = re.split(r"^## (\w+).*$", TABLE.read_text(), flags=re.M)[1:]
    found = {}
    for daemon, text in zip(sections[::2], sections[1::2], strict=True):
        rows = ROW.findall(text)
        assert len(rows) == len(re.findall(r"^\| `", text, re.M)), f"{daemon}: a row of another form"
        assert len({name for name, *_ in rows}) == len(rows), f"{daemon}: a metric stands there twice"
        found[daemon.lower()] = {
            name: Documented(kind, frozenset(re.findall(r"`(\w+)`", labels)), meaning, condition)
            for name, kind, labels, meaning, condition in rows
        }
    return found


ROWS = {name: row for rows in documented().values() for name, row in rows.items()}


def exposed(*pages: str) -> dict[str, Exposed]:
    found: dict[str, Exposed] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            new = Exposed(family.type, _labels(family), family.documentation)
            known = found.setdefault(name, new)
            if known.labels is None:
                found[name] = new
            assert new.labels is None or new == found[name], f"{name} differs from page to page"
    return found


def _labels(family: Metric) -> frozenset[str] | None:
    kinds = {frozenset(sample.labels) for sample in family.samples}
    assert len(kinds) <= 1, f"{family.name} has series with different labels"
    return kinds.pop() if kinds else None


def page(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def daemons(world: World) -> dict[str, dict[str, Exposed]]:
    agents = exposed(*map(page, world.agents.values()))
    scrubber = {name: agents.pop(name) for name in list(agents) if re.match(r"flipwatch_(scrub|records)_", name)}
    return {"agent": agents, "scrubber": scrubber, "collector": exposed(page(world.collector))}


@pytest.mark.parametrize("daemon", PROMISED)
def test_what_is_exposed_is_documented_and_the_other_way_round(
    daemons: dict[str, dict[str, Exposed]], daemon: str
) -> None:
    rows = documented()[daemon]
    assert sorted(rows) == sorted(daemons[daemon])
    for name, found in daemons[daemon].items():
        row = rows[name]
        assert (row.kind, row.meaning) == (found.kind, found.meaning), name
        if found.labels is None:
            assert row.condition != "always" and name in ELSEWHERE, f"{name} has no series here"
        else:
            assert row.labels == found.labels, name


@pytest.mark.parametrize("daemon", PROMISED)
def test_what_is_promised_is_documented(daemon: str) -> None:
    rows = documented()[daemon]
    promised = re.findall(r"(\w+)\{(.*?)\}", PROMISED[daemon])
    assert len(promised) == PROMISED[daemon].count("flipwatch_")
    for name, labels in promised:
        assert set(filter(None, labels.split(","))) <= rows[name].labels, name


def test_dashboards_and_rules_ask_for_documented_metrics_only() -> None:
    files = [*DASHBOARDS.glob("grafana/*.json"), *DASHBOARDS.glob("rules/*.yml"), *DASHBOARDS.glob("runbooks/*.md")]
    files += [DASHBOARDS.parent / "README.md", *DASHBOARDS.parent.glob("*/README.md")]
    asked = {(file.name, name) for file in files for name in NAME.findall(file.read_text())}
    assert len(asked) > 50
    assert sorted((file, name) for file, name in asked if name not in ROWS) == []


def test_what_the_world_lacks_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: SENSORS, raising=False)
    nothing = View(
        now_ns=0,
        state={},
        scrub_state={},
        sources={},
        journal_bytes=0,
        journal_damaged_bytes=0,
        journal_lost_faults=0,
        is_journal_writable=True,
        is_virtual=False,
    )
    registry = CollectorRegistry()
    registry.register(AgentCollector(lambda: nothing))
    found = exposed(generate_latest(registry).decode(), metrics.render(overview()).decode())
    assert {name: found[name].labels for name in ELSEWHERE} == {name: ROWS[name].labels for name in ELSEWHERE}
