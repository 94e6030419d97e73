"""A real collector in a process of its own, over a fleet of scripted agents."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.collectors.scripted_agent import ScriptedAgent

DEADLINE_S = 30
CITIES = (
    ("fra", 50.1, 8.7), ("nyc", 40.7, -74.0), ("tok", 35.7, 139.7), ("syd", -33.9, 151.2), ("gru", -23.5, -46.6),
    ("sin", 1.4, 103.8), ("lon", 51.5, -0.1), ("lax", 34.0, -118.2), ("bom", 19.1, 72.9), ("jnb", -26.2, 28.0),
    ("scl", -33.4, -70.7), ("mow", 55.8, 37.6),
)  # fmt: skip


def flipwatch(*arguments: object) -> list[str]:
    """The command line of `flipwatch ...`."""
    return [sys.executable, "-m", "flipwatch", *map(str, arguments)]


def write_inventory(path: Path, agents: Sequence[ScriptedAgent], per_cluster: int = 2, **more: str) -> Path:
    """Agents in the order of CITIES, so many to each; `more` are labels that all of them have."""
    groups = []
    for index, agent in enumerate(agents):
        cluster, latitude, longitude = CITIES[index // per_cluster]
        labels = {"cluster": cluster, "latitude": str(latitude), "longitude": str(longitude), "host": agent.host} | more
        groups.append({"targets": [agent.target], "labels": labels})
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(groups))
    scratch.replace(path)
    return path


def write_config(directory: Path, inventory: Path | str, **more: object) -> Path:
    settings = {"inventory": str(inventory), "state_dir": str(directory / "state"), "listen": "127.0.0.1:0"}
    settings |= {"pull_interval_s": 0.2, "pull_timeout_s": 2.0} | more
    path = directory / "flipwatch.toml"
    # TOML and JSON write strings and numbers alike
    path.write_text("[collector]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    return path


class RunningCollector:
    """A context manager; ends the process when it is left."""

    def __init__(self, config: Path) -> None:
        self._process = subprocess.Popen(
            flipwatch("collector", "--config", config), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._drain)
        self._reader.start()
        self.url = wait_for(self._find_url)

    def __enter__(self) -> "RunningCollector":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _drain(self) -> None:
        assert self._process.stderr is not None
        self.log.extend(self._process.stderr)

    def _find_url(self) -> str | None:
        found = re.search(r"listening on (http\S+)", "".join(self.log))
        if not found and self._process.poll() is not None:
            raise AssertionError("".join(self.log))
        return found[1] if found else None

    def get(self, path: str) -> str:
        """The body of an answer, whatever its status."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=20) as response:
                return response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} {error.read().decode()}"

    def post(self, path: str, body: object, content_type: str = "application/json") -> tuple[int, Any]:
        """Status and JSON of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def faults(self) -> int:
        """How many faults are stored."""
        return sum(stream["faults"] for stream in self.json("/api/status")["faults"].values())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9"""
        self._process.kill()
        self._end()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._end()

    def _end(self) -> int:
        status = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return status


def wait_for(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """What `condition` returns once it is true; fails after the deadline."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        value = condition()
        if value:
            return value
        time.sleep(0.03)
    raise AssertionError(f"still not so after {deadline_s} s: {condition}")
