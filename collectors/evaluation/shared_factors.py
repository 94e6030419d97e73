"""What do the victims share? How often a planted common factor is named first, and how often one is named though there
is none.

Enters: a seed and a number of trials. Leaves: counts. A trial is half an hour of a fleet of 400,000 hosts in which some
hosts of a rack, a part lot, a BIOS or a vendor fail; a null trial is a quiet day.
"""

from dataclasses import dataclass

import numpy as np

from collectors.evaluation.fleets import NOVEL_PER_HOST_HOUR, Rack, fleet, racks, settle
from collectors.evaluation.learned import FIRST_MINUTE
from collectors.evaluation.trials import victim
from collectors.factors import find_factors
from collectors.incidents import RACK_HOSTS, Fleet, draw
from collectors.minutes import DAY_MIN
from collectors.population import Population, Victim
from collectors.world import RESTLESS, World

WINDOW_MIN = 30
PLANTED = ("rack", "part", "bios", "vendor")
VICTIMS = {"rack": 10, "part": 30, "bios": 50, "vendor": 60}  # so many fail besides those that would anyway


@dataclass(frozen=True, slots=True)
class FactorCounts:
    """Of one attribute: trials, and in how many the planted value was named first, or at all. Of "none": any value."""

    attribute: str
    trials: int
    first: int
    named: int


def factor_counts(hosts: int, seed: int, trials: int) -> list[FactorCounts]:
    """As many trials of each attribute, and of none."""
    site = fleet(hosts)
    all_racks = racks(site.clusters)
    population = Population([cluster.name for cluster in site.clusters])
    settle(population, all_racks)
    world = World(site.clusters, NOVEL_PER_HOST_HOUR, RESTLESS, FIRST_MINUTE, seed)
    flat = [rack for cluster_racks in all_racks for rack in cluster_racks]
    counts = []
    for attribute in PLANTED:
        first = named = 0
        for _ in range(trials):
            value = dict(flat[world.random.integers(len(flat))].attributes)[attribute]
            struck = [rack for rack in flat if (attribute, value) in rack.attributes]
            victims = _ordinary(world, site, all_racks, WINDOW_MIN) + _planted(world, struck, VICTIMS[attribute])
            factors = [(factor.attribute, factor.value) for factor in find_factors(victims, population)]
            first += factors[:1] == [(attribute, value)]
            named += (attribute, value) in factors
        counts.append(FactorCounts(attribute, trials, first, named))
    false = sum(bool(find_factors(_ordinary(world, site, all_racks, DAY_MIN), population)) for _ in range(trials))
    return [*counts, FactorCounts("none", trials, 0, false)]


def _ordinary(world: World, site: Fleet, all_racks: tuple[tuple[Rack, ...], ...], minutes: int) -> list[Victim]:
    drawn = draw(site, world.advance(minutes), (), world.random)
    hosts = zip(drawn.minute.tolist(), drawn.column.tolist(), drawn.host.tolist(), strict=True)
    return [
        victim(all_racks[column][host // RACK_HOSTS], minute, host, number)
        for number, (minute, column, host) in enumerate(hosts)
    ]


def _planted(world: World, struck: list[Rack], number: int) -> list[Victim]:
    sizes = np.array([rack.hosts for rack in struck])
    chosen = world.random.choice(len(struck), number, p=sizes / sizes.sum())
    return [
        victim(struck[index], world.minute, int(world.random.integers(struck[index].hosts)), -1 - n)
        for n, index in enumerate(chosen)
    ]
