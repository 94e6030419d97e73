"""What do the victims share? A rack, a part number, a kernel: values that stand out among the hosts that had a fault.

Enters: victims (hosts with a novel fault) and the population of exposed hosts with their attributes. Leaves: at most
five factors, the most telling first. Pure: no clock, no input or output.

A value is tested by what its clusters don't explain already, since faults gather in clusters for many reasons (a sky
source, a hot room, a cluster of old machines), and each rack of a struck cluster would else be "over-represented":

- where some of a cluster's hosts have the value and some don't, the cluster's number of victims is taken as given. How
  many of them have the value by chance is hypergeometric; the sum over clusters is tested exactly.
- where a cluster has it wholly or not at all (a region, a vendor, the cluster's own name), clusters with are compared
  with clusters without. Clusters differ more than chance alone makes them differ, so the counts are divided by the
  dispersion within the two groups (quasi-likelihood: McCullagh and Nelder 1989, section 4.5).

All values together keep the false discovery rate below FALSE_DISCOVERY_RATE (Benjamini and Hochberg 1995). Those that
pass are ranked by how far they stand out in the whole fleet, n KL(k/n || K/N), the exponent of the tail's bound
(Hoeffding 1963), or in a single cluster of it: a rack then comes before the cluster that it stands in, also if other
clusters name theirs alike, and the cluster before what merely names it.
"""

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from collectors.population import CLUSTER, SHARED_BY_MIN, Population, Victim

FALSE_DISCOVERY_RATE = 0.05
FACTORS_MAX = 5


@dataclass(frozen=True, slots=True)
class Factor:
    """A value that the victims share more often than chance allows. All four numbers count hosts."""

    attribute: str
    value: str
    victims: int  # victims that have it
    victims_total: int  # victims of which it is known
    hosts: int  # exposed hosts that have it
    hosts_total: int  # exposed hosts of which it is known
    p_value: float
    q_value: float  # the false discovery rate at which it is named

    def document(self) -> dict[str, Any]:
        """As JSON; `from_document` is the way back."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Factor":
        return cls(**document)


def find_factors(victims: Iterable[Victim], population: Population) -> tuple[Factor, ...]:
    """At most five factors of these victims, the one that stands out most first.

    A host counts as one victim, however many of its devices failed.
    """
    struck = tuple(victims)
    tested, tables = 0, []
    for attribute in population.attributes():
        number, found = _tables(attribute, struck, population)
        tested += number
        tables += found
    p_values = [table.p_value() for table in tables]
    q_values = _q_values(p_values, tested)
    named = [
        (table, p_value, q_value)
        for table, p_value, q_value in zip(tables, p_values, q_values, strict=True)
        if q_value <= FALSE_DISCOVERY_RATE
    ]
    named.sort(key=lambda item: item[0].rank)
    return tuple(table.factor(p_value, q_value) for table, p_value, q_value in named[:FACTORS_MAX])


@dataclass(frozen=True, slots=True)
class _Table:
    """One value's numbers [clusters]: victims with it, victims, hosts with it, hosts; the last three never less."""

    attribute: str
    value: str
    k: np.ndarray
    n: np.ndarray
    K: np.ndarray
    N: np.ndarray

    @property
    def rank(self) -> tuple[float, bool, str, str]:
        """What stands out most sorts first; of two that name the same hosts, the cluster.

        Racks of many clusters may share a name, so a value stands out as far as it does in the fleet or in any one of
        the clusters that have it in part.
        """
        mixed = np.flatnonzero((self.K > 0) & (self.K < self.N) & (self.k > 0))
        places = [(self.k.sum(), self.K.sum()), *zip(self.k[mixed], self.K[mixed], strict=True)]
        nats = max(self._nats(int(k), int(K)) for k, K in places)
        return -round(nats, 9), self.attribute != CLUSTER, self.attribute, self.value

    def _nats(self, k: int, K: int) -> float:
        """How far `k` of all victims stand out if they belong to `K` of all hosts; 0 if they are no more than due."""
        n, share, chance = int(self.n.sum()), k / self.n.sum(), K / self.N.sum()
        if share <= chance:
            return 0.0
        return float(n * (_relative(share, chance) + _relative(1 - share, 1 - chance)))

    def p_value(self) -> float:
        """How often chance gives so many victims the value. Of two tests on different clusters the better, doubled."""
        mixed = (self.K > 0) & (self.K < self.N)
        tests = [test for test in (self._within(mixed), self._between(~mixed & (self.N > 0))) if test is not None]
        return min([1.0, *(len(tests) * test for test in tests)])

    def factor(self, p_value: float, q_value: float) -> Factor:
        k, n, K, N = (int(counts.sum()) for counts in (self.k, self.n, self.K, self.N))
        least = sys.float_info.min  # no double is smaller, and nothing here was ever impossible
        return Factor(self.attribute, self.value, k, n, K, N, max(p_value, least), max(q_value, least))

    def _within(self, mixed: np.ndarray) -> float | None:
        """Given each mixed cluster's number of victims; None if none of them has victims."""
        columns = np.flatnonzero(mixed & (self.n > 0))
        if not len(columns):
            return None
        n, K, N = (counts[columns] for counts in (self.n, self.K, self.N))
        k = int(self.k[columns].sum())
        if k <= (n * K / N).sum():
            return 1.0
        chances = np.ones(1)
        for cluster in zip(n.tolist(), K.tolist(), N.tolist(), strict=True):
            chances = np.convolve(chances, _hypergeometric(*cluster))
        return float(min(chances[k:].sum(), 1.0))

    def _between(self, whole: np.ndarray) -> float | None:
        """Clusters that have it wholly against those that don't at all; None if there is nothing to compare."""
        groups = [whole & (self.K > 0), whole & (self.K == 0)]
        if not all(group.any() for group in groups) or whole.sum() < 3:
            return None
        n, K, N = (int(counts[whole].sum()) for counts in (self.n, self.K, self.N))
        k = int(self.n[groups[0]].sum())
        if k <= n * K / N:
            return 1.0
        spread = sum(_pearson(self.n[group], self.N[group]) for group in groups)
        dispersion = max(1.0, spread / (whole.sum() - len(groups)))
        n, k = math.ceil(n / dispersion), math.floor(k / dispersion)
        return float(min(_hypergeometric(n, K, N)[k:].sum(), 1.0))


def _tables(attribute: str, victims: Sequence[Victim], population: Population) -> tuple[int, list[_Table]]:
    """How many values of the attribute are tested, and the tables of those that can come out at all."""
    having: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)  # value -> (cluster, host)
    for victim in victims:
        if population.can_compare(victim, attribute):
            for value in _values(victim, attribute):
                having[value].add((victim.cluster, victim.host))
    known = population.values(attribute)
    if len(known) + sum(value not in known for value in having) < 2:
        return 0, []
    told = population.telling(attribute)
    everyone: set[tuple[str, str]] = set().union(*having.values())
    hit = Counter(cluster for cluster, _ in everyone)
    names = sorted({*told, *hit})
    n = _column(hit, names)
    tested, tables = population.shared(attribute), []
    for value, hosts in having.items():
        if len(hosts) >= SHARED_BY_MIN:
            tested += sum(population.hosts(attribute, value).values()) < SHARED_BY_MIN
            k = _column(Counter(cluster for cluster, _ in hosts), names)
            # a victim may have left the population since
            K = np.maximum(_column(population.hosts(attribute, value), names), k)
            tables.append(_Table(attribute, value, k, n, K, np.maximum(_column(told, names), np.maximum(n, K))))
    return tested, tables


def _values(victim: Victim, attribute: str) -> Iterator[str]:
    if attribute == CLUSTER:
        yield victim.cluster
    yield from (value for name, value in victim.attributes if name == attribute)


def _column(counts: Mapping[str, int], names: Sequence[str]) -> np.ndarray:
    return np.array([counts.get(name, 0) for name in names])


def _hypergeometric(n: int, K: int, N: int) -> np.ndarray:
    """The chances [0 .. min(n, K)] that so many of n drawn from N belong to the K."""
    low, high = max(0, n + K - N), min(n, K)
    chances = np.zeros(high + 1)
    for k in range(low, high + 1):
        chances[k] = math.exp(_log_choose(K, k) + _log_choose(N - K, n - k) - _log_choose(N, n))
    return chances


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _pearson(n: np.ndarray, N: np.ndarray) -> float:
    """Pearson's sum of squares of victims over hosts, when all clusters have one rate."""
    expected = N * n.sum() / N.sum()
    return float((((n - expected) ** 2) / np.where(expected > 0, expected, 1)).sum())


def _relative(share: float, chance: float) -> float:
    return share * math.log(share / chance) if share > 0 else 0.0


def _q_values(p_values: Sequence[float], tested: int) -> list[float]:
    """Benjamini and Hochberg's, of `tested` values; those that aren't listed have a p-value of 1."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index], reverse=True)
    q_values, least = [1.0] * len(p_values), 1.0
    for rank, index in zip(range(len(order), 0, -1), order, strict=True):
        least = min(least, p_values[index] * tested / rank)
        q_values[index] = least
    return q_values
