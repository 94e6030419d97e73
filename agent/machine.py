"""What decides whether this machine's memory errors can be seen: hardware or virtual, the kernel's options, drivers.

Enters: where sysfs, procfs, the boot partition and the kernel's modules are. Leaves: plain values; what can't be read
is None or absent. Only the doctor asks.
"""

import contextlib
import gzip
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from agent import host
from agent.kernel_files import text

CONFIG_BYTES_MAX = 4 << 20
BUILT_IN_BYTES_MAX = 16 << 20
NO_COLLECTOR = "ras=cec_disable"  # on the kernel's command line
OPTIONS = ("EDAC", "EDAC_GHES", "RAS_CEC")  # of the kernel's configuration: those that the doctor has a word on


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    virtual: str | None  # what it is a guest of; None: it's hardware
    kernel: str
    options: dict[str, str] | None = None  # "y", "m" or "n"; None: the kernel's configuration isn't to be found
    drivers: tuple[str, ...] = ()  # EDAC drivers of this kernel that say they fit this hardware
    loaded: tuple[str, ...] = ()  # those of them that are loaded or built in
    has_collector: bool = False  # the kernel's collector of corrected errors (CONFIG_RAS_CEC) is there and not disabled
    is_firmware_first: bool = False  # the firmware takes hardware errors and tells the kernel what it likes
    facts: dict[str, str] = field(default_factory=dict)  # agent.host.facts


def look(sysfs: Path, proc: Path, boot: Path, modules: Path, facts: dict[str, str]) -> Machine:
    """This machine; `modules` is the directory of the running kernel's modules, named like its release."""
    built_in = set(_fitting(sysfs, _built_in_aliases(modules / "modules.builtin.modinfo")))
    drivers = tuple(sorted(built_in | set(_fitting(sysfs, _module_aliases(modules / "modules.alias")))))
    options = _options(boot / f"config-{modules.name}", proc / "config.gz")
    is_collecting = options is not None and options["RAS_CEC"] == "y"
    return Machine(
        virtual=host.virtual(sysfs, proc, facts),
        kernel=modules.name,
        options=options,
        drivers=drivers,
        loaded=tuple(name for name in drivers if name in built_in or (sysfs / "module" / name).exists()),
        has_collector=is_collecting and NO_COLLECTOR not in text(proc / "cmdline").split(),
        is_firmware_first=(sysfs / "firmware/acpi/tables/HEST").exists(),
        facts=facts,
    )


def check_interval_s(sysfs: Path) -> int | None:
    """How often the kernel looks for machine checks that raise no interrupt; None where it doesn't say."""
    seconds = text(sysfs / "devices/system/machinecheck/machinecheck0/check_interval").strip()
    return int(seconds) if seconds.isdecimal() else None  # the kernel prints seconds, in decimal


def _options(*files: Path) -> dict[str, str] | None:
    """From the first of the files that can be read; an option that stands in none of its lines is "n"."""
    for file in files:
        try:
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
                config = stream.read(CONFIG_BYTES_MAX).decode("utf-8", "replace")
        except (OSError, EOFError):
            continue
        found = dict(re.findall(r"^CONFIG_(\w+)=([ym])$", config, re.M))
        return {name: found.get(name, "n") for name in OPTIONS}
    return None


def _fitting(sysfs: Path, aliases: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The EDAC drivers whose aliases, (pattern, driver), match a device of this machine, as udev would find them."""
    devices = set(_device_aliases(sysfs))
    for pattern, driver in aliases:
        if "edac" in driver and any(fnmatchcase(device, pattern) for device in devices):
            yield driver


def _module_aliases(file: Path) -> Iterator[tuple[str, str]]:
    """Lines of `alias PATTERN DRIVER`."""
    with contextlib.suppress(OSError), file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if len(words) == 3:
                yield words[1], words[2]


def _built_in_aliases(file: Path) -> Iterator[tuple[str, str]]:
    """Entries of `DRIVER.alias=PATTERN`, each ended by a zero byte."""
    for entry in text(file, BUILT_IN_BYTES_MAX).split("\0"):
        driver, _, pattern = entry.partition(".alias=")
        if pattern:
            yield pattern, driver


def _device_aliases(sysfs: Path) -> Iterator[str]:
    files = [sysfs / "devices/system/cpu/modalias"]
    for bus in ("pci", "acpi", "platform"):
        files += sorted((sysfs / "bus" / bus / "devices").glob("*/modalias"))
    for file in files:
        yield from filter(None, [text(file).strip()])
