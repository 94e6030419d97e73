"""The kernel's trace events of errors, from the agent's own instance of the trace buffers.

Enters: where tracefs and sysfs are mounted, this source's cursor and the moment. Leaves: a Poll with events, each dated
to the nanosecond, and what was lost of them. Reading takes the events out of the buffer; what was read and isn't in the
journal when the agent is killed is gone. Counters make up for it, and the kernel's count of events that were read tells
how many they were.

The buffer is made by `agent.trace_instance` and outlives the agent. Losses are counted by the kernel for each processor
(`per_cpu/cpu*/stats`): overrun, for events overwritten before anybody read them, and dropped. The cursor keeps what
those counters showed ("stats"), how many events were lost in all ("lost"), whether the agent has just been started
("is_first"), and since when every event is known ("watched", a novelty History), which begins anew after too long a
time without a buffer.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent import trace_instance
from agent.novelty import History
from agent.observation import Event, Moment, Poll
from agent.ringbuffer import (
    EventFormat,
    LayoutError,
    PageLayout,
    decode,
    event_format,
    event_id,
    page_layout,
    read_page,
)
from agent.trace_events import Machine, event, summary

FILE_BYTES_MAX = 1 << 16  # the longest format has some kilobytes
PAGES_MAX = 4096  # of one processor at one poll: more than a buffer holds
CHECK_INTERVAL_S, EDAC_POLL_S = 300.0, 1.0  # the kernel's own, where they can't be read
LOST = ("overrun", "commit overrun", "dropped events")
READ = "read events"
SRAM, MACHINE_CHECK = "sram", "mce/mce_record"  # the stream that the event alone shows
PREPARE = "as root: flipwatch agent --prepare"

Stats = dict[str, int]
Formats = dict[int, tuple[str, EventFormat]]  # by id


def poll(tracefs: Path, sysfs: Path, cursor: dict[str, Any], now: Moment) -> Poll:
    """All events since the last poll."""
    instance = trace_instance.path(tracefs)
    absent = _why_absent(tracefs, instance)
    if absent is not None:
        return Poll(cursor=cursor, absent=absent)
    try:
        layout = page_layout(_text(instance / "events/header_page"))
    except (OSError, LayoutError) as error:
        return Poll(cursor=cursor, trouble=(f"{instance}/events/header_page: {error}",))
    drain = _Drain(instance, layout, now)
    cpus = trace_instance.cpus(instance)
    found = summary(drain.events(cpus, sysfs))
    is_new_boot = cursor.get("boot_id") != now.boot_id
    losses = _losses(
        {} if is_new_boot else cursor.get("stats", {}), cpus, drain, is_first=cursor.get("is_first", False)
    )
    watched = _watched(cursor, losses.is_gap or is_new_boot, now)
    return Poll(
        cursor={
            "boot_id": now.boot_id,
            "stats": losses.stats,
            "lost": cursor.get("lost", 0) + losses.unread + losses.forgotten,
            "is_first": False,
            "watched": watched.as_json(),
            "polled": now.time_ns,
        },
        events=tuple(replace(item, since_ns=watched.since_ns) for item in found),
        trouble=(*drain.trouble, *losses.trouble(instance)),
        watched={SRAM: watched.since_ns} if (instance / "events" / MACHINE_CHECK).exists() else {},
    )


def look(tracefs: Path) -> Poll:
    """Whether a poll would see anything, without taking from the buffers what the agent is to find there."""
    instance = trace_instance.path(tracefs)
    absent = _why_absent(tracefs, instance)
    if absent is not None:
        return Poll(cursor={}, absent=absent)
    closed = [cpu for cpu in trace_instance.cpus(instance) if not os.access(cpu / "trace_pipe_raw", os.R_OK)]
    return Poll(cursor={}, trouble=tuple(f"{cpu}/trace_pipe_raw: may not be read; {PREPARE}" for cpu in closed[:1]))


def _why_absent(tracefs: Path, instance: Path) -> str | None:
    try:
        clock = _text(instance / "trace_clock")
        os.listdir(instance / "per_cpu")
    except FileNotFoundError:
        return f"{instance} isn't there; {PREPARE}"
    except OSError as error:
        return f"{error.filename}: {error.strerror}; {PREPARE}"
    if f"[{trace_instance.CLOCK}]" not in clock:
        return f"{instance}: its clock is {clock.strip()}; {PREPARE}"
    return None if trace_instance.present_events(instance) else f"{tracefs}: this kernel traces no hardware errors"


def _watched(cursor: dict[str, Any], is_gap: bool, now: Moment) -> History:
    if "watched" not in cursor:
        return History(now.time_ns)
    watched = History.from_json(cursor["watched"])
    return watched.with_gap(cursor["polled"], now.time_ns) if is_gap else watched


# --- pages ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Drain:
    """One emptying of the buffers, and what was met on the way."""

    instance: Path
    layout: PageLayout
    now: Moment
    trouble: list[str] = field(default_factory=list)
    drained: Counter[Path] = field(default_factory=Counter)  # the processors that had anything: how many events
    lossy: set[Path] = field(default_factory=set)  # those whose pages say that events before them were lost

    def events(self, cpus: list[Path], sysfs: Path) -> Iterator[Event]:
        machine: Machine | None = None
        unreadable: dict[Path, str] = {}
        for cpu, data in self._pages(cpus):
            if machine is None:  # nothing is read of it while nothing happens
                forms, machine = _formats(self.instance, self.trouble), _machine(sysfs, self.trouble)
            try:
                page = read_page(data, self.layout)
            except LayoutError as error:
                unreadable[cpu] = f"{cpu}/trace_pipe_raw: {error}"
                continue
            self.drained[cpu] += len(page.entries)
            if page.is_lossy:
                self.lossy.add(cpu)
            for boottime_ns, payload in page.entries:
                age_ns = max(0, self.now.boottime_ns - boottime_ns)
                yield from _event(payload, forms, self.now.time_ns - age_ns, machine)
        self.trouble += unreadable.values()

    def _pages(self, cpus: list[Path]) -> Iterator[tuple[Path, bytes]]:
        """The pages of each processor's buffer, one at a time, as a storm may fill many."""
        for cpu in cpus:
            try:
                fd = os.open(cpu / "trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                self.trouble.append(f"{cpu}/trace_pipe_raw: {error.strerror}")
                continue
            try:
                for _ in range(PAGES_MAX):
                    data = os.read(fd, self.layout.size_bytes)
                    if not data:
                        break
                    self.drained[cpu] += 0
                    yield cpu, data
            except BlockingIOError:
                pass  # it is empty
            except OSError as error:
                self.trouble.append(f"{cpu}/trace_pipe_raw: {error.strerror}")
            finally:
                os.close(fd)


def _event(payload: bytes, forms: Formats, time_ns: int, machine: Machine) -> Iterator[Event]:
    if event_id(payload) in forms:
        name, form = forms[event_id(payload)]
        found = event(name, decode(payload, form), time_ns, machine)
        if found is not None:
            yield found


def _formats(instance: Path, trouble: list[str]) -> Formats:
    forms: Formats = {}
    for name in trace_instance.present_events(instance):
        file = instance / "events" / name / "format"
        try:
            form = event_format(_text(file))
        except (OSError, LayoutError) as error:
            trouble.append(f"{file}: {error}")
            continue
        forms[form.id] = (name.partition("/")[2], form)
    return forms


# --- losses --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Losses:
    """Which events nobody has: `unread` were overwritten, `forgotten` were read by somebody who didn't keep them."""

    stats: dict[str, Stats]  # by processor
    unread: int
    forgotten: int
    is_lossy: bool  # the pages said that events before them were lost
    is_remade: bool

    @property
    def is_gap(self) -> bool:
        return bool(self.unread or self.forgotten or self.is_lossy or self.is_remade)

    def trouble(self, instance: Path) -> Iterator[str]:
        if self.unread or self.is_lossy:
            yield f"{instance}: {self.unread or 'some'} events were lost unread; counters still tell how many errors"
        if self.forgotten:
            yield f"{instance}: {self.forgotten} events were read and not kept, as by an agent that was killed"


def _losses(old: dict[str, Stats], cpus: list[Path], drain: _Drain, *, is_first: bool) -> _Losses:
    """A processor whose buffer was empty lost nothing; one that was never looked at, or by this agent, may have."""
    asked = [cpu for cpu in cpus if is_first or cpu in drain.drained or cpu.name not in old]
    new = {cpu.name: stats for cpu in asked if (stats := _stats(cpu / "stats", drain.trouble))}
    read = {cpu: new[cpu].get(READ, 0) - old[cpu].get(READ, 0) for cpu in new.keys() & old.keys()}
    drained = {cpu.name: count for cpu, count in drain.drained.items()}
    return _Losses(
        stats={**old, **new},
        unread=sum(_lost(old.get(cpu, {}), stats) for cpu, stats in new.items()),
        forgotten=sum(max(0, count - drained.get(cpu, 0)) for cpu, count in read.items()) if is_first else 0,
        is_lossy=bool(drain.lossy),
        is_remade=any(count < 0 for count in read.values()),
    )


def _stats(file: Path, trouble: list[str]) -> Stats:
    try:
        text = _text(file)
    except OSError as error:
        trouble.append(f"{file}: {error.strerror}")
        return {}
    found = dict(re.findall(r"^([a-z ]+): (\d{1,20})$", text, re.M))
    return {name: int(found[name]) for name in (*LOST, READ) if name in found}


def _lost(old: Stats, new: Stats) -> int:
    """A counter that fell began anew: the buffer was made again, or resized."""
    rises = ((old.get(name, 0), new.get(name, 0)) for name in LOST)
    return sum(after - before if after >= before else after for before, after in rises)


# --- the machine ---------------------------------------------------------------------------------------------------


def _machine(sysfs: Path, trouble: list[str]) -> Machine:
    checks = sysfs / "devices/system/machinecheck/machinecheck0/check_interval"
    edac = sysfs / "module/edac_core/parameters/edac_mc_poll_msec"
    return Machine(
        layers=dict(_layers(sysfs / "devices/system/edac/mc", trouble)),
        edac_poll_s=_number(edac, EDAC_POLL_S * 1000) / 1000,
        machine_check_poll_s=_number(checks, CHECK_INTERVAL_S),
    )


def _layers(root: Path, trouble: list[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The names of a controller's layers: max_location "csrow 3 channel 1 " has csrow and channel."""
    for directory in sorted(root.glob("mc[0-9]*")):
        number = directory.name.removeprefix("mc")
        try:
            words = _text(directory / "max_location").split()
        except OSError as error:
            trouble.append(f"{error.filename}: {error.strerror}")
            continue
        if number.isdecimal():
            yield int(number), tuple(words[::2])


def _number(file: Path, default: float) -> float:
    try:
        return float(int(_text(file)))
    except (OSError, ValueError):
        return default


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(FILE_BYTES_MAX).decode("utf-8", "replace")
