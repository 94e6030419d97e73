"""Does every core still count rightly? Each CRC-32C kernel on every allowed core, in turn, against the other cores.

Enters: which cores there are, random data, a way to compute sums on a core, what is remembered, and the moment. Leaves:
the result of one Check, and a Poll. Pure but for `sums_on`; the thread that moves from core to core is that of
agent/core_tester.py, since a core that is kept busy by others may not answer for long.

A core's sums have to be those of the simplest kernel on another core, and each kernel has to know the vectors of RFC
3720. Where they differ, further cores vote on who is wrong. A core that was wrong is tried again at once, with other
data. The second failure is a fault, be it then or in a later round; one that is seven days old no longer counts. After
a fault nothing more is told of the core until it has passed a round.

The cursor: "polled", when each core was last tested; "failed", for each core that failed: how often, when last, whether
a fault was told.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.novelty import QUIET_NS
from agent.observation import NOT_CORRECTED, Device, FirstSight, Gap, Moment, Observation, Poll
from checksum import affinity, crc32c
from checksum.crc32c import Buffer

STREAM = "core"
SOURCE = "self-test"
DATA_BYTES_MAX = 1 << 18
ALIGNMENTS = 64
WITNESSES_MAX = 4
FAILURES_MIN = 2
CPU_SHARE_MAX = 0.0005  # of one core
GAP_PERIODS = 2  # a core that was not tested for so long was not watched

Sums = Callable[[int, Buffer, Sequence[str]], Mapping[str, int | None]]
"""(core, data, kernels) -> each kernel's sum of the data on that core, None if it doesn't know the vectors there."""


@dataclass(frozen=True, slots=True)
class Check:
    """How often a core was wrong when it was tested: not at all, once, or again at once; and by which kernels."""

    core: int
    failures: int = 0
    kernels: tuple[str, ...] = ()


def sums_on(core: int, data: Buffer, kernels: Sequence[str]) -> dict[str, int | None]:
    """The calling thread computes them there.

    Raises:
        CoreGone: it may not.
    """
    with affinity.on_core(core):
        return {kernel: crc32c.compute(kernel, data) if crc32c.computes_rightly(kernel) else None for kernel in kernels}


def next_core(cores: Sequence[int], last: int) -> int:
    """The one to test after `last`, in a round over those there are now."""
    return min((core for core in cores if core > last), default=min(cores))


def wait_s(cores: int, period_s: float, step_cpu_s: float) -> float:
    """How long to wait for the next step, so that all cores have their turn within the period.

    Longer, if a step takes so much of the processor that it would exceed its share.
    """
    return max(period_s / (cores + 1), step_cpu_s / CPU_SHARE_MAX)


def check(core: int, cores: Sequence[int], rng: random.Random, sums: Sums) -> Check:
    """Tests one of the cores.

    Raises:
        CoreGone: it, or one of those it was compared with, has gone.
    """
    wrong = _wrong_kernels(core, cores, rng, sums)
    if not wrong:
        return Check(core)
    again = _wrong_kernels(core, cores, rng, sums)
    return Check(core, 2 if again else 1, tuple(dict.fromkeys((*wrong, *again))))


def _wrong_kernels(core: int, cores: Sequence[int], rng: random.Random, sums: Sums) -> list[str]:
    kernels = crc32c.kernels()
    others = [other for other in cores if other != core] or [core]
    witnesses = rng.sample(others, min(len(others), WITNESSES_MAX))
    skipped = rng.randrange(ALIGNMENTS)
    data = memoryview(rng.randbytes(skipped + rng.randrange(DATA_BYTES_MAX)))[skipped:]
    here = sums(core, data, kernels)
    if {*here.values()} == {*sums(witnesses[0], data, kernels[-1:]).values()} and None not in here.values():
        return []
    votes = Counter(vote for witness in witnesses for vote in sums(witness, data, kernels).values())
    votes.update(here.values())
    right, _ = votes.most_common(1)[0]  # the witnesses' word, if there are as many votes for another
    return [kernel for kernel, value in here.items() if value is None or value != right]


def poll(sysfs: Path, checks: Sequence[Check], cursor: Mapping[str, Any], now: Moment, period_s: float) -> Poll:
    """What the checks since the last poll tell."""
    polled: dict[str, Any] = dict(cursor.get("polled", {}))
    failed: dict[str, Any] = dict(cursor.get("failed", {}))
    devices, sights, gaps, observations = [], [], [], []
    for one in checks:
        name = f"cpu{one.core}"
        since_s = _elapsed_s(polled.get(name), now)
        place = _place(sysfs, name)
        devices.append(Device(stream=STREAM, name=name, label=" ".join(f"{part} {n}" for part, n in place.items())))
        if since_s is None:
            sights.append(FirstSight(stream=STREAM, device=name, error_class=NOT_CORRECTED, since_ns=now.time_ns))
        elif since_s > GAP_PERIODS * period_s:
            begin_ns = now.time_ns - int(since_s * 1e9)
            gaps.append(Gap(stream=STREAM, device=name, begin_ns=begin_ns, end_ns=now.time_ns))
        polled[name] = [now.time_ns, now.boottime_ns, now.boot_id]
        before = failed.pop(name, None)
        after, count = _judged(before, one.failures, now)
        if after is not None:
            failed[name] = after
        if count:
            observations.append(_observation(one, count, place, period_s if since_s is None else since_s, now))
    return Poll(
        cursor={"polled": polled, "failed": failed},
        observations=tuple(observations),
        devices=tuple(devices),
        first_sights=tuple(sights),
        gaps=tuple(gaps),
    )


def look(state: Mapping[str, Any], period_s: float, now: Moment) -> Poll:
    """Which cores were tested of late, by what the agent remembers: the doctor doesn't test them itself."""
    if not period_s:
        return Poll(cursor={}, absent="it's off: core_self_test_s is 0")
    if crc32c.extension is None:
        return Poll(cursor={}, absent="without a C compiler there are no kernels to test cores with")
    polled = state.get(f"{SOURCE}/polled", {})
    tested = [name for name in polled if (_elapsed_s(polled[name], now) or 0) <= GAP_PERIODS * period_s]
    absent = None if tested else f"the agent has tested no core in {GAP_PERIODS * period_s:.0f} s"
    return Poll(cursor={}, devices=tuple(Device(stream=STREAM, name=name) for name in tested), absent=absent)


def _judged(before: Sequence[Any] | None, failures: int, now: Moment) -> tuple[list[Any] | None, int]:
    """What to remember of a core's failures after a check, and how many of them are a fault to be told now."""
    count, last_ns, is_told = before or (0, now.time_ns, False)
    if now.time_ns - last_ns >= QUIET_NS or (is_told and not failures):
        count, is_told = 0, False
    if not failures:
        return ([count, last_ns, is_told] if count else None), 0
    count += failures
    is_due = count >= FAILURES_MIN and not is_told
    return [count, now.time_ns, is_told or is_due], count if is_due else 0


def _observation(one: Check, count: int, place: Mapping[str, int], time_error_s: float, now: Moment) -> Observation:
    return Observation(
        device=f"cpu{one.core}",
        stream=STREAM,
        severity="uncorrected",
        count=count,
        time_error_s=time_error_s,
        epoch=now.boot_id,
        detail={"kernels": list(one.kernels), **place},
    )


def _elapsed_s(polled: Sequence[Any] | None, now: Moment) -> float | None:
    """How long ago that was; the wall clock counts only where the other one began anew."""
    if polled is None:
        return None
    time_ns, boottime_ns, boot_id = polled
    return max(0, now.boottime_ns - boottime_ns if boot_id == now.boot_id else now.time_ns - time_ns) / 1e9


def _place(sysfs: Path, name: str) -> dict[str, int]:
    """Which part that is; format: Documentation/admin-guide/cputopology.rst of the Linux kernel."""
    topology = sysfs / "devices/system/cpu" / name / "topology"
    try:
        return {
            "package": int((topology / "physical_package_id").read_text()),
            "core": int((topology / "core_id").read_text()),
        }
    except (OSError, ValueError):  # the kernel or the virtual machine doesn't say
        return {}
