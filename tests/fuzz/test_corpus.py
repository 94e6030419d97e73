"""Whatever the fuzzer ever found worth keeping, again; `make fuzz` looks for more."""

import gzip
from pathlib import Path

import pytest

from tests.fuzz.target import READERS, SECOND_OPINIONS, check

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", READERS)
def test_the_corpus(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs, "make fuzz fills it"
    for path in inputs:
        check(name, path.read_bytes())


def test_the_second_opinions_have_one() -> None:
    """A record with one flipped bit would be noticed if a reader returned it."""
    for name, holds in SECOND_OPINIONS.items():
        reader = READERS[name]
        data = reader.encode(b"some payload", 0) if reader.encode else gzip.compress(b"some payload", mtime=0)
        (record,) = reader.scan([data])
        assert holds(data, record)
        assert not holds(data[:-3] + bytes([data[-3] ^ 4]) + data[-2:], record)
