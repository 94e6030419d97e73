"""What the doctor says of a machine, and its module's serial number: it reaches the fault, and another is a new part.

The two machines of the story differ in the serial of their only module. They run without QEMU's names and flags, so
that they pass for hardware.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.report import MemoryFault
from tests.agent.processes import eventually
from tests.kernel.conftest import PACKAGES
from tests.kernel.debian_kernel import ROOT, Kernel, unpacked
from tests.kernel.guest import Guest, started
from tests.kernel.guest_agent import GuestAgent

DEVICE = "mc0/csrow0/channel0"


HARDWARE = "max,-hypervisor"


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return unpacked(PACKAGES[0])  # one kernel will do: none of this differs between them


def examine(guest: Guest, expected_status: int) -> dict[str, Any]:
    """What `flipwatch doctor --json` says in the guest, which finds its kernel's modules and configuration."""
    root = guest.kernel.image.parents[1]
    guest.run(
        f"mkdir -p /root/lib/modules; ln -sfn {root}/lib/modules/{guest.kernel.release} /root/lib/modules;"
        f"cp /root{root}/boot/config-{guest.kernel.release} /root/boot"
    )
    doctor = f"cd {ROOT} && {sys.executable} -m flipwatch doctor --json"
    output = guest.run(f"chroot /root sh -c '{doctor}'; [ $? = {expected_status} ]")
    report: dict[str, Any] = json.loads(output)
    return report


def label_and_inject(guest: Guest) -> None:
    """As ras-mc-ctl --register-labels does, then one corrected error."""
    guest.load("ie31200_edac")
    guest.run("echo 'DIMM 0' > /sys/devices/system/edac/mc/mc0/csrow0/ch0_dimm_label")
    guest.bridge.inject(channel=0, rank=0)
    guest.bridge.wait_until_taken()


def serials(agent: GuestAgent) -> list[str]:
    faults = [fault for fault in agent.faults()[1] if isinstance(fault, MemoryFault)]
    return [str(fault.detail.get("serial")) for fault in faults if fault.device == DEVICE]


def check_blind(report: dict[str, Any]) -> None:
    assert report["is_alarm"] and report["machine"]["virtual"] is None
    assert report["machine"]["edac_drivers"] == {"amd64_edac": False, "ie31200_edac": False}, "by processor, by bridge"
    assert report["machine"]["options"]["EDAC"] == "y"
    assert "modprobe -a amd64_edac ie31200_edac" in report["advice"][0]
    (row,) = report["memory"]
    assert (row["slot"], row["devices"], row["part"]) == ("DIMM 0", [], "M393A4K40DB3-CWE")


def check_seeing(report: dict[str, Any]) -> None:
    assert not report["ecc_blind"]
    (row,) = [row for row in report["memory"] if row["slot"] == "DIMM 0"]
    assert (row["serial"], row["evidence"], row["errors"]) == ("0A1B2C3D", "label", {"corrected": 1})
    assert DEVICE in row["devices"]


def test_a_blind_machine_its_cure_and_a_part_that_is_replaced(kernel: Kernel, tmp_path: Path) -> None:
    metric = f'flipwatch_memory_errors_total{{device="{DEVICE}",severity="corrected",stream="dram"}}'
    state = tmp_path / "state"
    state.mkdir()
    with started(kernel, tmp_path / "first", state, cpu=HARDWARE) as guest:
        check_blind(examine(guest, expected_status=1))
        label_and_inject(guest)
        check_seeing(examine(guest, expected_status=0))
        agent = GuestAgent(guest).start()
        eventually(lambda: serials(agent) == ["0A1B2C3D"])
        agent.kill()
    with started(kernel, tmp_path / "second", state, cpu=HARDWARE, serial="4E5F6071") as guest:
        label_and_inject(guest)
        agent = GuestAgent(guest).start()
        eventually(lambda: serials(agent) == ["0A1B2C3D", "4E5F6071"])
        assert agent.metrics()[metric] == 1, "a new part begins at zero"
        agent.kill()
