"""The collector as a service, pulling the agent beside it."""

import json
from pathlib import Path

import pytest

from tests.agent.processes import eventually
from tests.certificates import Authority
from tests.systemd.host import AGENT, COLLECTOR, ERROR, Host

LABELS = {"cluster": "fra1", "latitude": "50.1", "longitude": "8.7", "host": "h1"}
URL = "http://127.0.0.1:9862"


def configure(host: Host, *targets: str, **settings: object) -> None:
    groups = [{"targets": [target], "labels": LABELS} for target in targets]
    host.machine.write("/etc/flipwatch/inventory.json", json.dumps(groups))
    keys = {"inventory": "/etc/flipwatch/inventory.json", "pull_interval_s": 0.3, **settings}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    host.machine.write("/etc/flipwatch/collector.toml", "\n".join(["[collector]", *lines]) + "\n")


def errors(host: Host) -> int:
    """How many errors of DRAM it has stored."""
    status, body = host.machine.fetch(f"{URL}/api/status")
    assert status == 200
    return json.loads(body)["faults"].get("dram", {"errors": 0})["errors"]


@pytest.fixture
def collected(host: Host) -> Host:
    configure(host, "127.0.0.1:9861")
    host.start(AGENT)
    host.start(COLLECTOR)
    host.inject(2)
    eventually(lambda: errors(host) >= host.total)
    return host


def test_stops_and_kills_lose_and_double_nothing(collected: Host) -> None:
    collected.kill(COLLECTOR)
    collected.inject(3)
    eventually(lambda: errors(collected) >= collected.total)
    collected.stop(COLLECTOR)
    assert collected.machine.show(COLLECTOR, "Result") == "success"
    collected.inject(1)
    collected.start(COLLECTOR)
    eventually(lambda: errors(collected) >= collected.total)
    assert errors(collected) == collected.total


def test_a_hung_collector_is_started_again_and_misses_nothing(collected: Host) -> None:
    impatient = "[Service]\nWatchdogSec=20\nTimeoutStopSec=3\n"  # its steps, which feed the watchdog, are further apart
    collected.machine.write(f"/etc/systemd/system/{COLLECTOR}.service.d/impatient.conf", impatient)
    collected.machine.run("systemctl", "daemon-reload")
    collected.machine.run("systemctl", "restart", COLLECTOR)
    collected.machine.run("systemctl", "kill", "-s", "STOP", COLLECTOR)
    collected.inject(2)
    eventually(lambda: collected.restarts(COLLECTOR) >= 1, patience_s=90)
    eventually(lambda: collected.machine.show(COLLECTOR, "ActiveState") == "active")
    eventually(lambda: errors(collected) >= collected.total)
    assert errors(collected) == collected.total


def test_one_line_tells_the_state(collected: Host) -> None:
    line = collected.machine.await_status(COLLECTOR, "correlator learning")
    assert line == "1 of 1 agents answer, correlator learning, no bursts active"


def test_a_reload_takes_over_what_may_change(collected: Host) -> None:
    process = collected.machine.show(COLLECTOR, "MainPID")
    configure(collected, "127.0.0.1:9861", pull_interval_s=0.5, listen="127.0.0.1:9999")
    collected.machine.run("systemctl", "reload", COLLECTOR)
    assert "listen" in collected.await_entry(COLLECTOR, "only after a restart")["MESSAGE"]
    collected.inject(2)
    eventually(lambda: errors(collected) >= collected.total)
    assert errors(collected) == collected.total and collected.machine.show(COLLECTOR, "MainPID") == process


def test_bad_settings_change_nothing_at_a_reload(collected: Host) -> None:
    configure(collected, "127.0.0.1:9861", pull_interval_s=-1)
    collected.machine.run("systemctl", "reload", COLLECTOR)
    entry = collected.await_entry(COLLECTOR, "pull_interval_s")
    assert entry["PRIORITY"] == ERROR and "the former settings stay in force" in entry["MESSAGE"]
    assert "the former settings stay in force" in collected.machine.await_status(COLLECTOR, "pull_interval_s")
    collected.inject()
    eventually(lambda: errors(collected) >= collected.total)


def test_a_key_that_only_root_may_read_is_handed_to_it(host: Host, tmp_path: Path) -> None:
    machine, pair = host.machine, Authority(tmp_path / "authority").sign("collector")
    machine.write("/etc/flipwatch/collector.crt", pair.cert.read_text())
    machine.write("/etc/flipwatch/collector.key", pair.key.read_text(), mode=0o600)
    files = {"tls_cert_file": "/etc/flipwatch/collector.crt", "tls_key_file": "/etc/flipwatch/collector.key"}
    configure(host, "127.0.0.1:9861", **files)
    assert machine.ask("systemctl", "start", COLLECTOR).returncode != 0
    assert "Permission denied" in host.await_entry(COLLECTOR, "collector.key")["MESSAGE"]
    machine.run("systemctl", "stop", COLLECTOR)

    directory = f"/etc/systemd/system/{COLLECTOR}.service.d"
    machine.run("cp", f"{directory}/keys.conf.example", f"{directory}/keys.conf")
    machine.run("systemctl", "daemon-reload")
    handed = f"/run/credentials/{COLLECTOR}.service/tls.key"
    configure(host, "127.0.0.1:9861", **{**files, "tls_key_file": handed})
    host.start(COLLECTOR)
    host.await_entry(COLLECTOR, "listening on https://")
