"""What the layers below a volume say of their errors, over trees like those of sysfs (tests/kernel has real ones)."""

import os
import time
from pathlib import Path

import pytest

from agent import volume
from tests.agent.scrubbed_store import Store, log_of

CLEAN = "write_errs 0\nread_errs 0\nflush_errs 0\ncorruption_errs 0\ngeneration_errs 0\n"


class Blocks:
    """<sysfs>/class/block with its links into <sysfs>/devices."""

    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs
        (sysfs / "class/block").mkdir(parents=True)

    def disk(self, name: str, *, partition_of: str | None = None, members: tuple[str, ...] = ()) -> Path:
        parent = self.sysfs / "devices" / (partition_of or "")
        (parent / name / "slaves").mkdir(parents=True)
        if partition_of:
            (parent / name / "partition").write_text("1\n")
        for member in members:
            (parent / name / "slaves" / member).symlink_to(self.sysfs / "class/block" / member)
        (self.sysfs / "class/block" / name).symlink_to(parent / name)
        return parent / name

    def btrfs(self, uuid: str, **stats: str) -> None:
        for number, (name, text) in enumerate(stats.items(), 1):
            device = self.sysfs / "fs/btrfs" / uuid / "devinfo" / str(number)
            device.mkdir(parents=True)
            (device / "error_stats").write_text(text)
            links = self.sysfs / "fs/btrfs" / uuid / "devices"
            links.mkdir(exist_ok=True)
            (links / name).symlink_to(self.sysfs / "class/block" / name)


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    return Blocks(tmp_path / "sys")


def test_a_mirror_under_a_mapper_over_partitions(blocks: Blocks) -> None:
    for disk in ("sda", "sdb"):
        blocks.disk(disk)
        blocks.disk(f"{disk}1", partition_of=disk)
    mirror = blocks.disk("md0", members=("sda1", "sdb1"))
    blocks.disk("dm-0", members=("md0",))
    assert list(volume._layers(blocks.sysfs, "dm-0")) == ["dm-0", "md0", "sda1", "sdb1", "sda", "sdb"]
    (mirror / "md").mkdir()
    (mirror / "md/mismatch_cnt").write_text("128\n")
    assert volume.errors(blocks.sysfs, "/dev/dm-0") == {"md": {"md0": {"mismatch_cnt": 128}}}


def test_btrfs_is_summed_over_its_own_devices(blocks: Blocks) -> None:
    for name in ("sda", "sdb", "sdc"):
        blocks.disk(name)
    blocks.btrfs(
        "0b8a1f6e-7d0e-4f5b-9f43-1f0a4c1d2e3f", sda=CLEAN.replace("corruption_errs 0", "corruption_errs 7"), sdb=CLEAN
    )
    blocks.btrfs("11111111-7d0e-4f5b-9f43-1f0a4c1d2e3f", sdc=CLEAN.replace("read_errs 0", "read_errs 99"))
    found = volume.errors(blocks.sysfs, "/dev/sdb")["btrfs"]
    assert found["corruption_errs"] == 7 and found["read_errs"] == 0


@pytest.mark.parametrize("text", ["", "nonsense\n", "corruption_errs x\n", "\xff" * 10000, "-5\n"])
def test_senseless_files_are_left_out(blocks: Blocks, text: str) -> None:
    mirror = blocks.disk("md0")
    (mirror / "md").mkdir()
    (mirror / "md/mismatch_cnt").write_text(text)
    blocks.btrfs("0b8a1f6e-7d0e-4f5b-9f43-1f0a4c1d2e3f", md0=text)
    assert volume.errors(blocks.sysfs, "/dev/md0") == {}
    assert volume.errors(blocks.sysfs, "overlay") == {} == volume.errors(blocks.sysfs / "nothing", "0:41")


def test_members_that_contain_each_other_end(blocks: Blocks) -> None:
    blocks.disk("dm-0", members=("dm-1",))
    blocks.disk("dm-1", members=("dm-0",))
    assert list(volume._layers(blocks.sysfs, "dm-0")) == ["dm-0", "dm-1"]


def test_a_drive_that_may_not_be_asked_is_left_out(blocks: Blocks, tmp_path: Path) -> None:
    blocks.disk("nvme0n1")
    (tmp_path / "nvme0n1").write_bytes(b"no drive: it knows no such request")
    assert volume.errors(blocks.sysfs, "/dev/nvme0n1", dev=tmp_path) == {}
    assert volume.errors(blocks.sysfs, "/dev/nvme0n1", dev=tmp_path / "nowhere") == {}


def test_a_corrupt_record_is_told_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(volume, "errors", lambda sysfs, device: {"md": {"md0": {"mismatch_cnt": 8}}})
    data, middles = log_of(20)
    path = store.write("a.log", data)
    store.flip(path, middles[3])
    os.utime(path, (time.time() - 1000,) * 2)
    (fault,) = store.scrub()
    assert fault.detail["volume"] == {"md": {"md0": {"mismatch_cnt": 8}}}


def test_the_volume_of_a_file(tmp_path: Path) -> None:
    table = tmp_path / "self/mountinfo"
    assert volume.device_of(tmp_path, os.makedev(8, 1)) == "8:1"
    table.parent.mkdir()
    table.write_bytes(b"36 35 8:1 / /\xff rw,noatime master:1 - ext3 /dev/sda1 rw\n\nshort\n")
    assert volume.device_of(tmp_path, os.makedev(8, 1)) == "/dev/sda1"
    assert volume.device_of(tmp_path, os.makedev(8, 2)) == "8:2"
