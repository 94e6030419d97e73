"""The scrubber's parts: which files, how politely, and what the page cache holds afterwards."""

import os
import random
import socket
import subprocess
from pathlib import Path

import pytest

from agent import scrub
from agent.config import MIB, StoreSettings
from checksum.finding import Unreadable
from tests.agent.processes import eventually
from tests.agent.residency import resident_pages

SIZE_BYTES = 4 * MIB


def never(path: Path, error: OSError) -> None:
    raise AssertionError((path, error))


def names(store: StoreSettings) -> list[str]:
    return ["/".join(candidate.parts) for candidate in scrub.walk(store, never)]


def fill(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())


def test_the_walk_is_in_the_order_of_the_parts(tmp_path: Path) -> None:
    fill(tmp_path, "b.log", "a/x.log", "a.log", "a/b/y.log", "a-b/z.log", "B.log")
    walked = [candidate.parts for candidate in scrub.walk(StoreSettings(path=tmp_path), never)]
    assert walked == sorted(walked) and len(walked) == 6


def test_include_and_exclude(tmp_path: Path) -> None:
    fill(tmp_path, "a.log", "a.txt", "d/b.log", "d/c.log", "e/b.log")
    assert names(StoreSettings(path=tmp_path, include=("*.log",))) == ["a.log", "d/b.log", "d/c.log", "e/b.log"]
    assert names(StoreSettings(path=tmp_path, include=("d/*", "*.txt"))) == ["a.txt", "d/b.log", "d/c.log"]
    assert names(StoreSettings(path=tmp_path, exclude=("b.*", "d/*"))) == ["a.log", "a.txt"]
    assert names(StoreSettings(path=tmp_path / "a.log", include=("*.txt",))) == [""], "a file that was named is meant"


def test_only_regular_files_and_no_links(tmp_path: Path) -> None:
    store, outside = tmp_path / "store", tmp_path / "outside"
    fill(store, "real.log")
    fill(outside, "secret.log")
    (store / "link.log").symlink_to(outside / "secret.log")
    (store / "linked").symlink_to(outside)
    (store / "loop").symlink_to(store)
    (store / "dangling").symlink_to(store / "nothing")
    os.mkfifo(store / "fifo.log")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(store / "socket.log"))
        assert names(StoreSettings(path=store)) == ["real.log"]
    if os.geteuid() == 0:
        os.mknod(store / "device.log", 0o600 | 0o020000, os.makedev(1, 3))  # as /dev/null
        assert names(StoreSettings(path=store)) == ["real.log"]


def test_a_store_that_is_not_there_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        names(StoreSettings(path=tmp_path / "not mounted"))


def test_the_rate_follows_from_the_period_unless_it_is_given() -> None:
    store = StoreSettings(path=Path("/s"), period_days=1)
    total_bytes = 864_000 * MIB
    assert scrub.rate_bytes_s(store, total_bytes) == pytest.approx(10 * MIB * scrub.RATE_MARGIN)
    assert scrub.rate_bytes_s(store, 0) == scrub.RATE_MIN_BYTES_S
    assert scrub.rate_bytes_s(StoreSettings(path=Path("/s"), rate_mib_s=0.5), total_bytes) == 0.5 * MIB


def test_the_bucket_bounds_the_rate_whatever_the_pieces() -> None:
    rng = random.Random(1)
    bucket = scrub.TokenBucket(1000.0, now_s=50.0)
    now_s, taken = 50.0, 0
    for _ in range(500):
        amount = rng.randrange(1, 700)
        now_s += bucket.delay_s(amount, now_s) + rng.choice((0, 0, 0.01, 0.3, 3.0))
        taken += amount
        assert taken <= 1000.0 * (now_s - 50.0 + scrub.BURST_S) + 700
    assert bucket.delay_s(100, now_s + 1000) == 0.0, "a pause is forgiven"
    assert bucket.delay_s(1000, now_s + 1000) == pytest.approx(1 - scrub.BURST_S + 0.1), "but not saved up"
    assert bucket.delay_s(1, now_s) > 0, "a clock that goes back gives nothing"


def test_pressure_is_read_and_heeded(tmp_path: Path) -> None:
    assert scrub.io_pressure_percent(tmp_path) is None
    file = tmp_path / "pressure/io"
    file.parent.mkdir()
    file.write_text("some avg10=12.50 avg60=9.19 avg300=4.04 total=1\nfull avg10=3.00 avg60=1.0 avg300=0.0 total=2\n")
    assert scrub.io_pressure_percent(tmp_path) == 12.5
    for nonsense in ("", "some\n", "some avg10=x\n", "full avg10=3.00\n"):
        file.write_text(nonsense)
        assert scrub.io_pressure_percent(tmp_path) is None
    assert scrub.back_off_s(None, 10) == scrub.back_off_s(10.0, 10) == 0.0
    assert scrub.back_off_s(12.5, 10) == 2.5 and scrub.back_off_s(100, 10) == scrub.BACK_OFF_MAX_S


def test_own_reading_is_no_pressure_of_others() -> None:
    reading = scrub.OwnReading(now_s=100.0)
    for second in range(1, 61):
        reading.add(0.25)
        reading.update(100.0 + second)
    assert 24.5 < reading.percent < 25.0
    assert scrub.pressure_of_others(30.0, [reading.percent]) == pytest.approx(30.0 - reading.percent)
    assert scrub.pressure_of_others(20.0, [reading.percent]) == 0.0
    assert scrub.pressure_of_others(90.0, [50.0, 50.0]) == 15.0
    assert scrub.pressure_of_others(None, [50.0]) is None
    reading.update(290.0)
    assert reading.percent < 0.01  # as the kernel's average it is forgotten


# --- the page cache ------------------------------------------------------------------------------------------------


COLD_PAGES_MAX = 8  # of a file that is dropped from the cache
ATTEMPTS = 5


@pytest.fixture
def big(tmp_path: Path) -> Path:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True
    ).stdout.strip()
    if kind == "tmpfs":
        pytest.skip("a tmpfs is nothing but page cache; set TMPDIR to a disk")
    file = tmp_path / "big"
    file.write_bytes(random.Random(2).randbytes(SIZE_BYTES + 1234))
    make_cold(file)
    return file


def make_cold(file: Path) -> None:
    fd = os.open(file, os.O_RDWR)
    try:
        os.fsync(fd)

        def is_dropped() -> bool:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # a page that is in use just now stays
            return resident_pages(file) == 0

        eventually(is_dropped)
    finally:
        os.close(fd)


def left_in_cache(file: Path) -> int:
    """Pages of a cold file after a polite reading of all of it.

    What the kernel itself has in hand at that moment, a page or a folio of many, can't be dropped; that happens to few
    readings on a busy machine, while a reader that leaves pages behind does so each time.
    """
    pages = []
    for _ in range(ATTEMPTS):
        make_cold(file)
        content = read_politely(file)
        pages.append(resident_pages(file))
        assert content == file.read_bytes()
        if pages[-1] <= COLD_PAGES_MAX:
            break
    return min(pages)


def read_politely(path: Path, begin: int = 0) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        content = bytearray()
        for chunk in scrub.polite_chunks(fd, begin, path.stat().st_size, lambda _size: None):
            assert not isinstance(chunk, Unreadable)
            content += chunk  # the chunk's memory is used again for the next
    finally:
        os.close(fd)
    return bytes(content)


def test_a_cold_file_is_cold_afterwards(big: Path) -> None:
    assert left_in_cache(big) <= COLD_PAGES_MAX


def test_a_hot_file_is_hot_afterwards(big: Path) -> None:
    content = big.read_bytes()
    pages = resident_pages(big)
    assert pages == -(-len(content) // scrub.PAGE_BYTES)
    assert read_politely(big) == content and resident_pages(big) >= 0.99 * pages


def test_a_half_hot_file_keeps_its_half(big: Path) -> None:
    with big.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), SIZE_BYTES // 2, 0)
    before = resident_pages(big)
    content = read_politely(big)
    assert abs(resident_pages(big) - before) <= 0.01 * before
    assert content == big.read_bytes()


def test_single_hot_pages_among_cold_ones_stay(big: Path) -> None:
    with big.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in range(0, SIZE_BYTES // scrub.PAGE_BYTES, 10):
            os.pread(file.fileno(), scrub.PAGE_BYTES, page * scrub.PAGE_BYTES)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, scrub.RWF_DONTCACHE)
        except OSError:
            pytest.skip("reading so that the cache stays as it was needs Linux 6.14 and a file system that can")
    before = resident_pages(big)
    content = read_politely(big)
    assert resident_pages(big) == before
    assert content == big.read_bytes()


def test_without_that_way_of_reading_a_cold_file_is_cold_as_well(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "RWF_DONTCACHE", 1 << 30)  # a flag that no kernel knows
    assert left_in_cache(big) <= COLD_PAGES_MAX


def test_a_hole_is_no_reading(big: Path) -> None:
    paced: list[int] = []
    with big.open("rb+") as file:
        file.truncate(2**30)
        file.seek(2**29)
        file.write(b"data")
        file.flush()
        os.fsync(file.fileno())
        zeros = sum(
            len(chunk) - bytes(chunk).count(0)
            for chunk in scrub.polite_chunks(file.fileno(), 2**28, 2**30, paced.append)
            if not isinstance(chunk, Unreadable)
        )
    assert zeros == 4
    assert 0 < sum(paced) <= scrub.PIECE_BYTES


def test_looking_at_a_file_leaves_the_cache_alone_too(big: Path) -> None:
    fd = os.open(big, os.O_RDONLY)
    try:
        read_at = scrub.polite_reader(fd)
        pieces = [read_at(offset, 32_768) for offset in (0, MIB, SIZE_BYTES + 1000)]
    finally:
        os.close(fd)
    assert resident_pages(big) <= 8
    content = big.read_bytes()
    assert pieces == [content[:32_768], content[MIB : MIB + 32_768], content[SIZE_BYTES + 1000 :]]


def test_a_file_that_shrinks_while_it_is_read_ends_early(big: Path) -> None:
    fd = os.open(big, os.O_RDONLY)
    try:
        chunks = scrub.polite_chunks(fd, 0, SIZE_BYTES, lambda _size: os.truncate(big, 100_000))
        assert sum(len(chunk) for chunk in chunks) == 100_000
    finally:
        os.close(fd)
