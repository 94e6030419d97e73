"""The part of a file that is in memory while a reader of records goes through it, whatever the pieces it came in.

Enters: chunks of a file, cut anywhere, and stretches that couldn't be read. Leaves: bytes by their offset in the file.
It grows as far as it is asked to reach, and forgets what was dropped.
"""

from collections.abc import Callable, Iterable

from checksum.crc32c import Buffer, zeros_end
from checksum.finding import Unreadable

# (buffer, position, place) -> where the intact records from the position on end, and how many end behind the place
Walk = Callable[[Buffer, int, int], tuple[int, int]]


class Window:
    """Bytes [begin, end) of the file. Bytes in a hole are unknown (here zero)."""

    def __init__(self, chunks: Iterable[Buffer | Unreadable], offset: int, is_sparing: bool = False) -> None:
        self._chunks = iter(chunks)
        self._is_sparing = is_sparing  # takes in no more than was asked for
        self._rest = memoryview(b"")  # of the present chunk, what isn't in the window yet
        self._dropped = 0  # bytes at the front of `data` that are no longer wanted
        self.data = bytearray()
        self.begin = self.end = offset
        self.holes: list[tuple[int, int]] = []
        self.work_bytes = 0  # that went through a checksum, as the reader counts them

    def reach(self, end: int) -> bool:
        """Reads on until the window ends at `end` or later; False if the file ends before."""
        while self.end < end:
            if not self._rest and not self._fetch():
                return False
            self._forget()
            taken = self._rest[: end - self.end] if self._is_sparing else self._rest
            self.data += taken
            self.end += len(taken)
            self._rest = self._rest[len(taken) :]
        return True

    def pass_over(self, walk: Walk, begin: int) -> tuple[int, int]:
        """Moves an empty window behind the intact records that follow, without taking them in.

        Returns where the last of them ends, and how many end behind `begin`.
        """
        start = self.end
        if (not self._rest and not self._fetch()) or not self._rest:  # the file ends, or a hole is in the window now
            return start, 0
        length, records = walk(self._rest, 0, begin - self.end)
        if length:
            self.drop(self.end)
            self._forget()
            self.begin = self.end = start + length
            self._rest = self._rest[length:]
        return start + length, records

    def pass_zeros(self, position: int, step_bytes: int, header_bytes: int) -> int:
        """Moves over as many whole steps of a search as no header can begin in, because they and the bytes behind them
        are zeros; returns where the first other step begins. A sparse file may hold terabytes of them.
        """
        if self.holes or zeros_end(self.data, position - self.begin) < len(self.data):
            return position
        self.drop(position)
        self._forget()
        end = self.end
        while (self._rest or self._fetch()) and not self.holes:
            blank = zeros_end(self._rest, 0)
            end, self._rest = end + blank, self._rest[blank:]
            begin = position + max(0, end - position - header_bytes) // step_bytes * step_bytes
            self._keep_zeros(begin, end)
            if self._rest:
                break
        return max(position, self.begin)

    def _keep_zeros(self, begin: int, end: int) -> None:
        """Makes the window [begin, end), where it held nothing but zeros before and shall again."""
        del self.data[end - begin :]
        self.data += bytes(end - begin - len(self.data))
        self.begin, self.end, self._dropped = begin, end, 0

    def _fetch(self) -> bool:
        """Takes the next chunk; what the disk would not give is in the window at once. False at the end of the file."""
        for chunk in self._chunks:
            if not isinstance(chunk, Unreadable):
                self._rest = memoryview(chunk)
                return True
            self._forget()
            self.holes.append((self.end, self.end + chunk.length))
            self.data += bytes(chunk.length)
            self.end += chunk.length
            return True
        return False

    def drop(self, begin: int) -> None:
        """Nothing before `begin` will be asked for again."""
        self._dropped = begin - self.begin

    def _forget(self) -> None:
        del self.data[: self._dropped]
        self.begin += self._dropped
        self._dropped = 0
        if self.holes:
            self.holes = [hole for hole in self.holes if hole[1] > self.begin]

    def has_hole(self, begin: int, end: int) -> bool:
        return any(hole_begin < end and begin < hole_end for hole_begin, hole_end in self.holes)

    def bytes(self, begin: int, end: int) -> bytes:
        with memoryview(self.data) as view:
            return bytes(view[begin - self.begin : end - self.begin])
