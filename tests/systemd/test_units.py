"""The unit files as systemd itself judges them."""

import re

import pytest

from tests.systemd.host import AGENT, COLLECTOR, SCRUBD, UNITS
from tests.systemd.machine import VENV, Machine

DIRECTORY = "/etc/systemd/system"
EXPOSURE_MAX = {AGENT: 1.5, SCRUBD: 0.5, COLLECTOR: 1.2}  # of 10; see deploy/README.md


def test_systemd_finds_nothing_to_say_about_them(machine: Machine) -> None:
    done = machine.ask("systemd-analyze", "verify", *(f"{DIRECTORY}/{unit}.service" for unit in UNITS))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_they_run_the_installed_flipwatch(machine: Machine, unit: str) -> None:
    command = machine.show(unit, "ExecStart")
    assert f"argv[]={VENV}/bin/flipwatch {unit.removeprefix('flipwatch-')} ;" in command


@pytest.mark.parametrize("unit", UNITS)
def test_they_are_little_exposed(machine: Machine, unit: str) -> None:
    page = machine.run("systemd-analyze", "security", "--no-pager", unit)
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", page)
    print(f"{unit}: systemd-analyze security says {exposure}")
    assert float(exposure) <= EXPOSURE_MAX[unit], page


def test_installed_again_nothing_changes(machine: Machine) -> None:
    directory = machine.root / DIRECTORY.lstrip("/")
    before = {path: path.read_text() for path in directory.rglob("flipwatch*") if path.is_file()}
    assert len(before) == len(UNITS) and "flipwatch-agent" in machine.run(f"{VENV}/bin/flipwatch", "install-units")
    assert {path: path.read_text() for path in before} == before
