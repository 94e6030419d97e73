import numpy as np
import pytest

from collectors.causes import PRIORS, Causes
from collectors.inventory import Cluster
from collectors.scan import Scan, responses
from collectors.sky import SPHERE_DEG2, separation_deg, unit_vectors
from collectors.windows import Row
from tests.collectors.fleets import cities

CLUSTERS = cities().clusters
CAUSES = Causes(CLUSTERS)
EXPECTED = np.array([cluster.hosts for cluster in CLUSTERS]) * 1.5e-4 / 6  # ten minutes
CALM = np.ones(40)
PLACES_DEG = [  # Amsterdam, Mumbai, Council Bluffs, The Dalles, São Paulo, Helsinki; Johannesburg, Tokyo and so on
    *((52.37, 4.90), (19.08, 72.88), (41.26, -95.86), (45.59, -121.18), (-23.55, -46.63), (60.17, 24.94)),
    *((-26.20, 28.05), (35.68, 139.69), (-33.45, -70.67), (1.35, 103.82), (-33.87, 151.21), (32.09, 34.78)),
]
FEW_HOSTS = [Cluster(f"c{index}", *place_deg, hosts=2) for index, place_deg in enumerate(PLACES_DEG)]


def row(observed, expected, overdispersion=None):
    """A row of one stream."""
    calm = np.ones(len(expected)) if overdispersion is None else overdispersion
    return Row(np.asarray(observed)[None], np.asarray(expected)[None], calm[None])


def judge(rise, seed=1, expected=EXPECTED):
    return CAUSES.judge(row(np.random.default_rng(seed).poisson(expected * rise), expected))


def test_the_posterior_is_one():
    verdict = judge(1.0)
    assert sum(verdict.posterior.values()) == pytest.approx(1) and min(verdict.posterior.values()) >= 0
    assert set(verdict.posterior) == set(PRIORS)


def test_one_cluster_is_local():
    for column in range(0, 40, 5):
        counts = EXPECTED.copy()
        counts[column] += 40
        assert CAUSES.judge(row(counts.round(), EXPECTED)).label == "local"


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
    # a plain hemisphere that holds a dozen cities may be a dozen that failed together: then the sky isn't named
    assert labels.count("celestial") >= (3 if exponent == 0 else 4), labels
    assert np.median(errors) < 30, errors


def noiseless(exponent, number=40):
    """Directions, and what would be counted and what expected on average in CLUSTERS, if six of them see a burst."""
    random = np.random.default_rng(7)
    while number:
        source = random.normal(size=3)
        source /= np.linalg.norm(source)
        f = responses(CLUSTERS, source[None], exponent)[0]
        if np.count_nonzero(f > 0.3) >= 6:
            yield source, EXPECTED * 20 * (1 + 16 * f), EXPECTED * 20
            number -= 1


@pytest.mark.parametrize("exponent", [0, 1, 3])
def test_the_scan_has_a_template_for_each_response(exponent):
    """Without it the others would lose about 5 % of the log-likelihood ratio that the true response has."""
    scan, shares = Scan(CLUSTERS), []
    for _, counts, expected in noiseless(exponent):
        true_nats = (counts * np.log(counts / expected) - (counts - expected)).sum()
        shares.append(float(scan.statistics(row(counts, expected).scaled())[0]) / true_nats)
    assert np.median(shares) > 0.98, shares


@pytest.mark.parametrize("exponent", [1, 3])
def test_a_response_that_falls_with_the_angle_is_located_well(exponent):
    """Without it among the templates the others would pull the direction aside by 13 degrees."""
    errors = [
        separation_deg(CAUSES.judge(row(counts, expected)).place.direction, source)
        for source, counts, expected in noiseless(exponent)
    ]
    assert np.median(errors) < 4 and max(errors) < 15, errors


def errors_deg(counts_at_zenith, expected, number, seed):
    """How far off the directions of bursts are that five to eight of FEW_HOSTS see, with cosines for counts."""
    causes, random, errors = Causes(FEW_HOSTS), np.random.default_rng(seed), []
    while len(errors) < number:
        source = random.normal(size=3)
        source /= np.linalg.norm(source)
        counts = (counts_at_zenith * responses(FEW_HOSTS, source[None], 1)[0]).round()
        if 5 <= np.count_nonzero(counts >= 3) <= 8:
            verdict = causes.judge(row(counts, np.full(len(FEW_HOSTS), expected)))
            assert verdict.label == "celestial"
            errors.append(separation_deg(verdict.place.direction, source))
    return errors


def test_thousands_of_times_a_tiny_expectation_is_still_located():
    # were the largest amplitude 1024, the plain hemisphere would explain such counts better than their own cosines
    errors = errors_deg(counts_at_zenith=24, expected=0.006, number=30, seed=1)
    assert max(errors) < 12, errors
    assert np.median(errors) < 5, errors


def test_the_amplitude_is_that_of_a_cluster_that_faces_the_source():
    source = unit_vectors(np.array(40.0), np.array(15.0))
    verdict = judge(1 + 32 * responses(CLUSTERS, source[None], 1)[0])
    assert 16 < verdict.place.amplitude < 64


def test_three_clusters_show_no_direction():
    counts = np.zeros(40)
    counts[[13, 22, 30]] = 30  # neighbours in Europe
    expected = np.full(40, 0.3)
    assert CAUSES.judge(row(counts, expected)).posterior["celestial"] == 0


def test_a_dip_is_none():
    assert CAUSES.judge(row(np.zeros(40), EXPECTED * 20)).label == "none"


def test_a_cluster_that_did_not_watch_has_no_say():
    expected = np.where(np.arange(40) < 20, EXPECTED, 0)
    verdict = judge(20.0, expected=expected)
    assert verdict.label == "fleet"


def test_more_spread_makes_less_certain():
    counts = EXPECTED.round()
    counts[3] += 8
    calm, restless = (CAUSES.judge(row(counts, EXPECTED, CALM * phi)).posterior["none"] for phi in (1, 4))
    assert restless > calm
