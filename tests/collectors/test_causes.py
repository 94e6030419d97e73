import numpy as np
import pytest

from collectors.causes import PRIORS, SKY_ODDS_NATS, Causes, _label
from collectors.inventory import Cluster
from collectors.population import Population, Victim
from collectors.scan import Scan, responses
from collectors.sky import SPHERE_DEG2, rigidities_gv, separation_deg, unit_vectors, zeniths
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


def hot(columns, number, expected=EXPECTED):
    """The expectation, and `number` more in each of these clusters."""
    counts = np.random.default_rng(3).poisson(expected).astype(float)
    counts[list(columns)] += number
    return row(counts, expected)


@pytest.mark.parametrize("seed", range(4))
def test_racks_in_five_cities_are_incoherent(seed):
    columns = np.random.default_rng(seed).choice(40, 5, replace=False)
    assert CAUSES.judge(hot(columns, 8)).label == "incoherent"


@pytest.mark.parametrize("centre", [0, 9, 22])
def test_neighbours_that_rise_alike_are_a_region(centre):
    up = zeniths(CLUSTERS)
    near = np.flatnonzero(up @ up[centre] > np.cos(np.radians(25)))
    assert 3 < len(near) < 15
    counts = np.random.default_rng(1).poisson(EXPECTED * 4)
    counts[near] = np.random.default_rng(2).poisson(EXPECTED[near] * 4 * 12)
    assert CAUSES.judge(row(counts, EXPECTED * 4)).label == "region"


def test_solar_particles_come_where_the_cutoff_is_low():
    rise = 1 + 60 * np.exp(-rigidities_gv(CLUSTERS) / 2)
    verdict = judge(rise)
    assert verdict.label == "low-cutoff" and verdict.posterior["celestial"] < 0.1


def population(value_of, attribute="rack", hosts_per_cluster=100):
    """100 hosts in each of CLUSTERS; value_of(cluster, number) is what a host has."""
    people = Population([cluster.name for cluster in CLUSTERS])
    for cluster in CLUSTERS:
        for number in range(hosts_per_cluster):
            host = f"{cluster.name}-h{number}"
            people.set_host(host, cluster.name, ((attribute, value_of(cluster.name, number)),))
    return people


def struck(cluster, number, attributes):
    return Victim(0, cluster, f"{cluster}-h{number}", "dram", "mc0", attributes)


def test_one_rack_of_one_cluster_is_a_part_and_beats_local():
    people = population(lambda cluster, number: f"r{number // 10}")
    name = CLUSTERS[7].name
    window = hot([7], 12, EXPECTED * 0.2)
    rack = [struck(name, number % 10, (("rack", "r0"),)) for number in range(int(window.observed[0, 7]))]
    spread = [struck(name, number * 8, (("rack", f"r{number * 8 // 10}"),)) for number in range(len(rack))]
    assert CAUSES.judge(window, (), rack, people).label == "part"
    assert CAUSES.judge(window, (), spread, people).label == "local"


def test_a_lot_spread_over_clusters_is_a_part_and_beats_incoherent():
    people = population(lambda cluster, number: f"lot{number % 20}", attribute="lot")
    columns = [2, 11, 19, 25, 33]
    window = hot(columns, 5, EXPECTED * 0.2)
    lot = [struck(CLUSTERS[c].name, n, (("lot", "lot3"),)) for c in columns for n in range(5)]
    lots = [struck(CLUSTERS[c].name, n, (("lot", f"lot{(5 * c + n) % 20}"),)) for c in columns for n in range(5)]
    assert CAUSES.judge(window, (), lot, people).label == "part"
    assert CAUSES.judge(window, (), lots, people).label == "incoherent"


def test_what_all_hosts_of_a_cluster_have_is_the_cluster_not_a_part():
    people = population(lambda cluster, number: f"hall of {cluster}", attribute="hall")
    name = CLUSTERS[7].name
    window = hot([7], 12)
    victims = [struck(name, number, (("hall", f"hall of {name}"),)) for number in range(12)]
    verdict = CAUSES.judge(window, (), victims, people)
    assert verdict.label == "local" and verdict.posterior["part"] == 0


def test_a_roll_out_is_named_only_while_its_change_is_open():
    """A quarter of every second cluster's hosts got another firmware and rise twentyfold."""
    chosen = {cluster.name for cluster in CLUSTERS[::2]}
    people = population(lambda c, n: "new" if c in chosen and n < 25 else "old", attribute="cohort")
    share = people.share("cohort", "new")
    assert share[::2] == pytest.approx(0.25) and not share[1::2].any()
    window = row(np.random.default_rng(5).poisson(EXPECTED * (1 + 19 * share)), EXPECTED)
    assert CAUSES.judge(window, {"new"}, (), people).label == "rollout"
    assert CAUSES.judge(window, (), (), people).posterior["rollout"] == 0
    numbers = window.observed[0].astype(int)
    new = [struck(c.name, n, (("cohort", "new"),)) for c, k in zip(CLUSTERS, numbers, strict=True) for n in range(k)]
    hosts = [victim for victim in new if victim.cluster in chosen]
    assert CAUSES.judge(window, {"new"}, hosts, people).label == "rollout"
    assert CAUSES.judge(window, (), hosts, people).label == "part"


def test_streams_that_agree_are_surer_and_one_that_sleeps_does_not_hide_the_other():
    source = unit_vectors(np.array(40.0), np.array(15.0))
    rise = 1 + 40 * responses(CLUSTERS, source[None], 1)[0]
    counts, more = np.random.default_rng(2).poisson(EXPECTED * rise, (2, 40))
    both, asleep = (
        Row(np.stack([counts, other]), np.stack([EXPECTED, mean]), np.ones((2, 40)))
        for other, mean in ((more, EXPECTED), ((EXPECTED * 50).round(), EXPECTED * 50))
    )
    alone, agreed, hidden = (CAUSES.judge(window) for window in (row(counts, EXPECTED), both, asleep))
    assert alone.label == agreed.label == hidden.label == "celestial"
    assert agreed.place.area90_deg2 < alone.place.area90_deg2
    assert separation_deg(hidden.place.direction, source) < 30


def test_the_sky_is_not_named_unless_it_stands_clearly_above_the_rest():
    logs = dict.fromkeys(PRIORS, -50.0)
    assert _label(logs | {"celestial": 0.0, "region": -SKY_ODDS_NATS - 0.1}) == "celestial"
    assert _label(logs | {"celestial": 0.0, "region": -SKY_ODDS_NATS + 0.1}) == "region"
    assert _label(logs | {"celestial": -1.0, "low-cutoff": 0.0}) == "low-cutoff"


def test_priors_are_the_user_s():
    window = hot([3], 6)
    assert CAUSES.judge(window).label == "local"
    stubborn = Causes(CLUSTERS, {**PRIORS, "local": 1e-9, "incoherent": 1e9})
    assert stubborn.judge(window).label == "incoherent"


def test_the_map_is_a_probability_and_its_areas_nest():
    place = judge(1 + 60 * responses(CLUSTERS, unit_vectors(np.array(10.0), np.array(100.0))[None], 1)[0]).place
    assert place.sky.shape == (768,) and place.sky.min() >= 0 and place.sky.sum() == pytest.approx(1)
    assert 0 < place.area50_deg2 < place.area90_deg2 < SPHERE_DEG2


def test_what_only_some_hosts_told_yet_explains_nothing():
    """Facts come in one by one: that all who told have the same kernel makes no kernel guilty."""
    people = Population([cluster.name for cluster in CLUSTERS])
    for index, cluster in enumerate(CLUSTERS):
        for number in range(2):
            told = (("kernel", "6.1"),) if index % 3 and number else ()
            people.set_host(f"{cluster.name}-h{number}", cluster.name, told)
    source = unit_vectors(np.array(40.0), np.array(15.0))
    window = row((EXPECTED + 12 * responses(CLUSTERS, source[None], 1)[0]).round(), EXPECTED)
    victims = [
        struck(cluster.name, n % 2, (("kernel", "6.1"),))
        for cluster, number in zip(CLUSTERS, window.observed[0].astype(int), strict=True)
        for n in range(number)
    ]
    assert CAUSES.judge(window, (), victims, people).posterior["part"] == 0
