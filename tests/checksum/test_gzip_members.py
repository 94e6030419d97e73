"""gzip members: what the real compressors write, every flip and cut of small files, and the traps of searching."""

import gzip
import io
import random
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checksum import gzip_members
from checksum.commands import locate, repair, salvage, verify
from checksum.finding import Finding, Record, Unreadable, Verdict, merge
from checksum.formats import recognise
from checksum.gzip_members import HEADER_BYTES, TRAILER_BYTES, scan
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

FNAME, FHCRC, FEXTRA, FCOMMENT, FTEXT = 8, 2, 4, 16, 1


def page(rng: random.Random, words: int) -> bytes:
    return b" ".join(rng.choices((b"the", b"crawled", b"page", b"of", b"<p>", b"words", b"0123"), k=words))


def member(payload: bytes, level: int = 6) -> bytes:
    return gzip.compress(payload, level, mtime=0)


def pristine(payloads: Iterable[bytes], level: int = 6) -> PristineLog:
    data, begins = b"", {}
    for payload in payloads:
        begins[len(data)] = payload
        data += member(payload, level)
    return PristineLog(data, begins)


def pages(seed: int, count: int, words: int) -> PristineLog:
    rng = random.Random(seed)
    return pristine(page(rng, words) for _ in range(count))


def header(flags: int, *, extra: bytes = b"", name: bytes = b"", comment: bytes = b"") -> bytes:
    """A header by hand, RFC 1952 section 2.3."""
    data = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\x00\x03"
    if flags & FEXTRA:
        data += struct.pack("<H", len(extra)) + extra
    if flags & FNAME:
        data += name + b"\0"
    if flags & FCOMMENT:
        data += comment + b"\0"
    if flags & FHCRC:
        data += struct.pack("<H", zlib.crc32(data) & 0xFFFF)
    return data


def with_header(head: bytes, payload: bytes) -> bytes:
    return head + member(payload)[HEADER_BYTES:]


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset : offset + length]


def recognised(data: bytes) -> object:
    return recognise(reader(data), len(data))


def normal(items: Iterable[Item]) -> list[object]:
    items = list(items)
    return [*records(items), *merge(findings(items))]


def chunks(data: bytes, size: int = 2**16) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


ALL_FIELDS = header(FTEXT | FHCRC | FEXTRA | FNAME | FCOMMENT, extra=b"\0ab" * 9, name=b"page.html", comment=b"crawled")

# by the real compressors


def test_files_of_the_gzip_command(tmp_path: Path) -> None:
    texts = [page(random.Random(seed), 3000) for seed in range(3)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text)
        subprocess.run(["gzip", f"-{1 + 4 * number}", tmp_path / f"{number}.txt"], check=True)
    data = b"".join((tmp_path / f"{number}.txt.gz").read_bytes() for number in range(3))
    assert data[3] & FNAME
    items = list(scan(chunks(data)))
    assert_tiles(items, 0, len(data))
    assert [item.data for item in records(items)] == texts
    assert recognised(data) is gzip_members


@pytest.mark.skipif(not shutil.which("pigz"), reason="pigz is not installed")
def test_files_of_pigz() -> None:
    text = page(random.Random(1), 100_000)
    data = subprocess.run(["pigz", "-c"], input=text, capture_output=True, check=True).stdout
    (item,) = scan(chunks(data))
    assert item == Record(0, len(data), text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 400) | st.integers(0, 70_000), max_size=8), st.integers(0, 9), st.integers(0, 2**32))
def test_round_trip_with_any_cuts(lengths: list[int], level: int, seed: int) -> None:
    rng = random.Random(seed)
    file = pristine([rng.choice((rng.randbytes(length), page(rng, length // 4))) for length in lengths], level)
    items = list(scan(cut(file.data, rng)))
    assert_tiles(items, 0, len(file.data))
    assert [item.data for item in records(items)] == list(file.payloads.values())
    without = list(scan(cut(file.data, rng), with_data=False))
    assert without == [Record(item.begin, item.end, None) for item in items]
    assert counted(gzip_members.verify(cut(file.data, rng))) == counted(items)


def test_all_that_a_header_can_hold() -> None:
    payload = b"payload " * 50
    for head in (header(FEXTRA, extra=bytes(65535)), header(FNAME, name=b"n" * 3000), header(FHCRC), ALL_FIELDS):
        data = with_header(head, payload) + member(b"next")
        items = list(scan(cut(data, random.Random(1))))
        assert [item.data for item in records(items)] == [payload, b"next"]
        assert gzip.decompress(data) == payload + b"next"


def test_a_header_whose_own_checksum_fails_costs_its_member() -> None:
    data = with_header(ALL_FIELDS, b"payload " * 50)
    damaged, _ = flip(data, ALL_FIELDS.index(b"page"), 3)
    items = list(scan([damaged + member(b"next")]))
    assert [finding.verdict for finding in merge(findings(items))] == [Verdict.skipped]
    assert [item.data for item in records(items)] == [b"next"]


# one flipped bit, one cut

SMALL = [b"hello, world", b"", page(random.Random(3), 40), bytes(300), random.Random(4).randbytes(40), b"last one"]


@pytest.mark.parametrize("level", [0, 6])
def test_every_flipped_bit_costs_one_member_at_most(level: int) -> None:
    file = pristine(SMALL, level)
    begins = [*file.payloads, len(file.data)]
    located = unnoticed = 0
    for offset_bytes in range(len(file.data)):
        for bit in range(8):
            damaged, truth = flip(file.data, offset_bytes, bit)
            items = list(scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, file)
            number = sum(begin <= offset_bytes for begin in begins) - 1
            assert len(records(items)) >= len(SMALL) - 1, truth
            unnoticed += not findings(items)
            assert flips(items) in ([], [truth])
            located += bool(flips(items))
            is_trailer = begins[number + 1] - TRAILER_BYTES <= offset_bytes
            is_magic = offset_bytes - begins[number] < 3
            assert flips(items) or not (is_trailer or is_magic), truth
            assert recognised(damaged) is gzip_members
    assert located >= len(SMALL) * 8 * (TRAILER_BYTES + 3)
    assert unnoticed <= len(SMALL) * (8 * 6 + 1 + 7)  # time, compressor and system, "text", and bits that fill a byte


def test_every_cut_is_torn_and_costs_only_what_was_cut() -> None:
    file = pristine(SMALL)
    ends = [*list(file.payloads)[1:], len(file.data)]
    for size in range(len(file.data)):
        items = list(scan([file.data[:size]]))
        assert_tiles(items, 0, size)
        assert len(records(items)) == sum(end <= size for end in ends)
        assert {finding.verdict for finding in findings(items)} == ({Verdict.torn} if size not in (0, *ends) else set())


@pytest.mark.parametrize(("count", "words"), [(300, 60), (60, 800), (4, 20_000)])
def test_a_random_flip_costs_one_member(count: int, words: int, capsys: pytest.CaptureFixture[str]) -> None:
    file = pages(words, count, words)
    rng = random.Random(words)
    lost, doubtful = 0, 0
    for _ in range(100):
        damaged, _ = random_flip(file.data, rng)
        items = list(scan([damaged], with_data=False))
        assert_tiles(items, 0, len(damaged))
        lost += count - len(records(items))
        doubtful += any(item.by_search for item in records(items))
    with capsys.disabled():
        print(
            f"\n{len(file.data) // count} B members: {lost / 100:.2f} lost per flip, {doubtful} of 100 in doubt", end=""
        )
    assert lost <= 104
    assert doubtful <= 5


def test_a_flip_of_the_stored_length_is_named() -> None:
    file = pages(5, 3, 50)
    end = list(file.payloads)[2]
    damaged, truth = flip(file.data, end - 2, 6)
    (finding,) = findings(scan([damaged]))
    assert (finding.verdict, finding.flip) == (Verdict.flipped, truth)
    assert finding.stored ^ finding.computed == 1 << 32 + 16 + 6  # the trailer as one number, the CRC-32 first


# where nothing says where a member ends


def nested(rng: random.Random, count: int = 4) -> bytes:
    """gzip files that compress no further: a compressor stores them as they are."""
    return b"".join(member(rng.randbytes(500)) for _ in range(count))


def test_nested_members_are_no_records() -> None:
    """Whatever bit flips, however deep: the members of a gzip file within a member are never taken for its equals."""
    rng = random.Random(6)
    file = pristine([page(rng, 99), nested(rng), page(rng, 99), nested(rng), page(rng, 9)])
    begin, end = list(file.payloads)[1:3]
    assert file.data[begin:end].count(b"\x1f\x8b\x08") == 5
    for at in (*range(begin, begin + 40), *range(begin + 40, end, 37)):
        for bit in range(8):
            damaged, _ = flip(file.data, at, bit)
            items = list(scan([damaged]))
            assert_no_phantom(items, file)
            assert len(records(items)) >= 4
    wiped = file.data[: begin + 10] + b"\xff" * 30 + file.data[begin + 40 :]
    items = list(scan([wiped]))
    assert_no_phantom(items, file)
    assert [item.by_search for item in records(items)] == [False] * 4


def test_members_that_may_be_nested_are_marked() -> None:
    """Damaged, and cut where a nested member ended: then only the header of the stored block tells them apart."""
    rng = random.Random(7)
    file = pristine([page(rng, 99), nested(rng)])
    begin = list(file.payloads)[1]
    last = file.data.rindex(b"\x1f\x8b\x08")
    damaged = file.data[:begin] + b"\xff" + file.data[begin + 1 : last]
    items = list(scan([damaged]))
    assert_tiles(items, 0, len(damaged))
    assert [(item.data in file.payloads.values(), item.by_search) for item in records(items)] == [
        (True, False),
        *[(False, True)] * 3,
    ]


def test_zeros_over_the_end_of_a_member_bring_no_nested_ones_to_light() -> None:
    rng = random.Random(21)
    file = pristine([page(rng, 99), nested(rng), page(rng, 99)], level=0)
    begin, end = list(file.payloads)[1:]
    for at in range(begin + 30, end, 29):
        items = list(scan([file.data[:at] + bytes(len(file.data) - at)]))
        assert_no_phantom([item for item in items if not (isinstance(item, Record) and item.by_search)], file)
        assert len([item for item in records(items) if not item.by_search]) == 1


def test_an_extra_field_that_a_flip_makes_up_swallows_no_others() -> None:
    """It may reach to where, by chance, the body of another member begins."""
    parts = [member(page(random.Random(seed), 90)) for seed in range(5)]
    reach = len(b"".join(parts[:3])) + HEADER_BYTES  # up to the body of the fourth
    head = bytearray(parts[0][:HEADER_BYTES] + struct.pack("<H", reach - HEADER_BYTES - 2))
    data = bytes(head) + parts[0][len(head) :] + b"".join(parts[1:])
    assert gzip_members._Members(gzip_members.Window([data], 0))._member(0, data[:3] + b"\4" + data[4:10]).is_intact
    items = list(scan([data]))
    assert flips(items) == []
    assert len(records(items)) == 4


def test_a_torn_file_hides_no_nested_members() -> None:
    rng = random.Random(8)
    file = pristine([page(rng, 99), nested(rng)])
    for last in range(list(file.payloads)[1] + 20, len(file.data), 7):
        items = list(scan([file.data[:last]]))
        assert_no_phantom(items, file)
        assert findings(items)[-1].verdict is Verdict.torn


def test_a_member_whose_end_was_lost_does_not_swallow_the_next() -> None:
    """Equal pages have equal codes: decompression runs on into the next member and ends where that ends."""
    rng = random.Random(9)
    words = (b"alpha", b"beta", b"gamma", b"delta", b"<p>")
    file = pristine(b" ".join(rng.choices(words, k=300)) for _ in range(40))
    for begin in list(file.payloads)[1:]:
        for bit in range(32):  # the last bits of a body hold the end of its block
            damaged, _ = flip(file.data, begin - TRAILER_BYTES - 4 + bit // 8, bit % 8)
            items = list(scan([damaged]))
            assert_no_phantom(items, file)
            assert len(records(items)) >= 39, (begin, bit)


def test_missing_and_additional_bytes_cost_little() -> None:
    file = pages(11, 50, 200)
    at = list(file.payloads)[10] + 50
    for damaged in (file.data[:at] + file.data[at + 333 :], file.data[:at] + b"x" * 77 + file.data[at:]):
        items = list(scan([damaged]))
        assert_tiles(items, 0, len(damaged))
        assert_no_phantom(items, file)
        assert len(records(items)) >= 50 - 3


def test_garbage_between_members() -> None:
    rng = random.Random(12)
    parts = [member(page(rng, 90)) for _ in range(6)]
    for garbage in (rng.randbytes(5000), b"\x1f\x8b\x08\0" * 900, b"x", parts[0][:-3]):
        data = b"".join(parts[:3]) + garbage + b"".join(parts[3:])
        items = list(scan(cut(data, rng)))
        assert_tiles(items, 0, len(data))
        assert [item.verdict for item in merge(findings(items))] == [Verdict.skipped]
        assert len(records(items)) == 6


def test_zeros_are_said_to_be_zeros() -> None:
    file = pages(13, 4, 50)
    middle = list(file.payloads)[2]
    for data in (
        file.data + bytes(3 * 2**20),
        file.data + b"\0",
        file.data[:middle] + bytes(999) + file.data[middle:],
        file.data[:middle] + bytes(2 * 2**20) + file.data[middle:],
    ):
        items = list(scan(cut(data, random.Random(1))))
        assert [finding.verdict for finding in merge(findings(items))] == [Verdict.zeros]
        assert len(records(items)) == 4
    damaged, _ = flip(file.data, len(file.data) - 30, 2)
    found = list(merge(findings(scan([damaged + bytes(10_000)]))))
    assert [finding.verdict for finding in found] == [Verdict.skipped, Verdict.zeros]


def test_holes_cost_the_members_they_touch() -> None:
    file = pages(14, 6, 4000)
    begins = list(file.payloads)
    inside = begins[3] + 1000
    for begin, end, lost in ((inside, inside + 512, 1), (begins[2] - 9, begins[2] + 5, 2), (0, 4, 1), (0, 4096, 2)):
        pieces: list[bytes | Unreadable] = [file.data[:begin], Unreadable(end - begin), file.data[end:]]
        items = list(scan(pieces))
        assert_tiles(items, 0, len(file.data))
        assert_no_phantom(items, file)
        assert len(records(items)) == 6 - lost
        assert Verdict.unreadable in {finding.verdict for finding in findings(items)}


# bounds


def test_a_bomb_takes_no_memory() -> None:
    bomb = member(bytes(2**27), 9)
    assert len(bomb) < 2**17 + 2**14
    middle = len(bomb) // 2
    damaged = bomb[:middle] + random.Random(1).randbytes(20) + bomb[middle + 20 :]
    tracemalloc.start()
    try:
        assert list(scan(chunks(bomb), with_data=False)) == [Record(0, len(bomb), None)]
        assert list(scan(chunks(bomb))) == [Finding(0, len(bomb), Verdict.skipped)]
        assert not records(scan(chunks(damaged), with_data=False))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20 + 24 * 2**20  # what a wanted payload may take, before it is known to be too long


def test_a_long_member_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than what is kept to search it; behind it, and behind damage in it, others are found."""
    monkeypatch.setattr(gzip_members, "_BACK_BYTES", 2**20)
    rng = random.Random(15)
    long, next_one = member(rng.randbytes(3 * 2**20), 1), member(b"next " * 20)
    assert len(records(scan(chunks(long + next_one), with_data=False))) == 2
    for at in (5000, len(long) // 2, len(long) - 20):
        damaged = long[:at] + b"\xff" * 5 + long[at + 5 :]
        items = list(scan(chunks(damaged + next_one)))
        assert_tiles(items, 0, len(damaged) + len(next_one))
        assert [item.data for item in records(items)] == [b"next " * 20]
        assert {finding.verdict for finding in findings(items)} == {Verdict.skipped}
    torn = list(scan(chunks(long[:-9])))
    assert torn == [Finding(0, len(long) - 9, Verdict.torn)]


def test_a_wanted_payload_beyond_the_bound_is_skipped() -> None:
    data = member(b"a" * 5000) + member(b"b" * 50)
    items = list(scan([data], record_bytes_max=4999))
    assert [isinstance(item, Record) for item in items] == [False, True]
    assert all(isinstance(item, Record) for item in scan([data], record_bytes_max=5000))


def test_a_search_ends_though_every_place_begins_a_long_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers in the extra fields of headers: each begins a member of its own, that inflates much and then breaks."""
    monkeypatch.setattr(gzip_members, "_WORK_BYTES", 2**20)
    body = member(bytes(2**22), 9)[HEADER_BYTES:-TRAILER_BYTES]
    heads = header(FEXTRA, extra=b"") * 2000
    data = b"\xff" * 9 + heads + b"".join(header(0) + body for _ in range(20)) + b"\xff" * 9
    inflated_bytes = 0

    class Counting(gzip_members._Reading):
        def feed(self, piece: bytes) -> int:
            nonlocal inflated_bytes
            size = super().feed(piece)
            inflated_bytes += size
            return size

    monkeypatch.setattr(gzip_members, "_Reading", Counting)
    items = list(scan(chunks(data), with_data=False))
    assert_tiles(items, 0, len(data))
    assert records(items) == []
    assert inflated_bytes < 2000 * len(data)


# any bytes


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_any_bytes_tile(data: bytes, seed: int) -> None:
    for start in (b"", header(0), ALL_FIELDS):
        items = list(scan(cut(start + data, random.Random(seed))))
        assert_tiles(items, 0, len(start + data))
        recognised(start + data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_garbled_files_say_the_same_whatever_the_cuts(seed: int) -> None:
    rng = random.Random(seed)
    file = pristine(
        rng.choice((page(rng, 90), rng.randbytes(700), nested(rng, 2))) for _ in range(rng.randrange(1, 12))
    )
    damaged = garble(garble(file.data, rng) or b"x", rng)
    whole = list(scan([damaged]))
    assert_tiles(whole, 0, len(damaged))
    assert normal(scan(cut(damaged, rng))) == normal(whole)
    assert counted(gzip_members.verify(cut(damaged, rng))) == counted(whole)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_holes_give_no_phantoms(seed: int) -> None:
    rng = random.Random(seed)
    file = pristine(rng.choice((page(rng, 90), nested(rng, 2))) for _ in range(8))
    items = list(scan(with_a_hole(file.data, rng)))
    assert_tiles(items, 0, len(file.data))
    assert_no_phantom([item for item in items if not (isinstance(item, Record) and item.by_search)], file)


# telling the format


def test_files_are_recognised_where_their_start_is_damaged() -> None:
    file = pages(16, 40, 300)
    rng = random.Random(16)
    for garbage in (bytes(5000), rng.randbytes(5000), b"\x1f\x8b\x08\xff" * 100):
        assert recognised(garbage + file.data[len(garbage) :]) is gzip_members


def test_what_holds_members_is_no_gzip_file() -> None:
    file = pages(17, 3, 300)
    archive = io.BytesIO()
    padding = b"\0" * (-len(file.data) % 512)
    archive.write(b"page.gz".ljust(512, b"\0") + file.data + padding + b"page.txt".ljust(512, b"\0") + b"text\n" * 999)
    for data in (
        archive.getvalue(),
        b"text " * 30 + file.data + b"text",
        b"\x1f\x8b\x08",
        b"\x1f\x8b\x08\xff" * 99,
        b"",
    ):
        assert recognised(data) is not gzip_members


# the commands


def written(path: Path, file: PristineLog, *places: tuple[int, int]) -> bytes:
    data = file.data
    for place in places:
        data, _ = flip(data, *place)
    path.write_bytes(data)
    return data


def test_salvage_leaves_out_only_the_damaged_member(tmp_path: Path) -> None:
    path, out = tmp_path / "in.gz", tmp_path / "out.gz"
    file = pages(18, 30, 300)
    written(path, file, (list(file.payloads)[7] + 60, 2), (list(file.payloads)[20] + 90, 5))
    result = CliRunner().invoke(salvage, [str(path), str(out), "--max-lost", "10%"])
    assert (result.exit_code, "28 records intact" in result.output) == (0, True)
    payloads = list(file.payloads.values())
    expected = b"".join(payload for number, payload in enumerate(payloads) if number not in (7, 20))
    assert gzip.decompress(out.read_bytes()) == expected
    assert CliRunner().invoke(verify, [str(out)]).exit_code == 0


def test_repair_puts_trailers_and_headers_right(tmp_path: Path) -> None:
    path, out = tmp_path / "in.gz", tmp_path / "out.gz"
    file = pages(19, 10, 300)
    begins = list(file.payloads)
    damaged = written(path, file, (begins[2] - 3, 1), (begins[5] - 8, 0), (begins[7] + 1, 6), (begins[8] + 3, 4))
    result = CliRunner().invoke(locate, [str(path)])
    assert result.stdout.count("it flipped from") == 4
    result = CliRunner().invoke(repair, [str(path), str(out)])
    assert (result.exit_code, out.read_bytes() == file.data) == (0, True)
    assert path.read_bytes() == damaged
