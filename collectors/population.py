"""The population: which hosts could have been hit, which were, and what each has that others may have too.

Enters: the inventory's hosts with their labels, the facts that agents tell of theirs, faults. Leaves: the attributes of
a host, victims (hosts with a novel fault), and how many hosts of each cluster have which value. Pure.
"""

from collections import Counter
from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np

from agent.report import Fault
from collectors.inventory import Inventory, weight
from collectors.minutes import minute_of

CLUSTER = "cluster"  # an attribute that every host has
# Labels that say where a host is or how to reach it; the rest is worth testing.
PLACE_LABELS = frozenset({"cluster", "host", "hosts", "latitude", "longitude", "altitude_m", "rigidity_gv"})
PLACE_LABELS |= {"facing_azimuth_deg", "facing_elevation_deg"}
SHARED_BY_MIN = 2  # what only one host has is shared by nobody
PART, PARTS = "part", "parts"  # a fault's detail names its part; an agent's facts list all the parts of its host

Attributes = tuple[tuple[str, str], ...]  # (attribute, value); a host may have several values of one attribute


@dataclass(frozen=True, slots=True)
class Victim:
    """A novel fault's minute and place, with what was known of its host and device then."""

    minute: int
    cluster: str
    host: str
    stream: str
    device: str
    attributes: Attributes = ()


_BY_ALL = attrgetter(*(item.name for item in fields(Victim)))


class Victims:
    """The victims of late, by minute. One that is added twice is kept once."""

    def __init__(self) -> None:
        self._by_minute: dict[int, dict[Victim, None]] = {}

    def add(self, victim: Victim) -> None:
        self._by_minute.setdefault(victim.minute, {})[victim] = None

    def between(self, begin_minute: int, end_minute: int) -> list[Victim]:
        """Those of [begin_minute, end_minute), whatever the order in which they came."""
        minutes = [minute for minute in self._by_minute if begin_minute <= minute < end_minute]
        found = [victim for minute in minutes for victim in self._by_minute[minute]]
        return sorted(found, key=_BY_ALL)

    def forget_before(self, minute: int) -> None:
        for old in [other for other in self._by_minute if other < minute]:
            del self._by_minute[old]


@dataclass(frozen=True, slots=True)
class _Host:
    cluster: str
    attributes: Attributes
    hosts: int


class Population:
    """The exposed hosts: how many of each cluster have which value."""

    def __init__(self, cluster_names: Sequence[str]) -> None:
        self.cluster_names = tuple(cluster_names)
        self._hosts: dict[str, _Host] = {}
        self._having: dict[str, dict[str, Counter[str]]] = {CLUSTER: {}}  # attribute -> value -> cluster -> hosts
        self._telling: dict[str, Counter[str]] = {CLUSTER: Counter()}  # attribute -> cluster -> hosts with any value
        self._shared: Counter[str] = Counter()
        self._alike: dict[Attributes, Attributes] = {}  # hosts of one rack keep one tuple between them

    def set_host(self, host: str, cluster: str, attributes: Attributes, hosts: int = 1) -> None:
        """Adds a host, or says anew where it stands and what it has; `hosts` is for how many it stands."""
        known = _Host(cluster, self._alike.setdefault(attributes, attributes), hosts)
        if self._hosts.get(host) == known:
            return
        self.remove_host(host)
        self._hosts[host] = known
        self._count(known, hosts)

    def remove_host(self, host: str) -> None:
        """A host that is no longer exposed; one that isn't known is no news."""
        known = self._hosts.pop(host, None)
        if known is not None:
            self._count(known, -known.hosts)

    def host_names(self) -> tuple[str, ...]:
        return tuple(self._hosts)

    def attributes(self) -> Iterator[str]:
        """The attributes that some host has; `cluster` is one of them."""
        return (attribute for attribute, telling in self._telling.items() if telling)

    def values(self, attribute: str) -> KeysView[str]:
        """The values that some host has."""
        return self._having.get(attribute, {}).keys()

    def shared(self, attribute: str) -> int:
        """How many of its values SHARED_BY_MIN hosts or more have."""
        return self._shared[attribute]

    def hosts(self, attribute: str, value: str) -> dict[str, int]:
        """How many hosts of each cluster have the value."""
        return dict(self._having.get(attribute, {}).get(value, {}))

    def telling(self, attribute: str) -> dict[str, int]:
        """How many hosts of each cluster have any value of the attribute; the others can't be compared."""
        return dict(self._telling.get(attribute, {}))

    def share(self, attribute: str, value: str) -> np.ndarray:
        """The share [clusters] of each cluster's hosts that has the value; 0 for a cluster without hosts."""
        having = self.hosts(attribute, value)
        return np.array([having.get(name, 0) / max(self._telling[CLUSTER][name], 1) for name in self.cluster_names])

    def can_compare(self, victim: Victim, attribute: str) -> bool:
        """False if the victim's host is known, but not to have the attribute: its like isn't counted either."""
        known = self._hosts.get(victim.host)
        return known is None or attribute == CLUSTER or any(name == attribute for name, _ in known.attributes)

    def _count(self, host: _Host, number: int) -> None:
        for attribute in {CLUSTER, *(name for name, _ in host.attributes)}:
            _add(self._telling.setdefault(attribute, Counter()), host.cluster, number)
        for attribute, value in {(CLUSTER, host.cluster), *host.attributes}:
            values = self._having.setdefault(attribute, {})
            having = values.setdefault(value, Counter())
            was_shared = having.total() >= SHARED_BY_MIN
            _add(having, host.cluster, number)
            self._shared[attribute] += (having.total() >= SHARED_BY_MIN) - was_shared
            if not having:
                del values[value]


def host_attributes(labels: Mapping[str, str], facts: Mapping[str, Any]) -> Attributes:
    """What a host may share with others: inventory labels, the agent's facts (a label goes before), and its parts.

    Labels that begin with `__` are Prometheus's own.
    """
    shared = {name: value for name, value in facts.items() if isinstance(value, str)}
    shared |= {name: value for name, value in labels.items() if name not in PLACE_LABELS and name[:2] != "__"}
    listed = facts.get(PARTS, ())
    parts = listed if isinstance(listed, list | tuple) and PART not in shared else ()
    found = {*shared.items(), *((PART, part) for part in parts if isinstance(part, str))}
    return tuple(sorted((name, value) for name, value in found if value))


class FleetAttributes:
    """What each host of an inventory may share with others; `facts` are what agents told of theirs, by host name."""

    def __init__(self, fleet: Inventory, facts: Mapping[str, Mapping[str, Any]]) -> None:
        self._hosts = fleet.hosts
        self._of_host = {host.name: host_attributes(host.labels, facts.get(host.name, {})) for host in fleet.hosts}
        self._of_cluster = {cluster.name: host_attributes(cluster.labels, {}) for cluster in fleet.clusters}

    def of(self, fault: Fault) -> Attributes:
        """Of the fault's host; of one that the inventory doesn't name, what all of its cluster have."""
        return self._of_host.get(fault.host) or self._of_cluster.get(fault.cluster or "", ())

    def fill(self, population: Population) -> None:
        """Makes the population these hosts and no others."""
        for host in self._hosts:
            population.set_host(host.name, host.cluster, self._of_host[host.name], weight(host))
        for name in set(population.host_names()) - self._of_host.keys():
            population.remove_host(name)


def victim_of(fault: Fault, attributes: Attributes) -> Victim:
    """The victim of a fault on a host with these attributes; of the host's parts it is the one that failed."""
    part = fault.detail.get(PART)
    if isinstance(part, str) and part:
        attributes = (*(pair for pair in attributes if pair[0] != PART), (PART, part))
    return Victim(minute_of(fault.time_ns), fault.cluster or "", fault.host, fault.stream, fault.device, attributes)


def _add(counts: Counter[str], name: str, number: int) -> None:
    counts[name] += number
    if not counts[name]:
        del counts[name]
