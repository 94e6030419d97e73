"""A history file: NDJSON lines of faults, alive lines and changes, in any order; and its replay.

Enters: the path of the file and the inventory's cluster names. Leaves: a History sorted by time, with every line that
couldn't be used counted and named, and the revisions that the correlator makes of it. Damage never stops the reading.
No clock is read: now is the last line's time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from agent.report import AgentHeader, Alive, Change, Fault, ReportError, decode
from collectors.correlator import Correlator
from collectors.minutes import DAY_MIN, DAY_NS, MINUTE_NS, minute_of
from collectors.population import Attributes, victim_of
from collectors.revision import Revision

Usable = Fault | Alive | Change  # the kinds of line a history may hold

LINE_BYTES_MAX = 1 << 20
TROUBLES_KEPT = 20
GZIP_MAGIC = b"\x1f\x8b"
SPAN_MAX_NS = 400 * DAY_NS  # a line further than this from the middle one has a broken time


@dataclass(slots=True)
class History:
    """Faults, alive lines and changes, each sorted by time; `troubles` are sentences about bad lines."""

    faults: list[Fault] = field(default_factory=list)
    alive: list[Alive] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    bad_lines: int = 0
    refused: dict[str, list[int]] = field(default_factory=dict)  # reason -> its first line, number of lines
    repeated: int = 0  # faults that came again under their journal and seq: each counts once
    last_time_ns: int | None = None  # of the latest usable line; None if there is none

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that the file speaks of; an alive line without streams means all of them."""
        named = {fault.stream for fault in self.faults}
        named.update(stream for alive in self.alive for stream in alive.streams or ())
        return tuple(sorted(named))

    @property
    def troubles(self) -> list[str]:
        """Why lines couldn't be used, each reason once, the first reasons only."""
        return [
            f"line {first}{f' and {number - 1} more' if number > 1 else ''}: {why}"
            for why, (first, number) in self.refused.items()
        ]

    @property
    def unnamed(self) -> int:
        """How many bad lines `troubles` doesn't speak of."""
        return self.bad_lines - sum(number for _, number in self.refused.values())

    def refuse(self, number: int, why: str) -> None:
        self.bad_lines += 1
        if why in self.refused or len(self.refused) < TROUBLES_KEPT:
            self.refused.setdefault(why, [number, 0])[1] += 1


def read(path: Path, cluster_names: Sequence[str]) -> History:
    """The history at `path`.

    Raises:
        OSError: it can't be read.
    """
    history = History()
    taken = sorted(usable_lines(path, cluster_names, history), key=lambda item: (item[1].time_ns, item[0]))
    host_of: dict[tuple[str, int], str] = {}
    for number, line in taken:
        if abs(line.time_ns - taken[len(taken) // 2][1].time_ns) > SPAN_MAX_NS:
            history.refuse(number, f"time_ns {line.time_ns} lies more than 400 days from the others")
        elif _is_new(number, line, host_of, history):
            _keep(line, history)
    return history


def usable_lines(path: Path, cluster_names: Sequence[str], history: History) -> Iterator[tuple[int, Usable]]:
    """Number and content of each line that can be used, in the order of the file; `history` is told of the others.

    Raises:
        OSError: the file can't be read.
    """
    known = frozenset(cluster_names)
    with path.open("rb") as file:
        if file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC):
            history.refuse(1, "compressed by gzip; unpack it first")
            return
        for number, text in _lines(file):
            try:
                line = _usable(text, known)
            except ReportError as error:
                history.refuse(number, str(error))
            else:
                yield number, line


def watching(history: History, stream: str, cluster_names: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
    """First minute and watching hosts [minutes, clusters] of one stream, a day at a time, to the file's last minute.

    An alive line holds from its minute until the cluster's next; before its first a cluster isn't watching.
    """
    if not history.alive or history.last_time_ns is None:
        return
    column = {name: index for index, name in enumerate(cluster_names)}
    hosts = np.zeros((1, len(cluster_names)), np.int64)
    lines = deque(history.alive)
    end = minute_of(history.last_time_ns) + 1
    for begin in range(minute_of(lines[0].time_ns), end, DAY_MIN):
        hosts = np.tile(hosts[-1], (min(DAY_MIN, end - begin), 1))
        while lines and minute_of(lines[0].time_ns) < begin + DAY_MIN:
            alive = lines.popleft()
            hosts[minute_of(alive.time_ns) - begin :, column[alive.cluster]] = hosts_watching(alive, stream)
        yield begin, hosts


def hosts_watching(alive: Alive, stream: str) -> int:
    """How many hosts watch the stream; a line that names no streams speaks of all."""
    return alive.hosts_up if alive.streams is None else alive.streams.get(stream, 0)


def replay(
    history: History, correlator: Correlator, attributes: Callable[[Fault], Attributes] = lambda fault: ()
) -> Iterator[Revision]:
    """What a live correlator would have said, stepping at the end of each minute, oldest first.

    `attributes` are those of a fault's host. Minutes in which nothing arrived are stepped over: they can't change
    anything.
    """
    if history.last_time_ns is None:
        return
    for change in history.changes:
        correlator.take_change(change)
    for stream in history.streams:
        for first, hosts in watching(history, stream, correlator.minutes.cluster_names):
            correlator.minutes.set_watching(stream, first, hosts)
    minute = None  # of the fault that was counted last but not yet stepped over
    for fault in history.faults:
        if minute is not None and minute_of(fault.time_ns) > minute:
            yield from correlator.step((minute + 1) * MINUTE_NS - 1)
            minute = None
        if correlator.minutes.observe(fault):
            minute = minute_of(fault.time_ns)
            correlator.victims.add(victim_of(fault, attributes(fault)))
    yield from correlator.step(history.last_time_ns)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Number and text of each line that isn't blank; of an endless one only its beginning."""
    number = 0
    while text := file.readline(LINE_BYTES_MAX):
        number += 1
        whole = text
        while len(whole) == LINE_BYTES_MAX and not whole.endswith(b"\n"):
            whole = file.readline(LINE_BYTES_MAX)
        if text.strip():
            yield number, text


def _usable(text: bytes, cluster_names: frozenset[str]) -> Usable:
    line = decode(text)
    if isinstance(line, AgentHeader):
        raise ReportError("a line of kind 'agent' doesn't belong in a history")
    if isinstance(line, Change):
        return line
    if line.cluster is None:
        raise ReportError("the line lacks the key 'cluster', which every line of a history needs")
    if line.cluster not in cluster_names:
        raise ReportError(f"cluster '{line.cluster}' isn't in the inventory, or has no coordinates there")
    return line


def _is_new(number: int, line: Usable, host_of: dict[tuple[str, int], str], history: History) -> bool:
    """False for a fault whose journal and seq came before; `history` is told of it."""
    if isinstance(line, Alive | Change) or line.journal is None or line.seq is None:
        return True
    key = line.journal, line.seq
    if key not in host_of:
        host_of[key] = line.host
        return True
    if host_of[key] == line.host:
        history.repeated += 1
    else:
        sentence = f"fault {line.seq} of journal {line.journal} is seen at two hosts, {host_of[key]} and {line.host}"
        history.refuse(number, sentence)
    return False


def _keep(line: Usable, history: History) -> None:
    match line:
        case Alive():
            history.alive.append(line)
        case Change():
            history.changes.append(line)
        case _:
            history.faults.append(line)
    history.last_time_ns = line.time_ns
