"""The stepper: the correlator with all that feeds it, between the store and the conductor.

Enters: the store, the time, the fleet, and until when everybody has told what happened. Leaves: the revisions of one
step, and a Step: how things stand after it. Whatever happens to the correlator, it can be built again from the store.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collectors.config import CollectorConfig
from collectors.correlator import LATE_MIN, Correlator, Status, places
from collectors.factors import Factor, find_factors
from collectors.feed import Feed
from collectors.inventory import Inventory
from collectors.minutes import DAY_NS, HOUR_MIN, MINUTE_NS, minute_of
from collectors.population import FleetAttributes
from collectors.revision import Revision
from collectors.store import FACTS_VERSION, Store

CALIBRATION = "calibration"  # the name of what the correlator slid, in the store
EXPECTED_GAP_MIN = 60  # a longer gap between two steps was an outage: nothing was expected of it
FACTS_NS = MINUTE_NS  # how soon what agents newly tell of their hosts becomes part of the population
FACTORS_NS = HOUR_MIN * MINUTE_NS  # how often what the victims of the last day share is looked for


@dataclass(frozen=True, slots=True)
class Step:
    """What the last correlation step left."""

    status: Status
    active: tuple[Revision, ...]
    expected_per_minute: Mapping[tuple[str, str], float]  # (cluster, stream)
    seconds: float
    factors_24h: tuple[Factor, ...] = ()  # what the victims of the last day share
    calibration: Mapping[str, Any] | None = None  # to be kept; None: what is kept is up to date


class Stepper:
    """The correlator with what feeds it and a connection to the store, for the one thread that correlates."""

    def __init__(self, config: CollectorConfig, fleet: Inventory) -> None:
        self._config = config
        self._store = Store(config.store_path, create=False)
        self._clusters = fleet.clusters
        self._correlator: Correlator | None = None
        self._feed: Feed | None = None
        self._import = 0
        self._last_change = 0
        self._fleet: Inventory | None = None  # whose hosts are the population
        self._calibration: dict[str, Any] = {}
        self._factors: tuple[Factor, ...] = ()
        self._factors_ns = 0
        self._facts_version: int | None = None
        self._filled_ns = 0

    def close(self) -> None:
        self._store.close()

    def start_over(self) -> None:
        """The next step builds everything from the store."""
        self._correlator = None

    def step(
        self, now_ns: int, exposure_from_ns: int | None, heard_until_ns: int, fleet: Inventory, config: CollectorConfig
    ) -> tuple[list[Revision], Step]:
        """Feeds what is new, as far as everybody has told, and scans it."""
        begin_s = time.perf_counter()
        last_import = self._store.last_import()
        is_same_fleet = places(fleet.clusters) == places(self._clusters)
        if last_import != self._import or not is_same_fleet or config != self._config:
            self.start_over()
        self._import, self._clusters, self._config = last_import, fleet.clusters, config
        correlator = self._correlator or self._build(now_ns)
        assert self._feed is not None
        for number, change in self._store.changes(self._last_change):
            correlator.take_change(change)
            self._last_change = number
        self._look_for_factors(correlator, fleet, now_ns)
        self._feed.advance(now_ns, exposure_from_ns, heard_until_ns)
        revisions = correlator.step(now_ns)
        return revisions, Step(
            status=correlator.status,
            active=tuple(correlator.active(now_ns)),
            expected_per_minute=_expected(correlator),
            factors_24h=self._factors,
            calibration=self._new_calibration(correlator),
            seconds=time.perf_counter() - begin_s,
        )

    def _new_calibration(self, correlator: Correlator) -> dict[str, Any] | None:
        """What the store should know, if it is other than at the last step: to slide a history again takes minutes."""
        before, self._calibration = self._calibration, correlator.calibration()
        return self._calibration if self._calibration["blocks"] and self._calibration != before else None

    def _look_for_factors(self, correlator: Correlator, fleet: Inventory, now_ns: int) -> None:
        """Keeps the population up to date, and once in a while asks what the victims of the last day share."""
        facts_version = self._store.number(FACTS_VERSION)
        is_stale = facts_version != self._facts_version and abs(now_ns - self._filled_ns) >= FACTS_NS
        is_due = abs(now_ns - self._factors_ns) >= FACTORS_NS  # a clock that was set back delays nothing
        if is_stale or is_due or fleet is not self._fleet:
            self._fleet, self._facts_version, self._filled_ns = fleet, facts_version, now_ns
            FleetAttributes(fleet, self._store.facts()).fill(correlator.population)
        if is_due:
            self._factors_ns = now_ns
            self._factors = find_factors(self._store.victims_since(now_ns - DAY_NS), correlator.population)

    def _build(self, now_ns: int) -> Correlator:
        """A correlator that knows what the store knows; nothing that was raised is raised again."""
        config = self._config
        correlator = Correlator(
            self._clusters,
            false_alarms_per_year=config.false_alarms_per_year,
            history_days=config.history_days,
            burst_end_after_min=config.burst_end_after_min,
            streams=config.streams,
            priors=config.priors.by_cause(),
        )
        scanned_until = self._store.number("scanned_until_minute")
        if scanned_until is None:  # the very first start: what is older is history, not news
            scanned_until = minute_of(now_ns) - LATE_MIN
        correlator.restore(self._store.bursts(), scanned_until, self._store.document(CALIBRATION))
        self._feed = Feed(self._store, correlator.minutes, correlator.victims, config.history_days)
        self._last_change, self._fleet = 0, None
        self._correlator = correlator
        return correlator


def keep(store: Store, now_ns: int, revisions: Sequence[Revision], step: Step) -> None:
    """Stores what a step brought, so that a restart goes on from there; by the thread whose connection `store` is."""
    if step.calibration is not None:
        store.keep_document(CALIBRATION, step.calibration)
    minute = minute_of(now_ns)
    counted = store.number("expected_until_minute")
    if counted == minute and not revisions:
        return  # nothing to keep before the next minute
    numbers = {"expected_until_minute": minute}
    if step.status.scanned_until_minute is not None:
        numbers["scanned_until_minute"] = step.status.scanned_until_minute
    passed = minute - counted if counted is not None and 0 < minute - counted <= EXPECTED_GAP_MIN else 0
    expected = {key: rate * passed for key, rate in step.expected_per_minute.items()} if passed else {}
    store.record_step(revisions, numbers, expected)


def _expected(correlator: Correlator) -> dict[tuple[str, str], float]:
    names = correlator.minutes.cluster_names
    return {
        (name, stream): float(rate)
        for stream in correlator.minutes.streams
        for name, rate in zip(names, correlator.expected_per_minute(stream), strict=True)
    }
