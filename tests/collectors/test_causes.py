import numpy as np
import pytest

from collectors.causes import Causes
from collectors.scan import responses
from collectors.sky import SPHERE_DEG2, separation_deg, unit_vectors
from tests.collectors.fleets import cities

CLUSTERS = cities().clusters
CAUSES = Causes(CLUSTERS)
EXPECTED = np.array([cluster.hosts for cluster in CLUSTERS]) * 1.5e-4 / 6  # ten minutes
CALM = np.ones(40)


def judge(rise, seed=1, expected=EXPECTED):
    return CAUSES.judge(np.random.default_rng(seed).poisson(expected * rise), expected, CALM)


def test_the_posterior_is_one():
    verdict = judge(1.0)
    assert sum(verdict.posterior.values()) == pytest.approx(1) and min(verdict.posterior.values()) >= 0
    assert set(verdict.posterior) == {"none", "local", "fleet", "celestial"}


def test_one_cluster_is_local():
    for column in range(0, 40, 5):
        counts = EXPECTED.copy()
        counts[column] += 40
        assert CAUSES.judge(counts.round(), EXPECTED, CALM).label == "local"


@pytest.mark.parametrize("rise", [3, 10, 40])
def test_all_clusters_alike_is_the_fleet(rise):
    assert [judge(rise, seed).label for seed in range(5)] == ["fleet"] * 5


@pytest.mark.parametrize("exponent", [0, 1, 3])
def test_a_direction_is_celestial_whatever_the_response(exponent):
    labels, errors = [], []
    for latitude, longitude in ((45, 10), (10, 100), (35, -90), (-10, -60)):
        source = unit_vectors(np.array(latitude), np.array(longitude))
        verdict = judge(1 + 60 * responses(CLUSTERS, source[None], exponent)[0])
        labels.append(verdict.label)
        errors.append(separation_deg(verdict.place.direction, source))
        assert 0 < verdict.place.area90_deg2 < SPHERE_DEG2 / 4
    assert labels == ["celestial"] * 4
    assert np.median(errors) < 30, errors


def test_the_amplitude_is_that_of_a_cluster_that_faces_the_source():
    source = unit_vectors(np.array(40.0), np.array(15.0))
    verdict = judge(1 + 32 * responses(CLUSTERS, source[None], 1)[0])
    assert 16 < verdict.place.amplitude < 64


def test_three_clusters_show_no_direction():
    counts = np.zeros(40)
    counts[[13, 22, 30]] = 30  # neighbours in Europe
    expected = np.full(40, 0.3)
    assert CAUSES.judge(counts, expected, CALM).posterior["celestial"] == 0


def test_a_dip_is_none():
    assert CAUSES.judge(np.zeros(40), EXPECTED * 20, CALM).label == "none"


def test_a_cluster_that_did_not_watch_has_no_say():
    expected = np.where(np.arange(40) < 20, EXPECTED, 0)
    verdict = judge(20.0, expected=expected)
    assert verdict.label == "fleet"


def test_more_spread_makes_less_certain():
    counts = EXPECTED.round()
    counts[3] += 8
    calm, restless = (CAUSES.judge(counts, EXPECTED, CALM * phi).posterior["none"] for phi in (1, 4))
    assert restless > calm
