"""The journal: what was acknowledged is kept, once, whatever happens to its bytes and to its writer."""

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.journal import SEGMENT_BYTES_MIN, Journal, JournalReader, decode_cursor, encode_cursor, page
from agent.report import Fault, MemoryFault
from checksum import leveldb_log

MAX_BYTES = 1 << 20


def fault(number: int, filler: str = "") -> MemoryFault:
    return MemoryFault(
        time_ns=number,
        time_error_s=5.0,
        host="h1",
        device=f"mc0/channel{number % 2}/slot0",
        stream="dram",
        severity="corrected",
        count=1,
        novel=False,
        detail={"label": filler} if filler else {},
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state" / "memory"


def opened(place: Path, max_bytes: int = MAX_BYTES, machine: str = "machine-1") -> Journal:
    return Journal(place, max_bytes, machine)


def everything(reader: JournalReader) -> list[Fault]:
    return reader.faults({}, 10**6)


def numbers(faults: list[Fault]) -> list[int]:
    return [fault.time_ns for fault in faults]


def filled(place: Path, count: int, max_bytes: int = MAX_BYTES, filler: str = "") -> str:
    journal = opened(place, max_bytes)
    for number in range(1, count + 1):
        journal.append([fault(number, filler)], {"last": number})
    journal.close()
    return journal.id


def test_a_restart_keeps_state_and_seq(place: Path) -> None:
    journal = opened(place)
    first = journal.append([fault(1), fault(2)], {"a": 1, "b": {"c": [2]}})
    assert [(f.journal, f.seq) for f in first] == [(journal.id, 1), (journal.id, 2)]
    journal.append([], {"a": None, "d": 4})
    journal.close()
    again = opened(place)
    assert (again.id, again.recovered_damage) == (journal.id, False)
    assert {key: again.state[key] for key in ("b", "d")} == {"b": {"c": [2]}, "d": 4} and "a" not in again.state
    (third,) = again.append([fault(3)], {})
    assert third.seq == 3 and everything(again) == [*first, third]
    again.close()


def test_one_writer_at_a_time(place: Path) -> None:
    journal = opened(place)
    with pytest.raises(OSError, match="another process writes this journal"):
        opened(place)
    journal.close()
    opened(place).close()


def test_any_cursor_and_any_limit_give_each_fault_once_in_order(place: Path) -> None:
    filled(place, 400, filler="x" * 900)
    reader = JournalReader(place)
    reader.refresh()
    assert len(reader.segments) > 3 and any(len(segment.index) > 0 for segment in reader.segments)
    (span,) = reader.spans()
    assert (span.first_seq, span.last_seq) == (1, 400)
    for after in (0, 1, 2, 57, 199, 399, 400, 401, 10**12):
        expected = [n for n in range(1, 401) if n >= after]
        for limit in (1, 7, 400):
            assert numbers(reader.faults({span.journal: after}, limit)) == expected[:limit], (after, limit)


def test_records_that_span_blocks_and_fill_them_to_the_last_bytes(place: Path) -> None:
    """The trailer of a block is written with the record after it; that must neither count as damage nor double."""
    journal = opened(place)
    reader = JournalReader(place)
    journal.append([], {"filler": "y" * 70_000})
    base = journal.segments[-1].parsed_bytes
    for left in range(10):
        room = leveldb_log.BLOCK_BYTES - journal.segments[-1].parsed_bytes % leveldb_log.BLOCK_BYTES
        empty = len(leveldb_log.encode(journal._record("changes", {"k": ""}, []), 0))
        size = room - left - empty
        if size < 0:
            size += leveldb_log.BLOCK_BYTES - leveldb_log.HEADER_BYTES
        journal.append([], {"k": "z" * size})
        reader.refresh()
        journal.append([fault(left)], {})
        reader.refresh()
    assert journal.segments[-1].parsed_bytes > base
    assert numbers(everything(journal)) == numbers(everything(reader)) == list(range(10))
    assert journal.damaged_bytes == reader.damaged_bytes == 0 and reader.state == journal.state
    journal.close()


def test_trimming_at_the_bound_keeps_the_newest(place: Path) -> None:
    max_bytes = 4 * SEGMENT_BYTES_MIN
    filled(place, 700, max_bytes, filler="x" * 1000)
    journal = opened(place, max_bytes)
    kept = numbers(everything(journal))
    assert kept == list(range(kept[0], 701)) and 100 < len(kept) < 300
    assert sum(path.stat().st_size for path in place.iterdir()) == journal.size_bytes <= max_bytes
    assert journal.state["last"] == 700 and journal.lost_faults == 0
    assert journal.spans()[0].first_seq == kept[0]
    journal.close()


def test_a_foreign_reader_follows_while_the_writer_appends_rolls_and_trims(place: Path) -> None:
    max_bytes = 4 * SEGMENT_BYTES_MIN
    journal = opened(place, max_bytes)
    reader = JournalReader(place)
    rng, position, followed = random.Random(1), {}, []
    for number in range(1, 900):
        journal.append([fault(number, "x" * rng.randrange(2000))], {"last": number})
        if rng.random() < 0.3:
            reader.refresh()
            for found in reader.faults(position, rng.randrange(1, 50)):
                followed.append(found.time_ns)
                position[found.journal] = found.seq + 1
    reader.refresh()
    followed += numbers(reader.faults(position, 10**6))
    assert followed == sorted(set(followed)) and followed[-1] == 899
    assert numbers(everything(reader)) == numbers(everything(journal)) and reader.state == journal.state
    assert journal.segments[0].number > 1, "the test trims"
    journal.close()


def test_a_foreign_reader_waits_for_the_rest_of_a_record(place: Path) -> None:
    """Half a write looks like damage, but only until its other half comes."""
    journal = opened(place)
    journal.append([fault(1)], {})
    reader = JournalReader(place)
    data = leveldb_log.encode(journal._record("changes", {"k": "z" * 100_000}, [fault(2)]), journal.size_bytes)
    path = journal.segments[-1].path
    for cut in (3, 10, 5000, 33_000, 66_000, len(data) - 1):
        with path.open("rb+") as file:
            file.seek(journal.size_bytes)
            file.write(data[:cut])
        reader.refresh()
        assert numbers(everything(reader)) == [1] and reader.damaged_bytes == 0, cut
    path.open("rb+").close()
    with path.open("rb+") as file:
        file.seek(journal.size_bytes)
        file.write(data)
    reader.refresh()
    assert len(reader.state["k"]) == 100_000 and reader.damaged_bytes == 0
    journal.close()


def test_a_cloned_disk_begins_a_journal_and_keeps_the_old_one_aside(place: Path) -> None:
    old = filled(place, 3)
    for machine in ("machine-2", "machine-1", "machine-2"):
        journal = opened(place, machine=machine)
        assert journal.id != old and journal.state == {} and not everything(journal)
        journal.append([fault(9)], {})
        journal.close()
        old = journal.id
    assert len(list(place.parent.iterdir())) == 4
    unknown = opened(place, machine="")
    assert unknown.id == old, "an id that can't be read says nothing"
    unknown.close()


def test_cursors() -> None:
    position = {"a" * 32: 7, "b" * 32: 1}
    assert decode_cursor(encode_cursor(position)) == position
    for text in ("", "!", "e30", "bnVsbA==", "eyJhIjotMX0=", "eyJhIjp0cnVlfQ==", "WzFd" * 1000, "é"):
        with pytest.raises(ValueError, match="not a cursor"):
            decode_cursor(text)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 100])
def test_pages_of_several_journals_hold_each_fault_once_though_they_grow_and_one_begins_anew(
    tmp_path: Path, limit: int
) -> None:
    filled(tmp_path / "memory", 4)
    (segment,) = (tmp_path / "memory").glob("*.log")
    segment.write_bytes(segment.read_bytes() + b"torn")
    journals = [opened(tmp_path / name) for name in ("memory", "scrub")]
    for number in (5, 6, 7, 8):
        journals[number % 2].append([fault(number)], {})
    assert len(journals[0].spans()) == 2
    cursor, seen = None, []
    for number in range(9, 30):
        one = page(journals, cursor, limit)
        assert len(one.faults) <= limit and page(journals, cursor, limit) == one
        seen += numbers(one.faults)
        cursor = one.cursor
        if number < 12:
            journals[number % 2].append([fault(number)], {})
    assert sorted(seen) == list(range(1, 12))
    assert not page(journals, cursor, limit).faults
    for journal in journals:
        journal.close()


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> tuple[Path, str, dict[str, bytes]]:
    place = tmp_path_factory.mktemp("pristine") / "memory"
    name = filled(place, 100, filler="x" * 1500)
    return place, name, {path.name: path.read_bytes() for path in sorted(place.iterdir())}


def boundaries(data: bytes) -> set[int]:
    return {0, *(item.end for item in leveldb_log.scan([data]))}


def check_recovery(place: Path, name: str, is_damaged: bool) -> int:
    """Opens, appends, opens again; how many of the hundred faults survived."""
    journal = opened(place)
    survivors = numbers(everything(journal))
    assert survivors == sorted(set(survivors)) and set(survivors) <= set(range(1, 101))
    assert (journal.id != name) == is_damaged == journal.recovered_damage
    (placed,) = journal.append([fault(1000)], {})
    assert (placed.journal, placed.seq) == ((name, 101) if not is_damaged else (journal.id, 1))
    assert numbers(everything(journal)) == [*survivors, 1000]
    journal.close()
    again = opened(place)
    assert again.id == journal.id and not again.recovered_damage
    assert numbers(everything(again)) == [*survivors, 1000]
    again.close()
    return len(survivors)


def restore(place: Path, contents: dict[str, bytes]) -> None:
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    for name, data in contents.items():
        (place / name).write_bytes(data)


def test_any_flipped_bit_costs_one_record(pristine, tmp_path: Path) -> None:
    _, name, contents = pristine
    rng = random.Random(7)
    for _ in range(120):
        victim = rng.choice(list(contents))
        at = rng.randrange(len(contents[victim]) * 8)
        damaged = bytearray(contents[victim])
        damaged[at // 8] ^= 1 << at % 8
        restore(tmp_path / "memory", {**contents, victim: bytes(damaged)})
        reader = JournalReader(tmp_path / "memory")
        reader.refresh()
        is_tail = victim == max(contents) and reader.damaged_bytes == 0  # may still be half a write
        lost = 100 - check_recovery(tmp_path / "memory", name, is_damaged=True)
        assert lost <= 2
        assert is_tail or reader.lost_faults == lost, "what is missing is counted"


def test_any_truncation_keeps_what_came_before(pristine, tmp_path: Path) -> None:
    _, name, contents = pristine
    rng = random.Random(8)
    victim = max(contents)
    data = contents[victim]
    ends = boundaries(data)
    before = sum(len(list(leveldb_log.scan([content]))) - 1 for key, content in contents.items() if key != victim)
    for cut in [*rng.sample(range(len(data)), 60), len(data) - 1, 1, 6, 7]:
        if cut in ends:  # nobody can tell a file cut between two records from one that was never longer
            continue
        restore(tmp_path / "memory", {**contents, victim: data[:cut]})
        intact = sum(end <= cut for end in ends) - 2  # neither 0 nor the snapshot
        assert check_recovery(tmp_path / "memory", name, is_damaged=True) == before + max(0, intact)


def test_any_bytes_at_all_are_no_exception(tmp_path: Path) -> None:
    rng = random.Random(9)
    place = tmp_path / "memory"
    place.mkdir()
    for number, payload in enumerate(
        [
            b"",
            b"{}\n{}",
            b"1\n2",
            b"[" * 9999,
            b'{"kind":"snapshot","seq":"1"}\n{"state":{},"faults":[]}',
            b"\xff\n\xfe",
        ]
    ):
        data = leveldb_log.encode(payload, 0) + rng.randbytes(rng.randrange(3000))
        (place / f"{number:010d}-{'0' * 32}.log").write_bytes(data)
    (place / "notes.log").write_text("not a segment")
    journal = opened(place)
    assert journal.recovered_damage and journal.damaged_bytes > 0
    journal.append([fault(1)], {})
    assert numbers(everything(journal)) == [1]
    journal.close()


# --- a disk that refuses ---------------------------------------------------------------------------------------------


def failing(call: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `number`-th call of os.<call> fails as on a bad disk; a write puts half of its bytes down first."""
    real, calls = getattr(os, call), 0

    def fail(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number:
            if call == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            raise OSError(errno.EIO, "Input/output error")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("call", ["write", "fsync", "pread", "fstat", "replace", "ftruncate", "open"])
@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("rolls", [False, True])
def test_a_failed_append_is_not_written_and_may_be_repeated(
    place: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, rolls: bool
) -> None:
    filled(place, 3, filler="x" * 70_000 if rolls else "")
    journal = opened(place)
    journal._segment_bytes = SEGMENT_BYTES_MIN
    acknowledged = numbers(everything(journal))
    with monkeypatch.context() as patch:
        failing(call, number, patch)
        if call == "ftruncate":
            failing("fsync", number, patch)  # the file can't even be cut back
        for attempt in range(4, 7):
            for _ in range(2):
                try:
                    journal.append([fault(attempt)], {"last": attempt})
                except OSError:
                    assert numbers(everything(journal)) == acknowledged
                    assert journal.state["last"] == acknowledged[-1]
                else:
                    acknowledged.append(attempt)
                    break
    assert acknowledged == [1, 2, 3, 4, 5, 6] == numbers(everything(journal))
    assert [f.seq for f in everything(journal)] == acknowledged
    reader = JournalReader(place)
    reader.refresh()
    assert numbers(everything(reader)) == acknowledged
    journal.close()
    again = opened(place)
    assert numbers(everything(again)) == acknowledged and again.state["last"] == 6
    again.close()


def test_what_the_disk_turned_into_something_else_was_not_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(place)
    journal.append([fault(1)], {})
    write = os.write

    def lie(fd: int, data: bytes) -> int:
        garbled = bytearray(data)
        garbled[len(garbled) // 2] ^= 4
        return write(fd, garbled)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lie)
        for _ in range(2):
            with pytest.raises(OSError, match="can't be read back"):
                journal.append([fault(2)], {"last": 2})
            assert numbers(everything(journal)) == [1] and "last" not in journal.state
    (placed,) = journal.append([fault(2)], {"last": 2})
    assert placed.seq == 2 and numbers(everything(journal)) == [1, 2]
    journal.close()
    again = opened(place)
    assert numbers(everything(again)) == [1, 2] and not again.recovered_damage
    again.close()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from agent.journal import Journal
from tests.agent.test_journal import fault, everything, numbers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]), 1 << 20, "machine-1")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
acknowledged, refused = [], 0
for number in range(1, 60):
    try:
        journal.append([fault(number, "x" * 1000)], {"last": number})
        acknowledged.append(number)
    except OSError:
        refused += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        try:
            journal.append([fault(number, "x" * 1000)], {"last": number})
            raise SystemExit("written to a full disk")
        except OSError:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        assert numbers(everything(journal)) == acknowledged
        journal.append([fault(number, "x" * 1000)], {"last": number})
        acknowledged.append(number)
assert refused >= 2
assert numbers(everything(journal)) == acknowledged == list(range(1, 60))
"""


def test_a_file_that_may_not_grow(place: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", LIMITED, str(place)], check=True, timeout=60)
    journal = opened(place)
    assert numbers(everything(journal)) == list(range(1, 60)) and not journal.recovered_damage
    journal.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "flipwatch-test", mount], capture_output=True)
    if done.returncode:
        pytest.skip("a small file system can't be mounted here (needs root); the refusals above cover the same code")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_a_full_disk_refuses_and_an_emptied_one_goes_on(small_disk: Path) -> None:
    journal = opened(small_disk / "memory")
    journal.append([fault(1)], {})
    ballast = small_disk / "ballast"
    with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    acknowledged = [1]
    with pytest.raises(OSError) as refused:
        for number in range(2, 100):
            journal.append([fault(number, "x" * 500)], {})
            acknowledged.append(number)
    assert refused.value.errno == errno.ENOSPC
    assert numbers(everything(journal)) == acknowledged
    ballast.unlink()
    journal.append([fault(1000)], {})
    journal.close()
    again = opened(small_disk / "memory")
    assert numbers(everything(again)) == [*acknowledged, 1000] and not again.recovered_damage
    again.close()
