"""An import: a history file goes into the collector's store, a batch at a time, however large it is.

Enters: the path of the file, the inventory, the store, the time. Leaves: faults, exposure and changes in the store, and
what became of each line. Old alive lines are kept, since each holds until its cluster's next; everything else that is
older than the store keeps is only counted, and what lies in the future is refused. Reads no clock.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.report import Alive, Change, Fault
from collectors.history import SPAN_MAX_NS, History, Usable, hosts_watching, usable_lines
from collectors.inventory import Inventory
from collectors.minutes import MINUTE_NS, minute_of
from collectors.population import FleetAttributes
from collectors.store import Store

BATCH = 10_000  # faults per transaction: a running collector waits for one batch, not for the file


@dataclass(slots=True)
class Imported:
    """What became of the lines; `history` holds the alive lines, the changes and the sentences about bad lines."""

    history: History = field(default_factory=History)
    new: int = 0
    known: int = 0
    old: int = 0
    changes: list[tuple[int, Change]] = field(default_factory=list)  # as they were read, with their line numbers
    streams: set[str] = field(default_factory=set)  # that the file speaks of


def import_history(path: Path, fleet: Inventory, store: Store, now_ns: int, oldest_ns: int) -> Imported:
    """Puts the lines of the file into the store; faults that are in it already change nothing.

    Raises:
        OSError: the file can't be read; what was read is stored.
    """
    done = Imported()
    attributes = FleetAttributes(fleet, {})
    store.begin_import()
    faults = _faults(path, fleet, done, now_ns, oldest_ns)
    while batch := list(itertools.islice(faults, BATCH)):
        new = store.import_faults((fault, attributes.of(fault)) for fault in batch)
        done.new += new
        done.known += len(batch) - new
    done.history.alive.sort(key=lambda line: line.time_ns)
    for number, change in sorted(done.changes, key=lambda item: item[1].time_ns):
        kept = store.record_change(change)
        if kept == change:
            done.history.changes.append(change)
        else:
            verb = {"open": "opened", "close": "closed"}[change.action]
            done.history.refuse(number, f"change '{change.id}' was {verb} before, for cohort '{kept.cohort}'")
    return done


def exposure(done: Imported, oldest_ns: int) -> Iterator[tuple[str, str, int, int, int]]:
    """(cluster, stream, begin_minute, end_minute, hosts) of each stretch of minutes with the same watching hosts.

    An alive line holds from its minute until the cluster's next, or through the file's last minute.
    """
    if done.history.last_time_ns is None:
        return
    end = minute_of(done.history.last_time_ns) + 1
    lines: dict[str, list[Alive]] = {}
    for line in done.history.alive:
        lines.setdefault(line.cluster, []).append(line)
    for cluster, alive in lines.items():
        for stream in sorted(done.streams):
            for begin, until, hosts in _stretches(alive, stream, end):
                begin = max(begin, minute_of(oldest_ns))
                if hosts and begin < until:
                    yield cluster, stream, begin, until, hosts


def _stretches(alive: Sequence[Alive], stream: str, end: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, hosts), lines with the same number joined; of two lines in one minute the last holds."""
    steps = {minute_of(line.time_ns): hosts_watching(line, stream) for line in alive}
    hosts, begin = 0, 0
    for minute, number in [*steps.items(), (end, -1)]:
        if number != hosts:
            yield begin, minute, hosts
            hosts, begin = number, minute


def _faults(path: Path, fleet: Inventory, done: Imported, now_ns: int, oldest_ns: int) -> Iterator[Fault]:
    """The faults to store; what else the file holds goes into `done` on the way."""
    for number, line in usable_lines(path, fleet.all_cluster_names, done.history):
        why = _why_misplaced(line, now_ns)
        if why:
            done.history.refuse(number, why)
            continue
        done.history.last_time_ns = max(line.time_ns, done.history.last_time_ns or 0)
        done.streams.update(_streams(line))
        match line:
            case Alive():
                done.history.alive.append(line)
            case Change():
                done.changes.append((number, line))
            case _ if line.time_ns < oldest_ns:
                done.old += 1
            case _:
                yield line


def _why_misplaced(line: Usable, now_ns: int) -> str:
    if line.time_ns > now_ns + MINUTE_NS and not isinstance(line, Change):
        return f"time_ns {line.time_ns} lies {(line.time_ns - now_ns) / 1e9:.0f} s in the future"
    if line.time_ns < now_ns - 2 * SPAN_MAX_NS:
        return f"time_ns {line.time_ns} lies more than 800 days back"
    return ""


def _streams(line: Usable) -> Iterable[str]:
    match line:
        case Alive():
            return line.streams or ()
        case Change():
            return ()
        case _:
            return (line.stream,)
