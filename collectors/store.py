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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.report import Change, Fault, encode
from collectors.fault_rows import FAULT_COLUMNS, StoredFault, insert_fault, stored_fault
from collectors.minutes import MINUTE_NS
from collectors.population import Attributes, Victim
from collectors.recording import ADD_TOTAL, Conflict, Loss, Pulled, Recorded, record
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
class Move:
    """A host that was in `cluster` until the inventory put it elsewhere."""

    host: str
    until_ns: int
    cluster: str


@dataclass(frozen=True, slots=True)
class Total:
    """Counters of one cluster and stream since the store began; imported history isn't counted in them."""

    faults: int = 0
    errors: int = 0
    novel: int = 0
    expected: float = 0.0


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
        """Stores what several agents told (see recording) in one transaction; one outcome per answer."""
        outcomes: list[Recorded | Conflict] = []
        with self.transaction() as db:
            for answer in answers:
                outcomes.append(record(db, answer, hosts))
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
        query = f"SELECT {FAULT_COLUMNS} FROM faults WHERE id > ? AND novel ORDER BY id"
        return (stored_fault(row) for row in self._db.execute(query, (after_id,)))

    def novel_between(self, begin_ns: int, end_ns: int) -> list[Fault]:
        """Novel faults whose own time lies in [begin, end)."""
        query = f"SELECT {FAULT_COLUMNS} FROM faults WHERE time_ns >= ? AND time_ns < ? AND novel ORDER BY time_ns, id"
        return [stored_fault(row).fault for row in self._db.execute(query, (begin_ns, end_ns))]

    def latest_faults(self, limit: int) -> list[StoredFault]:
        """The latest faults by their own time, latest first."""
        query = f"SELECT {FAULT_COLUMNS} FROM faults ORDER BY time_ns DESC, id DESC LIMIT ?"
        return [stored_fault(row) for row in self._db.execute(query, (limit,))]

    def faulty_devices(self, since_ns: int, limit: int) -> list[tuple[StoredFault, int]]:
        """Per device (record faults: per file and place) its latest fault since then, and its number of errors.

        The corrected ones come last, so that a limit never hides what is worse behind them.
        """
        query = f"""SELECT {FAULT_COLUMNS}, errors FROM (SELECT *, total(count) AS errors, max(time_ns) FROM faults
            WHERE time_ns >= ? GROUP BY cluster, host, device, stream, severity, CASE stream WHEN 'record' THEN
            json_extract(more, '$.detail.path') || ' ' || json_extract(more, '$.detail.begin') END)
            ORDER BY severity IS 'corrected', time_ns DESC LIMIT ?"""
        return [(stored_fault(row[:-1]), int(row[-1])) for row in self._db.execute(query, (since_ns, limit))]

    def novel_since(self, since_ns: int) -> dict[str, int]:
        """How many novel faults each cluster had since then."""
        query = "SELECT cluster, count(*) FROM faults WHERE time_ns >= ? AND novel GROUP BY cluster"
        return dict(self._db.execute(query, (since_ns,)))

    def victims_since(self, since_ns: int) -> list[Victim]:
        """The hosts of all novel faults since then, whatever their stream."""
        query = f"SELECT {FAULT_COLUMNS} FROM faults WHERE time_ns >= ? AND novel ORDER BY time_ns, id"
        return [stored_fault(row).victim for row in self._db.execute(query, (since_ns,))]

    def totals(self) -> dict[tuple[str, str], Total]:
        """The persisted counters per (cluster, stream)."""
        rows = self._db.execute("SELECT cluster, stream, faults, errors, novel, expected FROM totals")
        return {
            (cluster, stream): Total(faults, int(errors), novel, expected)
            for cluster, stream, faults, errors, novel, expected in rows
        }

    def losses(self) -> list[Loss]:
        """One for each journal with a hole."""
        rows = self._db.execute("SELECT cluster, host, journal, faults FROM losses ORDER BY cluster, host, journal")
        return [Loss(*row) for row in rows]

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
            return sum(insert_fault(db, fault, *_import_key(db, fault), attributes) for fault, attributes in faults)

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
            db.executemany(ADD_TOTAL, [(*key, 0, 0.0, 0, amount) for key, amount in expected.items()])

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


def _import_key(db: sqlite3.Connection, fault: Fault) -> tuple[str, int]:
    if fault.journal is not None and fault.seq is not None:
        return fault.journal, fault.seq
    key = hashlib.sha256(encode(fault).encode()).digest()[:16]
    (number,) = db.execute(
        "INSERT INTO occurrences VALUES (?, 1) ON CONFLICT DO UPDATE SET number = number + 1 RETURNING number", (key,)
    ).fetchone()
    return f"import:{key.hex()}", number
