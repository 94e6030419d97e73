"""The scrubber as a service: what it finds the agent serves, and what it may not read it says."""

import os
import re
from pathlib import Path

import pytest

from agent.report import RecordFault
from tests.agent.processes import eventually
from tests.agent.scrubbed_store import log_of
from tests.systemd.host import AGENT, ERROR, SCRUBD, WARNING, Host

OPEN, CLOSED = "/srv/stores/open", "/srv/stores/closed"
RECORDS = 50


def keep(host: Host, store: str, *flipped: int) -> Path:
    """A store of one log, with these records flipped."""
    data, middles = log_of(RECORDS)
    damaged = bytearray(data)
    for record in flipped:
        damaged[middles[record]] ^= 1
    directory = host.machine.root / store.lstrip("/")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "a.log").write_bytes(damaged)
    return directory


def verified(host: Host, store: str) -> float:
    return host.machine.metrics().get(f'flipwatch_records_verified_total{{format="leveldb-log",store="{store}"}}', 0)


def corrupt_records(host: Host) -> list[RecordFault]:
    return [fault for fault in host.machine.faults()[1] if isinstance(fault, RecordFault)]


@pytest.fixture
def scrubbed(host: Host) -> Host:
    """Agent and scrubber run, over a store with one flipped bit."""
    keep(host, OPEN, 7)
    host.configure({"path": OPEN})
    host.start(SCRUBD)
    host.start(AGENT)
    eventually(lambda: corrupt_records(host))
    return host


def test_the_agent_serves_what_it_finds(scrubbed: Host) -> None:
    (fault,) = corrupt_records(scrubbed)
    assert fault.detail["flip"]["bit"] == 0
    assert scrubbed.await_entry(SCRUBD, "flipped")["PRIORITY"] == WARNING
    line = scrubbed.machine.await_status(SCRUBD, "1 corrupt stretch")
    assert re.fullmatch(r"verifying 1 store, \d+ % of this pass done, 1 corrupt stretch", line.replace("%", " %"))
    assert not scrubbed.entries(SCRUBD, "priority"), "the unit has seen to it"


def test_stops_and_kills_lose_and_double_nothing(scrubbed: Host) -> None:
    scrubbed.kill(SCRUBD)
    scrubbed.stop(SCRUBD)
    assert scrubbed.machine.show(SCRUBD, "Result") == "success"
    keep(scrubbed, OPEN, 7, 30)
    scrubbed.start(SCRUBD)
    eventually(lambda: len(corrupt_records(scrubbed)) > 1)
    before = verified(scrubbed, OPEN)
    eventually(lambda: verified(scrubbed, OPEN) >= before + 2 * RECORDS)  # whole passes later still the same two
    assert len(corrupt_records(scrubbed)) == 2


def test_a_hung_scrubber_is_started_again(scrubbed: Host) -> None:
    scrubbed.machine.run("systemctl", "kill", "-s", "STOP", SCRUBD)
    eventually(lambda: scrubbed.restarts(SCRUBD) >= 1 and scrubbed.machine.show(SCRUBD, "ActiveState") == "active")
    before = verified(scrubbed, OPEN)
    eventually(lambda: verified(scrubbed, OPEN) > before)
    assert len(corrupt_records(scrubbed)) == 1


def test_a_store_that_may_not_be_read_is_said_and_holds_up_no_other(host: Host) -> None:
    keep(host, OPEN)
    keep(host, CLOSED, 7).chmod(0o700)
    host.configure({"path": OPEN}, {"path": CLOSED})
    host.start(AGENT)
    host.start(SCRUBD)
    eventually(lambda: verified(host, OPEN) >= RECORDS)
    assert f"{CLOSED}: Permission denied" in host.machine.await_status(SCRUBD, "Permission denied")
    assert host.await_entry(SCRUBD, f"store {CLOSED}: Permission denied; trying again")["PRIORITY"] == ERROR
    assert not corrupt_records(host) and host.restarts(SCRUBD) == 0

    machine, directory = host.machine, f"/etc/systemd/system/{SCRUBD}.service.d"
    machine.ask("groupadd", "--force", "records")
    machine.run("cp", f"{directory}/stores.conf.example", f"{directory}/stores.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", SCRUBD)
    eventually(lambda: verified(host, CLOSED) >= RECORDS - 1)
    assert len(corrupt_records(host)) == 1
    eventually(lambda: "Permission denied" not in machine.status(SCRUBD))


def test_a_reload_takes_up_stores_and_lets_go_of_them(scrubbed: Host) -> None:
    process = scrubbed.machine.show(SCRUBD, "MainPID")
    keep(scrubbed, CLOSED, 3)
    scrubbed.configure({"path": OPEN}, {"path": CLOSED})
    scrubbed.machine.run("systemctl", "reload", SCRUBD)
    eventually(lambda: len(corrupt_records(scrubbed)) == 2)
    scrubbed.configure({"path": CLOSED, "rate_mib_s": 500})
    scrubbed.machine.run("systemctl", "reload", SCRUBD)
    eventually(lambda: f'store="{OPEN}"' not in scrubbed.machine.get("/metrics")[1])
    before = verified(scrubbed, CLOSED)
    eventually(lambda: verified(scrubbed, CLOSED) > before)
    assert len(corrupt_records(scrubbed)) == 2
    assert scrubbed.machine.show(SCRUBD, "MainPID") == process


def test_a_store_with_a_format_that_is_unknown_changes_nothing(scrubbed: Host) -> None:
    scrubbed.configure({"path": OPEN, "format": "parquet"})
    scrubbed.machine.run("systemctl", "reload", SCRUBD)
    assert "stays in force" in scrubbed.await_entry(SCRUBD, "parquet")["MESSAGE"]
    assert "stays in force" in scrubbed.machine.await_status(SCRUBD, "parquet")
    before = verified(scrubbed, OPEN)
    eventually(lambda: verified(scrubbed, OPEN) > before)


def test_it_knows_no_other_users(scrubbed: Host) -> None:
    if not scrubbed.machine.has_user_namespaces:
        pytest.skip("in a chroot there are no user namespaces, so that PrivateUsers= couldn't be tried")
    process = scrubbed.machine.show(SCRUBD, "MainPID")
    mapped = scrubbed.machine.run("cat", f"/proc/{process}/uid_map").splitlines()
    assert mapped and all(line.split()[2] == "1" for line in mapped), "root and its own, nobody else"


def test_it_has_no_network_and_changes_nothing(scrubbed: Host) -> None:
    process = scrubbed.machine.show(SCRUBD, "MainPID")
    shown = scrubbed.machine.run("cat", f"/proc/{process}/net/dev").splitlines()[2:]
    assert [line.split(":")[0].strip() for line in shown] == ["lo"]
    assert scrubbed.machine.run("cat", f"/proc/{process}/status").count("CapEff:\t0000000000000000") == 1
    store = scrubbed.machine.root / OPEN.lstrip("/")
    assert os.listdir(store) == ["a.log"]
