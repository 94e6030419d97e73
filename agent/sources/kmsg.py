"""The kernel log: what firmware reported, which stands in full only there, and machine checks that nobody else sees.

Enters: the kernel log, /dev/kmsg, the sysfs root, whether another source sees machine checks, this source's cursor and
the moment. Leaves: a Poll. What is counted is only what no other source counts:

    a CPER block ({7}[Hardware Error]: ..) of memory or a processor      one fault per section, on the device it names
    mce: [Hardware Error]: .., which nothing in the kernel handled       nothing where another source sees them, else
                                                                         one fault per bank; those that were left from
                                                                         the boot before are the last words of that
    either, of memory, on a host with an EDAC memory controller          nothing: EDAC counts it
    EDAC MC0: .., [Hardware Error]: ..                                   nothing: EDAC counts it

All counts are floors. Firmware reports from a threshold on, and the kernel prints neither what it printed 10 s ago nor
more than a few corrected errors in 5 s; it says "N callbacks suppressed", and that is passed on as trouble, as are
records that were overwritten before they could be read. A host isn't watched by its log: no fault here is novel.

The kernel's own time stamps drift and stand still while the machine sleeps, so the agent's clock alone decides when a
block is complete, and the time error is the time since the last poll that saw nothing of it. The cursor: "boot_id";
"open", the blocks that may not be complete yet; "polled", which holds the next record's number too, because lines that
brought nothing may be read twice.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from agent import dram_place
from agent.hardware_error import (
    CPER_LINE,
    LEFTOVERS_US,
    MCE_PREFIX,
    MCE_START,
    Section,
    machine_checks,
    sections,
)
from agent.kernel_log import KernelLog, Record
from agent.machine_check import BANK_FIRMWARE
from agent.observation import Device, Moment, Observation, Poll

RECORDS_MAX = 5_000  # of one poll; what is left over is there at the next one
BLOCK_LINES_MAX = 128
ADDRESSES_MAX = 8
PRINTED_NS = 10**9  # a block is printed in one go; after this time nothing more of it comes
SUPPRESSED = re.compile(r"\w*ghes\w*: (\d{1,10}) callbacks suppressed")
OF_CHECK = "mce"  # begins the names of blocks that are machine checks


@dataclass(frozen=True, slots=True)
class _Error:
    """What a block tells of; `since_ns` is the boot-time clock when the log held nothing of it."""

    section: Section
    since_ns: int


def poll(log: KernelLog, device: Path, sysfs: Path, cursor: dict[str, Any], now: Moment, *, takes_checks: bool) -> Poll:
    """What came into the log since the last poll; a log that isn't there, or closed to us, makes the source absent."""
    is_same_boot = cursor.get("boot_id") == now.boot_id
    polled = cursor["polled"] if is_same_boot else {"seq": 0, "boottime_ns": 0}
    reading = _Reading(cursor["open"] if is_same_boot else {}, polled["boottime_ns"], now, takes_checks=takes_checks)
    try:
        reading.read(log, device, polled["seq"])
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return Poll(cursor=cursor, absent=f"there is no {device}")
        if error.errno in (errno.EPERM, errno.EACCES):
            return Poll(cursor=cursor, absent=f"{device} may not be read; CAP_SYSLOG would allow it")
        return Poll(cursor=cursor, trouble=(f"{device}: {error.strerror}",))
    found = [error for name, block in reading.complete() for error in _errors(name, block)]
    if found and any((sysfs / "devices/system/edac/mc").glob("mc[0-9]*")):
        found = [error for error in found if error.section.stream != "dram"]
    return Poll(
        cursor={
            "boot_id": now.boot_id,
            "open": reading.open,
            "polled": {"seq": reading.next_seq, "time_ns": now.time_ns, "boottime_ns": now.boottime_ns},
        },
        observations=tuple(_observations(found, now)),
        devices=tuple(Device(stream=e.section.stream, name=e.section.device, label=e.section.label) for e in found),
        trouble=tuple(reading.trouble(device, is_first=not cursor)),
        is_unfinished=bool(reading.open),
    )


class _Reading:
    """One poll's lines, put together into blocks by name.

    A block: {"since_ns": when the log held nothing of it, "read_ns": when its last line was read, both on the boot-time
    clock; "is_early": whether it began in the log's first minute; "lines": [..]}.
    """

    def __init__(self, blocks: dict[str, Any], polled_ns: int, now: Moment, *, takes_checks: bool) -> None:
        self.open = dict(blocks)
        self.next_seq = 0
        self._polled_ns, self._now_ns = polled_ns, now.boottime_ns
        self._takes_checks = takes_checks
        self._check = next((name for name in reversed(self.open) if name.startswith(OF_CHECK)), "")
        self._overwritten = 0
        self._suppressed = 0

    def read(self, log: KernelLog, device: Path, seq: int) -> None:
        self.next_seq = seq
        for number, record in enumerate(log.records(device, seq), 1):
            self._overwritten += record.seq - self.next_seq
            self.next_seq = record.seq + 1
            self._take_in(record)
            if number == RECORDS_MAX:
                break

    def _take_in(self, record: Record) -> None:
        line = CPER_LINE.fullmatch(record.text)
        if line is not None and line[1]:
            self._add(line[1], line[2], record)
            return
        if self._takes_checks and record.text.startswith(MCE_PREFIX):
            if MCE_START.fullmatch(record.text.removeprefix(MCE_PREFIX).strip()):
                self._check = f"{OF_CHECK}{record.seq}"
            if self._check:
                self._add(self._check, record.text, record)
            return
        suppressed = SUPPRESSED.fullmatch(record.text)
        if suppressed is not None:
            self._suppressed += int(suppressed[1])

    def _add(self, name: str, line: str, record: Record) -> None:
        new = {"since_ns": self._polled_ns, "is_early": record.time_us <= LEFTOVERS_US, "lines": []}
        block = self.open.get(name, new)
        self.open[name] = {**block, "read_ns": self._now_ns, "lines": [*block["lines"], line][:BLOCK_LINES_MAX]}

    def complete(self) -> list[tuple[str, dict[str, Any]]]:
        """Takes out the blocks that won't grow, oldest first, with their names."""
        done = [name for name, block in self.open.items() if self._now_ns - block["read_ns"] >= PRINTED_NS]
        return [(name, self.open.pop(name)) for name in done]

    def trouble(self, device: Path, *, is_first: bool) -> Iterable[str]:
        if self._overwritten and not is_first:  # before the first poll nobody was there to miss anything
            yield f"{device}: {self._overwritten} records were overwritten before they could be read"
        if self._suppressed:
            yield f"{device}: the kernel left out {self._suppressed} error records, it is told so many at once"


def _errors(name: str, block: dict[str, Any]) -> Iterator[_Error]:
    if not name.startswith(OF_CHECK):
        yield from (_Error(section, block["since_ns"]) for section in sections(block["lines"]))
        return
    for check in machine_checks(block["lines"]):
        # what firmware reported stands in the log as a record of its own
        if check.bank != BANK_FIRMWARE and not (block["is_early"] and check.is_leftover):
            yield _Error(check.section(), block["since_ns"])


def _observations(found: list[_Error], now: Moment) -> Iterable[Observation]:
    """One per device and severity: how many, and where; the detail is the first one's."""
    groups: dict[tuple[str, str, str], list[_Error]] = {}
    for error in found:
        section = error.section
        groups.setdefault((section.stream, section.device, section.severity), []).append(error)
    for (stream, device, severity), group in groups.items():
        details = [error.section.detail for error in group]
        detail = reduce(dram_place.with_places, details)
        addresses = list(dict.fromkeys(each["address"] for each in details if "address" in each))
        several = {"addresses": addresses[:ADDRESSES_MAX]} if len(addresses) > 1 else {}
        yield Observation(
            device=device,
            stream=stream,
            severity=severity,
            count=sum(error.section.count for error in group),
            time_error_s=(now.boottime_ns - min(error.since_ns for error in group)) / 1e9,
            epoch=now.boot_id,
            detail={**detail, **several, "is_floor": True},
        )
