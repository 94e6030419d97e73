"""The plan: what is tried, how often, on which fleets; and the jobs that several processes may share.

Enters: quick or full, and the wanted parts. Leaves: jobs, each of which runs by itself and says how long it may take.
All seeds follow from the plan, so a part that is evaluated alone gives the same figures as within the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from collectors.evaluation.fleets import TINY_HOSTS, fleet
from collectors.evaluation.learned import Learned
from collectors.evaluation.null import QuietRun, quiet_run
from collectors.evaluation.shared_factors import FactorCounts, factor_counts
from collectors.evaluation.trials import BURST, Outcome, Trial, run
from collectors.incidents import KINDS

PARTS = ("null", "power", "peers", "confounders", "delay", "robustness", "tiny", "factors", "steps")
HOSTS = 400_000
EPOCH_MIN = 27 * 60  # a correlator lives on for so long between the lots of its trials
MIXED = {"cohort": 2.5, "unannounced": 2.5, "staged": 2.5, "staged-bands": 2.5} | {
    kind: 1.5 for kind in KINDS if kind.startswith("rack")
}  # by so much more often the commoner incidents are tried in full
PLAIN = Trial(kind=BURST, hosts=HOSTS, seed=0)
ROBUSTNESS = (PLAIN, replace(PLAIN, silent=0.25), replace(PLAIN, skew_min=3), replace(PLAIN, backlog_min=30))


TINY_AMPLITUDES = (100.0, 300.0, 1000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of what; a plan's trials are spread evenly over its histories."""

    null_runs: int
    null_days: int
    tiny_runs: int  # of null_days, in the tiny fleet
    histories: int
    history_days: int
    epochs: int
    amplitudes: tuple[float, ...]
    windows_min: tuple[int, ...]
    responses: tuple[int, ...]
    prompt: tuple[float, ...]  # shares of a burst that are reported promptly, besides all of it
    other_hosts: tuple[int, ...]  # fleets of other sizes, for power alone
    trials: int  # of each kind of burst
    base_trials: int  # of the burst of 10 min and response 1 in the fleet of HOSTS
    confounder_trials: int
    more_of_the_common: bool
    robustness_trials: int
    factor_trials: int


QUICK = Plan(
    null_runs=2,
    null_days=106,
    tiny_runs=1,
    histories=2,
    history_days=91,  # so that the threshold is that of the rate itself
    epochs=1,
    amplitudes=(8.0, 16.0, 32.0),
    windows_min=(10,),
    responses=(1,),
    prompt=(),
    other_hosts=(),
    trials=60,
    base_trials=60,
    confounder_trials=20,
    more_of_the_common=False,
    robustness_trials=20,
    factor_trials=10,
)
FULL = Plan(
    null_runs=16,
    null_days=720,
    tiny_runs=4,
    histories=6,
    history_days=91,
    epochs=4,
    amplitudes=(4.0, 8.0, 16.0, 32.0),
    windows_min=(3, 10, 60),
    responses=(0, 1, 2, 3, 4),
    prompt=(0.5, 0.25),
    other_hosts=(50_000, 4_000_000),
    trials=48,
    base_trials=240,
    confounder_trials=60,
    more_of_the_common=True,
    robustness_trials=120,
    factor_trials=240,
)
EXTRA_AMPLITUDES = {50_000: (64.0, 128.0), 4_000_000: (1.0, 2.0)}  # where these fleets' power rises from .1 to .9
QUICK_PARTS = ("null", "power", "confounders", "steps")


@dataclass(frozen=True, slots=True)
class QuietJob:
    hosts: int
    seed: int
    days: int

    def run(self) -> QuietRun:
        return quiet_run(self.hosts, self.seed, self.days)


@dataclass(frozen=True, slots=True)
class Tried:
    """What the trials on one history brought back."""

    outcomes: tuple[Outcome, ...]
    peers: tuple[str, ...] = ()
    quiet: np.ndarray | None = None  # the peers' hourly maxima [peers, hours]


@dataclass(frozen=True, slots=True)
class TrialsJob:
    hosts: int
    seed: int
    days: int
    epochs: int
    trials: tuple[Trial, ...]
    with_peers: bool

    def run(self) -> Tried:
        learned = Learned(fleet(self.hosts), self.seed, self.days, self.with_peers)
        outcomes: list[Outcome] = []
        for epoch in range(self.epochs):
            if epoch:
                learned.live_on(EPOCH_MIN)
            outcomes += [run(trial, learned) for trial in self.trials[epoch :: self.epochs]]
        if learned.peers is None:
            return Tried(tuple(outcomes))
        return Tried(tuple(outcomes), learned.peers.names, np.concatenate(learned.quiet, axis=1))


@dataclass(frozen=True, slots=True)
class FactorsJob:
    hosts: int
    seed: int
    trials: int

    def run(self) -> list[FactorCounts]:
        return factor_counts(self.hosts, self.seed, self.trials)


Job = QuietJob | TrialsJob | FactorsJob


def jobs(plan: Plan, parts: Sequence[str]) -> list[Job]:
    """The longest first, so that the processes end together."""
    found: list[Job] = []
    for hosts in sorted({HOSTS, TINY_HOSTS, *plan.other_hosts}, reverse=True):
        wanted = _trials(plan, parts, hosts)
        for history in range(plan.histories):
            own = tuple(wanted[history :: plan.histories])
            if own:
                peers = "peers" in parts and hosts == HOSTS
                found.append(TrialsJob(hosts, 1000 + history, plan.history_days, plan.epochs, own, peers))
    if "null" in parts:
        found += [QuietJob(HOSTS, seed, plan.null_days) for seed in range(plan.null_runs)]
    if "tiny" in parts:
        found += [QuietJob(TINY_HOSTS, seed, plan.null_days) for seed in range(plan.tiny_runs)]
    if "factors" in parts:
        found += [FactorsJob(HOSTS, seed, plan.factor_trials // 2) for seed in (1, 2)]
    return found


def _trials(plan: Plan, parts: Sequence[str], hosts: int) -> list[Trial]:
    """All trials in a fleet of this size; the same burst is tried once, whichever parts want it."""
    wanted: dict[Trial, None] = {}
    if hosts == TINY_HOSTS:
        tiny = replace(PLAIN, hosts=hosts, each_minute=True)
        return list(_bursts(TINY_AMPLITUDES, tiny, plan.robustness_trials)) if "tiny" in parts else []
    if "power" in parts:
        wanted |= dict.fromkeys(_power(plan, hosts))
    if hosts == HOSTS:
        if "peers" in parts:
            wanted |= dict.fromkeys(_bursts(plan.amplitudes, PLAIN, plan.base_trials))
        if "confounders" in parts:
            wanted |= dict.fromkeys(_confounders(plan))
        if "delay" in parts:
            wanted |= dict.fromkeys(_bursts(plan.amplitudes, replace(PLAIN, each_minute=True), plan.robustness_trials))
        if "robustness" in parts:
            for harder in ROBUSTNESS:
                wanted |= dict.fromkeys(_bursts(plan.amplitudes, harder, plan.robustness_trials))
    return list(wanted)


def _power(plan: Plan, hosts: int) -> Iterator[Trial]:
    if hosts == HOSTS:
        yield from _bursts(plan.amplitudes, PLAIN, plan.base_trials)
        for prompt in plan.prompt:
            yield from _bursts(plan.amplitudes, replace(PLAIN, prompt=prompt), plan.robustness_trials)
    for window_min in plan.windows_min:
        for response in plan.responses:
            burst = replace(PLAIN, hosts=hosts, window_min=window_min, response=response)
            yield from _bursts(plan.amplitudes, burst, plan.trials)


def _bursts(amplitudes: Sequence[float], burst: Trial, trials: int) -> Iterator[Trial]:
    """The same directions and times for every amplitude."""
    extra = EXTRA_AMPLITUDES.get(burst.hosts, ()) if burst.response == 1 else ()
    for amplitude in (*amplitudes, *extra):
        for seed in range(trials):
            yield replace(burst, amplitude=amplitude, seed=seed)


def _confounders(plan: Plan) -> Iterator[Trial]:
    for kind in KINDS:
        factor = MIXED.get(kind, 1.0) if plan.more_of_the_common else 1.0
        for seed in range(round(plan.confounder_trials * factor)):
            yield Trial(kind=kind, hosts=HOSTS, seed=seed, each_minute=True)
