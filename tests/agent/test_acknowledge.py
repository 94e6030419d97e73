"""Acknowledged errors: kept whole, open no more until the next one, as the command line, metrics and doctor have it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent import commands
from agent.acknowledge import DIRECTORY, Acknowledgement, make_directory, read, remove, write
from agent.config import AgentSettings, Config
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, errors_metric, eventually
from tests.agent.smbios_table import memory_device, table
from tests.agent.smbios_table import write as write_table

SLOT = "mc0/channel0/slot0"
SAID = Acknowledgement(errors={"corrected": 3}, reason="part is ordered", by="ada", time_ns=1, serial="S1")
OPEN = 'flipwatch_open_faults{severity="corrected",stream="dram"}'
ACTION = f'flipwatch_device_action{{action="watch",device="{SLOT}",rule="corrected"}}'


def state_of(name: str, device: str = SLOT) -> str:
    return f'flipwatch_device_state{{device="{device}",state="{name}",stream="dram"}}'


def flipwatch(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flipwatch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_is_written_is_read_until_it_is_removed(tmp_path: Path) -> None:
    assert read(tmp_path) == ({}, ())
    make_directory(tmp_path)
    make_directory(tmp_path)
    for device in (SLOT, "fru/DIMM_A1 %2F ..", "gpu/GPU-a/dram"):
        write(tmp_path, "dram", device, SAID)
        assert read(tmp_path)[0]["dram", device] == SAID
        remove(tmp_path, "dram", device)
    assert read(tmp_path) == ({}, ())
    with pytest.raises(FileNotFoundError):
        remove(tmp_path, "dram", SLOT)
    assert stat.S_IMODE((tmp_path / DIRECTORY).stat().st_mode) == 0o2770, "the agent's group may write"


def test_the_directory_belongs_to_the_group_of_the_state(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, -1, 65534)
    make_directory(tmp_path)
    assert (tmp_path / DIRECTORY).stat().st_gid == tmp_path.stat().st_gid


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"[]", b'{"errors": 3}', b'{"errors": {"corrected": "3"}}', b"[" * 60_000]
)
def test_a_file_that_makes_no_sense_hides_no_other(tmp_path: Path, content: bytes) -> None:
    make_directory(tmp_path)
    write(tmp_path, "dram", SLOT, SAID)
    (tmp_path / DIRECTORY / "dram%2Fmc9").write_bytes(content)
    (tmp_path / DIRECTORY / ".half.tmp").write_bytes(b"{")
    found, trouble = read(tmp_path)
    assert found == {("dram", SLOT): SAID}
    assert len(trouble) == 1 and "mc9: not what flipwatch ack writes" in trouble[0]


def test_from_the_command_line_to_the_metrics_through_restarts_and_new_errors(tmp_path: Path) -> None:
    mc = controller(tmp_path / "sys").create()
    with Daemon(tmp_path) as agent:
        mc.inject("dimm0", 3)
        eventually(lambda: agent.metrics()[OPEN] == 1)
        config = ("--config", str(tmp_path / "agent.toml"))
        said = flipwatch("ack", SLOT, "--reason", "part is ordered", *config)
        assert said.returncode == 0 and "3 corrected acknowledged" in said.stdout
        eventually(lambda: agent.metrics()[OPEN] == 0)
        metrics = agent.metrics()
        assert metrics[state_of("acknowledged")] == 1 and state_of("open") not in metrics and ACTION not in metrics
        agent.kill()
        agent.start()
        assert agent.metrics()[OPEN] == 0, "it outlives the agent"
        report = json.loads(flipwatch("doctor", "--json", *config).stdout)
        (row,) = [row for row in report["memory"] if row["devices"] == [SLOT]]
        assert row["state"] == "acknowledged" and row["acknowledged"][SLOT]["reason"] == "part is ordered"
        assert "watch (acknowledged)" in flipwatch("doctor", *config).stdout
        mc.inject("dimm0")
        eventually(lambda: agent.metrics()[OPEN] == 1)
        assert agent.metrics()[state_of("open")] == 1 and agent.metrics()[ACTION] == 1
        assert flipwatch("ack", SLOT, "--reason", "again", *config).returncode == 0
        eventually(lambda: agent.metrics()[OPEN] == 0)
        assert flipwatch("ack", SLOT, "--undo", *config).returncode == 0
        eventually(lambda: agent.metrics()[OPEN] == 1)


def test_another_part_in_the_same_place_is_not_acknowledged_with_the_one_before_it(tmp_path: Path) -> None:
    def boot(number: int) -> None:
        boot_id.write_text(f"boot-{number}\n")
        write_table(tmp_path / "sys", table(memory_device("label of dimm0", serial=f"S{number}")))
        mc.reset()

    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    mc = controller(tmp_path / "sys")
    boot(1)
    with Daemon(tmp_path, settings={"proc": str(tmp_path / "proc")}) as agent:
        mc.inject("dimm0", 3)
        eventually(lambda: agent.metrics()[OPEN] == 1)
        config = ("--config", str(tmp_path / "agent.toml"))
        assert flipwatch("ack", SLOT, "--reason", "part is ordered", *config).returncode == 0
        eventually(lambda: agent.metrics()[OPEN] == 0)
        agent.stop()
        boot(2)
        agent.start()
        mc.inject("dimm0", 3)
        eventually(lambda: agent.metrics()[errors_metric(SLOT)] == 3)
        assert agent.metrics()[OPEN] == 1 and agent.metrics()[state_of("open")] == 1
        report = json.loads(flipwatch("doctor", "--json", *config).stdout)
        states = {row["serial"]: row["state"] for row in report["memory"] if row["devices"] == [SLOT]}
        assert states == {"S1": "replaced", "S2": "open"}


def test_a_part_that_is_taken_out_is_gone_and_open_no_more(tmp_path: Path) -> None:
    mc = controller(tmp_path / "sys").create()
    with Daemon(tmp_path) as agent:
        mc.inject("dimm3", 2)
        eventually(lambda: agent.metrics()[OPEN] == 1)
        mc.remove()  # a place goes with its driver, which starts anew without it
        del mc.places["dimm3"]
        mc.create(seconds_since_reset=0)
        eventually(lambda: agent.metrics().get(state_of("gone", "mc0/channel1/slot1")))
        assert agent.metrics()[OPEN] == 0


@pytest.mark.parametrize("is_there", [True, False])
def test_without_a_configuration_named_it_takes_what_the_agent_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    usual = tmp_path / "agent.toml"
    monkeypatch.setattr(commands, "CONFIG", usual)
    monkeypatch.setattr(commands.agent_config, "default", lambda: Config(AgentSettings(tmp_path / "none"), (), ("", 0)))
    if is_there:
        usual.write_text(f"[agent]\nstate_dir = '{tmp_path}/usual'\n")
    said = CliRunner().invoke(commands.ack, [SLOT, "--reason", "r"])
    assert said.exit_code == 2 and f"{tmp_path}/{'usual' if is_there else 'none'}/memory: not there" in said.output


def test_what_makes_no_sense_is_refused_in_one_sentence(tmp_path: Path) -> None:
    mc = controller(tmp_path / "sys").create()
    config = ("--config", str(Daemon(tmp_path).write_config()))
    cases = [
        (("ack", SLOT, "--reason", "r", "--config", "/nowhere.toml"), 2, "/nowhere.toml"),
        (("ack", SLOT, *config), 2, "give either --reason, or --undo"),
        (("ack", SLOT, "--undo", "--reason", "r", *config), 2, "give either --reason, or --undo"),
        (("ack", SLOT, "--reason", "r", *config), 2, "the daemon hasn't run"),
        (("ack", SLOT, "--undo", *config), 1, "isn't acknowledged"),
    ]
    for arguments, status, sentence in cases:
        said = flipwatch(*arguments)
        assert said.returncode == status and sentence in said.stderr and "Traceback" not in said.stderr
    with Daemon(tmp_path) as agent:
        mc.inject("dimm1")
        eventually(lambda: agent.metrics()[OPEN] == 1)
        said = flipwatch("ack", SLOT, "--reason", "r", *config)
        assert said.returncode == 1 and "there are some of: mc0/channel0/slot1" in said.stderr
        (tmp_path / "state" / DIRECTORY / "dram%2Fx").write_text("nonsense")
        eventually(lambda: any("not acknowledged" in line for line in agent.log))
        assert sum("not acknowledged" in line for line in agent.log) == 1
