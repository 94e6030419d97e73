"""The scrubber: each corrupt record is told once, and nothing is told too early, twice, or about files left alone."""

import fcntl
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import config, scrub, scrubd
from agent.journal import JournalReader
from agent.report import RecordFault
from agent.scrubd import Scrubber, StoreScrub
from checksum import diagnose, leveldb_log, seal, tfrecord
from checksum.finding import Finding, Unreadable
from checksum.seal import PART_BYTES
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, errors_metric, eventually
from tests.agent.scrubbed_store import REST_S, Store, log_of, store_settings
from tests.checksum.faults import write_back
from tests.checksum.framings import pagestore
from tests.conftest import require


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def build(**settings: object) -> Store:
        made.append(Store(tmp_path, **settings))
        return made[-1]

    yield build
    for store in made:
        store.scrubber._journal.close()


@pytest.fixture
def store(make) -> Store:
    return make()


def test_a_flipped_bit_is_told_once_and_exactly(store: Store) -> None:
    data, middles = log_of(200)
    path = store.write("a.log", data)
    assert store.scrub() == [] and store.progress["verified"] == {"leveldb-log": 200}
    store.flip(path, middles[77], bit=5)
    (fault,) = store.scrub()
    stored = path.read_bytes()[middles[77]] >> 5 & 1
    assert fault.detail["flip"] == {"offset_bytes": middles[77], "bit": 5, "stored": stored}
    assert (fault.detail["path"], fault.detail["verdict"]) == (str(path), "flipped")
    assert fault.detail["begin"] <= middles[77] < fault.detail["end"]
    assert fault.time_error_s <= time.time() - (path.stat().st_mtime) and fault.count == 1
    assert store.corrupt() == {"flipped": 1}
    for _ in range(3):
        assert store.scrub() == []
    store.reopen()
    assert store.scrub() == [] and store.corrupt() == {"flipped": 1}


def test_healed_and_damaged_otherwise_and_deleted(store: Store) -> None:
    data, middles = log_of(50)
    path = store.write("a.log", data)
    store.flip(path, middles[3])
    assert len(store.scrub()) == 1
    store.flip(path, middles[3])
    assert store.scrub() == [] and store.corrupt() == {}, "healed"
    store.flip(path, middles[3], bit=1)
    assert len(store.scrub()) == 1
    store.flip(path, middles[3], bit=1)
    store.flip(path, middles[3], bit=2)
    assert len(store.scrub()) == 1, "the same record, damaged in another way, is another fault"
    assert store.corrupt() == {"flipped": 1}
    path.unlink()
    assert store.scrub() == [] and store.corrupt() == {}


@pytest.mark.parametrize("keep", [0, 100, 32_768, 40_000])
def test_damage_beyond_a_new_end_of_the_file_is_gone(store: Store, keep: int) -> None:
    data, middles = log_of(100)
    path = store.write("a.log", data)
    store.flip(path, middles[80])
    assert len(store.scrub()) == 1
    os.truncate(path, keep)
    store.rest(path)
    torn = {fault.detail["verdict"] for fault in store.scrub()}
    assert torn <= {"torn"} and set(store.corrupt()) == torn


def test_a_fresh_file_settles_before_it_counts(make) -> None:
    store = make(settle_s=600)
    data, middles = log_of(50)
    path = store.write("a.log", data, rests_s=1)
    store.flip(path, middles[10])
    store.flip(path, middles[30])
    assert store.scrub() == [] and store.corrupt() == {}
    assert store.state(f"settling/{path}")["begin"] <= middles[10]
    assert store.scrub() == []
    store.rest(path)
    settling = StoreScrub(store.scrubber, store.config.stores[0])
    settling._begin_pass()
    settling._settle_due()
    assert store.faults() == [], "not before its time"
    entry = store.state(f"settling/{path}")
    store.scrubber.commit([], {f"settling/{path}": {**entry, "due_ns": 0}})
    settling._settle_due()
    assert [fault.detail["verdict"] for fault in store.faults()] == ["flipped"] * 2
    assert f"settling/{path}" not in store.scrubber.state
    assert store.scrub() == []


def test_records_of_a_declared_framing(make, tmp_path: Path) -> None:
    store = make(framing=f"'{Path('deploy/examples/framing.toml').absolute()}'")
    data = b"".join(pagestore(bytes([number]) * 900) for number in range(50))
    path = store.write("a", data)
    store.write("b.log", log_of(5)[0])
    store.flip(path, 10_000)
    (fault,) = store.scrub()
    assert (fault.detail["format"], fault.detail["flip"]["offset_bytes"]) == ("pagestore", 10_000)
    assert store.progress["verified"] == {"pagestore": 49, "leveldb-log": 5}
    assert store.scrub() == []


def test_a_framing_that_is_no_longer_declared(make, tmp_path: Path) -> None:
    store = make(framing=f"'{Path('deploy/examples/framing.toml').absolute()}'", settle_s=600)
    path = store.write("a", b"".join(pagestore(bytes([number]) * 900) for number in range(50)), rests_s=1)
    store.flip(path, 10_000)
    assert store.scrub() == []
    key = f"settling/{path}"
    store.scrubber.commit([], {key: {**store.state(key), "due_ns": 0}})
    store.rest(path)
    toml = tmp_path / "agent.toml"
    lines = toml.read_text().splitlines(keepends=True)
    toml.write_text("".join(line for line in lines if not line.startswith("framing")))
    store.config = config.load(toml)
    store.reopen()
    assert store.scrub() == []
    assert key not in store.scrubber.state
    assert store.progress["unverifiable"] == {"unrecognised": path.stat().st_size}


def test_settling_damage_survives_a_clean_stretch_after_it(make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(settle_s=600)
    data, middles = log_of(400)
    path = store.write("a.log", data, rests_s=1)
    store.flip(path, middles[5])
    store.flip(path, middles[200])
    monkeypatch.setattr(scrubd, "CHECKPOINT_S", 0.0)
    assert store.scrub() == []
    assert store.state(f"settling/{path}")["begin"] <= middles[5]


@pytest.mark.parametrize("after", ["finished", "deleted", "truncated"])
def test_a_growing_file_is_not_damaged(make, after: str) -> None:
    store = make(settle_s=600)
    data, _ = log_of(50)
    path = store.write("a.log", data[:-300], rests_s=0)
    assert store.scrub() == [] and f"settling/{path}" in store.scrubber.state
    if after == "finished":
        store.write("a.log", data)
    elif after == "truncated":
        store.write("a.log", b"")
    else:
        path.unlink()
    key = f"settling/{path}"
    store.scrubber.commit([], {key: {**store.state(key), "due_ns": 0}})
    assert store.scrub() == [] and key not in store.scrubber.state and store.corrupt() == {}


def test_a_torn_tail_that_rests_is_told(store: Store) -> None:
    store.write("a.log", log_of(50)[0][:-300])
    (fault,) = store.scrub()
    assert fault.detail["verdict"] == "torn"


def test_a_time_in_the_far_future_does_not_settle_for_ever(store: Store) -> None:
    data, middles = log_of(50)
    path = store.write("a.log", data, rests_s=-400 * 86400.0)
    store.flip(path, middles[10])
    (fault,) = store.scrub()
    assert fault.time_error_s >= 0


def test_a_flip_on_the_way_is_transient(disk: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data, middles = log_of(50)
    store.write("a.log", data)
    read, flips = scrub._polite_piece, [middles[45]]  # behind what is looked at to recognise the file

    def flipping(fd: int, offset: int, buffer: memoryview) -> Iterator[memoryview | Unreadable]:
        for piece in read(fd, offset, buffer):
            if flips and not isinstance(piece, Unreadable) and flips[0] < offset + len(piece):
                piece[flips.pop() - offset] ^= 1
            yield piece

    monkeypatch.setattr(scrub, "_polite_piece", flipping)
    (fault,) = store.scrub()
    assert not flips and fault.detail["verdict"] == "transient" and store.corrupt() == {}
    assert fault.detail["layer"] == "buffer"
    assert store.scrub() == []


def test_damage_that_only_the_page_cache_has_is_transient(
    disk: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, middles = log_of(50)
    store.write("a.log", data)
    monkeypatch.setattr(diagnose, "WRITTEN_BACK_S", 0)
    preadv = os.preadv

    def flipping(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        length = preadv(fd, buffers, offset, flags)
        if offset <= middles[20] < offset + length and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            buffers[0][middles[20] - offset] ^= 1
        return length

    monkeypatch.setattr(os, "preadv", flipping)
    (fault,) = store.scrub()
    assert (fault.detail["verdict"], fault.detail["layer"]) == ("transient", "page-cache") and store.corrupt() == {}
    monkeypatch.setattr(os, "preadv", preadv)
    assert store.scrub() == []


def test_damage_on_disk_is_told_once_whatever_layer_is_found(
    disk: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, middles = log_of(50)
    path = store.write("a.log", data)
    store.flip(path, middles[20])
    write_back(path)
    (fault,) = store.scrub()
    assert (fault.detail["verdict"], fault.detail["layer"]) == ("flipped", "unknown"), "not on disk for sure yet"
    monkeypatch.setattr(diagnose, "WRITTEN_BACK_S", 0)
    assert store.scrub() == []
    store.flip(path, middles[30])
    write_back(path)
    (fault,) = store.scrub()
    assert (fault.detail["verdict"], fault.detail["layer"]) == ("flipped", "disk")
    assert store.corrupt() == {"flipped": 2}
    store.reopen()
    assert store.found() == {"unknown": 1, "disk": 1}


def test_damage_in_passing_in_a_file_at_work_is_looked_at_later(
    disk: Path, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(settle_s=600)
    data, middles = log_of(50)
    path = store.write("a.log", data, rests_s=1)
    read = scrub._polite_piece

    def flipping(fd: int, offset: int, buffer: memoryview) -> Iterator[memoryview | Unreadable]:
        for piece in read(fd, offset, buffer):
            piece[middles[20] - offset] ^= 1
            yield piece

    monkeypatch.setattr(scrub, "_polite_piece", flipping)
    assert store.scrub() == [] and store.state(f"settling/{path}")["begin"] <= middles[20]


def test_the_scrubber_stays_away_for_others_not_for_itself(store: Store, tmp_path: Path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/pressure/io").write_text("some avg10=35.00 avg60=0 avg300=0 total=0\n")
    store.scrubber.config = replace(store.config, agent=replace(store.config.agent, proc=tmp_path / "proc"))
    waits: list[float] = []
    scrubbing = StoreScrub(store.scrubber, replace(store.config.stores[0], pressure_max_percent=10.0))
    scrubbing.wait = waits.append  # type: ignore[method-assign]
    store.scrubber._scrubs.append(scrubbing)
    scrubbing._before_piece(0)
    assert max(waits) == 25.0
    scrubbing.reading.percent, scrubbing._pressure_read_s = 40.0, 0.0
    waits.clear()
    scrubbing._before_piece(0)
    assert max(waits) < 5.0


def test_what_cannot_be_verified_is_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("prose.txt", b"no records at all\n" * 100)
    store.write("empty", b"")
    store.write("bad.log", log_of(40)[0])
    good, middles = log_of(30)
    store.flip(store.write("good.log", good), middles[3])
    preadv, bad = os.preadv, (store.path / "bad.log").stat().st_ino

    def refusing(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if os.fstat(fd).st_ino == bad and offset + len(buffers[0]) > 32_768:
            raise OSError(116, "Stale file handle")
        return preadv(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", refusing)
    assert len(store.scrub()) == 1, "a file that fails keeps no other from its turn"
    assert store.progress["unverifiable"] == {
        "unrecognised": 1800,
        "unreadable": (store.path / "bad.log").stat().st_size,
    }


def sealed(store: Store, *, append_only: bool = False) -> Path:
    """A file of 20 and a half parts that nothing but its seal can judge."""
    path = store.write("video", random.Random(4).randbytes(20 * PART_BYTES + PART_BYTES // 2))
    with path.open("rb") as file:
        seal.write(seal.path_for(path), seal.make(file.fileno(), append_only=append_only))
    store.rest(seal.path_for(path))
    return path


def test_a_sealed_file_is_compared_with_its_seal(store: Store) -> None:
    path = sealed(store)
    assert store.scrub() == []
    assert store.progress["verified"]["seal"] == 21 and store.progress["unverifiable"] == {}
    store.flip(path, 5 * PART_BYTES + 77, 6)
    (fault,) = store.scrub()
    assert (fault.detail["format"], fault.detail["verdict"]) == ("seal", "flipped")
    assert (fault.detail["begin"], fault.detail["end"]) == (5 * PART_BYTES, 6 * PART_BYTES)
    assert (fault.detail["flip"]["offset_bytes"], fault.detail["flip"]["bit"]) == (5 * PART_BYTES + 77, 6)
    assert store.scrub() == [] and store.corrupt() == {"flipped": 1}
    store.flip(path, 5 * PART_BYTES + 77, 6)
    assert store.scrub() == [] and store.corrupt() == {}


def test_a_file_changed_since_it_was_sealed_is_judged_by_its_content_or_not_at_all(store: Store) -> None:
    path = sealed(store)
    store.flip(path, 100)
    assert len(store.scrub()) == 1
    store.rest(path, REST_S - 100)  # another time of modification: somebody wrote it
    assert store.scrub() == [] and store.corrupt() == {}
    assert store.progress["unverifiable"] == {"changed-since-sealed": path.stat().st_size}
    data, middles = log_of(100)
    store.flip(store.write("video", data), middles[7])
    (fault,) = store.scrub()
    assert (fault.detail["format"], fault.detail["verdict"]) == ("leveldb-log", "flipped")


def test_a_damaged_seal_is_told_and_judges_nothing(store: Store) -> None:
    path = sealed(store)
    store.flip(seal.path_for(path), 40)
    store.flip(path, 100)
    (fault,) = store.scrub()
    assert fault.detail["path"] == str(seal.path_for(path))
    assert store.progress["unverifiable"] == {"seal-damaged": path.stat().st_size}


@pytest.mark.parametrize("more_bytes", [0, 9])
def test_what_an_append_only_file_lost_is_told(store: Store, more_bytes: int) -> None:
    path = sealed(store, append_only=True)
    store.write("video", path.read_bytes() + b"more" * 50_000)
    assert store.scrub() == []
    store.write("video", path.read_bytes()[: 3 * PART_BYTES + more_bytes])
    (fault,) = store.scrub()
    assert (fault.detail["begin"], fault.detail["verdict"]) == (3 * PART_BYTES, "torn")


def test_a_sealed_file_that_is_being_written_settles(make) -> None:
    store = make(settle_s=REST_S / 2)
    path = sealed(store)
    store.flip(path, 100)
    with path.open("rb") as file:
        seal.write(seal.path_for(path), replace(seal.make(file.fileno()), crcs=seal.read(seal.path_for(path)).crcs))
    before = path.stat()
    os.utime(path, (time.time(),) * 2)
    again = replace(seal.read(seal.path_for(path)), mtime_ns=path.stat().st_mtime_ns)
    seal.write(seal.path_for(path), again)
    assert store.scrub() == [] and f"settling/{path}" in store.scrubber.state
    store.scrubber.commit([], {f"settling/{path}": {**store.state(f"settling/{path}"), "due_ns": 0}})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    seal.write(seal.path_for(path), replace(again, mtime_ns=before.st_mtime_ns))
    (fault,) = store.scrub()
    assert (fault.detail["format"], fault.detail["verdict"]) == ("seal", "flipped")
    assert f"settling/{path}" not in store.scrubber.state


def test_a_pass_over_a_sealed_file_goes_on_at_a_part(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sealed(store)
    store.flip(path, 2 * PART_BYTES + 5)
    store.flip(path, 15 * PART_BYTES + 5)
    monkeypatch.setattr(scrubd, "CHECKPOINT_S", 0.0)
    pieces = iter(range(7))
    monkeypatch.setattr(StoreScrub, "_before_piece", lambda *_: next(pieces))
    with pytest.raises(RuntimeError):  # as if killed
        store.scrub()
    assert 0 < store.progress["cursor"]["offset_bytes"] < path.stat().st_size
    monkeypatch.undo()
    store.reopen()
    store.scrub()
    assert [fault.detail["begin"] for fault in store.faults()] == [2 * PART_BYTES, 15 * PART_BYTES]
    assert store.progress["verified"]["seal"] == 19


def test_a_pass_goes_on_by_content_when_the_seal_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.write("records", tfrecord.encode(bytes(5000), 0) * 300)
    with path.open("rb") as file:
        seal.write(seal.path_for(path), seal.make(file.fileno()))
    monkeypatch.setattr(scrubd, "CHECKPOINT_S", 0.0)
    pieces = iter(range(6))
    monkeypatch.setattr(StoreScrub, "_before_piece", lambda *_: next(pieces))
    with pytest.raises(RuntimeError):
        store.scrub()
    offset_bytes = store.progress["cursor"]["offset_bytes"]
    assert offset_bytes % PART_BYTES == 0 < offset_bytes
    monkeypatch.undo()
    store.reopen()
    seal.path_for(path).unlink()
    assert store.scrub() == []


def test_a_bad_sector_is_a_finding(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a.log", log_of(200)[0])
    preadv = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if offset < 45_056 and offset + len(buffers[0]) > 40_960:
            raise OSError(5, "Input/output error")
        return preadv(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", failing)
    found = store.scrub()
    assert "unreadable" in {fault.detail["verdict"] for fault in found}
    assert min(fault.detail["begin"] for fault in found) <= 40_960
    assert max(fault.detail["end"] for fault in found) >= 45_056


def test_endless_damage_stays_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubd, "FINDINGS_PER_FILE_MAX", 5)
    data, middles = log_of(200)
    path = store.write("a.log", data)
    for middle in middles[::4]:
        store.flip(path, middle)
    count = sum(isinstance(item, Finding) for item in leveldb_log.scan([path.read_bytes()]))
    found = store.scrub()
    assert len(found) == 5 and 50 <= sum(fault.count for fault in found) <= count
    assert len(store.state(f"open/{path}")["findings"]) == 5
    assert store.scrub() == []


def test_a_zeroed_file_is_one_stretch(make) -> None:
    store = make(format="'leveldb-log'")
    data, _ = log_of(100)
    store.write("a.log", data[:32_768] + bytes(10 * 32_768))
    *_, fault = store.scrub()  # the record at the edge is torn
    assert (fault.detail["begin"], fault.detail["end"], fault.detail["verdict"]) == (32_768, 11 * 32_768, "zeros")
    assert len(store.faults()) <= 2


def test_nothing_is_changed_on_disk(store: Store) -> None:
    data, middles = log_of(100)
    path = store.write("a.log", data)
    store.flip(path, middles[50])
    os.utime(path, (1000, time.time() - REST_S))  # an access time that a reader would move
    before, content = path.stat(), path.read_bytes()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    before = path.stat()
    assert len(store.scrub()) == 1
    assert path.stat() == before and path.read_bytes() == content
    assert [entry.name for entry in store.path.iterdir()] == ["a.log"]


def test_a_name_that_is_no_unicode(store: Store) -> None:
    data, middles = log_of(20)
    path = Path(os.fsdecode(bytes(store.path) + b"/\xff\xfe.log"))
    path.write_bytes(data)
    store.rest(path)
    store.flip(path, middles[3])
    (fault,) = store.scrub()
    assert fault.detail["path"].endswith("\\xff\\xfe.log")
    path.unlink()
    assert store.scrub() == [] and store.corrupt() == {}


def test_a_store_that_is_no_longer_configured_is_forgotten(store: Store, tmp_path: Path) -> None:
    data, middles = log_of(20)
    store.flip(store.write("a.log", data), middles[3])
    assert len(store.scrub()) == 1
    toml = tmp_path / "agent.toml"
    toml.write_text(toml.read_text().partition("[[store]]")[0])
    store.config = config.load(toml)
    store.reopen()
    store.scrubber._forget_other_stores()
    assert store.corrupt() == {} and len(store.faults()) == 1


@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_killed_in_the_middle_of_a_big_file(store: Store, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    """Each life reads some pieces further; together they tell every damage once and verify every record once."""
    monkeypatch.setattr(scrubd, "CHECKPOINT_S", 0.0)
    data, middles = log_of(150, size=20_000)
    path = store.write("a.log", data)
    victims = middles[10::10]
    for victim in victims:
        store.flip(path, victim)
    store.scrubber._journal.close()
    lives, code = 0, 1
    while code:
        lives += 1
        assert lives < 100
        child = os.fork()
        if child == 0:
            one_life(store, pieces)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
    store.scrubber = Scrubber(store.config)
    assert lives > 3
    items = list(leveldb_log.scan([path.read_bytes()]))
    damage = [(item.begin, item.end) for item in items if isinstance(item, Finding)]
    told = sorted((fault.detail["begin"], fault.detail["end"]) for fault in store.faults())
    assert told == damage and len(damage) >= len(victims)
    assert store.progress["verified"] == {"leveldb-log": len(items) - len(damage)}
    assert store.progress["bytes"] == len(data)


def one_life(store: Store, pieces: int) -> None:
    try:
        store.scrubber = Scrubber(store.config)
        scrubbing = StoreScrub(store.scrubber, replace(store.config.stores[0], pressure_max_percent=10.0))
        left = [pieces]

        def count_down(_size: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        scrubbing._before_piece = count_down
        scrubbing._pass()
    except BaseException:
        os._exit(1)
    os._exit(0)


# --- in a process of its own -----------------------------------------------------------------------------------------


def test_a_full_disk_holds_the_scrubber_and_loses_nothing(tmp_path: Path) -> None:
    data, middles = log_of(50)
    damaged = bytearray(data)
    damaged[middles[5]] ^= 1
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a.log").write_bytes(damaged)
    scrubber = Daemon(tmp_path, "scrubd", stores=[store_settings(tmp_path / "store")])
    scrubber.prefix = [require("prlimit"), "--fsize=0:unlimited"]
    with scrubber:
        eventually(lambda: any("scrubbing waits" in line for line in scrubber.log))
        resource.prlimit(scrubber.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        reader = JournalReader(tmp_path / "state/scrub")
        eventually(lambda: reader.refresh() or reader.faults({}, 10))
        assert [fault.detail["flip"]["offset_bytes"] for fault in reader.faults({}, 10)] == [middles[5]]
        assert scrubber.stop() == 0


def test_the_agent_serves_what_the_scrubber_finds_and_minds_no_hung_one(tmp_path: Path) -> None:
    data, middles = log_of(50)
    (tmp_path / "store").mkdir()
    file = tmp_path / "store/a.log"
    file.write_bytes(data)
    mc = controller(tmp_path / "sys").create()
    stores = [store_settings(tmp_path / "store")]
    with Daemon(tmp_path, stores=stores) as agent, Daemon(tmp_path, "scrubd", stores=stores) as scrubber:
        label = f'format="leveldb-log",store="{tmp_path}/store"'
        verified = f"flipwatch_records_verified_total{{{label}}}"
        eventually(lambda: agent.metrics().get(verified, 0) >= 50)
        damaged = bytearray(data)
        damaged[middles[9]] ^= 4
        file.write_bytes(damaged)
        corrupt = f'flipwatch_records_corrupt{{{label},verdict="flipped"}}'
        eventually(lambda: agent.metrics()[corrupt] == 1)
        header, (fault,) = agent.faults()
        assert isinstance(fault, RecordFault) and fault.detail["flip"]["offset_bytes"] == middles[9]
        assert len(header.journals) == 2
        assert agent.faults(header.cursor)[1] == []

        scrubber.signal(signal.SIGSTOP)
        mc.inject("dimm0", 3)
        eventually(lambda: agent.metrics()[errors_metric("mc0/channel0/slot0")] == 3)
        assert [line.count for line in agent.faults(header.cursor)[1]] == [3]
        assert agent.metrics()[corrupt] == 1
        scrubber.signal(signal.SIGCONT)

        file.write_bytes(data)
        eventually(lambda: agent.metrics()[corrupt] == 0)
        nice = subprocess.run(["ps", "-o", "ni=", "-p", str(scrubber.process.pid)], capture_output=True, text=True)
        assert int(nice.stdout) >= scrubd.NICE
        assert scrubber.stop() == 0 and agent.stop() == 0
