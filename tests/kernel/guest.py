"""A machine to put errors into: Debian's kernel in QEMU, with this checkout as its file system, read only.

Enters: a kernel and a directory that outlives the machine. Leaves: a shell in the guest, the monitor of QEMU, the
host bridge, and the agent's port forwarded to loopback. There is no KVM in it: everything is emulated, so that an
injected machine check goes its whole way through the kernel.
"""

import contextlib
import json
import select
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kernel.debian_kernel import AT_BOOT, Kernel, build_initrd, load_commands
from tests.kernel.host_bridge import HostBridge

BOOT_S, COMMAND_S = 180.0, 90.0
AGENT_PORT = 9861
STATE = "/run/state"  # in the guest, where the directory that outlives it is mounted
# For QEMU's monitor: uncorrected, the processor's context corrupt, so that the kernel panics.
FATAL_CHECK = "mce 0 9 0xbe00000000010090 0x5 0x1234500 0x8c"

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
{load}
mount -t tmpfs tmpfs /upper
mkdir /upper/upper /upper/work
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host
mount -t overlay -o lowerdir=/host,upperdir=/upper/upper,workdir=/upper/work overlay /root
for name in proc sys dev; do mount --rbind /$name /root/$name; done
mount -t tmpfs tmpfs /root/run
mkdir -p /root{state}
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none state /root{state}
hostname guest
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
echo 1 > /sys/devices/system/machinecheck/machinecheck0/check_interval
exec 3<> /dev/ttyS1
stty raw -echo <&3
echo READY >&3
while read -r line <&3; do
    if [ "$line" = GO ]; then
        (eval "$script") < /dev/null >&3 2>&1
        echo "END $?" >&3
        script=
    else
        script="$script$line
"
    fi
done
"""


class Guest:
    """A running machine. Use `started`."""

    def __init__(
        self,
        kernel: Kernel,
        directory: Path,
        state: Path,
        cpu: str,
        append: str,
        options: tuple[str, ...],
        serial: str,
    ) -> None:
        self.kernel = kernel
        self.bridge = HostBridge()
        self._directory = directory
        initrd = directory / "initrd"
        init = _INIT.format(load=load_commands(kernel, AT_BOOT), state=STATE)
        build_initrd(kernel, init, initrd)
        self.agent_port = _free_port()
        self.console = directory / "console"
        self._process = subprocess.Popen(
            [*self._arguments(initrd, state, cpu, append, serial), *options],
            pass_fds=[self.bridge.theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        self._shell = self._connected("shell")
        self._monitor = self._connected("monitor")
        self._monitor_lines = self._monitor.makefile("r")
        self._monitor_lines.readline()  # its greeting
        self._ask("qmp_capabilities")

    def _arguments(self, initrd: Path, state: Path, cpu: str, append: str, serial: str) -> list[str]:
        text = f"""qemu-system-x86_64 -accel tcg -m 768 -smp 2 -nodefaults -no-user-config -display none
            -cpu {cpu} -machine q35,memory-backend=ram -object memory-backend-memfd,id=ram,size=768M,share=on
            -device x-pci-proxy-dev,fd={self.bridge.theirs.fileno()}
            -blockdev driver=null-co,node-name=drive,size=67108864 -device nvme,drive=drive,serial=drive
            -kernel {self.kernel.image} -initrd {initrd} -append
            'console=ttyS0 loglevel=6 panic=-1 mitigations=off {append}'
            -chardev file,id=console,path={self.console} -serial chardev:console
            -chardev socket,id=shell,path={self._directory}/shell,server=on,wait=off -serial chardev:shell
            -chardev socket,id=monitor,path={self._directory}/monitor,server=on,wait=off
            -mon chardev=monitor,mode=control
            -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap
            -device virtio-9p-pci,fsdev=host,mount_tag=host
            -fsdev local,id=state,path={state},security_model=none -device virtio-9p-pci,fsdev=state,mount_tag=state
            -netdev user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.agent_port}-10.0.2.15:{AGENT_PORT}
            -device virtio-net-pci,netdev=net
            -smbios type=1,manufacturer=Acme,product=Server
            -smbios type=17,loc_pfx=DIMM,manufacturer=Samsung,serial={serial},part=M393A4K40DB3-CWE"""
        return shlex.split(text)

    def _connected(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        deadline_s = time.monotonic() + 30
        while True:
            try:
                connection.connect(str(self._directory / name))
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                assert self._process.poll() is None, "QEMU did not start"
                assert time.monotonic() < deadline_s, f"QEMU never offered {name}"
                time.sleep(0.05)

    def await_boot(self) -> None:
        self._until("READY", BOOT_S)

    def run(self, command: str, *, timeout_s: float = COMMAND_S) -> str:
        """What the shell command prints, in the initial file system; the system is under /root.

        Raises:
            AssertionError: it failed, or gave no answer in time.
        """
        self._shell.sendall(f"{command}\nGO\n".encode())
        output, end = self._until("END ", timeout_s)
        status = end.split()[0]
        assert status == "0", f"in the guest, {command!r} failed with {status}: {output}"
        return output

    def _until(self, mark: str, timeout_s: float) -> tuple[str, str]:
        data, deadline_s = b"", time.monotonic() + timeout_s
        while True:
            text = data.decode(errors="replace").replace("\r", "")
            before, found, after = text.rpartition(mark)
            if found and "\n" in after:
                return before, after
            ready, _, _ = select.select([self._shell], [], [], max(0, deadline_s - time.monotonic()))
            piece = self._shell.recv(65536) if ready else b""
            assert piece, f"the guest gave no answer; it said {text[-2000:]!r}; console: {self.console_tail()}"
            data += piece

    def load(self, module: str, parameters: str = "") -> None:
        """Loads one of the modules on demand and what it needs."""
        self.run(f"{load_commands(self.kernel, (module,))} {parameters}")

    def monitor(self, command: str) -> str:
        """A command of QEMU's human monitor, such as `mce`."""
        return str(self._ask("human-monitor-command", {"command-line": command}))

    def _ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode())
        for line in self._monitor_lines:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            assert "event" in answer, f"the monitor refuses {command}: {answer}"
        raise AssertionError(f"QEMU ended at {command}")

    def write_memory(self, address: int, data: bytes) -> None:
        """Puts bytes into the machine's physical memory, as firmware or a device would."""
        with self._memory().open("r+b", buffering=0) as file:
            file.seek(address)
            file.write(data)

    def _memory(self) -> Path:
        for entry in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # QEMU opens and closes files all the time
                if str(entry.readlink()).startswith("/memfd:"):
                    return entry
        raise AssertionError("QEMU has no file that is the machine's memory")

    def console_tail(self) -> str:
        """The end of what the kernel said."""
        return self.console.read_text(errors="replace")[-3000:] if self.console.exists() else "(nothing)"

    def wait_until_dead(self, timeout_s: float = COMMAND_S) -> None:
        """Until the machine has gone down by itself."""
        self._process.wait(timeout_s)

    def close(self) -> None:
        for end in (self._shell, self._monitor_lines, self._monitor):
            end.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(30)
        self.bridge.close()


@contextlib.contextmanager
def started(
    kernel: Kernel,
    directory: Path,
    state: Path,
    *,
    cpu: str = "max",
    append: str = "",
    options: tuple[str, ...] = ("-no-reboot",),
    serial: str = "0A1B2C3D",
) -> Iterator[Guest]:
    """A booted machine with a shell; `state` is mounted in it, writable, and outlives it.

    `append` goes to the kernel's command line, `options` to QEMU's. Without -no-reboot a machine whose kernel panics
    starts again, and keeps what was in its memory. Its firmware lists one memory module, with this serial number.
    """
    directory.mkdir(parents=True, exist_ok=True)
    guest = Guest(kernel, directory, state, cpu, append, options, serial)
    try:
        guest.await_boot()
        yield guest
    finally:
        guest.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
