"""The error that killed the host: what the previous boot left behind, told once, at the first poll of the next one.

Enters: the places below, this source's cursor and the moment. Leaves: a Poll.

    the agent's own cursor            a boot that ended without a clean stop of the agent: a fault of stream "host"
    pstore, and systemd's copy of it  dmesg-*: the panic and its machine checks; mce-*: struct mce, as ERST keeps it
    the kernel log's first minute     "BERT: Error records from previous boot" (the firmware's own, read from its region
                                      where they are too long to be printed), and machine-check banks that were still
                                      full: the reset that follows a fatal error keeps them, and the kernel logs them;
                                      corrected ones may be of this boot already, and are left to the live witnesses

A host's death is dated to the last heartbeat in the journal; it came after that, at most `time_error_s` later unless
the agent was silent already. `detail` names the evidence, or that there is none (power, a watchdog, a hung kernel).
Machine checks and BERT sections are faults of their own: those that weren't corrected are fatal, for the host did not
survive. An agent that is killed and comes back in the same boot is no death. If the agent was stopped cleanly and the
host died afterwards, nothing can be known, unless pstore holds the panic.

What can't be read (pstore is root's) is named in the evidence and is no trouble. Nothing is ever deleted. pstore may
hold the same record for years, and systemd-pstore puts the parts of one together again, so the cursor's "seen"
remembers files by their content and machine checks by what they say. Its other keys: "boot_id"; "is_stopped", set at a
clean stop; "polled", the last heartbeat.
"""

import hashlib
import itertools
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import error_record
from agent.hardware_error import CPER_LINE, LEFTOVERS_US, LoggedCheck, Section, machine_checks, panic, sections
from agent.kernel_log import KernelLog
from agent.machine_check import VENDORS
from agent.mounts import mount_of
from agent.observation import NOT_CORRECTED, Device, FirstSight, Gap, Moment, Observation, Poll

HOST = Device(stream="host", name="host")
SECOND_NS = 10**9
STAMP_TOLERANCE_NS = 2 * SECOND_NS  # pstore's back ends stamp whole seconds
UNKNOWN_S = 365 * 86400.0  # how old something may be that happened before the journal began
RECORDS_MAX, FILES_MAX, FILE_BYTES_MAX = 4096, 64, 1 << 20
SEEN_MAX = 256
EVIDENCE_MAX = 8
BERT_START, BERT_TOO_LONG = "BERT: Error records from previous boot:", "BERT: Max print length exceeded"
# struct mce of arch/x86/include/uapi/asm/mce.h: status misc addr mcgstatus ip tsc time; cpuvendor and three more bytes;
# cpuid; cs bank cpu finished; extcpu socketid apicid; mcgcap synd ipid
STRUCT_MCE = struct.Struct("<7Q4BI4B3I4x3Q")
# How arch/x86/kernel/cpu/mce/core.c words its panics.
OF_MACHINE_CHECK = re.compile("machine check|broadcast exception|memory error|mce", re.IGNORECASE)
IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look: directories with pstore records, the kernel log, and what tells if the journal outlives a boot."""

    records: tuple[Path, ...]
    kernel_log: Path
    bert: Path  # /sys/firmware/acpi/tables/data/BERT
    state_dir: Path
    mounts: Path  # /proc/self/mountinfo


DatedCheck = tuple[LoggedCheck, int | None]  # and when it was, if that is known


@dataclass(slots=True)
class _Evidence:
    """What the previous boot left: errors, and everything else in words."""

    seen: dict[str, None]  # digests, the latest last
    since_ns: int  # an older panic is not the one that ended the boot
    panics: list[str] = field(default_factory=list)
    checks: dict[tuple[int, ...], DatedCheck] = field(default_factory=dict)
    bert: list[Section] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def is_new(self, content: bytes) -> bool:
        """Marks it as seen."""
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        is_new = digest not in self.seen
        self.seen.pop(digest, None)
        self.seen[digest] = None
        return is_new

    def add_check(self, check: LoggedCheck, time_ns: int | None) -> None:
        """The panic's own account comes first, what the banks still held afterwards is the same error."""
        self.checks.setdefault((check.cpu, check.bank, check.status, check.addr), (check, time_ns))

    def in_words(self) -> list[str]:
        checks = [
            f"machine check of cpu{check.cpu}, bank {check.bank}: {check.status:#x} ({check.decoded().kind})"
            for check, _ in self.checks.values()
        ]
        bert = [f"BERT: {section.severity} error of {section.device}" for section in self.bert]
        return [*self.panics, *checks, *bert, *self.remarks][:EVIDENCE_MAX]


def poll(places: Places, log: KernelLog, cursor: dict[str, Any], now: Moment, *, silence_s: float) -> Poll:
    """At the first poll of a boot the faults of the one before; heartbeats are at most `silence_s` apart.

    `log` is closed in the end; whoever else reads it finds his place again by the numbers.
    """
    if _is_in_memory(places):
        return Poll(cursor=cursor, devices=(HOST,), absent=f"{places.state_dir} is in memory and ends with the boot")
    if "boot_id" not in cursor:  # the first poll of all
        cursor = {}
    last_ns = cursor["polled"]["time_ns"] if cursor else 0
    evidence = _Evidence(dict.fromkeys(cursor.get("seen", [])), last_ns - STAMP_TOLERANCE_NS)
    parts = [Poll(cursor={}, devices=(HOST,))]
    if cursor.get("boot_id") != now.boot_id:
        _read_records(places.records, evidence)
        _read_kernel_log(places, log, evidence)
        parts += [_errors(evidence, cursor, now), _end_of_boot(evidence, cursor, now, silence_s)]
    return Poll(
        cursor={
            "boot_id": now.boot_id,
            "is_stopped": False,
            "seen": list(evidence.seen)[-SEEN_MAX:],
            "polled": {"time_ns": now.time_ns, "boottime_ns": now.boottime_ns},
        },
        devices=tuple(item for part in parts for item in part.devices),
        observations=tuple(item for part in parts for item in part.observations),
        first_sights=tuple(item for part in parts for item in part.first_sights),
        gaps=tuple(item for part in parts for item in part.gaps),
    )


def _is_in_memory(places: Places) -> bool:
    try:
        mount = mount_of(places.mounts, places.state_dir.stat().st_dev)
    except OSError:
        return False
    return mount is not None and mount.kind in IN_MEMORY


# --- reading -------------------------------------------------------------------------------------------------------


def _read_records(directories: tuple[Path, ...], evidence: _Evidence) -> None:
    """The newest files of pstore that were never seen before."""
    files: list[tuple[int, Path]] = []
    for directory in directories:
        try:
            files += itertools.islice(_records(directory), RECORDS_MAX)
        except FileNotFoundError:  # this host has no pstore, or not this systemd
            continue
        except OSError as error:
            evidence.remarks.append(f"{directory}: {error.strerror}")
    files.sort(key=lambda entry: (entry[0], entry[1].name), reverse=True)
    for time_ns, path in files[:FILES_MAX]:
        try:
            with path.open("rb") as stream:
                content = stream.read(FILE_BYTES_MAX)
        except OSError as error:
            evidence.remarks.append(f"{path}: {error.strerror}")
            continue
        if evidence.is_new(content):
            _take_in_record(path, content, time_ns, evidence)


def _records(directory: Path) -> Iterator[tuple[int, Path]]:
    """When each was written, and where it is: <pstore>/<file>, <archive>/<time>/<part>/<file>."""

    def fail(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(directory, onerror=fail):
        for path in (Path(place, name) for name in names if _is_record(name)):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield status.st_mtime_ns, path


def _is_record(name: str) -> bool:
    return name.startswith(("dmesg", "mce-")) and not name.endswith(".enc.z")  # what pstore could not unpack


def _take_in_record(path: Path, content: bytes, time_ns: int, evidence: _Evidence) -> None:
    if path.name.startswith("mce-"):
        checks = [check for check in (_binary_check(content),) if check is not None]
    else:
        lines = content.decode("utf-8", "replace").splitlines()
        reason = panic(lines)
        is_other = reason is not None and not OF_MACHINE_CHECK.search(reason)  # what is in the log then was survived
        checks = [check for check in machine_checks(lines) if check.is_exception and not is_other]
        if reason is not None and time_ns >= evidence.since_ns:
            evidence.panics.append(f"{path.name}: Kernel panic: {reason}")
    for check in checks:
        if evidence.is_new(f"{check.cpu} {check.bank} {check.status} {check.addr} {check.time_s}".encode()):
            evidence.add_check(check, check.time_s * SECOND_NS or time_ns)


def _binary_check(content: bytes) -> LoggedCheck | None:
    if len(content) < STRUCT_MCE.size:
        return None
    fields = STRUCT_MCE.unpack_from(content)
    status, misc, addr, _, _, _, time_s, vendor, *_ = fields
    bank, cpu, socket, ipid = fields[13], fields[16], fields[17], fields[21]
    return LoggedCheck(cpu, bank, status, True, addr, misc, ipid, VENDORS.get(vendor, ""), time_s, socket)


def _read_kernel_log(places: Places, log: KernelLog, evidence: _Evidence) -> None:
    """BERT and leftover banks, as the kernel told of them when it started."""
    path = places.kernel_log
    try:
        early = itertools.takewhile(lambda record: record.time_us <= LEFTOVERS_US, log.records(path, 0))
        lines = [record.text for record in early if "Hardware Error" in record.text or record.text.startswith("BERT: ")]
    except OSError as error:
        evidence.remarks.append(f"{path}: {error.strerror}")
        return
    finally:
        log.close()
    for check in machine_checks(lines):
        if check.is_leftover:
            evidence.add_check(check, None)
    if any(line.startswith(BERT_TOO_LONG) for line in lines):
        _take_in_bert_region(places.bert, evidence)
    elif BERT_START in lines:
        _take_in_bert(lines[lines.index(BERT_START) + 1 :], evidence)


def _take_in_bert(lines: list[str], evidence: _Evidence) -> None:
    found = [line for line in map(CPER_LINE.fullmatch, lines) if line is not None and not line[1]]
    text = [line[2] for line in found]
    if evidence.is_new("\n".join(text).encode()):  # firmware may show the same one at every boot
        evidence.bert += sections(text)


def _take_in_bert_region(path: Path, evidence: _Evidence) -> None:
    """All of it, where the kernel found it too long to print."""
    try:
        with path.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX)
    except OSError as error:
        evidence.remarks.append(f"{path}: {error.strerror}")
        return
    if evidence.is_new(content):
        evidence.bert += error_record.sections(content)


# --- judging -------------------------------------------------------------------------------------------------------


def _errors(evidence: _Evidence, cursor: dict[str, Any], now: Moment) -> Poll:
    """The machine checks and sections: at their own time, or else between the last heartbeat and the boot."""
    boot_ns = now.time_ns - now.boottime_ns
    vague_s = max(0.0, (boot_ns - cursor["polled"]["time_ns"]) / 1e9) if cursor else UNKNOWN_S
    errors = [(check.section(), time_ns) for check, time_ns in evidence.checks.values()]
    errors += [(section, None) for section in evidence.bert]
    observations = [
        Observation(
            device=section.device,
            stream=section.stream,
            severity=_severity(section.severity),
            count=section.count,
            time_ns=min(time_ns or boot_ns, now.time_ns),
            time_error_s=1.0 if time_ns else vague_s,
            epoch=now.boot_id,
            detail=section.detail,
        )
        for section, time_ns in errors
    ]
    devices = (Device(stream=item.stream, name=item.device, label=item.label) for item, _ in errors)
    return Poll(cursor={}, observations=tuple(observations), devices=tuple(devices))


def _end_of_boot(evidence: _Evidence, cursor: dict[str, Any], now: Moment, silence_s: float) -> Poll:
    """Did the host die? At the first poll of all nobody knows, and from then on nothing is missed."""
    if not cursor:
        sight = FirstSight(stream="host", device=HOST.name, error_class=NOT_CORRECTED, since_ns=now.time_ns)
        return Poll(cursor={}, first_sights=(sight,))
    last_ns, boot_ns = cursor["polled"]["time_ns"], now.time_ns - now.boottime_ns
    if cursor["is_stopped"] and not evidence.panics:
        gap = Gap(stream="host", device=HOST.name, begin_ns=last_ns, end_ns=now.time_ns)
        return Poll(cursor={}, gaps=(gap,))
    death = Observation(
        device=HOST.name,
        stream="host",
        severity="fatal",
        count=1,
        time_ns=min(last_ns, now.time_ns),
        time_error_s=min(silence_s, max(0.0, (boot_ns - last_ns) / 1e9)),
        epoch=cursor["boot_id"],
        detail={"evidence": evidence.in_words() or ["none"], "next_boot_ns": boot_ns},
    )
    return Poll(cursor={}, observations=(death,))


def _severity(severity: str) -> str:
    return severity if severity == "corrected" else "fatal"
