"""The rasdaemon source over databases with rasdaemon's own schema."""

import json
import os
import random
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.actions import decide
from agent.evidence import remember
from agent.observation import Moment, Observation, Poll
from agent.reconcile import reconcile
from agent.report import decode, encode
from agent.sources import rasdaemon
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, eventually
from tests.agent.rasdaemon_database import CORRECTED_CACHE, NEWER, PACKAGED, RasdaemonDatabase

SECOND_NS = 10**9
NOW_NS = 1_795_455_000 * SECOND_NS


@dataclass
class Follower:
    """Polls, and keeps the cursor as the journal does."""

    root: Path
    time_ns: int = NOW_NS
    cursor: dict[str, Any] = field(default_factory=dict)

    def poll(self, after_s: int = 5) -> Poll:
        self.time_ns += after_s * SECOND_NS
        now = Moment(self.time_ns, self.time_ns, "boot-1")
        poll = rasdaemon.poll(self.root / "ras.db", self.root / "sys", self.root / "tracing", self.cursor, now)
        self.cursor = {**self.cursor, **poll.cursor}
        return poll

    def counts(self) -> dict[tuple[str, str], int]:
        return {(item.device, item.severity): item.count for item in self.poll().observations}


@pytest.fixture
def database(tmp_path: Path) -> RasdaemonDatabase:
    return RasdaemonDatabase(tmp_path / "ras.db").create()


@pytest.fixture
def follower(tmp_path: Path, database: RasdaemonDatabase) -> Follower:
    follower = Follower(tmp_path)
    assert follower.poll() == Poll(cursor=follower.cursor)
    return follower


def only(poll: Poll) -> Observation:
    (observation,) = poll.observations
    return observation


def test_without_a_database_the_witness_is_absent(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    poll = follower.poll()
    assert poll.absent and "rasdaemon isn't installed" in poll.absent
    assert not poll.trouble and poll.blind is None
    RasdaemonDatabase(tmp_path / "ras.db").create().mc_event(follower.time_ns + SECOND_NS)
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 1}, "it came after the first poll"


def test_rows_of_the_packaged_rasdaemon(database: RasdaemonDatabase, follower: Follower) -> None:
    database.mc_event(follower.time_ns + SECOND_NS, err_count=3)
    observation = only(follower.poll())
    assert (observation.device, observation.stream, observation.count) == ("mc0/csrow1/channel0", "dram", 3)
    assert observation.time_error_s == 4, "whole seconds, in a zone of its own"
    assert observation.detail["grain_bytes"] == 8 and observation.detail["syndrome"] == "0x5a"
    assert "address" not in observation.detail, "rasdaemon writes 0 for none"
    database.mc_event(follower.time_ns, err_type="Uncorrected", address=-0x1000, label="DIMM_A1", lower_layer=2)
    database.mc_event(follower.time_ns, err_type="Info")
    observation = only(follower.poll())
    assert (observation.device, observation.severity) == ("mc0/location1.0.2", "uncorrected")
    assert observation.detail["address"] == "0xfffffffffffff000", "columns are signed"
    assert follower.poll().observations == ()


def test_machine_checks(database: RasdaemonDatabase, follower: Follower) -> None:
    database.mce_record(follower.time_ns)
    database.mce_record(follower.time_ns, CORRECTED_CACHE, cpu=3, bank=1)
    dram, sram = follower.poll().observations
    assert (dram.device, dram.stream, dram.severity) == ("socket0/bank9", "dram", "corrected")
    assert dram.detail["status"] == "0x8c00004000010090" and dram.detail["address"] == "0x1234000"
    assert (sram.device, sram.stream, sram.severity) == ("socket0/cpu3/bank1", "sram", "corrected")


def test_a_memory_controller_of_amd_is_known_by_the_name_of_its_bank(
    database: RasdaemonDatabase, follower: Follower
) -> None:
    """Its error codes are those of a cache, and the register that tells them apart has no column."""
    names = {"bank_name": "Unified Memory Controller (bank=17)", "mc_location": "memory_channel=2,csrow=1"}
    database.mce_record(follower.time_ns, 0x9C2041000000011B, bank=17, **names)
    database.mce_record(follower.time_ns, 0x9C2041000000011B, bank=7, bank_name="L3 Cache (bank=7)")
    memory, cache = follower.poll().observations
    assert (memory.device, memory.stream, memory.severity) == ("socket0/bank17", "dram", "corrected")
    assert memory.detail["mc_location"] == "memory_channel=2,csrow=1" and "address" not in memory.detail
    assert (cache.device, cache.stream) == ("socket0/cpu0/bank7", "sram")


def test_what_the_kernel_says_twice_counts_once(database: RasdaemonDatabase, follower: Follower) -> None:
    database.mce_record(follower.time_ns)
    database.insert("extlog_event", follower.time_ns, severity=2, error_count=1, etype=2, fru_text="DIMM 3")
    database.mc_event(follower.time_ns)
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 1}
    database.mce_record(follower.time_ns)
    database.mce_record(follower.time_ns, CORRECTED_CACHE)
    assert follower.counts() == {("socket0/cpu0/bank9", "corrected"): 1}, "the cache's error has no other witness"


def test_what_this_agent_sees_itself_is_passed_over(database: RasdaemonDatabase, follower: Follower) -> None:
    controller(follower.root / "sys").create()
    database.mc_event(follower.time_ns)
    database.mce_record(follower.time_ns, CORRECTED_CACHE)
    assert follower.counts() == {("socket0/cpu0/bank9", "corrected"): 1}, "EDAC counts DRAM errors, and no others"
    enable = follower.root / "tracing/instances/flipwatch/events/mce/mce_record/enable"
    enable.parent.mkdir(parents=True)
    enable.write_text("1\n")
    database.mce_record(follower.time_ns, CORRECTED_CACHE)
    assert follower.counts() == {}
    enable.write_text("0\n")
    database.mce_record(follower.time_ns, CORRECTED_CACHE)
    assert follower.counts() == {("socket0/cpu0/bank9", "corrected"): 1}, "the row before it had its own witness"


def test_tables_of_a_newer_rasdaemon(tmp_path: Path) -> None:
    database = RasdaemonDatabase(tmp_path / "ras.db").create(PACKAGED + NEWER)
    follower = Follower(tmp_path)
    follower.poll()
    now_ns = follower.time_ns
    database.insert(
        "memory_failure_event", now_ns, pfn="0x5456", page_type="free buddy page", action_result="Recovered"
    )
    database.insert("arm_event", now_ns, error_count=2, mpidr=0x81000100, error_type="cache error")
    database.insert("non_standard_event", now_ns, severity="Corrected", fru_text="anything", error=b"\x00" * 64)
    assert follower.counts() == {("page/unknown", "uncorrected"): 1, ("cpu-81000100", "corrected"): 2}
    place = {"memdev": "mem0", "hpa": 1 << 40, "dpa": 4096, "channel": 1, "rank": 0, "bank": 2, "row": 77, "column": 5}
    database.insert("cxl_dram_event", now_ns, log_type="Warning", descriptor=2, cvme_count=9, **place)
    database.insert("cxl_dram_event", now_ns, log_type="Failure", descriptor=1, **place)
    database.insert("cxl_dram_event", now_ns, log_type="Informational", descriptor=0, **place)
    database.insert("cxl_dram_event", now_ns, log_type="Fatal", descriptor=1, **place)
    corrected, uncorrected, fatal = follower.poll().observations
    assert (corrected.device, corrected.severity, corrected.count) == ("cxl/mem0", "corrected", 10), "whichever log"
    assert (uncorrected.severity, uncorrected.count, uncorrected.detail["row"]) == ("uncorrected", 1, 77)
    assert (fatal.severity, fatal.count) == ("fatal", 1)


def test_missing_tables_and_columns_are_normal(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ras.db")) as connection:
        connection.execute(
            "CREATE TABLE mc_event (id INTEGER PRIMARY KEY, err_count INTEGER, err_type TEXT, mc INTEGER)"
        )
    follower = Follower(tmp_path)
    assert not follower.poll().trouble
    with closing(sqlite3.connect(tmp_path / "ras.db")) as connection, connection:
        connection.execute("INSERT INTO mc_event (err_count, err_type, mc) VALUES (2, 'Corrected', 1)")
    observation = only(follower.poll())
    assert (observation.device, observation.count) == ("mc1/unknown", 2)
    assert observation.time_error_s == 5, "without a time: since the previous poll"


def test_a_row_of_the_extended_log_is_one_error(database: RasdaemonDatabase, follower: Follower) -> None:
    """rasdaemon writes the record's sequence number into the column `error_count`."""
    for number in (41, 42, 43):
        database.insert("extlog_event", follower.time_ns, severity=2, error_count=number, etype=2, fru_text="DIMM 3")
    assert follower.counts() == {("fru/DIMM 3", "corrected"): 3}


SENSELESS = [None, "", "x" * 5000, b"\xff\xfe\x00", -1, 2**62, 2**63 - 1, 1.5, float("inf"), "row:007 col:08"]


@pytest.mark.parametrize("value", SENSELESS)
def test_senseless_values_do_no_harm(tmp_path: Path, value: Any) -> None:
    database = RasdaemonDatabase(tmp_path / "ras.db").create(PACKAGED + NEWER)
    follower = Follower(tmp_path)
    follower.poll()
    for table, needed in {  # those come first whose errors a later one would show
        "memory_failure_event": {},
        "cxl_dram_event": {},
        "arm_event": {},
        "mce_record": {"status": 0x90},
        "extlog_event": {"severity": 2},
        "mc_event": {"err_type": "Corrected"},
    }.items():
        with closing(sqlite3.connect(database.path)) as connection:
            columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})") if name != "id"]
        for _ in range(2):
            database.insert(table, follower.time_ns, **{**dict.fromkeys(columns, value), **needed})
        poll = follower.poll()
        faults, changes = reconcile({"rasdaemon": poll}, {}, Moment(NOW_NS, NOW_NS, "boot-1"), "host")
        assert not poll.trouble, table
        (fault,) = faults
        assert fault.count >= 2 and decode(encode(fault)) == fault
        remembered = json.loads(json.dumps(remember(faults, {}, changes)))
        decide(fault.stream, fault.device, remembered[f"device/{fault.stream}/{fault.device}"], NOW_NS)


def test_any_byte_of_the_database_may_be_damaged(tmp_path: Path) -> None:
    database = RasdaemonDatabase(tmp_path / "ras.db").create(PACKAGED + NEWER)
    first = rasdaemon.poll(database.path, tmp_path, tmp_path, {}, Moment(NOW_NS, NOW_NS, "boot-1"))
    for second in range(20):
        database.mc_event(NOW_NS + second * SECOND_NS, driver_detail="row:5 col:7")
        database.mce_record(NOW_NS + second * SECOND_NS)
    whole, rng, said = database.path.read_bytes(), random.Random(1), set()
    for _ in range(400):
        content = bytearray(whole)
        for at in rng.choices(range(4096 if rng.random() < 0.5 else len(whole)), k=rng.choice((1, 3, 10, 100))):
            content[at] = rng.randrange(256)
        database.path.write_bytes(content)
        now = Moment(NOW_NS + 60 * SECOND_NS, NOW_NS, "boot-1")
        poll = rasdaemon.poll(database.path, tmp_path, tmp_path, first.cursor, now)
        faults, _ = reconcile({"rasdaemon": poll}, {}, now, "host")
        assert all(decode(encode(fault)) == fault for fault in faults)
        said.add(bool(poll.trouble))
    assert said == {True, False}


def test_a_database_that_rests_is_not_opened(
    database: RasdaemonDatabase, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, connect = [], sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: opened.append(1) or connect(*args, **more))
    for age_s, expected in ((60, [1]), (60, []), (-4, [1]), (-4, [1])):  # a fresh one may change within a tick
        changed_s = NOW_NS // SECOND_NS - age_s
        os.utime(database.path, (changed_s, changed_s))
        follower.poll()
        assert (age_s, opened) == (age_s, expected)
        opened.clear()
        follower.time_ns = NOW_NS
    database.mc_event(NOW_NS)
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 1}


def test_a_time_to_come_is_no_time(database: RasdaemonDatabase, follower: Follower) -> None:
    database.mc_event(follower.time_ns + 400 * 365 * 86400 * SECOND_NS)
    assert only(follower.poll(after_s=7)).time_error_s == 7


def test_history_is_not_counted(tmp_path: Path) -> None:
    database = RasdaemonDatabase(tmp_path / "ras.db").create()
    for _ in range(3):
        database.mc_event(NOW_NS - 86400 * SECOND_NS)
    follower = Follower(tmp_path)
    assert follower.poll().observations == ()
    database.mc_event(follower.time_ns)
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 1}


def test_a_database_made_anew_is_read_from_its_beginning(database: RasdaemonDatabase, follower: Follower) -> None:
    for _ in range(3):
        database.mc_event(follower.time_ns)
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 3}
    database.path.unlink()
    assert follower.poll().absent
    database.create().mc_event(follower.time_ns + SECOND_NS, err_count=5)
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 5}
    with closing(sqlite3.connect(database.path)) as connection, connection:
        connection.execute("DELETE FROM mc_event")
    assert follower.counts() == {}
    database.mc_event(follower.time_ns)
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 1}


def test_a_restored_copy_is_not_counted_again(database: RasdaemonDatabase, follower: Follower) -> None:
    old_s = NOW_NS // SECOND_NS - 60
    with closing(sqlite3.connect(database.path)) as connection, connection:
        row = ("2026-11-23 17:30:00 +0000", 1, "Corrected", "DIMM_A1", 0)
        connection.executemany(
            "INSERT INTO mc_event (timestamp, err_count, err_type, label, mc) VALUES (?, ?, ?, ?, ?)",
            [row] * (rasdaemon.ROWS_MAX + 5),
        )
    os.utime(database.path, (old_s, old_s))
    assert follower.counts() == {("mc0/unknown", "corrected"): rasdaemon.ROWS_MAX}
    assert follower.counts() == {("mc0/unknown", "corrected"): 5}, "a storm is read in pieces"
    shutil.copy(database.path, database.path.with_suffix(".copy"))
    database.path.with_suffix(".copy").rename(database.path)
    database.mc_event(follower.time_ns)
    assert follower.counts() == {}, "the first piece of the copy is history"
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 1}


def test_a_database_in_trouble_is_said_and_loses_nothing(database: RasdaemonDatabase, follower: Follower) -> None:
    with closing(sqlite3.connect(database.path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("INSERT INTO mc_event (err_count, err_type, mc) VALUES (1, 'Corrected', 0)")
        (sentence,) = follower.poll().trouble
        assert "ras.db: database is locked" in sentence
        writer.commit()
    assert follower.counts() == {("mc0/unknown", "corrected"): 1}
    whole = database.path.read_bytes()
    for broken in (b"not a database" * 500, whole[:1000], whole[:100] + b"\xff" * (len(whole) - 100)):
        database.path.write_bytes(broken)
        (sentence,) = follower.poll().trouble
        assert str(database.path) in sentence
    database.path.write_bytes(whole)
    database.mc_event(follower.time_ns)
    assert follower.counts() == {("mc0/csrow1/channel0", "corrected"): 1}
    database.path.unlink()
    database.path.mkdir()
    assert str(database.path) in follower.poll().trouble[0]


def instance(root: Path, percent: int) -> Path:
    directory = root / "tracing/instances/rasdaemon"
    for cpu in ("cpu0", "cpu1"):
        (directory / "per_cpu" / cpu).mkdir(parents=True)
        (directory / "per_cpu" / cpu / "stats").write_text("entries: 0\noverrun: 0\nread events: 3\n")
    (directory / "buffer_percent").write_text(f"{percent}\n")
    return directory / "per_cpu/cpu1/stats"


def test_a_rasdaemon_that_records_nothing_is_named(database: RasdaemonDatabase, follower: Follower) -> None:
    stats = instance(follower.root, 50)
    assert follower.poll().trouble == ()
    stats.write_text("entries: 2\noverrun: 0\n")
    assert follower.poll().trouble == (), "it may just be about to read them"
    (sentence,) = follower.poll().trouble
    assert "rasdaemon records nothing" in sentence and "50 % full" in sentence and "echo 0 >" in sentence
    assert follower.poll().trouble == (sentence,), "the same words, however many events wait"
    stats.write_text("entries: 0\noverrun: 0\n")
    database.mc_event(follower.time_ns)
    poll = follower.poll()
    assert poll.trouble == () and only(poll).count == 1


def test_a_rasdaemon_that_is_woken_by_every_event_is_not_accused(tmp_path: Path, database: RasdaemonDatabase) -> None:
    follower = Follower(tmp_path)
    instance(tmp_path, 0).write_text("entries: 9\n")
    assert [follower.poll().trouble for _ in range(3)] == [(), (), ()]


def test_the_whole_agent_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "ras.db"
    controller(tmp_path / "sys").create()
    with Daemon(tmp_path, settings={"rasdaemon_db": str(path), "tracefs": str(tmp_path / "tracing")}) as agent:
        assert agent.metrics()['flipwatch_source_up{source="rasdaemon"}'] == 0
        database = RasdaemonDatabase(path).create()
        eventually(lambda: agent.metrics()['flipwatch_source_up{source="rasdaemon"}'] == 1)
        database.mc_event(time.time_ns())
        database.mce_record(time.time_ns(), CORRECTED_CACHE)
        (fault,) = eventually(lambda: agent.faults()[1])
        assert (fault.stream, fault.device, fault.witnesses) == ("sram", "socket0/cpu0/bank9", ("rasdaemon",))
        assert not fault.novel, "that no row was there before proves nothing"
        assert list(agent.faults()[0].watching) == ["dram"], "it sees no stream whole"
        agent.kill()
        database.mce_record(time.time_ns(), CORRECTED_CACHE)
        agent.start()
        eventually(lambda: len(agent.faults()[1]) == 2)
        path.write_bytes(b"broken" * 1000)
        eventually(lambda: agent.metrics()['flipwatch_source_up{source="rasdaemon"}'] == 0)
        assert not any(value for name, value in agent.metrics().items() if "ecc_blind" in name)
        agent.stop()
        assert sum("not a database" in line for line in agent.log) == 1

        path.unlink()
        agent.start()
        eventually(lambda: agent.metrics()['flipwatch_source_up{source="edac"}'] == 1)
        agent.stop()
        assert sum("source rasdaemon is absent: there is no" in line for line in agent.log) == 1
