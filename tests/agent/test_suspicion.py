"""Errors that may have spoilt what was written: the agent tells the scrubber, which verifies such files first."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent import scrubd, suspicion
from agent.report import MemoryFault, RecordFault
from agent.scrubd import StoreScrub
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, eventually
from tests.agent.scrubbed_store import Store, log_of

FAULT = MemoryFault(
    time_ns=5, time_error_s=1, host="h", device="mc0/unknown", stream="dram", severity="corrected", count=1, novel=False
)
RECORD = RecordFault(time_ns=9, time_error_s=1, host="h", device="/dev/sda", count=1, novel=False)


@pytest.mark.parametrize(
    ("stream", "severity", "is_suspect"),
    [
        ("dram", "corrected", False),
        ("dram", "uncorrected", True),
        ("sram", "deferred", True),
        ("core", "corrected", True),
        ("canary", "corrected", True),
        ("gpu", "uncorrected", False),
        ("host", "fatal", False),
    ],
)
def test_which_faults_make_files_suspect(stream: str, severity: str, is_suspect: bool) -> None:
    fault = replace(FAULT, stream=stream, severity=severity)
    assert suspicion.latest_ns([RECORD, fault, replace(FAULT, time_ns=7)]) == (5 if is_suspect else None)


def test_what_is_told_is_read_and_nonsense_is_nothing(tmp_path: Path) -> None:
    assert suspicion.read(tmp_path) == 0
    suspicion.write(tmp_path, 123)
    assert suspicion.read(tmp_path) == 123
    for content in (b"", b"-1", b"\xff", b"9" * 100 + b"x"):
        (tmp_path / suspicion.NAME).write_bytes(content)
        assert suspicion.read(tmp_path) in (0, int("9" * suspicion.FILE_BYTES_MAX))


def test_the_agent_tells_of_an_uncorrected_error_once_it_is_durable(tmp_path: Path) -> None:
    mc = controller(tmp_path / "sys").create()
    with Daemon(tmp_path) as agent:
        mc.inject("dimm0")
        eventually(lambda: len(agent.faults()[1]) == 1)
        assert suspicion.read(tmp_path / "state") == 0
        mc.inject("dimm0", kind="ue")
        eventually(lambda: suspicion.read(tmp_path / "state"))
        assert suspicion.read(tmp_path / "state") == agent.faults()[1][1].time_ns
        (tmp_path / "state" / suspicion.NAME).unlink()
        agent.kill()
        agent.start()
        assert suspicion.read(tmp_path / "state"), "it is told again"


def test_a_large_file_whose_turn_it_is_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubd, "CHECKPOINT_S", 0)  # else it takes a file of ten seconds
    store = Store(tmp_path, settle_s=0)
    data, middles = log_of(20)
    large, new = store.write("a.log", data), store.write("z.log", data)
    for path in (large, new):
        store.flip(path, middles[15])
    scrubbing = StoreScrub(store.scrubber, store.config.stores[0])
    read = scrubbing._before_piece

    def erring(size_bytes: int) -> None:
        if suspicion.read(store.config.agent.state_dir) == 0:
            os.utime(new)
            suspicion.write(store.config.agent.state_dir, 1)
        read(size_bytes)

    monkeypatch.setattr(scrubbing, "_before_piece", erring)
    scrubbing._pass()
    assert [Path(fault.detail["path"]).name for fault in store.faults()] == ["z.log", "a.log"]
    assert store.progress["done_bytes"] == 2 * len(data) and store.progress["bytes"] == 3 * len(data)
    store.scrubber._journal.close()


def test_files_written_since_their_last_check_are_verified_first_and_once(tmp_path: Path) -> None:
    store = Store(tmp_path, settle_s=0)
    data, middles = log_of(20)
    old, new = store.write("a.log", data), store.write("z.log", data)
    assert store.scrub() == []
    now_s = time.time()
    for path in (old, new):
        store.flip(path, middles[3])
    os.utime(new, (now_s, now_s))
    scrubbing = StoreScrub(store.scrubber, store.config.stores[0])
    scrubbing._begin_pass()
    before = store.progress
    scrubbing._verify_suspects()
    assert store.faults() == [] and store.progress == before, "nothing has erred"
    suspicion.write(store.config.agent.state_dir, 1)
    scrubbing._verify_suspects()
    assert [Path(fault.detail["path"]).name for fault in store.faults()] == ["z.log"]
    assert store.progress["cursor"] is None and store.progress["bytes"] == before["bytes"] + len(data)
    scrubbing._verify_suspects()
    assert store.progress["bytes"] == before["bytes"] + len(data), "once for each error"
    assert [Path(fault.detail["path"]).name for fault in store.scrub()] == ["a.log"], "the pass goes its way"
    store.scrubber._journal.close()
