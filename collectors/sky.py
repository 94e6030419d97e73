"""The sky: unit vectors of places and boards, an even grid of directions, and from the ground to right ascension.

Enters: angles in degrees and times in ns since 1970 (UTC). Leaves: unit vectors in the frame that turns with the Earth
(x through 0 N 0 E, z through the north pole), or right ascension and declination of J2000. Nutation and aberration are
left out: the result is within 0.01 degrees, the bursts' own error is some ten degrees. Pure.
"""

from collections.abc import Sequence

import numpy as np

from collectors.inventory import Cluster
from collectors.minutes import DAY_NS

J2000_NS = 946_728_000_000_000_000  # 2000-01-01 12:00
CENTURY_DAYS = 36_525.0
SPHERE_DEG2 = 4 * np.pi * np.degrees(1) ** 2
DIPOLE_POLE_DEG = (80.65, -72.68)
DIPOLE_EQUATOR_GV = 14.9
GOLDEN_ANGLE_RAD = np.pi * (3 - np.sqrt(5))


def unit_vectors(latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> np.ndarray:
    """Unit vectors [n, 3] of directions given by latitude and longitude, or declination and right ascension."""
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
    )


def angles_deg(vector: np.ndarray) -> tuple[float, float]:
    """Latitude and longitude (0 to 360) of one vector; its length doesn't matter."""
    x, y, z = (float(part) for part in vector)
    return float(np.degrees(np.arctan2(z, np.hypot(x, y)))), float(np.degrees(np.arctan2(y, x))) % 360.0


def separation_deg(a: np.ndarray, b: np.ndarray) -> float:
    """The angle between two unit vectors."""
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), np.dot(a, b))))


def zeniths(clusters: Sequence[Cluster]) -> np.ndarray:
    """The direction straight up at each cluster [clusters, 3]."""
    return unit_vectors(
        np.array([cluster.latitude_deg for cluster in clusters]),
        np.array([cluster.longitude_deg for cluster in clusters]),
    )


def facings(clusters: Sequence[Cluster]) -> np.ndarray:
    """The direction in which each cluster's boards face [clusters, 3]: the zenith unless the inventory says so."""
    up = zeniths(clusters)
    longitude = np.radians([cluster.longitude_deg for cluster in clusters])
    east = np.stack([-np.sin(longitude), np.cos(longitude), np.zeros(len(clusters))], axis=-1)
    north = np.cross(up, east)
    azimuth = np.radians([cluster.facing_azimuth_deg for cluster in clusters])[:, None]
    elevation = np.radians([cluster.facing_elevation_deg for cluster in clusters])[:, None]
    level = np.cos(azimuth) * north + np.sin(azimuth) * east
    return np.cos(elevation) * level + np.sin(elevation) * up


def rigidities_gv(clusters: Sequence[Cluster]) -> np.ndarray:
    """The vertical geomagnetic cutoff rigidity of each cluster [clusters]: the inventory's, else a dipole's estimate.

    The estimate is 14.9 GV cos^4 of the geomagnetic latitude (Stoermer), in a centred dipole whose axis is that of
    IGRF-13 for 2020; it errs by some 2 GV.
    """
    latitude_sine = zeniths(clusters) @ unit_vectors(*(np.array(angle) for angle in DIPOLE_POLE_DEG))
    estimates = DIPOLE_EQUATOR_GV * (1 - latitude_sine**2) ** 2
    given = [np.nan if cluster.rigidity_gv is None else cluster.rigidity_gv for cluster in clusters]
    return np.where(np.isnan(given), estimates, given)


def directions(number: int) -> np.ndarray:
    """`number` directions [number, 3], spread evenly over the sphere as a Fibonacci spiral."""
    index = np.arange(number)
    z = 1 - (2 * index + 1) / number
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(index * GOLDEN_ANGLE_RAD), radius * np.sin(index * GOLDEN_ANGLE_RAD), z], axis=-1)


def earth_rotation_deg(time_ns: int) -> float:
    """The Earth rotation angle, 0 to 360 (IERS Conventions 2010, equation 5.15; UTC stands for UT1)."""
    days, rest_ns = divmod(time_ns - J2000_NS, DAY_NS)
    day_fraction = rest_ns / DAY_NS
    turns = 0.7790572732640 + day_fraction + 0.00273781191135448 * (days + day_fraction)
    return turns % 1.0 * 360.0


def right_ascension_declination_deg(direction: np.ndarray, time_ns: int) -> tuple[float, float]:
    """Right ascension (0 to 360) and declination, J2000, of a direction in the frame that turns with the Earth."""
    declination, longitude = angles_deg(direction)
    right_ascension = longitude + sidereal_deg(time_ns)
    of_date = unit_vectors(np.array(declination), np.array(right_ascension))
    declination_2000, right_ascension_2000 = angles_deg(precession(time_ns).T @ of_date)
    return right_ascension_2000, declination_2000


def ground_direction(ra_deg: float, dec_deg: float, time_ns: int) -> np.ndarray:
    """The reverse: where in the turning frame a J2000 position stands at this time."""
    of_date = precession(time_ns) @ unit_vectors(np.array(dec_deg), np.array(ra_deg))
    declination, right_ascension = angles_deg(of_date)
    return unit_vectors(np.array(declination), np.array(right_ascension - sidereal_deg(time_ns)))


def _centuries(time_ns: int) -> float:
    return (time_ns - J2000_NS) / DAY_NS / CENTURY_DAYS


def sidereal_deg(time_ns: int) -> float:
    """Greenwich mean sidereal time: rotation angle plus precession in right ascension (Capitaine et al. 2003)."""
    t = _centuries(time_ns)
    return earth_rotation_deg(time_ns) + (0.014506 + 4612.156534 * t + 1.3915817 * t * t) / 3600


def precession(time_ns: int) -> np.ndarray:
    """The rotation from J2000 to the mean equator of date (IAU 1976, Lieske et al. 1977)."""
    t = _centuries(time_ns)
    zeta = 2306.2181 * t + 0.30188 * t**2 + 0.017998 * t**3
    z = 2306.2181 * t + 1.09468 * t**2 + 0.018203 * t**3
    theta = 2004.3109 * t - 0.42665 * t**2 - 0.041833 * t**3
    return _about_z(z) @ _about_y(theta) @ _about_z(zeta)


def _about_z(arcsec: float) -> np.ndarray:
    c, s = np.cos(np.radians(arcsec / 3600)), np.sin(np.radians(arcsec / 3600))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _about_y(arcsec: float) -> np.ndarray:
    c, s = np.cos(np.radians(arcsec / 3600)), np.sin(np.radians(arcsec / 3600))
    return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
