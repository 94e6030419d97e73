"""The correlator: minutes in, burst revisions out.

Enters: a Minutes that the caller feeds, and the time. Leaves: revisions of bursts and a status. Everything it knows is
a function of the stored minutes, so late data and restarts end in the same place. Pure: `now` is an argument. One
thread at a time may feed its minutes or call it.

The road of a step: fold complete hours into the baselines -> once a day, slide past days for the false-alarm tail ->
score the windows that end in new or changed minutes -> join crossings to episodes -> new, update, retract.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from agent.report import Change
from collectors.baseline import GUARD_H, HOUR_MIN, WARM_UP_H, Baseline
from collectors.causes import Causes
from collectors.factors import Factor, Population, Victims, find_factors
from collectors.false_alarms import Tail, fit, slide_maxima
from collectors.inventory import Cluster
from collectors.lifecycle import Crossing, Episode, episodes, overlap
from collectors.minutes import MINUTE_NS, WINDOWS_MIN, Minutes, minute_of
from collectors.scan import Rows, Scan
from collectors.sky import angles_deg, right_ascension_declination_deg

DAY_MIN = 24 * HOUR_MIN
LATE_MIN = GUARD_H * HOUR_MIN  # data may come this late and still be scanned
LEARNING_DAYS = 14
TRUSTED_DAYS = 90  # with less history the tail is uncertain, so the threshold is set for a third of the rate
UNTRUSTED_SHARE = 1 / 3
KEEP_FACTOR = 10.0  # a burst is retracted when its false-alarm rate exceeds this many times the configured one
REMEMBERED_MIN = 12 * HOUR_MIN  # crossings this old can't change any more
FAULTS_MIN = 3  # one or two faults are never a burst, however rare they are
SLIDE_BLOCK_H = 48
UNSLID_H = 2 * WARM_UP_H  # the first levels are too rough to be judged by
# From these on an episode is cut out before sliding. Chance hardly ever reaches the second, so to cut there hides no
# false alarm; without it one real burst, slid apart into a dozen lone rises, would blind the scan for months.
INCIDENT_NATS = {"local": 12.0, "fleet": 12.0, "celestial": 24.0, "none": 24.0}


@dataclass(frozen=True, slots=True)
class ClusterShare:
    """What one cluster saw in the burst's best window: novel faults, and how many its baseline expected."""

    cluster: str
    observed: int
    expected: float
    overdispersion: float = 1.0  # the variance of such counts over their mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One statement about a burst; a later one with a higher `rev` replaces it. Times are whole minutes.

    Direction, area and ground point say where a celestial source would stand, whatever the label.
    """

    burst_id: str
    rev: int
    kind: str  # new, update or retract
    t_start_ns: int
    t_end_ns: int
    window_min: int
    label: str  # the likeliest cause
    posterior: Mapping[str, float]
    far_per_year: float
    extrapolated_from_days: int | None
    statistic_nats: float
    amplitude: float  # the excess over the baseline at a cluster that faces the source
    ra_deg: float
    dec_deg: float
    area90_deg2: float
    area50_deg2: float = 0.0
    ground_latitude_deg: float  # where the source stood in the zenith at the best window's mid time
    ground_longitude_deg: float  # -180 to 180
    antipode_latitude_deg: float = 0.0
    antipode_longitude_deg: float = 0.0
    streams: Mapping[str, int] = field(default_factory=dict)  # novel faults in the best window, shown streams too
    factors: tuple[Factor, ...] = ()  # what the victims share
    change_ids: tuple[str, ...] = ()  # roll-outs that were open
    calibration_id: str = ""  # of the time slides that the false-alarm rate rests on
    clusters: tuple[ClusterShare, ...]

    def document(self) -> dict[str, Any]:
        """The JSON object of `replay --json`, the store and the page."""
        return {
            "burst_id": self.burst_id,
            "rev": self.rev,
            "kind": self.kind,
            "t_start": _rfc3339(self.t_start_ns),
            "t_end": _rfc3339(self.t_end_ns),
            "window_min": self.window_min,
            "label": self.label,
            "posterior": dict(self.posterior),
            "far_per_year": self.far_per_year,
            "extrapolated_from_days": self.extrapolated_from_days,
            "statistic_nats": self.statistic_nats,
            "amplitude": self.amplitude,
            "ra_deg": self.ra_deg,
            "dec_deg": self.dec_deg,
            "area50_deg2": self.area50_deg2,
            "area90_deg2": self.area90_deg2,
            "ground_latitude_deg": self.ground_latitude_deg,
            "ground_longitude_deg": self.ground_longitude_deg,
            "antipode_latitude_deg": self.antipode_latitude_deg,
            "antipode_longitude_deg": self.antipode_longitude_deg,
            "streams": dict(self.streams),
            "factors": [factor.document() for factor in self.factors],
            "change_ids": list(self.change_ids),
            "calibration_id": self.calibration_id,
            "clusters": [asdict(share) for share in self.clusters],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Revision":
        """The revision that `document` came from."""
        taken = dict(document)
        taken["t_start_ns"] = _time_ns(taken.pop("t_start"))
        taken["t_end_ns"] = _time_ns(taken.pop("t_end"))
        taken["factors"] = tuple(Factor.from_document(factor) for factor in taken["factors"])
        taken["change_ids"] = tuple(taken.get("change_ids", ()))
        taken["clusters"] = tuple(ClusterShare(**share) for share in taken["clusters"])
        return cls(**taken)


@dataclass(frozen=True, slots=True)
class Status:
    """How the correlator stands. Before the first calibration rate and threshold are unknown."""

    state: str  # learning or live
    history_days: float
    statistic_nats: float  # the largest of the windows that end now
    far_per_year: float | None
    threshold_nats: float | None
    scanned_until_minute: int | None


class Correlator:
    """Feed `minutes`, call `step`.

    burst_end_after_min: a burst ends after so many minutes without a crossing that belongs to it.
    seed: of the random shifts that calibrate the false-alarm rate.
    """

    def __init__(
        self,
        clusters: Sequence[Cluster],
        *,
        false_alarms_per_year: float = 1.0,
        history_days: int = 90,
        burst_end_after_min: int = 15,
        seed: int = 0,
    ) -> None:
        self.minutes = Minutes(clusters)
        self.victims = Victims()
        self.population = Population(self.minutes.cluster_names)
        self._changes: dict[tuple[str, str], Change] = {}
        self._rate = false_alarms_per_year
        self._history_min = history_days * DAY_MIN
        self._gap_min = burst_end_after_min
        self._seed = seed
        self._scan = Scan(clusters)
        self._causes = Causes(clusters)
        self._bursts: dict[str, Revision] = {}  # the latest revision of each
        self._judged: dict[str, Episode] = {}  # what that revision was made of
        self._crossings: list[Crossing] = []
        self._crossings_from: int | None = None  # earlier minutes were never scanned, or are forgotten
        self._scanned_until: int | None = None
        self._statistic = 0.0
        self._threshold: float | None = None
        self._tail: Tail | None = None
        self._now_minute = 0
        self._start_over()

    def restore(self, revisions: Sequence[Revision], scanned_until_minute: int | None) -> None:
        """After a restart: every revision that was told, oldest first.

        The first step scans the last six hours again, whatever was scanned before; it finds the same bursts there.
        """
        for revision in revisions:
            self._bursts[revision.burst_id] = revision
        self._scanned_until = scanned_until_minute

    def take_change(self, change: Change) -> None:
        """A roll-out begins or ends; told twice, or in any order, it is the same."""
        self._changes[change.id, change.action] = change

    def step(self, now_ns: int) -> list[Revision]:
        """Scans every minute, the current one included, that is new or changed; the revisions that follow from it."""
        self._now_minute = minute_of(now_ns)
        changed = self.minutes.take_changed()
        self._relearn_if_needed(changed)
        if self._first_hour is None:
            return []
        self._fold()
        self._calibrate_if_due()
        begin = self._first_to_scan(changed)
        self._scanned_until = self._now_minute
        if begin is None or self._tail is None:
            return []
        self._score(begin)
        return self._revise()

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
        )

    def expected_per_minute(self, stream: str) -> np.ndarray:
        """Novel faults per minute [clusters] that the hosts watching in the last scanned minute should have."""
        if self._scanned_until is None or self._first_hour is None or stream not in self._baselines:
            return np.zeros(len(self.minutes.cluster_names))
        level = self._baselines[stream].in_force(self._scanned_until // HOUR_MIN - self._first_hour)
        hosts = self.minutes.watching(stream, self._scanned_until - 1, self._scanned_until + 1)
        # the newest minute may not have been heard of yet
        return level.rate[-1] * np.where(hosts[1] > 0, hosts[1], hosts[0])

    # --- learning

    def _start_over(self) -> None:
        self._first_hour: int | None = None
        self._baselines: dict[str, Baseline] = {}
        self._maxima: dict[int, np.ndarray] = {}  # of slid blocks, by the block's number
        self._calibrated_day: int | None = None
        self._stale = False

    def _relearn_if_needed(self, changed: int | None) -> None:
        """Learns anew if old minutes changed: at once while learning, else with the next calibration."""
        first = self.minutes.first_minute
        if first is None:
            return
        if changed is not None and self._first_hour is not None and changed < self._folded_until():
            self._stale = True
        earlier = self._first_hour is not None and first // HOUR_MIN < self._first_hour
        if earlier or (self._stale and (self._tail is None or self._calibration_due())):
            self._start_over()
        if self._first_hour is None:
            self._first_hour = first // HOUR_MIN

    def _folded_until(self) -> int:
        assert self._first_hour is not None
        folded_h = max((baseline.folded_h for baseline in self._baselines.values()), default=0)
        return (self._first_hour + folded_h) * HOUR_MIN

    def _fold(self) -> None:
        """Folds the hours that are older than the guard."""
        assert self._first_hour is not None
        until = self._now_minute // HOUR_MIN - GUARD_H
        for stream in self.minutes.streams:
            baseline = self._baselines.setdefault(stream, Baseline(len(self.minutes.cluster_names)))
            for hour in range(self._first_hour + baseline.folded_h, until):
                begin, end = hour * HOUR_MIN, (hour + 1) * HOUR_MIN
                baseline.fold(self.minutes.counts(stream, begin, end), self.minutes.watching(stream, begin, end))

    def _history_days(self) -> float:
        first = self.minutes.first_minute
        return 0.0 if first is None else max(self._now_minute - first, 0) / DAY_MIN

    def _calibration_due(self) -> bool:
        return self._calibrated_day != self._now_minute // DAY_MIN and self._history_days() >= LEARNING_DAYS

    def _calibrate_if_due(self) -> None:
        """The tail of time slides over all complete blocks of the history, once a day."""
        if not self._calibration_due():
            return
        assert self._first_hour is not None
        self._calibrated_day = self._now_minute // DAY_MIN
        midnight = self._calibrated_day * DAY_MIN  # so that it doesn't matter at which time of the day this happens
        oldest = max(self._first_hour + UNSLID_H + GUARD_H, (midnight - self._history_min) // HOUR_MIN)
        newest = midnight // HOUR_MIN - GUARD_H
        blocks = range(-(-oldest // SLIDE_BLOCK_H), newest // SLIDE_BLOCK_H)
        self._maxima = {block: self._maxima[block] if block in self._maxima else self._slide(block) for block in blocks}
        self._tail = fit(np.concatenate(list(self._maxima.values())))
        share = UNTRUSTED_SHARE if self._history_days() < TRUSTED_DAYS else 1.0
        self._threshold = self._tail.statistic_nats(self._rate * share)
        self.minutes.forget_before(midnight - self._history_min - DAY_MIN)

    def _slide(self, block: int) -> np.ndarray:
        rows = self._rows(block * SLIDE_BLOCK_H * HOUR_MIN, (block + 1) * SLIDE_BLOCK_H * HOUR_MIN)
        self._cut_incidents(rows)
        return slide_maxima(self._scan, rows.counts, rows.means, rows.arrived, (self._seed, block))

    def _cut_incidents(self, rows: Rows) -> None:
        """Takes out of the rows what wasn't chance, or a single rack would set everyone's threshold."""
        statistics = self._statistics(rows)
        suspects = _crossings(statistics, rows.begin, min(INCIDENT_NATS.values()))
        for episode in episodes(suspects, self._gap_min):
            minute, window = episode.best.minute - rows.begin, WINDOWS_MIN.index(episode.best.window_min)
            verdict = self._causes.judge(*rows.row(window, minute))
            if episode.best.statistic_nats < INCIDENT_NATS[verdict.label]:
                continue
            begin, end = episode.first_minute - rows.begin, episode.last_minute - rows.begin + WINDOWS_MIN[-1]
            columns = rows.most_raised(window, minute) if verdict.label == "local" else slice(None)
            rows.cut(max(begin, 0), end, columns)

    # --- scanning

    def _rows(self, begin: int, end: int) -> Rows:
        assert self._first_hour is not None
        return Rows(self.minutes, self._baselines, self._first_hour, begin, end)

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
        rows = self._rows(begin, self._now_minute + 1)
        statistics = self._statistics(rows)
        self._statistic = float(statistics[:, -1].max())
        keep = self._tail.statistic_nats(self._rate * KEEP_FACTOR)
        statistics[rows.observed.sum(axis=2) < FAULTS_MIN] = 0
        forgotten = self._now_minute - REMEMBERED_MIN
        self._crossings = [crossing for crossing in self._crossings if forgotten <= crossing.minute < begin]
        self._crossings += _crossings(statistics, begin, keep)
        self._crossings_from = max(forgotten, begin if self._crossings_from is None else self._crossings_from)

    def _statistics(self, rows: Rows) -> np.ndarray:
        """Nats [windows, minutes]; 0 where no fault came in, but the last minute always shows how things stand."""
        scored = np.array(rows.arrived.any(axis=1))
        scored[-1] = True
        statistics = np.zeros(rows.counts.shape[:2], np.float32)
        shape = (-1, rows.counts.shape[2])
        scores = self._scan.statistics(rows.counts[:, scored].reshape(shape), rows.means[:, scored].reshape(shape))
        statistics[:, scored] = scores.reshape(len(WINDOWS_MIN), -1)
        return statistics

    # --- telling

    def _revise(self) -> list[Revision]:
        """Compares the episodes with the bursts that were told, and tells the difference."""
        assert self._threshold is not None
        revisions: list[Revision | None] = []
        told = self._recent_bursts()
        for episode in episodes(self._untold_crossings(told), self._gap_min):
            high = episode.best.statistic_nats >= self._threshold
            # what was told is kept on a lower statistic than it takes to tell it, or to tell it again
            same = next((b for b in told if self._same(b, episode) and (high or b.kind != "retract")), None)
            if same is not None:
                told.remove(same)
                revisions.append(self._updated(same, episode))
            elif high:
                revisions.append(self._raised(episode))
        gone = [burst for burst in told if burst.kind != "retract" and not self._partly_forgotten(burst)]
        return [r for r in revisions if r is not None] + [self._retracted(burst) for burst in gone]

    def _recent_bursts(self) -> list[Revision]:
        """Those that remembered crossings may belong to."""
        reach_min = REMEMBERED_MIN + WINDOWS_MIN[-1] + self._gap_min
        recent = [b for b in self._bursts.values() if b.t_end_ns >= (self._now_minute - reach_min) * MINUTE_NS]
        return sorted(recent, key=lambda burst: (burst.t_start_ns, burst.burst_id))

    def _untold_crossings(self, told: Sequence[Revision]) -> list[Crossing]:
        """All but the shadows of bursts whose own crossings are forgotten: these would rise to be peaks."""
        spans = [_span(burst) for burst in told if burst.kind != "retract" and self._partly_forgotten(burst)]
        return [
            crossing
            for crossing in self._crossings
            if not any(overlap(crossing.first_minute, crossing.minute, *span, -1) for span in spans)
        ]

    def _same(self, burst: Revision, episode: Episode) -> bool:
        return overlap(*_span(burst), episode.first_minute, episode.last_minute, self._gap_min)

    def _partly_forgotten(self, burst: Revision) -> bool:
        """True if the burst began before the crossings that are still remembered, which so can't tell all of it."""
        assert self._crossings_from is not None
        return minute_of(burst.t_start_ns) < self._crossings_from

    def _raised(self, episode: Episode) -> Revision:
        burst_id = _burst_id(episode.first_minute)
        while burst_id in self._bursts:  # one that begins alike was told, but this one is not the same
            burst_id += "b"
        self._judged[burst_id] = episode
        self._bursts[burst_id] = self._revision(burst_id, 1, "new", episode)
        return self._bursts[burst_id]

    def _updated(self, burst: Revision, episode: Episode) -> Revision | None:
        """The next revision, or None if it would say the same."""
        if self._judged.get(burst.burst_id) == episode and burst.kind != "retract":
            return None
        self._judged[burst.burst_id] = episode
        revision = self._revision(burst.burst_id, burst.rev + 1, "update", episode)
        if self._partly_forgotten(burst):
            if revision.statistic_nats < burst.statistic_nats:
                revision = replace(burst, rev=burst.rev + 1, kind="update", t_end_ns=revision.t_end_ns)
            revision = replace(revision, t_start_ns=burst.t_start_ns, t_end_ns=max(burst.t_end_ns, revision.t_end_ns))
        if burst.kind != "retract" and _says_the_same(burst, revision):
            return None
        self._bursts[burst.burst_id] = revision
        return revision

    def _retracted(self, burst: Revision) -> Revision:
        self._judged.pop(burst.burst_id, None)
        self._bursts[burst.burst_id] = replace(burst, rev=burst.rev + 1, kind="retract")
        return self._bursts[burst.burst_id]

    def _revision(self, burst_id: str, rev: int, kind: str, episode: Episode) -> Revision:
        assert self._tail is not None
        best, window = episode.best, WINDOWS_MIN.index(episode.best.window_min)
        rows = self._rows(best.minute, best.minute + 1)
        verdict = self._causes.judge(*rows.row(window, 0))
        mid_ns = (2 * best.minute + 2 - best.window_min) * MINUTE_NS // 2
        ra_deg, dec_deg = right_ascension_declination_deg(verdict.place.direction, mid_ns)
        latitude_deg, longitude_deg = angles_deg(verdict.place.direction)
        days = self._history_days()
        return Revision(
            burst_id=burst_id,
            rev=rev,
            kind=kind,
            t_start_ns=episode.first_minute * MINUTE_NS,
            t_end_ns=(episode.last_minute + 1) * MINUTE_NS,
            window_min=best.window_min,
            label=verdict.label,
            posterior=verdict.posterior,
            far_per_year=self._tail.far_per_year(best.statistic_nats),
            extrapolated_from_days=int(days) if days < TRUSTED_DAYS else None,
            statistic_nats=best.statistic_nats,
            amplitude=verdict.place.amplitude,
            ra_deg=ra_deg,
            dec_deg=dec_deg,
            area90_deg2=verdict.place.area90_deg2,
            ground_latitude_deg=latitude_deg,
            ground_longitude_deg=(longitude_deg + 180) % 360 - 180,
            antipode_latitude_deg=-latitude_deg,
            antipode_longitude_deg=longitude_deg % 360 - 180,
            area50_deg2=verdict.place.area50_deg2,
            streams=self._streams(best),
            factors=find_factors(self.victims.between(best.first_minute, best.minute + 1), self.population),
            change_ids=self._open_changes(best),
            clusters=self._shares(rows, window),
        )

    def _streams(self, best: Crossing) -> dict[str, int]:
        begin, end = best.first_minute, best.minute + 1
        window = WINDOWS_MIN.index(best.window_min)
        numbers = {s: int(self.minutes.counts(s, begin, end)[window].sum()) for s in self.minutes.streams}
        return {stream: number for stream, number in numbers.items() if number}

    def _open_changes(self, best: Crossing) -> tuple[str, ...]:
        """The roll-outs that were open in some minute of the window."""
        begin_ns, end_ns = best.first_minute * MINUTE_NS, (best.minute + 1) * MINUTE_NS
        opened = {c.id for c in self._changes.values() if c.action == "open" and c.time_ns < end_ns}
        closed = {c.id for c in self._changes.values() if c.action == "close" and c.time_ns < begin_ns}
        return tuple(sorted(opened - closed))

    def _shares(self, rows: Rows, window: int) -> tuple[ClusterShare, ...]:
        """Of the clusters that watched."""
        observed, expected, overdispersion = rows.row(window, 0)
        return tuple(
            ClusterShare(name, int(observed[column]), float(expected[column]), float(overdispersion[column]))
            for column, name in enumerate(self.minutes.cluster_names)
            if expected[column] > 0
        )


def sky_map(revision: Revision, clusters: Sequence[Cluster]) -> np.ndarray:
    """The probability [768] of each of `directions(768)`, in the frame that turns with the Earth, were it celestial."""
    shares = {share.cluster: share for share in revision.clusters}
    rows = [shares.get(cluster.name, ClusterShare(cluster.name, 0, 0.0)) for cluster in clusters]
    observed, expected, overdispersion = (
        np.array([getattr(share, name) for share in rows]) for name in ("observed", "expected", "overdispersion")
    )
    return Causes(clusters).judge(observed, expected, overdispersion).place.sky


def _says_the_same(a: Revision, b: Revision) -> bool:
    """True if the two differ in nothing that anyone would act on."""

    def essence(r: Revision) -> tuple[Any, ...]:
        counts = tuple((share.cluster, share.observed) for share in r.clusters)
        return r.t_start_ns, r.t_end_ns, r.window_min, r.label, counts

    return essence(a) == essence(b)


def _crossings(statistics: np.ndarray, begin: int, least_nats: float) -> list[Crossing]:
    """The windows of statistics[windows, minutes from `begin`] that scored and reach `least_nats`."""
    high = np.argwhere((statistics >= least_nats) & (statistics > 0))
    return [Crossing(begin + int(m), WINDOWS_MIN[w], float(statistics[w, m])) for w, m in high]


def _span(burst: Revision) -> tuple[int, int]:
    """First and last minute, both included."""
    return minute_of(burst.t_start_ns), minute_of(burst.t_end_ns) - 1


def _burst_id(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y%m%dT%H%MZ")


def _rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
