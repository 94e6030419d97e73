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

from agent import host, scrub, status, suspicion, volume
from agent.alarm import Alarm
from agent.config import Config, StoreSettings, reloaded
from agent.journal import Journal
from agent.novelty import History
from agent.reconcile import Changes
from agent.report import RecordFault
from checksum import crc32c, files, systemd
from checksum import seal as seal_of
from checksum.diagnose import Scanned, diagnosed
from checksum.finding import Finding, Layer, Unreadable, Verdict, merge
from checksum.formats import Format, ToldByContent, recognise
from checksum.seal import Sealed, State
from checksum.settings import SettingsError

CHECKPOINT_S = 10.0
RETRY_S = 5.0
IDLE_S = 1.0
TEND_S = 5.0  # how often the main thread looks after the threads of the stores
SILENT_S = 60.0  # a read that takes longer is said to hang
PRESSURE_EVERY_S = 1.0
FINDINGS_PER_FILE_MAX = 1000  # of one file; the rest of a file so damaged is one fault with a count
NICE = 10

Advance = Callable[[int, bool, int], None]
Formats = dict[Path, dict[str, ToldByContent]]  # by store

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The store is to be scrubbed no further."""


class Scrubber:
    """Owns the journal and the threads. `reread` gives the configuration as it is at a reload."""

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None) -> None:
        self.config = config
        self._reread = reread or (lambda: config)
        self._config_trouble = ""
        self.host = config.agent.host or host.name()
        self.formats = _formats(config)
        self._journal = Journal(
            config.scrub_journal_dir, config.journal_max_bytes, host.machine_id(config.agent.machine_id)
        )
        self._lock = threading.Lock()
        self._alarm = Alarm()
        self._scrubs: list[StoreScrub] = []
        self._is_forgetful = True  # what is remembered of stores that are no longer configured waits to be forgotten

    def run(self) -> None:
        """Until `stop` is called.

        The main thread feeds the watchdog, and only while it gets the lock of the journal and no thread has died. A
        read that hangs is another matter: to start again wouldn't end it, and would keep the other stores waiting.
        """
        _be_nice()
        crc32c.use(_kernel(self.config.agent.checksum_kernel))
        self._tend()
        systemd.notify("READY=1", self._status_line())
        while True:
            self._alarm.wait(min(TEND_S, systemd.watchdog_interval_s() or TEND_S), hears_events=False)
            if self._alarm.is_stopped:
                break
            if self._alarm.takes_reload():
                self._reload()
            self._tend()
            systemd.notify("WATCHDOG=1", self._status_line())
        systemd.notify("STOPPING=1")
        self._end(self._scrubs)
        with self._lock:
            self._journal.close()
        self._alarm.close()

    def stop(self) -> None:
        """Safe in a signal handler, as is `reload`."""
        self._alarm.stop()

    def reload(self) -> None:
        """Has the configuration read again."""
        self._alarm.ask_for_reload()

    def _reload(self) -> None:
        """Takes over what may change while it runs; a configuration that can't be used changes nothing.

        A store whose settings stay is left alone, one with new ones goes on at its cursor.
        """
        systemd.reloading()
        try:
            config, waiting = reloaded(self.config, self._reread())
            formats = _formats(config)
        except (SettingsError, OSError) as error:
            self._config_trouble = f"{error}; the former configuration stays in force"
            log.error("%s", self._config_trouble)
        else:
            self.config, self.formats, self._config_trouble, self._is_forgetful = config, formats, "", True
            log.info("configuration read again")
            if waiting:
                log.warning("changed, but in force only after a restart: %s", ", ".join(waiting))
        systemd.notify("READY=1", self._status_line())

    def _tend(self) -> None:
        """Ends the threads that don't fit the configuration, and starts those that it lacks."""
        stores, formats = self.config.stores, self.formats
        self._end([each for each in self._scrubs if not (each.is_ending or each.fits(stores, formats))])
        for each in self._scrubs:
            each.say_if_silent(time.monotonic())
        self._scrubs = [each for each in self._scrubs if each.is_running]
        if self._is_forgetful:
            self._forget_other_stores()
        for store in stores:
            if all(each.store.path != store.path for each in self._scrubs):
                self._scrubs.append(StoreScrub(self, store))
                self._scrubs[-1].start()

    def _end(self, scrubs: "list[StoreScrub]") -> None:
        for each in scrubs:
            each.stop()
        for each in scrubs:
            each.join()

    def _status_line(self) -> str:
        troubles = {str(each.store.path): each.trouble for each in self._scrubs}
        with self._lock:
            line = status.verifying(self._journal.state, troubles)
        return "STATUS=" + "; ".join(filter(None, (line, self._config_trouble)))

    @property
    def reading(self) -> "list[scrub.OwnReading]":
        """How much each store reads."""
        return [each.reading for each in self._scrubs]

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
        owners = {key: value["store"] for key, value in self.items("open/") + self.items("settling/")}
        owners |= {key: key.removeprefix("store/") for key, _ in self.items("store/")}
        forgotten = {key: None for key, store in owners.items() if store not in stores}
        try:
            if forgotten:
                self.commit([], forgotten)
        except OSError:  # the threads of the stores say so
            return
        self._is_forgetful = any(str(each.store.path) not in stores for each in self._scrubs)

    def commit(self, faults: list[RecordFault], changes: Changes) -> None:
        """Returns when the faults and changes are durable.

        Raises:
            OSError: nothing was written.
        """
        with self._lock:
            self._journal.append(faults, changes)


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
    """Verifies one store, pass after pass, in a thread of its own."""

    def __init__(self, scrubber: Scrubber, store: StoreSettings) -> None:
        self._scrubber = scrubber
        self.store = store
        self._formats = scrubber.formats[store.path]
        self._key = f"store/{store.path}"
        self._progress: dict[str, Any] = {}
        self._trouble = ""
        self._committed_s = 0.0
        self._bucket = scrub.TokenBucket(scrub.RATE_MIN_BYTES_S, time.monotonic())
        self._pressure_read_s = 0.0
        self._waited_s = 0.0  # before pieces, in all
        self.reading = scrub.OwnReading(time.monotonic())
        self._settle_ns = int(store.settle_s * 1e9)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"scrub {store.path}", daemon=True)
        self._busy_since_s: float | None = None  # None while it waits by its own will
        self._is_silent = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        """A thread in a hung read can't be waited for; its cursor is on disk."""
        self._thread.join(timeout=RETRY_S)

    @property
    def is_ending(self) -> bool:
        return self._stop.is_set()

    @property
    def is_running(self) -> bool:
        """Whether it must be left alone.

        Raises:
            RuntimeError: it ended without being asked to.
        """
        if not self._thread.is_alive() and not self.is_ending:
            raise RuntimeError(f"the thread of store {self.store.path} has died")
        return self._thread.is_alive()

    def fits(self, stores: tuple[StoreSettings, ...], formats: Formats) -> bool:
        return self.store in stores and self._formats == formats[self.store.path]

    @property
    def trouble(self) -> str:
        """One sentence; empty while all is well."""
        return "a read hangs" if self._is_silent else self._trouble

    def say_if_silent(self, now_s: float) -> None:
        """One line when a read begins to hang, one when it is over."""
        since_s = self._busy_since_s
        is_silent = since_s is not None and now_s - since_s > SILENT_S
        if is_silent and not self._is_silent:
            log.error("store %s: no answer to a read for %.0f s; the other stores go on", self.store.path, SILENT_S)
        elif self._is_silent and not is_silent:
            log.info("store %s: answers again", self.store.path)
        self._is_silent = is_silent

    def wait(self, seconds: float) -> None:
        """Raises Stopped if the store is to be scrubbed no further."""
        self._busy_since_s = None
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped
        self._busy_since_s = time.monotonic()

    def _run(self) -> None:
        self._busy_since_s = time.monotonic()
        try:
            while True:
                try:
                    self._pass()
                    if self._trouble:
                        log.info("store %s: can be read again", self.store.path)
                    self._trouble = ""
                    self._idle()
                except OSError as error:
                    trouble = error.strerror or str(error)
                    if trouble != self._trouble:
                        log.error("store %s: %s; trying again", self.store.path, trouble)
                    self._trouble = trouble
                    self.wait(RETRY_S)
        except Stopped:
            pass

    # --- one pass ---------------------------------------------------------------------------------------------

    def _pass(self) -> None:
        self._begin_pass()
        done = self._progress["cursor"]  # where an earlier run of this pass stopped; None at its beginning
        self._bucket.rate_bytes_s = scrub.rate_bytes_s(self.store, self._progress["total_bytes"])
        for candidate in scrub.walk(self.store, self._unreadable):
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
        old, period_s = self._scrubber.state.get(self._key), self.store.period_days * scrub.DAY_S
        if old is not None and old["finished_ns"] is None:
            self._progress = {**old, "period_s": period_s}
            return
        now_ns = time.time_ns()
        total_bytes = sum(candidate.size_bytes for candidate in scrub.walk(self.store, self._unreadable))
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
        due_ns = started_ns + int(self.store.period_days * scrub.DAY_S * 1e9)
        while started_ns <= time.time_ns() < due_ns:  # a clock that was set back mustn't mean a pause for years
            self._settle_due()
            self._verify_suspects()
            self._commit_if_due()
            self.wait(min(IDLE_S, max(0.01, (due_ns - time.time_ns()) / 1e9)))

    def _verify_suspects(self) -> None:
        """After an error that may have spoilt what was written: the files written since their last check go first."""
        suspect_ns = suspicion.read(self._scrubber.config.agent.state_dir)
        if suspect_ns == self._progress.get("suspect_ns", 0):
            return
        log.warning("store %s: files written since their last check are verified first", self.store.path)
        for candidate in scrub.walk(self.store, self._unreadable):
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
                self._scan(file, lambda _offset, _is_whole, _bytes: None, _nothing)
        finally:
            os.close(fd)

    def _own_items(self, prefix: str) -> list[tuple[str, Any]]:
        items = self._scrubber.items(prefix)
        return [(key, entry) for key, entry in items if entry["store"] == str(self.store.path)]

    def _unreadable(self, path: Path, error: OSError) -> None:
        log.warning("%s: can't be read: %s", path, error.strerror)

    def _commit(self, faults: list[RecordFault], changes: Changes) -> None:
        """Returns when all is durable; on a full disk it waits, since nothing may be lost."""
        is_told = False
        while True:
            try:
                self._scrubber.commit(faults, {**changes, self._key: dict(self._progress)})
            except OSError as error:
                if not is_told:
                    log.error("store %s: scrubbing waits, the journal can't be written: %s", self.store.path, error)
                is_told = True
                self.wait(RETRY_S)
            else:
                self._committed_s = time.monotonic()
                return

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
                content = [*_content(status), format.NAME]  # records of another format begin elsewhere
                is_unchanged = done is not None and done.get("content") == content
                pause = self._verify_suspects if is_in_turn else _nothing
                self._scan(_OpenFile(fd, candidate.path, format, status, begin, is_unchanged), advance, pause)
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
        if self.store.format in self._formats:
            return self._formats[self.store.format]
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

    def _scan(self, file: _OpenFile, advance: Advance, pause: Callable[[], None]) -> None:
        """Judges the file from its `scan_begin` on.

        `advance` hears how far that is (offset, whole file?, bytes); `pause` may do something else in between.
        """
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
                pause()
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
            self.reading.add(max(0.0, time.monotonic() - begun_s - (self._waited_s - waited_s)))
            if chunk is None:
                return
            yield chunk

    def _before_piece(self, size_bytes: int) -> None:
        begun_s = time.monotonic()
        self.wait(self._bucket.delay_s(size_bytes, begun_s))
        if time.monotonic() - self._pressure_read_s >= PRESSURE_EVERY_S:
            self.reading.update(time.monotonic())
            pressure = scrub.io_pressure_percent(self._scrubber.config.agent.proc)
            others = scrub.pressure_of_others(pressure, [reading.percent for reading in self._scrubber.reading])
            self.wait(scrub.back_off_s(others, self.store.pressure_max_percent))
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
                    "store": str(self.store.path),
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
            entry = {"store": str(self.store.path), "format": file.format.NAME, "findings": now_open}
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
        device = volume.device_of(self._scrubber.config.agent.proc, file.status.st_dev)
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


def _nothing() -> None:
    pass


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


def _formats(config: Config) -> Formats:
    return {store.path: scrub.formats_of(store) for store in config.stores}


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
    """Others come first. On schedulers that know no idle class (mq-deadline) only the rate limit helps.

    A service manager may have seen to it, and may forbid it to the process itself.
    """
    process = psutil.Process()
    for what, is_low, lower in (
        ("nice", lambda: process.nice() >= NICE, lambda: process.nice(NICE)),
        (
            "ionice",
            lambda: process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE,
            lambda: process.ionice(psutil.IOPRIO_CLASS_IDLE),
        ),
    ):
        try:
            if not is_low():
                lower()
        except (psutil.Error, OSError) as error:
            log.warning("can't lower the priority (%s): %s", what, error)
