"""What all tests share: real programs are required, never quietly skipped in CI; no test is judged by the clock."""

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from checksum.files import evict

# As the front door does for the collector: threads of a linear algebra library only get in the way of small matrices.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Hypothesis fails an example that takes 200 ms; on a busy machine that says nothing about the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def require(program: str) -> str:
    """The path of a real program; without it the test is skipped, and under CI=true it fails."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed (see README, 'What is needed when not root')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """`tmp_path`, where it lies on a disk from whose files the page cache can be evicted; else the test is skipped."""
    path = tmp_path / "probe"
    path.write_bytes(b"probe")
    with path.open("rb") as file:
        os.fsync(file.fileno())
    with path.open("rb") as file:
        for _ in range(100):  # a page that is just being read stays
            if evict(file.fileno(), 0, 5):
                path.unlink()
                return tmp_path
            time.sleep(0.01)
    pytest.skip(f"{tmp_path} keeps its files in memory; set TMPDIR to a directory on a disk")
