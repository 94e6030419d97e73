"""The serial number in the firmware's table reaches the fault, and another one after a reboot is another part."""

from pathlib import Path

from agent.report import MemoryFault
from tests.agent.processes import eventually
from tests.kernel.debian_kernel import Kernel
from tests.kernel.guest import Guest, started
from tests.kernel.guest_agent import GuestAgent

DEVICE = "mc0/csrow0/channel0"


def label_and_inject(guest: Guest) -> None:
    """As ras-mc-ctl --register-labels does, then one corrected error."""
    guest.load("ie31200_edac")
    guest.run("echo 'DIMM 0' > /sys/devices/system/edac/mc/mc0/csrow0/ch0_dimm_label")
    guest.bridge.inject(channel=0, rank=0)
    guest.bridge.wait_until_taken()


def serials(agent: GuestAgent) -> list[str]:
    faults = [fault for fault in agent.faults()[1] if isinstance(fault, MemoryFault)]
    return [str(fault.detail.get("serial")) for fault in faults if fault.device == DEVICE]


def test_a_part_and_its_replacement(kernel: Kernel, tmp_path: Path) -> None:
    metric = f'flipwatch_memory_errors_total{{device="{DEVICE}",severity="corrected",stream="dram"}}'
    state = tmp_path / "state"
    state.mkdir()
    for number, serial in enumerate(("0A1B2C3D", "4E5F6071"), 1):
        with started(kernel, tmp_path / serial, state, serial=serial) as guest:
            label_and_inject(guest)
            agent = GuestAgent(guest).start()
            eventually(lambda: len(serials(agent)) == number)  # noqa: B023
            assert serials(agent)[-1] == serial
            assert agent.metrics()[metric] == 1, "a new part begins at zero"
            agent.kill()
