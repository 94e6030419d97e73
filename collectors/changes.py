"""Roll-outs: while one goes on, faults of its hosts have a likely cause, and the correlator must know.

Enters: what a person or a deployment tool says about a change, and what is known. Leaves: a Change, the sentence why it
can't be taken, or a warning. Pure: the server owns the clock and the store.

A change is opened once and closed once, under an id of its own. To say the same again changes nothing, so that a tool
may repeat what it isn't sure has arrived.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.report import Change, ReportError, decode
from collectors.causes import COHORT
from collectors.minutes import DAY_NS
from collectors.notify import rfc3339

AHEAD_MAX_NS = DAY_NS

Known = Mapping[tuple[str, str], Change]  # by id and action


@dataclass(frozen=True, slots=True)
class RollOut:
    """A change from its opening on; `closed_ns` is None while it goes on."""

    id: str
    cohort: str
    opened_ns: int
    closed_ns: int | None


def parse(body: bytes, known: Known, now_ns: int) -> Change:
    """The change that a POST holds: a `change` line, in which the time may be left out, and the cohort of a close.

    Raises:
        ReportError: it can't be understood; the message names the key.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ReportError("the body is not JSON") from error
    if not isinstance(document, dict):
        raise ReportError("the body is not a JSON object")
    document = {"kind": "change", "time_ns": now_ns} | document
    opened = known.get((str(document.get("id")), "open"))
    if document.get("action") == "close" and opened is not None:
        document.setdefault("cohort", opened.cohort)
    elif document.get("action") == "close" and isinstance(document.get("id"), str):
        raise ReportError(f"no change '{document['id']}' was opened")
    change = decode(json.dumps(document))
    if not isinstance(change, Change):
        raise ReportError(f"a line of kind '{document['kind']}' is no change")
    return change


def refusal(change: Change, known: Known, now_ns: int, history_days: int) -> str:
    """Why it can't be taken; empty if it can, or is known already."""
    opened, closed = known.get((change.id, "open")), known.get((change.id, "close"))
    if change.time_ns > now_ns + AHEAD_MAX_NS:
        return f"{rfc3339(change.time_ns)} lies more than a day ahead"
    if change.time_ns < now_ns - history_days * DAY_NS:
        return f"{rfc3339(change.time_ns)} is longer ago than history_days = {history_days}"
    if opened is not None and opened.cohort != change.cohort:
        return f"change '{change.id}' was opened for cohort '{opened.cohort}'; use another id for '{change.cohort}'"
    if change.action == "open":
        return f"change '{change.id}' was closed at {rfc3339(closed.time_ns)}; use another id" if closed else ""
    if opened is None:
        return f"no change '{change.id}' was opened"
    if closed is None and change.time_ns < opened.time_ns:
        return f"change '{change.id}' was opened at {rfc3339(opened.time_ns)}, after {rfc3339(change.time_ns)}"
    return ""


def warning(change: Change, cohorts: Iterable[str]) -> str:
    """What is odd about a change that was taken: a cohort that no host of the inventory has explains no fault."""
    if change.cohort in cohorts:
        return ""
    return f"no host of the inventory has the label {COHORT} = '{change.cohort}', so the change explains nothing yet"


def roll_outs(changes: Iterable[Change]) -> list[RollOut]:
    """The changes that were opened, the latest first."""
    known = {(change.id, change.action): change for change in changes}
    found = [
        RollOut(id_, change.cohort, change.time_ns, closed.time_ns if (closed := known.get((id_, "close"))) else None)
        for (id_, action), change in known.items()
        if action == "open"
    ]
    return sorted(found, key=lambda roll_out: (-roll_out.opened_ns, roll_out.id))
