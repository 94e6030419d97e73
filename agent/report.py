"""The datum: what an agent says, one JSON object per line.

Enters: a line of /v1/faults or of a history file. Leaves: a MemoryFault, RecordFault, Alive, Change or AgentHeader,
and back again. This is the only file of the agent that the collectors import; it reads no clock and does no input or
output. Unknown keys are ignored, so that an older reader understands a newer agent; a missing or senseless required
key is a ReportError that names it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

STREAMS = ("dram", "sram", "gpu", "canary", "core", "host", "record")
SEVERITIES = ("corrected", "uncorrected", "deferred", "fatal")
CHANGE_ACTIONS = ("open", "close")

TIME_NS_MAX = 2**63 - 1  # what a signed 64-bit column holds
COUNT_MAX = 2**63 - 1
TEXT_CHARACTERS_MAX = 4096  # a path is at most this long on Linux; nothing else comes near


class ReportError(ValueError):
    """A line that can't be understood; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFault:
    """One observed error of a memory, cache, processor or GPU, or the death of a host."""

    time_ns: int  # when it was reported
    time_error_s: float  # how much earlier it may have happened
    host: str
    device: str
    stream: str
    severity: str
    count: int
    novel: bool  # the device's first fault of this class after seven proven quiet days
    cluster: str | None = None  # from the inventory; in a history file always there
    witnesses: tuple[str, ...] = ()
    epoch: str | None = None
    journal: str | None = None
    seq: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFault:
    """A stretch of a stored file whose checksum fails."""

    time_ns: int
    time_error_s: float
    host: str
    device: str  # the volume
    count: int
    novel: bool
    stream: str = "record"
    cluster: str | None = None
    journal: str | None = None
    seq: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)  # path, format, begin, end, verdict, flip, layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """How many hosts of a cluster watch, from this time until the cluster's next such line."""

    time_ns: int
    cluster: str
    hosts_up: int
    hosts: int | None = None  # of so many; for people only
    streams: Mapping[str, int] | None = None  # None: hosts_up for every stream of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A roll-out that begins or ends."""

    time_ns: int
    id: str
    action: str
    cohort: str = ""  # of a close it needn't be said again


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSpan:
    """Which sequence numbers a journal still holds; `last_seq` is `first_seq - 1` when it holds none."""

    journal: str
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHeader:
    """The first line of every answer of /v1/faults."""

    time_ns: int
    complete_until_ns: int  # faults reported before this time are all in the journals
    boot_id: str
    host: str
    cursor: str  # opaque: where to go on
    journals: tuple[JournalSpan, ...]
    watching: Mapping[str, int]  # stream -> since when novelty could be decided
    facts: Mapping[str, Any] = field(default_factory=dict)


Fault = MemoryFault | RecordFault
Line = MemoryFault | RecordFault | Alive | Change | AgentHeader

_KINDS: dict[str, type] = {
    "memory": MemoryFault,
    "record": RecordFault,
    "alive": Alive,
    "change": Change,
    "agent": AgentHeader,
}
_KIND_OF = {into: kind for kind, into in _KINDS.items()}


def encode(line: Line) -> str:
    """One line of JSON without a line end; keys that are None or empty are left out."""
    document: dict[str, Any] = {"kind": _KIND_OF[type(line)]}
    for item in fields(line):
        value = getattr(line, item.name)
        if value is None or (item.name in ("detail", "witnesses", "facts", "cohort") and not value):
            continue
        if item.name == "journals":
            value = [{"journal": j.journal, "first_seq": j.first_seq, "last_seq": j.last_seq} for j in value]
        document[item.name] = value
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def decode(text: str | bytes) -> Line:
    """The line `text` holds.

    Raises:
        ReportError: not JSON, an unknown kind, or a key that is missing or senseless; the message names it.
    """
    try:
        document = _JSON.decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise ReportError(f"not JSON: {_show(text)}") from error
    if not isinstance(document, dict):
        raise ReportError(f"not a JSON object: {_show(text)}")
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ReportError(f"unknown kind {_show(kind)}; known are {', '.join(_KINDS)}")
    into = _KINDS[kind]
    taken: dict[str, Any] = {}
    for name, (check, required) in _KEYS[into].items():
        if document.get(name) is None:
            if required:
                raise ReportError(f"a line of kind '{kind}' lacks the key '{name}'")
            continue
        taken[name] = check(document[name], f"{kind}: {name}")
    line: Line = into(**taken)
    if isinstance(line, Change) and line.action == "open" and not line.cohort:
        raise ReportError("a line of kind 'change' lacks the key 'cohort', which only a close may")
    return line


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)  # json.loads would make another one for each line


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _whole(low: int, high: int) -> Any:
    def check(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ReportError(f"{where} must be a whole number from {low} to {high}, not {_show(value)}")
        return value

    return check


def _seconds(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise ReportError(f"{where} must be a number of seconds, not {_show(value)}")
    return float(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or len(value) > TEXT_CHARACTERS_MAX or "\0" in value:
        raise ReportError(f"{where} must be a string of 1 to {TEXT_CHARACTERS_MAX} characters, not {_show(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # a lone surrogate: no database and no page can hold it
        raise ReportError(f"{where} is not valid Unicode: {_show(value)}") from error
    return value


def _one_of(choices: tuple[str, ...]) -> Any:
    def check(value: Any, where: str) -> str:
        if value not in choices:
            raise ReportError(f"{where} must be one of {', '.join(choices)}, not {_show(value)}")
        return str(value)

    return check


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ReportError(f"{where} must be true or false, not {_show(value)}")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReportError(f"{where} must be an object, not {_show(value)}")
    return value


def _detail(value: Any, where: str) -> dict[str, Any]:
    """An object whose content is nobody's business here, but which must be storable and sendable as it is."""
    entries = _object(value, where)
    try:
        json.dumps(entries, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:  # a lone surrogate, a number beyond all bounds, endless nesting
        raise ReportError(f"{where} can't be written as JSON again") from error
    return entries


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ReportError(f"{where} must be a list of strings, not {_show(value)}")
    return tuple(_text(item, where) for item in value)


def _per_stream(check: Any) -> Any:
    def check_all(value: Any, where: str) -> dict[str, int]:
        entries = _object(value, where)
        # a stream that this version doesn't know is like an unknown key
        return {stream: check(entries[stream], f"{where}.{stream}") for stream in STREAMS if stream in entries}

    return check_all


def _journals(value: Any, where: str) -> tuple[JournalSpan, ...]:
    if not isinstance(value, list):
        raise ReportError(f"{where} must be a list, not {_show(value)}")
    spans = []
    for item in value:
        entry = _object(item, where)
        for name in ("journal", "first_seq", "last_seq"):
            if name not in entry:
                raise ReportError(f"{where}: an entry lacks the key '{name}'")
        spans.append(
            JournalSpan(
                journal=_text(entry["journal"], f"{where}.journal"),
                first_seq=_SEQ(entry["first_seq"], f"{where}.first_seq"),
                last_seq=_SEQ(entry["last_seq"], f"{where}.last_seq"),
            )
        )
    return tuple(spans)


_TIME = _whole(0, TIME_NS_MAX)
_SEQ = _whole(0, COUNT_MAX)
_HOSTS = _whole(0, 10**9)
_REQUIRED, _OPTIONAL = True, False

_FAULT_KEYS = {
    "time_ns": (_TIME, _REQUIRED),
    "time_error_s": (_seconds, _REQUIRED),
    "host": (_text, _REQUIRED),
    "device": (_text, _REQUIRED),
    "stream": (_one_of(STREAMS), _REQUIRED),
    "count": (_whole(1, COUNT_MAX), _REQUIRED),
    "novel": (_flag, _REQUIRED),
    "cluster": (_text, _OPTIONAL),
    "journal": (_text, _OPTIONAL),
    "seq": (_SEQ, _OPTIONAL),
    "detail": (_detail, _OPTIONAL),
}
_KEYS: dict[type, dict[str, tuple[Any, bool]]] = {
    MemoryFault: {
        **_FAULT_KEYS,
        "severity": (_one_of(SEVERITIES), _REQUIRED),
        "witnesses": (_texts, _OPTIONAL),
        "epoch": (_text, _OPTIONAL),
    },
    RecordFault: _FAULT_KEYS,
    Alive: {
        "time_ns": (_TIME, _REQUIRED),
        "cluster": (_text, _REQUIRED),
        "hosts_up": (_HOSTS, _REQUIRED),
        "hosts": (_HOSTS, _OPTIONAL),
        "streams": (_per_stream(_HOSTS), _OPTIONAL),
    },
    Change: {
        "time_ns": (_TIME, _REQUIRED),
        "id": (_text, _REQUIRED),
        "action": (_one_of(CHANGE_ACTIONS), _REQUIRED),
        "cohort": (_text, _OPTIONAL),
    },
    AgentHeader: {
        "time_ns": (_TIME, _REQUIRED),
        "complete_until_ns": (_TIME, _REQUIRED),
        "boot_id": (_text, _REQUIRED),
        "host": (_text, _REQUIRED),
        "cursor": (_text, _REQUIRED),
        "journals": (_journals, _REQUIRED),
        "watching": (_per_stream(_TIME), _REQUIRED),
        "facts": (_detail, _OPTIONAL),
    },
}
