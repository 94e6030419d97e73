"""Firmware-first hosts: the error records that firmware hands to the kernel, which stand in full only in its log.

Enters: the kernel log, /dev/kmsg, the sysfs root, this source's cursor and the moment. Leaves: a Poll. What is counted
is only what no other source counts:

    a CPER block ({7}[Hardware Error]: ..) of memory or a processor      one fault per section, on the device it names
    the same on a host with an EDAC memory controller                    nothing: EDAC counts it
    mce: [Hardware Error]: .., EDAC MC0: .., [Hardware Error]: ..        nothing: machine-check events and EDAC count it

All counts are floors. Firmware reports from a threshold on, and the kernel prints neither what it printed 10 s ago nor
more than a few corrected errors in 5 s; it says "N callbacks suppressed", and that is passed on as trouble, as are
records that were overwritten before they could be read. A host isn't watched by its log: no fault here is novel.

The cursor: "boot_id"; "open", the lines of blocks that may not be complete yet, by their number; "polled", which holds
the next record's number too, because lines that brought nothing may be read twice. The kernel's own time stamps drift
and stand still while the machine sleeps, so the time error is the time since the previous poll.
"""

import errno
import re
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

from agent import dram_place
from agent.hardware_error import CPER_LINE, Section, sections
from agent.kernel_log import KernelLog
from agent.observation import Device, Moment, Observation, Poll

RECORDS_MAX = 5_000  # of one poll; what is left over is there at the next one
BLOCK_LINES_MAX = 128
ADDRESSES_MAX = 8
PRINTED_S = 1.0  # a block is printed in one go; after this time nothing more of it comes
SUPPRESSED = re.compile(r"\w*ghes\w*: (\d{1,10}) callbacks suppressed")


def poll(log: KernelLog, device: Path, sysfs: Path, cursor: dict[str, Any], now: Moment) -> Poll:
    """What came into the log since the last poll; a log that isn't there, or closed to us, makes the source absent."""
    is_same_boot = cursor.get("boot_id") == now.boot_id
    reading = _Reading(cursor["open"] if is_same_boot else {}, now)
    polled = cursor["polled"] if is_same_boot else {"seq": 0, "boottime_ns": 0}
    try:
        reading.read(log, device, polled["seq"])
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return Poll(cursor=cursor, absent=f"there is no {device}")
        if error.errno in (errno.EPERM, errno.EACCES):
            return Poll(cursor=cursor, absent=f"{device} may not be read; CAP_SYSLOG would allow it")
        return Poll(cursor=cursor, trouble=(f"{device}: {error.strerror}",))
    found = [section for block in reading.complete() for section in sections(block)]
    if any((sysfs / "devices/system/edac/mc").glob("mc[0-9]*")):
        found = []
    return Poll(
        cursor={
            "boot_id": now.boot_id,
            "open": reading.open,
            "polled": {"seq": reading.next_seq, "time_ns": now.time_ns, "boottime_ns": now.boottime_ns},
        },
        observations=tuple(_observations(found, (now.boottime_ns - polled["boottime_ns"]) / 1e9, now)),
        devices=tuple(Device(stream=s.stream, name=s.device, label=s.label) for s in found),
        trouble=tuple(reading.trouble(device, is_first=not cursor)),
    )


class _Reading:
    """One poll's lines, put together into blocks. A block: {"time_us": of its last line, "lines": [..]}."""

    def __init__(self, blocks: dict[str, Any], now: Moment) -> None:
        self.open = dict(blocks)
        self.next_seq = 0
        self._now_us = now.boottime_ns // 1000
        self._overwritten = 0
        self._suppressed = 0

    def read(self, log: KernelLog, device: Path, seq: int) -> None:
        self.next_seq = seq
        for number, record in enumerate(log.records(device, seq), 1):
            self._overwritten += record.seq - self.next_seq
            self.next_seq = record.seq + 1
            self._take_in(record.time_us, record.text)
            if number == RECORDS_MAX:
                break

    def _take_in(self, time_us: int, text: str) -> None:
        line = CPER_LINE.fullmatch(text)
        if line is not None and line[1]:
            lines = self.open.get(line[1], {"lines": []})["lines"]
            self.open[line[1]] = {"time_us": min(time_us, self._now_us), "lines": [*lines, line[2]][:BLOCK_LINES_MAX]}
            return
        suppressed = SUPPRESSED.fullmatch(text)
        if suppressed is not None:
            self._suppressed += int(suppressed[1])

    def complete(self) -> list[list[str]]:
        """Takes out the blocks that won't grow, oldest first."""
        printed_us = self._now_us - int(PRINTED_S * 1e6)
        done = [number for number, block in self.open.items() if block["time_us"] <= printed_us]
        return [self.open.pop(number)["lines"] for number in done]

    def trouble(self, device: Path, *, is_first: bool) -> Iterable[str]:
        if self._overwritten and not is_first:  # before the first poll nobody was there to miss anything
            yield f"{device}: {self._overwritten} records were overwritten before they could be read"
        if self._suppressed:
            yield f"{device}: the kernel left out {self._suppressed} error records, it is told so many at once"


def _observations(found: list[Section], time_error_s: float, now: Moment) -> Iterable[Observation]:
    """One per device and severity: how many, and where; the detail is the first one's."""
    groups: dict[tuple[str, str, str], list[Section]] = {}
    for section in found:
        groups.setdefault((section.stream, section.device, section.severity), []).append(section)
    for (stream, device, severity), group in groups.items():
        addresses = list(dict.fromkeys(s.detail["address"] for s in group if "address" in s.detail))
        detail = reduce(dram_place.with_places, (section.detail for section in group))
        several = {"addresses": addresses[:ADDRESSES_MAX]} if len(addresses) > 1 else {}
        yield Observation(
            device=device,
            stream=stream,
            severity=severity,
            count=len(group),
            time_error_s=time_error_s,
            epoch=now.boot_id,
            detail={**detail, **several, "is_floor": True},
        )
