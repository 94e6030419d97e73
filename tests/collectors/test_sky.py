from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import sky
from collectors.inventory import Cluster


def ns(*moment):
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 10**9


def test_the_rotation_angle_at_j2000_is_the_constant_of_its_definition():
    assert sky.earth_rotation_deg(ns(2000, 1, 1, 12)) == pytest.approx(360 * 0.7790572732640, abs=1e-9)


def test_sidereal_time_of_a_textbook():
    # Meeus, Astronomical Algorithms, example 12.a: 1987 April 10, 0h UT, 13h 10m 46.3668s
    assert sky.sidereal_deg(ns(1987, 4, 10)) % 360 == pytest.approx(197.693195, abs=5e-4)


def test_precession_of_a_textbook():
    # Meeus, example 21.b: theta Persei, 2028 November 13.19, proper motion already added
    moment = sky.J2000_NS + int((2462088.69 - 2451545.0) * 86400e9)
    of_date = sky.precession(moment) @ sky.unit_vectors(np.array(49.227750), np.array(41.054063))
    assert sky.angles_deg(of_date) == pytest.approx((49.348483, 41.547214), abs=1e-6)


def test_the_zenith_of_greenwich_at_j2000():
    ra_deg, dec_deg = sky.right_ascension_declination_deg(
        sky.unit_vectors(np.array(51.4779), np.array(0.0)), ns(2000, 1, 1, 12)
    )
    assert (ra_deg, dec_deg) == pytest.approx((280.4606, 51.4779), abs=1e-3)


def test_the_spring_sun_stands_over_the_equator_where_it_is_noon():
    # equinox of 2024: 03:06 UTC; the equation of time is -7.4 minutes, so noon is at (12 - 3.1 + 0.123) * 15 degrees
    latitude_deg, longitude_deg = sky.angles_deg(sky.ground_direction(0.0, 0.0, ns(2024, 3, 20, 3, 6)))
    assert latitude_deg == pytest.approx(0, abs=0.2)
    assert longitude_deg == pytest.approx(135.35, abs=0.6)


@given(st.floats(0, 359.9), st.floats(-89, 89), st.integers(ns(1995, 1, 1), ns(2060, 1, 1)))
def test_sky_to_ground_and_back(ra_deg, dec_deg, time_ns):
    back = sky.right_ascension_declination_deg(sky.ground_direction(ra_deg, dec_deg, time_ns), time_ns)
    a, b = (sky.unit_vectors(np.array(dec), np.array(ra)) for ra, dec in ((ra_deg, dec_deg), back))
    assert sky.separation_deg(a, b) < 1e-6


def test_the_grid_is_even():
    grid = sky.directions(768)
    assert np.allclose(np.linalg.norm(grid, axis=1), 1)
    assert np.allclose(grid.mean(axis=0), 0, atol=0.002)
    nearest = np.sort(grid @ grid.T, axis=1)[:, -2]
    assert np.degrees(np.arccos(nearest)).min() > 0.6 * np.degrees(np.arccos(nearest)).max()


@pytest.mark.parametrize(
    ("azimuth", "elevation", "direction"),
    [(0, 90, (1, 0, 0)), (0, 0, (0, 0, 1)), (90, 0, (0, 1, 0)), (180, 0, (0, 0, -1)), (90, -45, (-0.7071, 0.7071, 0))],
)
def test_facing_at_the_equator_and_greenwich(azimuth, elevation, direction):
    cluster = Cluster("a", 0.0, 0.0, facing_azimuth_deg=azimuth, facing_elevation_deg=elevation)
    assert sky.facings([cluster])[0] == pytest.approx(direction, abs=1e-4)


def test_from_the_zenith_to_j2000_within_a_hundredth_of_a_degree():
    # Meeus, example 21.b backwards, with his own sidereal time (12.4): where theta Persei of date is in the zenith
    days = 2462088.69 - 2451545.0
    sidereal_deg = 280.46061837 + 360.98564736629 * days + 0.000387933 * (days / 36525) ** 2
    zenith = sky.unit_vectors(np.array(49.348483), np.array(41.547214 - sidereal_deg))
    ra_deg, dec_deg = sky.right_ascension_declination_deg(zenith, sky.J2000_NS + int(days * 86400e9))
    told, true = (sky.unit_vectors(*map(np.array, place)) for place in ((dec_deg, ra_deg), (49.227750, 41.054063)))
    assert sky.separation_deg(told, true) < 0.01


def test_the_dipole_s_rigidity():
    pole, opposite = sky.DIPOLE_POLE_DEG, (-sky.DIPOLE_POLE_DEG[0], sky.DIPOLE_POLE_DEG[1] + 180)
    equator = (0.0, sky.DIPOLE_POLE_DEG[1] + 90)
    places = [
        Cluster("x", latitude, (longitude + 180) % 360 - 180) for latitude, longitude in (pole, opposite, equator)
    ]
    assert sky.rigidities_gv(places) == pytest.approx([0, 0, 14.9], abs=1e-6)
    # New York City has 2.08 GV (seutest.com, after JESD89A); a centred dipole errs by about 2
    assert sky.rigidities_gv([Cluster("nyc", 40.7, -74.0)])[0] == pytest.approx(2.08, abs=2.0)


def test_a_rigidity_that_the_inventory_tells_is_taken():
    assert sky.rigidities_gv([Cluster("a", 0.0, 0.0, rigidity_gv=3.25)]).tolist() == [3.25]
