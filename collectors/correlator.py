"""The correlator: minutes in, burst revisions out.

Enters: a Minutes that the caller feeds, and the time. Leaves: revisions of bursts, a status. Everything it knows is a
function of the stored minutes, so that late data and restarts end in the same place. Pure: `now` is an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from collectors.inventory import Cluster
from collectors.minutes import Minutes


@dataclass(frozen=True, slots=True)
class ClusterShare:
    """What one cluster saw in the burst's window: novel faults, and how many its baseline expected."""

    cluster: str
    observed: int
    expected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One statement about a burst; a later one with a higher `rev` replaces it. Times are whole minutes."""

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
    amplitude: float
    ra_deg: float
    dec_deg: float
    area90_deg2: float
    ground_latitude_deg: float  # where on Earth the source stood in the zenith at mid time
    ground_longitude_deg: float
    factors: tuple[str, ...] = ()
    clusters: tuple[ClusterShare, ...]

    def document(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Revision":
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Status:
    """How the correlator stands."""

    state: str  # learning or live
    history_days: float
    statistic_nats: float
    far_per_year: float | None
    threshold_nats: float | None
    scanned_until_minute: int | None


class Correlator:
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

    def restore(self, revisions: Sequence[Revision], scanned_until_minute: int | None) -> None:
        raise NotImplementedError

    def step(self, now_ns: int) -> list[Revision]:
        raise NotImplementedError

    def active(self, now_ns: int) -> list[Revision]:
        raise NotImplementedError

    @property
    def status(self) -> Status:
        raise NotImplementedError

    def expected_per_minute(self, stream: str) -> np.ndarray:
        raise NotImplementedError
