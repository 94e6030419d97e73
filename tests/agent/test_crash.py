"""The agent's road from counter to journal dies before every single write, fsync, rename, truncate and unlink in turn.

Two deaths: a kill, after which the kernel still has every byte it was given (half of the bytes, at a write); and a loss
of power, after which a file is as long as at its last fsync, and a name exists iff its directory was synced since.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.journal import Journal
from agent.observation import Moment
from agent.reconcile import reconcile
from agent.sources import edac
from tests.agent.edac_tree import controller, total
from tests.agent.watcher import NOW

CALLS = ("write", "fsync", "replace", "rename", "ftruncate", "unlink", "mkdir")
STEPS = 5
REAL = {name: getattr(os, name) for name in CALLS}


class Disk:
    """Counts the calls that change the disk and dies at the `fatal`-th."""

    def __init__(self, root: Path, fatal: int, death: str) -> None:
        self.root, self.left, self.death = root, fatal, death
        self.sizes = {path.stat().st_ino: path.stat().st_size for path in root.rglob("*")}
        self.names = {path: path.stat().st_ino for path in root.rglob("*")}

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self.wrapped(name))

    def wrapped(self, name: str) -> Callable:
        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                if name == "write" and self.death == "kill":
                    REAL["write"](args[0], bytes(args[1])[: len(args[1]) // 2])
                if self.death == "power":
                    self.lose_power()
                os._exit(137)
            result = REAL[name](*args, **kwargs)
            if name == "fsync":
                self.remember(args[0])
            return result

        return call

    def remember(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if not path.is_dir():
            self.sizes[os.fstat(fd).st_ino] = os.fstat(fd).st_size
            return
        self.names = {name: inode for name, inode in self.names.items() if name.parent != path}
        self.names |= {entry: entry.stat().st_ino for entry in path.iterdir()}

    def lose_power(self) -> None:
        for path in sorted(self.root.rglob("*"), reverse=True):  # children before their directories
            if path.is_file():
                os.truncate(path, min(path.stat().st_size, self.sizes.get(path.stat().st_ino, 0)))
            if self.names.get(path) != path.stat().st_ino:
                for below in path.rglob("*"):
                    REAL["unlink"](below)
                path.rmdir() if path.is_dir() else REAL["unlink"](path)


def cycle(journal: Journal, sysfs: Path, now: Moment) -> list[tuple[str, int, int]]:
    """One poll and what the journal acknowledged of it: (journal, seq, count)."""
    cursor = {key.removeprefix("edac/"): value for key, value in journal.state.items() if key.startswith("edac/")}
    poll = edac.poll(sysfs, cursor, now)
    faults, changes = reconcile({"edac": poll}, journal.state, now, "h1")
    changes.update({f"edac/{key}": value for key, value in poll.cursor.items()})
    return [(f.journal, f.seq, f.count) for f in journal.append(faults, changes)]


def later(step: int) -> Moment:
    return Moment(NOW.time_ns + step * 5 * 10**9, NOW.boottime_ns + step * 5 * 10**9, NOW.boot_id)


def opened(state: Path, max_bytes: int) -> Journal:
    journal = Journal(state / "memory", max_bytes, "machine")
    journal._segment_bytes = 2500  # rolls within the few steps
    return journal


def live(state: Path, sysfs: Path, max_bytes: int, acknowledge: Callable[[list], None]) -> None:
    mc = controller(sysfs)
    journal = opened(state, max_bytes)
    for step in range(STEPS):
        mc.inject(f"dimm{step % 4}", step + 1)
        mc.inject_noinfo(2)
        acknowledge(cycle(journal, sysfs, later(step)))
        if step == 2:
            journal.close()
            journal = opened(state, max_bytes)
    journal.close()


def run_child(state: Path, sysfs: Path, max_bytes: int, fatal: int, death: str) -> tuple[int, list]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            Disk(state, fatal, death).install()
            live(state, sysfs, max_bytes, lambda placed: REAL["write"](writing, json.dumps(placed).encode() + b"\n"))
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        acknowledged = [tuple(entry) for line in pipe for entry in json.loads(line)]
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), acknowledged


def check(state: Path, sysfs: Path, max_bytes: int, acknowledged: list, trims: bool) -> None:
    journal = opened(state, max_bytes)
    for step in range(STEPS, STEPS + 3):
        controller(sysfs).inject("dimm0")
        acknowledged += cycle(journal, sysfs, later(step))
    kept = [(f.journal, f.seq, f.count) for f in journal.faults({}, 1000)]
    assert len(kept) == len({entry[:2] for entry in kept}), "a seq means one fault"
    if trims:  # what died unacknowledged may be kept as well, but of the acknowledged only the oldest may go
        gone = [entry for entry in acknowledged if entry not in kept]
        assert gone == acknowledged[: len(gone)] and len(gone) < len(acknowledged)
    else:
        assert set(acknowledged) <= set(kept)
        assert sum(count for _, _, count in kept) == total([controller(sysfs)])
    devices = [value for key, value in journal.state.items() if key.startswith("device/")]
    assert sum(device["errors"].get("corrected", 0) for device in devices) == total([controller(sysfs)])
    journal.close()


@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("death", ["kill", "power"])
def test_death_at_every_step(tmp_path: Path, death: str, trims: bool) -> None:
    max_bytes = 4000 if trims else 1 << 20
    code, fatal = 137, 0
    while code:
        fatal += 1
        assert fatal < 200, "the child never survives"
        root = tmp_path / str(fatal)
        state, sysfs = root / "state", root / "sys"
        state.mkdir(parents=True)
        controller(sysfs).create()
        code, acknowledged = run_child(state, sysfs, max_bytes, fatal, death)
        assert code in (0, 137), f"the child failed at step {fatal}"
        check(state, sysfs, max_bytes, acknowledged, trims)
    assert fatal > 25, "there is a death before every call, and every append makes two"
