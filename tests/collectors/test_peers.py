"""The peers against sums done by hand and by brute force."""

import itertools
import math

import numpy as np
import pytest

from collectors.inventory import Cluster
from collectors.peers import Peers, caps, kulldorff, rise_nats, window_sums
from tests.collectors.fleets import twelve

LINE = [Cluster(f"c{index}", 0.0, longitude_deg) for index, longitude_deg in enumerate((0.0, 10.0, 19.0, 40.0))]


def test_a_rise_of_one_cluster():
    assert rise_nats(np.array([[5.0, 1.0, 3.0]]), np.array([[1.0, 2.0, 0.0]])).tolist() == [
        [pytest.approx(5 * math.log(5) - 4), 0.0, 0.0]
    ]


def test_caps_hold_a_cluster_and_its_nearest_and_never_all():
    found = {tuple(np.flatnonzero(cap)) for cap in caps(LINE)}
    assert found == {(0,), (1,), (2,), (3,), (0, 1), (1, 2), (2, 3), (0, 1, 2), (1, 2, 3)}


def test_kulldorff_is_the_largest_conditional_ratio():
    random = np.random.default_rng(3)
    inside = caps(twelve())
    observed = random.poisson(3.0, (20, 12)).astype(float)
    expected = random.uniform(0.5, 4.0, (20, 12))
    best = kulldorff(inside, observed, expected)
    for row in range(20):
        total = observed[row].sum()
        share = expected[row] / expected[row].sum() * total
        ratios = [0.0]
        for cap in inside:
            n, m = observed[row, cap].sum(), share[cap].sum()
            if n > m:
                rest = total - n
                ratios.append(n * math.log(n / m) + (rest * math.log(rest / (total - m)) if rest else 0.0))
        assert best[row] == pytest.approx(max(ratios), abs=1e-3)


def test_statistics_of_all_peers():
    peers = Peers(LINE)
    observed = np.array([[4.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = np.ones((2, 4))
    named = dict(zip(peers.names, peers.statistics(10, observed, expected), strict=True))
    assert named["sum"].tolist() == [7.0, 0.0]
    assert named["2-of-n"][0] == pytest.approx(3 * math.log(3) - 2) and named["3-of-n"][0] == 0
    assert named["kulldorff"][0] == pytest.approx(7 * math.log(7 / 3.5)) and named["kulldorff"][1] == 0
    assert peers.statistics(30, observed, expected)[0].tolist() == [0.0, 0.0], "the sum looks at ten minutes only"


def test_window_sums_end_with_their_minute():
    minutes = np.arange(70.0)[:, None]
    for window_min, index in itertools.product((3, 60), (0, 10)):
        end = 59 + index
        assert window_sums(minutes, window_min)[index, 0] == sum(range(end - window_min + 1, end + 1))
