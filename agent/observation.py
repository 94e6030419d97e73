"""What a source says at one poll, before it becomes faults.

Every source has one function `poll(<what it reads>, cursor, now) -> Poll`. The cursor is a dictionary of JSON values
that the journal keeps for the source; its key "polled" changes at every poll and alone is no reason to write. A source
reads its files and nothing else: no clock, no socket, no state of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CORRECTED = "corrected"
NOT_CORRECTED = "not_corrected"


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on the clocks that matter."""

    time_ns: int  # CLOCK_REALTIME: what people read, and what may step
    boottime_ns: int  # CLOCK_BOOTTIME: what durations are measured with; comparable within one boot
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A part that is watched, whether or not it ever failed."""

    stream: str
    name: str
    label: str = ""
    slot: str = ""  # what is printed beside it on the board; "A1 or A2" where that can't be told
    serial: str = ""
    part: str = ""
    size_bytes: int | None = None
    condition: str = ""  # what the part says of itself, in the words of agent/actions.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """`count` errors of one severity on one device, reported now and at most `time_error_s` old."""

    device: str
    stream: str
    severity: str
    count: int
    time_error_s: float
    epoch: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSight:
    """From `since_ns` on every error of this device and class is known."""

    stream: str
    device: str
    error_class: str
    since_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Between these times errors of this device may have happened and left no trace."""

    stream: str
    device: str
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    cursor: dict[str, Any]
    observations: tuple[Observation, ...] = ()
    devices: tuple[Device, ...] = ()
    first_sights: tuple[FirstSight, ...] = ()
    gaps: tuple[Gap, ...] = ()
    trouble: tuple[str, ...] = ()  # one sentence for each thing that couldn't be read
    blind: str | None = None  # why nothing can be seen at all
    absent: str | None = None  # why this host has no such witness; that is no trouble
