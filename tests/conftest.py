"""What all tests share: real programs are required, never quietly skipped in CI."""

import os
import shutil

import pytest


def require(program: str) -> str:
    """The path of a real program; without it the test is skipped, and under CI=true it fails."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed (see README, 'What is needed when not root')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
