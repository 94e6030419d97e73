"""What to do about a device: the rules, each with the source that it's taken from.

Enters: what is remembered of the device, what was acknowledged of it, and the time. Leaves: its state, the first rule
of the table that holds, its action and the reason in words. Pure. Nothing here is ever carried out: the agent advises,
people and their tools act.

    watch     nothing yet; it has erred, and those that have err again
    reset     the part mends itself when it's reset (a GPU with a row remapping pending)
    drain     take the work off this host and find out which part it is
    replace   the part
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent import evidence as evidence_of
from agent.evidence import BANK, COLUMN, DAY_NS, SEVERAL_BANKS, Mode
from agent.observation import PAGE

NONE, WATCH, RESET, DRAIN, REPLACE = "none", "watch", "reset", "drain", "replace"
# States of a device. Quiet: it never erred, or not of late. A part that was replaced left the device to another.
OPEN, ACKNOWLEDGED, HEALED, GONE, REPLACED, QUIET = "open", "acknowledged", "healed", "gone", "replaced", "quiet"
# A device's condition as its source tells it; anything else is no condition.
REMAP_PENDING, REMAP_FAILED, REMAPPED = "remap-pending", "remap-failed", "remapped"

OPEN_DAYS = 7
UNCORRECTED_DAYS = 30
CORRECTED_A_DAY_MAX = 10
ON_A_PAGE_A_DAY_MAX = 2

_NO_EVIDENCE: dict[str, Any] = {"first_ns": None, "hours": {}, "places": []}


@dataclass(frozen=True, slots=True)
class Picture:
    """All that a rule may ask."""

    stream: str
    name: str
    condition: str
    corrected_last_day: int
    on_a_page_last_day: int
    mode: Mode
    days_since: Mapping[str, float]  # by severity

    @property
    def has_place(self) -> bool:
        """A part can be named; the bank of a machine check is a processor's, and its memory is anywhere behind it."""
        return not self.name.endswith("/unknown") and not self.name.startswith(("socket", "cpu"))

    def not_corrected_within(self, days: float) -> bool:
        return any(self.days_since.get(severity, days) < days for severity in ("uncorrected", "deferred", "fatal"))


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    holds: Callable[[Picture], bool]
    action: str
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class Decision:
    action: str
    rule: str
    why: str
    source: str
    mode: Mode
    state: str
    corrected_last_day: int


RULES = (
    Rule(
        "remap-failed",
        lambda picture: picture.condition == REMAP_FAILED,
        REPLACE,
        "a row of its memory couldn't be remapped: it has no spare rows left",
        "NVIDIA GPU Memory Error Management, row-remapping failure flag and RMA policy",
    ),
    Rule(
        "remap-pending",
        lambda picture: picture.condition == REMAP_PENDING,
        RESET,
        "a failing row is remapped at the next reset",
        "NVIDIA GPU Memory Error Management, row-remapping pending flag",
    ),
    Rule(
        "remapped",
        lambda picture: picture.condition == REMAPPED,
        NONE,
        "its failing rows have been remapped",
        "NVIDIA GPU Memory Error Management, row remapping",
    ),
    Rule(
        "page-offlined",
        lambda picture: picture.name == PAGE and picture.not_corrected_within(UNCORRECTED_DAYS),
        WATCH,
        "a page was taken out of use and no witness saw an error in it: an administrator or a tool may have done that",
        "mm/memory-failure.c of Linux: hard_offline_page goes the way of a real error",
    ),
    Rule(
        "uncorrected",
        lambda picture: (
            picture.stream == "dram" and picture.has_place and picture.not_corrected_within(UNCORRECTED_DAYS)
        ),
        REPLACE,
        "an error that ECC couldn't correct",
        "common practice; 'Correctable and Uncorrectable Errors using Large Scale DRAM DIMMs in Network Servers'",
    ),
    Rule(
        "core",
        lambda picture: picture.stream == "core" and picture.not_corrected_within(UNCORRECTED_DAYS),
        DRAIN,
        "a core that computes wrongly",
        "P. H. Hochschild and others, Cores that don't count, HotOS 2021",
    ),
    Rule(
        "canary",
        lambda picture: picture.stream == "canary" and picture.not_corrected_within(UNCORRECTED_DAYS),
        DRAIN,
        "a bit flipped in the memory that flipwatch watches itself, and what flipped beside it nobody saw",
        "what erred errs again: B. Schroeder, E. Pinheiro and W.-D. Weber, DRAM Errors in the Wild, SIGMETRICS 2009",
    ),
    Rule(
        "host-died",
        lambda picture: picture.stream == "host" and picture.not_corrected_within(UNCORRECTED_DAYS),
        WATCH,
        "it ended without a clean stop; a power cut does that too, and errors that killed it are told of their devices",
        "a rule of flipwatch's own; the evidence stands on the fault",
    ),
    Rule(
        "uncorrected-elsewhere",
        lambda picture: picture.not_corrected_within(UNCORRECTED_DAYS),
        DRAIN,
        "an error that ECC couldn't correct, and nothing names the part to replace",
        "as the rule before; without a place nothing can be replaced",
    ),
    Rule(
        "many-rows",
        lambda picture: (
            picture.corrected_last_day >= CORRECTED_A_DAY_MAX and picture.mode.name in (COLUMN, BANK, SEVERAL_BANKS)
        ),
        REPLACE,
        "ten corrected errors in a day, in several rows: more than a page or a row fails",
        "rate: mcelog.conf, [dimm] ce-error-threshold; modes: V. Sridharan and D. Liberty, SC 2012",
    ),
    Rule(
        "one-page",
        lambda picture: picture.on_a_page_last_day >= ON_A_PAGE_A_DAY_MAX,
        WATCH,
        "two errors in a day on one page: the kernel or rasdaemon may take the page offline",
        "mcelog, page memory-ce-threshold = 2 / 24h (andikleen/mcelog pull request 122)",
    ),
    Rule(
        "rate",
        lambda picture: picture.corrected_last_day >= CORRECTED_A_DAY_MAX,
        WATCH,
        "ten corrected errors in a day",
        "mcelog.conf, [dimm] ce-error-threshold = 10 / 24h",
    ),
    Rule(
        "corrected",
        lambda picture: picture.days_since.get("corrected", OPEN_DAYS) < OPEN_DAYS,
        WATCH,
        "a corrected error in the last week: more of them are likely in this part than in another",
        "B. Schroeder, E. Pinheiro and W.-D. Weber, DRAM Errors in the Wild, SIGMETRICS 2009",
    ),
)
NO_RULE = Rule("quiet", lambda _: True, NONE, "no error of late", "")


def decide(
    stream: str, name: str, device: Mapping[str, Any], now_ns: int, acknowledged: Mapping[str, int] | None = None
) -> Decision:
    """What to do about the device that is remembered as `device`, and in what state it is.

    `acknowledged` are the errors by severity that somebody said to know of.
    """
    known = device.get("evidence") or _NO_EVIDENCE
    picture = Picture(
        stream=stream,
        name=name,
        condition=device.get("condition", ""),
        corrected_last_day=evidence_of.corrected_last_day(known, now_ns),
        on_a_page_last_day=evidence_of.most_on_a_page_last_day(known, now_ns),
        mode=evidence_of.mode(known),
        days_since={severity: (now_ns - last_ns) / DAY_NS for severity, last_ns in device["last_ns"].items()},
    )
    rule = next((rule for rule in RULES if rule.holds(picture)), NO_RULE)
    return Decision(
        action=rule.action,
        rule=rule.name,
        why=rule.why,
        source=rule.source,
        mode=picture.mode,
        state=_state(device, now_ns, acknowledged or {}),
        corrected_last_day=picture.corrected_last_day,
    )


def open_severities(device: Mapping[str, Any], now_ns: int, acknowledged: Mapping[str, int]) -> set[str]:
    """Of which severities the device has errors of late that nobody has acknowledged; of none if they are healed.

    An acknowledgement holds for as many errors as there were then: one more, and that severity is open again.
    """
    if device.get("condition") == REMAPPED or device.get("is_gone"):
        return set()
    return set(_unacknowledged(device, now_ns, acknowledged, OPEN_DAYS))


def _unacknowledged(
    device: Mapping[str, Any], now_ns: int, acknowledged: Mapping[str, int], days: float
) -> Iterator[str]:
    for severity, last_ns in device["last_ns"].items():
        is_known = acknowledged.get(severity) == device["errors"].get(severity)
        if now_ns - last_ns < days * DAY_NS and not is_known:
            yield severity


def _state(device: Mapping[str, Any], now_ns: int, acknowledged: Mapping[str, int]) -> str:
    if device.get("is_gone"):
        return GONE
    if device.get("condition") == REMAPPED:
        return HEALED
    if open_severities(device, now_ns, acknowledged):
        return OPEN
    old = list(_unacknowledged(device, now_ns, {}, UNCORRECTED_DAYS))  # as long as there may be something to do
    return ACKNOWLEDGED if old and not list(_unacknowledged(device, now_ns, acknowledged, UNCORRECTED_DAYS)) else QUIET
