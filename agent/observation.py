"""What a source says at one poll, before it becomes faults.

Every source has one function `poll(<what it reads>, cursor, now) -> Poll`. The cursor is a dictionary of JSON values
that the journal keeps for the source; its key "polled" changes at every poll and alone is no reason to write. A source
reads its files and nothing else: no clock, no socket, no state of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

CORRECTED = "corrected"
NOT_CORRECTED = "not_corrected"
ADDRESSES_MAX = 64
PAGE = "page/unknown"  # the device where only a page of memory is known


def error_class(severity: str) -> str:
    """What novelty is decided for: corrected errors, and all others."""
    return CORRECTED if severity == "corrected" else NOT_CORRECTED


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
    """`count` errors of one severity on one device, reported at `time_ns` and then at most `time_error_s` old."""

    device: str
    stream: str
    severity: str
    count: int
    time_error_s: float
    epoch: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    time_ns: int | None = None  # None: now


class Role(StrEnum):
    """How an event is told apart from what other witnesses say of the same error."""

    COUNTED = "counted"  # a counter shows the same error: the event says when and where, the counter how many
    SHARED = "shared"  # another event or a counter may show it as well; alone after a while it is an error of its own
    OWN = "own"  # nobody else shows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`count` errors of one severity on one device that the witnesses reported between `first_ns` and `time_ns`."""

    witnesses: tuple[str, ...]
    role: Role
    device: str
    stream: str
    severity: str
    count: int
    first_ns: int
    time_ns: int
    time_error_s: float  # how much earlier than reported
    since_ns: int  # from then on every error that the witness can see is known
    addresses: tuple[int, ...] = ()  # distinct physical ones, at most ADDRESSES_MAX
    detail: Mapping[str, Any] = field(default_factory=dict)  # of the first


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
    events: tuple[Event, ...] = ()
    absent: str | None = None  # why this witness isn't there on this host, which is no trouble
    watched: Mapping[str, int] = field(default_factory=dict)  # stream -> since when its every error is known by events
    is_census: bool = False  # `devices` are all there are: one that isn't among them any more is gone
    is_unfinished: bool = False  # it has read the beginning of what it will tell of at a later poll
