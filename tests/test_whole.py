"""The whole road, with everything killed on it: real agents and a real collector, kill -9 while faults flow.

At the end the collector's store holds exactly the injected errors, none twice, none missing.
"""

import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.agent.edac_tree import Controller, controller

ROUNDS = 12
HOSTS = {"fra-h1": ("fra", "50.11", "8.68"), "nrt-h1": ("nrt", "35.68", "139.69")}
WAIT_S = 30.0


class Program:
    """A daemon of ours that is killed and started again on the same port."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.log = directory / f"{arguments[0]}.log"
        self.arguments = arguments
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "flipwatch", *self.arguments]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Host:
    def __init__(self, directory: Path, name: str, port: int) -> None:
        self.tree: Controller = controller(directory / name / "sys").create()
        self.injected = 0
        config = directory / name / "agent.toml"
        config.write_text(
            f'[agent]\nlisten = "127.0.0.1:{port}"\nhost = "{name}"\nstate_dir = "{directory}/{name}/state"\n'
            f'sysfs = "{directory}/{name}/sys"\ntracefs = "{directory}/{name}/tracing"\n'
            "poll_interval_s = 0.1\nheartbeat_s = 0.2\n"
        )
        self.agent = Program(directory / name, "agent", "--config", str(config))

    def inject(self, rng: random.Random) -> None:
        count = rng.randint(1, 5)
        self.tree.inject(f"dimm{rng.randrange(4)}", count)
        self.injected += count


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def eventually(look: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not look():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[dict[str, Host], Program, Path]]:
    ports = {name: free_port() for name in HOSTS}
    entries = [
        {
            "targets": [f"127.0.0.1:{ports[name]}"],
            "labels": {"host": name, "cluster": cluster, "latitude": latitude, "longitude": longitude},
        }
        for name, (cluster, latitude, longitude) in HOSTS.items()
    ]
    (tmp_path / "inventory.json").write_text(json.dumps(entries))
    (tmp_path / "collector.toml").write_text(
        f'[collector]\nlisten = "127.0.0.1:{free_port()}"\nstate_dir = "{tmp_path}/store"\n'
        f'inventory = "{tmp_path}/inventory.json"\npull_interval_s = 0.2\n'
    )
    hosts = {name: Host(tmp_path, name, port) for name, port in ports.items()}
    collector = Program(tmp_path, "collector", "--config", str(tmp_path / "collector.toml"))
    try:
        yield hosts, collector, tmp_path / "store" / "collector.sqlite3"
    finally:
        for program in [collector, *(host.agent for host in hosts.values())]:
            program.kill()


def stored(path: Path) -> dict[str, int]:
    """Errors per host as the store's fault rows add up to."""
    if not path.exists():
        return {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        try:
            return dict(db.execute("SELECT host, sum(count) FROM faults GROUP BY host").fetchall())
        except sqlite3.OperationalError:  # killed before it had made its tables
            return {}


def test_exactly_once_through_kill_9_of_everything(fleet: tuple[dict[str, Host], Program, Path]) -> None:
    hosts, collector, store = fleet
    rng = random.Random(20261123)
    for host in hosts.values():  # so that a journal holds the counters before the first kill
        eventually(lambda log=host.agent.log: "listening" in log.read_text(), "the agent listens")
    for _ in range(ROUNDS):
        deadline_s = time.monotonic() + rng.uniform(0.3, 1.2)
        while time.monotonic() < deadline_s:
            rng.choice(list(hosts.values())).inject(rng)
            time.sleep(0.03)
        victim = rng.choice([collector, *(host.agent for host in hosts.values())])
        victim.kill()
        victim.start()
    wanted = {name: host.injected for name, host in hosts.items()}
    eventually(lambda: stored(store) == wanted, f"the store ends with {wanted}")
    time.sleep(1.0)  # were anything delivered twice, it would come now
    assert stored(store) == wanted


def test_an_agent_that_hangs_holds_up_nobody_and_loses_nothing(
    fleet: tuple[dict[str, Host], Program, Path],
) -> None:
    hosts, collector, store = fleet
    quiet, other = hosts.values()
    eventually(lambda: "listening" in collector.log.read_text(), "the collector listens")
    os.kill(quiet.agent.process.pid, signal.SIGSTOP)
    try:
        rng = random.Random(7)
        for _ in range(5):
            other.inject(rng)
        eventually(lambda: stored(store).get("nrt-h1") == other.injected, "the other agent's faults arrive")
    finally:
        os.kill(quiet.agent.process.pid, signal.SIGCONT)
    quiet.inject(rng)
    eventually(lambda: stored(store).get("fra-h1") == quiet.injected, "the hung agent's faults arrive afterwards")
    address = re.search(r"listening on (http://\S+)", collector.log.read_text())
    assert address
    with urllib.request.urlopen(f"{address[1]}/api/status", timeout=10) as answer:
        assert json.load(answer)["lost"] == 0
