"""The stage of the demonstration: its processes, what was done to them, and who listens to the alerts.

Enters: command lines. Leaves: processes that are stopped whatever happens, and the alerts that came over HTTP. It owns
the demonstration's clock and sockets.
"""

import http.server
import json
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from deploy import demo_world as world

POLL_S = 0.25
STOP_S = 10.0


class Missing(Exception):
    """Something that should have happened did not."""


@dataclass
class Stage:
    """What runs, what was done to it, and what is missing."""

    directory: Path
    rng: random.Random
    started_s: float = field(default_factory=time.monotonic)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)  # host -> http://...
    hosts: list[world.Host] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)  # host -> injected errors
    flips: list[world.Flip] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self.started_s:5.1f} s  {text}")

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.processes.append(process)
        return process

    def flipwatch(self, *arguments: object) -> None:
        """Runs one command of flipwatch to its end."""
        line = command(*arguments)
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"`flipwatch {arguments[0]}` failed: {done.stderr.strip() or done.stdout.strip()}")

    def wait_for(self, what: str, seconds: float, look: Callable[[], Any]) -> Any:
        """What `look` returns once it is true."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            found = look()
            if found:
                return found
            for process in self.processes:
                if process.poll() is not None:
                    raise Missing(f"{' '.join(map(str, process.args))} ended with {process.returncode}")  # type: ignore[arg-type]
            time.sleep(POLL_S)
        raise Missing(f"{what}: not within {seconds:.0f} s")

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        deadline_s = time.monotonic() + STOP_S
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "flipwatch", *map(str, arguments)]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get(url: str) -> str:
    """The answer, or "" while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.HTTPError):
        return ""


def get_json(url: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(get(url) or "{}")
    return document


class Receiver:
    """Takes alerts over HTTP: from Alertmanager's webhook, or where there's none, from the collector itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sender = "nobody"
        self._alerts: list[dict[str, Any]] = []

    def take(self, path: str, document: Any) -> None:
        """A webhook's notification is an object with "alerts"; the collector posts a bare list."""
        self.sender = "Alertmanager's webhook" if path == "/webhook" else "the collector (no Alertmanager here)"
        self._alerts += document["alerts"] if isinstance(document, dict) else document

    def alert(self, burst_id: str, cause: str) -> dict[str, Any] | None:
        wanted = {"alertname": "CorrelatedBurst", "burst_id": burst_id, "cause": cause}
        found = [alert for alert in self._alerts if wanted.items() <= alert["labels"].items()]
        return found[-1] if found else None


def place(latitude_deg: float, longitude_deg: float) -> str:
    north, east = "NS"[latitude_deg < 0], "EW"[longitude_deg < 0]
    return f"{abs(latitude_deg):.1f}°{north} {abs(longitude_deg):.1f}°{east}"


@contextmanager
def alert_receiver() -> Iterator[Receiver]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            receiver.take(self.path, json.loads(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args  # what arrives is told by the demonstration itself

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
