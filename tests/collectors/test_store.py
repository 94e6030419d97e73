"""The store: exactly once, holes counted and named, exposure as intervals, and nothing half-written by any crash."""

import contextlib
import os
import resource
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report import AgentHeader, JournalSpan, MemoryFault, RecordFault
from collectors import store as store_module
from collectors.minutes import MINUTE_NS
from collectors.recording import Conflict, Loss, Pulled, Recorded
from collectors.store import Store, StoreError
from tests.collectors.bursts import CELESTIAL, revision

NOW_NS = 1_795_453_642 * 10**9
HOSTS = {"h1", "h2"}


def fault(seq: int, journal: str = "j1", **changes) -> MemoryFault:
    made = MemoryFault(
        time_ns=NOW_NS + seq,
        time_error_s=5.0,
        host="whatever",
        device=f"mc0/channel{seq}/slot0",
        stream="dram",
        severity="corrected",
        count=2,
        novel=True,
        journal=journal,
        seq=seq,
        witnesses=("edac",),
        detail={"label": "A1"},
    )
    return replace(made, **changes)


def pulled(*faults, host="h1", cluster="fra", cursor="c", spans=None, watching=None, until_ns=NOW_NS, **changes):
    if spans is None:
        spans = {
            journal: (1, max(f.seq for f in faults if f.journal == journal)) for journal in {f.journal for f in faults}
        }
    header = AgentHeader(
        time_ns=NOW_NS,
        complete_until_ns=until_ns,
        boot_id="b",
        host="advisory",
        cursor=cursor,
        journals=tuple(JournalSpan(journal=j, first_seq=a, last_seq=b) for j, (a, b) in spans.items()),
        watching=watching or {},
    )
    return Pulled(host, cluster, header, faults, changes.get("received_ns", NOW_NS + 10**15))


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(Store(tmp_path / "s.sqlite3")) as opened:
        yield opened


def kept(store: Store) -> list[tuple[str | None, int | None]]:
    return sorted((f.fault.journal, f.fault.seq) for f in store.latest_faults(10**6))


def test_a_fault_comes_back_as_it_was_with_the_inventorys_words(store):
    record = RecordFault(
        time_ns=NOW_NS, time_error_s=9.5, host="x", device="/dev/vda", count=1, novel=False, journal="j2", seq=1,
        detail={"path": "/srv/a.log", "begin": 0, "flip": {"offset_bytes": 3, "bit": 1, "stored": 0}},
    )  # fmt: skip
    store.record([pulled(fault(1), record)], HOSTS)
    memory, stored = sorted((f.fault for f in store.latest_faults(9)), key=lambda f: f.stream)
    assert memory == replace(fault(1), host="h1", cluster="fra")
    assert stored == replace(record, host="h1", cluster="fra")


def test_a_repeated_answer_changes_nothing_but_the_cursor(store):
    store.record([pulled(fault(1), fault(2), cursor="a")], HOSTS)
    (again,) = store.record([pulled(fault(1), fault(2), fault(3), cursor="b")], HOSTS)
    assert (again.faults, again.losses) == (1, ())
    assert kept(store) == [("j1", 1), ("j1", 2), ("j1", 3)]
    assert store.cursors() == {"h1": "b"}
    assert store.totals()[("fra", "dram")].errors == 6


def test_counters_are_kept_per_cluster_and_stream(store):
    store.record([pulled(fault(1), fault(2, novel=False, stream="sram"), fault(3, count=2**63 - 1))], HOSTS)
    assert store.totals()[("fra", "dram")].novel == 2
    assert store.totals()[("fra", "sram")].novel == 0
    assert store.totals()[("fra", "dram")].errors == pytest.approx(2**63)


def test_a_trimmed_journal_is_a_counted_loss(store):
    store.record([pulled(fault(1), fault(2))], HOSTS)
    (outcome,) = store.record([pulled(fault(6), spans={"j1": (6, 6)})], HOSTS)
    assert outcome.losses == (Loss("fra", "h1", "j1", 3),)
    store.record([pulled(spans={"j1": (9, 8)})], HOSTS)
    assert store.losses() == [Loss("fra", "h1", "j1", 5)]


def test_a_gap_between_two_lines_is_a_counted_loss(store):
    (outcome,) = store.record([pulled(fault(1), fault(4), spans={"j1": (1, 4)})], HOSTS)
    assert outcome.losses == (Loss("fra", "h1", "j1", 2),)


def test_what_was_trimmed_before_the_first_contact_is_no_loss(store):
    (outcome,) = store.record([pulled(fault(500), spans={"j1": (500, 500)})], HOSTS)
    assert outcome.losses == ()


def test_a_known_hosts_new_journal_is_expected_from_its_first_fault(store):
    store.record([pulled(fault(1))], HOSTS)
    (outcome,) = store.record([pulled(fault(3, "j2"), spans={"j1": (1, 1), "j2": (3, 3)})], HOSTS)
    assert outcome.losses == (Loss("fra", "h1", "j2", 2),)


def test_a_vanished_journal_takes_its_unread_faults_with_it(store):
    (outcome,) = store.record([pulled(fault(1), spans={"j1": (1, 4)})], HOSTS)
    assert outcome.is_behind
    (outcome,) = store.record([pulled(fault(1, "j2"))], HOSTS)
    assert outcome.losses == (Loss("fra", "h1", "j1", 3),)
    (outcome,) = store.record([pulled(fault(2, "j2"))], HOSTS)
    assert outcome.losses == ()


def test_a_journal_at_two_hosts_is_refused_and_the_others_go_on(store):
    store.record([pulled(fault(1))], HOSTS)
    twin, other = store.record(
        [pulled(fault(2), host="h2", cursor="z"), pulled(fault(1, "j9"), host="h3")], {*HOSTS, "h3"}
    )
    assert isinstance(twin, Conflict) and "h1" in twin.sentence and "h2" in twin.sentence
    assert isinstance(other, Recorded) and other.faults == 1
    assert store.cursors().keys() == {"h1", "h3"}
    assert kept(store) == [("j1", 1), ("j9", 1)]


def test_a_renamed_host_takes_its_journal_along(store):
    store.record([pulled(fault(1))], HOSTS)
    (outcome,) = store.record([pulled(fault(1), fault(2), host="new-name")], {"new-name"})
    assert outcome.faults == 1
    assert kept(store) == [("j1", 1), ("j1", 2)]


def test_reused_numbers_are_refused(store):
    store.record([pulled(*map(fault, range(1, 6)))], HOSTS)
    (outcome,) = store.record([pulled(fault(1), spans={"j1": (1, 2)})], HOSTS)
    assert isinstance(outcome, Conflict) and "ended at 5" in outcome.sentence
    assert len(kept(store)) == 5


MIN = MINUTE_NS
BASE = NOW_NS // MIN * MIN


def watched(store, host, since_min, until_min, cluster="fra", stream="dram", received_min=10**6):
    answer = pulled(
        host=host, cluster=cluster, spans={}, watching={stream: BASE + int(since_min * MIN)},
        until_ns=BASE + int(until_min * MIN), received_ns=BASE + int(received_min * MIN),
    )  # fmt: skip
    (outcome,) = store.record([answer], {"h1", "h2"})
    return outcome.exposure_from_ns


def hosts(store, first, last, stream="dram", clusters=("fra", "nyc")):
    return store.watching_hosts(stream, BASE // MIN + first, BASE // MIN + last, clusters).T.tolist()


def test_exposure_counts_hosts_minute_by_minute(store):
    watched(store, "h1", 0, 5)
    watched(store, "h2", 2.5, 3.5)
    assert hosts(store, 0, 6) == [[1, 1, 2, 2, 1, 0, 0], [0] * 7]  # a part of a minute counts
    assert hosts(store, 3, 4) == [[2, 1], [0, 0]]
    assert hosts(store, 0, 3, "gpu") == [[0] * 4] * 2


def test_an_interval_grows_and_says_from_where(store):
    assert watched(store, "h1", 0, 5) == BASE
    assert watched(store, "h1", 0, 6) == BASE + 5 * MIN
    assert watched(store, "h1", 8, 9) == BASE + 8 * MIN
    assert hosts(store, 0, 10)[0] == [1] * 6 + [0, 0, 1, 0, 0]
    assert watched(store, "h1", 1, 10) == BASE + MIN  # the agent can prove the gap now: it is filled, none twice
    assert hosts(store, 0, 10)[0] == [1] * 10 + [0]


def test_a_host_that_moves_leaves_its_past_behind(store):
    watched(store, "h1", 0, 5)
    watched(store, "h1", 0, 8, cluster="nyc")
    assert hosts(store, 0, 8) == [[1] * 5 + [0] * 4, [0] * 5 + [1, 1, 1, 0]]


def test_a_clock_that_is_ahead_watches_no_future(store):
    watched(store, "h1", 0, 10**5, received_min=2)
    assert hosts(store, 0, 5)[0] == [1, 1, 0, 0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.sampled_from(["fra", "nyc"])), max_size=8))
def test_no_order_of_intervals_counts_a_host_twice(intervals):
    with contextlib.closing(Store(Path("/dev/shm") / f"flipwatch-test-{os.getpid()}.sqlite3")) as store:
        try:
            covered = set()
            for begin, end, cluster in intervals:
                watched(store, "h1", begin, end, cluster=cluster)
                covered |= set(range(begin, end))
            total = np.sum(hosts(store, 0, 21), axis=0)
            assert total.max() <= 1
            assert {minute for minute in range(22) if total[minute]} <= covered
            if len({cluster for *_, cluster in intervals}) <= 1:
                assert {minute for minute in range(22) if total[minute]} == covered
        finally:
            for path in Path("/dev/shm").glob(f"flipwatch-test-{os.getpid()}*"):
                path.unlink()


def test_an_imported_history_watches_where_it_says_more(store):
    watched(store, "h1", 0, 5)
    minute = BASE // MIN
    store.finish_import(
        "hash", "h.ndjson", [("fra", "dram", minute + 2, minute + 4, 7), ("nyc", "dram", minute, minute + 1, 3)]
    )
    assert hosts(store, 0, 5) == [[1, 1, 7, 7, 1, 0], [3, 0, 0, 0, 0, 0]]
    assert hosts(store, 3, 3) == [[7], [0]]
    assert store.first_watched_minute() == minute
    assert store.watching_streams() == ["dram"]


def imported(store, *faults) -> int:
    """By an import of its own; how many were new."""
    store.begin_import()
    return store.import_faults((fault, ()) for fault in faults)


def test_the_same_lines_imported_again_are_known(store):
    line = replace(fault(1), journal=None, seq=None, cluster="fra")
    twice = [line, replace(line, device="other"), line]  # the file itself holds one line twice: two faults
    assert imported(store, *twice) == 3
    assert imported(store, *twice, fault(7, cluster="fra")) == 1
    assert store.totals() == {}


def test_old_faults_and_exposure_go_but_stay_known(store):
    store.record([pulled(fault(1, time_ns=5), fault(2))], HOSTS)
    watched(store, "h1", 0, 5)
    assert store.forget_before(BASE + 20 * MIN) == 2
    assert hosts(store, 0, 5)[0] == [0] * 6
    (outcome,) = store.record([pulled(fault(1, time_ns=5), fault(2))], HOSTS)
    assert outcome.faults == 0 and kept(store) == []
    assert store.totals()[("fra", "dram")].faults == 2


def test_faulty_devices_are_one_per_device_and_one_per_place_in_a_file(store):
    def record(seq, begin):
        return RecordFault(
            time_ns=NOW_NS + seq, time_error_s=1.0, host="x", device="/dev/vda", count=1, novel=True, journal="r",
            seq=seq, detail={"path": "/srv/a", "begin": begin},
        )  # fmt: skip

    corrected = (fault(1, device="d"), fault(2, device="d"))
    worse = fault(6, device="d", severity="uncorrected", time_ns=NOW_NS)
    store.record([pulled(*corrected, worse)], HOSTS)
    store.record([pulled(record(3, 0), record(4, 99), record(5, 0), host="h2")], HOSTS)
    found = [(f.fault.seq, errors) for f, errors in store.faulty_devices(NOW_NS, 10)]
    assert found == [(5, 2), (4, 1), (6, 2), (2, 4)]


def test_another_schema_version_is_one_sentence(tmp_path):
    path = tmp_path / "s.sqlite3"
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="schema version 99"):
        Store(path)


def test_a_store_of_version_1_is_taken_over_with_all_it_holds(tmp_path):
    path = tmp_path / "s.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for statement in store_module._SCHEMA.split(";")[:-1]:
            db.execute(statement)
        db.execute("PRAGMA user_version=1")
        db.execute("INSERT INTO agents VALUES ('h1', 'fra', 'c', 5)")
        db.execute(
            "INSERT INTO faults (journal, seq, time_ns, time_error_s, cluster, host, device, stream, severity, count, "
            "novel, more) VALUES ('j1', 1, 7, 1, 'fra', 'h1', 'd', 'dram', 'corrected', 1, 1, "
            """'{"detail": {"part": "P"}, "witnesses": [], "epoch": null}')"""
        )
    for _ in range(2):  # and once it is taken over, it is like any other
        with contextlib.closing(Store(path)) as store:
            (victim,) = store.victims_since(0)
            assert (victim.host, victim.attributes) == ("h1", (("part", "P"),))
            assert store.cursors() == {"h1": "c"} and store.changes() == []


def test_a_move_is_noted_once_and_keeps_the_past_apart(store):
    """Exposure and faults before the move stay with the old cluster, whenever they're pulled."""
    watching = {"dram": BASE}
    store.record([pulled(watching=watching, until_ns=BASE + 3 * MIN)], HOSTS)
    assert store.note_moves({"h1": "fra", "h2": "nyc"}, BASE + 4 * MIN) == []
    (move,) = store.note_moves({"h1": "nyc"}, BASE + 5 * MIN)
    assert (move.host, move.cluster, move.until_ns) == ("h1", "fra", BASE + 5 * MIN)
    assert store.note_moves({"h1": "nyc"}, BASE + 6 * MIN) == []
    faults = [fault(seq, time_ns=BASE + minute * MIN) for seq, minute in ((1, 4), (2, 7))]
    late = pulled(*faults, cluster="nyc", watching=watching, until_ns=BASE + 8 * MIN)
    (first,) = store.record([late], HOSTS)
    assert first.exposure_from_ns == BASE + 3 * MIN
    assert sorted((f.fault.cluster, f.fault.seq) for f in store.latest_faults(9)) == [("fra", 1), ("nyc", 2)]
    (again,) = store.record([pulled(cluster="nyc", watching=watching, until_ns=BASE + 9 * MIN)], HOSTS)
    assert again.exposure_from_ns == BASE + 8 * MIN  # what was known stays untouched
    first_minute = BASE // MIN
    seen = store.watching_hosts("dram", first_minute, first_minute + 9, ("fra", "nyc")).T.tolist()
    assert seen == [[1, 1, 1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1, 1, 0]]
    assert store.totals()["fra", "dram"].novel == store.totals()["nyc", "dram"].novel == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 14)), min_size=1, max_size=9))
def test_however_exposure_is_told_it_is_the_union(spans):
    """The quick way of a pull and the thorough one agree."""
    with contextlib.closing(Store(Path(":memory:"))) as store:
        union = np.zeros(15, int)
        for begin, length in spans:
            store.record([pulled(watching={"dram": BASE + begin * MIN}, until_ns=BASE + (begin + length) * MIN)], HOSTS)
            union[begin : begin + length] = 1
        first = BASE // MIN
        assert store.watching_hosts("dram", first, first + 14, ("fra",))[:, 0].tolist() == union.tolist()


def test_a_document_outlives_the_process(tmp_path):
    for number in range(2):
        with contextlib.closing(Store(tmp_path / "s.sqlite3")) as store:
            assert store.document("calibration") == ({"blocks": {"1": 1.5}} if number else None)
            store.keep_document("calibration", {"blocks": {"1": 1.5}})


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    path = tmp_path / "s.sqlite3"
    path.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StoreError, match="not usable"):
        Store(path)
    with pytest.raises(StoreError, match="no store yet"):
        Store(tmp_path / "other.sqlite3", create=False)
    with pytest.raises(StoreError, match="can't be made"):
        Store(tmp_path / "no" / "such" / "s.sqlite3")


def test_of_each_burst_the_latest_revision_counts_and_all_are_kept(store):
    later = revision(rev=2, kind="update", t_start_ns=CELESTIAL.t_start_ns - MIN)
    other = revision(burst_id="20261123T1700Z", t_start_ns=CELESTIAL.t_start_ns - 7 * MIN)
    store.record_step([CELESTIAL, other], {}, {})
    store.record_step([later, CELESTIAL], {}, {})
    assert store.bursts() == [other, later]
    assert store.revision_documents() == [one.document() for one in (CELESTIAL, other, later)]
    assert store.burst_totals() == {("celestial", "new"): 2, ("celestial", "update"): 1}


def in_child(work) -> int:
    """Runs `work` in a forked process; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class CrashingConnection(sqlite3.Connection):
    """Ends the process just before its nth statement."""

    left = 10**9

    def _count(self):
        CrashingConnection.left -= 1
        if CrashingConnection.left < 0:
            os._exit(77)

    def execute(self, *arguments):
        self._count()
        return super().execute(*arguments)

    def executemany(self, *arguments):
        self._count()
        return super().executemany(*arguments)


def feed_all(path: Path) -> None:
    """What a collector does with two agents, in three answers each, going on from where the store stands."""
    store = Store(path)
    for host, cluster in (("h1", "fra"), ("h2", "nyc")):
        cursor = int(store.cursors().get(host, "0"))
        for end in range(cursor + 2, 7, 2):
            faults = [fault(seq, f"of-{host}") for seq in (end - 1, end)]
            answer = pulled(
                *faults, host=host, cluster=cluster, cursor=str(end), spans={f"of-{host}": (1, 6)},
                watching={"dram": BASE}, until_ns=BASE + end * MIN,
            )  # fmt: skip
            store.record([answer], HOSTS)
    store.record_step([CELESTIAL], {"scanned_until_minute": 5}, {("fra", "dram"): 1.0})
    store.close()


def test_a_crash_before_any_statement_leaves_exactly_the_faults(tmp_path, monkeypatch):
    real_connect = sqlite3.connect

    def connect(*arguments, **more):
        return real_connect(*arguments, factory=CrashingConnection, **more)

    def crash_at(statement: int, path: Path) -> None:
        monkeypatch.setattr(store_module.sqlite3, "connect", connect)
        CrashingConnection.left = statement
        feed_all(path)

    crashes, statement = 0, 0
    while True:
        path = tmp_path / f"{statement}.sqlite3"
        status = in_child(lambda at=statement, to=path: crash_at(at, to))
        assert status in (0, 77)
        feed_all(path)  # the restart
        with contextlib.closing(Store(path)) as store:
            assert kept(store) == [(f"of-{host}", seq) for host in ("h1", "h2") for seq in range(1, 7)]
            assert store.losses() == []
            assert {key: total.faults for key, total in store.totals().items()} == {
                ("fra", "dram"): 6,
                ("nyc", "dram"): 6,
            }
            assert hosts(store, 0, 6) == [[1] * 6 + [0]] * 2
            assert store.bursts() == [CELESTIAL]
        if status == 0:
            break
        crashes += 1
        statement += 1
    assert crashes > 60


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path):
    path = tmp_path / "s.sqlite3"
    with contextlib.closing(Store(path)) as store:
        store.record([pulled(fault(1), cursor="a")], HOSTS)

    def fill() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Store(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))
        large = {"label": "x" * 4000}
        try:
            store.record([pulled(*[fault(seq, detail=large) for seq in range(2, 200)], cursor="b")], HOSTS)
        except sqlite3.Error:
            os._exit(55)

    assert in_child(fill) == 55
    with contextlib.closing(Store(path)) as store:
        assert store.cursors() == {"h1": "a"}
        assert kept(store) == [("j1", 1)]
