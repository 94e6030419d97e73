"""What the scrubber counts and judges is what a scan of the same files says, wherever it is stopped and goes on."""

import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent import scrubd
from agent.config import Config, load
from agent.report import RecordFault
from checksum import crc32c
from checksum.finding import Finding, Record, merge
from checksum.leveldb_log import encode, scan

LENGTHS = [100, 0, 1000, 40_000, 3, 20_000, 90_000, 700, 32_000, 60]
LIMIT_S = 60


def write_store(directory: Path) -> tuple[int, dict[str, list[Finding]]]:
    """Three logs, two of them damaged: the number of intact records, and the findings of each file."""
    directory.mkdir()
    rng = random.Random(5)
    records, found = 0, {}
    for name, flips in (("a", 3), ("b", 0), ("c", 40)):
        data = bytearray()
        for length in LENGTHS * 4:
            data += encode(rng.randbytes(length), len(data))
        for _ in range(flips):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path = directory / name
        path.write_bytes(data)
        os.utime(path, (1e9, 1e9))  # nobody is writing it
        items = list(scan([bytes(data)], with_data=False))
        records += sum(isinstance(item, Record) for item in items)
        found[str(path)] = list(merge(item for item in items if isinstance(item, Finding)))
    return records, found


def configured(tmp_path: Path, kernel: str = "auto") -> Config:
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[agent]\nstate_dir = "{tmp_path}/state"\nchecksum_kernel = "{kernel}"\n'
        f'[[store]]\npath = "{tmp_path}/store"\nrate_mib_s = 1000\npressure_max_percent = 100\n'
    )
    return load(file)


def run_pass(config: Config, stop_after: int | None = None) -> tuple[dict[str, Any], list[RecordFault]]:
    """The state when a pass ended (or after so many commits), and the faults that were committed."""
    scrubber = scrubd.Scrubber(config)
    key = f"store/{config.stores[0].path}"
    faults: list[RecordFault] = []
    commit = scrubber.commit
    commits = 0

    def committed(new: list[RecordFault], changes: dict[str, Any]) -> None:
        nonlocal commits
        if commits != stop_after:
            commit(new, changes)
            commits += 1
            faults.extend(new)
        if commits == stop_after:
            scrubber.stop()
            raise scrubd.Stopped  # as if killed: nothing more is written

    scrubber.commit = committed  # type: ignore[method-assign]
    thread = threading.Thread(target=scrubber.run)
    thread.start()
    seen, until_s = -1, 0.0
    while commits != stop_after and not scrubber.state.get(key, {}).get("finished_ns"):
        if commits != seen:  # each is a few fsyncs, which take a busy disk long; only standing still is an end
            seen, until_s = commits, time.monotonic() + LIMIT_S
        assert time.monotonic() < until_s, f"nothing was committed for {LIMIT_S} s"
        assert thread.is_alive() or commits == stop_after, "the scrubber gave up"
        time.sleep(0.005)
    state = dict(scrubber.state)
    scrubber.stop()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    return state, faults


def judged(state: dict[str, Any], path: str) -> list[Any]:
    entry = state.get(f"open/{path}", {"findings": []})
    assert all(isinstance(document, dict) for document in entry["findings"])
    return list(entry["findings"])


@pytest.mark.parametrize("checkpoint_s", [0.0, 10.0])
def test_a_pass_counts_what_a_scan_counts(tmp_path: Path, checkpoint_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubd, "CHECKPOINT_S", checkpoint_s)
    records, found = write_store(tmp_path / "store")
    state, faults = run_pass(configured(tmp_path))
    progress = state[f"store/{tmp_path}/store"]
    assert progress["verified"] == {"leveldb-log": records}
    assert progress["bytes"] == sum(Path(path).stat().st_size for path in found)
    for path, findings in found.items():
        assert judged(state, path) == [scrubd.finding_document(finding) for finding in findings]
    assert len(faults) == sum(map(len, found.values()))
    assert crc32c.implementation() == ("sse4.2" if "sse4.2" in crc32c.kernels() else crc32c.kernels()[0])


def test_a_pass_that_was_killed_goes_on_and_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubd, "CHECKPOINT_S", 0.0)
    records, found = write_store(tmp_path / "store")
    told: list[RecordFault] = []
    for _ in range(4):
        state, new = run_pass(configured(tmp_path), stop_after=7)
        told += new
        finished_ns = state[f"store/{tmp_path}/store"]["finished_ns"]
        assert finished_ns is None, "a run after the end would begin another pass, and count that too"
    state, faults = run_pass(configured(tmp_path))
    assert state[f"store/{tmp_path}/store"]["verified"] == {"leveldb-log": records}
    for path, findings in found.items():
        assert judged(state, path) == [scrubd.finding_document(finding) for finding in findings]
    assert len(told + faults) == sum(map(len, found.values()))


def test_the_kernel_is_configured(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    kernel = crc32c.kernels()[-1]
    run_pass(configured(tmp_path, kernel))
    assert crc32c.implementation() == kernel
