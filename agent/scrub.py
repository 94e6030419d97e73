"""The scrubber's parts: which files, and how politely they are read.

Enters: a store's settings and open files. Leaves: paths in a stable order, and chunks of bytes that were read without
disturbing anyone. Waiting is done through a callable, so nothing here owns a clock.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from agent.config import MIB, StoreSettings
from checksum import declaration, files
from checksum.finding import Unreadable
from checksum.formats import FORMATS, ToldByContent
from checksum.settings import SettingsError

PIECE_BYTES = 128 << 10
PAGE_BYTES = 4096
RWF_DONTCACHE = 0x80  # linux/fs.h: pages that a read brings into the cache leave with it, those there before stay
RATE_MIN_BYTES_S = 1.0 * MIB
RATE_MARGIN = 1.25  # a pass planned to the second would never catch up after a pause
BURST_S = 0.25
BACK_OFF_MAX_S = 30.0
PRESSURE_WINDOW_S = 10.0
DAY_S = 86400.0

Parts = tuple[str, ...]  # a path relative to its store; tuples order as the walk does


@dataclass(frozen=True, slots=True)
class Candidate:
    """A regular file of a store, as the walk saw it."""

    parts: Parts
    path: Path
    size_bytes: int


def formats_of(store: StoreSettings) -> dict[str, ToldByContent]:
    """The formats that a file of the store may have, by name, in the order in which they are tried.

    Raises:
        SettingsError: the declared one can't be read, or the chosen one is none of them.
    """
    declared: dict[str, ToldByContent] = {}
    if store.framing is not None:
        framing = declaration.load(store.framing)
        declared = {framing.NAME: framing}
    formats = declared | FORMATS
    if store.format not in ("auto", *formats):
        names = ", ".join(formats)
        raise SettingsError(f"[[store]] {store.path}: format = '{store.format}': must be one of auto, {names}")
    return formats


def walk(store: StoreSettings, unreadable: Callable[[Path, OSError], None]) -> Iterator[Candidate]:
    """The store's files in the order of their parts. Symlinks and everything but regular files are passed over.

    Raises:
        OSError: the store itself can't be read; it may not be mounted yet.
    """
    if store.path.is_file() and not store.path.is_symlink():
        yield Candidate((), store.path, store.path.stat().st_size)
        return
    yield from _walk_directory(store, store.path, (), unreadable)


def _walk_directory(
    store: StoreSettings, directory: Path, above: Parts, unreadable: Callable[[Path, OSError], None]
) -> Iterator[Candidate]:
    try:
        with os.scandir(directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        if not above:
            raise
        unreadable(directory, error)
        return
    for entry in entries:
        parts = (*above, entry.name)
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk_directory(store, Path(entry.path), parts, unreadable)
            elif entry.is_file(follow_symlinks=False) and is_included(store, parts):
                yield Candidate(parts, Path(entry.path), entry.stat(follow_symlinks=False).st_size)
        except FileNotFoundError:  # deleted while we looked
            continue
        except OSError as error:
            unreadable(Path(entry.path), error)


def is_included(store: StoreSettings, parts: Parts) -> bool:
    """A pattern speaks of the file's name, or, if it holds a slash, of its path below the store."""

    def matches(patterns: tuple[str, ...]) -> bool:
        path = "/".join(parts)
        return any(fnmatch(path if "/" in pattern else parts[-1], pattern) for pattern in patterns)

    return not parts or (matches(store.include) and not matches(store.exclude))


def rate_bytes_s(store: StoreSettings, total_bytes: int) -> float:
    """How fast to read: as told, or so that the pass ends within the period."""
    if store.rate_mib_s is not None:
        return store.rate_mib_s * MIB
    return max(RATE_MIN_BYTES_S, total_bytes / (store.period_days * DAY_S) * RATE_MARGIN)


class TokenBucket:
    """Bounds a rate: `delay_s` takes tokens and says how long to wait before using them."""

    def __init__(self, rate_bytes_s: float, now_s: float) -> None:
        self.rate_bytes_s = rate_bytes_s
        self._tokens = 0.0
        self._at_s = now_s

    def delay_s(self, amount_bytes: int, now_s: float) -> float:
        elapsed_s = max(0.0, now_s - self._at_s)
        burst = self.rate_bytes_s * BURST_S
        self._tokens = min(burst, self._tokens + elapsed_s * self.rate_bytes_s) - amount_bytes
        self._at_s = now_s
        return max(0.0, -self._tokens / self.rate_bytes_s)


def io_pressure_percent(proc: Path) -> float | None:
    """The share of the last ten seconds in which some task waited for the disk; None where the kernel doesn't say.

    Source: Documentation/accounting/psi.rst of the Linux kernel.
    """
    try:
        text = (proc / "pressure/io").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["some"]:
            averages = dict(word.partition("=")[::2] for word in words[1:])
            try:
                return float(averages["avg10"])
            except (KeyError, ValueError):
                return None
    return None


def back_off_s(pressure_percent: float | None, limit_percent: float) -> float:
    """How long to stay away from a disk others wait for: longer the more they wait, but never for ever."""
    if pressure_percent is None or pressure_percent <= limit_percent:
        return 0.0
    return min(BACK_OFF_MAX_S, pressure_percent - limit_percent)


class OwnReading:
    """The share of the time, weighted as the kernel's average over ten seconds, that one store's reading took.

    Waiting for its own reads is part of the pressure that the kernel tells, and nothing to stay away from.
    """

    def __init__(self, now_s: float) -> None:
        self.percent = 0.0
        self._at_s = now_s
        self._read_s = 0.0

    def add(self, read_s: float) -> None:
        self._read_s += read_s

    def update(self, now_s: float) -> None:
        elapsed_s = max(now_s - self._at_s, self._read_s, 1e-9)
        weight = 1 - math.exp(-elapsed_s / PRESSURE_WINDOW_S)
        self.percent += weight * (100 * self._read_s / elapsed_s - self.percent)
        self._at_s, self._read_s = now_s, 0.0


def pressure_of_others(pressure_percent: float | None, own_percents: Iterable[float]) -> float | None:
    """What is left of the pressure without our own stores, taken as independent of one another."""
    if pressure_percent is None:
        return None
    quiet = math.prod(1 - percent / 100 for percent in own_percents)
    return max(0.0, pressure_percent - 100 * (1 - quiet))


def polite_chunks(
    fd: int, begin: int, end: int, before_piece: Callable[[int], None]
) -> Iterator[memoryview | Unreadable]:
    """Bytes [begin, end) of a file; the page cache afterwards holds what it held before.

    A piece is gone when the next is asked for. `before_piece` hears how much will be read from the file; a hole is
    nothing to read. Readahead is off, or it would bring in pages that nobody asked for.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    buffer = bytearray(PIECE_BYTES)
    for span in files.spans(fd, begin, end):
        if span.is_hole:
            for zeros in files.hole_views(span, files.CHUNK_BYTES):
                before_piece(0)
                yield zeros
            continue
        offset = span.begin
        while offset < span.end:
            size = min(PIECE_BYTES, span.end - offset)
            before_piece(size)
            taken = 0
            for chunk in _polite_piece(fd, offset, memoryview(buffer)[:size]):
                yield chunk
                taken += chunk.length if isinstance(chunk, Unreadable) else len(chunk)
            if not taken:  # the file has become shorter
                return
            offset += taken


def polite_reader(fd: int) -> Callable[[int, int], bytes]:
    """As `files.reader_at`, with the page cache left alone: a function (offset, length) -> the bytes there."""

    def read_at(offset: int, length: int) -> bytes:
        data = bytearray()
        for chunk in polite_chunks(fd, offset, offset + length, lambda _size: None):
            if isinstance(chunk, Unreadable):
                break
            data += chunk
        return bytes(data)

    return read_at


def _polite_piece(fd: int, offset: int, buffer: memoryview) -> Iterator[memoryview | Unreadable]:
    """What the file holds at `offset`, as far as it fits into the buffer; nothing at the end of the file.

    Linux reads so since 6.14, where the file system can. Else a read with RWF_NOWAIT returns only what is in the
    cache already, and what it doesn't return is read from the disk and dropped again; then a page that was in the
    cache is lost to it if another page of the same piece, before it, was not.
    """
    try:
        piece = buffer[: os.preadv(fd, [buffer], offset, RWF_DONTCACHE)]
    except OSError:  # not to be had here (EOPNOTSUPP), or the disk fails, which shows again page by page
        yield from _read_and_drop(fd, offset, buffer)
        return
    if piece:
        yield piece


def _read_and_drop(fd: int, offset: int, buffer: memoryview) -> Iterator[memoryview | Unreadable]:
    resident = _read_resident(fd, offset, buffer)
    if resident:
        yield resident
    begin, end = offset + len(resident), offset + len(buffer)
    if begin < end:
        yield from files.read_data(fd, begin, end, buffer)
        drop_from_cache(fd, begin, end - begin)


def _read_resident(fd: int, offset: int, buffer: memoryview) -> memoryview:
    try:
        count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError:  # nothing is resident (EAGAIN), or the filesystem can't say (EOPNOTSUPP)
        count = 0
    return buffer[: count - count % PAGE_BYTES if count < len(buffer) else count]


def drop_from_cache(fd: int, offset: int, size: int) -> None:
    whole_pages = -(-size // PAGE_BYTES) * PAGE_BYTES
    os.posix_fadvise(fd, offset, whole_pages, os.POSIX_FADV_DONTNEED)
