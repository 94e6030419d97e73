"""Mapping: what a burst's figure shows, as numbers.

Enters: a burst's revision, its clusters, faults. Leaves: points, curves and counts that `plot` only has to draw. Angles
in degrees. Pure, numpy only.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from agent.report import Fault
from collectors.causes import DIRECTIONS, Causes
from collectors.inventory import Cluster
from collectors.minutes import DAY_NS, SCANNED_STREAMS, TIME_ERROR_MAX_S, minute_of
from collectors.revision import ClusterShare, Revision
from collectors.sky import (
    J2000_NS,
    directions,
    right_ascension_declination_deg,
    rigidities_gv,
    sidereal_deg,
    unit_vectors,
)
from collectors.windows import Row

GRID_DEG = 3
KERNEL_DEG = 4.0  # between the directions of the sky map, which lie 7 degrees apart
SIDEREAL_DEG_PER_MINUTE = 360.98564737 / 1440
AROUND_MIN = (30, 120)  # what the time line shows before and after: as much as the burst took, within these


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster that watched: where it stands, and what it saw."""

    share: ClusterShare
    latitude_deg: float
    longitude_deg: float

    @property
    def ratio(self) -> float:
        """Observed over expected."""
        return self.share.observed / self.share.expected


@dataclass(frozen=True, slots=True)
class Timeline:
    """Novel faults a minute of the clusters that took part, and what was expected of them."""

    first_minute: int
    observed: np.ndarray  # [minutes], only as far as the data reach
    expected_per_minute: float


@dataclass(frozen=True, slots=True)
class Map:
    """Values [latitudes, longitudes] on a regular grid that covers the sphere."""

    latitudes_deg: np.ndarray
    longitudes_deg: np.ndarray  # -180 to 180 around the centre
    values: np.ndarray

    def level(self, share: float) -> float:
        """The value above which this share of the whole lies, each point weighted by the area it stands for."""
        weights = np.repeat(np.cos(np.radians(self.latitudes_deg))[:, None], len(self.longitudes_deg) - 1, axis=1)
        values = self.values[:, :-1]  # the seam stands at both ends
        order = values.ravel().argsort()[::-1]
        running = (values * weights).ravel()[order].cumsum()
        return float(values.ravel()[order][np.searchsorted(running, share * running[-1])])


def sites(revision: Revision, clusters: Sequence[Cluster]) -> list[Site]:
    """The burst's clusters that have a place, the largest excess first."""
    places = {cluster.name: cluster for cluster in clusters}
    known = [
        Site(share, places[share.cluster].latitude_deg, places[share.cluster].longitude_deg)
        for share in revision.clusters
        if share.cluster in places
    ]
    return sorted(known, key=lambda site: (site.share.expected - site.share.observed, site.share.cluster))


def around(revision: Revision) -> tuple[int, int]:
    """First minute of the time line, and the one after its last."""
    first, end = minute_of(revision.t_start_ns), minute_of(revision.t_end_ns)
    margin = min(max(end - first, AROUND_MIN[0]), AROUND_MIN[1])
    return first - margin, end + margin


def timeline(revision: Revision, faults: Iterable[Fault], known_until_ns: int) -> Timeline:
    """Of the faults that the scan may use; minutes after `known_until_ns` aren't known and left out."""
    first, end = around(revision)
    end = max(min(end, minute_of(known_until_ns) + 1), first)
    taking_part = set(revision.members)
    streams = set(SCANNED_STREAMS) & set(revision.streams or SCANNED_STREAMS)
    minutes = Counter(
        minute_of(fault.time_ns)
        for fault in faults
        if fault.novel
        and fault.cluster in taking_part
        and fault.stream in streams
        and fault.time_error_s <= TIME_ERROR_MAX_S
    )
    expected = sum(share.expected for share in revision.clusters if share.cluster in taking_part)
    observed = np.array([minutes[minute] for minute in range(first, end)], np.int64)
    return Timeline(first, observed, expected / revision.window_min)


def mid_time_ns(revision: Revision) -> int:
    """When the source stood where the revision says: the time that ties its right ascension to its ground point."""
    middle_ns = (revision.t_start_ns + revision.t_end_ns) // 2
    there = unit_vectors(np.array(revision.ground_latitude_deg), np.array(revision.ground_longitude_deg))
    off_deg = revision.ra_deg - right_ascension_declination_deg(there, middle_ns)[0]
    off_min = ((off_deg + 180) % 360 - 180) / SIDEREAL_DEG_PER_MINUTE
    return middle_ns + round(off_min * 60) * 1_000_000_000


def posterior_map(revision: Revision, clusters: Sequence[Cluster], centre_deg: float) -> Map:
    """The density of the source's position in right ascension and declination (J2000), were it celestial.

    Longitudes are right ascensions minus `centre_deg`.
    """
    sky, time_ns = sky_map(revision, clusters), mid_time_ns(revision)
    positions = np.array([right_ascension_declination_deg(one, time_ns) for one in directions(DIRECTIONS)])
    vectors = unit_vectors(positions[:, 1], positions[:, 0] - centre_deg)
    latitudes, longitudes = _grid()
    points = unit_vectors(*np.meshgrid(latitudes, longitudes, indexing="ij"))
    cosines = points.reshape(-1, 3).astype(np.float32) @ vectors.T.astype(np.float32)
    kernel = np.exp((cosines - 1) / np.float32(np.radians(KERNEL_DEG) ** 2))
    values = (kernel @ sky) / kernel.sum(axis=1)
    return Map(latitudes, longitudes, values.reshape(len(latitudes), len(longitudes)))


def sky_map(revision: Revision, clusters: Sequence[Cluster], causes: Causes | None = None) -> np.ndarray:
    """The probability [768] of each of `directions(768)`, in the frame that turns with the Earth, were it celestial.

    `causes` spares who draws many maps of the same clusters the making of their templates.
    """
    shares = {share.cluster: share for share in revision.clusters}
    rows = [shares.get(cluster.name, ClusterShare(cluster.name, 0, 0.0)) for cluster in clusters]
    observed, expected, overdispersion = (
        np.array([[getattr(share, name) for share in rows]]) for name in ("observed", "expected", "overdispersion")
    )
    return (causes or Causes(clusters)).place(Row(observed, expected, overdispersion)).sky


def sun_elevation_map(time_ns: int) -> Map:
    """The sine of the Sun's elevation all over the Earth."""
    latitudes, longitudes = _grid()
    points = unit_vectors(*np.meshgrid(latitudes, longitudes, indexing="ij"))
    return Map(latitudes, longitudes, points @ sun_direction(time_ns))


def cutoff_map() -> Map:
    """The cutoff rigidity in GV all over the Earth, of a centred dipole."""
    latitudes, longitudes = _grid()
    places = [Cluster("", float(latitude), float(longitude)) for latitude in latitudes for longitude in longitudes]
    return Map(latitudes, longitudes, rigidities_gv(places).reshape(len(latitudes), len(longitudes)))


def sun_direction(time_ns: int) -> np.ndarray:
    """Where the Sun stands in the turning frame, within .02 degrees (The Astronomical Almanac, low precision)."""
    days = (time_ns - J2000_NS) / DAY_NS
    anomaly = np.radians(357.528 + 0.9856003 * days)
    longitude = np.radians(280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    tilt = np.radians(23.439 - 4e-7 * days)
    of_date = np.array([np.cos(longitude), np.cos(tilt) * np.sin(longitude), np.sin(tilt) * np.sin(longitude)])
    turned = np.radians(sidereal_deg(time_ns))
    x, y, z = of_date
    return np.array([x * np.cos(turned) + y * np.sin(turned), y * np.cos(turned) - x * np.sin(turned), z])


def horizon(latitude_deg: float, longitude_deg: float) -> np.ndarray:
    """Latitudes and longitudes [2, points] of the places from which the point's zenith stands on the horizon.

    In the order of longitude, from -180 to 180, so that it can be drawn as one line.
    """
    pole = unit_vectors(np.array(latitude_deg), np.array(longitude_deg))
    aside = np.cross(pole, [0.0, 0.0, 1.0] if abs(latitude_deg) < 89 else [1.0, 0.0, 0.0])
    aside /= np.linalg.norm(aside)
    turns = np.radians(np.arange(0, 360, 0.5))[:, None]
    x, y, z = (np.cos(turns) * aside + np.sin(turns) * np.cross(pole, aside)).T
    latitudes, longitudes = np.degrees(np.arcsin(np.clip(z, -1, 1))), np.degrees(np.arctan2(y, x))
    order = longitudes.argsort()
    return np.stack([latitudes[order], longitudes[order]])


def land() -> list[np.ndarray]:
    """Outlines of the land: latitudes and longitudes [2, points] of each ring (Natural Earth, public domain)."""
    rings = json.loads(resources.files("collectors").joinpath("land.json").read_text("utf-8"))["rings"]
    return [np.array(ring).reshape(-1, 2).T[::-1] / 10 for ring in rings]


def _grid() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(-90.0, 91.0, GRID_DEG), np.arange(-180.0, 181.0, GRID_DEG)
