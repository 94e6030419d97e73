"""What do victims share: closed forms, planted factors named first, and silence where there is nothing to name."""

import itertools
import json
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.factors import Factor, find_factors
from collectors.population import Population, Victim, Victims

Member = tuple[str, str, tuple[tuple[str, str], ...]]  # host, cluster, attributes


def victim(host: str, cluster: str, attributes: tuple[tuple[str, str], ...] = (), minute: int = 0) -> Victim:
    return Victim(minute, cluster, host, "dram", "mc0/channel0/slot0", attributes)


def population(members: list[Member]) -> Population:
    found = Population(sorted({cluster for _, cluster, _ in members}))
    for member in members:
        found.set_host(*member)
    return found


def fleet(seed: int, clusters: int = 20) -> tuple[np.random.Generator, list[Member]]:
    """Clusters of unequal size: racks stand in one cluster, regions and sites hold clusters, parts lie everywhere."""
    random = np.random.default_rng(seed)
    members: list[Member] = []
    for c in range(clusters):
        size = int(random.integers(60, 400))
        for h in range(size):
            labels = {"rack": f"c{c}-r{h * 8 // size}", "region": f"region{c % 4}", "site": f"site{c}"}
            labels |= {"part": f"part{random.integers(8)}", "cohort": "new" if random.random() < 0.3 else "old"}
            members.append((f"c{c}-h{h}", f"c{c}", tuple(labels.items())))
    return random, members


def draw(random: np.random.Generator, members: list[Member], weights: np.ndarray, number: int) -> list[Victim]:
    chosen = random.choice(len(members), number, p=weights / weights.sum())
    return [victim(*members[index]) for index in chosen]


def unrest(random: np.random.Generator, members: list[Member], shape: float) -> np.ndarray:
    """Rates [members]: those of a cluster rise and fall together, as in real fleets."""
    rates = dict(zip(sorted({cluster for _, cluster, _ in members}), random.gamma(shape, 1 / shape, 20), strict=True))
    return np.array([rates[cluster] for _, cluster, _ in members])


def test_one_cluster_agrees_with_the_closed_form() -> None:
    members = [(f"h{i}", "a", (("rack", "r1" if i < 10 else f"r{2 + i // 20}"),)) for i in range(100)]
    victims = [victim(*members[index]) for index in (0, 1, 2, 3, 50)]
    (factor,) = find_factors(victims, population(members))
    tail = sum(comb(10, k) * comb(90, 5 - k) for k in (4, 5)) / comb(100, 5)
    assert (factor.attribute, factor.value) == ("rack", "r1")
    assert (factor.victims, factor.victims_total, factor.hosts, factor.hosts_total) == (4, 5, 10, 100)
    assert factor.p_value == pytest.approx(tail, rel=1e-9)
    assert factor.q_value == pytest.approx(6 * tail, rel=1e-9)  # six racks were tested; the cluster is the only one


def test_two_clusters_agree_with_all_draws_counted() -> None:
    members = [
        (f"{c}{i}", c, (("kernel", "new" if i < new else "old"),)) for c, new in (("a", 2), ("b", 1)) for i in range(6)
    ]
    victims = [victim(*members[index]) for index in (0, 1, 6)]
    draws = list(itertools.product(itertools.combinations(range(6), 2), range(6)))
    extreme = sum(set(pair) == {0, 1} and single == 0 for pair, single in draws)
    (factor,) = find_factors(victims, population(members))
    assert factor.value == "new"
    assert factor.p_value == pytest.approx(extreme / len(draws), rel=1e-9)


@pytest.mark.parametrize("attribute", ["rack", "region", "part", "cohort", "cluster"])
def test_a_planted_factor_is_named_first(attribute: str) -> None:
    named, trials = 0, 24
    fleets = [(*fleet(seed), population(fleet(seed)[1])) for seed in range(3)]
    for trial in range(trials):
        random, members, known = fleets[trial % 3]
        value = str(random.choice(sorted(known.values(attribute)))) if attribute != "cohort" else "new"
        has = np.array([value == m[1] or (attribute, value) in m[2] for m in members])
        rates = unrest(random, members, 25.0)
        victims = draw(random, members, rates, 12) + draw(random, members, rates * has, 25)
        first = next(iter(find_factors(victims, known)), None)
        named += first is not None and (first.attribute, first.value) == (attribute, value)
    assert named >= 0.9 * trials, f"{named} of {trials}"


def test_a_rack_comes_before_its_cluster_though_every_cluster_has_one_of_that_name() -> None:
    random, named = fleet(0)
    members = [
        (host, cluster, tuple((name, value.split("-")[-1]) for name, value in attributes))
        for host, cluster, attributes in named
    ]
    known = population(members)
    for cluster in ("c2", "c7", "c11"):
        has = np.array([m[1] == cluster and ("rack", "r3") in m[2] for m in members])
        victims = draw(random, members, np.ones(len(members)), 12) + draw(random, members, 1.0 * has, 25)
        first, second, *_ = find_factors(victims, known)
        assert (first.attribute, first.value) == ("rack", "r3")
        assert (second.attribute, second.value) == ("cluster", cluster)


@pytest.mark.parametrize("shape", [1e6, 25.0, 4.0])
def test_hardly_ever_is_anything_named_where_there_is_nothing(shape: float) -> None:
    """Also where clusters differ: the dispersion between them isn't taken for a cause."""
    named, trials = 0, 80
    fleets = [(*fleet(seed), population(fleet(seed)[1])) for seed in range(3)]
    for trial in range(trials):
        random, members, known = fleets[trial % 3]
        rates = unrest(random, members, shape)
        victims = draw(random, members, rates, int(random.choice([8, 30, 200])))
        named += bool(find_factors(victims, known))
    assert named <= 0.05 * trials, f"{named} of {trials}"


def test_the_cluster_comes_before_what_merely_names_it() -> None:
    _, members = fleet(5)
    struck = [member for member in members if member[1] == "c3"]
    victims = [victim(*member) for member in struck[::3]]
    factors = find_factors(victims, population(members))
    assert [(f.attribute, f.value) for f in factors[:2]] == [("cluster", "c3"), ("site", "site3")]
    assert not any(factor.attribute == "rack" for factor in factors)  # each of its racks has as many as it should


def test_a_rack_comes_before_the_cluster_it_stands_in() -> None:
    _, members = fleet(6)
    victims = [victim(*member) for member in members if ("rack", "c3-r2") in member[2]][:9]
    factors = find_factors(victims, population(members))
    assert [(f.attribute, f.value) for f in factors[:2]] == [("rack", "c3-r2"), ("cluster", "c3")]


def test_a_host_counts_once_however_many_of_its_devices_failed() -> None:
    members = [(f"h{i}", "a", (("rack", f"r{i // 10}"),)) for i in range(100)]
    victims = [Victim(0, "a", "h0", "dram", f"mc0/channel{i}/slot0", members[0][2]) for i in range(8)]
    assert find_factors(victims, population(members)) == ()


def test_parts_that_nobody_else_tells_of_prove_nothing() -> None:
    silent: list[Member] = [(f"h{i}", "a", ()) for i in range(90)]
    telling: list[Member] = [(f"t{i}", "a", (("part", f"other{i % 3}"),)) for i in range(30)]
    victims = [victim(f"h{i}", "a", (("part", "bad"),)) for i in range(9)]
    assert find_factors(victims, population([*silent, *telling])) == ()


def test_a_host_with_two_parts_counts_for_both_but_is_struck_by_one() -> None:
    members: list[Member] = [(f"h{i}", "a", (("part", "x"), ("part", "y"))) for i in range(10)]
    members += [(f"g{i}", "a", (("part", "x"),)) for i in range(90)]
    known = population(members)
    victims = [victim(f"h{i}", "a", (("part", "y"),)) for i in range(6)]
    assert (known.hosts("part", "x"), known.telling("part")) == ({"a": 100}, {"a": 100})
    (factor,) = find_factors(victims, known)
    assert (factor.value, factor.victims, factor.hosts, factor.hosts_total) == ("y", 6, 10, 100)


def test_a_victim_that_left_the_fleet_is_still_counted() -> None:
    _, members = fleet(7)
    victims = [victim(*member) for member in members if ("rack", "c2-r1") in member[2]][:8]
    known = population(members)
    for gone in victims:
        known.remove_host(gone.host)
    first = find_factors(victims, known)[0]
    assert (first.attribute, first.value, first.victims) == ("rack", "c2-r1", 8)


def test_a_population_follows_hosts_that_move_change_and_leave() -> None:
    known = Population(["a", "b"])
    known.set_host("h1", "a", (("kernel", "6.1"),), hosts=3)
    known.set_host("h2", "a", (("kernel", "6.1"),))
    assert known.share("kernel", "6.1").tolist() == [1.0, 0.0]
    known.set_host("h1", "b", (("kernel", "6.9"),), hosts=3)
    assert known.hosts("kernel", "6.9") == {"b": 3}
    assert known.hosts("kernel", "6.1") == {"a": 1}
    known.remove_host("h1")
    known.remove_host("h1")
    assert list(known.values("kernel")) == ["6.1"]
    assert known.host_names() == ("h2",)
    assert list(known.values("cluster")) == ["a"]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.booleans()), max_size=40), st.randoms())
def test_no_order_of_arrival_and_no_repetition_changes_anything(
    rows: list[tuple[int, int, bool]], random: object
) -> None:
    one, other = Victims(), Victims()
    victims = [victim(f"h{h}", "a", (("rack", "r1" if rack else "r2"),), minute) for minute, h, rack in rows]
    shuffled = [*victims, *victims]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for found in victims:
        one.add(found)
    for found in shuffled:
        other.add(found)
    assert one.between(5, 20) == other.between(5, 20)
    one.forget_before(10)
    assert one.between(0, 99) == other.between(10, 99)
    known = population([(f"h{h}", "a", (("rack", f"r{1 + h % 2}"),)) for h in range(12)])
    assert find_factors(victims, known) == find_factors(shuffled, known)


def test_a_factor_survives_json() -> None:
    factor = Factor("rack", "r1", 4, 5, 10, 100, 1e-5, 6e-5)
    assert Factor.from_document(json.loads(json.dumps(factor.document()))) == factor
