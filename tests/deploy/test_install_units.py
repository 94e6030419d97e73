"""`flipwatch install-units` writes units that run the installation it belongs to, or says why it can't."""

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deploy import commands

UNITS = ("flipwatch-agent.service", "flipwatch-collector.service", "flipwatch-scrubd.service")


def install(monkeypatch: pytest.MonkeyPatch, venv: Path, to: Path) -> Result:
    (venv / "bin").mkdir(parents=True, exist_ok=True)
    (venv / "bin/flipwatch").touch()
    monkeypatch.setattr(sys, "executable", str(venv / "bin/python"))
    return CliRunner().invoke(commands.install_units, ["--to", str(to)])


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own directory lies where no service may look."""
    monkeypatch.setattr(commands, "HIDDEN", ())


def test_they_run_this_installation(anywhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for _ in range(2):
        done = install(monkeypatch, tmp_path / "venv", tmp_path / "units")
        assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "units").glob("*.service")) == sorted(UNITS)
    for unit in UNITS:
        text = (tmp_path / "units" / unit).read_text()
        name = unit.removeprefix("flipwatch-").removesuffix(".service")
        assert f"\nExecStart={tmp_path}/venv/bin/flipwatch {name}\n" in text and "/opt/flipwatch" not in text
        assert f"wrote {tmp_path}/units/{unit}" in done.output
    examples = [path for path in (tmp_path / "units").rglob("*") if path.is_file() and path.suffix != ".service"]
    assert len(examples) == 3 and all(path.name.endswith(".conf.example") for path in examples), "inert until renamed"


@pytest.mark.parametrize("place", ["/root/venv", "/home/ada/venv", "/tmp/venv"])
def test_what_services_cannot_see_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    monkeypatch.setattr(sys, "executable", f"{place}/bin/python")
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    done = CliRunner().invoke(commands.install_units, ["--to", str(tmp_path)])
    assert done.exit_code == 2 and re.fullmatch(
        rf"Error: {place}/bin/flipwatch: no service may look there; .*\n", done.output
    )
    assert not list(tmp_path.iterdir())


def test_troubles_are_one_sentence(anywhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = install(monkeypatch, tmp_path / "a venv", tmp_path / "units")
    assert done.exit_code == 2 and "a unit file can't hold such a path" in done.output
    (tmp_path / "file").touch()
    done = install(monkeypatch, tmp_path / "venv", tmp_path / "file/units")
    assert done.exit_code == 2 and done.output.count("\n") == 1 and "can't be written" in done.output
    (tmp_path / "venv/bin/flipwatch").unlink()
    done = CliRunner().invoke(commands.install_units, ["--to", str(tmp_path / "units")])
    assert done.exit_code == 2 and "not there; install flipwatch with pip" in done.output
