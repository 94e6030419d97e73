"""The numbers behind a burst's figure, against geometry and the almanac."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from collectors.inventory import Cluster
from collectors.mapping import (
    Map,
    around,
    cutoff_map,
    horizon,
    land,
    mid_time_ns,
    posterior_map,
    sites,
    sun_direction,
    timeline,
)
from collectors.minutes import MINUTE_NS, minute_of
from collectors.revision import ClusterShare
from collectors.sky import angles_deg, right_ascension_declination_deg, unit_vectors
from tests.collectors.bursts import CELESTIAL, START_NS, revision
from tests.collectors.fleets import cities, fault

FIRST = minute_of(START_NS)


def time_ns(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 10**9


def seen(burst, sky_deg: tuple[float, float] = (22.0, 8.0), amplitude: float = 40.0):
    """The burst as the forty cities would see it: noiseless counts of a source above that point."""
    clusters = cities().clusters
    source = unit_vectors(np.array(sky_deg[0]), np.array(sky_deg[1]))
    places = unit_vectors(np.array([c.latitude_deg for c in clusters]), np.array([c.longitude_deg for c in clusters]))
    expected = np.array([c.hosts for c in clusters]) * 2.5e-5
    observed = np.round(expected * (1 + amplitude * np.maximum(places @ source, 0)))
    shares = zip(clusters, observed, expected, strict=True)
    return replace(burst, clusters=tuple(ClusterShare(c.name, int(o), float(e), 1.1) for c, o, e in shares)), clusters


def test_sites_have_places_and_the_largest_excess_comes_first():
    found = sites(CELESTIAL, [Cluster("nyc", 40.7, -74.0), Cluster("fra", 50.1, 8.7), Cluster("other", 0, 0)])
    assert [site.share.cluster for site in found] == ["fra", "nyc"]
    assert found[0].latitude_deg == 50.1 and found[0].ratio == pytest.approx(600)


def test_the_time_line_counts_what_the_scan_counts():
    burst = revision(streams={"dram": 9, "record": 2})
    faults = [
        *(fault(FIRST, cluster) for cluster in ("fra", "nyc", "fra")),
        fault(FIRST, "syd"),  # took no part
        fault(FIRST, "fra", novel=False),
        fault(FIRST, "fra", stream="gpu"),
        fault(FIRST, "fra", stream="record"),
        fault(FIRST, "fra", time_error_s=7200.0),
        fault(FIRST + 3, "nyc"),
    ]
    line = timeline(burst, faults, START_NS + 10**15)
    assert (line.first_minute, line.first_minute + len(line.observed)) == around(burst) == (FIRST - 30, FIRST + 40)
    assert line.observed[30] == 3 and line.observed[33] == 1 and line.observed.sum() == 4
    assert line.expected_per_minute == pytest.approx(0.02 / 10)


def test_what_isnt_known_yet_is_no_zero():
    assert len(timeline(CELESTIAL, [], START_NS + 5 * MINUTE_NS).observed) == 30 + 6
    assert len(timeline(CELESTIAL, [], 0).observed) == 0


def test_a_long_burst_shows_more_around():
    assert around(revision(t_end_ns=START_NS + 60 * MINUTE_NS)) == (FIRST - 60, FIRST + 120)
    assert around(revision(t_end_ns=START_NS + 600 * MINUTE_NS)) == (FIRST - 120, FIRST + 720)


@pytest.mark.parametrize("minute", [-40, 0, 4, 90])
def test_the_time_that_ties_the_sky_to_the_ground(minute):
    at_ns = START_NS + minute * MINUTE_NS
    ra_deg, dec_deg = right_ascension_declination_deg(unit_vectors(np.array(22.0), np.array(8.0)), at_ns)
    assert abs(mid_time_ns(revision(ra_deg=ra_deg, dec_deg=dec_deg)) - at_ns) < 10 * 10**9


def test_the_posterior_peaks_at_the_source_and_its_levels_hold_its_areas():
    burst, clusters = seen(CELESTIAL)
    at_ns = mid_time_ns(burst)
    ra_deg, dec_deg = right_ascension_declination_deg(unit_vectors(np.array(22.0), np.array(8.0)), at_ns)
    density = posterior_map(burst, clusters, centre_deg=ra_deg)
    row, column = np.unravel_index(density.values.argmax(), density.values.shape)
    assert density.latitudes_deg[row] == pytest.approx(dec_deg, abs=10)
    assert density.longitudes_deg[column] == pytest.approx(0, abs=10)
    assert density.level(0.5) > density.level(0.9) > 0
    assert density.values[:, 0] == pytest.approx(density.values[:, -1])  # the seam


def test_levels_of_a_bell_on_the_sphere():
    """exp(k (cos a - 1)) holds the share 1 - exp(-h) within the cap in which it is above exp(-h), h = k (1 - cos a)."""
    latitudes, longitudes = np.arange(-90.0, 91, 1), np.arange(-180.0, 181, 1)
    centre = unit_vectors(np.array(30.0), np.array(179.0))
    points = unit_vectors(*np.meshgrid(latitudes, longitudes, indexing="ij"))
    bell = Map(latitudes, longitudes, np.exp(30 * (points @ centre - 1)))
    for share in (0.5, 0.9):
        assert bell.level(share) == pytest.approx(1 - share, rel=0.03)


def test_the_sun():
    latitude, _ = angles_deg(sun_direction(time_ns(2026, 6, 21, 8, 25)))
    assert latitude == pytest.approx(23.44, abs=0.02)  # the solstice
    latitude, _ = angles_deg(sun_direction(time_ns(2026, 3, 20, 14, 46)))
    assert latitude == pytest.approx(0, abs=0.02)  # the equinox
    # in early November sundials are 16.4 minutes ahead, so at noon in Greenwich the Sun stands 4.1 degrees west
    _, longitude = angles_deg(sun_direction(time_ns(2026, 11, 3, 12)))
    assert longitude == pytest.approx(360 - 4.1, abs=0.1)


@pytest.mark.parametrize("point", [(22.0, 8.0), (0.0, 180.0), (-89.5, 10.0), (90.0, 0.0)])
def test_the_horizon_is_a_quarter_turn_away(point):
    pole = unit_vectors(np.array(point[0]), np.array(point[1]))
    latitudes, longitudes = horizon(*point)
    assert np.abs(unit_vectors(latitudes, longitudes) @ pole).max() < 1e-9
    assert np.all(np.diff(longitudes) >= 0) and len(longitudes) > 300


def test_the_cutoff_is_lowest_at_the_geomagnetic_poles():
    cutoff = cutoff_map()
    assert cutoff.values.min() < 0.1 and 14.5 < cutoff.values.max() <= 14.9


def covers(latitude_deg: float, longitude_deg: float) -> bool:
    """Whether that point is land, by the number of borders to the east of it."""
    crossings = 0
    for latitudes, longitudes in land():
        other_latitudes, other_longitudes = np.roll(latitudes, -1), np.roll(longitudes, -1)
        spans = (latitudes > latitude_deg) != (other_latitudes > latitude_deg)
        share = (latitude_deg - latitudes[spans]) / (other_latitudes - latitudes)[spans]
        crossings += int((longitudes[spans] + share * (other_longitudes - longitudes)[spans] > longitude_deg).sum())
    return crossings % 2 == 1


def test_the_land():
    for place in ((50, 10), (-25, 135), (40, -100), (60, 100), (-10, -55), (0, 25), (-80, 0), (72, -40)):
        assert covers(*place), f"{place} is land"
    for place in ((0, -30), (-40, 80), (30, -150), (80, 150), (-60, 0), (42, 51)):
        assert not covers(*place), f"{place} is water"
