"""Reading files that may be huge, hostile or on a failing disk: regular files only, in bounded memory.

Enters: a path or an open file. Leaves: its bytes in chunks, and the stretches that the disk would not give. Nothing is
changed on disk, not even the time of the last access where that can be avoided.
"""

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from checksum.finding import Unreadable

CHUNK_BYTES = 2**20
PAGE_BYTES = 4096  # the unit in which the kernel reports that a disk failed
HOLE_BYTES_MIN = CHUNK_BYTES  # a smaller one costs as little to read as to look for
_FOLIO_BYTES_MAX = 2**21  # the page cache keeps pages in folios of up to 512, and lets go only of whole ones

_ZEROS = memoryview(bytes(CHUNK_BYTES))


class NotRegular(OSError):
    """A directory, device, pipe, socket or unfollowed link where a file was wanted."""


class ReadsDiffer(Exception):
    """The file was not the same each time it was read."""


def open_regular(path: Path, *, follow: bool) -> int:
    """A file descriptor for reading the regular file `path`; a symbolic link is only followed if `follow`.

    Raises:
        NotRegular: it is something else. Devices are never opened, because opening alone can act on them.
        OSError: it can't be opened.
    """
    _check_regular(path, path.stat(follow_symlinks=follow))
    # O_NONBLOCK: between the check and the opening the path may have become a pipe, which would wait for a writer
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # only the owner of a file may leave its access time alone
        fd = os.open(path, flags)
    try:
        _check_regular(path, os.fstat(fd))
    except NotRegular:
        os.close(fd)
        raise
    return fd


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular(errno.EINVAL, "not a regular file", str(path))


def content(status: os.stat_result) -> tuple[int, ...]:
    """Equal as long as nobody wrote the file, nor set its times."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_chunks(fd: int, begin: int, end: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes | Unreadable]:
    """The same as `read_views`, in pieces of at most `chunk_bytes` that may be kept."""
    for piece in read_views(fd, begin, end, bytearray(max(0, min(chunk_bytes, end - begin)))):
        yield piece if isinstance(piece, Unreadable) else bytes(piece)


def read_views(fd: int, begin: int, end: int, buffer: bytearray) -> Iterator[memoryview | Unreadable]:
    """The bytes [begin, end) of the file, read into `buffer` piece by piece; fewer if the file ends before.

    A piece is gone as soon as the next is asked for: memory stays bounded and warm, which new memory isn't. A stretch
    that fails with EIO is read page by page, and each page that fails is an Unreadable. A hole costs no reading.

    Raises:
        OSError: any other error.
    """
    for span in spans(fd, begin, end):
        if span.is_hole:
            yield from hole_views(span, len(buffer))
            continue
        position = span.begin
        for piece in read_data(fd, span.begin, span.end, buffer):
            yield piece
            position += piece.length if isinstance(piece, Unreadable) else len(piece)
        if position < span.end:
            return


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [begin, end) of a file that are to be read, or a hole: zeros that take no space on the disk."""

    begin: int
    end: int
    is_hole: bool


def spans(fd: int, begin: int, end: int) -> Iterator[Span]:
    """What [begin, end) of the file consists of. Holes are looked for as late as possible: the file may be growing."""
    while begin < end:
        hole_begin, hole_end = _next_hole(fd, begin, end)
        if begin < hole_begin:
            yield Span(begin, hole_begin, is_hole=False)
        if hole_begin < hole_end:
            yield Span(hole_begin, hole_end, is_hole=True)
        begin = hole_end


def _next_hole(fd: int, begin: int, end: int) -> tuple[int, int]:
    """The first hole in [begin, end) that is worth minding; (end, end) if there is none or nobody can say."""
    hole_end = begin
    try:
        while hole_end + HOLE_BYTES_MIN <= end:
            hole_begin = os.lseek(fd, hole_end, os.SEEK_HOLE)
            hole_end = _data_begin(fd, hole_begin) if hole_begin < end else end
            if min(hole_end, end) - hole_begin >= HOLE_BYTES_MIN:
                return hole_begin, min(hole_end, end)
    except OSError:  # the file ended, or the file system doesn't tell
        pass
    return end, end


def _data_begin(fd: int, position: int) -> int:
    """Where the data begins that follows a hole; the end of the file if none does."""
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.fstat(fd).st_size


def hole_views(span: Span, piece_bytes: int) -> Iterator[memoryview]:
    """The zeros of a hole, all of them in one piece of memory, cut at multiples of the size of a piece."""
    begin, piece_bytes = span.begin, min(piece_bytes, CHUNK_BYTES)
    while begin < span.end:
        end = min(span.end, begin - begin % piece_bytes + piece_bytes)
        yield _ZEROS[: end - begin]
        begin = end


def is_hole(piece: memoryview | Unreadable) -> bool:
    """Whether the piece is of `hole_views`, for which nothing was read."""
    return isinstance(piece, memoryview) and piece.obj is _ZEROS.obj


def read_data(fd: int, begin: int, end: int, buffer: bytearray | memoryview) -> Iterator[memoryview | Unreadable]:
    """The same as `read_views`, with holes read like all else."""
    position = begin
    while position < end:
        piece = _pread(fd, memoryview(buffer)[: end - position], position)
        if piece is None:
            stretch_end = min(position + len(buffer), end)
            yield from _read_pages(fd, position, stretch_end, memoryview(buffer))
            position = stretch_end
        elif piece:
            yield piece
            position += len(piece)
        else:
            return


def direct_chunks(fd: int, begin: int, end: int) -> Iterator[bytes | Unreadable]:
    """The same bytes from the disk rather than from the page cache, as far as the file system lets us.

    Where it knows no O_DIRECT, the kernel is asked to forget the pages, which it does unless they are dirty or mapped.
    """
    try:
        direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        direct = -1
    try:
        if direct >= 0:
            yield from _read_direct(direct, fd, begin, end)
        else:
            os.posix_fadvise(fd, begin, end - begin, os.POSIX_FADV_DONTNEED)
            yield from read_chunks(fd, begin, end)
    finally:
        if direct >= 0:
            os.close(direct)


def read_resident(fd: int, begin: int, end: int) -> bytes | None:
    """The bytes [begin, end) if the page cache holds all of them; None if not, or if the file system can't say."""
    data = bytearray(end - begin)
    done = 0
    while done < len(data):
        try:
            length = os.preadv(fd, [memoryview(data)[done:]], begin + done, os.RWF_NOWAIT)
        except OSError:
            return None
        if not length:
            return None
        done += length
    return bytes(data)


def evict(fd: int, begin: int, end: int) -> bool:
    """Asks the kernel to forget what it keeps of [begin, end), if need be around it too; whether it surely has.

    It doesn't where pages are dirty or mapped, nor where they are all there is of the file (tmpfs).
    """
    for unit in (PAGE_BYTES, _FOLIO_BYTES_MAX):
        first, last = begin - begin % unit, -(-end // unit) * unit
        os.posix_fadvise(fd, first, last - first, os.POSIX_FADV_DONTNEED)
        # Backwards: to ask for a page makes the kernel begin to read it, and perhaps those after it.
        if all(_is_absent(fd, page) for page in reversed(range(begin - begin % PAGE_BYTES, end, PAGE_BYTES))):
            return True
    return False


def _is_absent(fd: int, page: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], page, os.RWF_NOWAIT) == 0
    except BlockingIOError:
        return True
    except OSError:  # the file system can't say
        return False


def _read_direct(direct: int, fd: int, begin: int, end: int) -> Iterator[bytes | Unreadable]:
    """O_DIRECT wants memory, offsets and lengths in whole pages; what the disk fails to give is read as usual."""
    whole_pages = -(-end // PAGE_BYTES) * PAGE_BYTES - begin + begin % PAGE_BYTES
    with mmap.mmap(-1, max(PAGE_BYTES, min(CHUNK_BYTES, whole_pages))) as buffer:
        position = begin
        while position < end:
            page = position - position % PAGE_BYTES
            try:
                length = os.preadv(direct, [buffer], page)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EINVAL):
                    raise
                yield from read_chunks(fd, position, end)
                return
            piece = buffer[position - page : min(length, end - page)]
            if not piece:
                return
            yield piece
            position += len(piece)


def _read_pages(fd: int, begin: int, end: int, buffer: memoryview) -> Iterator[memoryview | Unreadable]:
    position = begin
    while position < end:
        length = min(PAGE_BYTES - position % PAGE_BYTES, end - position)
        piece = _pread(fd, buffer[:length], position)
        if piece is None:
            yield Unreadable(length)
            position += length
        elif piece:
            yield piece
            position += len(piece)
        else:
            return


def _pread(fd: int, buffer: memoryview, position: int) -> memoryview | None:
    """What was read into the buffer: less than all at a short read, nothing at the end of the file; None: it failed."""
    try:
        return buffer[: os.preadv(fd, [buffer], position)]
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def reader_at(fd: int) -> Callable[[int, int], bytes]:
    """A function (offset, length) -> the bytes there, up to the end of the file or the first unreadable page."""

    def read_at(offset: int, length: int) -> bytes:
        try:  # the short way, where there is nothing to be said about pages
            piece = os.pread(fd, length, offset)
            if len(piece) == length or not os.pread(fd, 1, offset + len(piece)):
                return piece
        except OSError:
            pass
        pieces = []
        for chunk in read_chunks(fd, offset, offset + length):
            if isinstance(chunk, Unreadable):
                break
            pieces.append(chunk)
        return b"".join(pieces)

    return read_at
