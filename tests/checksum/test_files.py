"""Reading real files, pipes, links and bytes that really fail with EIO; recognising and replacing files."""

import ctypes
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from checksum import leveldb_log
from checksum.durable import fsync_directory, replace_file
from checksum.files import (
    HOLE_BYTES_MIN,
    PAGE_BYTES,
    NotRegular,
    is_hole,
    open_regular,
    read_chunks,
    read_views,
    reader_at,
    spans,
)
from checksum.finding import Unreadable
from checksum.formats import recognise
from checksum.leveldb_log import BLOCK_BYTES, encode
from tests.checksum.faults import random_flip

PAGES = 32


@pytest.fixture
def pages_with_holes() -> Iterator[tuple[int, int]]:
    """(fd, offset) of PAGES pages of which numbers 5, 6 and 20 fail with EIO: memory that isn't there."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    read_write, private_anonymous = 3, 0x22
    address = libc.mmap(None, PAGES * PAGE_BYTES, read_write, private_anonymous, -1, 0)
    ctypes.memset(address, 0x5A, PAGES * PAGE_BYTES)
    for page in (5, 6, 20):
        assert libc.munmap(address + page * PAGE_BYTES, PAGE_BYTES) == 0
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    yield fd, address
    os.close(fd)
    libc.munmap(address, PAGES * PAGE_BYTES)


@pytest.mark.parametrize("chunk_bytes", [1000, PAGE_BYTES, 3 * PAGE_BYTES, 2**20])
def test_a_failing_disk_costs_only_the_pages_that_fail(pages_with_holes: tuple[int, int], chunk_bytes: int) -> None:
    fd, begin = pages_with_holes
    pieces = list(read_chunks(fd, begin + 10, begin + PAGES * PAGE_BYTES - 10, chunk_bytes))
    position, holes = 10, set()
    for piece in pieces:
        length = piece.length if isinstance(piece, Unreadable) else len(piece)
        assert 0 < length <= max(chunk_bytes, PAGE_BYTES)
        if isinstance(piece, Unreadable):
            holes |= set(range(position, position + length))
        else:
            assert piece == b"\x5a" * length
        position += length
    assert position == PAGES * PAGE_BYTES - 10
    assert holes == {*range(5 * PAGE_BYTES, 7 * PAGE_BYTES), *range(20 * PAGE_BYTES, 21 * PAGE_BYTES)}


def test_a_sample_ends_where_the_disk_fails(pages_with_holes: tuple[int, int]) -> None:
    fd, begin = pages_with_holes
    assert reader_at(fd)(begin, BLOCK_BYTES) == b"\x5a" * (5 * PAGE_BYTES)


def test_reading_ends_where_the_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = random.Random(1).randbytes(10_000)
    path.write_bytes(data)
    fd = open_regular(path, follow=False)
    try:
        assert b"".join(p for p in read_chunks(fd, 100, 50_000, 999) if isinstance(p, bytes)) == data[100:]
        assert list(read_chunks(fd, 10_000, 20_000)) == []
        assert list(read_chunks(fd, 5, 5)) == []
    finally:
        os.close(fd)


def test_another_error_is_raised(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            list(read_chunks(fd, 0, 10))
    finally:
        os.close(fd)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it for reading would wait for a writer
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", tmp_path, Path("/dev/zero")):
            for follow in (True, False):
                with pytest.raises(NotRegular, match="not a regular file"):
                    open_regular(path, follow=follow)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent", follow=True)


def test_a_link_is_followed_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    fd = open_regular(tmp_path / "link", follow=True)
    assert os.read(fd, 10) == b"content"
    os.close(fd)
    with pytest.raises(NotRegular):
        open_regular(tmp_path / "link", follow=False)


def test_the_access_time_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, (1_000_000, 2_000_000))  # relatime would update an access older than the modification
    fd = open_regular(path, follow=False)
    assert list(read_chunks(fd, 0, 7)) == [b"content"]
    os.close(fd)
    assert path.stat().st_atime == 1_000_000


# recognising


def _read_at(data: bytes):  # type: ignore[no-untyped-def]
    return lambda offset, length: data[offset : offset + length]


def test_a_log_is_recognised_wherever_it_is_damaged() -> None:
    rng = random.Random(2)
    data = b""
    while len(data) < 20 * BLOCK_BYTES:
        data += encode(rng.randbytes(900), len(data))
    for damaged in (
        data,
        random_flip(data[:5], rng)[0] + data[5:],
        b"\xff" * BLOCK_BYTES + data[BLOCK_BYTES:],
        bytes(10 * BLOCK_BYTES) + data[10 * BLOCK_BYTES :],
        data[:-400],
    ):
        assert recognise(_read_at(damaged), len(damaged)) is leveldb_log


def test_other_files_are_not_recognised() -> None:
    rng = random.Random(3)
    for data in (b"", b"x", bytes(100_000), b"plain text\n" * 9000, rng.randbytes(500_000)):
        assert recognise(_read_at(data), len(data)) is None


def test_recognition_reads_little_of_a_large_file() -> None:
    reads = []

    def read_at(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return bytes(length)

    assert recognise(read_at, 2**40) is None
    assert sum(length for _, length in reads) <= 2**20
    assert all(offset % BLOCK_BYTES == 0 and offset < 2**40 for offset, _ in reads)


# replacing


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replace_file(path, mode=0o600) as file:
        file.write(b"new ")
        assert path.read_bytes() == b"old"
        file.write(b"content")
    assert path.read_bytes() == b"new content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    fsync_directory(tmp_path)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for trouble in (ValueError, KeyboardInterrupt):
        with pytest.raises(trouble), replace_file(path) as file:
            file.write(b"half")
            raise trouble
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError), replace_file(tmp_path / "directory") as file:
        file.write(b"a file can't take the place of a directory")
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["directory", "file"]
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "absent" / "file"):
        raise AssertionError("there is nowhere to write")


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, bytes(data)[:7]))
    with replace_file(tmp_path / "file") as file:
        file.write(bytes(range(200)))
    assert (tmp_path / "file").read_bytes() == bytes(range(200))


def test_the_order_is_write_sync_rename_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    for name in ("write", "fsync", "replace"):

        def recorded(*args: object, _name: str = name, _real: object = getattr(os, name), **kwargs: object) -> object:
            order.append(_name)
            return _real(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(os, name, recorded)
    with replace_file(tmp_path / "file") as file:
        file.write(b"x")
    assert order == ["write", "fsync", "replace", "fsync"]


# holes


def test_holes_are_told_apart_from_data(tmp_path: Path) -> None:
    path, hole = tmp_path / "sparse", 8 * HOLE_BYTES_MIN
    with path.open("wb") as file:
        file.write(b"x" * 100_000)
        file.seek(hole)
        file.write(b"y" * 100_000)
        file.truncate(2 * hole)
    fd = open_regular(path, follow=True)
    try:
        found = list(spans(fd, 50_000, 2 * hole + 5))
        content = b"".join(piece for piece in read_chunks(fd, 50_000, 2 * hole) if isinstance(piece, bytes))
        sizes = {len(piece) for piece in read_views(fd, hole // 2, hole, bytearray(4096)) if is_hole(piece)}
    finally:
        os.close(fd)
    if len(found) == 1:
        pytest.skip("this file system doesn't tell where the holes are")
    assert [found[0].begin, *(span.end for span in found[:-1])] == [span.begin for span in found]  # they tile
    assert [span.is_hole for span in found] == [False, True, False, True, False]
    assert content == path.read_bytes()[50_000:]
    assert sizes == {4096}
