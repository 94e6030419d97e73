"""What all tests of the agent share."""

from collections.abc import Iterator

import pytest

from checksum import crc32c


@pytest.fixture(autouse=True)
def same_kernel_after() -> Iterator[None]:
    """A scrubber chooses the checksum's kernel for its whole process, which here is that of all tests."""
    before = crc32c.implementation()
    yield
    crc32c.use(before)
