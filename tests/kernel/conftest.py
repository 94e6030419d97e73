"""A booted guest for each of Debian's kernels, shared by the tests of a module; their order is their story."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.debian_kernel import Kernel, unpacked
from tests.kernel.guest import Guest, started

PACKAGES = ("linux-image-amd64", "linux-image-6.12-amd64")  # of Debian 12, and of its security suite


@pytest.fixture(scope="session", params=PACKAGES)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return unpacked(request.param)


@pytest.fixture(scope="module")
def state(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that outlives the guests of a kernel."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def guest(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Guest]:
    with started(kernel, tmp_path_factory.mktemp("guest"), state) as guest:
        yield guest
