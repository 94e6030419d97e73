"""The last words of a boot: one death is one fault, with whatever evidence it left, and a clean stop is none."""

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel_log import KernelLog
from agent.observation import Moment, Poll
from agent.sources import lastwords
from tests.agent.error_records import MEMORY, entry, memory, status_block
from tests.agent.kernel_log_device import KernelLogDevice
from tests.agent.kernel_texts import MEMORY as MEMORY_TEXT
from tests.agent.kernel_texts import PANIC
from tests.agent.processes import Daemon, eventually

SECOND_NS = 10**9
START = Moment(time_ns=1_795_473_000 * SECOND_NS, boottime_ns=9000 * SECOND_NS, boot_id="boot-1")
PANIC_S = 1_795_473_405  # when PANIC says that it happened
SILENCE_S = 65.0
LEFTOVER = [
    "mce: [Hardware Error]: Machine check events logged",
    "mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 5: be00000000010090",
    "mce: [Hardware Error]: TSC 0 ADDR fef1ce40 MISC 86 ",
    "mce: [Hardware Error]: PROCESSOR 0:306f2 TIME 1795474000 SOCKET 1 APIC 6 microcode 2b",
    "mce: [Hardware Error]: CPU 4: Machine Check: 0 Bank 5: 8c00004000010090",
    "mce: [Hardware Error]: CPU 4: Machine Check: 0 Bank 255: bc0000000000009f",
]
BERT = [
    "BERT: Error records from previous boot:",
    *(f"[Hardware Error]: {line.replace('corrected', 'fatal')}" for line in MEMORY_TEXT.splitlines()),
    "BERT: Total records found: 1",
]


class Host:
    """One machine through its boots: `polls` of the agent, and how each boot ends."""

    def __init__(self, root: Path) -> None:
        self.log = KernelLogDevice(root / "kmsg")
        self.pstore, self.archive = root / "pstore", root / "archive"
        self.pstore.mkdir()
        self.archive.mkdir()
        self.mounts = root / "mountinfo"
        self.bert = root / "BERT"
        self.places = lastwords.Places((self.pstore, self.archive), self.log.path, self.bert, root, self.mounts)
        self.cursor: dict = {}
        self.now = START

    def pass_time(self, seconds: float) -> None:
        ns = int(seconds * SECOND_NS)
        self.now = replace(self.now, time_ns=self.now.time_ns + ns, boottime_ns=self.now.boottime_ns + ns)

    def poll(self, after_s: float = 5) -> Poll:
        self.pass_time(after_s)
        poll = lastwords.poll(self.places, KernelLog(), self.cursor, self.now, silence_s=SILENCE_S)
        self.cursor = poll.cursor
        return poll

    def stop(self) -> None:
        """What the agent remembers of a clean stop."""
        self.cursor = {**self.cursor, "is_stopped": True}

    def boot(self, name: str, down_s: float = 600) -> None:
        """The machine is down for a while; 30 s after its start the agent is there."""
        time_ns = self.now.time_ns + int((down_s + 30) * SECOND_NS)
        self.now = Moment(time_ns=time_ns, boottime_ns=30 * SECOND_NS, boot_id=name)
        self.log.records.clear()
        self.log.replay()

    def keep(self, path: Path, content: str | bytes = PANIC, time_s: float = PANIC_S) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(path, (time_s, time_s))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.log.close()


def seen(poll: Poll) -> list[tuple[str, str, str]]:
    return [(item.stream, item.device, item.severity) for item in poll.observations]


DEATH = ("host", "host", "fatal")


def test_at_the_first_poll_nobody_has_died(host: Host) -> None:
    poll = host.poll()
    assert not poll.observations and [device.name for device in poll.devices] == ["host"]
    (sight,) = poll.first_sights
    assert (sight.device, sight.since_ns) == ("host", host.now.time_ns)
    assert not host.poll().first_sights


def test_a_boot_without_a_clean_stop_is_one_death_at_the_last_heartbeat(host: Host) -> None:
    host.poll()
    host.poll()
    heartbeat_ns = host.now.time_ns
    host.boot("boot-2")
    (death,) = host.poll().observations
    assert (death.stream, death.device, death.severity, death.count) == ("host", "host", "fatal", 1)
    assert (death.time_ns, death.time_error_s, death.epoch) == (heartbeat_ns, SILENCE_S, "boot-1")
    assert death.detail["evidence"] == ["none"]
    assert death.detail["next_boot_ns"] == heartbeat_ns + 600 * SECOND_NS
    assert not host.poll().observations


def test_a_quick_reset_is_dated_as_well_as_can_be(host: Host) -> None:
    host.poll()
    host.boot("boot-2", down_s=20)
    (death,) = host.poll().observations
    assert death.time_error_s == 20


def test_a_clean_stop_is_no_death_but_a_gap(host: Host) -> None:
    host.poll()
    stopped_ns = host.now.time_ns
    host.stop()
    host.boot("boot-2")
    poll = host.poll()
    assert not poll.observations
    (gap,) = poll.gaps
    assert (gap.device, gap.begin_ns, gap.end_ns) == ("host", stopped_ns, host.now.time_ns)
    host.boot("boot-3")
    assert seen(host.poll()) == [DEATH], "the stop counts for its own boot only"


def test_an_agent_that_comes_back_in_the_same_boot_is_no_death(host: Host) -> None:
    host.poll()
    assert not host.poll(after_s=86400).observations, "killed, and started again a day later"
    host.stop()
    assert not host.poll().observations and not host.cursor["is_stopped"]
    host.boot("boot-2")
    assert seen(host.poll()) == [DEATH]


def test_pstore_holds_the_panic_and_its_machine_check(host: Host) -> None:
    host.poll()
    host.keep(host.pstore / "dmesg-ramoops-0")
    host.boot("boot-2")
    check, death = host.poll().observations
    assert (check.stream, check.device, check.severity) == ("dram", "socket0/bank9", "fatal")
    assert (check.time_ns, check.time_error_s) == (PANIC_S * SECOND_NS, 1.0)
    assert check.detail == {"status": "0xbe00000000010090", "kind": "memory", "address": "0x1234000"}
    assert death.detail["evidence"] == [
        "dmesg-ramoops-0: Kernel panic: Fatal local machine check",
        "machine check of cpu0, bank 9: 0xbe00000000010090 (memory)",
    ]


def test_the_same_record_counts_once_wherever_it_goes(host: Host) -> None:
    host.poll()
    host.keep(host.pstore / "dmesg-ramoops-0")
    host.boot("boot-2")
    assert len(host.poll().observations) == 2
    (host.pstore / "dmesg-ramoops-0").rename(host.archive / "dmesg-ramoops-0")
    parts = "\n".join(PANIC.splitlines()[1:])  # put together again by systemd-pstore: other bytes, the same error
    host.keep(host.archive / "1795473405" / "001" / "dmesg.txt", parts, host.now.time_ns / 1e9)
    host.poll(after_s=60)
    host.stop()
    host.boot("boot-3")
    poll = host.poll()
    assert not poll.observations and poll.gaps
    host.boot("boot-4")
    (death,) = host.poll().observations
    assert death.detail["evidence"] == ["none"], "an old panic is not what ended this boot"


def test_a_panic_after_a_clean_stop_is_known_all_the_same(host: Host) -> None:
    host.poll()
    host.stop()
    host.keep(host.pstore / "dmesg-efi_pstore-1", "Panic#1 Part1\n<0>[ 9.5] Kernel panic - not syncing: softlockup")
    host.boot("boot-2")
    (death,) = host.poll().observations
    assert death.detail["evidence"] == ["dmesg-efi_pstore-1: Kernel panic: softlockup"]


def test_live_errors_in_a_dmesg_and_files_of_other_kinds_are_left_alone(host: Host) -> None:
    host.poll()
    host.keep(host.pstore / "dmesg-ramoops-0", PANIC.replace("Machine Check Exception: 5", "Machine Check: 0"))
    host.keep(host.pstore / "dmesg-ramoops-1.enc.z", b"\x78\x9c")
    host.keep(host.pstore / "dmesg-ramoops-2", PANIC.replace("Fatal local machine check", "hung task"))
    host.keep(host.pstore / "console-ramoops-0")
    host.keep(host.pstore / "mce-erst-1", b"short")
    host.boot("boot-2")
    assert seen(host.poll()) == [DEATH]


def test_a_machine_check_that_erst_kept(host: Host) -> None:
    host.poll()
    mce = struct.pack("<7Q4BI4B3I4x4QI4xQ", 0xBE00000000010135, 0x8C, 0x5000, 5, 0, 0, PANIC_S, 0, 0, 0, 0, 0x306F2,
                      0x10, 3, 255, 1, 300, 1, 6, 0x1000C14, 0, 0, 0, 0x2B, 0)  # fmt: skip
    host.keep(host.pstore / "mce-erst-7000000000000001", mce)
    host.boot("boot-2")
    check, _ = host.poll().observations
    assert (check.stream, check.device, check.time_ns) == ("sram", "socket1/cpu300/bank3", PANIC_S * SECOND_NS)
    assert check.detail["address"] == "0x5000"


def test_banks_that_the_reset_kept_are_logged_at_boot(host: Host) -> None:
    host.poll()
    host.boot("boot-2")
    host.log.say(*LEFTOVER)
    host.log.say(*LEFTOVER[1:4], time_s=4000)  # a live one, later: not ours
    fatal, death = host.poll().observations
    assert (fatal.stream, fatal.device, fatal.severity) == ("dram", "socket1/bank5", "fatal")
    boot_ns = death.detail["next_boot_ns"]
    assert (fatal.time_ns, fatal.time_error_s) == (boot_ns, 600.0), "between the last heartbeat and the boot"
    assert "machine check of cpu3, bank 5: 0xbe00000000010090 (memory)" in death.detail["evidence"]
    assert not host.poll().observations


def test_the_bank_of_a_panic_that_is_still_full_is_the_same_error(host: Host) -> None:
    host.poll()
    host.keep(host.pstore / "dmesg-ramoops-0")
    host.boot("boot-2")
    host.log.say(*(line.partition("] ")[2].replace("Exception: 5", ": 0") for line in PANIC.splitlines()[2:6]))
    check, _ = host.poll().observations
    assert (check.count, check.time_ns) == (1, PANIC_S * SECOND_NS)


def test_bert_tells_of_the_device(host: Host) -> None:
    host.poll()
    for name in ("boot-2", "boot-3"):  # firmware that shows it again
        host.boot(name)
        host.log.say(*BERT)
        poll = host.poll()
        if name == "boot-2":
            section, death = poll.observations
            assert (section.stream, section.device, section.severity) == ("dram", "fru/CPU1_DIMM_B1", "fatal")
            assert death.detail["evidence"] == ["BERT: fatal error of fru/CPU1_DIMM_B1"]
        else:
            assert seen(poll) == [DEATH]


def test_a_bert_too_long_for_the_log_is_read_where_it_is(host: Host) -> None:
    host.poll()
    for name in ("boot-2", "boot-3", "boot-4"):
        host.boot(name)
        host.log.say(BERT[0], "BERT: Max print length exceeded, table data is available at:\n/sys/firmware/..")
        poll = host.poll()
        death = poll.observations[-1]
        if name == "boot-2":
            assert death.detail["evidence"] == [f"{host.bert}: No such file or directory"]
            host.bert.write_bytes(status_block(entry(MEMORY, memory(), severity=1)))
        elif name == "boot-3":
            assert seen(poll) == [("dram", "fru/DIMM_A2", "fatal"), DEATH]
            assert death.detail["evidence"] == ["BERT: fatal error of fru/DIMM_A2"]
        else:
            assert seen(poll) == [DEATH]


def test_old_records_count_at_the_first_poll_of_all_at_their_own_time(host: Host) -> None:
    host.keep(host.pstore / "dmesg-ramoops-0", time_s=PANIC_S)
    host.pass_time(86400)
    (check,) = host.poll().observations
    assert (check.device, check.time_ns) == ("socket0/bank9", PANIC_S * SECOND_NS)


def test_what_cannot_be_read_is_named_and_is_no_trouble(host: Host) -> None:
    host.poll()
    host.pstore.rmdir()
    host.pstore.write_text("")
    host.archive.rmdir()
    host.log.path.unlink()
    host.boot("boot-2")
    poll = host.poll()
    (death,) = poll.observations
    assert death.detail["evidence"] == [
        f"{host.pstore}: Not a directory",
        f"{host.log.path}: No such file or directory",
    ]
    assert not poll.trouble and poll.blind is None and poll.absent is None


def test_hostile_files_bring_neither_exceptions_nor_faults(host: Host) -> None:
    host.poll()
    host.keep(host.pstore / "dmesg-a", os.urandom(5000))
    host.keep(host.pstore / "mce-erst-2", b"")
    (host.pstore / "dmesg-dangling").symlink_to("/nowhere")
    (host.pstore / "dmesg-directory").mkdir()
    host.boot("boot-2")
    assert seen(host.poll()) == [DEATH]


def test_what_is_remembered_is_bounded(host: Host) -> None:
    for number in range(lastwords.SEEN_MAX + 50):
        host.keep(host.archive / str(number) / "dmesg.txt", f"Panic#{number} Part1", time_s=number)
    host.poll()
    assert len(host.cursor["seen"]) == lastwords.FILES_MAX


def test_a_journal_in_memory_watches_no_host(host: Host) -> None:
    device = host.places.state_dir.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    line = f"36 25 {number} / / rw,noatime shared:1 - {{}} /dev/x rw\n"
    host.mounts.write_text("half a line\n" + line.format("ext4"))
    assert host.poll().absent is None
    host.mounts.write_text(line.format("tmpfs"))
    host.boot("boot-2")
    assert "is in memory" in host.poll().absent


# --- the whole agent -------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> Daemon:
    agent = Daemon(tmp_path, settings={"proc": str(tmp_path / "proc")})
    reboot(agent, "boot-1")
    return agent


def reboot(agent: Daemon, name: str) -> None:
    file = agent.root / "proc/sys/kernel/random/boot_id"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{name}\n")


def deaths(agent: Daemon) -> list:
    return [fault for fault in agent.faults()[1] if fault.stream == "host"]


def test_the_agent_tells_a_clean_stop_from_a_death(machine: Daemon) -> None:
    with machine as agent:
        assert agent.stop() == 0
        reboot(agent, "boot-2")
        agent.start()
        assert not deaths(agent)
        agent.kill()
        agent.start()
        assert not deaths(agent), "the host lived on"
        heartbeat_ns = agent.faults()[0].complete_until_ns
        eventually(lambda: agent.faults()[0].complete_until_ns > heartbeat_ns + SECOND_NS)
        agent.kill()
        reboot(agent, "boot-3")
        agent.start()
        (death,) = deaths(agent)
        assert death.severity == "fatal" and death.witnesses == ("lastwords",) and not death.novel
        assert death.time_ns > heartbeat_ns
        for _ in range(2):
            agent.kill()
            agent.start()
            assert deaths(agent) == [death], "told once"
        assert agent.metrics()['flipwatch_memory_errors_total{device="host",severity="fatal",stream="host"}'] == 1
        assert agent.metrics()['flipwatch_source_up{source="lastwords"}'] == 1
        assert agent.metrics()['flipwatch_source_up{source="kmsg"}'] == 0, "there is no log here"
        assert not any(name.startswith("flipwatch_ecc_blind") and "kmsg" in name for name in agent.metrics())
        agent.stop()
        assert any("source kmsg is absent: there is no" in line for line in agent.log)
