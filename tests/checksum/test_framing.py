"""Declared framings: files by other writers, every flip and cut of small ones, the traps of searching, any bytes."""

import random
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfrecord.writer import TFRecordWriter

from checksum import tfrecord
from checksum.commands import locate, repair, salvage, verify
from checksum.finding import Finding, Flip, Record, Unreadable, Verdict, merge
from checksum.framing import Framing
from tests.checksum.faults import (
    Item,
    PristineLog,
    assert_no_phantom,
    assert_tiles,
    counted,
    cut,
    findings,
    flip,
    flips,
    garble,
    records,
    with_a_hole,
)
from tests.checksum.framings import DECLARED, STRONG, bare, framing, pagestore

ALL = list(DECLARED)
SMALL = [15, 1, 40, 200, 2, 9, 64, 27]


def random_file(name: str, seed: int, lengths: list[int]) -> PristineLog:
    rng = random.Random(seed)
    return DECLARED[name].file(rng.randbytes(length) for length in lengths)


def reader(data: bytes):
    return lambda offset, length: data[offset : offset + length]


def uncovered(declared: Framing, file: PristineLog) -> set[int]:
    """The bytes of the file that nothing tells anything about."""
    declaration = declared.declaration
    known = {declaration.length, declaration.sum, *declaration.covers}
    opaque = [
        declaration.places[field.name]
        for field in declaration.header
        if field.name not in known and field.constant is None
    ]
    found = {begin + at for begin in file.payloads for place in opaque for at in range(place.start, place.stop)}
    for begin, payload in file.payloads.items():
        end = begin + declaration.header_bytes + len(payload) + declaration.trailer_bytes
        found |= set(range(end, end + (begin - end) % declaration.align_bytes))
    return found


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 255) | st.integers(1, 60_000), max_size=12), st.integers(0, 2**32))
def test_what_others_write_is_read_with_any_cuts(name: str, lengths: list[int], seed: int) -> None:
    declared = framing(name)
    file = random_file(name, seed, [min(length, DECLARED[name].payload_bytes_max) for length in lengths])
    rng = random.Random(seed)
    items = list(declared.scan(cut(file.data, rng)))
    assert_tiles(items, 0, len(file.data))
    assert [item.data for item in records(items)] == list(file.payloads.values())
    assert not any(item.by_search for item in records(items))
    assert counted(declared.verify(cut(file.data, rng))) == counted(items)
    if declared.encode is not None:
        assert b"".join(declared.encode(payload, 0) for payload in file.payloads.values()) == file.data


@pytest.mark.parametrize("name", STRONG)
def test_every_flipped_bit_is_named_and_costs_its_record(name: str) -> None:
    declared, file = framing(name), random_file(name, 7, SMALL)
    blind = uncovered(declared, file)
    for offset_bytes in range(len(file.data)):
        for bit in range(8):
            damaged, truth = flip(file.data, offset_bytes, bit)
            items = list(declared.scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, file)
            expected = ([], len(SMALL)) if offset_bytes in blind else ([truth], len(SMALL) - 1)
            assert (flips(items), len(records(items))) == expected, (offset_bytes, bit)


@pytest.mark.parametrize("name", ["radio", "medium", "tiny"])
def test_under_weak_sums_every_flip_costs_its_record(name: str) -> None:
    declared, file = framing(name), random_file(name, 7, SMALL)
    named = 0
    for offset_bytes in range(len(file.data)):
        for bit in range(8):
            damaged, truth = flip(file.data, offset_bytes, bit)
            items = list(declared.scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_no_phantom(items, file)
            assert flips(items) in ([], [truth])
            named += flips(items) == [truth]
            assert len(records(items)) >= len(SMALL) - 2
    assert named > {"radio": 0.5, "medium": 0.99, "tiny": 0.01}[name] * 8 * len(file.data)


@pytest.mark.parametrize("name", ALL)
def test_every_cut_is_torn_and_costs_only_what_was_cut(name: str) -> None:
    declared, file = framing(name), random_file(name, 8, SMALL)
    ends = [*list(file.payloads)[1:], len(file.data)]
    align = declared.declaration.align_bytes
    for size in range(len(file.data)):
        items = list(declared.scan([file.data[:size]]))
        assert_tiles(items, 0, size)
        assert_no_phantom(items, file)
        assert len(records(items)) in (sum(end <= size for end in ends), sum(end < size + align for end in ends))
        assert {finding.verdict for finding in findings(items)} <= {Verdict.torn, Verdict.zeros}
