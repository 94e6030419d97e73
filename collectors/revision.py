"""The revision: what is said about a burst, and what each cluster had to do with it.

Enters: what the correlator found, or a document of `replay --json`, the store or /api/bursts. Leaves: the same as plain
data that alerts, page, pictures and commands speak from, and its document. Pure.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from collectors.factors import Factor
from collectors.minutes import minute_of

SPREADS = 2.0  # by chance alone a cluster is this far up once in twenty to fifty windows


@dataclass(frozen=True, slots=True)
class ClusterShare:
    """What one cluster saw in the burst's best window: novel faults, and how many its baseline expected."""

    cluster: str
    observed: int
    expected: float
    overdispersion: float = 1.0  # the variance of such counts over their mean

    @property
    def takes_part(self) -> bool:
        """True if it lies more than SPREADS standard deviations above what was expected."""
        spread = math.sqrt(self.expected * self.overdispersion)
        return self.observed > self.expected + SPREADS * spread


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
    label: str  # the cause to name: the likeliest, but the sky only if it stands clearly above the rest
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

    @property
    def span(self) -> tuple[int, int]:
        """First and last minute, both included."""
        return minute_of(self.t_start_ns), minute_of(self.t_end_ns) - 1

    @property
    def members(self) -> list[str]:
        """The clusters that take part: they saw more than the usual spread of their counts explains."""
        return [share.cluster for share in self.clusters if share.takes_part]

    @property
    def held_back(self) -> str | None:
        """The cause that is likelier than the one that is named, but not sure enough to be named; mostly none is."""
        likeliest = max(self.posterior, key=lambda cause: self.posterior[cause])
        return likeliest if self.posterior[likeliest] > self.posterior.get(self.label, 0.0) else None

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


def says_the_same(a: Revision, b: Revision) -> bool:
    """True if the two differ in nothing that anyone would act on."""

    def essence(r: Revision) -> tuple[Any, ...]:
        counts = tuple((share.cluster, share.observed) for share in r.clusters)
        return r.t_start_ns, r.t_end_ns, r.window_min, r.label, counts, r.change_ids, r.factors

    return essence(a) == essence(b)


def _rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
