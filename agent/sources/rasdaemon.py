"""What an installed rasdaemon has recorded: its SQLite database, read only, row after row.

Enters: the database, the roots of sysfs and tracefs, this source's cursor and the moment. Leaves: a Poll. Format:
ras-record.c and the event handlers of rasdaemon 0.6.8 to 0.8.5. Every build has other tables and columns, so those that
are missing are normal; 64-bit columns are stored signed; `timestamp` is local time with its offset, in whole seconds.

rasdaemon reads the kernel's trace events, so most of its rows stand for errors that this agent sees itself. Such rows
are passed over, for each error is counted once:

- rows of an event that is enabled in this agent's own trace instance;
- rows of DRAM errors, on a host whose memory controllers have EDAC counters;
- rows of DRAM errors in a table that another one explains better (`shown_by` below), once that one holds any row: the
  kernel reports one DRAM error as a machine check, an extended log entry and an mc_event, and an uncorrected one also
  as a poisoned page.

Rows older than the agent's first poll are history, not faults: nobody knew the device then. A database that was made
anew (another file, or ids that fell) is read from its beginning, but only what is younger than the previous poll
counts. PCIe, disk and network events are no memory errors; non_standard_event is each processor maker's own format.

A rasdaemon that records nothing is told apart from one that has nothing to record: it waits in poll(2) until its ring
buffer is as full as buffer_percent says, half by default, so that a few errors are never read (0.6.8, as packaged).

The cursor: "file", which file it was and when it changed; "rows", the last id of each table; "since_ns", before which a
row is history while a database made anew is read, else 0; "is_more", whether rows were left for the next poll;
"unread", events in rasdaemon's ring buffer at the previous poll; "polled", when that was.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import dram_place, trace_instance
from agent.kernel_files import first_line, text
from agent.machine_check import IPID_OF_UMC, VENDORS, decode, device_name
from agent.observation import PAGE, Device, Moment, Observation, Poll
from checksum.printable import printable

if TYPE_CHECKING:
    import sqlite3

SECOND_NS = 10**9
LOCK_PATIENCE_S = 0.2
ROWS_MAX = 1000  # per table and poll: a storm is read in pieces
VALUE_BYTES_MAX = 1 << 20
TEXT_CHARACTERS_MAX = 256
ERRORS_MAX = 0xFFFFFF  # of one row: what a CXL event can count; other kinds have fewer bits
ITS_INSTANCE = "instances/rasdaemon"
MC_SEVERITIES = {s.capitalize(): s for s in ("corrected", "uncorrected", "deferred", "fatal")}
CPER_SEVERITIES = {0: "uncorrected", 1: "fatal", 2: "corrected"}  # UEFI specification, appendix N
CXL_UNCORRECTED = 1  # bit of the memory event descriptor, Compute Express Link 3.1, table 8-45

Row = Mapping[str, Any]  # column -> value; a column that this database lacks is None


@dataclass(frozen=True, slots=True)
class _Error:
    device: str
    stream: str
    severity: str
    count: int
    detail: dict[str, Any]
    label: str = ""


@dataclass(frozen=True, slots=True)
class _Table:
    """`event`: the trace event its rows are made of. `shown_by`: what shows its DRAM errors too, and better."""

    event: str
    columns: tuple[str, ...]
    read: Callable[[Row], _Error | None]
    shown_by: tuple[str, ...] = ()


def poll(database: Path, sysfs: Path, tracefs: Path, cursor: dict[str, Any], now: Moment) -> Poll:
    """The rows since the previous poll that no other witness on this host counts.

    Raises:
        OSError: the database's directory can't be entered.
    """
    polled_ns = cursor.get("polled", now.time_ns)
    new_cursor = {**cursor, "polled": now.time_ns}
    try:
        file = database.stat()
    except FileNotFoundError:
        return Poll(cursor=new_cursor, absent=f"there is no {database}: rasdaemon isn't installed or doesn't record")
    unread = _unread_events(tracefs)
    new_cursor["unread"] = unread
    mark = [file.st_ino, file.st_size, file.st_mtime_ns]
    is_old = file.st_mtime_ns + 2 * SECOND_NS < polled_ns  # a change within one tick of the clock can't hide
    if is_old and mark == cursor.get("file") and not cursor["is_more"]:
        return Poll(cursor=new_cursor, trouble=_stall(tracefs, unread, cursor.get("unread", 0)))
    import sqlite3  # not at the top: a host without a database never loads it

    try:
        with closing(_opened(database)) as connection:
            seen = _Reader(connection, file.st_ino, _own_view(sysfs, tracefs), polled_ns, now).read(cursor)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # that of a message which quotes a damaged schema
        return Poll(cursor={**cursor, "polled": polled_ns}, trouble=(f"{database}: {error}",))
    return Poll(
        cursor={**new_cursor, "file": mark, **seen.cursor},
        observations=seen.observations,
        devices=seen.devices,
        trouble=_stall(tracefs, unread, cursor.get("unread", 0)) if seen.cursor["rows"] == cursor.get("rows") else (),
    )


# --- what other witnesses see ------------------------------------------------------------------------------------


def _own_view(sysfs: Path, tracefs: Path) -> frozenset[str]:
    """What is counted here already: each trace event that this agent listens to, and "edac"."""
    seen = {table.event for table in TABLES.values() if trace_instance.is_traced(tracefs, table.event)}
    if any((sysfs / "devices/system/edac/mc").glob("mc[0-9]*/ce_count")):
        seen.add("edac")
    return frozenset(seen)


def _unread_events(tracefs: Path) -> int:
    """Events in rasdaemon's ring buffer; 0 where that can't be read."""
    total = 0
    for file in (tracefs / ITS_INSTANCE).glob("per_cpu/cpu*/stats"):
        found = re.search(r"^entries: (\d{1,18})$", text(file), re.M)
        total += int(found[1]) if found else 0
    return total


def _stall(tracefs: Path, unread: int, unread_before: int) -> tuple[str, ...]:
    """The sentence for a rasdaemon that has left events unread since the previous poll, and recorded none."""
    instance = tracefs / ITS_INSTANCE
    percent = first_line(instance / "buffer_percent")
    if not unread_before or unread < unread_before or percent in ("", "0"):
        return ()
    return (
        f"rasdaemon records nothing: it waits until its trace buffer is {percent} % full; stop it, then: "
        f"rmdir {instance}; mkdir {instance}; echo 0 > {instance}/buffer_percent; and start it again",
    )


# --- the database ------------------------------------------------------------------------------------------------


def _opened(database: Path) -> "sqlite3.Connection":
    import sqlite3

    uri = f"{database.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=LOCK_PATIENCE_S)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


class _Reader:
    """One reading of the database."""

    def __init__(
        self, connection: "sqlite3.Connection", inode: int, own_view: frozenset[str], polled_ns: int, now: Moment
    ) -> None:
        self._connection = connection
        self._inode = inode
        self._own_view = own_view
        self._polled_ns = polled_ns
        self._now = now
        self._observations: dict[tuple[str, str, str], Observation] = {}
        self._devices: dict[tuple[str, str], Device] = {}

    def read(self, cursor: dict[str, Any]) -> Poll:
        """The new rows; of the cursor, what is known of the rows.

        Raises:
            sqlite3.Error, UnicodeDecodeError: it is no database, damaged, or locked for too long.
        """
        self._columns = {name: columns for name in TABLES if (columns := self._columns_of(name))}
        rows, since_ns = self._start(cursor)
        is_more = False
        for name in self._columns:
            rows[name], size = self._read_table(name, rows.get(name, 0), since_ns)
            is_more = is_more or size == ROWS_MAX
        return Poll(
            cursor={"rows": rows, "since_ns": since_ns if is_more else 0, "is_more": is_more},
            observations=tuple(self._observations.values()),
            devices=tuple(self._devices.values()),
        )

    def _start(self, cursor: dict[str, Any]) -> tuple[dict[str, int], int]:
        """After which row to go on in each table, and from which time on a row counts."""
        last = {name: self._last_id(name) for name in self._columns}
        if "polled" not in cursor:
            return last, 0
        rows = dict(cursor.get("rows", {}))
        is_anew = cursor.get("file", [self._inode])[0] != self._inode or any(
            last.get(name, 0) < rows[name] for name in rows
        )
        return ({}, self._polled_ns) if is_anew else (rows, cursor.get("since_ns", 0))

    def _read_table(self, name: str, last: int, since_ns: int) -> tuple[int, int]:
        """Books the table's rows after the id `last`; the last id read, and how many rows that were."""
        table = TABLES[name]
        wanted = [column for column in ("timestamp", *table.columns) if column in self._columns[name]]
        query = f"SELECT {', '.join(['id', *wanted])} FROM {name} WHERE id > ? ORDER BY id LIMIT {ROWS_MAX}"
        found = self._connection.execute(query, (last,)).fetchall()
        is_shown = self._is_shown(table)  # asked after reading: what the kernel says twice is stored within a moment
        for _, *values in found:
            row = {**dict.fromkeys(table.columns), **dict(zip(wanted, values, strict=True))}
            time_ns = _time_ns(row)
            is_history = time_ns is not None and time_ns + SECOND_NS < since_ns
            error = None if is_history or table.event in self._own_view else table.read(row)
            if error is not None and not (is_shown and error.stream == "dram"):
                self._book(error, time_ns)
        return found[-1][0] if found else last, len(found)

    def _is_shown(self, table: _Table) -> bool:
        """Whether the DRAM errors of the table are shown by a better witness."""
        return any(name in self._own_view or self._last_id(name) for name in table.shown_by)

    def _columns_of(self, table: str) -> set[str]:
        return {str(name) for _, name, *_ in self._connection.execute(f"PRAGMA table_info({table})")}

    def _last_id(self, table: str) -> int:
        """0 if the table is empty, or isn't there."""
        if table not in self._columns:
            return 0
        (last,) = self._connection.execute(f"SELECT max(id) FROM {table}").fetchone()
        return _whole(last)

    def _book(self, error: _Error, time_ns: int | None) -> None:
        age_ns = self._now.time_ns - time_ns if time_ns is not None else -1
        if age_ns < 0:  # no time, or one to come: it was recorded since the previous poll
            age_ns = self._now.time_ns - self._polled_ns
        observation = Observation(
            device=error.device,
            stream=error.stream,
            severity=error.severity,
            count=error.count,
            time_error_s=max(1.0, age_ns / SECOND_NS),
            epoch=f"rasdaemon/{self._inode}",
            # a column may hold anything, whatever its type is called
            detail={key: value for key, value in error.detail.items() if isinstance(value, int | str) and value != ""},
        )
        key = (error.stream, error.device, error.severity)
        old = self._observations.get(key)
        if old is not None:  # the errors of one poll are one fault: as old as the oldest, with the places of all
            count = old.count + observation.count
            detail = dram_place.with_places(old.detail, observation.detail)
            time_error_s = max(old.time_error_s, observation.time_error_s)
            observation = replace(old, count=count, time_error_s=time_error_s, detail=detail)
        self._observations[key] = observation
        self._devices[key[:2]] = Device(stream=error.stream, name=error.device, label=error.label)


def _time_ns(row: Row) -> int | None:
    """When the error was reported: `2026-11-23 17:33:11 +0000`; a machine check has the second since 1970."""
    if _whole(row.get("walltime")):
        return _whole(row["walltime"]) * SECOND_NS
    try:
        time = datetime.strptime(str(row.get("timestamp")), "%Y-%m-%d %H:%M:%S %z")
        return int(time.timestamp()) * SECOND_NS
    except (ValueError, OverflowError):
        return None


# --- the tables --------------------------------------------------------------------------------------------------


def _whole(value: Any, default: int = 0) -> int:
    return value if isinstance(value, int) else default


def _count(value: Any) -> int:
    return min(max(1, _whole(value)), ERRORS_MAX)


def _word(value: Any) -> str:
    """Text for people and devices' names: bounded, and nothing in it that can't be printed."""
    words = "" if value is None else str(value)[:TEXT_CHARACTERS_MAX]
    return printable(words.strip())


def _hexadecimal(value: Any) -> str | None:
    """An unsigned 64-bit number, which SQLite keeps signed; 0 is what rasdaemon writes where there was none."""
    return hex(value % (1 << 64)) if isinstance(value, int) and value else None


def _mc_event(row: Row) -> _Error | None:
    severity = MC_SEVERITIES.get(row["err_type"])
    if severity is None:  # "Info"
        return None
    label = _word(row["label"])
    detail = {
        "label": label,
        "address": _hexadecimal(row["address"]),
        "grain_bytes": 1 << _whole(row["grain"]) if 0 < _whole(row["grain"]) < 64 else None,
        "syndrome": _hexadecimal(row["syndrome"]),
        "message": _word(row["err_msg"]),
        "driver_detail": _word(row["driver_detail"]),
        **dram_place.of_text(str(row["driver_detail"])),
    }
    return _Error(_mc_device(row, label), "dram", severity, _count(row["err_count"]), detail, label)


def _mc_device(row: Row, label: str) -> str:
    """As the EDAC source names it, if the label is the driver's own (mc#0csrow#1channel#0); else by its layers."""
    if re.fullmatch(r"mc#\d+([a-z]+#\d+)+", label):
        return "/".join(f"{layer}{index}" for layer, index in re.findall(r"([a-z]+)#(\d+)", label))
    layers = [row[name] for name in ("top_layer", "middle_layer", "lower_layer")]
    known = ".".join(str(layer) for layer in layers if _whole(layer, -1) >= 0)
    return f"mc{_whole(row['mc'])}/{f'location{known}' if known else 'unknown'}"


def _extlog_event(row: Row) -> _Error | None:
    severity = CPER_SEVERITIES.get(row["severity"])
    if severity is None:  # informational
        return None
    fru = _word(row["fru_text"])
    detail = {"address": _hexadecimal(row["address"]), "fru_text": fru, "error_type": row["etype"]}
    return _Error(f"fru/{fru or 'unknown'}", "dram", severity, 1, detail)  # "error_count" is a sequence number there


def _mce_record(row: Row) -> _Error | None:
    status, addr, misc = (_whole(row[name]) % (1 << 64) for name in ("status", "addr", "misc"))
    cpu, bank = _whole(row["cpu"]), _whole(row["bank"])
    socket = row["socketid"] if isinstance(row["socketid"], int) else None
    vendor, mcgcap = VENDORS.get(_whole(row["cpuvendor"], -1), ""), _whole(row["mcgcap"], -1)
    # the register that says so isn't recorded, but what rasdaemon made of it is
    ipid = IPID_OF_UMC if str(row["bank_name"]).startswith("Unified Memory Controller") else 0
    check = decode(
        status, addr=addr, misc=misc, vendor=vendor, bank=bank, ipid=ipid, mcgcap=mcgcap if mcgcap >= 0 else None
    )
    detail = {
        "status": hex(status),
        "address": _hexadecimal(check.address),
        "misc": _hexadecimal(row["misc"]),
        "kind": check.kind,
        "message": _word(row["mcistatus_msg"]) or _word(row["error_msg"]),
        "mc_location": _word(row["mc_location"]),
    }
    name = device_name(check, socket, cpu, bank)
    return _Error(name, check.stream, check.severity, check.count, detail)


def _arm_event(row: Row) -> _Error | None:
    """An error of an ARM core or its caches. Its severity isn't recorded: a core that goes on had it corrected."""
    detail = {"error_type": _word(row["error_type"]), "error_flags": _word(row["error_flags"]), "severity": "not told"}
    core = _whole(row["mpidr"]) % (1 << 64)
    return _Error(f"cpu-{core:x}", "sram", "corrected", _count(row["error_count"]), detail)


def _cxl_event(count_column: str) -> Callable[[Row], _Error | None]:
    def read(row: Row) -> _Error | None:
        is_uncorrected = _whole(row["descriptor"]) & CXL_UNCORRECTED
        severity = "fatal" if row["log_type"] == "Fatal" else "uncorrected"  # as trace_events.py has it
        words = ("channel", "rank", "bank_group", "bank", "row", "column")
        places = {word: row[word] for word in words if isinstance(row.get(word), int)}
        detail = {"address": _hexadecimal(row["hpa"]), "dpa": _hexadecimal(row["dpa"]), "region": _word(row["region"])}
        device = f"cxl/{_word(row['memdev']) or 'unknown'}"
        count = _count(row[count_column])
        return _Error(device, "dram", severity if is_uncorrected else "corrected", count, {**detail, **places})

    return read


def _memory_failure_event(row: Row) -> _Error | None:
    detail = {"pfn": _word(row["pfn"]), "page_type": _word(row["page_type"]), "action": _word(row["action_result"])}
    return _Error(PAGE, "dram", "uncorrected", 1, detail)


_CXL_COLUMNS = ("memdev", "log_type", "descriptor", "dpa", "hpa", "region", "channel", "rank")
_MACHINE_CHECK = ("walltime", "mcgcap", "status", "addr", "misc", "cpu", "socketid", "bank", "cpuvendor", "error_msg")

TABLES = {  # in the order of what they know of a DRAM error
    "mc_event": _Table(
        "ras/mc_event",
        (
            *("err_count", "err_type", "err_msg", "label", "mc", "top_layer", "middle_layer", "lower_layer"),
            *("address", "grain", "syndrome", "driver_detail"),
        ),
        _mc_event,
        shown_by=("edac",),
    ),
    "extlog_event": _Table(
        "ras/extlog_mem_event",
        ("etype", "severity", "address", "fru_text"),
        _extlog_event,
        shown_by=("edac", "mc_event"),
    ),
    "mce_record": _Table(
        "mce/mce_record",
        (*_MACHINE_CHECK, "mcistatus_msg", "bank_name", "mc_location"),
        _mce_record,
        shown_by=("edac", "mc_event", "extlog_event"),
    ),
    "arm_event": _Table("ras/arm_event", ("error_count", "mpidr", "error_type", "error_flags"), _arm_event),
    "cxl_general_media_event": _Table("cxl/cxl_general_media", (*_CXL_COLUMNS, "cme_count"), _cxl_event("cme_count")),
    "cxl_dram_event": _Table(
        "cxl/cxl_dram",
        (*_CXL_COLUMNS, "bank_group", "bank", "row", "column", "cvme_count"),
        _cxl_event("cvme_count"),
    ),
    "memory_failure_event": _Table(
        "ras/memory_failure_event",
        ("pfn", "page_type", "action_result"),
        _memory_failure_event,
        shown_by=("edac", "mc_event", "extlog_event", "mce_record", "cxl_general_media_event", "cxl_dram_event"),
    ),
}
