"""The intact records of a damaged file, copied into a new one.

Enters: an open file. Leaves: a new file of the same format without a finding in it, and the list of what was left out.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from checksum.durable import replace_file, tee
from checksum.files import ReadsDiffer, read_chunks
from checksum.finding import Finding, Record, Unreadable
from checksum.formats import Format
from checksum.reader import Records, Span, add_to


def salvage_file(fd: int, format: Format, out: Path, lost_max: float, *, keep_found: bool = False) -> Records:
    """Writes the intact records to `out`, which appears whole or not at all, with the permissions of the original.

    Args:
        lost_max: which part of the bytes, 0 to 1, may be left out.
        keep_found: copies also the records that only a search found.

    Returns what was copied and what was left out: the reader of the file, at its end.

    Raises:
        LostTooMuch: the limit was exceeded; `out` is as it was.
        ReadsDiffer: what was read for the copy isn't what was judged; `out` is as it was.
        OSError: reading or writing failed; `out` is as it was.
    """
    records = Records(fd, format, lost_max, keep_found=keep_found, with_data=format.encode is not None)
    with replace_file(out, mode=os.fstat(fd).st_mode & 0o777) as file:
        if format.encode is None:
            copy = tee(_pieces(fd, _spans(records)), file.write)
            if any(isinstance(item, Finding) for item in format.verify(copy)):
                raise ReadsDiffer
        else:
            _write_framed(records, format.encode, file.write)
    return records


def _write_framed(
    records: Iterable[Record], encode: Callable[[bytes, int], bytes], write: Callable[[bytes], object]
) -> None:
    """Writes record after record with the framing of its new place."""
    offset = 0
    for record in records:
        assert record.data is not None, "a scan from the start of a file keeps every payload"
        framed = encode(record.data, offset)
        write(framed)
        offset += len(framed)


def _spans(records: Iterable[Record]) -> list[Span]:
    spans: list[Span] = []
    for record in records:
        add_to(spans, record)
    return spans


def _pieces(fd: int, spans: list[Span]) -> Iterator[bytes]:
    for span in spans:
        for chunk in read_chunks(fd, span.begin, span.end):
            if isinstance(chunk, Unreadable):  # which it was not a moment ago
                raise ReadsDiffer
            yield chunk
