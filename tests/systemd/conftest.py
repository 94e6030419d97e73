"""One machine for all the tests, and a host in it for each."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.systemd.host import Host
from tests.systemd.machine import Machine, booted, installed


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    for program in ("mmdebstrap", "systemd-nspawn", "nsenter"):
        require(program)
    if os.geteuid() != 0 or not Path("/dev/kmsg").exists():
        pytest.fail("booting a machine takes root, and a kernel log at /dev/kmsg")
    scratch = tmp_path_factory.mktemp("machine")
    try:
        with booted(installed(scratch / "root", scratch)) as machine:
            yield machine
    finally:
        shutil.rmtree(scratch)


@pytest.fixture
def host(machine: Machine) -> Iterator[Host]:
    host = Host(machine)
    try:
        yield host
    finally:
        host.clean()
