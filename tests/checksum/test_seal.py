"""`flipwatch seal`: what has rotted, what is suspect, what was merely changed."""

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from checksum import diagnose
from checksum import seal as sealing
from checksum import verify as verifying
from checksum.commands import locate, repair, seal, verify
from checksum.files import open_regular
from checksum.finding import Finding, Flip, Layer, Unreadable, Verdict
from checksum.leveldb_log import encode
from checksum.seal import PART_BYTES, State, path_for
from checksum.verify import verify_sealed
from tests.checksum.faults import flip, write_back

SIZES = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 20 * PART_BYTES + 333]


def run(command: Any, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def sealed(path: Path, size: int, *options: str) -> bytes:
    data = random.Random(size).randbytes(size)
    path.write_bytes(data)
    assert run(seal, path, *options).exit_code == 0
    time.sleep(0.02)  # the kernel's times of files move in ticks, so that a change at once may not show in them
    return data


@dataclass(frozen=True)
class Verified:
    """What a file is against its seal; `parts` are the intact ones."""

    state: State | None
    parts: int
    findings: tuple[Finding, ...]


def compared(
    path: Path, monkeypatch: pytest.MonkeyPatch | None = None, pace: Callable[[int], None] = lambda _size: None
) -> Verified:
    """What the seal says; with a monkeypatch, as if nobody had touched the file since it was sealed."""
    if monkeypatch is not None:
        monkeypatch.setattr(sealing.Seal, "state_of", lambda _seal, _status: State.rotted)
    fd = open_regular(path, follow=False)
    try:
        report = verify_sealed(fd, path, time.time(), pace)
        assert report.corrupt == report.findings
        return Verified(report.seal, report.records, report.findings)
    finally:
        os.close(fd)


def rewrite(path: Path, data: bytes) -> None:
    """New content in the same file with the same time of modification: only the inode's change time tells."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("size", SIZES)
def test_an_intact_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    sealed(path, size)
    assert compared(path) == Verified(State.intact, max(1, -(-size // PART_BYTES)), ())
    assert run(verify, path).exit_code == 0
    assert run(verify, tmp_path).exit_code == 0  # the seal is a log, and verified as one
    path.touch()
    assert compared(path).state is State.changed
    assert run(verify, path).exit_code == 2


def test_rot_is_named_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    data = sealed(path, 5 * PART_BYTES + 1000)
    damaged, first = flip(data, 2 * PART_BYTES + 77, 6)
    damaged, second = flip(damaged, len(data) - 1, 0)
    garbled = damaged[:10] + b"garbage" + damaged[17:]
    path.write_bytes(garbled)
    verified = compared(path, monkeypatch)
    assert (verified.state, verified.parts) == (State.rotted, 3)
    assert [(f.begin, f.end, f.verdict, f.flip) for f in verified.findings] == [
        (0, PART_BYTES, Verdict.skipped, None),
        (2 * PART_BYTES, 3 * PART_BYTES, Verdict.flipped, first),
        (5 * PART_BYTES, len(data), Verdict.flipped, second),
    ]
    result = run(verify, path)
    assert (result.exit_code, "has rotted" in result.stdout) == (1, True)


def test_the_layer_of_damage_is_told(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = disk / "file"
    data = sealed(path, 5 * PART_BYTES + 1000)
    monkeypatch.setattr(diagnose, "WRITTEN_BACK_S", 0)
    read = verifying.read_views

    def flipping(fd: int, begin: int, end: int, buffer: bytearray) -> Iterator[memoryview | Unreadable]:
        for piece in read(fd, begin, end, buffer):
            piece[len(data) - 1] ^= 1
            yield piece

    with monkeypatch.context() as patch:
        patch.setattr(verifying, "read_views", flipping)
        verified = compared(path)
        assert (verified.state, verified.parts) == (State.intact, 5)
        (finding,) = verified.findings
        assert (finding.verdict, finding.layer) == (Verdict.transient, Layer.buffer)
        assert run(verify, path).exit_code == 1
    assert compared(path).findings == ()
    path.write_bytes(flip(data, 3 * PART_BYTES, 0)[0])
    write_back(path)
    verified = compared(path, monkeypatch)
    assert verified.state is State.rotted
    assert [finding.layer for finding in verified.findings] == [Layer.disk]


def test_every_bit_of_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    data = sealed(path, 40)
    for at in range(40):
        for bit in range(8):
            damaged, truth = flip(data, at, bit)
            path.write_bytes(damaged)
            (finding,) = compared(path, monkeypatch).findings
            assert finding.flip == truth == Flip(at, bit, truth.stored)


def test_the_state_follows_from_what_the_file_system_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = sealed(path, 1000)
    stored = sealing.read(path_for(path))
    assert stored.state_of(path.stat()) is State.rotted
    damaged, _ = flip(data, 500, 1)
    rewrite(path, damaged)
    assert compared(path).state is State.suspect  # a restored copy, or rot and then a chmod: nobody can say
    result = run(verify, path)
    assert (result.exit_code, "is suspect" in result.stdout) == (1, True)
    rewrite(path, data)
    assert compared(path).state is State.intact
    path.write_bytes(data + b"x")
    assert compared(path).state is State.changed
    result = run(verify, "--json", path)
    assert (result.exit_code, '"seal": "changed"' in result.stdout) == (2, True)
    assert "1 changed since sealed, not verified" in run(verify, path).stderr


def test_a_difference_that_no_part_shows_is_told_by_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    sealed(path, 3 * PART_BYTES)
    sealing.write(path_for(path), replace(sealing.read(path_for(path)), sha256="0" * 64))
    assert compared(path) == Verified(
        State.rotted, 0, (Finding(0, 3 * PART_BYTES, Verdict.skipped, layer=Layer.unknown),)
    )


def test_locate_and_repair_go_by_the_seal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = sealed(path, 5000)
    rewrite(path, flip(data, 3000, 4)[0])
    result = run(locate, path)
    assert (result.exit_code, "bit 4 of byte 3000" in result.stdout) == (1, True)
    assert run(repair, path, tmp_path / "out").exit_code == 0
    assert (tmp_path / "out").read_bytes() == data
    path.write_bytes(data + b"x")
    assert "no known format" in run(locate, path).stderr
    path_for(path).write_bytes(b"")
    assert "is damaged" in run(locate, path).stderr


def test_a_changed_file_is_judged_by_its_own_records(tmp_path: Path) -> None:
    path = tmp_path / "log"
    data = b"".join(encode(b"x" * 100, 107 * number) for number in range(9))
    path.write_bytes(data)
    assert run(seal, path).exit_code == 0
    path.write_bytes(data + encode(b"y" * 100, len(data)))
    result = run(verify, path)
    assert (result.exit_code, "leveldb-log" in result.stdout) == (0, True)


def test_what_only_grows_is_compared_as_far_as_it_was_sealed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = sealed(path, 3 * PART_BYTES + 500, "--append-only")
    path.write_bytes(data + b"more" * 50_000)
    assert compared(path) == Verified(State.intact, 4, ())
    path.write_bytes(flip(data, PART_BYTES + 5, 2)[0] + b"more")
    assert [(f.begin, f.verdict) for f in compared(path).findings] == [(PART_BYTES, Verdict.flipped)]
    assert run(verify, path).exit_code == 1
    path.write_bytes(data[: 2 * PART_BYTES + 9])
    verified = compared(path)
    assert verified.state is State.rotted
    assert [finding.verdict for finding in verified.findings] == [Verdict.torn]
    assert verified.findings[-1].end == len(data)


def test_a_file_has_its_seal_until_told_otherwise(tmp_path: Path) -> None:
    sealed(tmp_path / "a", 100)
    before = path_for(tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"b")
    result = run(seal, tmp_path)
    assert (result.exit_code, result.stdout) == (0, "1 sealed, 1 kept the seal they had\n")
    assert path_for(tmp_path / "a").read_bytes() == before
    assert run(seal, "--again", tmp_path).stdout == "2 sealed, 0 kept the seal they had\n"
    assert run(verify, tmp_path).exit_code == 0
    assert len(list(tmp_path.iterdir())) == 4


def test_no_flipped_bit_of_a_seal_is_taken_for_a_seal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    sealed(path, 10)
    beside = path_for(path)
    good = beside.read_bytes()
    for at in range(len(good)):
        beside.write_bytes(flip(good, at, at % 8)[0])
        with pytest.raises(sealing.SealDamaged):
            sealing.read(beside)
    result = run(verify, path)
    assert (result.exit_code, "its seal is damaged" in result.stderr) == (2, True)
    for content in (b"", good[:-3], encode(b"[]", 0), encode(b"{", 0), encode(b'{"version": 1}', 0), good + good):
        beside.write_bytes(content)
        with pytest.raises(sealing.SealDamaged):
            sealing.read(beside)


def test_a_file_written_while_it_is_read_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    data = sealed(path, 3 * PART_BYTES)
    verified = compared(path, pace=lambda _size: rewrite(path, flip(data, 2 * PART_BYTES, 0)[0]))
    assert verified == Verified(State.changed, 0, ())
    fd = open_regular(path, follow=False)
    try:
        real = sealing.read_chunks

        def writing(*args: Any) -> Any:
            for chunk in real(*args):
                path.write_bytes(data + b"x")
                yield chunk

        monkeypatch.setattr(sealing, "read_chunks", writing)
        with pytest.raises(sealing.ChangedMeanwhile):
            sealing.make(fd)
    finally:
        os.close(fd)
    result = run(seal, "--again", path)
    assert (result.exit_code, "seal it when it is at rest" in result.stderr) == (2, True)


def test_trouble_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "absent", tmp_path / "pipe"):
        result = run(seal, path)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
