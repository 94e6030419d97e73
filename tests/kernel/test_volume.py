"""What real kernels say of the layers below a volume: a mirror of btrfs and one of md, each with a flipped bit, and a
drive of QEMU's that is asked for its health."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.debian_kernel import ROOT
from tests.kernel.guest import Guest

MARK = "a record of flipwatch"
FLIP = f"""
import mmap
file = open("/run/disk1", "r+b")
image = mmap.mmap(file.fileno(), 0)
image[image.find({MARK!r}.encode() + bytes([10]))] ^= 4
"""
ERRORS = """
import json, os, pathlib
from agent import volume
os.setuid({user})
print(json.dumps(volume.errors(pathlib.Path("/sys"), "{device}")))
"""
NOBODY = 65534


def errors_below(guest: Guest, device: str, user: int = 0) -> dict[str, Any]:
    """What agent/volume.py finds in the guest."""
    found: dict[str, Any] = json.loads(python(guest, ERRORS.format(device=device, user=user)))
    return found


def python(guest: Guest, program: str) -> str:
    guest.run(f"cat > /root/run/program.py <<'END'\n{program}\nEND")
    return guest.run(f"chroot /root sh -c 'cd {ROOT} && PYTHONPATH=. {sys.executable} /run/program.py'")


@pytest.fixture(scope="module")
def with_loops(guest: Guest) -> Guest:
    guest.load("loop")
    return guest


@pytest.fixture
def disks(with_loops: Guest) -> Iterator[Guest]:
    """/dev/loop0 and /dev/loop1, empty."""
    for number in (0, 1):
        with_loops.run(f"truncate -s 128M /root/run/disk{number}; losetup /dev/loop{number} /root/run/disk{number}")
    yield with_loops
    with_loops.run("losetup -d /dev/loop0; losetup -d /dev/loop1; rm /root/run/disk0 /root/run/disk1")


def test_btrfs_counts_the_copy_that_was_corrupt(disks: Guest) -> None:
    disks.load("crc32c_generic")  # which btrfs asks for by no symbol
    disks.load("btrfs")
    disks.run("chroot /root /sbin/mkfs.btrfs -q -d raid1 -m raid1 /dev/loop0 /dev/loop1")
    disks.run(
        f"mount -t btrfs -o device=/dev/loop1 /dev/loop0 /root/mnt; yes '{MARK}' | head -c 300000 > /root/mnt/file"
    )
    disks.run("sync; umount /root/mnt")
    python(disks, FLIP)
    disks.run("mount -t btrfs -o device=/dev/loop1 /dev/loop0 /root/mnt; chroot /root /bin/btrfs scrub start -B /mnt")
    found = errors_below(disks, "/dev/loop0")["btrfs"]
    assert found["corruption_errs"] == 1 and found["write_errs"] == 0
    disks.run("umount /root/mnt")


def test_md_counts_what_its_check_found_to_differ(disks: Guest) -> None:
    disks.load("raid1")
    disks.run(
        "chroot /root /sbin/mdadm --build /dev/md0 --level=1 --raid-devices=2 --assume-clean /dev/loop0 /dev/loop1"
    )
    assert errors_below(disks, "/dev/md0") == {"md": {"md0": {"mismatch_cnt": 0}}}
    disks.run("echo x | dd of=/root/run/disk1 bs=1 seek=5000000 conv=notrunc 2>&1; echo 3 > /proc/sys/vm/drop_caches")
    action = "/sys/block/md0/md/sync_action"
    disks.run(f"echo check > {action}; while ! grep -q idle {action}; do sleep 0.2; done")
    assert errors_below(disks, "/dev/md0")["md"]["md0"]["mismatch_cnt"] > 0
    disks.run("chroot /root /sbin/mdadm --stop /dev/md0")


def test_a_drive_tells_its_health(guest: Guest) -> None:
    guest.load("nvme")
    guest.run("while [ ! -b /dev/nvme0n1 ]; do sleep 0.1; done")
    healthy = {"media_errors": 0, "error_log_entries": 0, "percent_used": 0}
    assert errors_below(guest, "/dev/nvme0n1") == {"nvme": {"nvme0n1": healthy}}
    assert errors_below(guest, "/dev/nvme0n1", NOBODY) == {}, "it may not be asked by everybody"
