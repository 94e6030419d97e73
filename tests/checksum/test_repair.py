"""`flipwatch locate` and `flipwatch repair`: the right bit, only if it stays, never in the original."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from checksum import repair as repairing
from checksum.commands import locate, repair, verify
from checksum.files import direct_chunks, open_regular
from checksum.finding import Unreadable
from checksum.formats import FORMATS
from tests.checksum.faults import flip

WRITERS = [name for name, format in FORMATS.items() if format.encode]


def run(command: Any, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def written(path: Path, name: str, lengths: list[int]) -> tuple[bytes, list[int]]:
    rng = random.Random(1)
    data, begins = b"", []
    for length in lengths:
        begins.append(len(data))
        data += FORMATS[name].encode(rng.randbytes(length), len(data))
    path.write_bytes(data)
    return data, begins


def flipped(data: bytes, *places: tuple[int, int]) -> bytes:
    for place in places:
        data, _ = flip(data, *place)
    return data


@pytest.mark.parametrize("name", WRITERS)
def test_flipped_bits_are_put_right(tmp_path: Path, name: str) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    data, begins = written(path, name, [1000] * 90 + [50_000] + [20] * 10)
    damaged = flipped(data, (begins[3] + 1, 0), (begins[50] + 4, 7), (begins[70] + 500, 3), (begins[90] + 1000, 5))
    path.write_bytes(damaged)
    path.chmod(0o640)
    result = run(locate, path)
    assert result.exit_code == 1
    assert result.stdout.count("it flipped from") == 4
    way = "0 to 1" if damaged[begins[70] + 500] >> 3 & 1 else "1 to 0"
    assert f"of byte {begins[70] + 500} is" in result.stdout
    assert f"it flipped from {way}" in result.stdout
    document = json.loads(run(locate, "--json", path).stdout)
    assert [m["flip"]["offset_bytes"] for m in document["mismatches"] if m["flip"]] == [
        begins[3] + 1,
        begins[50] + 4,
        begins[70] + 500,
        begins[90] + 1000,
    ]
    if name == "tfrecord":  # one record of 50,000 bytes under one checksum
        result = run(repair, path, out)
        assert result.exit_code == 1
        assert "refused bytes" in result.stdout
        assert "above 1e-04" in result.stdout
        assert out.read_bytes() == flipped(data, (begins[90] + 1000, 5))
        return
    result = run(repair, path, out)
    assert result.exit_code == 0
    assert result.stdout.count("wrong with a chance of") == 5
    assert out.read_bytes() == data
    assert out.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes() == damaged
    assert run(verify, out).exit_code == 0
    assert run(locate, out).stdout == "0 mismatches, 0 explained by one bit\n"


@pytest.mark.parametrize("name", WRITERS)
def test_what_no_single_bit_explains_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    data, begins = written(path, name, [1000] * 20)
    both = (begins[5] + 100, 1), (begins[5] + 200, 2)
    path.write_bytes(flipped(data, *both))
    assert "no single bit explains it" in run(locate, path).stdout
    result = run(repair, path, out)
    assert (result.exit_code, out.exists()) == (1, False)
    assert "nothing in" in result.stderr
    path.write_bytes(flipped(data, *both, (begins[9] + 99, 0)))
    result = run(repair, path, out)
    assert (result.exit_code, "remaining bytes" in result.stdout) == (1, True)
    assert out.read_bytes() == flipped(data, *both)


def test_a_flip_that_is_gone_when_read_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    data, begins = written(path, "tfrecord", [1000] * 5)
    path.write_bytes(flipped(data, (begins[2] + 100, 1)))

    def sound(_fd: int, begin: int, end: int) -> Iterator[bytes]:
        yield data[begin:end]

    monkeypatch.setattr(repairing, "direct_chunks", sound)
    result = run(repair, path, out)
    assert (result.exit_code, "it was not there when read again" in result.stdout) == (1, True)
    assert not out.exists()


@pytest.mark.parametrize("second", ["the flip is gone", "another flip", "unreadable"])
def test_a_file_that_reads_differently_is_not_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    data, begins = written(path, "leveldb-log", [1000] * 5)
    damaged = flipped(data, (begins[2] + 100, 1))
    path.write_bytes(damaged)
    copies: dict[str, list[bytes | Unreadable]] = {
        "the flip is gone": [data],
        "another flip": [flipped(damaged, (begins[2] + 200, 1))],
        "unreadable": [damaged[:100], Unreadable(len(data) - 100)],
    }
    reads = iter(([damaged], copies[second]))
    monkeypatch.setattr(repairing, "read_chunks", lambda *_: iter(next(reads)))
    result = run(repair, path, out)
    assert (result.exit_code, len(result.stderr.splitlines()), out.exists()) == (2, 1, False)
    assert ("reads differently" in result.stderr) == (second != "unreadable")


def test_trouble_is_one_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("plain text")
    for command, args in ((locate, [text]), (locate, [tmp_path / "absent"]), (repair, [text, tmp_path / "out"])):
        result = run(command, *args)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    written(tmp_path / "log", "leveldb-log", [10])
    result = run(repair, tmp_path / "log", tmp_path / "log", "--force")
    assert (result.exit_code, "itself" in result.stderr) == (2, True)


def test_reading_past_the_cache_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = random.Random(2).randbytes(3 * 2**20 + 777)
    path.write_bytes(data)
    fd = open_regular(path, follow=False)
    try:
        os.fsync(fd)
        for begin, end in ((0, len(data)), (5000, 5001), (4096, 2**20), (len(data) - 1, len(data)), (7, 2**21 + 9)):
            pieces = list(direct_chunks(fd, begin, end))
            assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == data[begin:end]
    finally:
        os.close(fd)
