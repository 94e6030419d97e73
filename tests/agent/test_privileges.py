"""An agent without any privilege: it works with what it may read, and says what more it could see and how.

Root is run without capabilities, so that the modes of files bind it as they bind everybody.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, errors_metric, eventually
from tests.agent.rasdaemon_database import PACKAGED, RasdaemonDatabase
from tests.agent.smbios_table import memory_device, table, write
from tests.agent.trace_tree import Tracing

UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Daemon]:
    """A host with every witness, all but the counters closed to others than root."""
    if UNPRIVILEGED and not shutil.which(UNPRIVILEGED[0]):
        pytest.skip("setpriv, of util-linux, isn't installed")
    controller(tmp_path / "sys").create()
    write(tmp_path / "sys", table(memory_device("label of dimm0", serial="S1", part="P1")))
    tracing = Tracing(tmp_path / "tracing").create()
    (tmp_path / "kmsg").write_text("")
    (tmp_path / "pstore").mkdir()
    (tmp_path / "rasdaemon").mkdir()
    RasdaemonDatabase(tmp_path / "rasdaemon/ras.db").create(PACKAGED)
    closed = [tmp_path / name for name in ("kmsg", "pstore", "rasdaemon", "sys/firmware/dmi/tables/DMI")]
    closed += [tracing.instance]
    for path in closed:
        path.chmod(0)
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("boot-1\n")  # and nothing there says that it's a guest
    settings = {"rasdaemon_db": str(tmp_path / "rasdaemon/ras.db"), "proc": str(tmp_path / "proc")}
    yield Daemon(tmp_path, settings=settings, prefix=UNPRIVILEGED)
    for path in closed:
        path.chmod(0o700)
    tracing.close()


def test_it_counts_what_it_may_read_and_the_doctor_says_what_more_there_is(host: Daemon) -> None:
    with host as agent:
        controller(host.root / "sys").inject("dimm0", 2)
        eventually(lambda: agent.metrics()[errors_metric("mc0/channel0/slot0")] == 2)
        metrics = agent.metrics()
        assert metrics['flipwatch_source_up{source="edac"}'] == 1
        assert all(metrics[f'flipwatch_source_up{{source="{name}"}}'] == 0 for name in ("tracefs", "kmsg", "rasdaemon"))
        command = [*UNPRIVILEGED, sys.executable, "-m", "flipwatch", "doctor", "--json"]
        shown = subprocess.run(
            [*command, "--config", str(host.root / "agent.toml")], capture_output=True, text=True, timeout=60
        )
        assert "Traceback" not in "".join(agent.log)
        assert sum("it needs root or CAP_DAC_READ_SEARCH" in line for line in agent.log) == 1
    report = json.loads(shown.stdout)
    assert not shown.stderr and not report["ecc_blind"]
    said = {witness["name"]: "; ".join(witness["said"]) for witness in report["witnesses"]}
    assert "Permission denied" in said["tracefs"] and "flipwatch agent --prepare" in said["tracefs"]
    assert "CAP_SYSLOG would allow it" in said["kmsg"]
    assert "Permission denied" in said["rasdaemon"]
    assert "it needs root or CAP_DAC_READ_SEARCH" in report["memory_trouble"]
    assert [row["errors"] for row in report["memory"] if row["devices"] == ["mc0/channel0/slot0"]] == [{"corrected": 2}]
