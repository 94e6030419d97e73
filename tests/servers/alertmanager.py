"""Debian's Alertmanager with the configuration that people are given, for a receiver of the tests.

Enters: a directory and a Webhook. Leaves: where it listens, until the context is left.
"""

import contextlib
import json
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.collectors.running import wait_for
from tests.conftest import require
from tests.servers.webhook import Webhook

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "alertmanager.yml"


def example_config(webhook: Webhook, waits: bool) -> str:
    """The configuration that people are given, with this receiver, and with or without its waits."""
    text = EXAMPLE.read_text().replace("http://127.0.0.1:9099/", webhook.url)
    if waits:
        return text
    text = re.sub(r"group_wait: \w+", "group_wait: 0s", text)
    return re.sub(r"group_interval: \w+", "group_interval: 1s", text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_alertmanager(
    directory: Path, webhook: Webhook, port: int | None = None, *, waits: bool = False
) -> Iterator[str]:
    program = require("prometheus-alertmanager")
    config = directory / "alertmanager.yml"
    config.write_text(example_config(webhook, waits))
    url = f"http://127.0.0.1:{port or free_port()}"
    arguments = [f"--config.file={config}", f"--storage.path={directory / 'am'}", "--cluster.listen-address="]
    with (directory / "alertmanager.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *arguments, f"--web.listen-address={url.removeprefix('http://')}"], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: is_ready(url))
        yield url
    finally:
        process.kill()
        process.wait(10)


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def alerts(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=5) as response:
        return json.loads(response.read())
