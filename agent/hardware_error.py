"""Hardware errors as the kernel prints them: sections of a common platform error record (CPER), and machine checks.

Enters: lines of the kernel log. Leaves: Sections and LoggedChecks. Formats, with the spelling of every kernel since
5.10: drivers/firmware/efi/cper.c, drivers/acpi/apei/{ghes,bert}.c and arch/x86/kernel/cpu/mce/core.c of Linux; the
meaning of the fields: UEFI specification, appendix N.

    {7}[Hardware Error]: event severity: corrected        mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 9: 8c..
    {7}[Hardware Error]:  Error 0, type: corrected        mce: [Hardware Error]: TSC 0 ADDR 1234000 MISC 8c
    {7}[Hardware Error]:  fru_text: DIMM_B1               mce: [Hardware Error]: PROCESSOR 2:60fb1 TIME 1795453642 ..
    {7}[Hardware Error]:   section_type: memory error
    {7}[Hardware Error]:   node: 0 card: 1 module: 0 row: 77
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agent.machine_check import BANK_FIRMWARE, VENDORS, MachineCheck, decode, device_name
from checksum.printable import printable

CPER_LINE = re.compile(r"(\{\d{1,10}\})?\[Hardware Error\]: (.*)")  # the number tells blocks apart that are mixed up
SECTION_START = re.compile(r"Error \d+, type: (\w+)")
CARD_KEYS = ("node", "card", "module")
CHIP_KEYS = ("rank", "device", "bank", "bank_group", "bank_address", "row", "column", "bit_position", "chip_id")
LOCATION_KEYS = CARD_KEYS + CHIP_KEYS
LOCATION = re.compile(rf"({'|'.join(LOCATION_KEYS)}): ?(\d{{1,10}})(?= |$)")
ADDRESS = re.compile(r"0x[0-9a-f]{1,16}")
DMI_HANDLE = re.compile(r"not present\. DMI handle: (0x[0-9a-f]+)")
SEVERITY_OF = {"corrected": "corrected", "recoverable": "uncorrected", "fatal": "fatal"}  # "info" is no error
FIELDS = {
    "fru_text": "fru_text",
    "physical_address": "address",
    "error_type": "error_type",
    "error_status": "error_status",
    "DIMM location": "dimm_location",
    "processor_id": "processor_id",
    "level": "level",
}
CACHE_OR_TLB = 3  # bits of a general processor error's error_type
VALUE_CHARACTERS_MAX = 64

LEFTOVERS_US = 60 * 10**6  # leftover banks are logged once the processors are up; later ones are the live errors
MCE_PREFIX = "mce: [Hardware Error]: "
MCE_START = re.compile(r"CPU (\d{1,6}): Machine Check( Exception)?: [0-9a-f]+ Bank (\d{1,3}): ([0-9a-f]{1,16})$")
MCE_REGISTER = re.compile(r"\b(ADDR|MISC|IPID) ([0-9a-f]{1,16})\b")
MCE_PROCESSOR = re.compile(r"PROCESSOR (\d{1,3}):[0-9a-f]+ TIME (\d{1,12}) SOCKET (\d{1,6})")
PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
DMESG_TIME = re.compile(r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[[^\]]*\])? ")


@dataclass(frozen=True, slots=True)
class Section:
    """What one section of a CPER, or one machine-check bank, tells of memory, a cache or a processor."""

    severity: str
    stream: str
    device: str
    label: str
    detail: dict[str, Any]
    count: int = 1


@dataclass(frozen=True, slots=True)
class LoggedCheck:
    """One machine-check bank. `time_s` is 0 where the lines with it are missing."""

    cpu: int
    bank: int
    status: int
    is_exception: bool
    addr: int = 0
    misc: int = 0
    ipid: int = 0
    vendor: str = ""
    time_s: int = 0
    socket: int | None = None

    def decoded(self) -> MachineCheck:
        return decode(self.status, addr=self.addr, misc=self.misc, vendor=self.vendor, bank=self.bank, ipid=self.ipid)

    def section(self) -> Section:
        """The same in the words of a record."""
        check = self.decoded()
        detail: dict[str, Any] = {"status": f"{self.status:#x}", "kind": check.kind}
        if check.address is not None:
            detail["address"] = f"{check.address:#x}"
        if check.is_floor:
            detail["is_floor"] = True
        device = device_name(check, self.socket, self.cpu, self.bank)
        return Section(check.severity, check.stream, device, "", detail, check.count)

    @property
    def is_leftover(self) -> bool:
        """Whether the boot before left it, if it stands in the log before LEFTOVERS_US: a reset empties no bank.

        Corrected errors may be of this boot already.
        """
        return not self.is_exception and self.bank != BANK_FIRMWARE and self.decoded().severity != "corrected"


# --- common platform error records ---------------------------------------------------------------------------------


def sections(lines: Iterable[str]) -> Iterator[Section]:
    """The errors in the lines of one record, given without prefix; sections of other hardware are left out."""
    severity = ""
    fields: dict[str, str] = {}
    for line in map(str.strip, lines):
        start = SECTION_START.fullmatch(line)
        if start is not None:
            yield from section(severity, fields)
            severity, fields = start[1], {}
        elif "DIMM location" not in line and LOCATION.match(line):
            fields |= dict(LOCATION.findall(line))
        else:
            key, _, value = line.partition(": ")
            fields[key] = value
    yield from section(severity, fields)


def section(severity: str, fields: dict[str, str]) -> Iterator[Section]:
    """One section by its fields, named as in the kernel's text; nothing if it's no error of memory or a processor."""
    kind = fields.get("section_type", "")
    if severity not in SEVERITY_OF or kind not in ("memory error", "general processor error"):
        return
    detail = {name: _plain(fields[key]) for key, name in FIELDS.items() if fields.get(key)}
    detail |= {key: fields[key] for key in LOCATION_KEYS if key in fields}
    if not ADDRESS.fullmatch(detail.get("address", "")):
        detail.pop("address", None)
    handle = DMI_HANDLE.fullmatch(detail.get("dimm_location", ""))
    if handle is not None:
        del detail["dimm_location"]
        detail["dmi_handle"] = handle[1]
    stream = "dram" if kind == "memory error" else _processor_stream(detail.get("error_type", ""))
    device = _memory_device(detail) if stream == "dram" else f"cpu/{detail.get('processor_id', 'unknown')}"
    # The location is the kernel's, out of the firmware's table of modules, and the text the firmware's for people.
    label = detail.get("dimm_location", "") or detail.get("fru_text", "")
    yield Section(SEVERITY_OF[severity], stream, device, label, detail)


def _memory_device(detail: dict[str, str]) -> str:
    """What can be replaced, by the most telling name that the firmware gives it."""
    for name, prefix in {"fru_text": "fru", "dimm_location": "dimm", "dmi_handle": "dmi"}.items():
        if detail.get(name):
            return f"{prefix}/{detail[name]}"
    return "/".join(f"{key}{detail[key]}" for key in CARD_KEYS if key in detail) or "memory/unknown"


def _processor_stream(error_type: str) -> str:
    bits = re.fullmatch(r"0x([0-9a-f]{1,8})", error_type)
    return "sram" if bits is not None and int(bits[1], 16) & CACHE_OR_TLB else "core"


def _plain(value: str) -> str:
    return printable(value.strip())[:VALUE_CHARACTERS_MAX]


# --- machine checks ------------------------------------------------------------------------------------------------


def machine_checks(lines: Iterable[str]) -> Iterator[LoggedCheck]:
    """The banks that the lines (of /dev/kmsg, or of a dmesg with its time stamps) tell of, in their order."""
    fields: dict = {}
    for line in lines:
        text = DMESG_TIME.sub("", line, count=1)
        if not text.startswith(MCE_PREFIX):
            continue
        text = text.removeprefix(MCE_PREFIX).strip()
        start = MCE_START.fullmatch(text)
        if start is not None:
            if fields:
                yield LoggedCheck(**fields)
            cpu, exception, bank, status = start.groups()
            fields = {"cpu": int(cpu), "bank": int(bank), "status": int(status, 16), "is_exception": bool(exception)}
        elif fields:
            fields |= {name.lower(): int(value, 16) for name, value in MCE_REGISTER.findall(text)}
            fields |= _processor(text)
    if fields:
        yield LoggedCheck(**fields)


def _processor(text: str) -> dict:
    found = MCE_PROCESSOR.match(text)
    if found is None:
        return {}
    return {"vendor": VENDORS.get(int(found[1]), ""), "time_s": int(found[2]), "socket": int(found[3])}


def panic(lines: Iterable[str]) -> str | None:
    """Why the kernel gave up, if it did."""
    for line in lines:
        found = PANIC.fullmatch(DMESG_TIME.sub("", line, count=1).strip())
        if found is not None:
            return _plain(found[1])
    return None
