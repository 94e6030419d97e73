"""The scrubber's conductor: a process of its own that verifies the configured stores, one thread per store.

Enters: the configuration. Leaves: a journal of record faults and of its own state, which the agent serves. It owns its
clock, opens no socket, writes nothing but its journal. A disk that hangs holds up the thread of its store and nobody
else. Everything up to the cursor of a store has been judged and written to the journal, so a restart goes on there.

State keys (all values are JSON):
    store/<path>      the pass: cursor, bytes, records by format, unverifiable bytes by reason; damage told by layer
    open/<file>       the damage that is open in a file: neither healed nor gone
    settling/<file>   damage in a file that was just being written: read again at its time
    volume/<device>   History of the volume, for novelty
"""

import contextlib
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from agent import host, scrub, suspicion, systemd, volume
from agent.config import Config, StoreSettings
from agent.journal import Journal
from agent.novelty import History
from agent.reconcile import Changes
from agent.report import RecordFault
from checksum import crc32c, files
from checksum import seal as seal_of
from checksum.diagnose import Scanned, diagnosed
from checksum.finding import Finding, Layer, Unreadable, Verdict, merge
from checksum.formats import Format, recognise
from checksum.seal import Sealed, State

CHECKPOINT_S = 10.0
RETRY_S = 5.0
IDLE_S = 1.0
PRESSURE_EVERY_S = 1.0
FINDINGS_PER_FILE_MAX = 1000  # of one file; the rest of a file so damaged is one fault with a count
NICE = 10

Advance = Callable[[int, bool, int], None]

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The process was asked to stop."""


class Scrubber:
    """Owns the journal and the threads."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.host = config.agent.host or host.name()
        self.formats = {store.path: scrub.formats_of(store) for store in config.stores}
        self._journal = Journal(
            config.scrub_journal_dir, config.journal_max_bytes, host.machine_id(config.agent.machine_id)
        )
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.reading: list[scrub.OwnReading] = []  # of each store

    def run(self) -> None:
        """Until `stop` is called."""
        _be_nice()
        crc32c.use(_kernel(self.config.agent.checksum_kernel))
        with contextlib.suppress(Stopped):
            self._forget_other_stores()
        threads = [
            threading.Thread(target=StoreScrub(self, store).run, name=f"scrub {store.path}", daemon=True)
            for store in self.config.stores
        ]
        for thread in threads:
            thread.start()
        systemd.notify("READY=1", f"STATUS=verifying {len(threads)} stores")
        while not self._stop.wait(systemd.watchdog_interval_s() or IDLE_S):
            systemd.notify("WATCHDOG=1")
        systemd.notify("STOPPING=1")
        for thread in threads:
            thread.join(timeout=RETRY_S)  # a thread in a hung read can't be waited for; its cursor is on disk
        with self._lock:
            self._journal.close()

    def stop(self) -> None:
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Raises Stopped if the process is to end."""
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped

    @property
    def state(self) -> dict[str, Any]:
        """The durable state; a store's thread changes only its own keys."""
        return self._journal.state

    def items(self, prefix: str) -> list[tuple[str, Any]]:
        with self._lock:
            return [(key, value) for key, value in self._journal.state.items() if key.startswith(prefix)]

    def _forget_other_stores(self) -> None:
        """What is open in a store that is no longer configured would never be looked at again."""
        stores = {str(store.path) for store in self.config.stores}
        items = [(key, value) for key, value in self.state.items() if key.startswith(("open/", "settling/"))]
        owners = {key: value["store"] for key, value in items}
        owners |= {key: key.removeprefix("store/") for key in self.state if key.startswith("store/")}
        forgotten = {key: None for key, store in owners.items() if store not in stores}
        if forgotten:
            self.commit([], forgotten)

    def commit(self, faults: list[RecordFault], changes: Changes) -> None:
        """Returns when the faults and changes are durable; on a full disk it waits, since nothing may be lost."""
        is_told = False
        while True:
            try:
                with self._lock:
                    self._journal.append(faults, changes)
                return
            except OSError as error:
                if not is_told:
                    log.error("%s: can't write, scrubbing waits: %s", self._journal.directory, error)
                is_told = True
                self.wait(RETRY_S)


@dataclass(slots=True)
class _OpenFile:
    """A file that is being scanned from `scan_begin` to its end."""

    fd: int
    path: Path
    format: Format
    status: os.stat_result  # before the first byte was read
    scan_begin: int
    is_unchanged: bool  # since the scan that stopped at `scan_begin`
    is_settling: bool = False  # damage was seen that must be read again


@dataclass(slots=True)
class _Section:
    """A stretch of a file between two checkpoints."""

    begin: int
    room: int  # how many findings may be listed
    records: int = 0
    found: list[Finding] = field(default_factory=list)
    unlisted: int = 0  # findings beyond those listed; the last one listed then reaches over them
    passing: list[Finding] = field(default_factory=list)  # the transient ones

    @property
    def damage_begin(self) -> int | None:
        """Where the first damage begins."""
        return min((finding.begin for finding in (*self.found[:1], *self.passing[:1])), default=None)

    def add(self, finding: Finding) -> None:
        if finding.verdict is Verdict.transient:
            self.passing.append(finding)
            return
        joined = list(merge([*self.found[-1:], finding]))
        if len(self.found[:-1]) + len(joined) <= self.room:
            self.found[-1:] = joined
        else:
            self.found[-1] = Finding(self.found[-1].begin, finding.end, Verdict.skipped, layer=Layer.unknown)
            self.unlisted += 1


class StoreScrub:
    """Verifies one store, pass after pass."""

    def __init__(self, scrubber: Scrubber, store: StoreSettings) -> None:
        self._scrubber = scrubber
        self._store = store
        self._formats = scrubber.formats[store.path]
        self._key = f"store/{store.path}"
        self._progress: dict[str, Any] = {}
        self._trouble = ""
        self._committed_s = 0.0
        self._bucket = scrub.TokenBucket(scrub.RATE_MIN_BYTES_S, time.monotonic())
        self._pressure_read_s = 0.0
        self._waited_s = 0.0  # before pieces, in all
        self._reading = scrub.OwnReading(time.monotonic())
        scrubber.reading.append(self._reading)
        self._settle_ns = int(store.settle_s * 1e9)

    def run(self) -> None:
        try:
            while True:
                try:
                    self._pass()
                    self._idle()
                except OSError as error:
                    if str(error) != self._trouble:
                        log.error("store %s: %s; trying again", self._store.path, error)
                    self._trouble = str(error)
                    self._scrubber.wait(RETRY_S)
        except Stopped:
            pass

    # --- one pass ---------------------------------------------------------------------------------------------

    def _pass(self) -> None:
        self._begin_pass()
        done = self._progress["cursor"]  # where an earlier run of this pass stopped; None at its beginning
        self._bucket.rate_bytes_s = scrub.rate_bytes_s(self._store, self._progress["total_bytes"])
        for candidate in scrub.walk(self._store, self._unreadable):
            begin = 0
            if done is not None and candidate.parts <= tuple(done["parts"]):
                if candidate.parts != tuple(done["parts"]) or done["is_whole"]:
                    continue
                begin = done["offset_bytes"]
            self._settle_due()
            self._verify_suspects()
            self._verify(candidate, begin)
            self._commit_if_due()
        self._end_pass()

    def _begin_pass(self) -> None:
        """Goes on with a pass that was cut short, or begins a new one."""
        old, period_s = self._scrubber.state.get(self._key), self._store.period_days * scrub.DAY_S
        if old is not None and old["finished_ns"] is None:
            self._progress = {**old, "period_s": period_s}
            return
        now_ns = time.time_ns()
        total_bytes = sum(candidate.size_bytes for candidate in scrub.walk(self._store, self._unreadable))
        kept = old or {"first_seen_ns": now_ns, "started_ns": None, "bytes": 0, "verified": {}, "unverifiable": {}}
        self._progress = {
            **kept,
            "period_s": period_s,
            "started_ns": now_ns,
            "previous_started_ns": kept["started_ns"],
            "finished_ns": None,
            "oldest_ns": kept["started_ns"] or kept["first_seen_ns"],
            "cursor": None,
            "total_bytes": total_bytes,
            "done_bytes": 0,
            "unverifiable_so_far": {},
        }
        self._commit([], {})

    def _end_pass(self) -> None:
        progress = self._progress
        progress["finished_ns"] = time.time_ns()
        progress["oldest_ns"] = progress["started_ns"]
        progress["unverifiable"], progress["unverifiable_so_far"] = progress["unverifiable_so_far"], {}
        progress["cursor"] = None
        changes: Changes = {}
        for key, _ in self._own_items("open/") + self._own_items("settling/"):
            path = Path(key.partition("/")[2])
            if _is_gone(path):
                log.info("%s: gone, and its damage with it", path)
                changes[key] = None
        self._commit([], changes)

    def _idle(self) -> None:
        """Until the next pass is due."""
        started_ns = self._progress["started_ns"]
        due_ns = started_ns + int(self._store.period_days * scrub.DAY_S * 1e9)
        while started_ns <= time.time_ns() < due_ns:  # a clock that was set back mustn't mean a pause for years
            self._settle_due()
            self._verify_suspects()
            self._commit_if_due()
            self._scrubber.wait(min(IDLE_S, max(0.01, (due_ns - time.time_ns()) / 1e9)))

    def _verify_suspects(self) -> None:
        """After an error that may have spoilt what was written: the files written since their last check go first."""
        suspect_ns = suspicion.read(self._scrubber.config.agent.state_dir)
        if suspect_ns == self._progress.get("suspect_ns", 0):
            return
        log.warning("store %s: files written since their last check are verified first", self._store.path)
        for candidate in scrub.walk(self._store, self._unreadable):
            if _written_ns(candidate.path) >= self._checked_ns(candidate):
                self._verify(candidate, 0, is_in_turn=False)
        self._progress["suspect_ns"] = suspect_ns
        self._commit([], {})

    def _checked_ns(self, candidate: scrub.Candidate) -> int:
        """When the file was last verified, at the earliest: in this pass, or in the one before."""
        cursor = self._progress["cursor"]
        is_ended = self._progress["finished_ns"] is not None
        if is_ended or (cursor is not None and candidate.parts < tuple(cursor["parts"])):
            return int(self._progress["started_ns"])
        return int(self._progress["previous_started_ns"] or self._progress["first_seen_ns"])

    def _settle_due(self) -> None:
        """Looks again at the damage in files that were being written, if they have come to rest."""
        for key, entry in self._own_items("settling/"):
            if time.time_ns() < entry["due_ns"]:
                continue
            path = Path(key.removeprefix("settling/"))
            try:
                self._settle(key, path, entry)
            except OSError:  # gone, or no longer to be read: the pass will say so
                self._commit([], {key: None})

    def _settle(self, key: str, path: Path, entry: dict[str, Any]) -> None:
        fd = files.open_regular(path, follow=False)
        try:
            status = os.fstat(fd)
            format = _sealed(path, status) if entry["format"] == Sealed.NAME else self._formats.get(entry["format"])
            if format is None:  # it was declared, and is so no longer
                log.warning("%s: its format '%s' is no longer known; the next pass looks", path, entry["format"])
                self._commit([], {key: None})
            elif self._is_live(status, status):
                self._commit([], {key: {**entry, "due_ns": status.st_mtime_ns + self._settle_ns}})
            elif isinstance(format, str):
                self._forget_seal(path)
            else:
                file = _OpenFile(fd, path, format, status, entry["begin"], is_unchanged=False)
                self._scan(file, lambda _offset, _is_whole, _bytes: None)
        finally:
            os.close(fd)

    def _own_items(self, prefix: str) -> list[tuple[str, Any]]:
        items = self._scrubber.items(prefix)
        return [(key, entry) for key, entry in items if entry["store"] == str(self._store.path)]

    def _unreadable(self, path: Path, error: OSError) -> None:
        log.warning("%s: can't be read: %s", path, error.strerror)

    def _commit(self, faults: list[RecordFault], changes: Changes) -> None:
        self._scrubber.commit(faults, {**changes, self._key: dict(self._progress)})
        self._committed_s = time.monotonic()

    def _commit_if_due(self) -> None:
        if time.monotonic() - self._committed_s >= CHECKPOINT_S:
            self._commit([], {})

    # --- one file ---------------------------------------------------------------------------------------------

    def _verify(self, candidate: scrub.Candidate, begin: int, *, is_in_turn: bool = True) -> None:
        """Verifies a file from `begin` to its end; out of its turn, the pass is where it was."""
        content: list[int | str] = []

        def advance(offset_bytes: int, is_whole: bool, amount_bytes: int) -> None:
            if not is_in_turn:
                return
            self._progress["cursor"] = {
                "parts": list(candidate.parts),
                "offset_bytes": offset_bytes,
                "is_whole": is_whole,
                "content": content,
            }
            self._progress["done_bytes"] += amount_bytes

        try:
            fd = files.open_regular(candidate.path, follow=False)
            try:
                status = os.fstat(fd)
                format = self._format_of(fd, candidate.path, status)
                if isinstance(format, str):
                    self._pass_over(candidate.path, format, status.st_size, advance)
                    return
                done = self._progress["cursor"]
                content = [
                    *_content(status),
                    format.NAME,
                ]  # records of one format don't begin where those of another do
                is_unchanged = done is not None and done.get("content") == content
                self._scan(_OpenFile(fd, candidate.path, format, status, begin, is_unchanged), advance)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return
        except OSError as error:  # it must not keep the others from their turn
            self._unreadable(candidate.path, error)
            self._count_unverifiable("unreadable", candidate.size_bytes)
            advance(candidate.size_bytes, True, candidate.size_bytes)

    def _format_of(self, fd: int, path: Path, status: os.stat_result) -> Format | str:
        """What the file is judged by: the store's format, its seal, its content; or the reason why it can't be."""
        if self._store.format in self._formats:
            return self._formats[self._store.format]
        sealed = _sealed(path, status)
        if isinstance(sealed, Sealed):
            return sealed
        # told by the content, unless nothing sensible is left of it
        known = self._scrubber.state.get(f"open/{path}", {"format": ""})
        told = recognise(scrub.polite_reader(fd), status.st_size, self._formats) or self._formats.get(known["format"])
        return told or sealed or "unrecognised"

    def _pass_over(self, path: Path, reason: str, size_bytes: int, advance: Advance) -> None:
        if size_bytes:
            self._count_unverifiable(reason, size_bytes)
        self._forget_seal(path)
        advance(size_bytes, True, size_bytes)

    def _forget_seal(self, path: Path) -> None:
        """What was open in a file by its seal says nothing any more when that seal can't be used."""
        keys = (f"open/{path}", f"settling/{path}")
        state = self._scrubber.state
        changes: Changes = {key: None for key in keys if state.get(key, {}).get("format") == Sealed.NAME}
        if changes:
            log.info("%s: no longer what was sealed, so its damage is closed", path)
            self._commit([], changes)

    def _count_unverifiable(self, reason: str, size_bytes: int) -> None:
        so_far = self._progress["unverifiable_so_far"]
        self._progress["unverifiable_so_far"] = {**so_far, reason: so_far.get(reason, 0) + size_bytes}

    def _scan(self, file: _OpenFile, advance: Advance) -> None:
        """Judges the file from its `scan_begin` on; `advance` hears how far that is (offset, whole file?, bytes)."""
        begin, size = file.scan_begin, file.status.st_size
        start = file.format.resume_offset(begin, file.is_unchanged)
        chunks = self._timed(scrub.polite_chunks(file.fd, start, size, self._before_piece))
        section = self._section(file, begin)
        scanned = Scanned(file.fd, file.format, file.status, time.time(), self._before_piece)
        # An item ended at `begin`; if that lies within a block, the block may open with the rest of an earlier one.
        for item in diagnosed(scanned, chunks, offset=start, resumed=start < begin, begin=begin):
            if isinstance(item, Finding):
                if item.verdict is not Verdict.stale:  # leavings of an older log are no damage
                    section.add(item)
                continue
            section.records += item.records
            # Never just behind damage: what it is called may depend on both sides of it, which are then judged apart.
            if time.monotonic() - self._committed_s >= CHECKPOINT_S:
                faults, changes = self._close(file, section, item.end)
                advance(item.end, False, item.end - section.begin)
                self._commit(faults, changes)
                section = self._section(file, item.end)
        faults, changes = self._close(file, section, size)
        advance(size, True, size - section.begin)
        if faults or changes:
            self._commit(faults, changes)

    def _section(self, file: _OpenFile, begin: int) -> _Section:
        opened = self._scrubber.state.get(f"open/{file.path}", {"findings": []})["findings"]
        return _Section(begin, max(1, FINDINGS_PER_FILE_MAX - sum(entry["begin"] < begin for entry in opened)))

    def _timed(self, chunks: Iterator[memoryview | Unreadable]) -> Iterator[memoryview | Unreadable]:
        """The chunks, with a note of how long reading them took."""
        while True:
            begun_s, waited_s = time.monotonic(), self._waited_s
            chunk = next(chunks, None)
            self._reading.add(max(0.0, time.monotonic() - begun_s - (self._waited_s - waited_s)))
            if chunk is None:
                return
            yield chunk

    def _before_piece(self, size_bytes: int) -> None:
        begun_s = time.monotonic()
        self._scrubber.wait(self._bucket.delay_s(size_bytes, begun_s))
        if time.monotonic() - self._pressure_read_s >= PRESSURE_EVERY_S:
            self._reading.update(time.monotonic())
            pressure = scrub.io_pressure_percent(self._scrubber.config.agent.proc)
            others = scrub.pressure_of_others(pressure, [reading.percent for reading in self._scrubber.reading])
            self._scrubber.wait(scrub.back_off_s(others, self._store.pressure_max_percent))
            self._pressure_read_s = time.monotonic()
        self._waited_s += time.monotonic() - begun_s

    def _close(self, file: _OpenFile, section: _Section, end: int) -> tuple[list[RecordFault], Changes]:
        """Judges what was found in [section.begin, end) and counts what was verified."""
        verified = self._progress["verified"]
        count = verified.get(file.format.NAME, 0) + section.records
        self._progress["verified"] = {**verified, file.format.NAME: count}
        self._progress["bytes"] += max(0, end - section.begin)
        settling = f"settling/{file.path}"
        waiting = self._scrubber.state.get(settling)
        status = os.fstat(file.fd)
        begin = section.damage_begin
        if begin is not None and self._is_live(file.status, status):
            file.is_settling = True
            return [], {
                settling: {
                    "store": str(self._store.path),
                    "format": file.format.NAME,
                    "begin": min(begin, waiting["begin"]) if waiting else begin,
                    "due_ns": max(status.st_mtime_ns, time.time_ns() - self._settle_ns) + self._settle_ns,
                }
            }
        faults, changes = self._judge(file, section, end)
        is_last = end >= file.status.st_size
        if waiting and is_last and not file.is_settling and file.scan_begin <= waiting["begin"]:
            changes[settling] = None
        return faults, changes

    def _is_live(self, before: os.stat_result, after: os.stat_result) -> bool:
        """Is somebody writing it? Then damage may be half a write. A time far in the future is nobody's doing now."""
        has_changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
        return has_changed or abs(time.time_ns() - after.st_mtime_ns) < self._settle_ns

    def _judge(self, file: _OpenFile, section: _Section, end: int) -> tuple[list[RecordFault], Changes]:
        """The faults that are new, and the changes to what is open in the file."""
        documents = [finding_document(finding) for finding in section.found]
        if section.unlisted:
            documents[-1]["count"] = section.unlisted + 1
        opened = f"open/{file.path}"
        before = self._scrubber.state.get(opened, {"findings": []})["findings"]
        here_end = end if end < file.status.st_size else sys.maxsize  # what lay beyond the end of the file is gone
        here = [entry for entry in before if section.begin <= entry["begin"] < here_end]
        now_open = sorted([*(e for e in before if e not in here), *documents], key=lambda entry: int(entry["begin"]))
        changes: Changes = {}
        if now_open != before:
            healed = [entry for entry in here if entry not in documents]
            if healed:
                log.info("%s: %d stretches that were corrupt are so no longer", file.path, len(healed))
            entry = {"store": str(self._store.path), "format": file.format.NAME, "findings": now_open}
            changes[opened] = entry if now_open else None
        told = [*zip(documents, section.found, strict=True), *((finding_document(one), one) for one in section.passing)]
        new = [(document, finding.layer) for document, finding in told if document not in here]
        self._count_layers(file.format.NAME, new)
        return [self._fault(file, document, layer, changes) for document, layer in new], changes

    def _count_layers(self, form: str, told: list[tuple[dict[str, Any], Layer | None]]) -> None:
        found = self._progress.get("found", {})
        layers = dict(found.get(form, {}))
        for document, layer in told:
            name = str(layer or Layer.unknown)
            layers[name] = layers.get(name, 0) + document.get("count", 1)
        self._progress["found"] = {**found, form: layers}

    def _fault(self, file: _OpenFile, document: dict[str, Any], layer: Layer | None, changes: Changes) -> RecordFault:
        now_ns = time.time_ns()
        device = scrub.volume(self._scrubber.config.agent.proc, file.status.st_dev)
        key = f"volume/{device}"
        known = changes.get(key, self._scrubber.state.get(key))
        history = History.from_json(known) if known else History(since_ns=self._progress["first_seen_ns"])
        changes[key] = history.with_fault(now_ns).as_json()
        whole_ns = max(file.status.st_mtime_ns, self._progress["previous_started_ns"] or 0)
        log.warning("%s: bytes %d to %d: %s", file.path, document["begin"], document["end"], document["verdict"])
        detail = {name: value for name, value in document.items() if name not in ("stored", "computed", "count")}
        below = volume.errors(self._scrubber.config.agent.sysfs, device)
        detail |= {"volume": below} if below else {}
        return RecordFault(
            time_ns=now_ns,
            time_error_s=max(0, now_ns - whole_ns) / 1e9,
            host=self._scrubber.host,
            device=device,
            count=document.get("count", 1),
            novel=history.is_novel(now_ns),
            detail={"path": _readable(file.path), "format": file.format.NAME, **detail, "layer": str(layer)},
        )


def finding_document(finding: Finding) -> dict[str, Any]:
    """A finding as JSON; two are the same damage iff their documents are equal, whatever layer each look found."""
    flip = finding.flip
    return {
        "begin": finding.begin,
        "end": finding.end,
        "verdict": str(finding.verdict),
        "stored": finding.stored,
        "computed": finding.computed,
        "flip": {"offset_bytes": flip.offset_bytes, "bit": flip.bit, "stored": flip.stored} if flip else None,
    }


def _sealed(path: Path, status: os.stat_result) -> Sealed | str:
    """What the file's seal compares it with; or why it compares nothing, empty where there is no seal."""
    beside = seal_of.path_for(path)
    if not beside.is_file():
        return ""
    try:
        seal = seal_of.read(beside)
    except seal_of.SealDamaged:  # told as damage to the seal, which is a log, in its own turn
        return "seal-damaged"
    except OSError:
        return "seal-unreadable"
    # The SHA-256 of a whole file would cost several times the CPU of all else; parts see whatever rots.
    return "changed-since-sealed" if seal.state_of(status) is State.changed else Sealed(seal, is_whole=False)


def _content(status: os.stat_result) -> list[int]:
    """Equal as long as a file is the same one and nobody wrote to it."""
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _written_ns(path: Path) -> int:
    """When the file was last written; 0 if it has gone."""
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _is_gone(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # not to be seen now, which is another thing
        return False


def _readable(path: Path) -> str:
    """A file's name may be any bytes; a fault line is Unicode."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _kernel(choice: str) -> str:
    """AVX-512 may lower the clock of all cores of older processors; at the rate of a scrub SSE4.2 is plenty."""
    if choice != "auto":
        return choice
    return "sse4.2" if "sse4.2" in crc32c.kernels() else crc32c.kernels()[0]


def _be_nice() -> None:
    """Others come first. On schedulers that know no idle class (mq-deadline) only the rate limit helps."""
    process = psutil.Process()
    for what, lower in (
        ("nice", lambda: process.nice(NICE)),
        ("ionice", lambda: process.ionice(psutil.IOPRIO_CLASS_IDLE)),
    ):
        try:
            lower()
        except (psutil.Error, OSError) as error:
            log.warning("can't lower the priority (%s): %s", what, error)
