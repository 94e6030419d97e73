"""How long an uncorrected error takes from the kernel's counter to the person who is called.

Enters: nothing. Leaves: a table on stdout: seconds from the moment at which the counter rises until Alertmanager's
notification arrives, once with the waits of the examples, once with every part as quick as it may be. All of it is
real: agents over trees of counters, Prometheus with our rules and the example's intervals, Alertmanager with the
example's routes. The errors come one after the other, so that they meet all parts at different moments of their
rounds. A kernel's trace event would wake the agent; a tree has none, so up to a poll's interval is part of it.
"""

import contextlib
import hashlib
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config import AgentSettings
from dashboards.rules.table import RULES
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, eventually
from tests.dashboards.world import running_prometheus
from tests.servers.alertmanager import running_alertmanager
from tests.servers.webhook import Webhook

EXAMPLE = Path(__file__).parents[2] / "deploy/examples/prometheus.yml"
ALERT = "UncorrectedMemoryError"
SCRAPED_TWICE = 2  # an alert needs to have seen the agent before


@dataclass(frozen=True)
class Pace:
    """How often each part looks; `waits`: Alertmanager gathers alerts for as long as the example says."""

    name: str
    poll_s: float
    scrape_s: int
    waits: bool
    patience_s: float


QUICK = Pace("each second", poll_s=1, scrape_s=1, waits=False, patience_s=60)


def main(small: bool) -> str:
    """Prints the figures; returns a hash of who was called about which host."""
    print(f"{'':<22}{'errors':>8}{'median s':>12}{'longest s':>12}")
    called: list[str] = []
    for pace, errors in ((QUICK, 2),) if small else ((_examples(), 12), (QUICK, 12)):
        taken_s = _measure(pace, errors)
        figures = f"{statistics.median(taken_s.values()):12.1f}{max(taken_s.values()):12.1f}"
        print(f"{pace.name:<22}{errors:>8}{figures}")
        called += sorted(taken_s)
    print(f"\n{len(called)} errors, {len(called)} calls")
    return hashlib.sha256(json.dumps(called).encode()).hexdigest()[:16]


def _examples() -> Pace:
    found = re.findall(r"^  (?:scrape|evaluation)_interval: (\d+)s$", EXAMPLE.read_text(), re.M)
    assert len(found) == 2 and found[0] == found[1], found
    return Pace("as in the examples", AgentSettings().poll_interval_s, int(found[0]), waits=True, patience_s=120)


def _measure(pace: Pace, errors: int) -> dict[str, float]:
    """Seconds to the call, by cluster: one host in each, so that no call waits for another of its group."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as later:
        root = Path(directory)
        agents = {f"c{n}": later.enter_context(_agent(root / f"c{n}", pace)) for n in range(errors)}
        webhook = later.enter_context(Webhook())
        alertmanager = later.enter_context(running_alertmanager(root, webhook, waits=pace.waits))
        prometheus = later.enter_context(running_prometheus(root, _settings(root, agents, alertmanager, pace)))
        seen = f"count(count_over_time(flipwatch_build_info[5m]) >= {SCRAPED_TWICE}) == {errors}"
        eventually(lambda: prometheus.query(seen), pace.patience_s)
        injected_s: dict[str, float] = {}
        for cluster in agents:
            controller(root / cluster / "sys").inject("dimm0", kind="ue")
            injected_s[cluster] = time.monotonic()
            time.sleep(pace.scrape_s * (1 + 1 / errors))
        eventually(lambda: len(webhook.arrived_s(ALERT)) == errors, pace.patience_s)
        return {cluster: arrived_s - injected_s[cluster] for cluster, arrived_s in webhook.arrived_s(ALERT).items()}


@contextlib.contextmanager
def _agent(root: Path, pace: Pace) -> Iterator[Daemon]:
    controller(root / "sys").create()
    with Daemon(root, settings={"poll_interval_s": pace.poll_s, "host": root.name}) as agent:
        yield agent


def _settings(root: Path, agents: dict[str, Daemon], alertmanager: str, pace: Pace) -> dict[str, Any]:
    rules = root / "flipwatch.rules.yml"
    rules.write_text(RULES.read_text())
    targets = [
        {"targets": [agent.url.removeprefix("http://")], "labels": {"cluster": name}} for name, agent in agents.items()
    ]
    return {
        "global": {"scrape_interval": f"{pace.scrape_s}s", "evaluation_interval": f"{pace.scrape_s}s"},
        "rule_files": [str(rules)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}]},
        "scrape_configs": [{"job_name": "flipwatch", "static_configs": targets}],
    }
