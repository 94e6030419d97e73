"""The status page: an overview and the latest faults and bursts in, one self-contained HTML page out.

Everything that came from outside (host names, paths, sentences) is escaped by the template engine. The page needs no
JavaScript and loads nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from agent.report import Fault, MemoryFault
from checksum.printable import printable
from collectors.causes import SKY
from collectors.correlator import LEARNING_DAYS
from collectors.fault_rows import StoredFault
from collectors.minutes import DAY_NS
from collectors.notify import SEVERITY, WHAT, direction, false_alarms, rfc3339
from collectors.overview import CLOSED_SHOWN_DAYS, Overview
from collectors.revision import Revision
from collectors.store import Store

LATEST_FAULTS = 50
FAULTY_DEVICES = 50
LATEST_BURSTS = 20
SHOWN_CHARACTERS_MAX = 1000  # of a name or sentence; a page of one endless name says nothing else
FAULTY_DAYS = 7  # a device is listed until it was quiet for the time that makes its next fault novel


def _fit(value: Any) -> Any:
    """What a template writes: escaping keeps a name from being markup, this from turning the text around it about."""
    if type(value) is not str:  # what a macro made is Markup, whose lines are our own
        return value
    text = printable(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[: SHOWN_CHARACTERS_MAX - 1]}…"


PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("dashboards", "page"),
    autoescape=True,
    finalize=_fit,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Details:
    """What only the page shows: queries that a scrape shouldn't pay for."""

    latest: Sequence[StoredFault]
    faulty: Sequence[tuple[StoredFault, int]]
    novel_24h: Mapping[str, int]
    bursts: Sequence[Revision]  # the latest revision of each, latest first


def details(store: Store, now_ns: int) -> Details:
    """Reads them; `store` is a connection that this thread may use."""
    return Details(
        latest=store.latest_faults(LATEST_FAULTS),
        faulty=store.faulty_devices(now_ns - FAULTY_DAYS * DAY_NS, FAULTY_DEVICES),
        novel_24h=store.novel_since(now_ns - DAY_NS),
        bursts=store.bursts()[: -LATEST_BURSTS - 1 : -1],
    )


def render(overview: Overview, shown: Details, false_alarms_per_year: float, refresh_s: int) -> bytes:
    """The page as UTF-8."""
    template = PAGES.get_template("status.html")
    active = {burst.burst_id for burst in overview.step.active} if overview.step else set()
    return template.render(
        overview=overview,
        shown=shown,
        active=active,
        budget=false_alarms_per_year,
        refresh_s=refresh_s,
        faulty_days=FAULTY_DAYS,
        closed_days=CLOSED_SHOWN_DAYS,
        learning_days=LEARNING_DAYS,
        SKY=SKY,
        WHAT=WHAT,
        SEVERITY=SEVERITY,
        when=when,
        words=words,
        flip=flip,
        verdict=verdict,
        direction=direction,
        false_alarms=false_alarms,
    ).encode()


def when(time_ns: int) -> str:
    """A time for people, in UTC."""
    return rfc3339(time_ns)[:19].replace("T", " ")


def verdict(fault: Fault) -> str:
    """What kind of fault it is, in a word."""
    if isinstance(fault, MemoryFault):
        return fault.severity
    return str(fault.detail.get("verdict", "corrupt"))


def words(fault: Fault) -> str:
    """A fault's detail as a line: of a record where it lies, else every key."""
    detail = dict(fault.detail)
    if "path" in detail:
        place = f"{detail['path']} [{detail.get('begin', '?')}, {detail.get('end', '?')})"
        return f"{place} {detail['format']}" if "format" in detail else place
    return ", ".join(f"{name} {_short(value)}" for name, value in detail.items() if value not in (None, ""))


def flip(fault: Fault) -> str:
    """Which bit flipped, where one bit explains the damage."""
    found = fault.detail.get("flip")
    if not isinstance(found, dict) or not {"offset_bytes", "bit", "stored"} <= found.keys():
        return ""
    stored = found["stored"]
    was = {0: 1, 1: 0}.get(stored, "?") if isinstance(stored, int) else "?"
    return f"byte {found['offset_bytes']} bit {found['bit']}: {was} became {stored}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
