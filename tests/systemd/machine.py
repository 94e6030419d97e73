"""A Debian system with a real systemd, booted in a container, with flipwatch installed into a venv of its own.

Enters: this checkout. Leaves: a running machine that is asked from outside. Its root is built once by mmdebstrap and
kept in .cache; each run boots a copy. It has a network of its own with nothing but a loopback, so ports can't clash.
What stands in for hardware lies under /srv/host: the test writes there while the machine runs.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.agent.processes import Answers, eventually

CHECKOUT = Path(__file__).parent.parent.parent
SUITE, PACKAGES = "bookworm", "systemd,systemd-sysv,dbus,python3,python3-venv"
VENV = "/opt/flipwatch"
BOOT_S, COMMAND_S = 60.0, 90.0
# One request from within, where the loopback is: prints the status, then the body.
_ASK = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=30)
except urllib.error.HTTPError as error:
    answer = error
sys.stdout.write(f"{answer.status}\\n{answer.read().decode()}")
"""


def base() -> Path:
    """The root of a minimal Debian, built if it isn't there."""
    root = CHECKOUT / ".cache" / f"debian-{SUITE}"
    if not root.exists():
        scratch = root.with_suffix(".new")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.parent.mkdir(exist_ok=True)
        _run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", SUITE, scratch)
        scratch.rename(root)
    return root


def wheels(directory: Path) -> Path:
    """A directory with the wheels of this checkout, as git sees it, and of all that it needs."""
    source = directory / "source"
    listed = _run("git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():  # else deleted, and not yet committed
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "wheel", "--quiet", "--use-pep517", "--wheel-dir", directory / "wheels", f"{source}[collector]")
    return directory / "wheels"


def installed(root: Path, scratch: Path) -> Path:
    """A copy of the base at `root`, with flipwatch as the guide in deploy/README.md installs it."""
    _run("cp", "-a", "--reflink=auto", base(), root)
    script = f"""set -e
        python3 -c 'import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})' ||
            {{ echo 'the tests need the Python of this Debian: make test-system PYTHON=/usr/bin/python3'; exit 1; }}
        python3 -m venv {VENV}
        {VENV}/bin/pip install --quiet --no-index --find-links /wheels 'flipwatch[collector]'
        {VENV}/bin/flipwatch install-units"""
    bound = f"--bind-ro={wheels(scratch)}:/wheels"
    _run(*nspawn(root, "--pipe", "--quiet", bound, "sh", "-c", script))
    return root


def nspawn(root: Path, *arguments: str) -> list[str]:
    """A command that starts a container, with no network but its own.

    The root directory of a chroot is no mount, which systemd-nspawn can't bear; there it gets one that is.
    """
    own = ("--register=no", "--keep-unit", "--private-network")
    command = ["systemd-nspawn", "-D", str(root), *own, *arguments]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if "/" in mounts:
        return command
    script = 'mount --rbind / /mnt && exec chroot /mnt "$@"'
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script, "sh", *command]


def _run(*command: object) -> str:
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command[0]} failed with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


class Machine(Answers):
    """A booted machine. Use `booted`."""

    url = "http://127.0.0.1:9861"  # of its agent

    def __init__(self, root: Path, console: Path) -> None:
        self.root = root
        self._console = console
        # CAP_SYSLOG, which containers lack, and the kernel log make it more like a host.
        options = "--boot --console=pipe --machine=flipwatch-test --capability=CAP_SYSLOG --bind=/dev/kmsg"
        command = nspawn(root, *options.split())
        with console.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )
        self._leader = ""
        self.has_user_namespaces = True

    def await_boot(self) -> None:
        end_s = time.monotonic() + BOOT_S
        while self._state() not in ("running", "degraded"):
            assert self._process.poll() is None and time.monotonic() < end_s, self._console.read_text(errors="replace")
            time.sleep(0.1)
        tried = ("systemd-run", "--quiet", "--wait", "--property=PrivateUsers=yes", "/bin/true")
        self.has_user_namespaces = self.ask(*tried).returncode == 0

    def _state(self) -> str:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(FileNotFoundError):
            self._leader = children.read_text().strip()
        return self.ask("systemctl", "is-system-running").stdout.strip() if self._leader else ""

    def ask(self, *command: object) -> subprocess.CompletedProcess[str]:
        """What a command prints in the machine, and how it ends."""
        inside = ["nsenter", "-t", self._leader, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        words = [*inside, *map(str, command)]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S)

    def run(self, *command: object) -> str:
        """What a command prints; it must succeed."""
        done = self.ask(*command)
        assert done.returncode == 0, f"{command} failed with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        """A file of the machine, seen from outside."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def get(self, path: str) -> tuple[int, str]:
        return self.fetch(self.url + path)

    def fetch(self, url: str) -> tuple[int, str]:
        status, _, body = self.run(f"{VENV}/bin/python", "-c", _ASK, url).partition("\n")
        return int(status), body

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def status(self, unit: str) -> str:
        """The line in which a service tells how it fares."""
        return self.show(unit, "StatusText")

    def await_status(self, unit: str, words: str) -> str:
        """The line, once it holds the words."""
        eventually(lambda: words in self.status(unit))
        return self.status(unit)

    def close(self) -> None:
        """Pulls the plug: with its first process all others end."""
        if self._process.poll() is None:
            os.kill(int(self._leader or self._process.pid), signal.SIGKILL)
        self._process.wait(BOOT_S)


@contextlib.contextmanager
def booted(root: Path) -> Iterator[Machine]:
    machine = Machine(root, root.with_suffix(".console"))
    try:
        machine.await_boot()
        yield machine
    finally:
        machine.close()
