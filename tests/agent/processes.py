"""Real agents and scrubbers in processes of their own, and what they answer."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.report import AgentHeader, Fault, decode

PATIENCE_S = 30.0
PROBE_S = 0.02


def eventually(what: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The first true value of `what()`."""
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        value = what()
        if value:
            return value
        time.sleep(PROBE_S)
    raise AssertionError(f"nothing came of {what} within {patience_s} s")


class Answers:
    """What the agent that listens at `url` answers."""

    url: str
    trusting: ssl.SSLContext | None = None  # for an agent that speaks TLS

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S, context=self.trusting) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        status, page = self.get("/metrics")
        assert status == 200
        samples = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def faults(self, cursor: str | None = None, limit: int = 1000) -> tuple[AgentHeader, list[Fault]]:
        after = f"&after={cursor}" if cursor is not None else ""
        status, body = self.get(f"/v1/faults?limit={limit}{after}")
        assert status == 200, body
        header, *faults = [decode(line) for line in body.splitlines()]
        return header, faults


@dataclass
class Daemon(Answers):
    """`flipwatch agent` or `flipwatch scrubd` over a root of its own: <root>/sys, <root>/state, <root>/proc."""

    root: Path
    command: str = "agent"
    settings: dict[str, Any] = field(default_factory=dict)
    stores: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)  # a program that starts it
    trusting: ssl.SSLContext | None = None
    process: subprocess.Popen | None = None
    log: list[str] = field(default_factory=list)
    _reader: threading.Thread | None = None

    def write_config(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        machine_id = self.root / "machine-id"
        if not machine_id.exists():
            machine_id.write_text("0123456789abcdef\n")
        settings = {
            "state_dir": str(self.root / "state"),
            "listen": "127.0.0.1:0",
            "host": "host-1",
            "sysfs": str(self.root / "sys"),
            "tracefs": str(self.root / "tracing"),
            "kmsg": str(self.root / "kmsg"),
            "pstore": str(self.root / "pstore"),
            "pstore_archive": str(self.root / "pstore-archive"),
            "machine_id": str(machine_id),
            "poll_interval_s": 0.1,
            "heartbeat_s": 0.5,
            "core_self_test_s": 0,  # its devices depend on the machine that runs the tests
            **self.settings,
        }
        lines = ["[agent]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
        for store in self.stores:
            lines += ["[[store]]", *(f"{key} = {json.dumps(value)}" for key, value in store.items())]
        config = self.root / f"{self.command}.toml"
        config.write_text("\n".join(lines) + "\n")
        return config

    def start(self) -> "Daemon":
        command = [*self.prefix, sys.executable, "-m", "flipwatch", self.command, "--config", str(self.write_config())]
        self.log = []
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **self.environment}
        )
        self._reader = threading.Thread(target=self._read_log, args=(self.process,), daemon=True)
        self._reader.start()
        if self.command == "agent":
            eventually(lambda: self.url or self.process.poll() is not None)
            assert self.url, self.log
        return self

    def _read_log(self, process: subprocess.Popen) -> None:
        self.log.extend(process.stderr)

    @property
    def url(self) -> str:
        found = [match for line in self.log if (match := re.search(r"listening on (https?://\S+)", line))]
        return found[0].group(1) if found else ""

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=PATIENCE_S)
        self._reader.join(timeout=PATIENCE_S)
        self.process.stderr.close()
        return code

    def __enter__(self) -> "Daemon":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()
        elif not self.process.stderr.closed:
            self.wait()


def errors_metric(device: str, severity: str = "corrected") -> str:
    return f'flipwatch_memory_errors_total{{device="{device}",severity="{severity}",stream="dram"}}'
