"""The agent as a service: what it says is so, and through stops, kills, hangs and reloads each error is told once."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent import smbios_table
from tests.agent.kernel_texts import PANIC
from tests.agent.processes import errors_metric, eventually
from tests.systemd.host import AGENT, ERROR, INFO, SLOT, WARNING, Host


def open_for(reader: Path) -> int | None:
    """The writing end of a FIFO, once somebody waits at the other."""
    try:
        return os.open(reader, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        assert error.errno == errno.ENXIO
        return None


@pytest.fixture
def hanging(host: Host) -> Iterator[Path]:
    """A counter whose reading never ends, until another file stands in its place."""
    counter = host.edac.directory / "ce_count"
    counter.unlink()
    os.mkfifo(counter)
    yield counter


def mend(counter: Path, count: int) -> None:
    scratch = counter.with_name("mended")
    scratch.write_text(f"{count}\n")
    scratch.replace(counter)


def test_it_is_ready_when_it_has_polled_and_not_before(host: Host, hanging: Path) -> None:
    host.machine.run("systemctl", "start", "--no-block", AGENT)
    fd = eventually(lambda: open_for(hanging))  # the agent is in the middle of its first poll
    assert host.machine.show(AGENT, "ActiveState") == "activating"
    assert host.machine.ask("systemctl", "is-active", AGENT).stdout == "activating\n"
    mend(hanging, 0)
    os.write(fd, b"0\n")
    os.close(fd)
    host.start()  # waits until it is ready
    assert host.machine.show(AGENT, "ActiveState") == "active"
    host.inject(2)
    host.assert_each_is_told_once()


def test_a_hung_agent_is_started_again_and_misses_nothing(host: Host) -> None:
    host.start()
    host.inject(3)
    host.assert_each_is_told_once()
    counter = host.edac.directory / "ce_count"
    fifo = counter.with_name("fifo")
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDWR)  # whoever opens it for reading waits for ever
    fifo.replace(counter)
    eventually(lambda: "Watchdog timeout" in host.machine.run("journalctl", f"--since={host.begun}", "-u", AGENT))
    mend(counter, host.total)
    os.close(fd)
    host.start()
    assert host.restarts() >= 1
    host.inject(2)
    host.assert_each_is_told_once()


def test_a_stopped_agent_is_started_again(host: Host) -> None:
    host.start()
    host.machine.run("systemctl", "kill", "-s", "STOP", AGENT)
    eventually(lambda: host.restarts() >= 1 and host.machine.show(AGENT, "ActiveState") == "active")
    host.inject()
    host.assert_each_is_told_once()


def test_a_clean_stop_loses_nothing(host: Host) -> None:
    host.start()
    host.inject(3)
    host.assert_each_is_told_once()
    host.stop()
    assert host.machine.show(AGENT, "Result") == "success" and host.machine.show(AGENT, "ExecMainStatus") == "0"
    host.inject(4)
    host.start()
    host.assert_each_is_told_once()
    assert host.restarts() == 0


def test_kills_lose_and_double_nothing(host: Host) -> None:
    host.start()
    for number in range(4):
        host.inject(number + 1)
        host.kill()
    host.assert_each_is_told_once()


def test_a_reload_loses_nothing_and_says_what_waits(host: Host) -> None:
    host.start()
    process = host.machine.show(AGENT, "MainPID")
    host.inject(2)
    host.configure(poll_interval_s=0.3, listen="127.0.0.1:9999")
    host.machine.run("systemctl", "reload", AGENT)
    assert host.await_entry(AGENT, "configuration read again")["PRIORITY"] == INFO
    assert "listen" in host.await_entry(AGENT, "only after a restart")["MESSAGE"]
    host.inject(3)
    host.assert_each_is_told_once()
    assert host.machine.show(AGENT, "MainPID") == process


def test_a_bad_configuration_changes_nothing_at_a_reload(host: Host) -> None:
    host.start()
    host.machine.write("/etc/flipwatch/agent.toml", "[agent]\npoll_interval = 3\n")
    host.machine.run("systemctl", "reload", AGENT)
    entry = host.await_entry(AGENT, "unknown key 'poll_interval'")
    assert entry["PRIORITY"] == ERROR and "stays in force" in entry["MESSAGE"]
    assert "stays in force" in host.machine.await_status(AGENT, "unknown key")
    host.inject(2)
    host.assert_each_is_told_once()
    host.configure()
    host.machine.run("systemctl", "reload", AGENT)
    eventually(lambda: "unknown key" not in host.machine.status(AGENT))


def test_one_line_tells_the_state(host: Host) -> None:
    host.start()
    line = host.machine.await_status(AGENT, "2 cores" if os.cpu_count() == 2 else " core")
    assert line.startswith("watching 4 DIMMs and ") and line.endswith("; no fault in 24 h")
    assert "4 sources live" in line and "nvml" in line and "absent" in line
    assert f'Status: "{line}"' in host.machine.run("systemctl", "status", "--no-pager", "--full", AGENT)
    host.inject()
    host.machine.await_status(AGENT, "faults at 1 device in 24 h")


def test_what_is_kept_for_root_is_read(host: Host) -> None:
    """With one capability, and the kernel log that it is handed open."""
    boot_id = host.root / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("the first boot\n")
    module = smbios_table.memory_device("DIMM_A1", "", size_mib=16384, serial="F0A1B20C", part="M393")
    host.keep_for_root("sys/firmware/dmi/tables/DMI", smbios_table.table(module))
    host.keep_rasdaemon_database()
    host.edac.set("dimm0/dimm_label", "DIMM_A1")
    host.configure(proc="/srv/host/proc")
    host.start()
    up = {name: host.machine.metrics()[f'flipwatch_source_up{{source="{name}"}}'] for name in ("kmsg", "rasdaemon")}
    assert up == {"kmsg": 1, "rasdaemon": 1}
    assert 'serial="F0A1B20C"' in host.machine.get("/metrics")[1]
    host.stop()
    host.keep_for_root("pstore/dmesg-erst-1", PANIC.encode())
    boot_id.write_text("the second boot\n")
    host.start()
    (death,) = [fault for fault in host.machine.faults()[1] if fault.stream == "host"]
    assert "panic" in str(death.detail).lower()


def test_the_trace_buffers_are_made_by_root_and_read_without(host: Host) -> None:
    if "tracefs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no tracefs")
    machine, instance = host.machine, "/sys/kernel/tracing/instances/flipwatch"
    machine.run("mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing")
    try:
        host.start()
        assert machine.metrics()['flipwatch_source_up{source="tracefs"}'] == 1
        owner = machine.run("stat", "-c", "%u %A", f"{instance}/per_cpu/cpu0/trace_pipe_raw").split()
        assert owner == ["0", "-r--r-----"], "root's, and the agent's group may read it"
        host.stop()
    finally:
        machine.ask("rmdir", instance)
        machine.run("umount", "/sys/kernel/tracing")


def test_it_starts_without_a_configuration(host: Host) -> None:
    (host.machine.root / "etc/flipwatch/agent.toml").unlink()
    host.start()
    assert host.machine.await_status(AGENT, "blind").startswith("watching no part that tells")
    assert host.await_entry(AGENT, "source edac is blind")["PRIORITY"] == WARNING


def test_an_unusable_configuration_is_one_sentence(host: Host) -> None:
    host.machine.write("/etc/flipwatch/agent.toml", "[agent]\nlisten = 7\n")
    done = host.machine.ask("systemctl", "start", AGENT)
    assert done.returncode != 0
    entry = host.await_entry(AGENT, "listen")
    assert entry["MESSAGE"] == "Error: /etc/flipwatch/agent.toml: [agent] listen = 7: must be a string"
    host.configure()
    host.start()
    host.inject()
    host.assert_each_is_told_once()
    assert errors_metric(SLOT) in host.machine.metrics()
