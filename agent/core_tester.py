"""The thread of the agent's conductor that moves from core to core and asks each whether it still counts rightly.

Enters: how often every core is to be tested. Leaves: at each poll, what the tests since the one before have told, so
that nobody waits for a core that is kept busy by others. What a test is, and what it tells: agent/cores.py.
"""

import logging
import random
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any

from agent import cores
from agent.config import AgentSettings
from agent.observation import Moment, Poll
from checksum import affinity

CORE_ANSWERS_S = 60.0  # a core that is kept busy by others for longer is said to be

log = logging.getLogger(__name__)


class CoreTester:
    """Moves a thread from core to core and keeps what it found until it is polled for, so that nobody waits for it."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._checks: deque[cores.Check] = deque()
        self._trying: tuple[int, float] | None = None  # a core, and since when
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="core self-test", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=1.0)  # a core that doesn't answer isn't waited for

    def poll(self, settings: AgentSettings, cursor: dict[str, Any], now: Moment) -> Poll:
        checks = [self._checks.popleft() for _ in range(len(self._checks))]
        poll = cores.poll(settings.sysfs, checks, cursor, now, self._period_s)
        trying = self._trying
        if trying is None or time.monotonic() - trying[1] < CORE_ANSWERS_S:
            return poll
        return replace(poll, trouble=(f"core {trying[0]} gave the self-test no time for {CORE_ANSWERS_S:.0f} s",))

    def _run(self) -> None:
        rng, core, wait_s = random.Random(), -1, 0.0
        while not self._stop.wait(wait_s):
            allowed = affinity.allowed_cores()
            core = cores.next_core(allowed, core)
            self._trying, begun_cpu_s = (core, time.monotonic()), time.thread_time()
            try:
                self._checks.append(cores.check(core, allowed, rng, cores.sums_on))
            except affinity.CoreGone as gone:
                log.info("the self-test passes over a core: %s", gone)
            self._trying = None
            wait_s = cores.wait_s(len(allowed), self._period_s, time.thread_time() - begun_cpu_s)
