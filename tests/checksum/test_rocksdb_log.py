"""RocksDB's recyclable record types: round trips, flips, files that are used again, and files by RocksDB itself."""

import os
import random
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from rocksdict import Options, Rdict

from checksum import leveldb_log
from checksum.commands import salvage, verify
from checksum.crc32c import crc32c, mask
from checksum.finding import Record, Verdict
from checksum.leveldb_log import BLOCK_BYTES, NUMBERED_HEADER_BYTES, encode, scan
from tests.checksum.faults import PristineLog, assert_no_phantom, assert_tiles, cut, findings, flip, flips, records

EDGE = BLOCK_BYTES - NUMBERED_HEADER_BYTES


def numbered(number: int, payloads: list[bytes]) -> PristineLog:
    data, begins = b"", {}
    for payload in payloads:
        room = leveldb_log.BLOCK_BYTES - len(data) % leveldb_log.BLOCK_BYTES
        begins[len(data) + (room if room < NUMBERED_HEADER_BYTES else 0)] = payload
        data += encode(payload, len(data), number)
    return PristineLog(data, begins)


def random_payloads(seed: int, lengths: list[int]) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(length) for length in lengths]


def test_a_record_by_hand() -> None:
    expected = struct.pack("<IHBI", mask(crc32c(b"\x05" + struct.pack("<I", 77) + b"hello")), 5, 5, 77) + b"hello"
    assert encode(b"hello", 0, 77) == expected
    assert encode(b"hello", BLOCK_BYTES - 10, 77) == bytes(10) + expected


@pytest.mark.parametrize("before", [0, 1, EDGE - 12, EDGE - 11, EDGE - 5, EDGE - 1, EDGE, EDGE + 1])
@pytest.mark.parametrize("length", [0, 1, EDGE, EDGE + 1, 100_000])
def test_round_trip_at_the_edges_of_blocks(before: int, length: int) -> None:
    log = numbered(9, random_payloads(1, [before, length, 5]))
    items = list(scan(cut(log.data, random.Random(before + length))))
    assert [item.data for item in records(items)] == list(log.payloads.values())
    assert_tiles(items, 0, len(log.data))
    assert len(items) == 3


def test_every_flipped_bit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leveldb_log, "BLOCK_BYTES", 128)
    log = numbered(300, random_payloads(2, [15, 0, 40, 200, 1, 9, 10, 27, 70, 5]))
    for offset_bytes in range(len(log.data)):
        for bit in range(8):
            damaged, truth = flip(log.data, offset_bytes, bit)
            items = list(scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, log)
            assert flips(items) == [truth]
            assert len(records(items)) >= len(log.payloads) - 1


# files that are used again


@pytest.mark.parametrize("old_length", [400, 411, 37, 5000])
@pytest.mark.parametrize("count", [1, 5, 60, 400])
def test_the_log_ends_where_an_older_one_begins(old_length: int, count: int) -> None:
    old = numbered(7, random_payloads(3, [old_length] * (300_000 // old_length)))
    new = numbered(9, random_payloads(4, [400] * count))
    items = list(scan([new.data + old.data[len(new.data) :]]))
    assert_tiles(items, 0, len(old.data))
    assert [item.data for item in records(items)] == list(new.payloads.values())
    assert {finding.verdict for finding in findings(items)} == {Verdict.stale}


def test_a_record_that_was_not_finished_before_the_older_log_is_torn() -> None:
    old = numbered(7, random_payloads(5, [20_000] * 20))
    new = numbered(9, random_payloads(6, [400, 100_000]))
    items = list(scan([new.data[: 2 * BLOCK_BYTES] + old.data[2 * BLOCK_BYTES :]]))
    assert [item.data for item in records(items)] == [new.payloads[0]]
    assert {finding.verdict for finding in findings(items)} == {Verdict.torn, Verdict.stale}


def test_damage_before_the_end_of_the_log_is_no_end_of_the_log() -> None:
    rng = random.Random(8)
    inner = numbered(3, random_payloads(9, [50] * 20)).data  # what a search in a damaged block would find
    log = numbered(9, [inner if number == 30 else rng.randbytes(1000) for number in range(200)])
    begin = list(log.payloads)[30]
    damaged = log.data[:begin] + b"\xff" * 11 + log.data[begin + 11 :]
    items = list(scan([damaged]))
    assert_tiles(items, 0, len(damaged))
    assert_no_phantom(items, log)
    assert {finding.verdict for finding in findings(items)} == {Verdict.skipped}
    assert len(records(items)) > 160


# RocksDB itself


@pytest.fixture
def recycled(tmp_path: Path) -> Path:
    """A log that RocksDB wrote into the file of an older one, and the older one is longer."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_recycle_log_file_num(4)
    database = Rdict(str(tmp_path / "database"), options)
    rng = random.Random(10)
    for turn in range(6):
        for number in range(50 if turn == 5 else 200):
            database[b"%d-%d" % (turn, number)] = rng.randbytes(rng.randrange(1800))
        if turn < 5:
            database.flush()
    database.flush_wal(True)
    path = tmp_path / "newest.log"
    path.write_bytes(max((tmp_path / "database").glob("*.log")).read_bytes())
    os.utime(path, (1_000_000_000, 1_000_000_000))
    database.close()
    return path


def test_a_log_by_rocksdb(tmp_path: Path, recycled: Path) -> None:
    data = recycled.read_bytes()
    items = list(scan([data]))
    assert_tiles(items, 0, len(data))
    kept = records(items)
    assert [bytes(key) in (item.data or b"") for key, item in zip(_keys(), kept[-50:], strict=True)] == [True] * 50
    assert {finding.verdict for finding in findings(items)} == {Verdict.stale}
    number = struct.unpack_from("<I", data, 7)[0]
    ours = b""
    for item in kept:
        assert item.data is not None
        ours += encode(item.data, len(ours), number)
    assert ours == data[: kept[-1].end]

    result = CliRunner().invoke(verify, [str(recycled)])
    assert (result.exit_code, "stale" in result.stdout) == (0, True)
    at = kept[20].begin + 30
    recycled.write_bytes(flip(data, at, 3)[0])
    result = CliRunner().invoke(verify, [str(recycled)])
    assert (result.exit_code, f"bit 3 of byte {at} is" in result.stdout) == (1, True)
    out = tmp_path / "out"
    assert CliRunner().invoke(salvage, [str(recycled), str(out), "--max-lost", "5%"]).exit_code == 0
    copied = list(scan([out.read_bytes()]))
    assert [item.data for item in copied if isinstance(item, Record)] == [
        item.data for item in kept if item is not kept[20]
    ]


def _keys() -> list[bytes]:
    return [b"5-%d" % number for number in range(50)]
