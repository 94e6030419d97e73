"""The agent of this checkout in a guest, asked over its forwarded port."""

import json
import sys
import urllib.error
from dataclasses import dataclass
from typing import Any

from tests.agent.processes import Answers, eventually
from tests.kernel.debian_kernel import ROOT
from tests.kernel.guest import AGENT_PORT, STATE, Guest

START_S = 180.0


@dataclass
class GuestAgent(Answers):
    """One after the other may run in a guest; they share a state directory, which outlives the guest."""

    guest: Guest
    prefix: str = ""  # a program that starts it
    pid: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.guest.agent_port}"

    def configure(self, **settings: Any) -> None:
        settings = {
            "listen": f"0.0.0.0:{AGENT_PORT}",
            "state_dir": f"{STATE}/agent",
            "machine_id": f"{STATE}/machine-id",
            "host": "guest",
            "poll_interval_s": 1,
            "heartbeat_s": 5,
            **settings,
        }
        config = "\n".join(["[agent]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())])
        self.guest.run(
            f"echo 0123456789abcdef > /root{STATE}/machine-id; cat > /root{STATE}/agent.toml <<'END'\n{config}\nEND"
        )

    def prepare(self) -> None:
        """What a service manager would run as root before it starts the agent."""
        command = f"cd {ROOT} && {sys.executable} -m flipwatch agent --prepare --config {STATE}/agent.toml"
        self.guest.run(f"chroot /root sh -c '{command}'")

    def start(self, **settings: Any) -> "GuestAgent":
        """Starts it; returns when it answers."""
        self.configure(**settings)
        daemon = f"cd {ROOT} && exec {self.prefix} {sys.executable} -m flipwatch agent --config {STATE}/agent.toml"
        started = self.guest.run(f"chroot /root sh -c '{daemon}' >> /root{STATE}/agent.log 2>&1 3>&- & echo $!")
        self.pid = int(started)
        eventually(self._answers, START_S)
        return self

    def _answers(self) -> bool:
        try:
            return self.get("/metrics")[0] == 200
        except (urllib.error.URLError, ConnectionError):
            alive = self.guest.run(f"[ -d /proc/{self.pid} ] && echo yes || tail -5 /root{STATE}/agent.log")
            assert alive == "yes\n", alive
            return False

    def kill(self, signal: str = "KILL") -> None:
        """kill -9 or another signal, and the end of it."""
        self.guest.run(f"kill -{signal} {self.pid}; while [ -d /proc/{self.pid} ]; do sleep 0.1; done")
