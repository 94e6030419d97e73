"""A real agent among real servers: Prometheus scrapes it, promtool finds no fault, node_exporter counts the same."""

import json
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.edac_tree import Controller, controller, dimms
from tests.conftest import require

WAIT_S = 30.0


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def eventually(look: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            if look():
                return
        except OSError:
            pass  # not there yet
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextmanager
def running(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def trees(tmp_path: Path) -> list[Controller]:
    """One controller with both views at once, as real drivers show them, and one with the legacy view only."""
    sysfs = tmp_path / "sys"
    return [
        controller(sysfs, 0, places=dimms(2, 2), rows={"csrow0": 2, "csrow2": 2}).create(),
        controller(sysfs, 1, rows={"csrow0": 2}).create(),
    ]


@pytest.fixture
def agent(tmp_path: Path, trees: list[Controller]) -> Iterator[str]:
    """The address of an agent over the trees."""
    (tmp_path / "agent.toml").write_text(
        f'[agent]\nlisten = "127.0.0.1:0"\nstate_dir = "{tmp_path}/state"\n'
        f'sysfs = "{tmp_path}/sys"\npoll_interval_s = 0.1\n'
    )
    log = tmp_path / "agent.log"
    with running(sys.executable, "-m", "flipwatch", "agent", "--config", str(tmp_path / "agent.toml"), log=log):
        eventually(lambda: "listening on" in log.read_text(), "the agent listens")
        found = re.search(r"listening on (http://\S+)", log.read_text())
        assert found
        yield found[1]


def totals(page: str, pattern: str) -> dict[tuple[str, str], int]:
    """(controller, severity) -> errors, summed over what the pattern (controller, severity, value) finds."""
    found: dict[tuple[str, str], int] = {}
    for name, severity, value in re.findall(pattern, page, re.M):
        key = (name.removeprefix("mc"), severity)
        found[key] = found.get(key, 0) + int(float(value))
    return found


def by_agent(page: str) -> dict[tuple[str, str], int]:
    return totals(page, r'^flipwatch_memory_errors_total\{device="(mc\d+)/[^"]*",severity="(\w+)",.*\} (\S+)$')


def by_node_exporter(page: str) -> dict[tuple[str, str], int]:
    corrected = totals(page, r'^node_edac_()correctable_errors_total\{controller="(\d+)"\} (\S+)$')
    uncorrected = totals(page, r'^node_edac_()uncorrectable_errors_total\{controller="(\d+)"\} (\S+)$')
    named = {(name, "corrected"): value for (_, name), value in corrected.items()}
    return named | {(name, "uncorrected"): value for (_, name), value in uncorrected.items()}


def inject_something(trees: list[Controller], rng: random.Random) -> None:
    tree, kind, count = rng.choice(trees), rng.choice(["ce", "ce", "ue"]), rng.randint(1, 70_000)
    place = rng.choice(["dimm", "row", "nowhere"])
    if place == "nowhere":
        tree.inject_noinfo(count, kind)
    elif place == "dimm" and tree.places:
        tree.inject(rng.choice(list(tree.places)), count, kind)
    elif not tree.places:
        tree.inject_row(rng.choice(list(tree.rows)), rng.randrange(2), count, kind)


def test_node_exporter_counts_the_same(tmp_path: Path, agent: str, trees: list[Controller]) -> None:
    program, url = require("prometheus-node-exporter"), f"127.0.0.1:{free_port()}"
    arguments = [f"--path.sysfs={tmp_path}/sys", "--collector.disable-defaults", "--collector.edac"]
    rng = random.Random(11)
    with running(program, *arguments, f"--web.listen-address={url}", log=tmp_path / "node_exporter.log"):
        eventually(lambda: "node_edac" in get(f"http://{url}/metrics"), "node_exporter answers")
        for _ in range(4):
            for _ in range(25):
                inject_something(trees, rng)
            peer = by_node_exporter(get(f"http://{url}/metrics"))
            assert len(peer) == 4 and sum(peer.values()) > 0
            eventually(lambda wanted=peer: by_agent(get(f"{agent}/metrics")) == wanted, f"the agent says {peer}")


def test_promtool_has_nothing_to_say(agent: str, trees: list[Controller]) -> None:
    inject_something(trees, random.Random(3))
    page = get(f"{agent}/metrics")
    done = subprocess.run(
        [require("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "_created" not in page


def test_prometheus_scrapes_the_agent(tmp_path: Path, agent: str, trees: list[Controller]) -> None:
    program, url = require("prometheus"), f"127.0.0.1:{free_port()}"
    target = agent.removeprefix("http://")
    (tmp_path / "prometheus.yml").write_text(
        f"scrape_configs: [{{job_name: flipwatch, scrape_interval: 1s, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    arguments = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]

    def query(expression: str) -> dict[str, float]:
        text = get(f"http://{url}/api/v1/query?query={urllib.request.quote(expression)}")
        return {
            series["metric"].get("device", series["metric"].get("__name__", "")): float(series["value"][1])
            for series in json.loads(text)["data"]["result"]
        }

    with running(program, *arguments, f"--web.listen-address={url}", log=tmp_path / "prometheus.log"):
        eventually(lambda: query("up") == {"up": 1.0}, "the agent is up")
        zeros = query('flipwatch_memory_errors_total{severity="corrected"}')
        assert len(zeros) == 4 + 1 + 2 + 1 + 1 and set(zeros.values()) == {0.0}
        trees[0].inject("dimm3", 5)
        place = "mc0/channel1/slot1"
        eventually(
            lambda: query('flipwatch_memory_errors_total{severity="corrected"}')[place] == 5, "the errors are scraped"
        )
        assert query('flipwatch_source_up{source="edac"}') == {"flipwatch_source_up": 1.0}
        assert query('{__name__=~".*_created"}') == {}
