"""Debian's rasdaemon in a guest, with machine checks that it is told of through the kernel's trace events.

As packaged it records none of them, and that is said; with buffer_percent at 0 its rows become faults. The agent that
follows them is kept from listening to the same events itself. The tests share one guest and run in order.
"""

import time

import pytest

from agent.report import MemoryFault
from tests.agent.processes import eventually
from tests.kernel.guest import STATE, Guest
from tests.kernel.guest_agent import GuestAgent

CORRECTED = "0x8c00004000010090"
INSTANCE = "/sys/kernel/tracing/instances/rasdaemon"
IS_UP = 'flipwatch_source_up{source="rasdaemon"}'


def start_rasdaemon(guest: Guest) -> None:
    guest.run("chroot /root /usr/sbin/rasdaemon --foreground --record > /root/run/rasdaemon.log 2>&1 3>&- &")
    eventually(lambda: "Recording mce_record" in guest.run("cat /root/run/rasdaemon.log"))


def inject(guest: Guest, number: int) -> None:
    """A corrected error; the kernel polls the banks each second, and a bank holds one error."""
    guest.monitor(f"mce 0 9 {CORRECTED} 0x0 {0x1234000 + number * 4096:#x} 0x8c")
    time.sleep(1.5)


def recorded(agent: GuestAgent) -> list[MemoryFault]:
    """The faults that rasdaemon witnesses."""
    faults = agent.faults()[1]
    return [fault for fault in faults if isinstance(fault, MemoryFault) and "rasdaemon" in fault.witnesses]


@pytest.fixture(scope="module")
def host(guest: Guest) -> Guest:
    """With a place for rasdaemon's database."""
    guest.run("mkdir -p /root/var/lib/rasdaemon")
    return guest


def test_a_packaged_rasdaemon_that_records_nothing_is_named(host: Guest) -> None:
    start_rasdaemon(host)
    agent = GuestAgent(host).start(state_dir=f"{STATE}/packaged")
    assert agent.metrics()[IS_UP] == 1
    inject(host, 0)
    eventually(lambda: agent.metrics()[IS_UP] == 0)
    sentences = [line for line in host.run(f"cat /root{STATE}/agent.log").splitlines() if "records nothing" in line]
    assert len(sentences) == 1 and f"echo 0 > {INSTANCE}/buffer_percent" in sentences[0]
    assert recorded(agent) == []
    agent.kill()
    host.run("killall rasdaemon; while pidof rasdaemon; do sleep 0.1; done")


def test_its_rows_become_faults(host: Guest) -> None:
    host.run(f"rmdir {INSTANCE}; mkdir {INSTANCE}; echo 0 > {INSTANCE}/buffer_percent")  # as the sentence says
    start_rasdaemon(host)
    agent = GuestAgent(host).start(state_dir=f"{STATE}/followed", tracefs="/nowhere")
    for number in range(2):
        inject(host, number)
        eventually(lambda: len(recorded(agent)) > number)  # noqa: B023
    for fault in recorded(agent):
        assert (fault.device, fault.stream, fault.severity) == ("socket0/bank9", "dram", "corrected")
        assert fault.witnesses == ("rasdaemon",) and fault.count == 1 and fault.time_error_s < 10
        assert fault.detail["status"] == CORRECTED
    agent.kill()
    inject(host, 2)
    agent.start(state_dir=f"{STATE}/followed", tracefs="/nowhere")
    eventually(lambda: len(recorded(agent)) == 3)
    time.sleep(2.5)  # two more polls, in which nothing may be counted again
    assert [fault.count for fault in recorded(agent)] == [1, 1, 1]
    agent.kill()
