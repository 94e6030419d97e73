"""Trials: one incident in one fleet, as the correlator meets it, and what it says.

Enters: what a correlator has learned, and a Trial. Leaves: an Outcome. Each has a fresh background and time, drawn
from its own seed, and runs in a copy of what was learned. The directions of successive seeds are spread evenly over the
sky, however many there are, since chance would leave a few dozen of them lopsided.

The final revision doesn't depend on how often one steps. So a trial steps once, after the end, where only the end
matters; else every minute until the first alert, which is what people see, and then at the end.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from agent.report import Change
from collectors.evaluation.fleets import Rack
from collectors.evaluation.learned import STREAM, Learned, in_a_copy
from collectors.incidents import BACKLOG_CLUSTER_MIN, KINDS, RACK_HOSTS, Burst, Incident, draw
from collectors.mapping import sky_map
from collectors.minutes import MINUTE_NS, WINDOWS_MIN, minute_of
from collectors.population import Victim
from collectors.revision import Revision
from collectors.sky import angles_deg, directions, ground_direction, separation_deg, unit_vectors

BURST_BEFORE_MIN = WINDOWS_MIN[-1]  # an incident begins so long after the trial did, and up to SPREAD_MIN later
INCIDENT_BEFORE_MIN = BACKLOG_CLUSTER_MIN + 5
SPREAD_MIN = 30
AFTER_MIN = 5  # a burst's trial ends so long after the burst
FOLLOWED_MIN = 20  # and an incident is followed for so long
BURST = "burst"
PLASTIC = 1.32471795724474602596  # the real root of x^3 = x + 1

Told = tuple[np.ndarray, np.ndarray]
Final = dict[tuple[int, int], str]  # span and label of every burst that stands in the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What happens (a burst, or one of KINDS), to whom, and what makes it harder to see."""

    kind: str
    hosts: int
    seed: int
    amplitude: float = 0.0
    window_min: int = 10
    response: int = 1
    prompt: float = 1.0  # the share of the burst's faults that is reported at once
    silent: float = 0.0  # the share of the clusters that don't watch
    skew_min: int = 0  # clusters' clocks are off by up to so many minutes
    backlog_min: int = 0  # all is told so much later, at once
    each_minute: bool = False  # step as a live collector does


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was said. Without a burst that isn't retracted in the end `found` is false."""

    trial: Trial
    found: bool
    excess: int  # novel faults that the incident brought and that were reported promptly
    first_label: str = ""
    last_label: str = ""
    raised: bool = False  # a burst was raised at some time
    delay_min: int | None = None  # from the first minute of the incident to that of the first alert
    error_deg: float | None = None
    covered: bool | None = None  # the direction lies in the 90 % region
    peers: tuple[float, ...] = ()  # their largest statistics
    same: bool = True  # the late telling ended in the same revisions as the prompt one


def run(trial: Trial, learned: Learned) -> Outcome:
    """One trial, in a copy."""
    return in_a_copy(lambda: _Stage(trial, learned).outcome())


class _Stage:
    """The faults of one trial and the correlator that hears of them."""

    def __init__(self, trial: Trial, learned: Learned) -> None:
        self.trial, self.learned = trial, learned
        self.random = np.random.default_rng((trial.seed, trial.hosts))
        self.begin = learned.world.minute
        before = BURST_BEFORE_MIN if trial.kind == BURST else INCIDENT_BEFORE_MIN
        self.start = self.begin + before + int(self.random.integers(SPREAD_MIN))
        self.source = spread_direction(trial.seed)
        self.incident = self._incident()
        self.end = self.incident.end_minute
        until = self.end + (AFTER_MIN if trial.kind == BURST else FOLLOWED_MIN)
        learned.world.random = self.random
        self.block = learned.world.advance(until - self.begin)
        self._silence()
        self.drawn = draw(learned.fleet, self.block, (self.incident,), self.random)
        self.excess = len(self.drawn.minute) - self.drawn.ordinary

    def outcome(self) -> Outcome:
        """Runs the trial; this object is spent afterwards."""
        prompt = self._told_promptly()
        self.learned.correlator.minutes.set_watching(STREAM, self.begin, self.block.watching)
        backlogged = in_a_copy(lambda: self._final_if_late(prompt)) if self.trial.backlog_min else None
        revisions = list(self._stepwise(prompt) if self.trial.each_minute else self._at_once(prompt))
        outcome = self._judge(revisions)
        if self.learned.peers is not None:
            outcome = replace(outcome, peers=self._peers(prompt))
        if backlogged is not None:
            outcome = replace(outcome, same=backlogged == _final(revision for _, revision in revisions))
        return outcome

    # --- what happens

    def _incident(self) -> Incident:
        trial, clusters = self.trial, self.learned.fleet.clusters
        if trial.kind != BURST:
            return KINDS[trial.kind].make(self.learned.fleet, self.start, self.random)
        dec_deg, ra_deg = angles_deg(self.source)
        burst = Burst(
            start_ns=self.start * MINUTE_NS,
            duration_min=trial.window_min,
            amplitude=trial.amplitude,
            ra_dec_deg=(ra_deg, dec_deg),
            exponent=trial.response,
        )
        return burst.incident(clusters)

    def _silence(self) -> None:
        """Some clusters don't watch, so nothing is known of them."""
        clusters = len(self.learned.fleet.clusters)
        silent = self.random.choice(clusters, round(clusters * self.trial.silent), replace=False)
        self.block.watching[:, silent] = 0
        self.block.expected[:, silent] = 0.0

    def _told_promptly(self) -> Told:
        """Minutes and columns of the faults that are told promptly.

        The others have too vague a time to be scanned (a patrol scrub takes many hours), so the scan never meets them.
        """
        drawn, trial = self.drawn, self.trial
        extra = np.arange(len(drawn.minute)) >= drawn.ordinary
        late = extra & (self.random.random(len(extra)) >= trial.prompt)
        self.excess -= int(late.sum())
        skew = self.random.integers(-trial.skew_min, trial.skew_min + 1, len(self.learned.fleet.clusters))
        minute = np.clip(drawn.minute + skew[drawn.column], self.begin, self.begin + len(self.block.watching) - 1)
        return minute[~late], drawn.column[~late]

    # --- how the correlator hears of it

    def _at_once(self, prompt: Told) -> Iterator[tuple[int, Revision]]:
        self._tell(*prompt)
        yield from self._step(self.begin + len(self.block.watching) - 1)

    def _stepwise(self, prompt: Told) -> Iterator[tuple[int, Revision]]:
        """Once for all that came before, then minute by minute."""
        correlator, (minute, column) = self.learned.correlator, prompt
        self._tell_victims()
        for change in self.incident.changes:
            if minute_of(change.time_ns) < self.start:
                correlator.take_change(change)
        before = minute < self.start
        self._tell(minute[before], column[before])
        self._step(self.start - 1)
        last, alerted = self.begin + len(self.block.watching) - 1, False
        for now in range(self.start, last + 1):
            for change in self._changes_at(now):
                correlator.take_change(change)
            self._tell(minute[minute == now], column[minute == now])
            if not alerted or now == last:
                told = self._step(now)
                alerted = alerted or any(self._is_ours(revision) for _, revision in told)
                yield from told

    def _tell(self, minute: np.ndarray, column: np.ndarray) -> None:
        self.learned.correlator.minutes.add_counts(STREAM, minute, column, np.ones_like(minute))

    def _step(self, minute: int) -> list[tuple[int, Revision]]:
        """The revisions told at the end of this minute."""
        revisions = self.learned.correlator.step((minute + 1) * MINUTE_NS - 1)
        return [(minute, revision) for revision in revisions]

    def _changes_at(self, minute: int) -> list[Change]:
        return [change for change in self.incident.changes if minute_of(change.time_ns) == minute]

    def _tell_victims(self) -> None:
        drawn = self.drawn
        hosts = zip(drawn.minute.tolist(), drawn.column.tolist(), drawn.host.tolist(), strict=True)
        for number, (minute, column, host) in enumerate(hosts):
            rack = self.learned.racks[column][host // RACK_HOSTS]
            self.learned.correlator.victims.add(victim(rack, minute, host, number))

    def _final_if_late(self, prompt: Told) -> Final:
        """The same trial, but nothing is heard for a while, and then all of it at once."""
        minute, column = prompt
        last = self.begin + len(self.block.watching) - 1
        known = minute <= last - self.trial.backlog_min
        self._tell(minute[known], column[known])
        told = self._step(last)
        self._tell(minute[~known], column[~known])
        told += self._step(last)
        return _final(revision for _, revision in told)

    # --- what is thought of it

    def _judge(self, revisions: list[tuple[int, Revision]]) -> Outcome:
        told = [(minute, r) for minute, r in revisions if self._is_ours(r)]
        if not told:
            return Outcome(trial=self.trial, found=False, excess=self.excess)
        strongest = max(told, key=lambda item: item[1].statistic_nats)[1].burst_id
        last = [r for _, r in told if r.burst_id == strongest][-1]
        outcome = Outcome(
            trial=self.trial,
            found=last.kind != "retract",
            excess=self.excess,
            raised=True,
            first_label=told[0][1].label,
            last_label=last.label,
            delay_min=told[0][0] + 1 - self.start,
        )
        return outcome if self.trial.kind != BURST or not outcome.found else self._with_place(outcome, last)

    def _is_ours(self, revision: Revision) -> bool:
        return minute_of(revision.t_start_ns) < self.end and self.start < minute_of(revision.t_end_ns)

    def _with_place(self, outcome: Outcome, last: Revision) -> Outcome:
        told = unit_vectors(np.array(last.dec_deg), np.array(last.ra_deg))
        dec_deg, ra_deg = angles_deg(self.source)
        mid_ns = last.t_end_ns - last.window_min * MINUTE_NS // 2
        truth = ground_direction(ra_deg, dec_deg, mid_ns)
        sky = sky_map(last, self.learned.fleet.clusters, self.learned.causes)
        covered = in_region(sky, truth, 0.9)
        return replace(outcome, error_deg=separation_deg(told, self.source), covered=covered)

    def _peers(self, prompt: Told) -> tuple[float, ...]:
        """The peers' largest statistics while the incident goes on."""
        counts = np.zeros(self.block.watching.shape)
        np.add.at(counts, (prompt[0] - self.begin, prompt[1]), 1)
        statistics = self.learned.peer_statistics(self.block, counts)
        first = self.start - self.begin - WINDOWS_MIN[-1] + 1
        return tuple(statistics[:, max(first, 0) :].max(axis=1).tolist())


def victim(rack: Rack, minute: int, host: int, number: int) -> Victim:
    """The victim on a cluster's so-many-th host; `number` tells its device from all others."""
    return Victim(minute, rack.cluster, f"{rack.name}-h{host}", STREAM, f"device-{number}", rack.attributes)


def in_region(sky: np.ndarray, direction: np.ndarray, probability: float) -> bool:
    """True if the direction's pixel is one of the fewest that hold so much of the map."""
    pixel = int((directions(len(sky)) @ direction).argmax())
    return bool(sky[sky > sky[pixel]].sum() < probability * sky.sum())


def spread_direction(number: int) -> np.ndarray:
    """The so-many-th of directions of which any first few are spread evenly (Roberts's R2 sequence)."""
    height, turn = ((0.5 + number / PLASTIC**power) % 1 for power in (1, 2))
    return unit_vectors(np.degrees(np.arcsin(2 * height - 1)), np.array(360 * turn))


def _final(revisions: Iterable[Revision]) -> Final:
    last = {r.burst_id: r for r in revisions}
    return {(r.t_start_ns, r.t_end_ns): r.label for r in last.values() if r.kind != "retract"}
