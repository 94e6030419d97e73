"""The journal: faults and the state that goes with them, durable together or not at all.

Enters: the faults of one poll and the changes to the state. Leaves: the same faults with their place (journal id, seq),
once they are on disk; after a restart the state as it was, and to readers every fault that is still kept.

A journal is a directory of segments `<number>-<journal id>.log` in the LevelDB log format. A record is one line of
header and one JSON document:

    {"kind": "snapshot" | "changes", "journal": .., "seq": first seq of its faults, "faults": how many}
    {"state": {key: value}, "faults": [fault line, ..]}

Each segment opens with a snapshot of the whole state, so that the older ones can be dropped when the journal outgrows
its bound. In "changes" a value of null removes the key. The journal is verified whenever it is read.

A write that failed is taken back, and what comes next begins a new segment: from the seq of its snapshot on, the seqs
of the segment before it are void. One process writes a journal at a time; a lock on the directory sees to it.

Recovery: if any byte of the current journal's segments was damaged or torn, a new journal id begins, because faults
that someone has read may be gone and a seq must never mean two faults. The state is that of the last surviving record;
what the counters show beyond it becomes one fault with a wide time error at the next poll. A journal that belongs to
another machine (a cloned disk) is set aside.
"""

import base64
import binascii
import contextlib
import errno
import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.report import Fault, JournalSpan, MemoryFault, RecordFault, ReportError, decode, encode
from checksum import durable, files, leveldb_log
from checksum.finding import Finding, Record

SEGMENT_BYTES_MIN = 64 << 10
SEGMENT_BYTES_MAX = 4 << 20
SEGMENTS_IN_BOUND = 8  # how many segments fit into the bound: dropping one loses an eighth of the history
SEGMENT_NAME = re.compile(r"\d{10}-[0-9a-f]{32}\.log")
MACHINE_ID = "journal/machine_id"
INDEX_STEP_BYTES = 8 * leveldb_log.BLOCK_BYTES

Position = dict[str, int]  # journal id -> the seq that comes next


@dataclass(slots=True)
class Segment:
    """One file and where its faults are. `index` holds (seq, offset_bytes) pairs to start reading from."""

    path: Path
    number: int
    journal: str
    parsed_bytes: int = 0
    next_seq: int = 0
    lost_faults: int = 0
    damaged_bytes: int = 0
    index: list[tuple[int, int]] = field(default_factory=list)


class JournalReader:
    """Reads a journal, one's own or that of another process, as far as it is durable."""

    _is_owner = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.segments: list[Segment] = []
        self.state: dict[str, Any] = {}

    def refresh(self) -> None:
        """Takes in what has come and gone since the last call.

        Raises:
            OSError: the directory or a segment can't be read.
        """
        known = {segment.path.name: segment for segment in self.segments}
        paths = sorted(path for path in self.directory.iterdir() if SEGMENT_NAME.fullmatch(path.name))
        segments: list[Segment] = []
        for path in paths:
            before = segments[-1] if segments else None
            segment = known.get(path.name) or _new_segment(path, before)
            try:
                self._parse(segment, is_growing=path == paths[-1] and not self._is_owner)
            except FileNotFoundError:  # the writer has trimmed it just now
                continue
            if before is not None and before.journal == segment.journal and segment.index:
                before.next_seq = min(before.next_seq, segment.index[0][0])  # what lies beyond had been taken back
            segments.append(segment)
        self.segments = segments

    def spans(self) -> tuple[JournalSpan, ...]:
        """Which seqs are kept, oldest journal first."""
        spans: dict[str, JournalSpan] = {}
        for segment in self.segments:
            if not segment.index:
                continue
            first_seq = spans[segment.journal].first_seq if segment.journal in spans else segment.index[0][0]
            spans[segment.journal] = JournalSpan(
                journal=segment.journal, first_seq=first_seq, last_seq=segment.next_seq - 1
            )
        return tuple(spans.values())

    def faults(self, position: Position, limit: int) -> list[Fault]:
        """At most `limit` faults from `position` on, oldest journal first, seq ascending; damage is passed over.

        Raises:
            OSError: a segment can't be read.
        """
        found: list[Fault] = []
        for segment in list(self.segments):
            after = position.get(segment.journal, 0)
            if after >= segment.next_seq:
                continue
            start = max((offset for seq, offset in segment.index if seq <= after), default=0)
            try:
                for fault in self._faults(segment, start):
                    if fault.seq is not None and after <= fault.seq < segment.next_seq:
                        found.append(fault)
                        if len(found) == limit:
                            return found
            except FileNotFoundError:  # trimmed since the last refresh: the collector will see the hole
                continue
        return found

    @property
    def size_bytes(self) -> int:
        return sum(segment.parsed_bytes for segment in self.segments)

    @property
    def damaged_bytes(self) -> int:
        """Bytes in the segments still kept that didn't pass their checksum."""
        return sum(segment.damaged_bytes for segment in self.segments)

    @property
    def lost_faults(self) -> int:
        """Faults known to have stood in the damaged bytes."""
        return sum(segment.lost_faults for segment in self.segments)

    def _parse(self, segment: Segment, *, is_growing: bool) -> None:
        """Takes in what is new. Damage at the end of a growing segment may be half a write and is looked at again."""
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            end = os.fstat(fd).st_size
            if end <= segment.parsed_bytes:
                return
            if not self._is_owner:  # what another process hasn't fsynced yet is made durable before it is shown
                os.fsync(fd)
            damaged_bytes = 0
            for item in _scan(fd, segment.parsed_bytes, end):
                if isinstance(item, Finding):
                    damaged_bytes += max(0, item.end - max(item.begin, segment.parsed_bytes))
                    continue
                if item.begin >= segment.parsed_bytes:  # else known already; its trailer may be new
                    segment.damaged_bytes += damaged_bytes
                    damaged_bytes = 0
                    self._take_in(segment, item)
                segment.parsed_bytes = max(segment.parsed_bytes, item.end)
            if not is_growing:
                segment.damaged_bytes += damaged_bytes
                segment.parsed_bytes = end
        finally:
            os.close(fd)

    def _take_in(self, segment: Segment, record: Record) -> None:
        entry = _entry(record)
        if entry is None:  # intact bytes that no version of the journal wrote
            segment.damaged_bytes += record.end - record.begin
            return
        if segment.next_seq and entry.seq > segment.next_seq:
            segment.lost_faults += entry.seq - segment.next_seq
        if not segment.index or record.begin - segment.index[-1][1] >= INDEX_STEP_BYTES:
            segment.index.append((entry.seq, record.begin - record.begin % leveldb_log.BLOCK_BYTES))
        segment.next_seq = entry.seq + len(entry.faults)
        if entry.is_snapshot:
            self.state.clear()
        for key, value in entry.state.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def _faults(self, segment: Segment, start: int) -> Iterator[Fault]:
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for item in _scan(fd, start, segment.parsed_bytes):
                entry = _entry(item) if isinstance(item, Record) else None
                for document in entry.faults if entry is not None else ():
                    with contextlib.suppress(ReportError):  # written by a newer version: its seq shows as a hole
                        fault = decode(json.dumps(document))
                        assert isinstance(fault, MemoryFault | RecordFault), fault
                        yield fault
        finally:
            os.close(fd)


class Journal(JournalReader):
    """One process's own journal: recovers at the start, then appends. An empty `machine_id` is an unknown one.

    Raises:
        OSError: the directory can't be read or written, or another process writes there.
    """

    _is_owner = True

    def __init__(self, directory: Path, max_bytes: int, machine_id: str) -> None:
        super().__init__(directory)
        self._max_bytes = max_bytes
        self._segment_bytes = max(SEGMENT_BYTES_MIN, min(SEGMENT_BYTES_MAX, max_bytes // SEGMENTS_IN_BOUND))
        self._fd = -1
        self._snapshot_bytes = 0
        self._lock_fd = _locked_directory(directory)
        for leftover in directory.glob(".*.tmp"):  # a segment whose creation was cut short; nothing in it counts
            leftover.unlink()
        self.refresh()
        self._machine_id = machine_id or self.state.get(MACHINE_ID, "")
        if self.state.get(MACHINE_ID, "") not in ("", self._machine_id):
            self._set_aside()
        current = [segment for segment in self.segments if segment.journal == self.segments[-1].journal]
        is_whole = bool(current) and all(segment.index and not segment.damaged_bytes for segment in current)
        self.id = current[-1].journal if is_whole else uuid.uuid4().hex
        self.next_seq = current[-1].next_seq if is_whole else 1
        self.recovered_damage = bool(current) and not is_whole
        if is_whole:  # the previous process may have died before it made its last segment durable
            self._fd = os.open(current[-1].path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.fsync(self._fd)
            durable.fsync_directory(directory)

    def append(self, faults: Iterable[Fault], changes: Mapping[str, Any]) -> list[Fault]:
        """Makes the faults and the changes durable, together; returns the faults with their journal and seq.

        Raises:
            OSError: nothing was written, nothing has changed; the same call may be tried again.
        """
        placed = [replace(f, journal=self.id, seq=self.next_seq + n) for n, f in enumerate(faults)]
        if self._fd < 0 or self.segments[-1].parsed_bytes > max(self._segment_bytes, 4 * self._snapshot_bytes):
            self._roll()
        segment = self.segments[-1]
        data = leveldb_log.encode(self._record("changes", changes, placed), segment.parsed_bytes)
        try:
            durable.DurableFile(self._fd).write(data)
            os.fsync(self._fd)
            self._read_back(segment, segment.parsed_bytes + len(data))
        except OSError:
            self._take_back(segment)
            raise
        self.next_seq += len(placed)
        return placed

    def close(self) -> None:
        self._close_segment()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _record(self, kind: str, state: Mapping[str, Any], placed: list[Fault]) -> bytes:
        header = {"kind": kind, "journal": self.id, "seq": self.next_seq, "faults": len(placed)}
        lines = ",".join(encode(fault) for fault in placed)
        return f'{json.dumps(header)}\n{{"state":{json.dumps(state)},"faults":[{lines}]}}'.encode()

    def _roll(self) -> None:
        """Opens a new segment with a snapshot; it appears under its name only when it is durable."""
        self._trim()
        before = self.segments[-1] if self.segments else None
        path = self.directory / f"{before.number + 1 if before else 1:010d}-{self.id}.log"
        data = leveldb_log.encode(self._record("snapshot", {**self.state, MACHINE_ID: self._machine_id}, []), 0)
        with durable.replace_file(path, mode=0o640) as file:
            file.write(data)
        segment = _new_segment(path, before)
        self._read_back(segment, len(data))
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._close_segment()
        self._fd, self._snapshot_bytes = fd, len(data)
        self.segments.append(segment)

    def _read_back(self, segment: Segment, end: int) -> None:
        """Takes the segment in up to `end`; what can't be read again was not written."""
        self._parse(segment, is_growing=True)
        if segment.parsed_bytes != end:
            raise OSError(errno.EIO, "what was written can't be read back", str(segment.path))

    def _take_back(self, segment: Segment) -> None:
        """After a failed write: after a failed fsync the pages can't be trusted, so a new segment begins."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, segment.parsed_bytes)
        self._close_segment()

    def _trim(self) -> None:
        """Makes room for one more segment."""
        while len(self.segments) > 1 and self.size_bytes + self._segment_bytes > self._max_bytes:
            self.segments[0].path.unlink(missing_ok=True)
            del self.segments[0]

    def _set_aside(self) -> None:
        aside = self.directory.with_name(f"{self.directory.name}.of-other-machine-{self.segments[-1].journal}")
        self.directory.rename(aside)
        os.close(self._lock_fd)
        self._lock_fd = _locked_directory(self.directory)
        self.segments, self.state = [], {}


def _locked_directory(directory: Path) -> int:
    """A descriptor of the directory, made if need be, that keeps other writers out until it is closed."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        durable.fsync_directory(path.parent)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise OSError(errno.EAGAIN, "another process writes this journal", str(directory)) from error
    return fd


@dataclass(frozen=True, slots=True)
class _Entry:
    """One record: seq is that of its first fault, or of the next one to come."""

    is_snapshot: bool
    seq: int
    state: dict[str, Any]
    faults: list[Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Faults of several journals, what these hold, and the cursor to go on with."""

    faults: list[Fault]
    spans: tuple[JournalSpan, ...]
    cursor: str


def page(readers: Iterable[JournalReader], cursor: str | None, limit: int) -> Page:
    """At most `limit` faults from the cursor on; without one, and of a journal that it doesn't know, from the oldest.

    Raises:
        ValueError: the cursor is malformed.
        OSError: a segment can't be read.
    """
    position = decode_cursor(cursor) if cursor is not None else {}
    found: list[Fault] = []
    spans: list[JournalSpan] = []
    after: Position = {}
    for reader in readers:
        part = reader.faults(position, limit - len(found)) if len(found) < limit else []
        found += part
        is_all = len(found) < limit
        for span in reader.spans():
            spans.append(span)
            after[span.journal] = span.last_seq + 1 if is_all else _next_seq(span, part, position)
    return Page(found, tuple(spans), encode_cursor(after))


def _next_seq(span: JournalSpan, part: list[Fault], position: Position) -> int:
    """Where to go on in one journal after `part`, which may not be all of it."""
    seqs = [fault.seq for fault in part if fault.journal == span.journal and fault.seq is not None]
    return seqs[-1] + 1 if seqs else position.get(span.journal, span.first_seq)


def encode_cursor(position: Position) -> str:
    """The opaque cursor of /v1/faults."""
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode()


def decode_cursor(text: str) -> Position:
    """The position in a cursor.

    Raises:
        ValueError: it isn't one that encode_cursor made.
    """
    try:
        position = json.loads(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise ValueError("not a cursor") from error
    if not isinstance(position, dict) or not all(type(seq) is int and seq >= 0 for seq in position.values()):
        raise ValueError("not a cursor")
    return position


def _new_segment(path: Path, before: Segment | None) -> Segment:
    number, _, journal = path.stem.partition("-")
    next_seq = before.next_seq if before is not None and before.journal == journal else 0
    return Segment(path=path, number=int(number), journal=journal, next_seq=next_seq)


def _scan(fd: int, parsed_bytes: int, end: int) -> Iterator[Record | Finding]:
    start = parsed_bytes - parsed_bytes % leveldb_log.BLOCK_BYTES
    return leveldb_log.scan(files.read_chunks(fd, start, end), offset=start, resumed=start > 0)


def _entry(record: Record) -> _Entry | None:
    """What a record says; None if it is none of ours."""
    if record.data is None:  # the end of a record that began before the block the scan started at
        return None
    head, _, body = record.data.partition(b"\n")
    try:
        header, document = json.loads(head), json.loads(body)
        entry = _Entry(header["kind"] == "snapshot", header["seq"], document["state"], document["faults"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    is_ours = type(entry.seq) is int and isinstance(entry.state, dict) and isinstance(entry.faults, list)
    return entry if is_ours else None
