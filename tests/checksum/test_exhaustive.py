"""Every pair of flipped bits of a small file, in every format: nothing crashes, and nothing false is returned."""

from itertools import combinations

import pytest

from checksum import leveldb_log, tfrecord
from checksum.formats import Format
from tests.checksum.faults import PristineLog, assert_no_phantom, assert_tiles, records
from tests.checksum.framings import DECLARED, framing

PAYLOADS = (b"a", b"bc")


def small(format: Format) -> PristineLog:
    if format.NAME in DECLARED:
        return DECLARED[format.NAME].file(PAYLOADS)
    data, begins = b"", {}
    for payload in PAYLOADS:
        begins[len(data)] = payload
        data += format.encode(payload, len(data))
    return PristineLog(data, begins)


@pytest.mark.parametrize(
    "format",
    [leveldb_log, tfrecord, *(framing(name) for name in ("pagestore", "bare"))],
    ids=lambda format: format.NAME,
)
def test_every_pair_of_flips(format: Format) -> None:
    file = small(format)
    damaged = bytearray(file.data)
    for bits in combinations(range(8 * len(damaged)), 2):
        for at in bits:
            damaged[at // 8] ^= 1 << at % 8
        items = list(format.scan([bytes(damaged)]))
        assert_tiles(items, 0, len(damaged))
        assert_no_phantom(items, file)
        assert len(records(items)) <= len(PAYLOADS)
        for at in bits:
            damaged[at // 8] ^= 1 << at % 8
    assert damaged == file.data
