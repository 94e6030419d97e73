"""The world that the tests of dashboards and rules share: it is started once."""

from collections.abc import Iterator

import pytest

from tests.dashboards.world import World, running_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("world")) as running:
        yield running
