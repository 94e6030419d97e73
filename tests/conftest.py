"""What all tests share: real programs are required, never quietly skipped in CI."""

import os
import shutil

import pytest

# As the front door does for the collector: threads of a linear algebra library only get in the way of small matrices.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def require(program: str) -> str:
    """The path of a real program; without it the test is skipped, and under CI=true it fails."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed (see README, 'What is needed when not root')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
