"""The scrubber: each corrupt record is told once, and nothing is told too early, twice, or about files left alone."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import config, scrub, scrubd
from agent.journal import JournalReader
from agent.metrics import AgentCollector, View
from agent.report import RecordFault
from agent.scrubd import Scrubber, StoreScrub
from checksum import leveldb_log
from checksum.finding import Finding
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, errors_metric, eventually
from tests.checksum.framings import pagestore
from tests.conftest import require

REST_S = 1000.0  # older than the settling time


def log_of(count: int, size: int = 900) -> tuple[bytes, list[int]]:
    """A log of `count` records, and the offset of a byte in the middle of each."""
    data, middles = bytearray(), []
    for number in range(count):
        record = leveldb_log.encode(number.to_bytes(4, "little") * (size // 4), len(data))
        middles.append(len(data) + len(record) // 2)
        data += record
    return bytes(data), middles


class Store:
    """A store, its scrubber in this process, and what its journal says."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.path = root / "store"
        self.path.mkdir()
        lines = [f"path = '{self.path}'", "rate_mib_s = 1e6", "pressure_max_percent = 100", "period_days = 1e-5"]
        lines += [f"{key} = {value}" for key, value in settings.items()]
        toml = root / "agent.toml"
        toml.write_text(f"[agent]\nhost = 'h1'\nstate_dir = '{root}/state'\n[[store]]\n" + "\n".join(lines) + "\n")
        self.config = config.load(toml)
        self.scrubber = Scrubber(self.config)

    def write(self, name: str, data: bytes, rests_s: float = REST_S) -> Path:
        path = self.path / name
        path.write_bytes(data)
        self.rest(path, rests_s)
        return path

    def rest(self, path: Path, rests_s: float = REST_S) -> None:
        os.utime(path, (time.time() - rests_s,) * 2)

    def flip(self, path: Path, offset: int, bit: int = 3) -> None:
        status = path.stat()
        with path.open("rb+") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1 << bit]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # damage leaves no mark

    def scrub(self) -> list[RecordFault]:
        """One pass; the faults it adds."""
        before = len(self.faults())
        StoreScrub(self.scrubber, self.config.stores[0])._pass()
        return self.faults()[before:]

    def faults(self) -> list[RecordFault]:
        reader = JournalReader(self.config.scrub_journal_dir)
        reader.refresh()
        return reader.faults({}, 100_000)

    def reopen(self) -> None:
        self.scrubber._journal.close()
        self.scrubber = Scrubber(self.config)

    def state(self, key: str) -> dict:
        return self.scrubber.state[key]

    @property
    def progress(self) -> dict:
        return self.state(f"store/{self.path}")

    def corrupt(self) -> dict[str, float]:
        """flipwatch_records_corrupt by verdict, without the zeros."""
        view = View(time.time_ns(), {}, self.scrubber.state, {}, 0, 0, 0, True)
        families = {family.name: family for family in AgentCollector(lambda: view).collect()}
        samples = families["flipwatch_records_corrupt"].samples
        return {sample.labels["verdict"]: sample.value for sample in samples if sample.value}


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


def test_a_flip_on_the_way_is_transient(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data, middles = log_of(50)
    store.write("a.log", data)
    read, flips = scrub._read_resident, [middles[20]]

    def flipping(fd: int, offset: int, size: int) -> bytes:
        found = bytearray(read(fd, offset, size))
        if flips and found:
            found[flips.pop() - offset] ^= 1
        return bytes(found)

    monkeypatch.setattr(scrub, "_read_resident", flipping)
    (store.path / "a.log").read_bytes()  # resident
    (fault,) = store.scrub()
    assert not flips and fault.detail["verdict"] == "transient" and store.corrupt() == {}
    assert store.scrub() == []


def test_what_cannot_be_verified_is_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("prose.txt", b"no records at all\n" * 100)
    store.write("empty", b"")
    store.write("bad.log", log_of(40)[0])
    good, middles = log_of(30)
    store.flip(store.write("good.log", good), middles[3])
    preadv, bad = os.preadv, (store.path / "bad.log").stat().st_ino

    def refusing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(fd).st_ino == bad and offset + len(buffers[0]) > 32_768:
            raise OSError(116, "Stale file handle")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refusing)
    monkeypatch.setattr(scrub, "_read_resident", lambda *_: b"")
    assert len(store.scrub()) == 1, "a file that fails keeps no other from its turn"
    assert store.progress["unverifiable"] == {
        "unrecognised": 1800,
        "unreadable": (store.path / "bad.log").stat().st_size,
    }


def test_a_bad_sector_is_a_finding(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a.log", log_of(200)[0])
    preadv = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset < 45_056 and offset + len(buffers[0]) > 40_960:
            raise OSError(5, "Input/output error")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    monkeypatch.setattr(scrub, "_read_resident", lambda *_: b"")
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
    store.scrubber.stop()
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
        scrubbing = StoreScrub(store.scrubber, store.config.stores[0])
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


def store_settings(path: Path) -> dict:
    return {
        "path": str(path),
        "rate_mib_s": 1000,
        "period_days": 1e-5,
        "settle_s": 0,
        "pressure_max_percent": 100,
    }


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
