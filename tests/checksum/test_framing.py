"""Declared framings: files by other writers, every flip and cut of small ones, the traps of searching, any bytes."""

import random
import struct
import subprocess
import sys
from array import array
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfrecord.writer import TFRecordWriter

from checksum import _crc32c, tfrecord
from checksum.commands import locate, repair, salvage, verify
from checksum.finding import Record, Unreadable, Verdict, merge
from checksum.framing import Framing
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
    records,
    with_a_hole,
)
from tests.checksum.framings import DECLARED, STRONG, framing

ALL = list(DECLARED)
SMALL = [15, 1, 40, 200, 2, 9, 64, 27]


def random_file(name: str, seed: int, lengths: list[int]) -> PristineLog:
    rng = random.Random(seed)
    return DECLARED[name].file(rng.randbytes(length) for length in lengths)


def reader(data: bytes):
    return lambda offset, length: data[offset : offset + length]


def uncovered(declared: Framing, file: PristineLog) -> set[int]:
    """The bytes of the file that nothing tells anything about."""
    declaration = declared.declaration
    known = {declaration.length, declaration.sum, *declaration.covers}
    opaque = [
        declaration.places[field.name]
        for field in declaration.header
        if field.name not in known and field.constant is None
    ]
    found = {begin + at for begin in file.payloads for place in opaque for at in range(place.start, place.stop)}
    for begin, payload in file.payloads.items():
        end = begin + declaration.header_bytes + len(payload) + declaration.trailer_bytes
        found |= set(range(end, end + (begin - end) % declaration.align_bytes))
    return found


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 255) | st.integers(1, 60_000), max_size=12), st.integers(0, 2**32))
def test_what_others_write_is_read_with_any_cuts(name: str, lengths: list[int], seed: int) -> None:
    declared = framing(name)
    file = random_file(name, seed, [min(length, DECLARED[name].payload_bytes_max) for length in lengths])
    rng = random.Random(seed)
    items = list(declared.scan(cut(file.data, rng)))
    assert_tiles(items, 0, len(file.data))
    assert [item.data for item in records(items)] == list(file.payloads.values())
    assert not any(item.by_search for item in records(items))
    assert counted(declared.verify(cut(file.data, rng))) == counted(items)
    if declared.encode is not None:
        assert b"".join(declared.encode(payload, 0) for payload in file.payloads.values()) == file.data


@pytest.mark.parametrize("name", STRONG)
def test_every_flipped_bit_is_named_and_costs_its_record(name: str) -> None:
    declared, file = framing(name), random_file(name, 7, SMALL)
    blind = uncovered(declared, file)
    for offset_bytes in range(len(file.data)):
        for bit in range(8):
            damaged, truth = flip(file.data, offset_bytes, bit)
            items = list(declared.scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, file)
            expected = ([], len(SMALL)) if offset_bytes in blind else ([truth], len(SMALL) - 1)
            assert (flips(items), len(records(items))) == expected, (offset_bytes, bit)


@pytest.mark.parametrize("name", ["radio", "medium", "tiny"])
def test_under_weak_sums_every_flip_costs_its_record(name: str) -> None:
    declared, file = framing(name), random_file(name, 7, SMALL)
    named = 0
    for offset_bytes in range(len(file.data)):
        for bit in range(8):
            damaged, truth = flip(file.data, offset_bytes, bit)
            items = list(declared.scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, file)
            assert flips(items) in ([], [truth])
            named += flips(items) == [truth]
            assert len(records(items)) >= len(SMALL) - 2
    assert named > {"radio": 0.5, "medium": 0.99, "tiny": 0.01}[name] * 8 * len(file.data)


@pytest.mark.parametrize("name", ALL)
def test_every_cut_is_torn_and_costs_only_what_was_cut(name: str) -> None:
    declared, file = framing(name), random_file(name, 8, SMALL)
    ends = [*list(file.payloads)[1:], len(file.data)]
    align = declared.declaration.align_bytes
    for size in range(len(file.data)):
        items = list(declared.scan([file.data[:size]]))
        assert_tiles(items, 0, size)
        assert_no_phantom(items, file)
        assert len(records(items)) in (sum(end <= size for end in ends), sum(end < size + align for end in ends))
        assert {finding.verdict for finding in findings(items)} <= {Verdict.torn, Verdict.zeros}


@pytest.mark.parametrize("name", STRONG)
def test_a_lost_header_costs_one_record_and_a_nested_file_is_no_surprise(name: str) -> None:
    """Where a trailer ends the record, what is nested in its payload is never returned; else it is marked."""
    declared, rng = framing(name), random.Random(name)
    nested = b"".join(DECLARED[name].write(rng.randbytes(size)) for size in (30, 50, 20))
    file = DECLARED[name].file([nested, rng.randbytes(70), nested, b"x" * 40])
    declaration = declared.declaration
    for victim, begin in enumerate(file.payloads):
        garbage = b"\xff" * declaration.header_bytes
        damaged = file.data[:begin] + garbage + file.data[begin + len(garbage) :]
        items = list(declared.scan(cut(damaged, rng)))
        assert_tiles(items, 0, len(damaged))
        surely = [item for item in records(items) if not item.by_search]
        assert [item.data for item in surely] == list(file.payloads.values())[:victim]
        found = [item.data for item in records(items) if item.by_search]
        assert found[len(found) - 3 + victim :] == list(file.payloads.values())[victim + 1 :]
        if declaration.trailer:
            assert_no_phantom(items, file)


@pytest.mark.parametrize("name", STRONG)
def test_more_flips_in_one_record_cost_only_it(name: str) -> None:
    declared, file = framing(name), random_file(name, 9, [500] * 5)
    rng = random.Random(9)
    begin = list(file.payloads)[2] + declared.declaration.header_bytes
    for _ in range(200):
        damaged = file.data
        for at in rng.sample(range(begin * 8, (begin + 500) * 8), 2):
            damaged, _ = flip(damaged, at // 8, at % 8)
        items = list(declared.scan([damaged]))
        assert len(records(items)) == 4 and not any(item.by_search for item in records(items))
        if declared.declaration.crc.keeps_parity:
            assert [finding.verdict for finding in findings(items)] == [Verdict.skipped]


@pytest.mark.parametrize("name", ALL)
def test_zeros_are_no_records(name: str) -> None:
    declared, file = framing(name), random_file(name, 13, [200] * 6)
    middle = list(file.payloads)[3]
    for data, count in ((file.data + bytes(3 * 2**20), 6), (file.data[:middle] + bytes(999) + file.data[middle:], 6)):
        items = list(declared.scan([data]))
        assert [finding.verdict for finding in merge(findings(items))] == [Verdict.zeros]
        assert len(records(items)) == count
    assert [item.verdict for item in merge(findings(declared.scan([bytes(5000)])))] == [Verdict.zeros]


@pytest.mark.parametrize("name", STRONG)
def test_holes_cost_the_records_they_touch(name: str) -> None:
    declared, file = framing(name), random_file(name, 12, [5000, 100, 100, 5000, 100, 5000])
    begins = list(file.payloads)
    inside = begins[3] + 1000
    for begin, end, lost in ((inside, inside + 512, 1), (begins[1] + 3, begins[2] + 3, 2), (0, 4096, 1)):
        chunks: list[bytes | Unreadable] = [file.data[:begin], Unreadable(end - begin), file.data[end:]]
        items = list(declared.scan(chunks))
        assert_tiles(items, 0, len(file.data))
        assert_no_phantom(items, file)
        assert len(records(items)) == 6 - lost
        assert Verdict.unreadable in {finding.verdict for finding in findings(items)}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(12))
def test_garbled_files_give_no_phantoms_whatever_the_cuts(name: str, seed: int) -> None:
    declared, rng = framing(name), random.Random(seed)
    longest = min(DECLARED[name].payload_bytes_max, 6000)
    file = random_file(name, seed, [min(longest, rng.choice((1, 20, 300, 6000))) for _ in range(60)])
    damaged = file.data
    for _ in range(rng.randrange(1, 4)):
        damaged = garble(damaged, rng)
    chunks = with_a_hole(damaged, rng) if seed % 4 == 0 else cut(damaged, rng)
    items = list(declared.scan(chunks, with_data=False))
    assert_tiles(items, 0, len(damaged))
    if seed % 4:
        whole = list(declared.scan([damaged]))
        assert [*merge(findings(whole))] == [*merge(findings(items))]
        assert [(r.begin, r.end, r.by_search) for r in records(whole)] == [
            (r.begin, r.end, r.by_search) for r in records(items)
        ]
        if name in STRONG:
            assert_no_phantom(whole, file)
    assert counted(declared.verify(chunks)) == counted(items)
    begin = rng.choice(items).end
    behind = list(declared.verify(chunks, begin=begin))
    assert_tiles(behind, begin, len(damaged))
    assert counted(behind) == counted(item for item in items if item.end > begin)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("in_c", [True, False])
def test_counting_says_what_scanning_says(name: str, in_c: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    declared, rng = framing(name), random.Random(name)
    assert declared._plan is not None, "every framing has its way in C"
    file = random_file(name, 30, [rng.choice((1, 20, 200)) for _ in range(300)])
    if not in_c:
        monkeypatch.setitem(vars(declared), "_plan", None)
    for _ in range(15):
        damaged = flip(file.data, rng.randrange(len(file.data)), rng.randrange(8))[0]
        chunks = cut(damaged, rng)
        items = list(declared.verify(chunks))
        assert_tiles(items, 0, len(damaged))
        assert counted(items) == counted(declared.scan(chunks, with_data=False))


@pytest.mark.parametrize("name", ALL)
def test_the_walk_minds_the_end_of_its_buffer(name: str) -> None:
    walk, record = partial(_crc32c.framing_walk, framing(name)._plan), DECLARED[name].write(b"payload")
    run = partial(_crc32c.framing_run, framing(name)._plan)
    for size in range(len(record) + 1):
        for position in range(size + 1):
            expected = (len(record), 1) if (size, position) == (len(record), 0) else (position, 0)
            assert walk(record[:size], position, 0) == expected
            found = run(record[:size], position, 1000, 7, 9)
            assert found == ([(1000, 1000 + len(record), b"payload")] if expected[1] else [])
    assert run(record * 5, 0, 0, 6, 3) == [(at * len(record), (at + 1) * len(record), None) for at in range(3)]
    for position in (-1, len(record) + 1):
        with pytest.raises(ValueError, match="position"):
            walk(record, position, 0)
        with pytest.raises(ValueError, match="position"):
            run(record, position, 0, 0, 1)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**32))
def test_checksums_in_c_are_those_of_other_writers(name: str, length: int, seed: int) -> None:
    payload = random.Random(seed).randbytes(min(length, DECLARED[name].payload_bytes_max))
    record = DECLARED[name].write(payload)
    plan, header_bytes = framing(name)._plan, framing(name).declaration.header_bytes
    assert _crc32c.framing_walk(plan, record, 0, 0) == (len(record), 1)
    damaged, _ = flip(record, header_bytes + seed % len(payload), seed % 8)
    assert _crc32c.framing_walk(plan, damaged, 0, 0) == (0, 0)


def test_a_plan_that_makes_no_sense_is_refused() -> None:
    numbers = array("Q", framing("pagestore")._plan_numbers())
    assert _crc32c.framing_plan(numbers) is not None
    for at, value in ((0, 2**40), (2, 0), (3, 8), (4, 9), (6, 2**63), (7, 8), (8, 0), (15, 32), (17, 99), (19, 11)):
        with pytest.raises(ValueError, match="no plan"):
            _crc32c.framing_plan(array("Q", [*numbers[:at], value, *numbers[at + 1 :]]))
    for wrong in (b"", b"x", numbers[:10], numbers[:-1]):
        with pytest.raises(ValueError, match="no plan"):
            _crc32c.framing_plan(wrong)
    with pytest.raises(ValueError, match="PyCapsule"):
        _crc32c.framing_walk(None, b"", 0, 0)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_any_bytes_tile(name: str, data: bytes, seed: int) -> None:
    declared = framing(name)
    items = list(declared.scan(cut(data, random.Random(seed))))
    assert_tiles(items, 0, len(data))
    assert isinstance(declared.recognises(reader(data), len(data)), bool)


def test_a_search_ends_though_every_byte_begins_a_long_record(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = framing("bare")
    data = b"\xff" * 20 + struct.pack("<I", 90_000) * 100_000
    done_bytes, compute = 0, declared.declaration.crc.compute

    def counting(part: memoryview | bytes, crc: int = 0) -> int:
        nonlocal done_bytes
        done_bytes += len(part)
        return compute(part, crc)

    monkeypatch.setitem(vars(declared.declaration.crc), "compute", counting)
    items = list(declared.scan([data]))
    assert_tiles(items, 0, len(data))
    assert records(items) == []
    assert len(data) < done_bytes < 200 * len(data)


def test_a_wanted_record_beyond_the_bound_is_skipped() -> None:
    file = random_file("bare", 15, [100, 5000, 50])
    items = list(framing("bare").scan([file.data], record_bytes_max=4999))
    assert [isinstance(item, Record) for item in items] == [True, False, True]
    assert all(isinstance(item, Record) for item in framing("bare").scan([file.data], record_bytes_max=5000))


@pytest.mark.parametrize("name", ALL)
def test_recognition(name: str) -> None:
    declared, file = framing(name), random_file(name, 17, [200] * 300)
    assert declared.recognises(reader(file.data), len(file.data))
    late = b"\xff" * 1000 + file.data[1000:]
    assert declared.recognises(reader(late), len(late))
    for other in (random.Random(1).randbytes(100_000), bytes(100_000), b"", b"text\n" * 1000):
        assert not declared.recognises(reader(other), len(other))


@pytest.mark.parametrize("name", STRONG)
def test_a_scan_goes_on_where_one_ended(name: str) -> None:
    declared, file = framing(name), random_file(name, 18, [500] * 30)
    begins = list(file.payloads)
    damaged = flip(file.data, begins[12] + 100, 3)[0]
    whole = list(declared.scan([damaged]))
    for number in (5, 12, 13, 29):
        begin = declared.resume_offset(begins[number], True)
        assert list(declared.scan([damaged[begin:]], offset=begin)) == whole[number:]
    assert declared.resume_offset(begins[9], False) == 0


# the commands


def declare(tmp_path: Path, name: str) -> list[str]:
    text = DECLARED[name].toml
    path = tmp_path / "framing.toml"
    path.write_text(text if "[framing]" in text else f'[framing]\nname = "{name}"\n{text}')
    return ["--framing", str(path)]


def test_a_file_by_another_writer(tmp_path: Path) -> None:
    path, out = tmp_path / "train.tfrecord", tmp_path / "out"
    writer = TFRecordWriter(str(path))
    rng = random.Random(19)
    for number in range(300):
        writer.write({"image": (rng.randbytes(rng.randrange(3000)), "byte"), "label": (number, "int")})
    writer.close()
    data = path.read_bytes()
    begins = [item.begin for item in tfrecord.scan([data])]
    damaged, truth = flip(data, begins[100] + 2, 6)
    path.write_bytes(flip(damaged, begins[200] + 40, 0)[0])
    options = declare(tmp_path, "tfrecord-like")
    result = CliRunner().invoke(verify, [str(path), *options])
    assert result.exit_code == 1 and "tfrecord-like" in result.stdout  # the declared one is tried first
    assert f"bit 6 of byte {truth.offset_bytes} is {truth.stored}" in result.stdout
    by_name = CliRunner().invoke(verify, [str(path), *options, "--format", "tfrecord", "--json"])
    assert '"format": "tfrecord"' in by_name.stdout
    result = CliRunner().invoke(salvage, [str(path), str(out), "--max-lost", "5%", *options])
    assert result.exit_code == 0, result.output
    ends = [*begins[1:], len(data)]
    kept = [data[begin:end] for begin, end in zip(begins, ends, strict=True) if begin not in (begins[100], begins[200])]
    assert out.read_bytes() == b"".join(kept)


def test_repair_puts_right_what_crc_32c_tells_and_nothing_else(tmp_path: Path) -> None:
    for name, is_repaired in (("pagestore", True), ("bare", True), ("wide", False), ("kafka", False)):
        path, out = tmp_path / name, tmp_path / f"{name}.out"
        file = random_file(name, 20, [300] * 9)
        path.write_bytes(flip(file.data, 1000, 5)[0])
        options = [*declare(tmp_path, name), "--format", name]
        result = CliRunner().invoke(locate, [str(path), *options])
        assert result.exit_code == 1 and "bit 5 of byte 1000" in result.stdout
        result = CliRunner().invoke(repair, [str(path), str(out), *options])
        assert result.exit_code == (0 if is_repaired else 1), result.output
        assert out.exists() == is_repaired
        if is_repaired:
            assert out.read_bytes() == file.data
        else:
            assert "for CRC-32C only" in result.stdout


def test_a_declaration_that_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    path, file = tmp_path / "framing.toml", tmp_path / "file"
    file.write_bytes(b"x")
    path.write_text("[framing]\nname = 'x'\n")
    result = CliRunner().invoke(verify, [str(file), "--framing", str(path)])
    assert result.exit_code == 2 and f"{path}: [framing]: the key 'header' is missing" in result.stderr
    result = CliRunner().invoke(verify, [str(file), "--format", "pagestore"])
    assert result.exit_code == 2 and "'pagestore' is no known format; known are auto, leveldb-log" in result.stderr


def test_a_slow_crcmod_is_told_once_where_it_matters(tmp_path: Path) -> None:
    """In a process of its own, where crcmod doesn't find its extension."""
    program = "import sys; sys.modules['crcmod._crcfunext'] = None; from flipwatch import main; main()"
    for name, times in (("wide", 1), ("kafka", 0)):
        path, file = tmp_path / name, random_file(name, 21, SMALL)
        path.write_bytes(flip(file.data, len(file.data) - 9, 2)[0])
        command = [sys.executable, "-c", program, "verify", str(path), *declare(tmp_path, name)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 1 and "bit 2 of byte" in result.stdout, result.stderr
        assert result.stderr.count("crcmod has no C extension here") == times
