"""The table of sources: which witness is polled, under which name, and which streams it lets the host watch."""

import functools
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import host, inventory, trace_instance
from agent.config import AgentSettings
from agent.deadline import Deadline
from agent.kernel_log import KernelLog
from agent.observation import Moment, Poll
from agent.sources import canary, edac, kmsg, lastwords, nvml, rasdaemon, tracefs
from checksum.printable import printable

DEFECT_MAX = 300  # characters of the sentence on one
POLL_MAX_S = 2.0  # of a source that may hang


def _no_wakers(_settings: AgentSettings) -> list[int]:
    return []


@dataclass(frozen=True, slots=True)
class Source:
    """A witness; `streams` are those whose every error it sees, so that the host counts as watching them.

    `wakers` opens descriptors that become readable when there is something to poll for. `look` is what the doctor asks
    instead of a poll, where that would take something away from the agent, or cost much.
    """

    poll: Callable[[AgentSettings, dict[str, Any], Moment], Poll]
    streams: tuple[str, ...] = ()
    wakers: Callable[[AgentSettings], list[int]] = _no_wakers
    at_start: Mapping[str, Any] = field(default_factory=dict)  # what its cursor shall say at an agent's first poll
    at_stop: Mapping[str, Any] = field(default_factory=dict)  # and after a clean stop
    look: Callable[[AgentSettings, Moment], Poll] | None = None


def failed(source: Source, error: Exception) -> Poll:
    """What is known of a source that raised `error` when it was polled: its trouble, in one sentence."""
    sentence = str(error) if isinstance(error, OSError) else _defect(error)
    return Poll(cursor={}, trouble=(sentence,), blind="unreadable" if "dram" in source.streams else None)


def _defect(error: Exception) -> str:
    """What nobody foresaw."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return printable(f"a defect of flipwatch, please report it: {where}: {type(error).__name__}: {error}"[:DEFECT_MAX])


def _kmsg(settings: AgentSettings, cursor: dict[str, Any], now: Moment) -> Poll:
    is_traced = trace_instance.is_traced(settings.tracefs, tracefs.MACHINE_CHECK)
    takes_checks = not (is_traced or os.access(settings.rasdaemon_db, os.R_OK))
    return kmsg.poll(_KERNEL_LOG, settings.kmsg, settings.sysfs, cursor, now, takes_checks=takes_checks)


def _lastwords(settings: AgentSettings, cursor: dict[str, Any], now: Moment) -> Poll:
    places = lastwords.Places(
        records=(settings.pstore, settings.pstore_archive),
        kernel_log=settings.kmsg,
        bert=settings.sysfs / "firmware/acpi/tables/data/BERT",
        state_dir=settings.state_dir,
        mounts=settings.proc / "self/mountinfo",
    )
    return lastwords.poll(places, _KERNEL_LOG, cursor, now, silence_s=settings.heartbeat_s + settings.poll_interval_s)


def _nvml(settings: AgentSettings, cursor: dict[str, Any], now: Moment) -> Poll:
    """The library may hang; a host without a driver doesn't ask it, and needs no thread for that."""
    unasked = nvml.without_driver(settings.proc, cursor, now)
    return unasked or _NVML_DEADLINE.call(functools.partial(_NVML.poll, cursor, now))


def _canary_mib(settings: AgentSettings) -> int | None:
    """What the settings say, or else what a machine without ECC gets."""
    if settings.canary_mib is None and _is_without_ecc(settings.sysfs, settings.proc):
        return canary.DEFAULT_MIB
    return settings.canary_mib


@functools.cache  # memory doesn't change while a machine runs
def _is_without_ecc(sysfs: Path, proc: Path) -> bool:
    return inventory.read(sysfs).has_no_ecc and host.virtual(sysfs, proc, host.facts(sysfs, proc)) is None


_GLANCES = edac.Glances()
_KERNEL_LOG = KernelLog()  # one for the process, which may have no more than one descriptor of it
_NVML = nvml.Nvml()  # the library is opened once for the whole process
_NVML_DEADLINE = Deadline[Poll](POLL_MAX_S)

# Counters come before events: the kernel reports an error before it counts it, so that of what a counter shows the
# event is there to be read.
SOURCES = {
    "edac": Source(
        lambda settings, cursor, now: edac.poll(settings.sysfs, cursor, now, _GLANCES),
        ("dram",),
        look=lambda settings, now: edac.poll(settings.sysfs, {}, now),
    ),
    "tracefs": Source(
        lambda settings, cursor, now: tracefs.poll(settings.tracefs, settings.sysfs, cursor, now),
        (tracefs.SRAM,),
        at_start={"is_first": True},
        wakers=lambda settings: trace_instance.open_wakers(settings.tracefs),
        look=lambda settings, now: tracefs.look(settings.tracefs),
    ),
    "kmsg": Source(_kmsg),
    "lastwords": Source(_lastwords, ("host",), at_stop={"is_stopped": True}),
    "rasdaemon": Source(
        lambda settings, cursor, now: rasdaemon.poll(
            settings.rasdaemon_db, settings.sysfs, settings.tracefs, cursor, now
        )
    ),
    "nvml": Source(_nvml, ("gpu",)),
    "canary": Source(
        lambda settings, cursor, now: canary.poll(_canary_mib(settings), settings.proc, cursor, now),
        ("canary",),
        look=lambda settings, now: canary.look(_canary_mib(settings), settings.proc, now),
    ),
}
