"""Trace events of a real kernel: one fault of what counters and events say, dated by the event, whatever is lost.

The tests of this module share one guest and run in order: each goes on where the one before it stopped. The agent polls
each 30 s, so that whatever comes sooner was woken by an event.
"""

import time
from pathlib import Path

import pytest

from agent.report import MemoryFault
from agent.trace_instance import CLOCK
from tests.agent.processes import eventually
from tests.kernel.guest import STATE, Guest
from tests.kernel.guest_agent import GuestAgent

LATENCY_MAX_S = 3.0  # from the kernel's report to a fault that a collector could have read, by the guest's clock
WINDOW_S = 1.2  # longer than that apart, events aren't the same error
NOBODY = 65534
AS_NOBODY = f"/usr/bin/setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"
WITH_ONE_CAPABILITY = "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search"
SETTINGS = {"poll_interval_s": 30, "trace_buffer_kib": 16}
INSTANCE = "/sys/kernel/tracing/instances/flipwatch"
INJECT = "/sys/kernel/debug/mce-inject"
CORRECTED_IN_BANK9 = "mce 0 9 0x8c00004000010090 0x0 {address:#x} 0x8c"  # a memory read, with its address
DEFERRED_STATUS = "0x9c00100000010090"
OFFLINE = "/sys/devices/system/memory/hard_offline_page"
CACHE_STATUS = "0x8c00004000010135"  # a data read in the second level
# Holds a page of its own and says where it lies, so that poisoning it harms nobody.
VICTIM = """
import ctypes, mmap, struct, time
page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
page[:] = bytes([165]) * mmap.PAGESIZE
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
with open("/proc/self/pagemap", "rb") as pagemap:
    pagemap.seek(address // mmap.PAGESIZE * 8)
    entry, = struct.unpack("Q", pagemap.read(8))
print((entry & (1 << 55) - 1) * mmap.PAGESIZE, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def agent(guest: Guest) -> GuestAgent:
    guest.load("ie31200_edac")
    guest.load("mce-inject")
    agent = GuestAgent(guest, prefix=f"{AS_NOBODY} {WITH_ONE_CAPABILITY}")
    agent.configure(**SETTINGS)
    guest.run(f"chmod 755 /root{STATE} && mkdir -p /root{STATE}/agent && chown {NOBODY}:{NOBODY} /root{STATE}/agent")
    agent.prepare()
    return agent.start(**SETTINGS)


def faults(agent: GuestAgent) -> list[MemoryFault]:
    return [fault for fault in agent.faults()[1] if isinstance(fault, MemoryFault)]


def next_fault(agent: GuestAgent, number: int) -> MemoryFault:
    eventually(lambda: len(faults(agent)) > number)
    return faults(agent)[number]


def fresh_fault(agent: GuestAgent, number: int) -> MemoryFault:
    """As `next_fault`, and it was there in time."""
    header, found = eventually(lambda: answer if len((answer := agent.faults())[1]) > number else None)
    fault = found[number]
    assert isinstance(fault, MemoryFault) and header.time_ns - fault.time_ns < LATENCY_MAX_S * 1e9
    return fault


def counted(agent: GuestAgent, controller: str = "") -> int:
    return sum(fault.count for fault in faults(agent) if fault.device.startswith(controller))


def in_sysfs(guest: Guest) -> int:
    return sum(map(int, guest.run("cat /sys/devices/system/edac/mc/mc0/[cu]e_count").split()))


def inject_once(bank: int, status: str, address: int) -> str:
    """The command that has the kernel log a machine check that never was."""
    registers = f"echo {status} > status; echo {address:#x} > addr; echo 0x8c > misc"
    return f"cd {INJECT}; echo sw > flags; {registers}; echo {bank} > bank"


def inject_into_cache(guest: Guest, count: int) -> None:
    """So many that the kernel's own pool for machine checks, of about 80 records, never fills."""
    one = inject_once(1, CACHE_STATUS, 0x12340000)
    guest.run(f"i=0; while [ $i -lt {count} ]; do {one}; i=$((i+1)); [ $((i%25)) != 0 ] || sleep 0.1; done")


def test_what_is_prepared_can_be_read_without_privilege(guest: Guest, agent: GuestAgent) -> None:
    files = "trace_clock per_cpu/cpu0/stats per_cpu/cpu1/stats events/header_page events/ras/mc_event/format"
    text = guest.run(
        f"cd /; chroot /root sh -c 'cd {INSTANCE} && {AS_NOBODY} /usr/bin/cat {files} events/mce/mce_record/format'"
    )
    assert f"[{CLOCK}]" in text and "mcgstatus" in text and "entries: 0" in text
    assert guest.run(f"cat {INSTANCE}/buffer_percent") == "0\n"
    assert agent.metrics()['flipwatch_source_up{source="tracefs"}'] == 1
    status = guest.run(f"grep -E '^(Uid|CapEff)' /proc/{agent.pid}/status").split()
    assert status[1] == str(NOBODY) and int(status[-1], 16) == 1 << 2, "no capability but reading"


def test_an_edac_error_is_one_fault_with_two_witnesses_at_once(guest: Guest, agent: GuestAgent) -> None:
    for number, uncorrected in enumerate((False, True)):
        guest.bridge.inject(channel=number, rank=number, uncorrected=uncorrected, syndrome=0x5A)
        fault = fresh_fault(agent, number)
        assert fault.witnesses == ("edac", "mc_event")
        assert fault.device == f"mc0/csrow{number}/channel{number}" and fault.count == 1
        assert fault.severity == ("uncorrected" if uncorrected else "corrected")
        assert fault.time_error_s == 1, "the driver looks each second"
        assert fault.detail["message"] == f"ie31200 {'UE' if uncorrected else 'CE'}"
        assert fault.detail.get("syndrome") == (None if uncorrected else "0x5a")
    time.sleep(WINDOW_S)
    assert len(faults(agent)) == 2


def test_an_error_that_only_a_machine_check_tells_of_is_a_fault_of_its_own(guest: Guest, agent: GuestAgent) -> None:
    guest.monitor(CORRECTED_IN_BANK9.format(address=0x1234500))
    fault = fresh_fault(agent, 2)
    assert (fault.device, fault.stream, fault.severity, fault.count) == ("socket0/bank9", "dram", "corrected", 1)
    assert fault.witnesses == ("mce_record",) and fault.time_error_s == 1, "check_interval is 1 s in this guest"
    assert fault.detail["address"] == "0x1234000" and fault.detail["kind"] == "memory"
    inject_into_cache(guest, 1)
    cache = fresh_fault(agent, 3)
    assert (cache.device, cache.stream, cache.severity) == ("socket0/cpu0/bank1", "sram", "corrected")
    assert counted(agent, "mc0") == in_sysfs(guest) == 2


def test_a_poisoned_page_is_a_further_witness(guest: Guest, agent: GuestAgent, state: Path) -> None:
    (state / "victim.py").write_text(VICTIM)
    printed = state / "address"
    printed.touch()
    guest.run(f"chroot /root /usr/bin/python3 {STATE}/victim.py > /root{STATE}/address 2>&1 3>&- &")
    address = int(eventually(printed.read_text))
    # The kernel takes the page out of use where it trusts the address (6.1 does); else we do, as administrators can.
    guest.run(f"{inject_once(9, DEFERRED_STATUS, address)}; echo {address:#x} > {OFFLINE} || true")
    fault = fresh_fault(agent, 4)
    assert (fault.device, fault.severity, fault.count) == ("socket0/bank9", "deferred", 1)
    assert set(fault.witnesses) == {"mce_record", "memory_failure_event"}
    assert fault.detail["address"] == hex(address) and fault.detail["page_recovery"] == "recovered"
    time.sleep(WINDOW_S)
    assert len(faults(agent)) == 5


def test_a_killed_agent_finds_the_events_of_its_absence_dated(guest: Guest, agent: GuestAgent) -> None:
    agent.kill()
    time.sleep(WINDOW_S)
    guest.bridge.inject(channel=0, rank=1, syndrome=0x3C)
    guest.bridge.wait_until_taken()
    time.sleep(3)
    agent.prepare()  # as a restart of the service would; it must leave the buffer alone
    agent.start(**SETTINGS)
    fault = next_fault(agent, 5)
    assert (fault.device, fault.witnesses) == ("mc0/csrow1/channel0", ("edac", "mc_event"))
    assert fault.detail["syndrome"] == "0x3c" and fault.time_error_s == 1
    assert agent.metrics()["flipwatch_trace_lost_events_total"] == 0


def test_events_that_somebody_read_and_did_not_keep_are_counted(guest: Guest, agent: GuestAgent) -> None:
    """As when the agent is killed between reading and writing its journal; here another reader takes one of them."""
    before = counted(agent)
    agent.kill()
    inject_into_cache(guest, 1)
    reads = "; ".join(f"timeout 2 cat {INSTANCE}/per_cpu/cpu{cpu}/trace_pipe_raw > /dev/null || true" for cpu in (0, 1))
    guest.run(reads)
    inject_into_cache(guest, 1)
    agent.start(**SETTINGS)
    assert agent.metrics()["flipwatch_trace_lost_events_total"] == 1
    eventually(lambda: counted(agent) == before + 1)
    assert "1 events were read and not kept" in guest.run(f"cat /root{STATE}/agent.log")


def test_a_storm_that_overruns_the_buffer_loses_events_but_no_count(guest: Guest, agent: GuestAgent) -> None:
    before, lost_before = faults(agent), agent.metrics()["flipwatch_trace_lost_events_total"]
    guest.run(f"kill -STOP {agent.pid}")
    guest.bridge.inject(channel=0, rank=0)
    guest.bridge.wait_until_taken()
    sent = 600
    inject_into_cache(guest, sent)
    guest.run(f"kill -CONT {agent.pid}")
    eventually(lambda: counted(agent, "mc0") == in_sysfs(guest))
    eventually(lambda: agent.metrics()["flipwatch_trace_lost_events_total"] > lost_before)
    new = faults(agent)[len(before) :]
    seen = sum(fault.count for fault in new if fault.stream == "sram")
    has_event = any("mc_event" in fault.witnesses for fault in new)
    lost = agent.metrics()["flipwatch_trace_lost_events_total"] - lost_before
    assert seen + lost + has_event == sent + 1, "each event is either seen or known to be lost"
    guest.bridge.inject(channel=1, rank=0)
    guest.bridge.wait_until_taken()
    eventually(lambda: counted(agent, "mc0") == in_sysfs(guest) == 5)
    assert faults(agent)[-1].witnesses == ("edac", "mc_event"), "after the storm events are seen again"
    log = guest.run(f"cat /root{STATE}/agent.log")
    assert "events were lost unread" in log and "Traceback" not in log


def test_without_the_instance_the_witness_is_absent_and_says_what_to_do(guest: Guest, agent: GuestAgent) -> None:
    agent.kill()
    guest.run(f"rmdir {INSTANCE}")
    agent.start(**SETTINGS)
    metrics = agent.metrics()
    assert metrics['flipwatch_source_up{source="tracefs"}'] == 0 and metrics['flipwatch_source_up{source="edac"}'] == 1
    assert not any(value for name, value in metrics.items() if name.startswith("flipwatch_ecc_blind"))
    log = guest.run(f"cat /root{STATE}/agent.log")
    assert "source tracefs is absent" in log and "flipwatch agent --prepare" in log
