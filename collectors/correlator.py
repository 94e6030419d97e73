"""The correlator: minutes in, burst revisions out.

Enters: a Minutes that the caller feeds, changes, victims with their hosts' attributes, and the time. Leaves: revisions
of bursts and a status. Everything it knows is a function of the stored minutes, so late data and restarts end in the
same place. Pure: `now` is an argument. One thread at a time may feed it or call it.

The road of a step: fold complete hours into the baselines -> slide each complete block of days, and once a day fit the
false-alarm tail -> score the windows that end in new or changed minutes -> join crossings to episodes -> judge their
causes -> new, update, retract.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from agent.report import Change
from collectors.baseline import GUARD_H, WARM_UP_H, Baseline
from collectors.causes import PRIORS, SKY, Causes, Verdict
from collectors.factors import find_factors
from collectors.false_alarms import SHIFTS_H, SLIDES, Maxima, Slides, Tail, coarse_scan, fit, summary
from collectors.inventory import Cluster
from collectors.lifecycle import Crossing, Episode, episodes, overlap
from collectors.minutes import DAY_MIN, HOUR_MIN, MINUTE_NS, SCANNED_STREAMS, WINDOWS_MIN, Minutes, minute_of
from collectors.population import Population, Victims
from collectors.revision import ClusterShare, Revision, says_the_same
from collectors.scan import Scan
from collectors.sky import angles_deg, right_ascension_declination_deg
from collectors.staging import STAGED_LABELS, Stage, is_staged, may_be_stage, stage_of_burst, stage_of_peak
from collectors.windows import Row, Windows, block_stream, row

LATE_MIN = GUARD_H * HOUR_MIN  # data may come this late and still be scanned
LEARNING_DAYS = 14
TRUSTED_DAYS = 90  # with less history the tail is uncertain, so the threshold is set for a third of the rate
UNTRUSTED_SHARE = 1 / 3
KEEP_FACTOR = 10.0  # a burst is retracted when its false-alarm rate exceeds this many times the configured one
REMEMBERED_MIN = 12 * HOUR_MIN  # crossings this old can't change any more
LEVELS_KEPT_H = REMEMBERED_MIN // HOUR_MIN + 2  # what a revision of a remembered crossing needs
VICTIMS_MIN = 2 * DAY_MIN  # for the report of the last day, too
FAULTS_MIN = 3  # one or two faults are never a burst, however rare they are
BLOCK_H = 48
UNSLID_H = 2 * WARM_UP_H  # the first levels are too rough to be judged by
CHUNK_MINUTES = (60, 720)  # how many minutes are scored at once, at least and at most
CHUNK_CLUSTER_MINUTES = 60_000
STATISTIC_ERROR_NATS = 0.01  # by so much the statistic of a row may differ with the rows it is scored with
# An episode that reaches this is cut out before sliding. Chance hardly ever does, so to cut there hides no false alarm;
# without it one real burst, slid apart into a dozen lone rises, would blind the scan for months.
INCIDENT_NATS = 24.0


@dataclass(frozen=True, slots=True)
class Status:
    """How the correlator stands. Before the first calibration rate and threshold are unknown."""

    state: str  # learning or live
    history_days: float
    statistic_nats: float  # the largest of the windows that end now; 0 while learning
    far_per_year: float | None
    threshold_nats: float | None
    scanned_until_minute: int | None
    late_faults: int = 0  # that came after the last window which could hold them: learnt from, but never scanned


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What a revision of a burst was made of."""

    episode: Episode
    verdict: Verdict
    is_staged: bool
    change_ids: tuple[str, ...]


class Correlator:
    """Feed `minutes` (and `victims`, `population` and changes, if there are any), call `step`.

    burst_end_after_min: a burst ends after so many minutes without a crossing that belongs to it.
    streams: those that are scanned; the others are only shown.
    priors: how often each cause explains a crossing; see causes.
    seed: of the random shifts that calibrate the false-alarm rate.
    """

    def __init__(
        self,
        clusters: Sequence[Cluster],
        *,
        false_alarms_per_year: float = 1.0,
        history_days: int = 90,
        burst_end_after_min: int = 15,
        streams: Sequence[str] = SCANNED_STREAMS,
        priors: Mapping[str, float] = PRIORS,
        seed: int = 0,
    ) -> None:
        self.minutes = Minutes(clusters)
        self.victims = Victims()
        self.population = Population(self.minutes.cluster_names)
        self._rate = false_alarms_per_year
        self._history_min = history_days * DAY_MIN
        self._gap_min = burst_end_after_min
        self._streams = tuple(streams)
        self._seed = seed
        self._scan = Scan(clusters)
        self._slides = Slides(self._scan, coarse_scan(clusters))
        self._causes = Causes(clusters, priors)
        self._parameters = _digest([places(clusters), self._streams, seed, SLIDES, SHIFTS_H])
        self._changes: dict[tuple[str, str], Change] = {}
        self._changes_from: int | None = None  # the first minute for which a change was told since the last step
        self._bursts: dict[str, Revision] = {}  # the latest revision of each
        self._judged: dict[str, _Judgement] = {}  # what that revision was made of
        self._verdicts: dict[Crossing, Verdict] = {}  # on windows that nothing new came into
        self._crossings: list[Crossing] = []
        self._crossings_from: int | None = None  # earlier minutes were never scanned, or are forgotten
        self._scanned_until: int | None = None
        self._statistic = 0.0
        self._late_faults = 0
        self._threshold: float | None = None
        self._tail: Tail | None = None
        self._calibration_id = ""
        self._now_minute = 0
        self._maxima: dict[int, Maxima] = {}  # of slid blocks, by the block's number
        self._start_over()

    def restore(
        self,
        bursts: Sequence[Revision],
        scanned_until_minute: int | None,
        calibration: Mapping[str, Any] | None = None,
    ) -> None:
        """After a restart: the latest revision of each burst, and the last `calibration()`, if there is one.

        The first step scans the last six hours again, whatever was scanned before; it finds the same bursts there.
        A calibration of other clusters or streams is ignored, and computed anew.
        """
        self._bursts = {burst.burst_id: burst for burst in bursts}
        self._scanned_until = scanned_until_minute
        if calibration is not None and calibration["parameters"] == self._parameters:
            blocks = calibration["blocks"].items()
            self._maxima = {int(block): Maxima.from_document(maxima) for block, maxima in blocks}

    def calibration(self) -> dict[str, Any]:
        """What `restore` needs so that no day is slid again, as a JSON object; it changes every other day."""
        blocks = {str(block): maxima.document() for block, maxima in sorted(self._maxima.items())}
        return {"parameters": self._parameters, "blocks": blocks}

    def take_change(self, change: Change) -> None:
        """A roll-out begins or ends; told twice, or in any order, it is the same."""
        key, earlier = (change.id, change.action), min if change.action == "open" else max
        known = self._changes.get(key, change)
        self._changes[key] = earlier(known, change, key=lambda c: (c.time_ns, c.cohort))
        minute = minute_of(change.time_ns)
        self._changes_from = minute if self._changes_from is None else min(minute, self._changes_from)

    def step(self, now_ns: int) -> list[Revision]:
        """Scans every minute, the current one included, that is new or changed; the revisions that follow from it.

        It makes no difference to the final revisions whether every minute is stepped, or up to six hours at once.
        """
        self._now_minute = minute_of(now_ns)
        changed = self.minutes.take_changed()
        self._count_late(self.minutes.take_added())
        self._relearn_if_needed(changed)
        if self._first_hour is None:
            return []
        self._learn()
        self._calibrate_if_due()
        self.victims.forget_before(self._now_minute - VICTIMS_MIN)
        begin = self._first_to_scan(changed)
        self._scanned_until = self._now_minute
        if self._tail is None or (begin is None and self._changes_from is None):
            return []
        if begin is not None:
            self._score(begin)
        news = [minute for minute in (begin, self._changes_from) if minute is not None]
        self._changes_from = None
        return self._revise(min(news))

    def active(self, now_ns: int) -> list[Revision]:
        """The latest revision of every burst that was neither retracted nor has ended, oldest first."""
        quiet_ns = self._gap_min * MINUTE_NS
        current = [b for b in self._bursts.values() if b.kind != "retract" and b.t_end_ns + quiet_ns > now_ns]
        return sorted(current, key=lambda burst: (burst.t_start_ns, burst.burst_id))

    @property
    def status(self) -> Status:
        return Status(
            state="learning" if self._tail is None else "live",
            history_days=self._history_days(),
            statistic_nats=self._statistic,
            far_per_year=None if self._tail is None else self._tail.far_per_year(self._statistic),
            threshold_nats=self._threshold,
            scanned_until_minute=self._scanned_until,
            late_faults=self._late_faults,
        )

    def expected_per_minute(self, stream: str) -> np.ndarray:
        """Novel faults per minute [clusters] that the hosts watching in the last scanned minute should have."""
        if self._scanned_until is None or stream not in self._baselines:
            return np.zeros(len(self.minutes.cluster_names))
        level = self._baselines[stream].in_force(self._scanned_until // HOUR_MIN)
        hosts = self.minutes.watching(stream, self._scanned_until - 1, self._scanned_until + 1)
        # the newest minute may not have been heard of yet
        expected: np.ndarray = level.rate[-1] * np.where(hosts[1] > 0, hosts[1], hosts[0])
        return expected

    # --- learning

    def _start_over(self) -> None:
        self._first_hour: int | None = None
        self._baselines: dict[str, Baseline] = {}
        self._calibrated_day: int | None = None
        self._stale = False

    def _count_late(self, added: np.ndarray) -> None:
        """Of the faults that no window scanned from now on reaches; before the first scan all are history, not late."""
        if self._crossings_from is not None:
            self._late_faults += int((added <= self._now_minute - LATE_MIN - WINDOWS_MIN[-1]).sum())

    def _relearn_if_needed(self, changed: int | None) -> None:
        """Learns anew if old minutes changed: at once while learning, else with the next calibration.

        What was slid stays: a few late faults make no other tail. Only a longer history does.
        """
        first = self.minutes.first_minute
        if first is None:
            return
        if changed is not None and self._first_hour is not None and changed < self._folded_until():
            self._stale = True
        earlier = self._first_hour is not None and first // HOUR_MIN < self._first_hour
        if earlier:
            self._maxima = {}
        if earlier or (self._stale and (self._tail is None or self._calibration_due())):
            self._start_over()
        if self._first_hour is None:
            self._first_hour = first // HOUR_MIN

    def _folded_until(self) -> int:
        return max((baseline.folded_until * HOUR_MIN for baseline in self._baselines.values()), default=0)

    def _learn(self) -> None:
        """Folds the hours that are older than the guard, and slides each block as soon as all of it is folded.

        Levels take much memory, so none is kept for longer than its block, or a revision, needs it.
        """
        assert self._first_hour is not None
        until = self._now_minute // HOUR_MIN - GUARD_H
        first_block = -(-(self._first_hour + UNSLID_H + GUARD_H) // BLOCK_H)
        folded = min((baseline.folded_until for baseline in self._baselines.values()), default=self._first_hour)
        for block in range(max(first_block, folded // BLOCK_H), until // BLOCK_H):
            end = (block + 1) * BLOCK_H
            self._fold(end)
            if block not in self._maxima and end * HOUR_MIN > self._now_minute - self._history_min:
                self._maxima[block] = self._slide(block)
            for baseline in self._baselines.values():
                baseline.forget_before(min(end, until + GUARD_H - LEVELS_KEPT_H))
        self._fold(until)

    def _fold(self, until: int) -> None:
        for stream in self._streams:
            if stream in self.minutes.streams and stream not in self._baselines:
                assert self._first_hour is not None
                self._baselines[stream] = Baseline(len(self.minutes.cluster_names), self._first_hour)
        for stream, baseline in self._baselines.items():
            for hour in range(baseline.folded_until, until):
                begin, end = hour * HOUR_MIN, (hour + 1) * HOUR_MIN
                baseline.fold(self.minutes.events(stream, begin, end), self.minutes.watching(stream, begin, end))

    def _history_days(self) -> float:
        first = self.minutes.first_minute
        return 0.0 if first is None else max(self._now_minute - first, 0) / DAY_MIN

    def _calibration_due(self) -> bool:
        return self._calibrated_day != self._now_minute // DAY_MIN and self._history_days() >= LEARNING_DAYS

    def _calibrate_if_due(self) -> None:
        """The tail of all slid blocks of the history, once a day."""
        if not self._calibration_due():
            return
        self._calibrated_day = self._now_minute // DAY_MIN
        midnight = self._calibrated_day * DAY_MIN  # so that it doesn't matter at which time of the day this happens
        oldest, newest = (midnight - self._history_min) // HOUR_MIN, midnight // HOUR_MIN - GUARD_H
        self._maxima = {block: m for block, m in self._maxima.items() if block * BLOCK_H >= oldest}
        usable = {block: m for block, m in sorted(self._maxima.items()) if (block + 1) * BLOCK_H <= newest}
        self._tail = fit(usable.values())
        self._calibration_id = _digest([self._parameters, {str(block): m.document() for block, m in usable.items()}])
        share = UNTRUSTED_SHARE if self._history_days() < TRUSTED_DAYS else 1.0
        self._threshold = self._tail.statistic_nats(self._rate * share)
        self.minutes.forget_before(midnight - self._history_min - DAY_MIN)

    def _slide(self, block: int) -> Maxima:
        if not self._baselines:
            return summary(np.zeros(0))
        first_hour = block * BLOCK_H
        cut = self._incidents(first_hour)
        streams = [
            block_stream(self.minutes, stream, baseline, first_hour, BLOCK_H).without(cut)
            for stream, baseline in self._baselines.items()
        ]
        return summary(self._slides.maxima(streams, (self._seed, block)))

    def _incidents(self, first_hour: int) -> np.ndarray:
        """Which hours [hours, clusters] weren't chance, or a single rack would set everyone's threshold."""
        begin, end = first_hour * HOUR_MIN, (first_hour + BLOCK_H) * HOUR_MIN
        cut = np.zeros((BLOCK_H, len(self.minutes.cluster_names)), bool)
        suspects = [c for part in self._chunks(begin, end) for c in self._crossings_of(part, INCIDENT_NATS)[0]]
        for episode in episodes(suspects, self._gap_min):
            window = self._row(episode.best)
            verdict = self._causes.judge(window)
            first = max(episode.first_minute // HOUR_MIN - first_hour, 0)
            last = (episode.last_minute + WINDOWS_MIN[-1]) // HOUR_MIN - first_hour
            columns = _most_raised(window) if verdict.label == "local" else slice(None)
            cut[first : last + 1, columns] = True
        return cut

    # --- scanning

    def _row(self, crossing: Crossing) -> Row:
        return row(self.minutes, self._baselines, crossing.minute, crossing.window_min)

    def _chunks(self, begin: int, end: int) -> Iterator[Windows]:
        least, most = CHUNK_MINUTES
        number = min(max(CHUNK_CLUSTER_MINUTES // len(self.minutes.cluster_names), least), most)
        for start in range(begin, end, number):
            yield Windows(self.minutes, self._baselines, start, min(start + number, end))

    def _first_to_scan(self, changed: int | None) -> int | None:
        """The first minute whose windows must be scored, or None if nothing is new."""
        oldest = self._now_minute - LATE_MIN
        if self._scanned_until is None or self._crossings_from is None:
            return oldest
        fresh = self._scanned_until + 1
        begin = max(fresh if changed is None else min(changed, fresh), oldest)
        return begin if begin <= self._now_minute else None

    def _score(self, begin: int) -> None:
        """Scores all windows that end from `begin` to now and remembers the large ones."""
        assert self._tail is not None
        keep = self._tail.statistic_nats(self._rate * KEEP_FACTOR)
        forgotten = self._now_minute - REMEMBERED_MIN
        self._crossings = [crossing for crossing in self._crossings if forgotten <= crossing.minute < begin]
        for windows in self._chunks(begin, self._now_minute + 1):
            windows.arrived[-1] |= windows.end > self._now_minute  # that minute always shows how things stand
            crossings, self._statistic = self._crossings_of(windows, keep)
            self._crossings += crossings
        self._crossings_from = max(forgotten, begin if self._crossings_from is None else self._crossings_from)

    def _crossings_of(self, windows: Windows, least_nats: float) -> tuple[list[Crossing], float]:
        """The windows that reach `least_nats`, and the largest statistic of the last minute that was scored.

        Only where a fault came in can a window hold more than a minute before.
        """
        at = np.flatnonzero(windows.arrived)
        if not len(at):
            return [], 0.0
        streams = windows.rows(windows.arrived)
        least = least_nats - STATISTIC_ERROR_NATS
        promising = np.ones((len(WINDOWS_MIN), len(at)), bool)  # the newest is told however little it scores
        if len(at) > 1:
            bounds = np.sum([rows.bounds() for rows in streams], axis=0).reshape(promising.shape)
            promising[:, :-1] = bounds[:, :-1] >= least
        rough = np.zeros(promising.shape, np.float32)
        rough[promising] = self._scan.statistics([rows.take(promising.ravel()) for rows in streams])
        high = (rough >= least) & (windows.totals[:, at] >= FAULTS_MIN)
        found = []
        for window, index in np.argwhere(high):
            crossing = Crossing(windows.begin + int(at[index]), WINDOWS_MIN[window], 0.0)
            # by itself, so that it doesn't matter what else was scored in the same step
            nats = float(self._scan.statistics(self._row(crossing).scaled())[0])
            if nats >= least_nats:
                found.append(replace(crossing, statistic_nats=nats))
        return found, float(rough[:, -1].max())

    # --- telling

    def _revise(self, news_from: int) -> list[Revision]:
        """Compares the episodes with the bursts that were told, and tells the difference."""
        assert self._threshold is not None
        told = self._recent_bursts()
        found: list[tuple[Revision | None, Episode]] = []
        for episode in episodes(self._untold_crossings(told), self._gap_min, self._threshold):
            high = episode.best.statistic_nats >= self._threshold
            # what was told is kept on a lower statistic than it takes to tell it, or to tell it again
            same = next((b for b in told if self._same(b, episode) and (high or b.kind != "retract")), None)
            if same is not None:
                told.remove(same)
            if same is not None or high:
                found.append((same, episode))
        judged = self._judge(found, told, news_from)
        revisions = [
            self._raised(judgement) if burst is None else self._updated(burst, judgement, news_from)
            for (burst, _), judgement in zip(found, judged, strict=True)
        ]
        gone = [burst for burst in told if burst.kind != "retract" and not self._partly_forgotten(burst)]
        return [r for r in revisions if r is not None] + [self._retracted(burst) for burst in gone]

    def _judge(
        self, found: Sequence[tuple[Revision | None, Episode]], told: Sequence[Revision], news_from: int
    ) -> list[_Judgement]:
        """The verdict on each episode, and whether it is one stage of a change, or all of them."""
        kept = range(self._now_minute - REMEMBERED_MIN, news_from)
        self._verdicts = {crossing: known for crossing, known in self._verdicts.items() if crossing.minute in kept}
        own = [self._stages(episode) for _, episode in found]
        stages = [*(stage_of_burst(burst) for burst in told if may_be_stage(burst)), *itertools.chain(*own)]
        return [
            _Judgement(
                episode,
                self._verdict(episode.best),
                any(is_staged(one, stages) for one in mine),
                tuple(self._open_changes(episode.best)),
            )
            for (_, episode), mine in zip(found, own, strict=True)
        ]

    def _stages(self, episode: Episode) -> list[Stage]:
        """The peaks that would be a burst by themselves, if they may be stages of a change."""
        assert self._threshold is not None
        alarms = [peak for peak in episode.peaks if peak.statistic_nats >= self._threshold]
        judged = [(peak, self._verdict(peak)) for peak in alarms]
        return [stage_of_peak(peak, verdict) for peak, verdict in judged if verdict.label in STAGED_LABELS]

    def _verdict(self, best: Crossing) -> Verdict:
        if best in self._verdicts:
            return self._verdicts[best]
        changes = self._open_changes(best)
        victims = self.victims.between(best.first_minute, best.minute + 1)
        scanned = [victim for victim in victims if victim.stream in self._baselines]
        cohorts = set(changes.values())
        self._verdicts[best] = self._causes.judge(self._row(best), cohorts, scanned, self.population)
        return self._verdicts[best]

    def _open_changes(self, best: Crossing) -> dict[str, str]:
        """The cohort of each roll-out that was open in some minute of the window, by its id."""
        begin_ns, end_ns = best.first_minute * MINUTE_NS, (best.minute + 1) * MINUTE_NS
        closed = {c.id for c in self._changes.values() if c.action == "close" and c.time_ns < begin_ns}
        opened = [c for c in self._changes.values() if c.action == "open" and c.time_ns < end_ns]
        return {c.id: c.cohort for c in sorted(opened, key=lambda c: c.id) if c.id not in closed}

    def _recent_bursts(self) -> list[Revision]:
        """Those that remembered crossings may belong to."""
        reach_min = REMEMBERED_MIN + WINDOWS_MIN[-1] + self._gap_min
        recent = [b for b in self._bursts.values() if b.t_end_ns >= (self._now_minute - reach_min) * MINUTE_NS]
        return sorted(recent, key=lambda burst: (burst.t_start_ns, burst.burst_id))

    def _untold_crossings(self, told: Sequence[Revision]) -> list[Crossing]:
        """All but the shadows of bursts whose own crossings are forgotten: these would rise to be peaks."""
        spans = [burst.span for burst in told if burst.kind != "retract" and self._partly_forgotten(burst)]
        return [
            crossing
            for crossing in self._crossings
            if not any(overlap(crossing.first_minute, crossing.minute, *span, -1) for span in spans)
        ]

    def _same(self, burst: Revision, episode: Episode) -> bool:
        return overlap(*burst.span, episode.first_minute, episode.last_minute, self._gap_min)

    def _partly_forgotten(self, burst: Revision) -> bool:
        """True if the burst began before the crossings that are still remembered, which so can't tell all of it."""
        assert self._crossings_from is not None
        return minute_of(burst.t_start_ns) < self._crossings_from

    def _raised(self, judgement: _Judgement) -> Revision:
        burst_id = _burst_id(judgement.episode.first_minute)
        while burst_id in self._bursts:  # one that begins alike was told, but this one is not the same
            burst_id += "b"
        self._judged[burst_id] = judgement
        self._bursts[burst_id] = self._revision(burst_id, 1, "new", judgement)
        return self._bursts[burst_id]

    def _updated(self, burst: Revision, judgement: _Judgement, news_from: int) -> Revision | None:
        """The next revision, or None if it would say the same."""
        known = self._judged.get(burst.burst_id)
        self._judged[burst.burst_id] = judgement
        if known == judgement and judgement.episode.best.minute < news_from and burst.kind != "retract":
            return None
        revision = self._revision(burst.burst_id, burst.rev + 1, "update", judgement)
        if self._partly_forgotten(burst):
            if revision.statistic_nats < burst.statistic_nats:
                revision = replace(burst, rev=burst.rev + 1, kind="update", t_end_ns=revision.t_end_ns)
            revision = replace(revision, t_start_ns=burst.t_start_ns, t_end_ns=max(burst.t_end_ns, revision.t_end_ns))
        if burst.kind != "retract" and says_the_same(burst, revision):
            return None
        self._bursts[burst.burst_id] = revision
        return revision

    def _retracted(self, burst: Revision) -> Revision:
        self._judged.pop(burst.burst_id, None)
        self._bursts[burst.burst_id] = replace(burst, rev=burst.rev + 1, kind="retract")
        return self._bursts[burst.burst_id]

    def _revision(self, burst_id: str, rev: int, kind: str, judgement: _Judgement) -> Revision:
        assert self._tail is not None
        episode, place, best = judgement.episode, judgement.verdict.place, judgement.episode.best
        mid_ns = (2 * best.minute + 2 - best.window_min) * MINUTE_NS // 2
        ra_deg, dec_deg = right_ascension_declination_deg(place.direction, mid_ns)
        latitude_deg, longitude_deg = angles_deg(place.direction)
        days = self._history_days()
        posterior = dict(judgement.verdict.posterior)
        if judgement.is_staged:  # then what looks like a place, on Earth or above, is the next stage
            posterior["rollout"] += sum(posterior.pop(cause) for cause in (*SKY, "region"))
            posterior |= dict.fromkeys((*SKY, "region"), 0.0)
        return Revision(
            burst_id=burst_id,
            rev=rev,
            kind=kind,
            t_start_ns=episode.first_minute * MINUTE_NS,
            t_end_ns=(episode.last_minute + 1) * MINUTE_NS,
            window_min=best.window_min,
            label="rollout" if judgement.is_staged else judgement.verdict.label,
            posterior=posterior,
            far_per_year=self._tail.far_per_year(best.statistic_nats),
            extrapolated_from_days=int(days) if days < TRUSTED_DAYS else None,
            statistic_nats=best.statistic_nats,
            amplitude=place.amplitude,
            ra_deg=ra_deg,
            dec_deg=dec_deg,
            area50_deg2=place.area50_deg2,
            area90_deg2=place.area90_deg2,
            ground_latitude_deg=latitude_deg,
            ground_longitude_deg=(longitude_deg + 180) % 360 - 180,
            antipode_latitude_deg=-latitude_deg,
            antipode_longitude_deg=longitude_deg % 360 - 180,
            streams=self._shown(best),
            factors=find_factors(self.victims.between(best.first_minute, best.minute + 1), self.population),
            change_ids=judgement.change_ids,
            calibration_id=self._calibration_id,
            clusters=self._shares(self._row(best)),
        )

    def _shown(self, best: Crossing) -> dict[str, int]:
        """Novel faults in the window of each stream that had any, whether it was scanned or not."""
        window = WINDOWS_MIN.index(best.window_min)
        events = {s: self.minutes.events(s, best.first_minute, best.minute + 1) for s in self.minutes.streams}
        numbers = {stream: int((each.windows <= window).sum()) for stream, each in events.items()}
        return {stream: number for stream, number in numbers.items() if number}

    def _shares(self, window: Row) -> tuple[ClusterShare, ...]:
        """Of the clusters that watched; what the streams expect and how much it spreads, together."""
        observed, expected = window.observed.sum(axis=0), window.expected.sum(axis=0)
        scaled = (window.expected / window.overdispersion).sum(axis=0)
        return tuple(
            ClusterShare(name, int(observed[c]), float(expected[c]), float(expected[c] / scaled[c]))
            for c, name in enumerate(self.minutes.cluster_names)
            if expected[c] > 0
        )


def _most_raised(window: Row) -> int:
    """The cluster whose count lies furthest above its expectation, against its spread."""
    counts, means = (window.observed / window.overdispersion), (window.expected / window.overdispersion)
    return int(((counts - means) / np.sqrt(means + 1)).max(axis=0).argmax())


def places(clusters: Sequence[Cluster]) -> list[list[Any]]:
    """All of the clusters that a correlator rests on: one for the same places serves, though hosts come and go."""
    return [
        [c.name, c.latitude_deg, c.longitude_deg, c.facing_azimuth_deg, c.facing_elevation_deg, c.rigidity_gv]
        for c in clusters
    ]


def _digest(content: Any) -> str:
    """A short name for something that can be written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _burst_id(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y%m%dT%H%MZ")
