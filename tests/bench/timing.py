"""What the benchmarks share: contestants take turns in one process, so that noise on the machine hits them all."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    best_s: float
    median_s: float


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """The best and the median time of each contestant over so many rounds."""
    times_s: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            begun_s = time.perf_counter()
            run()
            times_s[name].append(time.perf_counter() - begun_s)
    return {name: Timing(min(taken_s), statistics.median(taken_s)) for name, taken_s in times_s.items()}


def machine() -> str:
    """The processor, kernel and interpreter that the figures belong to."""
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpu_lines if line.startswith("model name")]
    return (
        f"{models[0] if models else platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )
