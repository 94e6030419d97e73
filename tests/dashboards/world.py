"""A small real fleet under a real Prometheus: agents, scrubbers and a collector, each with something wrong.

fra  a host with a corrected and an uncorrected error in named modules, another uncorrected one nobody knows where, one
     in a cache, and a store with a flipped bit and a file that nobody can verify; one module was replaced
nyc  a physical host without an EDAC driver: ECC-blind
tok  a host where nothing is wrong
The other clusters exist in an imported history only, at whose end a burst goes on.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from checksum import leveldb_log
from dashboards.rules.table import RULES
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, errors_metric, eventually
from tests.agent.rasdaemon_database import CORRECTED_CACHE, RasdaemonDatabase
from tests.agent.smbios_table import memory_device, table, write
from tests.collectors.running import CITIES, RunningCollector, flipwatch, wait_for, write_config
from tests.conftest import require

HOSTS_IN_A_CLUSTER = 50
UNCORRECTED = 1 << 61  # of a machine check's status


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query.

        Raises:
            AssertionError: Prometheus refuses the expression; the message is its own.
        """
        body = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query", body, timeout=20) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{expression}: {error.read().decode()}") from error

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None


@dataclass(frozen=True)
class World:
    prometheus: Prometheus
    collector: str  # where it listens
    agents: dict[str, str]  # where those of the clusters listen


@contextmanager
def running_world(root: Path) -> Iterator[World]:
    """Runs until it's left; every metric that a dashboard asks for has been scraped twice by then."""
    with ExitStack() as later:
        stores = _sick_host(root / "fra")
        rasdaemon = RasdaemonDatabase(root / "rasdaemon.db").create()
        _replace_a_part(root / "fra")
        agents = {
            "fra": later.enter_context(Daemon(root / "fra", settings=_settings("fra", rasdaemon), stores=stores)),
            "nyc": later.enter_context(Daemon(root / "nyc", settings=_physical(root / "nyc"))),
            "tok": later.enter_context(Daemon(_healthy_host(root / "tok"), settings={"host": "tok-1"})),
        }
        later.enter_context(Daemon(root / "fra", "scrubd", stores=stores))
        alertmanager = later.enter_context(_alertmanager(root))
        config = _collector_config(root, agents, alertmanager)
        collector = later.enter_context(RunningCollector(config))
        prometheus = later.enter_context(running_prometheus(root, _scraping(root, agents, collector)))
        _make_errors(root / "fra", rasdaemon)
        world = World(prometheus, collector.url, {cluster: agent.url for cluster, agent in agents.items()})
        eventually(lambda: _is_complete(world), patience_s=120)
        yield world


def _sick_host(root: Path) -> list[dict[str, Any]]:
    """A tree of memory modules that the firmware names, and a store."""
    controller(root / "sys").create()
    _name_the_modules(root, dimm3="S-old")
    store = root / "store"
    store.mkdir()
    data = bytearray()
    for number in range(50):
        data += leveldb_log.encode(bytes([number]) * 900, len(data))
    data[9000] ^= 8
    (store / "records.log").write_bytes(data)
    (store / "notes.txt").write_text("no checksum here\n" * 100)
    for file in store.iterdir():
        os.utime(file, (time.time() - 86400,) * 2)
    return [{"path": str(store), "rate_mib_s": 1000.0, "period_days": 1e-5, "pressure_max_percent": 100.0}]


def _healthy_host(root: Path) -> Path:
    controller(root / "sys").create()
    return root


def _physical(root: Path) -> dict[str, Any]:
    """Settings of an agent that takes its machine for hardware, whatever runs the tests."""
    proc = _started(root / "proc", "now")
    (proc / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu sse4_2\n\n")
    return {"host": "nyc-1", "proc": str(proc)}


def _started(proc: Path, boot_id: str) -> Path:
    file = proc / "sys/kernel/random/boot_id"
    file.parent.mkdir(parents=True)
    file.write_text(f"{boot_id}\n")
    return proc


def _name_the_modules(root: Path, **serials: str) -> None:
    names = controller(root / "sys").places
    modules = [memory_device(f"label of {name}", serial=serials.get(name, f"S-{name}"), part="P1") for name in names]
    write(root / "sys", table(*modules))


def _replace_a_part(root: Path) -> None:
    """A module fails, the host is shut down, and when it starts there's another module in the slot."""
    before = _started(root / "proc-before", "before")
    broken = errors_metric("mc0/channel1/slot1", "uncorrected")
    with Daemon(root, settings={"host": "fra-1", "proc": str(before)}) as agent:
        controller(root / "sys").inject("dimm3", 1, kind="ue")
        eventually(lambda: agent.metrics()[broken] == 1)
        agent.stop()
    controller(root / "sys").create()
    _name_the_modules(root, dimm3="S-new")


def _settings(host: str, rasdaemon: RasdaemonDatabase) -> dict[str, Any]:
    return {"host": f"{host}-1", "rasdaemon_db": str(rasdaemon.path)}


def _make_errors(root: Path, rasdaemon: RasdaemonDatabase) -> None:
    tree = controller(root / "sys")
    tree.inject("dimm0", 3)
    tree.inject("dimm1", 1, kind="ue")
    tree.inject_noinfo(1, kind="ue")
    rasdaemon.mce_record(time.time_ns(), CORRECTED_CACHE | UNCORRECTED)


def _collector_config(root: Path, agents: dict[str, Daemon], alertmanager: str) -> Path:
    groups = []
    for index, (cluster, latitude, longitude) in enumerate(CITIES):
        labels = {"cluster": cluster, "latitude": str(latitude), "longitude": str(longitude), "host": f"{cluster}-1"}
        labels["hosts"] = str(HOSTS_IN_A_CLUSTER)
        known = agents.get(cluster)
        target = known.url.removeprefix("http://") if known else f"127.0.0.1:{index + 1}"
        groups.append({"targets": [target], "labels": labels})
    inventory, history = root / "inventory.json", root / "history.ndjson"
    inventory.write_text(json.dumps(groups))
    config = write_config(root, inventory, alertmanager_url=alertmanager, burst_end_after_min=1440)
    begin = datetime.now(UTC) - timedelta(minutes=40)
    simulate = flipwatch("simulate", "--fleet", inventory, "--out", history, "--novel-per-host-hour", 0.01)
    burst = ("--burst-at", f"{begin:%Y-%m-%dT%H:%M:%SZ}", "--burst-cluster", "all", "--burst-amplitude", 60)
    for command in ([*simulate, *map(str, burst)], flipwatch("import", history, "--config", config)):
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    return config


@contextmanager
def _server(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def _alertmanager(root: Path) -> Iterator[str]:
    program, url = require("prometheus-alertmanager"), _free_url()
    config = root / "alertmanager.yml"
    config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    where = [f"--config.file={config}", f"--storage.path={root / 'alertmanager'}", "--cluster.listen-address="]
    with _server(program, *where, f"--web.listen-address={url.removeprefix('http://')}"):
        yield url


def _scraping(root: Path, agents: dict[str, Daemon], collector: RunningCollector) -> dict[str, Any]:
    """With the rules as they are, only in a hurry."""
    targets = [
        {"targets": [agent.url.removeprefix("http://")], "labels": {"cluster": cluster}}
        for cluster, agent in agents.items()
    ]
    own = [{"targets": [collector.url.removeprefix("http://")]}]
    jobs = [
        {"job_name": "flipwatch-agent", "static_configs": targets},
        {"job_name": "flipwatch-collector", "static_configs": own},
    ]
    rules = root / "flipwatch.rules.yml"
    rules.write_text(RULES.read_text().replace("interval: 1m", "interval: 1s"))
    return {"global": {"scrape_interval": "1s"}, "rule_files": [str(rules)], "scrape_configs": jobs}


@contextmanager
def running_prometheus(root: Path, settings: dict[str, Any]) -> Iterator[Prometheus]:
    """With this configuration."""
    program, url = require("prometheus"), _free_url()
    config = root / "prometheus.yml"
    config.write_text(json.dumps(settings))  # YAML holds JSON
    where = [f"--config.file={config}", f"--storage.tsdb.path={root / 'tsdb'}"]
    with _server(program, *where, f"--web.listen-address={url.removeprefix('http://')}"):
        wait_for(lambda: _is_ready(f"{url}/-/ready"))
        yield Prometheus(url)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _is_complete(world: World) -> bool:
    """The slow ones are there, and have been for two scrapes, so that rates can be told."""
    slow = (
        "flipwatch_burst_observed_faults",
        "flipwatch_scrub_unverifiable_bytes",
        'flipwatch_device_action{action="replace"}',
        "flipwatch_records_corrupt_found_total",
        "flipwatch_alert_delivery_up",
        "flipwatch_cluster_novel_faults_total",
        "flipwatch_cluster_watching_hosts",
        "flipwatch_device_mode",
        "flipwatch_scan_false_alarms_per_year",
        "cluster:flipwatch_memory_errors:rate5m",
        "cluster:flipwatch_hosts_ecc_blind:count",
        "cluster:flipwatch_records_verified:rate5m",
        "cluster:flipwatch_records_corrupt:sum",
    )
    return all(world.prometheus.value(f"min(count_over_time({name}[1m]))") not in (None, 1.0) for name in slow)
