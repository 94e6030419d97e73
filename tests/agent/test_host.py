"""The host's sensors: a fault is told with the temperature beside the part that failed."""

from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from agent import config, host
from agent.daemon import Agent
from tests.agent.edac_tree import controller

Entry = namedtuple("Entry", "label current high critical")  # as psutil's
SENSORS = {
    "coretemp": [Entry("Package id 0", 71.0, 100.0, 100.0), Entry("Core 0", 69.0, 100.0, 100.0)],
    "jc42": [Entry("", 48.5, None, None), Entry("", 62.25, None, None)],
    "nvme": [Entry("Composite", 83.0, None, None)],
    "acpitz": [Entry("", 255.0, None, None), Entry("", -273.2, None, None)],
}


@pytest.fixture
def sensors(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Entry]]:
    found = dict(SENSORS)
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: found, raising=False)
    return found


def test_the_hottest_is_beside_the_part(sensors: dict[str, list[Entry]]) -> None:
    assert host.hottest("dram") == host.Temperature("jc42", "jc421", 62.25)
    assert host.hottest("sram") == host.Temperature("coretemp", "Package id 0", 71.0)
    assert host.hottest("host") == host.Temperature("nvme", "Composite", 83.0), "255 and -273 are no temperatures"
    del sensors["jc42"]
    assert host.hottest("dram") == host.Temperature("nvme", "Composite", 83.0)
    sensors.clear()
    assert host.hottest("dram") is None, "as in a virtual machine"


def test_a_fault_is_told_with_it_and_sensors_rest_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: asked.append(1) or SENSORS, raising=False)
    mc = controller(tmp_path / "sys").create()
    toml = tmp_path / "agent.toml"
    toml.write_text(f"[agent]\nstate_dir = '{tmp_path}/state'\nlisten = '127.0.0.1:0'\nsysfs = '{tmp_path}/sys'\n")
    agent = Agent(config.load(toml))
    try:
        agent._cycle()
        assert not asked
        mc.inject("dimm0")
        agent._cycle()
        answer = agent.faults(None, 10).decode()
    finally:
        agent._server.server_close()
        agent._journal.close()
    assert asked == [1]
    assert '"temperature_celsius":62.25,"temperature_sensor":"jc42 jc421"' in answer
