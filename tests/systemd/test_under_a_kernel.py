"""The services where nothing holds back what their units ask for: a machine of its own under QEMU.

The container of the other tests gets no device policy and no filter of addresses from its kernel, so that a unit which
is too strict for any real host passes there. Here the same system boots with Debian's kernel, tells what became of the
services, and goes down.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require
from tests.kernel.debian_kernel import unpacked
from tests.systemd.host import AGENT, COLLECTOR, SCRUBD, UNITS
from tests.systemd.machine import VENV, Machine

BOOT_S = 480
CANARY_MIB = 32  # more than may be locked without a word in the unit
LEFT_OUT = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/lib/apt", "var/cache/apt")

AGENT_TOML = f"""[agent]
host = "h1"
canary_mib = {CANARY_MIB}
poll_interval_s = 0.5
[[store]]
path = "/etc"
"""
COLLECTOR_TOML = '[collector]\ninventory = "/etc/flipwatch/inventory.json"\npull_interval_s = 1\n'
INVENTORY = (
    '[{"targets": ["127.0.0.1:9861"], "labels": {"cluster": "fra1", "latitude": "50", "longitude": "8", "host": "h1"}}]'
)
METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9861/metrics').read().decode())"
# Runs as root, before the system goes down again; what it prints is the console's.
TELL = f"""#!/bin/sh
exec >/dev/ttyS0 2>&1
for unit in {" ".join(UNITS)}; do systemctl start $unit; done
for i in $(seq 60); do
    systemctl show --value -p StatusText {COLLECTOR} | grep -q '^1 of 1' && break
    sleep 1
done
for unit in {" ".join(UNITS)}; do
    echo "$unit: $(systemctl show --value -p ActiveState $unit), $(systemctl show --value -p StatusText $unit)"
    journalctl -o cat -u $unit
done
{VENV}/bin/python -c "{METRICS}"
echo THE END
systemctl poweroff -ff
"""
TELL_UNIT = "[Unit]\nAfter=multi-user.target\n[Service]\nExecStart=/etc/tell\n"


@pytest.fixture(scope="module")
def told(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the machine said on its console, from the start of the services on."""
    require("qemu-system-x86_64")
    directory = tmp_path_factory.mktemp("under-a-kernel")
    kernel, initrd = unpacked("linux-image-amd64"), directory / "initrd"
    pack(machine.root, directory / "added", initrd)
    command = f"""qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 3072 -nodefaults -no-user-config -display none
        -kernel {kernel.image} -initrd {initrd} -no-reboot -serial stdio
        -append 'console=ttyS0 rdinit=/usr/lib/systemd/systemd systemd.wants=tell.service
            systemd.mask=serial-getty@ttyS0.service systemd.show_status=no loglevel=4 mitigations=off'"""
    try:
        done = subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_S, check=False
        )
    finally:
        initrd.unlink()
    said = done.stdout.decode(errors="replace").replace("\r", "")
    assert "THE END" in said, said[-4000:] + done.stderr.decode(errors="replace")
    return said


def pack(root: Path, added: Path, initrd: Path) -> None:
    """Writes the initial file system: the system at `root` as it is on disk, and what this test adds."""
    files = {
        "etc/flipwatch/agent.toml": AGENT_TOML,
        "etc/flipwatch/collector.toml": COLLECTOR_TOML,
        "etc/flipwatch/inventory.json": INVENTORY,
        "etc/systemd/system/tell.service": TELL_UNIT,
        "etc/tell": TELL,
    }
    for name, text in files.items():
        (added / name).parent.mkdir(parents=True, exist_ok=True)
        (added / name).write_text(text)
        (added / name).chmod(0o755 if name == "etc/tell" else 0o644)
    pruned = " -o ".join(f"-path ./{name}" for name in (*LEFT_OUT, "var/log", "var/lib/private", "tmp/*"))
    script = f"""archive() {{ cpio --null -o -H newc --quiet -R 0:0; }}
        cd {root} && find . \\( {pruned} \\) -prune -o -print0 | archive
        cd {added} && find . -print0 | archive"""
    with initrd.open("wb") as out:  # two archives, one behind the other, as the kernel reads them
        subprocess.run(["sh", "-c", script], stdout=out, check=True)


@pytest.mark.parametrize("unit", UNITS)
def test_every_service_starts(told: str, unit: str) -> None:
    assert f"\n{unit}: active, " in told, told[-4000:]


def test_the_agent_reads_the_kernel_log_and_the_trace_and_locks_its_canary(told: str) -> None:
    up = dict(re.findall(r'^flipwatch_source_up\{source="([\w-]+)"\} ([\d.]+)$', told, re.M))
    assert {name: up[name] for name in ("kmsg", "tracefs", "canary")} == dict.fromkeys(
        ("kmsg", "tracefs", "canary"), "1.0"
    ), told[-4000:]


def test_they_reach_each_other(told: str) -> None:
    assert f"\n{COLLECTOR}: active, 1 of 1 agents answer" in told, told[-4000:]
    assert f"\n{SCRUBD}: active, verifying 1 store" in told and f"\n{AGENT}: active, watching " in told
