"""Which layer flipped it: the fault is put into each layer in turn, and the verdict has to name it."""

import fcntl
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from checksum import affinity, crc32c, diagnose
from checksum.diagnose import Damage, Scanned, diagnosed
from checksum.files import read_chunks
from checksum.finding import Finding, Flip, Intact, Layer, Unreadable, Verdict
from checksum.formats import FORMATS, Format
from checksum.verify import mismatches, verify_file
from tests.checksum.faults import garble, write_back

LATER_S = diagnose.WRITTEN_BACK_S + 1.0  # when all that was written before is on disk
WRITABLE = [format for format in FORMATS.values() if format.encode is not None]
RECORDS, VICTIM = 200, 77

Chunks = Iterable[bytes | Unreadable]


# --- the decision ------------------------------------------------------------------------------------------------

FOUND = Finding(100, 200, Verdict.flipped, 1, 2, Flip(150, 3, 1))
OTHER = replace(FOUND, stored=5, flip=Flip(151, 3, 1))
BESIDE = Finding(200, 300, Verdict.skipped, 7, 8)
GONE = Finding(50, 250, Verdict.unreadable)
SAME, RIGHT, MOVED, LOST = (FOUND,), (), (OTHER,), (GONE,)


@dataclass
class Scripted:
    """A stretch whose readings are given; it counts how often the disk was asked."""

    counted: list[Damage] = field(default_factory=list)
    kept: Damage | None = None
    stored: Damage | None = None
    is_from_disk: bool = True
    unchanged: bool = True
    asked: int = 0

    def recounts(self) -> list[Damage]:
        return self.counted

    def cached(self) -> Damage | None:
        return self.kept

    def direct(self) -> tuple[Damage | None, bool]:
        self.asked += 1
        return self.stored, self.is_from_disk

    def is_unchanged(self) -> bool:
        return self.unchanged


@pytest.mark.parametrize(
    ("stretch", "layer", "is_transient"),
    [
        (Scripted([SAME, RIGHT]), Layer.core, True),
        (Scripted([RIGHT, RIGHT]), Layer.core, True),
        (Scripted([SAME, MOVED], SAME, SAME), Layer.core, False),
        (Scripted([SAME, SAME], RIGHT), Layer.buffer, True),
        (Scripted([], RIGHT), Layer.unknown, True),
        (Scripted([SAME], SAME, RIGHT), Layer.page_cache, True),
        (Scripted([], SAME, RIGHT), Layer.page_cache, True),
        (Scripted([SAME], SAME, RIGHT, is_from_disk=False), Layer.page_cache, True),
        (Scripted([SAME], None, RIGHT), Layer.unknown, True),
        (Scripted([SAME], MOVED, RIGHT), Layer.path, True),
        (Scripted([SAME], MOVED, SAME), Layer.path, False),
        (Scripted([SAME], SAME, MOVED), Layer.path, False),
        (Scripted([SAME], None, MOVED), Layer.path, False),
        (Scripted([SAME], SAME, SAME), Layer.disk, False),
        (Scripted([MOVED], MOVED, MOVED), Layer.disk, False),  # judged alone it may look otherwise, but always alike
        (Scripted([], None, SAME), Layer.disk, False),
        (Scripted([], None, MOVED), Layer.unknown, False),
        (Scripted([SAME], SAME, LOST), Layer.disk, False),
        (Scripted([SAME], SAME, SAME, is_from_disk=False), Layer.unknown, False),
        (Scripted([SAME], SAME, None, is_from_disk=False), Layer.unknown, False),
        (Scripted([SAME, RIGHT], RIGHT, RIGHT, unchanged=False), Layer.unknown, False),
    ],
)
def test_the_readings_tell_the_layer(stretch: Scripted, layer: Layer, is_transient: bool) -> None:
    verdict = Verdict.transient if is_transient else Verdict.flipped
    assert diagnose.diagnose(SAME, stretch) == (replace(FOUND, layer=layer, verdict=verdict),)


def test_the_disk_is_asked_only_where_nothing_else_tells() -> None:
    for stretch, asked in (
        (Scripted([SAME, RIGHT], SAME), 0),
        (Scripted([SAME], RIGHT), 0),
        (Scripted([SAME], SAME), 1),
        (Scripted(), 1),
    ):
        diagnose.diagnose(SAME, stretch)
        assert stretch.asked == asked


def test_findings_of_one_stretch_are_told_apart() -> None:
    both = (FOUND, BESIDE)
    first, second = diagnose.diagnose(both, Scripted([both, both], (BESIDE,), (BESIDE,)))
    assert (first.layer, first.verdict) == (Layer.buffer, Verdict.transient)
    assert (second.layer, second.verdict) == (Layer.disk, Verdict.skipped)


# --- real files --------------------------------------------------------------------------------------------------


def records(format: Format) -> tuple[bytes, list[int]]:
    """A file, and the middle of each of its records."""
    rng, data, middles = random.Random(1), bytearray(), []
    for _ in range(RECORDS):
        begin = len(data)
        data += format.encode(rng.randbytes(1000), begin)
        middles.append((begin + len(data)) // 2)
    return bytes(data), middles


def flipped(data: bytes, *offsets: int) -> bytes:
    damaged = bytearray(data)
    for offset in offsets:
        damaged[offset] ^= 4
    return bytes(damaged)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    write_back(path)
    return path


def verified(path: Path, format: Format, *, now_s: float | None = None) -> tuple[Finding, ...]:
    with path.open("rb") as file:
        when_s = time.time() + LATER_S if now_s is None else now_s
        return verify_file(file.fileno(), path, format, when_s, lambda _size: None).findings


def scanned(
    path: Path, format: Format, chunks: Chunks | None = None, pace: Callable[[int], None] = lambda _size: None
) -> list[Finding]:
    """What a scan finds that reads these chunks, and else what is in the file."""
    with path.open("rb") as file:
        fd, status = file.fileno(), os.fstat(file.fileno())
        read = read_chunks(fd, 0, status.st_size) if chunks is None else chunks
        items = list(diagnosed(Scanned(fd, format, status, time.time() + LATER_S, pace), read))
    assert items[0].begin == 0 and items[-1].end == status.st_size
    assert all(one.end == other.begin for one, other in pairwise(items))
    return [item for item in items if isinstance(item, Finding)]


def layers(findings: Iterable[Finding]) -> list[tuple[Layer | None, Verdict]]:
    return [(finding.layer, finding.verdict) for finding in findings]


@pytest.fixture(params=WRITABLE, ids=lambda format: format.NAME)
def format(request: pytest.FixtureRequest) -> Format:
    return request.param


def test_an_intact_file_has_no_findings(disk: Path, format: Format) -> None:
    assert scanned(write(disk / "file", records(format)[0]), format) == []


@pytest.mark.parametrize("kernel", crc32c.kernels())
def test_bytes_on_the_disk(disk: Path, format: Format, kernel: str) -> None:
    data, middles = records(format)
    path = write(disk / "file", flipped(data, middles[VICTIM], middles[VICTIM + 1], middles[VICTIM + 9]))
    with crc32c.computing_by(kernel):
        assert layers(verified(path, format)) == [(Layer.disk, Verdict.flipped)] * 3
    with path.open("rb") as file:
        named = list(mismatches(file.fileno(), format, time.time() + LATER_S))
    assert layers(named) == [(Layer.disk, Verdict.flipped)] * 3


def test_a_buffer_that_flips(disk: Path, format: Format) -> None:
    data, middles = records(format)
    path = write(disk / "file", data)
    path.read_bytes()
    (finding,) = scanned(path, format, [flipped(data, middles[VICTIM])])
    assert (finding.layer, finding.verdict) == (Layer.buffer, Verdict.transient)
    assert finding.flip == Flip(middles[VICTIM], 2, flipped(data, middles[VICTIM])[middles[VICTIM]] >> 2 & 1)


def test_a_buffer_that_is_gone_is_not_blamed(disk: Path, format: Format) -> None:
    """The damaged record lies in two chunks: when it is found, only the second is still at hand."""
    data, middles = records(format)
    path = write(disk / "file", data)
    path.read_bytes()
    wrong, at = flipped(data, middles[VICTIM]), middles[VICTIM]
    assert layers(scanned(path, format, [wrong[:at], wrong[at:]])) == [(Layer.unknown, Verdict.transient)]


class FaultyReads:
    """os.preadv as a machine does it that flips a bit of one byte, in what the page cache gives or in all it reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, offset: int, bits: Iterator[int], *, also_direct: bool) -> None:
        self._preadv, self._offset, self._bits, self._also_direct = os.preadv, offset, bits, also_direct
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
        length = self._preadv(fd, buffers, offset, flags)
        is_direct = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
        if offset <= self._offset < offset + length and (self._also_direct or not is_direct):
            buffers[0][self._offset - offset] ^= 1 << next(self._bits)
        return length


def endlessly(bit: int) -> Iterator[int]:
    while True:
        yield bit


def test_a_page_cache_that_flips(disk: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    data, middles = records(format)
    path = write(disk / "file", data)
    FaultyReads(monkeypatch, middles[VICTIM], endlessly(5), also_direct=False)
    (finding,) = scanned(path, format)
    assert (finding.layer, finding.verdict) == (Layer.page_cache, Verdict.transient)
    assert finding.flip is not None and finding.flip.bit == 5


def test_damage_that_moves(disk: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    data, middles = records(format)
    path = write(disk / "file", data)
    FaultyReads(monkeypatch, middles[VICTIM], iter(range(8)), also_direct=True)
    (finding,) = scanned(path, format)
    assert (finding.layer, finding.verdict) == (Layer.path, Verdict.flipped)
    assert finding.flip is not None and finding.flip.bit == 0, "as it was first seen"


def test_a_disk_that_fails_when_asked_again(disk: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    data, middles = records(format)
    wrong = flipped(data, middles[VICTIM])
    path = write(disk / "file", wrong)
    preadv = os.preadv

    def failing(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
        if offset <= middles[VICTIM] < offset + len(buffers[0]):
            raise OSError(5, "Input/output error")
        return preadv(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", failing)
    assert layers(scanned(path, format, [wrong])) == [(Layer.disk, Verdict.flipped)]
    assert {layer for layer, _ in layers(scanned(path, format))} == {Layer.disk}, "unreadable from the start"


def test_a_disk_that_is_gone_when_asked_again(disk: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    data, middles = records(format)
    wrong = flipped(data, middles[VICTIM])
    path = write(disk / "file", wrong)

    def refusing(*_: object) -> int:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "preadv", refusing)
    assert layers(scanned(path, format, [wrong])) == [(Layer.unknown, Verdict.flipped)]


def test_a_file_without_direct_reads(disk: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what was certainly evicted must come from the disk."""
    data, middles = records(format)
    path = write(disk / "file", flipped(data, middles[VICTIM]))
    os_open = os.open

    def refusing(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return os_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", refusing)
    assert layers(scanned(path, format)) == [(Layer.disk, Verdict.flipped)]
    monkeypatch.setattr(diagnose, "evict", lambda *_: False)
    assert layers(scanned(path, format)) == [(Layer.unknown, Verdict.flipped)]


def test_a_file_that_lives_in_memory(format: Format) -> None:
    data, middles = records(format)
    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("there is no /dev/shm here")
    path = shared / f"flipwatch-test-{os.getpid()}"
    try:
        path.write_bytes(flipped(data, middles[VICTIM]))
        assert layers(verified(path, format)) == [(Layer.unknown, Verdict.flipped)]
    finally:
        path.unlink()


def test_what_is_not_written_back_yet_cannot_be_known(disk: Path, format: Format) -> None:
    data, middles = records(format)
    path = disk / "file"
    path.write_bytes(flipped(data, middles[VICTIM]))
    os.utime(path, (1, 1))  # as a copy that keeps the times
    assert layers(verified(path, format, now_s=time.time())) == [(Layer.unknown, Verdict.flipped)]


def test_a_file_that_is_rewritten_meanwhile(disk: Path, format: Format) -> None:
    data, middles = records(format)
    wrong = flipped(data, middles[VICTIM])
    path = write(disk / "file", wrong)

    def put_right(_size: int) -> None:
        with path.open("rb+") as file:
            file.write(data)
        write_back(path)

    assert layers(scanned(path, format, pace=put_right)) == [(Layer.unknown, Verdict.flipped)]


def test_too_much_damage_is_not_looked_into(disk: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    data, middles = records(format)
    path = write(disk / "file", flipped(data, *middles[:20:2], *middles[100:104], *middles[150::10]))
    monkeypatch.setattr(diagnose, "FINDINGS_MAX", 8)
    found = [layer for layer, _ in layers(verified(path, format))]
    assert found == [Layer.disk] * 8 + [Layer.unknown] * (2 + 4 + 5)
    monkeypatch.setattr(diagnose, "FINDINGS_MAX", 100)
    monkeypatch.setattr(diagnose, "BYTES_MAX", 100)
    assert {layer for layer, _ in layers(verified(path, format))} == {Layer.unknown}


@pytest.mark.parametrize("seed", range(25))
def test_bytes_on_the_disk_are_never_blamed_on_another_layer(disk: Path, format: Format, seed: int) -> None:
    rng = random.Random(seed)
    data = records(format)[0]
    for _ in range(rng.randrange(1, 4)):
        data = garble(data, rng)
    path = write(disk / "file", data)
    with path.open("rb") as file:
        found = list(mismatches(file.fileno(), format, time.time() + LATER_S))
    # a page that others hold can't be evicted at once, and then nobody knows
    assert {finding.layer for finding in found} <= {Layer.disk, Layer.unknown}
    assert Verdict.transient not in {finding.verdict for finding in found}


# --- cores -------------------------------------------------------------------------------------------------------


class OnBadCore:
    """A format whose checksums come out wrong on one core; a thread that may run there does."""

    def __init__(self, format: Format, core: int, victim: int) -> None:
        self._format, self._core, self._victim = format, core, victim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._format, name)

    def verify(self, chunks: Chunks, *, offset: int = 0, **how: Any) -> Iterator[Intact | Finding]:
        if self._core in os.sched_getaffinity(0):
            data = b"".join(chunk for chunk in chunks if not isinstance(chunk, Unreadable))
            chunks = [flipped(data, self._victim - offset)] if 0 <= self._victim - offset < len(data) else [data]
        return self._format.verify(chunks, offset=offset, **how)


def test_a_core_that_cannot_count(disk: Path, format: Format) -> None:
    cores = affinity.allowed_cores()
    if len(cores) < 2:
        pytest.skip("needs two cores: one that computes wrongly and one that tells")
    data, middles = records(format)
    path = write(disk / "file", data)
    for core in cores[:2]:
        found = scanned(path, OnBadCore(format, core, middles[VICTIM]), [data])
        assert layers(found) == [(Layer.core, Verdict.transient)]
    assert affinity.allowed_cores() == cores


def test_a_kernel_that_cannot_count(disk: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(crc32c.kernels()) < 2:
        pytest.skip("there is one kernel here, and nothing to compare it with")
    bad = crc32c.implementation()

    class WithBadKernel(OnBadCore):
        def verify(self, chunks: Chunks, *, offset: int = 0, **how: Any) -> Iterator[Intact | Finding]:
            if crc32c.implementation() == bad:
                data = b"".join(chunk for chunk in chunks if not isinstance(chunk, Unreadable))
                chunks = [flipped(data, self._victim - offset)]
            return self._format.verify(chunks, offset=offset, **how)

    data, middles = records(format)
    path = write(disk / "file", data)
    found = scanned(path, WithBadKernel(format, 0, middles[VICTIM]), [data])
    assert layers(found) == [(Layer.core, Verdict.transient)]


def test_a_thread_on_a_core_leaves_the_others_alone() -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def work() -> None:
        for core in affinity.allowed_cores():
            with affinity.on_core(core):
                seen.append(os.sched_getaffinity(0))
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    with affinity.on_core(min(before)):
        os.sched_setaffinity(0, before)
        thread.start()
        thread.join()
    assert seen == [*({core} for core in sorted(before)), before]
    assert os.sched_getaffinity(0) == before


def test_a_core_that_is_not_there() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(affinity.CoreGone), affinity.on_core(100_000):
        pass
    assert os.sched_getaffinity(0) == before


def test_cores_that_vanish_are_passed_over(disk: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    data, middles = records(format)
    path = write(disk / "file", flipped(data, middles[VICTIM]))
    monkeypatch.setattr(affinity, "allowed_cores", lambda: [0, 100_000])
    assert layers(verified(path, format)) == [(Layer.disk, Verdict.flipped)]


def test_one_thread_computes_by_another_kernel() -> None:
    before = crc32c.implementation()
    seen: list[str] = []
    for kernel in crc32c.kernels():
        with crc32c.computing_by(kernel):
            thread = threading.Thread(target=lambda: seen.append(crc32c.implementation()))
            thread.start()
            thread.join()
            assert crc32c.implementation() == kernel
            assert crc32c.crc32c(b"123456789") == 0xE3069283
    assert set(seen) == {before} and crc32c.implementation() == before
    with pytest.raises(ValueError, match="no CRC-32C kernel 'abacus'"), crc32c.computing_by("abacus"):
        pass


# --- a real page cache that is wrong -----------------------------------------------------------------------------


class Loop:
    """A small file system in an image, so that the disk can be changed under the page cache."""

    def __init__(self, image: Path, mount: Path) -> None:
        self._image, self.mount = image, mount

    def flip_under(self, content: bytes, at: int) -> None:
        """Flips a bit of the one place on the disk that holds `content`."""
        with self._image.open("rb+") as disk:
            begin = disk.read().index(content)
            disk.seek(begin + at)
            disk.write(flipped(content, at)[at : at + 1])
        write_back(self._image)


@pytest.fixture
def loop(disk: Path) -> Iterator[Loop]:
    image, mount = disk / "image", disk / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    with ExitStack() as undo:
        for command in (["mkfs.ext4", "-q", "-F", "-O", "^has_journal", image], ["mount", "-o", "loop", image, mount]):
            try:
                done = subprocess.run(command, capture_output=True)
            except FileNotFoundError:
                done = None
            if done is None or done.returncode:
                pytest.skip("a file system in an image can't be made and mounted here (needs root and e2fsprogs)")
        undo.callback(subprocess.run, ["umount", mount], check=True)
        yield Loop(image, mount)


def forget(path: Path) -> None:
    """Makes the page cache forget the file, without asking for a page, which would bring it back."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_page_cache_that_differs_from_its_disk(loop: Loop, format: Format) -> None:
    data, middles = records(format)
    path = write(loop.mount / "file", data)
    block = middles[VICTIM] // 4096 * 4096
    page = data[block : block + 4096]
    forget(path)
    loop.flip_under(page, middles[VICTIM] - block)
    assert path.read_bytes() == flipped(data, middles[VICTIM]), "now it is cached as the disk gave it"
    loop.flip_under(flipped(page, middles[VICTIM] - block), middles[VICTIM] - block)
    assert layers(verified(path, format)) == [(Layer.page_cache, Verdict.transient)]
    assert verified(path, format) == (), "the page cache has forgotten it"
    loop.flip_under(page, middles[VICTIM] - block)
    assert verified(path, format) == (), "the page cache is still right"
    forget(path)
    assert layers(verified(path, format)) == [(Layer.disk, Verdict.flipped)]
