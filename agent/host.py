"""The host's facts: what it is, when it started, how loaded and how warm it is.

Enters: where sysfs and procfs are mounted. Leaves: plain values; a fact that can't be read is absent. psutil reads boot
time, load and temperatures.
"""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from agent import kernel_files
from agent.observation import Moment
from checksum.printable import printable

FACT_CHARACTERS_MAX = 256
PROCESSOR_BYTES_MAX = 8192  # more than the first processor takes
CELSIUS_MIN, CELSIUS_MAX = -55, 150  # what sensors on a board can measure; 255 and -273 stand for none
ON_DIMMS, ON_PROCESSORS = ("jc42", "spd5118"), ("coretemp", "k10temp", "zenpower", "cpu_thermal")
CHIPS_BESIDE = {"dram": ON_DIMMS, "canary": ON_DIMMS, "sram": ON_PROCESSORS, "core": ON_PROCESSORS}

# Words in the firmware's vendor and product names that only virtual machines have, but for METAL. On processors without
# a flag that says so (arm64) they are all there is. After systemd, src/basic/virt.c.
VIRTUAL_NAMES = (
    *("qemu", "kvm", "vmware", "virtualbox", "virtual machine", "hvm domu", "bochs", "google compute engine"),
    *("amazon ec2", "openstack", "kubevirt", "parallels", "bhyve", "apple virtualization", "hetzner vserver"),
)
METAL = ".metal"  # in the product names of Amazon's machines that aren't virtual


@dataclass(frozen=True, slots=True)
class Temperature:
    chip: str
    sensor: str
    celsius: float


def now(proc: Path) -> Moment:
    """The moment: the wall clock, the clock since boot, and which boot it is.

    Raises:
        OSError: the boot id can't be read.
    """
    return Moment(
        time_ns=time.time_ns(),
        boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        boot_id=(proc / "sys/kernel/random/boot_id").read_text().strip(),
    )


def facts(sysfs: Path, proc: Path) -> dict[str, str]:
    """What the victims of a burst may share: kernel, firmware, microcode and processor model."""
    found = {"kernel": platform.release()}
    for name, file in {"bios": "bios_version", "vendor": "sys_vendor", "product": "product_name"}.items():
        text = _first_line(sysfs / "class/dmi/id" / file)
        if text:
            found[name] = text
    processor = dict(_first_processor(proc / "cpuinfo"))
    for name, key in {"microcode": "microcode", "cpu": "model name"}.items():
        if key in processor:
            found[name] = processor[key]
    return found


def virtual(sysfs: Path, proc: Path, facts: Mapping[str, Any]) -> str | None:
    """What this machine is a guest of; None: it's hardware. `facts` are those of `facts`."""
    if "control_d" in _first_line(proc / "xen/capabilities"):  # the domain that owns the hardware
        return None
    names = f"{facts.get('vendor', '')} {facts.get('product', '')}".strip()
    flags = dict(_first_processor(proc / "cpuinfo")).get("flags", "").split()
    hypervisor = _first_line(sysfs / "hypervisor/type") or _first_line(proc / "device-tree/hypervisor/compatible")
    is_named = any(word in names.casefold() for word in VIRTUAL_NAMES) and METAL not in names
    if "hypervisor" in flags or hypervisor or is_named:
        return hypervisor or names or "an unnamed hypervisor"
    return None


def boot_time_s() -> float:
    """When the machine started, in seconds since 1970."""
    return float(psutil.boot_time())


def load() -> tuple[float, float, float]:
    """The load averages over 1, 5 and 15 minutes."""
    return psutil.getloadavg()


def temperatures() -> list[Temperature]:
    """What the machine's sensors say; a virtual machine has none."""
    try:
        chips = psutil.sensors_temperatures()
    except (OSError, ValueError):  # half-working drivers return errors or nonsense
        return []
    return [
        Temperature(chip, entry.label or f"{chip}{number}", entry.current)
        for chip, entries in chips.items()
        for number, entry in enumerate(entries)
    ]


def hottest(stream: str) -> Temperature | None:
    """The hottest sensor beside the parts of a stream, or of the whole machine where none sits there."""
    plausible = [entry for entry in temperatures() if CELSIUS_MIN < entry.celsius < CELSIUS_MAX]
    beside = [entry for entry in plausible if entry.chip in CHIPS_BESIDE.get(stream, ())]
    return max(beside or plausible, key=lambda entry: entry.celsius, default=None)


def machine_id(file: Path) -> str:
    """Which machine this is; a machine without an id is "", and then a cloned disk can't be noticed."""
    return _first_line(file)


def name() -> str:
    return os.uname().nodename


def _first_line(file: Path) -> str:
    return printable(kernel_files.first_line(file))[:FACT_CHARACTERS_MAX]


def _first_processor(file: Path) -> Iterator[tuple[str, str]]:
    for line in kernel_files.text(file, PROCESSOR_BYTES_MAX).splitlines():
        if not line.strip():
            return
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()
