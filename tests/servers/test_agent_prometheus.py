"""The agent beside the real things: Prometheus scrapes it, promtool finds no fault, node_exporter counts the same."""

import json
import random
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.edac_tree import controller, dimms
from tests.agent.processes import Daemon, errors_metric, eventually
from tests.certificates import Authority
from tests.conftest import require


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(*command: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def fetch(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, ConnectionError):  # not up yet
        return None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index in range(2):
        controller(tmp_path / "sys", index, places=dimms(), rows={"csrow0": 2, "csrow1": 2}).create()
    return tmp_path


def tls_settings(root: Path) -> tuple[dict[str, str], dict[str, object]]:
    """What the agent and Prometheus are told so that each believes the other."""
    authority = Authority(root / "ca")
    agent, client = authority.sign("agent"), authority.sign("prometheus")
    ours = {"tls_cert_file": agent.cert, "tls_key_file": agent.key, "tls_client_ca_file": authority.cert}
    theirs = {"ca_file": authority.cert, "cert_file": client.cert, "key_file": client.key}
    job = {"tls_config": {name: str(path) for name, path in theirs.items()}}
    return {name: str(path) for name, path in ours.items()}, job


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "mutual TLS"])
def test_prometheus_scrapes_the_agent(root: Path, is_tls: bool) -> None:
    prometheus, port = require("prometheus"), free_port()
    controller(root / "sys").inject("dimm0", 3)
    agent_settings, job_settings = tls_settings(root) if is_tls else ({}, {})
    with Daemon(root, settings=agent_settings) as agent:
        settings = root / "prometheus.yml"
        target = agent.url.partition("//")[2]
        group = {"targets": [target], "labels": {"__scheme__": agent.url.partition(":")[0]}}  # as in the inventory
        job = {"job_name": "flipwatch", "scrape_interval": "1s", "static_configs": [group]}
        settings.write_text(json.dumps({"scrape_configs": [job | job_settings]}))
        arguments = [
            f"--config.file={settings}",
            f"--storage.tsdb.path={root}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ]

        def value(query: str) -> float | None:
            text = fetch(f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query}))
            result = json.loads(text)["data"]["result"] if text else []
            return float(result[0]["value"][1]) if result else None

        with server(prometheus, *arguments):
            eventually(lambda: value('up{job="flipwatch"}') == 1)
            assert value(errors_metric("mc0/channel0/slot0")) == 3
            assert value(errors_metric("mc1/channel1/slot1")) == 0
            assert value('count(flipwatch_memory_errors_total{stream="dram"})') == 20
            assert value('count({__name__=~".*_created"})') is None
            controller(root / "sys").inject("dimm0", 2)
            eventually(lambda: value(errors_metric("mc0/channel0/slot0")) == 5)


def test_promtool_has_no_complaint(root: Path) -> None:
    promtool = require("promtool")
    (root / "store").mkdir()
    stores = [{"path": str(root / "store"), "settle_s": 0}]
    with Daemon(root, stores=stores) as agent, Daemon(root, "scrubd", stores=stores):
        controller(root / "sys").inject("dimm0")
        eventually(lambda: agent.metrics()[errors_metric("mc0/channel0/slot0")] == 1)
        eventually(lambda: "flipwatch_scrub_pass_ratio{" in agent.get("/metrics")[1])
        page = agent.get("/metrics")[1]
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_node_exporter_counts_the_same(root: Path) -> None:
    exporter, port, rng = require("prometheus-node-exporter"), free_port(), random.Random(4)
    controllers = [controller(root / "sys", index) for index in range(2)]
    command = [
        exporter,
        f"--path.sysfs={root / 'sys'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--collector.disable-defaults",
        "--collector.edac",
    ]

    def theirs() -> dict[tuple[str, str], float]:
        page = fetch(f"http://127.0.0.1:{port}/metrics") or ""
        found = re.findall(r'node_edac_(\w+)able_errors_total\{controller="(\d+)"\} (\S+)', page)
        return {(f"mc{number}", f"{kind}ed"): float(value) for kind, number, value in found}

    def ours() -> dict[tuple[str, str], float]:
        sums: dict[tuple[str, str], float] = {}
        for name, value in agent.metrics().items():
            found = re.match(r'flipwatch_memory_errors_total\{device="(mc\d+)/.*",severity="(\w+)"', name)
            if found:
                sums[found.groups()] = sums.get(found.groups(), 0) + value
        return sums

    with server(*command), Daemon(root) as agent:
        eventually(lambda: len(theirs()) == 4)
        for _ in range(3):
            for _ in range(30):
                mc, kind, count = rng.choice(controllers), rng.choice(["ce", "ue"]), rng.randrange(1, 100)
                match rng.randrange(3):
                    case 0:
                        mc.inject(f"dimm{rng.randrange(4)}", count, kind)
                    case 1:
                        mc.inject_noinfo(count, kind)
                    case 2:  # the kernel counts it, and no place ever shows it
                        mc.add(f"{kind}_count", count)
            expected = {
                (mc.directory.name, severity): float(mc.get(f"{kind}_count"))
                for mc in controllers
                for kind, severity in (("ce", "corrected"), ("ue", "uncorrected"))
            }
            assert theirs() == expected
            eventually(lambda now=expected: ours() == now)
            assert sum(expected.values()) > 0
