"""Recording: what one answer of an agent does to the store, so that each fault counts exactly once.

Enters: a whole answer, inside a transaction that is the store's. Leaves: its faults, cursor, exposure and losses in the
tables, and what became of it; or a Conflict, and the tables as they were. Reads no clock.

Of each journal the store knows which seq it expects next: what lies below came before, what is jumped over is lost.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace

from agent.report import TIME_NS_MAX, AgentHeader, Fault
from collectors.fault_rows import insert_fault
from collectors.population import host_attributes

ADD_TOTAL = (
    "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET faults = faults + excluded.faults, "
    "errors = errors + excluded.errors, novel = novel + excluded.novel, expected = expected + excluded.expected"
)


@dataclass(frozen=True, slots=True)
class Pulled:
    """One complete answer of an agent. Host and cluster are the inventory's words."""

    host: str
    cluster: str
    header: AgentHeader
    faults: tuple[Fault, ...]
    received_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loss:
    """Faults of a journal that were gone before they could be read."""

    cluster: str
    host: str
    journal: str
    faults: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one answer.

    How many of its faults were new, what was found missing, whether the agent has more, and from when on the exposure
    is another than before (None: it isn't).
    """

    faults: int
    losses: tuple[Loss, ...]
    is_behind: bool
    exposure_from_ns: int | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """An answer that must not be believed; nothing of it was stored."""

    sentence: str


def record(db: sqlite3.Connection, answer: Pulled, hosts: Collection[str]) -> Recorded | Conflict:
    """Stores one answer.

    `hosts` are the inventory's host names: a journal may move from a host that is no longer among them.
    """
    stored = _journals(db, answer)
    return _conflict(answer, stored, hosts) or _record(db, answer, stored)


Journals = Mapping[str, tuple[str, int, int]]  # host, next_seq and last_seq as they are stored


def _journals(db: sqlite3.Connection, answer: Pulled) -> Journals:
    """What is stored of the journals that the answer names, and of all others of its host."""
    named = [span.journal for span in answer.header.journals]
    marks = ", ".join("?" * len(named))
    query = f"SELECT journal, host, next_seq, last_seq FROM journals WHERE host = ? OR journal IN ({marks})"
    return {journal: (host, next_, last) for journal, host, next_, last in db.execute(query, (answer.host, *named))}


def _conflict(answer: Pulled, stored: Journals, hosts: Collection[str]) -> Conflict | None:
    """Why this answer must not be believed: its journal belongs to another host, or its numbers were used before."""
    for span in answer.header.journals:
        if span.journal not in stored:
            continue
        owner, next_seq, _ = stored[span.journal]
        if owner != answer.host and owner in hosts:
            return Conflict(
                f"journal {span.journal} is seen at two hosts, {owner} and {answer.host}: "
                f"remove the copied state directory on one of them"
            )
        if span.last_seq + 1 < next_seq:
            return Conflict(
                f"journal {span.journal} of {answer.host} ended at {next_seq - 1} before and now at {span.last_seq}: "
                f"an old state directory was put back; remove it and the agent begins a new journal"
            )
    return None


def _record(db: sqlite3.Connection, answer: Pulled, stored: Journals) -> Recorded:
    row = db.execute("SELECT complete_until_ns FROM agents WHERE host = ?", (answer.host,)).fetchone()
    next_seqs = _known_journals(answer, stored, first_contact=row is None)
    places = _places(db, answer)
    attributes = host_attributes(answer.labels, answer.header.facts) if answer.faults else ()
    losses: Counter[str] = Counter()
    fresh = []
    for told in answer.faults:
        fault = replace(told, host=answer.host, cluster=_place_at(places, told.time_ns))
        assert fault.journal is not None and fault.seq is not None, "a pulled fault has its place"
        expected_seq = next_seqs.setdefault(fault.journal, fault.seq)
        losses[fault.journal] += max(fault.seq - expected_seq, 0)
        next_seqs[fault.journal] = max(expected_seq, fault.seq + 1)
        if fault.seq >= expected_seq and insert_fault(db, fault, fault.journal, fault.seq, attributes):
            fresh.append(fault)
    for span in answer.header.journals:  # trimmed beyond what was reached
        losses[span.journal] += max(span.first_seq - next_seqs[span.journal], 0)
        next_seqs[span.journal] = max(span.first_seq, next_seqs[span.journal])
    _lose_vanished_journals(db, answer, stored, losses)
    _write_journals(db, answer, stored, next_seqs)
    exposure_from_ns = _write_agent(db, answer, places, row[0] if row else 0)
    _add_totals(db, fresh)
    found = tuple(Loss(answer.cluster, answer.host, journal, lost) for journal, lost in losses.items() if lost)
    db.executemany(
        "INSERT INTO losses VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET faults = faults + excluded.faults",
        map(astuple, found),
    )
    is_behind = any(span.last_seq >= next_seqs[span.journal] for span in answer.header.journals)
    return Recorded(len(fresh), found, is_behind and bool(answer.faults), exposure_from_ns)


def _known_journals(answer: Pulled, stored: Journals, first_contact: bool) -> dict[str, int]:
    """The seq to expect next, per journal of the header.

    What a host had trimmed before it was ever asked isn't a loss of ours; a journal that a known host began later is
    expected from its first fault, 1.
    """
    known = {}
    for span in answer.header.journals:
        unknown = span.first_seq if first_contact else min(span.first_seq, 1)
        known[span.journal] = stored[span.journal][1] if span.journal in stored else unknown
    return known


def _lose_vanished_journals(db: sqlite3.Connection, answer: Pulled, stored: Journals, losses: Counter[str]) -> None:
    """A journal that the host no longer has may have held faults that were never read."""
    present = {span.journal for span in answer.header.journals}
    for journal, (host, next_seq, last_seq) in stored.items():
        if host == answer.host and journal not in present and last_seq >= next_seq:
            losses[journal] += last_seq + 1 - next_seq
            db.execute("UPDATE journals SET next_seq = ? WHERE journal = ?", (last_seq + 1, journal))


def _write_journals(db: sqlite3.Connection, answer: Pulled, stored: Journals, next_seqs: dict[str, int]) -> None:
    spans = {span.journal: span for span in answer.header.journals}
    for journal, next_seq in next_seqs.items():
        last_seq = spans[journal].last_seq if journal in spans else next_seq - 1
        if stored.get(journal) != (answer.host, next_seq, last_seq):
            db.execute(
                "INSERT OR REPLACE INTO journals VALUES (?, ?, ?, ?)", (journal, answer.host, next_seq, last_seq)
            )


Places = Sequence[tuple[int, str]]  # (until_ns, cluster), oldest first


def _places(db: sqlite3.Connection, answer: Pulled) -> Places:
    """Where the host was until when: most never moved, and have been in one cluster until the end of time."""
    moves = db.execute("SELECT until_ns, cluster FROM moves WHERE host = ? ORDER BY until_ns", (answer.host,))
    return [*moves, (TIME_NS_MAX, answer.cluster)]


def _place_at(places: Places, time_ns: int) -> str:
    return next(cluster for until_ns, cluster in places if time_ns < until_ns or until_ns == TIME_NS_MAX)


def _write_agent(db: sqlite3.Connection, answer: Pulled, places: Places, before_ns: int) -> int | None:
    """Moves the cursor and the exposure, which was complete until `before_ns`; returns from when on it is another."""
    header = answer.header
    until_ns = min(header.complete_until_ns, answer.received_ns)  # a clock that is ahead watches no future
    db.execute(
        "INSERT OR REPLACE INTO agents VALUES (?, ?, ?, ?)", (answer.host, answer.cluster, header.cursor, until_ns)
    )
    changes = []
    for stream, since_ns in header.watching.items():
        for left_ns, cluster in places:
            end_ns = min(left_ns, until_ns)
            if since_ns < end_ns:
                who = (answer.host, stream, cluster)
                grown = since_ns < before_ns < end_ns and _grow_watching(db, who, since_ns, before_ns, end_ns)
                changes.append(before_ns if grown else _extend_watching(db, who, since_ns, end_ns))
            since_ns = max(since_ns, left_ns)
    return min((change for change in changes if change is not None), default=None)


def _grow_watching(db: sqlite3.Connection, who: tuple[str, str, str], begin_ns: int, old_ns: int, end_ns: int) -> bool:
    """What nearly every pull does, in one statement: [begin, old) becomes [begin, end). False if it isn't so simple."""
    host, stream, _ = who
    grow = """UPDATE watching SET end_ns = ? WHERE host = ? AND stream = ? AND cluster = ? AND begin_ns = ?
        AND end_ns = ? AND NOT EXISTS
        (SELECT 1 FROM watching WHERE host = ? AND stream = ? AND begin_ns > ? AND begin_ns <= ?)"""
    return db.execute(grow, (end_ns, *who, begin_ns, old_ns, host, stream, begin_ns, end_ns)).rowcount == 1


def _extend_watching(db: sqlite3.Connection, who: tuple[str, str, str], begin_ns: int, end_ns: int) -> int | None:
    """Adds [begin, end) to the intervals of (host, stream, cluster); returns from when on they are others.

    Those that touch become one, so that no host counts twice. What the host watched as part of another cluster stays
    that cluster's.
    """
    host, stream, mine = who
    touched = db.execute(
        "SELECT begin_ns, end_ns, cluster FROM watching "
        "WHERE host = ? AND stream = ? AND end_ns >= ? AND begin_ns <= ?",
        (host, stream, begin_ns, end_ns),
    ).fetchall()
    others = [end for begin, end, cluster in touched if cluster != mine and begin < end_ns]
    begin_ns = max([begin_ns, *others])
    spans = [(begin, end) for begin, end, cluster in touched if cluster == mine and end >= begin_ns]
    if begin_ns >= end_ns or any(begin <= begin_ns and end_ns <= end for begin, end in spans):
        return None
    grown_from_ns = spans[0][1] if len(spans) == 1 and spans[0][0] <= begin_ns else begin_ns
    begin_ns = min([begin_ns, *(begin for begin, _ in spans)])
    end_ns = max([end_ns, *(end for _, end in spans)])
    for begin, _ in spans:
        if begin != begin_ns:
            db.execute("DELETE FROM watching WHERE host = ? AND stream = ? AND begin_ns = ?", (host, stream, begin))
    db.execute(
        "INSERT INTO watching VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET end_ns = excluded.end_ns",
        (host, stream, begin_ns, end_ns, mine),
    )
    return grown_from_ns


def _add_totals(db: sqlite3.Connection, faults: Sequence[Fault]) -> None:
    sums: dict[tuple[str, str], Counter[str]] = {}
    for fault in faults:
        assert fault.cluster is not None, "it was placed"
        total = sums.setdefault((fault.cluster, fault.stream), Counter())
        total.update(faults=1, errors=fault.count, novel=int(fault.novel))
    rows = [(*key, t["faults"], float(t["errors"]), t["novel"], 0.0) for key, t in sums.items()]
    db.executemany(ADD_TOTAL, rows)
