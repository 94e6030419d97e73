"""A fault as a row of the store's table `faults`, and back.

Enters: a fault, or a row. Leaves: a row, or the fault with what its host had when it came. The place of a fault is
(journal, seq): what has one already is not stored again.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.report import Fault, MemoryFault, RecordFault
from collectors.population import Attributes, Victim, victim_of

FAULT_COLUMNS = "id, journal, seq, time_ns, time_error_s, cluster, host, device, stream, severity, count, novel, more"
_INSERT = (
    "INSERT INTO faults (journal, seq, time_ns, time_error_s, cluster, host, device, stream, severity, count, novel, "
    "more) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (journal, seq) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class StoredFault:
    """A fault with the store's own ascending id, and if it is novel with what its host had then."""

    id: int
    fault: Fault
    attributes: Attributes = ()

    @property
    def victim(self) -> Victim:
        return victim_of(self.fault, self.attributes)


def _more_text(fault: Fault, attributes: Attributes) -> str:
    """What has no column of its own, as JSON; attributes only where they're needed, with novel faults."""
    more: dict[str, Any] = {"detail": fault.detail}
    if fault.novel and attributes:
        more["attributes"] = attributes
    if isinstance(fault, MemoryFault):
        more |= {"witnesses": fault.witnesses, "epoch": fault.epoch}
    return json.dumps(more)


def insert_fault(db: sqlite3.Connection, fault: Fault, journal: str, seq: int, attributes: Attributes) -> int:
    """1 if the fault is new, 0 if (journal, seq) was there."""
    severity = fault.severity if isinstance(fault, MemoryFault) else None
    row = (journal, seq, fault.time_ns, fault.time_error_s, fault.cluster, fault.host, fault.device, fault.stream)
    return db.execute(_INSERT, (*row, severity, fault.count, fault.novel, _more_text(fault, attributes))).rowcount


def stored_fault(row: Sequence[Any]) -> StoredFault:
    """Of a row of FAULT_COLUMNS."""
    number, journal, seq, time_ns, time_error_s, cluster, host, device, stream, severity, count, novel, text = row
    more = json.loads(text)
    place = {"cluster": cluster, "host": host, "device": device, "stream": stream, "journal": journal, "seq": seq}
    what = {"time_ns": time_ns, "time_error_s": time_error_s, "count": count, "novel": bool(novel)}
    attributes = tuple((name, value) for name, value in more.get("attributes", ()))
    if severity is None:
        return StoredFault(number, RecordFault(**place, **what, detail=more["detail"]), attributes)
    witnesses = tuple(more["witnesses"])
    fault = MemoryFault(
        **place, **what, severity=severity, witnesses=witnesses, epoch=more["epoch"], detail=more["detail"]
    )
    return StoredFault(number, fault, attributes)
