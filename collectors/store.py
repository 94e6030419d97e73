"""The store: everything the collector must not forget, in one SQLite file.

Enters: pulled answers, imported histories, burst revisions, what Alertmanager was told. Leaves: the same, after any
crash: a pull's faults and its cursor stand in one transaction, so that each fault counts exactly once. Every write goes
through `Store.transaction`; `synchronous=FULL` makes a returned commit durable. Several processes may have it open.
Reads no clock: every time is an argument.

A cluster's exposure is kept as intervals per (host, stream): from `watching[stream]` of the agent's header to its
`complete_until_ns`. A silent host's interval just stops.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.report import TIME_NS_MAX, AgentHeader, Change, Fault, MemoryFault, RecordFault, encode
from collectors.factors import Attributes, Victim, host_attributes, victim_of
from collectors.minutes import MINUTE_NS
from collectors.revision import Revision

SCHEMA_VERSION = 2
FACTS_VERSION = "facts_version"  # the number that grows whenever `facts` returns something else
BUSY_TIMEOUT_S = 20.0  # how long another process (an import) may hold the lock before a write fails

_SCHEMA = """
CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE agents (host TEXT PRIMARY KEY, cluster TEXT NOT NULL, cursor TEXT NOT NULL,
  complete_until_ns INTEGER NOT NULL);
CREATE TABLE journals (journal TEXT PRIMARY KEY, host TEXT NOT NULL, next_seq INTEGER NOT NULL,
  last_seq INTEGER NOT NULL);
CREATE TABLE losses (cluster TEXT, host TEXT, journal TEXT, faults INTEGER NOT NULL,
  PRIMARY KEY (cluster, host, journal));
CREATE TABLE faults (id INTEGER PRIMARY KEY AUTOINCREMENT, journal TEXT NOT NULL, seq INTEGER NOT NULL,
  time_ns INTEGER NOT NULL, time_error_s REAL NOT NULL, cluster TEXT NOT NULL, host TEXT NOT NULL,
  device TEXT NOT NULL, stream TEXT NOT NULL, severity TEXT, count INTEGER NOT NULL, novel INTEGER NOT NULL,
  more TEXT NOT NULL, UNIQUE (journal, seq));
CREATE INDEX faults_by_time ON faults (time_ns);
CREATE TABLE watching (host TEXT, stream TEXT, begin_ns INTEGER, end_ns INTEGER NOT NULL, cluster TEXT NOT NULL,
  PRIMARY KEY (host, stream, begin_ns));
CREATE TABLE imported_watching (cluster TEXT, stream TEXT, begin_minute INTEGER, end_minute INTEGER NOT NULL,
  hosts INTEGER NOT NULL, PRIMARY KEY (cluster, stream, begin_minute));
CREATE TABLE imports (id INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL UNIQUE, name TEXT NOT NULL);
CREATE TABLE totals (cluster TEXT, stream TEXT, faults INTEGER NOT NULL, errors REAL NOT NULL, novel INTEGER NOT NULL,
  expected REAL NOT NULL, PRIMARY KEY (cluster, stream));
CREATE TABLE revisions (burst_id TEXT, rev INTEGER, kind TEXT NOT NULL, label TEXT NOT NULL, document TEXT NOT NULL,
  PRIMARY KEY (burst_id, rev));
CREATE TABLE said (labels TEXT PRIMARY KEY, document TEXT NOT NULL);
"""
_SINCE_VERSION_2 = """
CREATE INDEX journals_by_host ON journals (host);
CREATE TABLE facts (host TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE moves (host TEXT, until_ns INTEGER, cluster TEXT NOT NULL, PRIMARY KEY (host, until_ns));
CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, action TEXT NOT NULL,
  time_ns INTEGER NOT NULL, cohort TEXT NOT NULL, UNIQUE (id, action));
CREATE TABLE documents (name TEXT PRIMARY KEY, document TEXT NOT NULL);
"""


class StoreError(Exception):
    """The store can't be used; the message is one sentence."""


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
class Move:
    """A host that was in `cluster` until the inventory put it elsewhere."""

    host: str
    until_ns: int
    cluster: str


@dataclass(frozen=True, slots=True)
class Loss:
    """Faults of a journal that were gone before they could be read."""

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


@dataclass(frozen=True, slots=True)
class Total:
    """Counters of one cluster and stream since the store began; imported history isn't counted in them."""

    faults: int = 0
    errors: int = 0
    novel: int = 0
    expected: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredFault:
    """A fault with the store's own ascending id, and if it is novel with what its host had then."""

    id: int
    fault: Fault
    attributes: Attributes = ()

    @property
    def victim(self) -> Victim:
        return victim_of(self.fault, self.attributes)


class Store:
    """One connection to the store. A connection belongs to one thread at a time."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Opens the store, and makes it if there is none and `create` is set.

        Raises:
            StoreError: there is none, it can't be opened, or another version of flipwatch wrote it.
        """
        self.path = path
        self._facts: dict[str, int] = {}  # host -> hash of what is stored; forgotten at a restart, then written again
        if not create and not path.exists():
            raise StoreError(f"{path}: there is no store yet; start the collector or import a history first")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"state_dir = {path.parent}: can't be made: {error.strerror}") from error
        try:
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise StoreError(f"{path}: can't open the store: {error}") from error
        try:
            self._prepare()
        except (sqlite3.Error, StoreError) as error:
            self._db.close()
            raise error if isinstance(error, StoreError) else StoreError(f"{path}: not usable: {error}") from error

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        with self.transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if not 0 <= version <= SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path}: the store has schema version {version}, this flipwatch reads {SCHEMA_VERSION}: "
                    f"use the flipwatch that wrote it, or another state_dir"
                )
            for statements in (_SCHEMA, _SINCE_VERSION_2)[version:]:
                for statement in statements.split(";")[:-1]:
                    db.execute(statement)
            if version != SCHEMA_VERSION:
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The only place that begins and commits: all or nothing, and durable once it returns."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # -- pulls

    def cursors(self) -> dict[str, str]:
        """Where to go on, per host."""
        return dict(self._db.execute("SELECT host, cursor FROM agents"))

    def complete_until(self) -> dict[str, int]:
        """Until when everything of a host is stored, in ns, per host."""
        return dict(self._db.execute("SELECT host, complete_until_ns FROM agents"))

    def record(self, answers: Sequence[Pulled], hosts: Collection[str]) -> list[Recorded | Conflict]:
        """Stores faults and cursors of several agents in one transaction; one outcome per answer.

        `hosts` are the inventory's host names: a journal may move from a host that is no longer among them.
        """
        outcomes: list[Recorded | Conflict] = []
        with self.transaction() as db:
            for answer in answers:
                stored = _journals(db, answer)
                outcomes.append(_conflict(answer, stored, hosts) or _record(db, answer, stored))
                self._keep_facts(db, answer)
        return outcomes

    def _keep_facts(self, db: sqlite3.Connection, answer: Pulled) -> None:
        """Written only when they are others than before: they seldom are, and every pull brings them."""
        facts = answer.header.facts
        if facts and self._facts.get(answer.host) != (key := hash(repr(facts))):
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (answer.host, json.dumps(facts)))
            db.execute(
                "INSERT INTO numbers VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1", (FACTS_VERSION,)
            )
            self._facts[answer.host] = key

    def facts(self) -> dict[str, dict[str, Any]]:
        """What each agent last told of its host."""
        return {host: json.loads(text) for host, text in self._db.execute("SELECT host, document FROM facts")}

    def note_moves(self, clusters: Mapping[str, str], now_ns: int) -> list[Move]:
        """Compares where each host was asked last with where the inventory has it now; those that moved.

        What such a host saw before `now_ns` stays its former cluster's, also when it is pulled later.
        """
        with self.transaction() as db:
            known = db.execute("SELECT host, cluster FROM agents").fetchall()
            moves = [Move(host, now_ns, old) for host, old in known if clusters.get(host, old) != old]
            db.executemany(
                "INSERT OR REPLACE INTO moves VALUES (?, ?, ?)", [(m.host, m.until_ns, m.cluster) for m in moves]
            )
            db.executemany("UPDATE agents SET cluster = ? WHERE host = ?", [(clusters[m.host], m.host) for m in moves])
        return moves

    # -- what was seen

    def novel_faults(self, after_id: int) -> Iterator[StoredFault]:
        """Novel faults stored after the one with this id, in the order they were stored."""
        query = f"SELECT {_FAULT_COLUMNS} FROM faults WHERE id > ? AND novel ORDER BY id"
        return (_stored_fault(row) for row in self._db.execute(query, (after_id,)))

    def novel_between(self, begin_ns: int, end_ns: int) -> list[Fault]:
        """Novel faults whose own time lies in [begin, end)."""
        query = f"SELECT {_FAULT_COLUMNS} FROM faults WHERE time_ns >= ? AND time_ns < ? AND novel ORDER BY time_ns, id"
        return [_stored_fault(row).fault for row in self._db.execute(query, (begin_ns, end_ns))]

    def latest_faults(self, limit: int) -> list[StoredFault]:
        """The latest faults by their own time, latest first."""
        query = f"SELECT {_FAULT_COLUMNS} FROM faults ORDER BY time_ns DESC, id DESC LIMIT ?"
        return [_stored_fault(row) for row in self._db.execute(query, (limit,))]

    def faulty_devices(self, since_ns: int, limit: int) -> list[tuple[StoredFault, int]]:
        """Per device (record faults: per file and place) its latest fault since then, and its number of errors.

        The corrected ones come last, so that a limit never hides what is worse behind them.
        """
        query = f"""SELECT {_FAULT_COLUMNS}, errors FROM (SELECT *, total(count) AS errors, max(time_ns) FROM faults
            WHERE time_ns >= ? GROUP BY cluster, host, device, stream, severity, CASE stream WHEN 'record' THEN
            json_extract(more, '$.detail.path') || ' ' || json_extract(more, '$.detail.begin') END)
            ORDER BY severity IS 'corrected', time_ns DESC LIMIT ?"""
        return [(_stored_fault(row[:-1]), int(row[-1])) for row in self._db.execute(query, (since_ns, limit))]

    def novel_since(self, since_ns: int) -> dict[str, int]:
        """How many novel faults each cluster had since then."""
        query = "SELECT cluster, count(*) FROM faults WHERE time_ns >= ? AND novel GROUP BY cluster"
        return dict(self._db.execute(query, (since_ns,)))

    def victims_since(self, since_ns: int) -> list[Victim]:
        """The hosts of all novel faults since then, whatever their stream."""
        query = f"SELECT {_FAULT_COLUMNS} FROM faults WHERE time_ns >= ? AND novel ORDER BY time_ns, id"
        return [_stored_fault(row).victim for row in self._db.execute(query, (since_ns,))]

    def totals(self) -> dict[tuple[str, str], Total]:
        """The persisted counters per (cluster, stream)."""
        rows = self._db.execute("SELECT cluster, stream, faults, errors, novel, expected FROM totals")
        return {
            (cluster, stream): Total(faults, int(errors), novel, expected)
            for cluster, stream, faults, errors, novel, expected in rows
        }

    def losses(self) -> list[tuple[str, Loss]]:
        """(cluster, loss) for each journal with a hole."""
        rows = self._db.execute("SELECT cluster, host, journal, faults FROM losses ORDER BY cluster, host, journal")
        return [(cluster, Loss(host, journal, faults)) for cluster, host, journal, faults in rows]

    # -- exposure

    def watching_streams(self) -> list[str]:
        """The streams that any host ever watched."""
        query = "SELECT DISTINCT stream FROM watching UNION SELECT DISTINCT stream FROM imported_watching"
        return [stream for (stream,) in self._db.execute(query)]

    def first_watched_minute(self) -> int | None:
        """The first minute that any host watched, or None."""
        query = """SELECT min(minute) FROM (SELECT min(begin_ns) / ? AS minute FROM watching
            UNION ALL SELECT min(begin_minute) FROM imported_watching)"""
        (minute,) = self._db.execute(query, (MINUTE_NS,)).fetchone()
        return minute

    def watched_until_ns(self) -> int:
        """Until when anything is known, 0 if nothing is."""
        query = """SELECT max(coalesce((SELECT max(end_ns) FROM watching), 0),
            coalesce((SELECT max(end_minute) FROM imported_watching), 0) * ?)"""
        (until_ns,) = self._db.execute(query, (MINUTE_NS,)).fetchone()
        return int(until_ns)

    def watching_hosts(self, stream: str, first_minute: int, last_minute: int, clusters: Sequence[str]) -> np.ndarray:
        """Watching hosts [minutes, clusters] from `first_minute` to `last_minute`, both included.

        A host watches a minute if it watched any part of it: the expected count is then a little too high, which is the
        safe side, and no fault is left without the exposure that belongs to it. Where an imported history says
        more hosts than the agents do, the history's number holds, since both may speak of the same hosts.
        """
        minutes = max(last_minute - first_minute + 1, 0)
        column = {name: index for index, name in enumerate(clusters)}
        steps = np.zeros((minutes + 1, len(clusters)), np.int64)
        query = "SELECT cluster, begin_ns, end_ns FROM watching WHERE stream = ? AND end_ns >= ? AND begin_ns <= ?"
        bounds = (stream, first_minute * MINUTE_NS, (last_minute + 1) * MINUTE_NS)
        for cluster, begin_ns, end_ns in self._db.execute(query, bounds):
            begin = max(begin_ns // MINUTE_NS - first_minute, 0)
            end = min((end_ns - 1) // MINUTE_NS + 1 - first_minute, minutes)
            if cluster in column and begin < end:
                steps[begin, column[cluster]] += 1
                steps[end, column[cluster]] -= 1
        hosts = steps.cumsum(axis=0)[:minutes]
        query = """SELECT cluster, begin_minute, end_minute, hosts FROM imported_watching
            WHERE stream = ? AND end_minute > ? AND begin_minute <= ?"""
        for cluster, begin, end, number in self._db.execute(query, (stream, first_minute, last_minute)):
            if cluster in column:
                block = hosts[max(begin - first_minute, 0) : max(end - first_minute, 0), column[cluster]]
                np.maximum(block, number, out=block)
        return hosts

    # -- imports

    def last_import(self) -> int:
        """A number that grows with each finished import."""
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM imports").fetchone()
        return int(last)

    def was_imported(self, sha256: str) -> bool:
        """True if a file with this content was imported to its end."""
        return self._db.execute("SELECT 1 FROM imports WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def begin_import(self) -> None:
        """Forgets how often `import_faults` has met which line."""
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS occurrences (key BLOB PRIMARY KEY, number INTEGER NOT NULL)")
        self._db.execute("DELETE FROM occurrences")

    def import_faults(self, faults: Iterable[tuple[Fault, Attributes]]) -> int:
        """Stores faults of a history with what their hosts had, in one transaction; returns how many are new.

        A line without journal and seq gets its content as its key, and as seq how often it came since `begin_import`,
        so that importing a line again changes nothing. That is remembered on disk: a history may be larger than memory.
        """
        with self.transaction() as db:
            return sum(_insert(db, fault, *_import_key(db, fault), attributes) for fault, attributes in faults)

    def finish_import(self, sha256: str, name: str, exposure: Iterable[tuple[str, str, int, int, int]]) -> None:
        """The history's (cluster, stream, begin_minute, end_minute, hosts) and the mark that all of it is in."""
        with self.transaction() as db:
            db.executemany(
                "INSERT INTO imported_watching VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "end_minute = excluded.end_minute, hosts = excluded.hosts",
                exposure,
            )
            db.execute("INSERT INTO imports (sha256, name) VALUES (?, ?) ON CONFLICT DO NOTHING", (sha256, name))

    # -- bursts and alerts

    def number(self, name: str) -> int | None:
        """A number that outlives the process."""
        row = self._db.execute("SELECT value FROM numbers WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def record_step(
        self,
        revisions: Iterable[Revision],
        numbers: dict[str, int],
        expected: dict[tuple[str, str], float],
    ) -> None:
        """What one correlation step brought, in one transaction.

        `numbers` replace the old ones, `expected` is added to the counters per (cluster, stream).
        """
        rows = [(r.burst_id, r.rev, r.kind, r.label, json.dumps(r.document())) for r in revisions]
        with self.transaction() as db:
            db.executemany("INSERT INTO revisions VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)
            db.executemany("INSERT OR REPLACE INTO numbers VALUES (?, ?)", numbers.items())
            db.executemany(_ADD_TOTAL, [(*key, 0, 0.0, 0, amount) for key, amount in expected.items()])

    def revision_documents(self) -> list[dict[str, Any]]:
        """The document of every revision of every burst, in the order they were stored."""
        return [json.loads(text) for (text,) in self._db.execute("SELECT document FROM revisions ORDER BY rowid")]

    def bursts(self) -> list[Revision]:
        """The latest revision of each burst, the burst that began first first."""
        query = """SELECT document FROM revisions AS one
            WHERE rev = (SELECT max(rev) FROM revisions WHERE burst_id = one.burst_id)"""
        latest = [Revision.from_document(json.loads(text)) for (text,) in self._db.execute(query)]
        return sorted(latest, key=lambda burst: (burst.t_start_ns, burst.burst_id))

    def burst_totals(self) -> dict[tuple[str, str], int]:
        """How many revisions there were per (cause, kind)."""
        rows = self._db.execute("SELECT label, kind, count(*) FROM revisions GROUP BY label, kind")
        return {(label, kind): number for label, kind, number in rows}

    def keep_document(self, name: str, document: Any) -> None:
        """Replaces what `document` returns for this name."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (name, json.dumps(document)))

    def document(self, name: str) -> Any:
        """A document that outlives the process; None if there is none."""
        row = self._db.execute("SELECT document FROM documents WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    # -- changes

    def changes(self, after_number: int = 0) -> list[tuple[int, Change]]:
        """(number, change) of each change that was recorded after the one with this number."""
        query = "SELECT number, time_ns, id, action, cohort FROM changes WHERE number > ? ORDER BY number"
        return [
            (number, Change(time_ns=time_ns, id=id_, action=action, cohort=cohort))
            for number, time_ns, id_, action, cohort in self._db.execute(query, (after_number,))
        ]

    def record_change(self, change: Change) -> Change:
        """Stores it, unless this id was opened (closed) before; returns what is stored now."""
        row = (change.id, change.action, change.time_ns, change.cohort)
        with self.transaction() as db:
            db.execute(
                "INSERT INTO changes (id, action, time_ns, cohort) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row
            )
            query = "SELECT time_ns, cohort FROM changes WHERE id = ? AND action = ?"
            time_ns, cohort = db.execute(query, (change.id, change.action)).fetchone()
        return replace(change, time_ns=time_ns, cohort=cohort)

    # -- what was said

    def said(self) -> dict[str, dict[str, Any]]:
        """What Alertmanager was told and must still hear about, by label set."""
        return {key: json.loads(text) for key, text in self._db.execute("SELECT labels, document FROM said")}

    def record_said(self, said: dict[str, dict[str, Any]]) -> None:
        """Replaces what `said` returns."""
        with self.transaction() as db:
            db.execute("DELETE FROM said")
            db.executemany("INSERT INTO said VALUES (?, ?)", [(key, json.dumps(value)) for key, value in said.items()])

    # -- bounds

    def forget_before(self, time_ns: int) -> int:
        """Drops faults and exposure older than this; returns how many faults. Bursts and counters are kept."""
        with self.transaction() as db:
            faults = db.execute("DELETE FROM faults WHERE time_ns < ?", (time_ns,)).rowcount
            db.execute("DELETE FROM watching WHERE end_ns < ?", (time_ns,))
            db.execute("DELETE FROM moves WHERE until_ns < ?", (time_ns,))
            db.execute("DELETE FROM imported_watching WHERE end_minute < ?", (time_ns // MINUTE_NS,))
        return faults


_FAULT_COLUMNS = "id, journal, seq, time_ns, time_error_s, cluster, host, device, stream, severity, count, novel, more"
_INSERT_FAULT = (
    "INSERT INTO faults (journal, seq, time_ns, time_error_s, cluster, host, device, stream, severity, count, novel, "
    "more) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (journal, seq) DO NOTHING"
)
_ADD_TOTAL = (
    "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET faults = faults + excluded.faults, "
    "errors = errors + excluded.errors, novel = novel + excluded.novel, expected = expected + excluded.expected"
)


def _more_text(fault: Fault, attributes: Attributes) -> str:
    """What has no column of its own, as JSON; attributes only where they're needed, with novel faults."""
    more: dict[str, Any] = {"detail": fault.detail}
    if fault.novel and attributes:
        more["attributes"] = attributes
    if isinstance(fault, MemoryFault):
        more |= {"witnesses": fault.witnesses, "epoch": fault.epoch}
    return json.dumps(more)


def _insert(db: sqlite3.Connection, fault: Fault, journal: str, seq: int, attributes: Attributes) -> int:
    """1 if the fault is new, 0 if (journal, seq) was there."""
    severity = fault.severity if isinstance(fault, MemoryFault) else None
    row = (journal, seq, fault.time_ns, fault.time_error_s, fault.cluster, fault.host, fault.device, fault.stream)
    return db.execute(_INSERT_FAULT, (*row, severity, fault.count, fault.novel, _more_text(fault, attributes))).rowcount


def _stored_fault(row: Sequence[Any]) -> StoredFault:
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


def _import_key(db: sqlite3.Connection, fault: Fault) -> tuple[str, int]:
    if fault.journal is not None and fault.seq is not None:
        return fault.journal, fault.seq
    key = hashlib.sha256(encode(fault).encode()).digest()[:16]
    (number,) = db.execute(
        "INSERT INTO occurrences VALUES (?, 1) ON CONFLICT DO UPDATE SET number = number + 1 RETURNING number", (key,)
    ).fetchone()
    return f"import:{key.hex()}", number


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
        if fault.seq >= expected_seq and _insert(db, fault, fault.journal, fault.seq, attributes):
            fresh.append(fault)
    for span in answer.header.journals:  # trimmed beyond what was reached
        losses[span.journal] += max(span.first_seq - next_seqs[span.journal], 0)
        next_seqs[span.journal] = max(span.first_seq, next_seqs[span.journal])
    _lose_vanished_journals(db, answer, stored, losses)
    _write_journals(db, answer, stored, next_seqs)
    exposure_from_ns = _write_agent(db, answer, places, row[0] if row else 0)
    _add_totals(db, fresh)
    db.executemany(
        "INSERT INTO losses VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET faults = faults + excluded.faults",
        [(answer.cluster, answer.host, journal, lost) for journal, lost in losses.items() if lost],
    )
    is_behind = any(span.last_seq >= next_seqs[span.journal] for span in answer.header.journals)
    found = tuple(Loss(answer.host, journal, lost) for journal, lost in losses.items() if lost)
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
    db.executemany(_ADD_TOTAL, rows)
