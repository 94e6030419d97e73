"""The scrubber's second look, whatever the format: damage on disk stands, damage in passing is told apart."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import scrub
from checksum import files
from checksum.finding import Finding, Verdict, merge
from checksum.formats import FORMATS
from tests.checksum.faults import append


def written(path: Path, name: str) -> tuple[bytes, list[int]]:
    """A file of 100 records, and where each begins."""
    rng = random.Random(1)
    data, begins = b"", []
    for _ in range(100):
        begins.append(len(data))
        data += append(name, rng.randbytes(1000), len(data))
    path.write_bytes(data)
    return data, begins


def confirmed(path: Path, name: str, found: list[Finding], end: int) -> tuple[list[Finding], list[Finding]]:
    fd = files.open_regular(path, follow=False)
    with open(fd, "rb"):
        nothing: Callable[[int], None] = lambda _size: None  # noqa: E731
        return scrub.confirm(fd, FORMATS[name], found, end, nothing)


@pytest.mark.parametrize("name", list(FORMATS))
def test_damage_on_disk_stands_and_damage_in_passing_is_transient(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    data, begins = written(path, name)
    damaged = bytearray(data)
    for number in (40, 70):
        damaged[begins[number] + 500] ^= 4
    items = list(FORMATS[name].scan([bytes(damaged)], with_data=False))
    found = list(merge(item for item in items if isinstance(item, Finding)))
    assert len(found) == 2
    end = items[80].end  # where a section of the scrubber may end: anywhere between two items

    path.write_bytes(damaged)
    assert confirmed(path, name, found, end) == (found, [])
    path.write_bytes(data)
    standing, passing = confirmed(path, name, found, end)
    assert standing == []
    assert [(item.begin, item.verdict) for item in passing] == [(item.begin, Verdict.transient) for item in found]


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_scan_that_goes_on_says_what_a_whole_one_said(tmp_path: Path, name: str) -> None:
    form = FORMATS[name]
    data, begins = written(tmp_path / "file", name)
    damaged = bytearray(data)
    damaged[begins[60] + 500] ^= 4
    whole = list(form.scan([bytes(damaged)], with_data=False))
    for item in whole[::7]:
        start = form.resume_offset(item.end, True)
        rest = form.scan([bytes(damaged[start:])], offset=start, resumed=start > 0, with_data=False)
        assert [i for i in rest if i.begin >= item.end] == [i for i in whole if i.begin >= item.end]
