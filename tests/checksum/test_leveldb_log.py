"""The LevelDB log: round trips, every flip and cut of small files, traps, any bytes, and files by LevelDB itself."""

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import plyvel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checksum import _crc32c, leveldb_log
from checksum.crc32c import crc32c, mask
from checksum.finding import Finding, Flip, Intact, Record, Unreadable, Verdict, merge
from checksum.leveldb_log import BLOCK_BYTES, HEADER_BYTES, encode, recognises, scan, verify
from tests.checksum.faults import (
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

SMALL_BLOCK_BYTES = 128
EDGE = BLOCK_BYTES - HEADER_BYTES  # the longest payload that fits a block


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same format with short blocks, so that every bit of a file with many of them can be tried."""
    monkeypatch.setattr(leveldb_log, "BLOCK_BYTES", SMALL_BLOCK_BYTES)


def small_log() -> PristineLog:
    rng = random.Random(7)
    # 15 + 7 and so on: the sixth record leaves 3 bytes for a trailer, the ninth exactly a header
    lengths = [15, 0, 40, 300, 1, 9, 10, 27, 70, 5, 33, 8, 12, 200, 21, 0]
    return PristineLog.of(rng.randbytes(length) for length in lengths)


def large_log(seed: int, lengths: list[int]) -> PristineLog:
    rng = random.Random(seed)
    return PristineLog.of(rng.randbytes(length) for length in lengths)


MIXED = [100, 0, 1000, 5000, 40_000, 3, 9, 20_000, 90_000, 1, 700, 32_000, 60, 12_345]


# writing and reading


@pytest.mark.parametrize("before", [0, 1, EDGE - 8, EDGE - 1, EDGE, EDGE + 1, EDGE + 6])
@pytest.mark.parametrize("length", [0, 1, EDGE - 1, EDGE, EDGE + 1, 2 * EDGE, 2 * EDGE + 1, 100_000])
def test_round_trip_at_the_edges_of_blocks(before: int, length: int) -> None:
    log = large_log(1, [before, length, 5])
    items = list(scan([log.data]))
    assert [item.data for item in items if isinstance(item, Record)] == list(log.payloads.values())
    assert_tiles(items, 0, len(log.data))


def test_a_record_by_hand() -> None:
    expected = struct.pack("<IHB", mask(crc32c(b"\x01hello")), 5, 1) + b"hello"
    assert encode(b"hello", 0) == encode(b"hello", 1000) == expected
    assert encode(b"hello", BLOCK_BYTES - 3) == bytes(3) + expected
    first, last = (
        struct.pack("<IHB", mask(crc32c(b"\x02")), 0, 2),
        struct.pack("<IHB", mask(crc32c(b"\x04hello")), 5, 4),
    )
    assert encode(b"hello", BLOCK_BYTES - 7) == first + last + b"hello"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 400) | st.integers(0, 70_000), max_size=12), st.integers(0, 2**32))
def test_round_trip_with_any_cuts(lengths: list[int], seed: int) -> None:
    log = large_log(seed, lengths)
    rng = random.Random(seed)
    items = list(scan(cut(log.data, rng)))
    assert_tiles(items, 0, len(log.data))
    assert [item.data for item in items if isinstance(item, Record)] == list(log.payloads.values())
    without = list(scan(cut(log.data, rng), with_data=False))
    assert [(item.begin, item.end) for item in items] == [(item.begin, item.end) for item in without]
    assert all(isinstance(item, Record) and item.data is None for item in without)


def test_nothing_is_nothing() -> None:
    assert list(scan([])) == list(scan([b"", b""])) == []


# one flipped bit, one cut


@pytest.mark.usefixtures("small_blocks")
def test_every_flipped_bit_is_named_and_costs_at_most_its_record() -> None:
    log = small_log()
    for offset_bytes in range(len(log.data)):
        for bit in range(8):
            damaged, truth = flip(log.data, offset_bytes, bit)
            items = list(scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, log)
            assert flips(items) == [truth]
            assert len(log.payloads) - 1 <= len(records(items)) <= len(log.payloads)
            assert {finding.verdict for finding in findings(items)} <= {Verdict.flipped, Verdict.skipped}


@pytest.mark.usefixtures("small_blocks")
def test_every_cut_is_torn_and_costs_only_what_was_cut() -> None:
    log = small_log()
    whole = list(scan([log.data]))
    for size in range(len(log.data)):
        items = list(scan([log.data[:size]]))
        assert_tiles(items, 0, size)
        intact = [item for item in whole if item.end <= size]
        trailer_cut = [item for item in whole if item.end - 6 <= size < item.end and not any(log.data[size : item.end])]
        if trailer_cut and len(items) and isinstance(items[-1], Record):
            assert len(records(items)) <= len(intact) + 1
        else:
            assert records(items) == intact
        assert {finding.verdict for finding in findings(items)} <= {Verdict.torn}


def test_a_random_flip_costs_one_record_and_is_named() -> None:
    rng = random.Random(11)
    log = large_log(11, MIXED)
    lost = 0
    for _ in range(400):
        damaged, truth = random_flip(log.data, rng)
        items = list(scan(cut(damaged, rng)))
        assert_tiles(items, 0, len(damaged))
        assert_no_phantom(items, log)
        assert flips(items) == [truth]
        lost += len(log.payloads) - len(records(items))
    assert lost <= 400


@pytest.mark.parametrize("payload_bytes", [121, 100, 1017])
def test_equal_frames_hide_no_flipped_length(payload_bytes: int) -> None:
    """With frames of 128 bytes, half of the flipped lengths point exactly at some other intact header."""
    log = large_log(2, [payload_bytes] * 300)
    for begin in list(log.payloads)[3:200:37]:
        for bit in range(16):
            damaged, truth = flip(log.data, begin + 4 + bit // 8, bit % 8)
            items = list(scan([damaged]))
            assert flips(items) == [truth]
            assert len(records(items)) == len(log.payloads) - 1


def test_a_flip_in_unwritten_space_is_named() -> None:
    log = large_log(3, [1000])
    damaged, truth = flip(log.data + bytes(100_000), 50_000, 6)
    items = list(scan([damaged]))
    assert_tiles(items, 0, len(damaged))
    assert flips(items) == [truth]
    assert {item.verdict for item in findings(items) if not item.flip} == {Verdict.zeros}
    assert len(records(items)) == 1


# worse damage


def test_several_flips_in_one_record_cost_that_record() -> None:
    log = large_log(4, [500] * 200)
    begin = list(log.payloads)[50]
    damaged, _ = flip(log.data, begin + 100, 1)
    damaged, _ = flip(damaged, begin + 200, 5)
    items = list(scan([damaged]))
    (finding,) = findings(items)
    assert (finding.begin, finding.end, finding.verdict) == (begin, begin + 507, Verdict.skipped)
    assert finding.stored != finding.computed
    assert len(records(items)) == 199


def test_a_garbled_header_costs_the_rest_of_its_block() -> None:
    log = large_log(5, [500] * 200)
    begin = list(log.payloads)[10]
    items = list(scan([log.data[:begin] + b"\xaa" * HEADER_BYTES + log.data[begin + HEADER_BYTES :]]))
    assert_tiles(items, 0, len(log.data))
    assert {item.verdict for item in findings(items)} == {Verdict.skipped}
    (merged,) = merge(findings(items))
    assert merged.begin == begin
    assert BLOCK_BYTES < merged.end < BLOCK_BYTES + 507 + HEADER_BYTES  # with the orphaned end of a record
    assert_no_phantom(items, log)


@pytest.mark.parametrize("hole", ["garbage", "zeros", "unreadable"])
def test_no_record_is_joined_over_a_hole(hole: str) -> None:
    """(Only over one: that a whole block is gone, so that the next took its place, no checksum of the format tells.)"""
    log = large_log(6, [40_000, 40_000, 40_000, 40_000])
    fill: dict[str, list[bytes | Unreadable]] = {
        "garbage": [random.Random(1).randbytes(BLOCK_BYTES)],
        "zeros": [bytes(BLOCK_BYTES)],
        "unreadable": [Unreadable(BLOCK_BYTES)],
    }
    chunks = [log.data[:BLOCK_BYTES], *fill[hole], log.data[2 * BLOCK_BYTES :]]
    items = list(scan(chunks))
    assert_no_phantom(items, log)
    assert [item.data for item in records(items)] == list(log.payloads.values())[2:]
    expected = {"zeros": Verdict.zeros, "unreadable": Verdict.unreadable}.get(hole, Verdict.skipped)
    assert expected in {item.verdict for item in findings(items)}


def test_out_of_order_types_are_skipped() -> None:
    def fragment(kind: int, data: bytes) -> bytes:
        return struct.pack("<IHB", mask(crc32c(bytes((kind,)) + data)), len(data), kind) + data

    full, first, middle, last = 1, 2, 3, 4
    for kinds, expected in {
        (full, middle, full): "RSR",
        (full, last, full): "RSR",
        (first, full): "SR",
        (first, first, last): "SR",
        (first, middle, full): "SR",
        (first, middle, middle, last): "R",
        (full, 9, full): "RSR",  # RocksDB's types: not for this reader yet
        (first, 9, last, full): "SSSR",
        (0, full): "SR",
    }.items():
        data = b"".join(fragment(kind, b"payload%d" % number) for number, kind in enumerate(kinds))
        items = list(scan([data + bytes(BLOCK_BYTES - len(data))]))
        assert_tiles(items, 0, BLOCK_BYTES)
        shown = "".join("R" if isinstance(item, Record) else item.verdict[0].upper() for item in items)
        assert shown == expected + "Z", kinds


def test_unwritten_space_is_zeros_and_what_runs_into_it_is_torn() -> None:
    log = large_log(8, [100, 50_000])
    items = list(scan([log.data + bytes(70_000)]))
    assert_tiles(items, 0, len(log.data) + 70_000)
    assert [item.verdict for item in merge(findings(items))] == [Verdict.zeros]
    cut_short = log.data[:BLOCK_BYTES] + bytes(70_000)
    items = list(scan([cut_short]))
    assert [item.verdict for item in merge(findings(items))] == [Verdict.torn, Verdict.zeros]
    assert len(records(items)) == 1


def test_a_length_beyond_the_block_is_not_torn() -> None:
    log = large_log(9, [100, 200])
    begin = list(log.payloads)[1]
    damaged = log.data[: begin + 4] + b"\xff\xff" + log.data[begin + 6 :]
    assert [item.verdict for item in findings(scan([damaged]))] == [Verdict.skipped]


def test_a_flipped_length_of_the_last_record_is_not_torn() -> None:
    log = large_log(10, [100, 200])
    damaged, truth = flip(log.data, list(log.payloads)[1] + 5, 3)
    (finding,) = findings(scan([damaged]))
    assert (finding.verdict, finding.flip) == (Verdict.flipped, truth)


def test_a_record_beyond_the_limit_is_skipped() -> None:
    log = large_log(12, [10, 200_000, 10])
    items = list(scan([log.data], record_bytes_max=100_000))
    assert [len(item.data or b"") for item in records(items)] == [10, 10]
    assert [item.verdict for item in findings(items)] == [Verdict.skipped]
    assert_tiles(items, 0, len(log.data))
    assert len(list(scan([log.data], record_bytes_max=100_000, with_data=False))) == 3


def test_memory_is_bounded_whatever_the_record() -> None:
    """A record of 80 MiB, made block by block: neither reader ever holds more than a block of it."""
    import tracemalloc

    def endless() -> Iterator[bytes]:
        payload = bytes(EDGE)
        yield encode(payload + b"x", 0)[:BLOCK_BYTES]
        middle = struct.pack("<IHB", mask(crc32c(b"\x03" + payload)), EDGE, 3) + payload
        for _ in range(80 * 2**20 // BLOCK_BYTES):
            yield middle
        yield struct.pack("<IHB", mask(crc32c(b"\x04x")), 1, 4) + b"x"

    tracemalloc.start()
    try:
        (record,) = scan(endless(), with_data=False)
        (finding,) = scan(endless(), record_bytes_max=2**20)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(record, Record)
    assert isinstance(finding, Finding)
    assert finding.verdict is Verdict.skipped
    assert peak_bytes < 4 * 2**20


# bytes the disk would not give


def test_an_unreadable_page_costs_the_records_it_touches() -> None:
    log = large_log(13, [2000] * 100)
    for page in range(0, len(log.data) // 4096, 3):
        begin, end = page * 4096, page * 4096 + 4096
        items = list(scan([log.data[:begin], Unreadable(4096), log.data[end:]]))
        assert_tiles(items, 0, len(log.data))
        assert_no_phantom(items, log)
        unreadable = [item for item in findings(items) if item.verdict is Verdict.unreadable]
        assert min(item.begin for item in unreadable) <= begin
        assert max(item.end for item in unreadable) >= end


def test_an_unreadable_payload_costs_only_its_record() -> None:
    log = large_log(14, [100, 20_000, 100, 100])
    items = list(scan([log.data[:8192], Unreadable(4096), log.data[12_288:]]))
    assert [item.verdict for item in findings(items)] == [Verdict.unreadable]
    assert len(records(items)) == 3


def test_unread_zeros_are_no_record() -> None:
    """The record would verify if the bytes that are missing were taken for the zeros they were."""
    log = PristineLog.of([b"a", bytes(20_000), b"b"])
    items = list(scan([log.data[:8192], Unreadable(4096), log.data[12_288:]]))
    assert [item.data for item in records(items)] == [b"a", b"b"]
    items = list(scan([log.data, bytes(4096), Unreadable(4096), bytes(100_000)]))
    assert Verdict.unreadable in {item.verdict for item in findings(items)}


# going on in the middle


def test_a_scan_resumed_at_any_block_gives_the_same() -> None:
    rng = random.Random(15)
    log = large_log(15, MIXED * 2)
    for _ in range(40):
        damaged, _ = random_flip(garble(log.data, rng) if rng.random() < 0.5 else log.data, rng)
        whole = list(scan([damaged]))
        for offset in range(0, len(damaged), BLOCK_BYTES):
            items = list(scan([damaged[offset:]], offset=offset, resumed=True))
            assert_tiles(items, offset, len(damaged))
            assert_no_phantom(items[1:], log)
            settled = items[0].end  # the first item may be the rest of one that began before
            assert [i for i in items if i.begin >= settled] == [i for i in whole if i.begin >= settled]


def test_the_rest_of_a_record_begun_before_is_intact_but_has_no_data() -> None:
    log = large_log(16, [100_000, 10])
    items = list(scan([log.data[BLOCK_BYTES:]], offset=BLOCK_BYTES, resumed=True))
    rest, after = items
    assert isinstance(rest, Record)
    assert isinstance(after, Record)
    assert (rest.begin, rest.data) == (BLOCK_BYTES, None)
    assert after.data == list(log.payloads.values())[1]
    orphans = list(scan([log.data[BLOCK_BYTES:]], offset=BLOCK_BYTES))
    assert [item.verdict for item in merge(findings(orphans))] == [Verdict.skipped]


# any bytes


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=600), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_any_bytes_are_tiled(data: bytes, seed: int, resumed: bool, with_data: bool) -> None:
    chunks = [*cut(data, random.Random(seed)), Unreadable(seed % 40_000)]
    items = list(scan(chunks, offset=BLOCK_BYTES, resumed=resumed, with_data=with_data))
    assert_tiles(items, BLOCK_BYTES, BLOCK_BYTES + len(data) + seed % 40_000)
    assert records(items) == []
    assert isinstance(recognised(data), bool)


@pytest.mark.usefixtures("small_blocks")
def test_any_damage_is_tiled_and_gives_no_phantom() -> None:
    rng = random.Random(17)
    log = small_log()
    for _ in range(1500):
        damaged = log.data
        for _ in range(rng.randrange(1, 4)):
            damaged = rng.choice((garble, lambda data, rng: random_flip(data, rng)[0]))(damaged, rng) or log.data
        items = list(scan(cut(damaged, rng)))
        assert_tiles(items, 0, len(damaged))
        assert_no_phantom(items, log)


def test_the_extension_and_its_twin_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(21)
    log = large_log(21, MIXED)
    files = [log.data, *(garble(log.data, rng) for _ in range(15)), *(random_flip(log.data, rng)[0] for _ in range(15))]
    in_c = [list(scan([data], with_data=with_data)) for data in files for with_data in (True, False)]
    monkeypatch.setattr(leveldb_log, "extension", None)
    assert in_c == [list(scan([data], with_data=with_data)) for data in files for with_data in (True, False)]


def test_the_extension_minds_the_end_of_its_buffer() -> None:
    block = encode(b"payload", 0)
    for size in range(len(block) + 1):
        for position in range(size + 1):
            run = _crc32c.leveldb_run(block[:size], position, 100, False, True)
            assert run == ([(1, 100, 100 + len(block), b"payload")] if (size, position) == (len(block), 0) else [])
    for position in (-1, len(block) + 1):
        with pytest.raises(ValueError, match="position"):
            _crc32c.leveldb_run(block, position, 0, False, True)


# counting in C


def _damaged(log: PristineLog, rng: random.Random) -> bytes:
    data = log.data
    for _ in range(rng.randrange(4)):
        data = rng.choice((garble, lambda data, rng: random_flip(data, rng)[0]))(data, rng) or log.data
    return data


@pytest.mark.parametrize("in_c", [True, False])
@pytest.mark.parametrize(("block_bytes", "rounds"), [(SMALL_BLOCK_BYTES, 1200), (BLOCK_BYTES, 150)])
def test_counting_says_what_scanning_says(
    in_c: bool, block_bytes: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leveldb_log, "BLOCK_BYTES", block_bytes)
    rng = random.Random(block_bytes)
    log = small_log() if block_bytes == SMALL_BLOCK_BYTES else large_log(22, MIXED * 3)
    for number in range(rounds if in_c else rounds // 10):
        damaged = _damaged(log, rng)
        chunks = with_a_hole(damaged, rng) if number % 4 == 0 else cut(damaged, rng)
        with monkeypatch.context() as without_c:
            without_c.setattr(leveldb_log, "extension", None)
            expected = counted(scan(chunks, with_data=False))
        with monkeypatch.context() as perhaps_without_c:
            if not in_c:
                perhaps_without_c.setattr(leveldb_log, "extension", None)
            items = list(verify(chunks))
        assert_tiles(items, 0, len(damaged))
        assert counted(items) == expected


@pytest.mark.parametrize(("block_bytes", "rounds"), [(SMALL_BLOCK_BYTES, 800), (BLOCK_BYTES, 80)])
def test_counting_minds_the_number_of_a_log(block_bytes: int, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of RocksDB that overwrote the beginning of an older one, and damage anywhere."""
    monkeypatch.setattr(leveldb_log, "BLOCK_BYTES", block_bytes)
    rng = random.Random(25)

    def numbered(number: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += encode(rng.randbytes(rng.randrange(block_bytes * 2)), len(data), log_number=number)
        return data

    old, new = numbered(7, 30 * block_bytes), numbered(8, 12 * block_bytes)
    intact = list(verify([new]))
    assert sum(item.records for item in intact if isinstance(item, Intact)) == len(list(scan([new])))
    for _ in range(rounds):
        data = new[: rng.randrange(len(new))] + old[rng.randrange(len(new)) :]
        for _ in range(rng.randrange(3)):
            data = rng.choice((garble, lambda data, rng: random_flip(data, rng)[0]))(data, rng) or data
        with monkeypatch.context() as without_c:
            without_c.setattr(leveldb_log, "extension", None)
            expected = counted(scan([data], with_data=False))
        items = list(verify(cut(data, rng)))
        assert_tiles(items, 0, len(data))
        assert counted(items) == expected


@pytest.mark.usefixtures("small_blocks")
def test_counting_goes_on_anywhere() -> None:
    """Gone on with from the end of any item, it says what a scan of the rest of the file says from there on."""
    rng = random.Random(23)
    log = small_log()
    for _ in range(300):
        damaged = _damaged(log, rng)
        items = list(scan([damaged], with_data=False))
        begin = rng.choice(items).end
        start = begin - begin % SMALL_BLOCK_BYTES
        rest = scan([damaged[start:]], offset=start, resumed=start > 0, with_data=False)
        expected = counted(item for item in rest if item.end > begin)
        items = list(verify(cut(damaged[start:], rng), offset=start, resumed=start > 0, begin=begin))
        assert counted(items) == expected
        assert_tiles(items, begin, len(damaged))


def test_counting_an_intact_file_runs_no_python_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    log = large_log(24, MIXED * 5)
    monkeypatch.setattr(leveldb_log, "_past_damage", None)
    for chunks in ([log.data], cut(log.data, random.Random(24))):
        assert counted(verify(chunks)) == [(0, len(log.data), len(log.payloads))]
    monkeypatch.undo()
    damaged, truth = flip(log.data, 100_003, 1)
    calls = []
    past_damage = leveldb_log._past_damage
    monkeypatch.setattr(leveldb_log, "_past_damage", lambda *args: calls.append(args) or past_damage(*args))
    assert flips(item for item in verify([damaged]) if isinstance(item, Finding)) == [truth]
    assert 0 < len(calls) <= 4  # the blocks that the record reaches into


def test_unwritten_space_is_one_finding_a_chunk() -> None:
    """Chunks of one buffer, as a file is read; a sparse file may hold terabytes of zeros."""
    buffer = bytearray(32 * BLOCK_BYTES)
    head = encode(b"record", 0)

    def chunks() -> Iterator[memoryview]:
        buffer[: len(head)] = head
        yield memoryview(buffer)
        buffer[: len(head)] = bytes(len(head))
        for _ in range(50):
            yield memoryview(buffer)
        yield memoryview(buffer)[: BLOCK_BYTES + 5]

    items = list(verify(chunks()))
    size = 51 * len(buffer) + BLOCK_BYTES + 5
    assert_tiles(items, 0, size)
    assert len(items) < 60
    end = size - 5
    assert counted(items)[:2] == [(0, len(head), 1), Finding(len(head), end, Verdict.zeros)]


def test_the_walk_minds_its_arguments() -> None:
    block = encode(b"payload", 0)
    for position in (-1, len(block) + 1):
        with pytest.raises(ValueError, match="position"):
            _crc32c.leveldb_walk(block, 100, position, 0, 0, -1, False, -1)
        with pytest.raises(ValueError, match="position"):
            _crc32c.zeros_end(block, position)
    with pytest.raises(ValueError, match="at least one byte"):
        _crc32c.leveldb_walk(block, 0, 0, 0, 0, -1, False, -1)
    assert _crc32c.leveldb_walk(block, 100, 0, 1000, 0, -1, False, 9) == (
        len(block),
        1000 + len(block),
        1,
        -1,
        False,
        9,
    )
    assert _crc32c.leveldb_walk(b"", 100, 0, 0, 0, 7, True, -1) == (0, -1, 0, 7, True, -1)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 40), st.binary(max_size=3))
def test_where_zeros_end(before: bytes, zeros: int, after: bytes) -> None:
    data = before + bytes(zeros) + after
    rest = data[len(before) :]
    assert _crc32c.zeros_end(data, len(before)) == len(data) - len(rest.lstrip(bytes(1)))


# recognition


def recognised(data: bytes) -> bool:
    return recognises(lambda offset, length: data[offset : offset + length], len(data))


def test_a_block_is_recognised_in_spite_of_a_flip() -> None:
    log = large_log(18, [3000])
    assert recognised(log.data)
    rng = random.Random(18)
    assert all(recognised(random_flip(log.data, rng)[0]) for _ in range(100))
    assert not recognised(b"")
    assert not recognised(bytes(BLOCK_BYTES))
    assert not recognised(bytes(5000) + b"\x08" + bytes(5000))
    assert not any(recognised(rng.randbytes(BLOCK_BYTES)) for _ in range(50))


# LevelDB itself


def _leveldb_log_of(directory: Path) -> Path:
    (path,) = directory.glob("*.log")
    return path


def test_a_log_that_leveldb_wrote_is_clean(tmp_path: Path) -> None:
    rng = random.Random(19)
    values = {b"key%d" % number: rng.randbytes(rng.choice((10, 900, 40_000))) for number in range(60)}
    with plyvel.DB(str(tmp_path), create_if_missing=True) as db:
        for key, value in values.items():
            db.put(key, value)
    data = _leveldb_log_of(tmp_path).read_bytes()
    items = list(scan(cut(data, rng)))
    assert_tiles(items, 0, len(data))
    batches = [item.data or b"" for item in items if isinstance(item, Record)]
    assert len(batches) == len(items) == len(values)
    for batch, (key, value) in zip(batches, values.items(), strict=True):
        assert key in batch
        assert batch.endswith(value)
    written = b""
    for batch in batches:
        written += encode(batch, len(written))
    assert written == data  # and we write what it writes, byte for byte


def test_leveldb_reads_what_we_wrote(tmp_path: Path) -> None:
    with plyvel.DB(str(tmp_path), create_if_missing=True):
        pass
    path = _leveldb_log_of(tmp_path)
    rng = random.Random(20)
    values = [rng.randbytes(100) for _ in range(800)]  # longer than a block
    data = path.read_bytes()
    for number, value in enumerate(values):
        key = b"%04d" % number
        batch = struct.pack("<QI", number + 1, 1) + b"\x01" + bytes((len(key),)) + key + bytes((len(value),)) + value
        data += encode(batch, len(data))
    path.write_bytes(data)
    with plyvel.DB(str(tmp_path), paranoid_checks=True) as db:
        assert [value for _, value in db] == values


def test_the_flip_is_what_was_flipped() -> None:
    damaged, truth = flip(encode(b"\x00\xff", 0), HEADER_BYTES, 3)
    assert truth == Flip(HEADER_BYTES, 3, 1)
    assert flips(scan([damaged])) == [truth]
