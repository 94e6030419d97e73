"""TFRecord: round trips, every flip and cut of small files, the traps of searching, and files by another writer."""

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfrecord.writer import TFRecordWriter

from checksum import _crc32c, chain, tfrecord, window
from checksum.commands import salvage, verify
from checksum.crc32c import crc32c, mask
from checksum.finding import Finding, Record, Unreadable, Verdict, merge
from checksum.formats import recognise
from checksum.tfrecord import FOOTER_BYTES, HEADER_BYTES, encode, scan
from tests.checksum.faults import (
    Item,
    PristineLog,
    assert_no_phantom,
    assert_tiles,
    counted,
    cut,
    findings,
    flip,
    flips,
    garble,
    random_flip,
    records,
    with_a_hole,
)

FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES


def pristine(payloads: Iterable[bytes]) -> PristineLog:
    data, begins = b"", {}
    for payload in payloads:
        begins[len(data)] = payload
        data += encode(payload, len(data))
    return PristineLog(data, begins)


def random_file(seed: int, lengths: Iterable[int]) -> PristineLog:
    rng = random.Random(seed)
    return pristine(rng.randbytes(length) for length in lengths)


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset : offset + length]


def normal(items: Iterable[Item]) -> list[object]:
    """Items as they are whatever the cuts: findings merged, in order."""
    items = list(items)
    return [*records(items), *merge(findings(items))]


SMALL = [15, 0, 40, 300, 1, 9, 64, 27]


def test_a_record_by_hand() -> None:
    length = struct.pack("<Q", 5)
    expected = length + struct.pack("<I", mask(crc32c(length))) + b"hello" + struct.pack("<I", mask(crc32c(b"hello")))
    assert encode(b"hello", 0) == encode(b"hello", 99) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 400) | st.integers(0, 70_000), max_size=12), st.integers(0, 2**32))
def test_round_trip_with_any_cuts(lengths: list[int], seed: int) -> None:
    file = random_file(seed, lengths)
    rng = random.Random(seed)
    items = list(scan(cut(file.data, rng)))
    assert_tiles(items, 0, len(file.data))
    assert [item.data for item in records(items)] == list(file.payloads.values())
    assert not any(item.by_search for item in records(items))
    without = list(scan(cut(file.data, rng), with_data=False))
    assert [(item.begin, item.end) for item in items] == [(item.begin, item.end) for item in without]
    assert all(isinstance(item, Record) and item.data is None for item in without)


# one flipped bit, one cut


def test_every_flipped_bit_is_named_and_costs_its_record() -> None:
    file = random_file(7, SMALL)
    for offset_bytes in range(len(file.data)):
        for bit in range(8):
            damaged, truth = flip(file.data, offset_bytes, bit)
            items = list(scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, file)
            assert flips(items) == [truth]
            assert len(records(items)) == len(SMALL) - 1
            assert recognise(reader(damaged), len(damaged)) is tfrecord


def test_every_cut_is_torn_and_costs_only_what_was_cut() -> None:
    file = random_file(8, SMALL)
    ends = [*list(file.payloads)[1:], len(file.data)]
    for size in range(len(file.data)):
        items = list(scan([file.data[:size]]))
        assert_tiles(items, 0, size)
        assert len(records(items)) == sum(end <= size for end in ends)
        assert {finding.verdict for finding in findings(items)} == ({Verdict.torn} if size not in (0, *ends) else set())


@pytest.mark.parametrize("length", [100, 1000, 4000, 60_000])
def test_a_random_flip_costs_one_record(length: int) -> None:
    file = random_file(length, [length] * max(10, 200_000 // length))
    rng = random.Random(length)
    for _ in range(60):
        damaged, truth = random_flip(file.data, rng)
        items = list(scan([damaged]))
        assert (len(records(items)), flips(items)) == (len(file.payloads) - 1, [truth])


def test_two_flips_in_a_payload_are_never_located() -> None:
    file = random_file(9, [500, 500, 500])
    rng = random.Random(9)
    begin = list(file.payloads)[1] + HEADER_BYTES
    for _ in range(500):
        damaged = file.data
        for at in rng.sample(range(begin * 8, (begin + 500) * 8), 2):
            damaged, _ = flip(damaged, at // 8, at % 8)
        items = list(scan([damaged]))
        assert [finding.verdict for finding in findings(items)] == [Verdict.skipped]
        assert len(records(items)) == 2


# where nothing says how long a record is


def nested(levels: int, rng: random.Random) -> bytes:
    payload = rng.randbytes(50)
    for _ in range(levels):
        payload = b"".join(encode(part, 0) for part in (rng.randbytes(20), payload, rng.randbytes(30)))
    return payload


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_file_within_a_record_gives_no_phantoms(levels: int) -> None:
    rng = random.Random(levels)
    file = pristine([nested(levels, rng), rng.randbytes(70), nested(levels, rng), nested(levels, rng)])
    for victim in range(4):
        begin = list(file.payloads)[victim]
        for garbage in (rng.randbytes(HEADER_BYTES), b"\xff" * HEADER_BYTES, bytes(HEADER_BYTES)):
            damaged = file.data[:begin] + garbage + file.data[begin + HEADER_BYTES :]
            items = list(scan(cut(damaged, rng)))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, file)
            assert len(records(items)) == 3
            assert [item.by_search for item in records(items)] == [False] * victim + [True] * (3 - victim)


def test_a_chain_that_breaks_confirms_nothing() -> None:
    """A nested file, then another place where a search would be needed: it can't be told what was a record."""
    rng = random.Random(5)
    file = pristine([nested(2, rng), b"a" * 40, b"b" * 40, b"c" * 40])
    begins = list(file.payloads)
    damaged = bytearray(file.data)
    for begin in (begins[0], begins[2]):
        damaged[begin : begin + HEADER_BYTES] = b"\xff" * HEADER_BYTES
    items = list(scan([bytes(damaged)]))
    assert_no_phantom(items, file)
    assert [item.data for item in records(items)] == [b"c" * 40]


def test_flips_further_on_dont_break_a_chain() -> None:
    file = random_file(10, [100] * 40)
    begins = list(file.payloads)
    damaged = file.data[: begins[5]] + b"\xff" * 300 + file.data[begins[5] + 300 :]
    for at in (begins[20] + 50, begins[21] + 2, begins[30] + 9):
        damaged, _ = flip(damaged, at, 4)
    items = list(scan([damaged]))
    assert len(records(items)) == 40 - 3 - 3
    assert len(flips(items)) == 3


def test_missing_and_additional_bytes_cost_little() -> None:
    file = random_file(11, [200] * 50)
    begins = list(file.payloads)
    at = begins[10] + 100
    for damaged in (file.data[:at] + file.data[at + 333 :], file.data[:at] + b"x" * 77 + file.data[at:]):
        items = list(scan([damaged]))
        assert_tiles(items, 0, len(damaged))
        assert_no_phantom(items, file)
        assert len(records(items)) >= 50 - 3


def test_holes_cost_the_records_they_touch() -> None:
    file = random_file(12, [5000, 100, 100, 5000, 100, 5000])
    begins = list(file.payloads)
    inside = begins[3] + 1000
    for begin, end, lost in ((inside, inside + 512, 1), (begins[1] + 3, begins[2] + 3, 2), (0, 4096, 1)):
        chunks: list[bytes | Unreadable] = [file.data[:begin], Unreadable(end - begin), file.data[end:]]
        items = list(scan(chunks))
        assert_tiles(items, 0, len(file.data))
        assert_no_phantom(items, file)
        assert len(records(items)) == 6 - lost
        assert Verdict.unreadable in {finding.verdict for finding in findings(items)}


def test_zeros_are_said_to_be_zeros() -> None:
    file = random_file(13, [300] * 4)
    middle = list(file.payloads)[2]
    for data, count in ((file.data + bytes(3 * 2**20), 4), (file.data[:middle] + bytes(999) + file.data[middle:], 4)):
        items = list(scan([data]))
        assert [finding.verdict for finding in merge(findings(items))] == [Verdict.zeros]
        assert len(records(items)) == count


def test_a_search_ends_though_every_byte_begins_a_long_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "RECORD_BYTES_MAX", 2**16)
    monkeypatch.setattr(tfrecord, "_SEARCH_WORK_BYTES", 2**20)
    length = struct.pack("<Q", 60_000)
    header = length + struct.pack("<I", mask(crc32c(length)))
    data = b"\xff" * 20 + header * 30_000
    done_bytes = 0

    def counted(part: memoryview | bytes, crc: int = 0) -> int:
        nonlocal done_bytes
        done_bytes += len(part)
        return crc32c(part, crc)

    monkeypatch.setattr(tfrecord, "crc32c", counted)
    items = list(scan([data]))
    assert_tiles(items, 0, len(data))
    assert records(items) == []
    assert done_bytes < 40 * len(data)


# bounds


def test_long_records_are_verified_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "RECORD_BYTES_MAX", 1000)
    file = random_file(14, [100, 5000, 50])
    begins = list(file.payloads)

    def chunks(data: bytes) -> Iterator[bytes]:
        return (data[at : at + 700] for at in range(0, len(data), 700))

    assert all(isinstance(item, Record) for item in scan(chunks(file.data), with_data=False))
    assert [finding.begin for finding in findings(scan(chunks(file.data)))] == [begins[1]]
    damaged, _ = flip(file.data, begins[1] + 3000, 2)
    items = list(scan(chunks(damaged), with_data=False))
    assert [(finding.begin, finding.end) for finding in findings(items)] == [(begins[1], begins[2])]
    torn = list(scan(chunks(file.data[: begins[2] - 2]), with_data=False))
    assert [finding.verdict for finding in findings(torn)] == [Verdict.torn]


def test_a_wanted_record_beyond_the_bound_is_skipped() -> None:
    file = random_file(15, [100, 5000, 50])
    items = list(scan([file.data], record_bytes_max=4999))
    assert [isinstance(item, Record) for item in items] == [True, False, True]
    assert all(isinstance(item, Record) for item in scan([file.data], record_bytes_max=5000))


# any bytes


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_any_bytes_tile(data: bytes, seed: int) -> None:
    items = list(scan(cut(data, random.Random(seed))))
    assert_tiles(items, 0, len(data))
    assert isinstance(recognise(reader(data), len(data)), ModuleType | None)


@pytest.mark.parametrize("seed", range(60))
def test_garbled_files_give_no_phantoms_whatever_the_cuts(seed: int) -> None:
    rng = random.Random(seed)
    file = random_file(seed, [rng.choice((0, 20, 300, 6000)) for _ in range(60)])
    damaged = file.data
    for _ in range(rng.randrange(1, 4)):
        damaged = garble(damaged, rng)
    items = list(scan([damaged]))
    assert_tiles(items, 0, len(damaged))
    assert_no_phantom(items, file)
    assert normal(scan(cut(damaged, rng))) == normal(items)


def test_every_double_flip_of_a_small_file() -> None:
    file = random_file(16, [3, 5, 2])
    bits = [divmod(at, 8) for at in range(8 * len(file.data))]
    rng = random.Random(16)
    for first, second in (rng.sample(bits, 2) for _ in range(4000)):
        damaged = flip(flip(file.data, *first)[0], *second)[0]
        items = list(scan([damaged]))
        assert_tiles(items, 0, len(damaged))
        assert_no_phantom(items, file)
        assert len(records(items)) <= 2


@pytest.mark.parametrize("seed", range(40))
def test_zeros_that_are_passed_over_hide_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_STEP_BYTES", 1000)
    rng = random.Random(seed)
    parts: list[bytes] = []
    for _ in range(rng.randrange(1, 4)):
        parts += [
            encode(rng.randbytes(rng.choice((0, 5, 900))), 0) * 3,
            bytes(rng.choice((1, 999, 1012, 5000, 20_000))),
        ]
    data = b"".join([*parts, encode(b"last", 0) * rng.randrange(3)])
    chunks = with_a_hole(data, rng) if seed % 4 == 0 else cut(data, rng)
    passed = [list(reader(chunks)) for reader in (partial(scan, with_data=False), tfrecord.verify)]
    monkeypatch.setattr(window.Window, "pass_zeros", lambda _window, position, *_: position)
    searched = counted(scan(chunks, with_data=False))
    assert [counted(items) for items in passed] == [searched, searched]


# counting in C


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("in_c", [True, False])
def test_counting_says_what_scanning_says(seed: int, in_c: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    damaged = random_file(seed, [rng.choice((0, 20, 300, 6000)) for _ in range(60)]).data
    for _ in range(rng.randrange(4)):
        damaged = rng.choice((garble, lambda data, rng: random_flip(data, rng)[0]))(damaged, rng) or damaged
    chunks = with_a_hole(damaged, rng) if seed % 4 == 0 else cut(damaged, rng)
    whole = list(scan(chunks, with_data=False))
    if not in_c:
        monkeypatch.setattr(tfrecord, "extension", None)
    items = list(tfrecord.verify(chunks))
    assert_tiles(items, 0, len(damaged))
    assert counted(items) == counted(whole)
    begin = rng.choice(whole).end
    rest = list(scan([damaged[begin:]], offset=begin, with_data=False))
    assert counted(tfrecord.verify(cut(damaged[begin:], rng), offset=begin, begin=begin)) == counted(rest)
    behind = list(tfrecord.verify(chunks, begin=begin))
    assert_tiles(behind, begin, len(damaged))
    assert counted(behind) == counted(item for item in whole if item.end > begin)


def test_a_hole_between_whole_records_is_told() -> None:
    one = encode(b"payload", 0)
    chunks = [one * 3, b"", Unreadable(2 * len(one)), one * 2, Unreadable(5)]
    items = list(tfrecord.verify(chunks))
    assert_tiles(items, 0, 7 * len(one) + 5)
    assert counted(items) == counted(scan(chunks, with_data=False))
    assert findings(items)[0] == Finding(3 * len(one), 5 * len(one), Verdict.unreadable)


def test_the_walk_minds_the_end_of_its_buffer() -> None:
    record = encode(b"payload", 0)
    for size in range(len(record) + 1):
        for position in range(size + 1):
            walked = _crc32c.tfrecord_walk(record[:size], position, 0)
            assert walked == ((len(record), 1) if (size, position) == (len(record), 0) else (position, 0))
    for position in (-1, len(record) + 1):
        with pytest.raises(ValueError, match="position"):
            _crc32c.tfrecord_walk(record, position, 0)
    endless = struct.pack("<Q", 2**64 - 1)
    header = endless + struct.pack("<I", mask(crc32c(endless)))
    assert _crc32c.tfrecord_walk(header + bytes(100), 0, 0) == (0, 0)


# recognition and resuming


def test_recognition() -> None:
    file = random_file(17, [500] * 30)
    for damaged in (
        file.data,
        file.data[:300],
        b"\xff" * 4096 + file.data[4096:],
        bytes(700) + file.data[700:],
    ):
        assert recognise(reader(damaged), len(damaged)) is tfrecord
    archive = b"a file in an archive".ljust(512, b"\0") + file.data + bytes(1024)
    assert recognise(reader(archive), len(archive)) is None


def test_a_scan_goes_on_where_one_ended() -> None:
    file = random_file(18, [500] * 30)
    begins = list(file.payloads)
    damaged = flip(file.data, begins[12] + 100, 3)[0]
    whole = list(scan([damaged]))
    for number in (5, 12, 13, 29):
        begin = tfrecord.resume_offset(begins[number], True)
        assert list(scan([damaged[begin:]], offset=begin)) == whole[number:]
    assert tfrecord.resume_offset(begins[9], False) == 0  # who rewrote the file may have moved the records


# another writer


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "train.tfrecord"
    writer = TFRecordWriter(str(path))
    rng = random.Random(19)
    for number in range(300):
        writer.write({"image": (rng.randbytes(rng.randrange(3000)), "byte"), "label": (number, "int")})
    writer.close()
    return path


def test_a_file_by_another_writer_is_verified_and_salvaged(tmp_path: Path, foreign: Path) -> None:
    pristine_data = foreign.read_bytes()
    items = list(scan([pristine_data]))
    assert len(records(items)) == len(items) == 300
    assert b"".join(encode(item.data or b"", 0) for item in records(items)) == pristine_data
    damaged, truth = flip(pristine_data, items[100].begin + 2, 6)
    damaged, _ = flip(damaged, items[200].begin + 40, 0)
    foreign.write_bytes(damaged)
    result = CliRunner().invoke(verify, [str(foreign)])
    assert result.exit_code == 1
    assert f"bit 6 of byte {truth.offset_bytes} is {truth.stored}" in result.stdout
    out = tmp_path / "out"
    assert CliRunner().invoke(salvage, [str(foreign), str(out), "--max-lost", "5%"]).exit_code == 0
    lost = {items[100].begin, items[200].begin}
    assert out.read_bytes() == b"".join(
        pristine_data[item.begin : item.end] for item in items if item.begin not in lost
    )


def test_salvage_leaves_out_what_only_a_search_found(tmp_path: Path, foreign: Path) -> None:
    data = foreign.read_bytes()
    items = list(scan([data]))
    begin = items[290].begin
    foreign.write_bytes(data[:begin] + b"\xff" * HEADER_BYTES + data[begin + HEADER_BYTES :])
    careful, bold = tmp_path / "careful", tmp_path / "bold"
    result = CliRunner().invoke(salvage, [str(foreign), str(careful), "--max-lost", "10%"])
    assert result.exit_code == 0
    assert f"left out bytes {items[291].begin} to {len(data)}: 9 records that only a search found" in result.stdout
    assert careful.read_bytes() == data[:begin]
    assert CliRunner().invoke(salvage, [str(foreign), str(bold), "--keep-found"]).exit_code == 0
    assert bold.read_bytes() == data[:begin] + data[items[291].begin :]
    assert all(not isinstance(item, Finding) for item in scan([bold.read_bytes()]))
