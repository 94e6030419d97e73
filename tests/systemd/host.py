"""The pretended hardware of the machine, its configuration, and what must hold for every line that a service logs."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.agent.edac_tree import Controller, controller
from tests.agent.processes import errors_metric, eventually
from tests.agent.rasdaemon_database import PACKAGED
from tests.systemd.machine import Machine

AGENT, SCRUBD, COLLECTOR = "flipwatch-agent", "flipwatch-scrubd", "flipwatch-collector"
UNITS = (AGENT, SCRUBD, COLLECTOR)
SLOT = "mc0/channel0/slot0"
# Only how long to wait: the tests shan't wait for a minute to see a service restarted.
IMPATIENT = "[Service]\nWatchdogSec=3\nRestartSec=100ms\nTimeoutStopSec=10\n"
IN_CHROOT = "[Service]\nPrivateUsers=no\n"  # the kernel gives a chroot no user namespaces
ERROR, WARNING, INFO = "3", "4", "6"


class Host:
    """One host from its installation on: `start`, let things happen, `clean`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.begun = machine.run("date", "+%Y-%m-%d %H:%M:%S.%N").strip()
        self.root = machine.root / "srv/host"
        self.edac: Controller = controller(self.root / "sys").create()
        self.total = 0
        for unit in (AGENT, SCRUBD):
            machine.write(f"/etc/systemd/system/{unit}.service.d/impatient.conf", IMPATIENT)
        for unit in UNITS if not machine.has_user_namespaces else ():
            machine.write(f"/etc/systemd/system/{unit}.service.d/in-chroot.conf", IN_CHROOT)
        machine.run("systemctl", "daemon-reload")
        self.configure()

    def configure(self, *stores: dict[str, Any], **settings: Any) -> None:
        """Writes the configuration of agent and scrubber."""
        settings = {
            "host": "h1",
            "sysfs": "/srv/host/sys",
            "pstore": "/srv/host/pstore",
            "rasdaemon_db": "/srv/host/rasdaemon/ras.db",
            "poll_interval_s": 0.2,
            "heartbeat_s": 0.5,
            "core_self_test_s": 2,
            **settings,
        }
        defaults = {"rate_mib_s": 1000, "period_days": 1e-5, "settle_s": 0, "pressure_max_percent": 100}
        tables = [("[agent]", settings), *(("[[store]]", {**defaults, **store}) for store in stores)]
        lines = [line for head, keys in tables for line in (head, *(f"{k} = {json.dumps(v)}" for k, v in keys.items()))]
        self.machine.write("/etc/flipwatch/agent.toml", "\n".join(lines) + "\n")

    def start(self, unit: str = AGENT) -> None:
        self.machine.run("systemctl", "start", unit)

    def stop(self, unit: str = AGENT) -> None:
        self.machine.run("systemctl", "stop", unit)

    def kill(self, unit: str = AGENT) -> None:
        """kill -9; returns when systemd has started it again."""
        restarts = self.restarts(unit)
        self.machine.run("systemctl", "kill", "--kill-who=main", "-s", "KILL", unit)
        eventually(lambda: self.restarts(unit) > restarts and self.machine.show(unit, "ActiveState") == "active")

    def restarts(self, unit: str = AGENT) -> int:
        return int(self.machine.show(unit, "NRestarts"))

    def inject(self, count: int = 1) -> None:
        self.edac.inject("dimm0", count)
        self.total += count

    def assert_each_is_told_once(self) -> None:
        """Every injected error, in the counter and in the faults, no more and no less."""
        eventually(lambda: self.machine.metrics()[errors_metric(SLOT)] >= self.total)
        assert self.machine.metrics()[errors_metric(SLOT)] == self.total
        _, faults = self.machine.faults()
        assert sum(fault.count for fault in faults if fault.device == SLOT) == self.total
        places = [(fault.journal, fault.seq) for fault in faults]
        assert len(set(places)) == len(places)

    def keep_for_root(self, path: str, content: bytes) -> Path:
        """A file that only root may read, in a directory that only root may enter."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.parent.chmod(0o700)
        file.write_bytes(content)
        file.chmod(0o400)
        return file

    def keep_rasdaemon_database(self) -> None:
        file = self.keep_for_root("rasdaemon/ras.db", b"")
        with closing(sqlite3.connect(file)) as connection:
            connection.executescript(PACKAGED)

    def entries(self, unit: str, words: str) -> list[dict[str, Any]]:
        """What the service has logged since the host was installed, as far as it holds the words."""
        since = f"--since={self.begun}"
        lines = self.machine.run("journalctl", since, "-o", "json", "-u", unit, f"SYSLOG_IDENTIFIER={unit}")
        return [entry for entry in map(json.loads, lines.splitlines()) if words in entry["MESSAGE"]]

    def await_entry(self, unit: str, words: str) -> dict[str, Any]:
        eventually(lambda: self.entries(unit, words))
        return self.entries(unit, words)[-1]

    def clean(self) -> None:
        """Stops everything and forgets it, but not before each logged line was looked at."""
        machine = self.machine
        machine.run("systemctl", "stop", *UNITS)
        for unit in UNITS:
            for entry in self.entries(unit, ""):
                assert_reads_well(entry)
            machine.ask("systemctl", "clean", "--what=state", unit)
            for drop_in in (machine.root / f"etc/systemd/system/{unit}.service.d").glob("*.conf"):
                drop_in.unlink()
        machine.ask("systemctl", "reset-failed", *UNITS)
        for path in ("srv/host", "srv/stores", "etc/flipwatch"):
            shutil.rmtree(machine.root / path, ignore_errors=True)


def assert_reads_well(entry: dict[str, Any]) -> None:
    """A sentence with its priority; time, name and level are the journal's own business."""
    message = entry["MESSAGE"]
    assert isinstance(message, str) and message.strip() == message, entry
    assert not re.match(r"\s*(<\d>|DEBUG|INFO|WARNING|ERROR|CRITICAL|Traceback|flipwatch[.:])", message), message
    assert not re.search(r"\d\d:\d\d:\d\d", message), f"a second time stamp: {message}"
    assert entry["PRIORITY"] in (ERROR, WARNING, INFO), entry
