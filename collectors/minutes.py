"""Minutes: how many novel faults and how many watching hosts each cluster had, minute by minute.

Enters: faults, one by one or in bulk, and blocks of watching hosts. Leaves: the same for a range of minutes, sparse or
dense. A minute is `time_ns // 60e9`. A cluster with no watching host in a minute is masked there: it has no exposure
and its counts are ignored; nothing is ever filled with zeros. Faults are kept sparse and hours of unchanged watching
as one row, so that a senseless time or a calm year costs no memory.
Pure: no clock, no input or output. Not safe for two threads at once.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agent.report import STREAMS, Fault
from collectors.inventory import Cluster

WINDOWS_MIN = (3, 5, 10, 15, 30, 60)
SCANNED_STREAMS = ("dram", "sram", "gpu", "core", "host")  # unless configured otherwise; the others are only shown
TIME_ERROR_MAX_S = WINDOWS_MIN[-1] * 60
MINUTE_NS = 60_000_000_000
HOUR_MIN = 60
DAY_MIN = 24 * HOUR_MIN
DAY_NS = DAY_MIN * MINUTE_NS


def minute_of(time_ns: int) -> int:
    return time_ns // MINUTE_NS


@dataclass(frozen=True, slots=True)
class Events:
    """Novel faults, one entry each, all [faults]: its minute, its smallest window's index, its cluster's column."""

    minutes: np.ndarray
    windows: np.ndarray
    columns: np.ndarray


class Minutes:
    """Novel counts and watching hosts per (stream, minute, cluster).

    Each fault is kept with the smallest window that is as long as its time error, since it may only be used in
    windows at least that long.
    """

    def __init__(self, clusters: Sequence[Cluster]) -> None:
        self.cluster_names = tuple(cluster.name for cluster in clusters)
        self._column = {name: column for column, name in enumerate(self.cluster_names)}
        self._faults: dict[str, dict[int, array[int]]] = {}  # stream -> hour -> packed faults
        self._watching: dict[str, _Watching] = {}
        self._oldest = 0  # what is earlier was forgotten
        self._changed_from: int | None = None
        self._added: array[int] = array("q")

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that some cluster has watched."""
        return tuple(stream for stream in STREAMS if stream in self._watching)

    @property
    def first_minute(self) -> int | None:
        """The first minute in which any cluster watched any stream."""
        firsts = [watching.first_watched for watching in self._watching.values()]
        first = min((first for first in firsts if first is not None), default=None)
        return None if first is None else max(first, self._oldest)

    def observe(self, fault: Fault) -> bool:
        """Counts one fault; false if it can't be used (not novel, too vague a time, an unknown cluster)."""
        if not fault.novel or fault.time_error_s > TIME_ERROR_MAX_S:
            return False
        column = self._column.get(fault.cluster or "")
        if column is None:
            return False
        window = next(i for i, window_min in enumerate(WINDOWS_MIN) if fault.time_error_s <= window_min * 60)
        minute = minute_of(fault.time_ns)
        hour = self._faults.setdefault(fault.stream, {}).setdefault(minute // HOUR_MIN, array("q"))
        hour.append((minute % HOUR_MIN * len(WINDOWS_MIN) + window) * len(self._column) + column)
        self._added.append(minute)
        self._note_change(minute)
        return True

    def add_counts(
        self, stream: str, minutes: np.ndarray, columns: np.ndarray, numbers: np.ndarray, window: int = 0
    ) -> None:
        """Counts faults in bulk: `numbers` novel faults in `minutes` at clusters `columns`, all [n], whole numbers.

        `window` is the index in WINDOWS_MIN of the smallest window that is as long as their time error.
        """
        minutes, columns = (np.repeat(values, numbers).astype(np.int64) for values in (minutes, columns))
        if not len(minutes):
            return
        order = np.argsort(minutes, kind="stable")
        minutes, columns = minutes[order], columns[order]
        packed = (minutes % HOUR_MIN * len(WINDOWS_MIN) + window) * len(self._column) + columns
        hours, starts = np.unique(minutes // HOUR_MIN, return_index=True)
        by_hour = self._faults.setdefault(stream, {})
        for hour, part in zip(hours.tolist(), np.split(packed, starts[1:]), strict=True):
            by_hour.setdefault(hour, array("q")).frombytes(part.tobytes())
        self._added.frombytes(minutes.tobytes())
        self._note_change(int(minutes[0]))

    def set_watching(self, stream: str, first_minute: int, hosts: np.ndarray) -> None:
        """Overwrites the watching hosts of `stream` from `first_minute` on; hosts[minutes, clusters]."""
        assert hosts.ndim == 2 and hosts.shape[1] == len(self.cluster_names), hosts.shape
        if stream not in self._watching:
            if not hosts.any():
                return
            self._watching[stream] = _Watching(len(self.cluster_names))
        changed = self._watching[stream].overwrite(first_minute, hosts)
        if changed is not None:
            self._note_change(changed)

    def events(self, stream: str, first_minute: int, end_minute: int) -> Events:
        """The faults of the range that fell into watched minutes, in no particular order."""
        first_minute = max(first_minute, self._oldest)
        faults = self._faults.get(stream, {})
        parts = [
            self._unpacked(stream, hour, np.frombuffer(faults[hour], np.int64))
            for hour in range(first_minute // HOUR_MIN, -(-end_minute // HOUR_MIN))
            if hour in faults
        ]
        if not parts:
            nothing = np.zeros(0, np.int64)
            return Events(nothing, nothing, nothing)
        minutes, windows, columns = (np.concatenate(values) for values in zip(*parts, strict=True))
        inside = (minutes >= first_minute) & (minutes < end_minute)
        return Events(minutes[inside], windows[inside], columns[inside])

    def counts(self, stream: str, first_minute: int, end_minute: int) -> np.ndarray:
        """Novel counts [windows, minutes, clusters] of the range; entry w holds what window WINDOWS_MIN[w] may use."""
        events = self.events(stream, first_minute, end_minute)
        counts = np.zeros((len(WINDOWS_MIN), end_minute - first_minute, len(self.cluster_names)), np.float32)
        np.add.at(counts, (events.windows, events.minutes - first_minute, events.columns), 1)
        return counts.cumsum(axis=0, dtype=np.float32)

    def watching(self, stream: str, first_minute: int, end_minute: int) -> np.ndarray:
        """Watching hosts [minutes, clusters] of the range; 0 where nobody watched or nothing is known."""
        hosts = np.zeros((end_minute - first_minute, len(self.cluster_names)), np.int64)
        known_from = max(first_minute, self._oldest)
        if stream in self._watching and known_from < end_minute:
            hosts[known_from - first_minute :] = self._watching[stream].read(known_from, end_minute)
        return hosts

    def take_changed(self) -> int | None:
        """The first minute that got other data since the last call; None if none did."""
        changed, self._changed_from = self._changed_from, None
        return changed

    def take_added(self) -> np.ndarray:
        """The minutes of the faults that were counted since the last call."""
        added, self._added = self._added, array("q")
        return np.frombuffer(added, np.int64)

    def forget_before(self, minute: int) -> None:
        """Drops everything older; cheap to call often."""
        if minute <= self._oldest:
            return
        passed, self._oldest = self._oldest // HOUR_MIN, minute
        if minute // HOUR_MIN == passed:
            return
        for faults in self._faults.values():
            for old in [hour for hour in faults if hour < minute // HOUR_MIN]:
                del faults[old]
        for watching in self._watching.values():
            watching.hours = {hour: hosts for hour, hosts in watching.hours.items() if hour >= minute // HOUR_MIN}

    def _unpacked(self, stream: str, hour: int, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rest, columns = np.divmod(packed, len(self._column))
        minutes, windows = np.divmod(rest, len(WINDOWS_MIN))
        hosts = self._watching[stream].hours.get(hour) if stream in self._watching else None
        if hosts is None:
            return packed[:0], packed[:0], packed[:0]
        watched = hosts[minutes if len(hosts) > 1 else 0, columns] > 0
        return minutes[watched] + hour * HOUR_MIN, windows[watched], columns[watched]

    def _note_change(self, minute: int) -> None:
        self._changed_from = minute if self._changed_from is None else min(minute, self._changed_from)


class _Watching:
    """One stream's watching hosts: for each hour [60, clusters], or [1, clusters] while nothing changes in it."""

    def __init__(self, clusters: int) -> None:
        self.first_watched: int | None = None  # the first minute that ever had a host
        self.hours: dict[int, np.ndarray] = {}
        self._clusters = clusters

    def overwrite(self, first_minute: int, hosts: np.ndarray) -> int | None:
        """The first minute whose value became another, or None."""
        changed = None
        for hour, at, inside in _hours(first_minute, first_minute + len(hosts)):
            before = self._hour(hour)
            after = before.copy()
            after[inside] = hosts[at]
            different = np.flatnonzero((before != after).any(axis=1))
            if len(different):
                self.hours[hour] = after[:1].copy() if (after == after[0]).all() else after
                changed = hour * HOUR_MIN + int(different[0]) if changed is None else changed
        watched = np.flatnonzero(hosts.any(axis=1))
        if len(watched):
            first = first_minute + int(watched[0])
            self.first_watched = first if self.first_watched is None else min(first, self.first_watched)
        return changed

    def read(self, first_minute: int, end_minute: int) -> np.ndarray:
        out = np.zeros((end_minute - first_minute, self._clusters), np.int64)
        for hour, at, inside in _hours(first_minute, end_minute):
            if hour in self.hours:
                hosts = self.hours[hour]
                out[at] = hosts if len(hosts) == 1 else hosts[inside]
        return out

    def _hour(self, hour: int) -> np.ndarray:
        hosts = self.hours.get(hour, np.zeros((1, self._clusters), np.int32))
        return np.broadcast_to(hosts, (HOUR_MIN, self._clusters))


def _hours(first_minute: int, end_minute: int) -> Iterator[tuple[int, slice, slice]]:
    """Each hour that the range touches: its number, its part of the range, the range's part of it."""
    for hour in range(first_minute // HOUR_MIN, -(-end_minute // HOUR_MIN)):
        begin, end = max(first_minute, hour * HOUR_MIN), min(end_minute, (hour + 1) * HOUR_MIN)
        yield (
            hour,
            slice(begin - first_minute, end - first_minute),
            slice(begin - hour * HOUR_MIN, end - hour * HOUR_MIN),
        )
