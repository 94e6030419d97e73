"""The inventory: which hosts there are, to which cluster each belongs and where on Earth that cluster stands.

Enters: the path of a file_sd file (JSON, or YAML if it ends in .yml or .yaml), the same file that Prometheus reads.
Leaves: an Inventory of clusters and hosts, or one sentence that names file, key and value.
Format: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config, with the labels
`cluster` (required), `latitude` and `longitude` (a cluster without them is pulled but not correlated), `altitude_m`,
`rigidity_gv`, `host`, `hosts`, `facing_azimuth_deg` and `facing_elevation_deg`; `__scheme__` is http or https. All
other labels are kept as they are.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Labels = Mapping[str, str]


class InventoryError(ValueError):
    """The inventory can't be used; the message is one sentence for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One place with many hosts. Angles in degrees: latitude north, longitude east, azimuth from north by east."""

    name: str
    latitude_deg: float
    longitude_deg: float
    altitude_m: float = 0.0
    hosts: int = 1  # how many there are; in a simulation a target's `hosts` label counts for that many
    facing_azimuth_deg: float = 0.0
    facing_elevation_deg: float = 90.0  # the zenith
    rigidity_gv: float | None = None  # the vertical geomagnetic cutoff; None: not told
    labels: Labels = field(default_factory=dict)  # those that all its hosts have in common


@dataclass(frozen=True, slots=True)
class Host:
    """One target: `target` is its address with port, `name` what people call it."""

    target: str
    name: str
    cluster: str
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Clusters with a place, sorted by name; hosts, also of clusters without one, in the order of the file."""

    clusters: tuple[Cluster, ...]
    hosts: tuple[Host, ...]
    warnings: tuple[str, ...] = ()  # what is odd about it, a sentence each

    @property
    def cluster_names(self) -> tuple[str, ...]:
        return tuple(cluster.name for cluster in self.clusters)

    @property
    def all_cluster_names(self) -> tuple[str, ...]:
        """Those without a place too: their hosts are asked, but nobody can say where their faults come from."""
        return tuple(sorted({host.cluster for host in self.hosts}))


def load(path: Path) -> Inventory:
    """The inventory at `path`.

    Raises:
        InventoryError: it can't be read, isn't file_sd, or says something impossible.
    """
    hosts = tuple(_hosts(_document(path), path))
    if not hosts:
        raise InventoryError(f"{path}: holds no target; at least one host is needed")
    _refuse_twins(hosts, path)
    members: dict[str, list[Host]] = {}
    for host in hosts:
        members.setdefault(host.cluster, []).append(host)
    lost = [name for name in sorted(members) if not any(_PLACE_KEYS & host.labels.keys() for host in members[name])]
    clusters = tuple(_cluster(name, members[name], path) for name in sorted(members) if name not in lost)
    if not clusters:
        raise InventoryError(f"{path}: target {hosts[0].target} has no label 'latitude', and no other cluster has one")
    return Inventory(clusters, hosts, tuple(_warnings(lost, clusters)))


def what_changed(old: Inventory, new: Inventory) -> str:
    """Which hosts came, left and moved, in a sentence."""
    before, after = ({host.name: host.cluster for host in fleet.hosts} for fleet in (old, new))
    moved = [
        f"{name} from {before[name]} to {after[name]}" for name in after if before.get(name, after[name]) != after[name]
    ]
    came, left = ([name for name in one if name not in other] for one, other in ((after, before), (before, after)))
    parts = [
        f"{len(names)} {verb} ({_some(names)})"
        for names, verb in ((came, "came"), (left, "left"), (moved, "moved"))
        if names
    ]
    text = f"{len(new.hosts)} hosts in {len(new.all_cluster_names)} clusters"
    return f"{text}; {', '.join(parts)}" if parts else text


def _warnings(lost: list[str], clusters: tuple[Cluster, ...]) -> Iterator[str]:
    if lost:
        yield (
            f"{_some(lost)}: without the labels latitude and longitude the hosts are pulled, "
            f"but their faults take no part in the correlation"
        )
    places: dict[tuple[float, ...], list[str]] = {}
    for c in clusters:
        spot = (c.latitude_deg, c.longitude_deg, c.facing_azimuth_deg, c.facing_elevation_deg)
        places.setdefault(spot, []).append(c.name)
    for names in places.values():
        if len(names) > 1:
            yield f"{_some(names)} stand at one place, so no direction can tell them apart"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def weight(host: Host) -> int:
    """For how many hosts of a simulation this target stands: its `hosts` label, else one."""
    return int(host.labels.get("hosts", "1"))


def _document(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InventoryError(f"{path}: can't read the inventory: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InventoryError(f"{path}: not valid UTF-8 at byte {error.start}") from error
    if path.suffix in (".yml", ".yaml"):
        return _yaml(text, path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InventoryError(f"{path}: not valid JSON: line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise InventoryError(f"{path}: not an inventory: nested too deeply") from error


def _yaml(text: str, path: Path) -> Any:
    """All scalars are strings, as Prometheus takes them: a latitude needs no quotes in YAML."""
    import yaml  # most inventories are JSON

    try:
        return yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # it makes strings, nothing else
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InventoryError(f"{path}: not valid YAML: {reason}") from error


def _hosts(document: Any, path: Path) -> Iterator[Host]:
    if not isinstance(document, list):
        raise InventoryError(f"{path}: must be a list of target groups, not {_show(document)}")
    for index, group in enumerate(document):
        where = f"{path}: group {index + 1}"
        if not isinstance(group, dict):
            raise InventoryError(f"{where}: must be an object with targets and labels, not {_show(group)}")
        targets, labels = group.get("targets"), _labels(group.get("labels", {}), where)
        if not isinstance(targets, list):
            raise InventoryError(f"{where}: targets must be a list, not {_show(targets)}")
        for target in targets:
            yield _host(target, labels, where)


def _labels(labels: Any, where: str) -> dict[str, str]:
    if not isinstance(labels, dict):
        raise InventoryError(f"{where}: labels must be an object, not {_show(labels)}")
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InventoryError(f"{where}: label {key} = {_show(value)}: must be a string, as in any file_sd file")
        _check_text(key, f"{where}: label {_show(key)}")
        _check_text(value, f"{where}: label {key}")
    return labels


def _check_text(text: str, where: str) -> None:
    """Any character may stand in a name, but no database, page or label holds half a surrogate pair; nor, C's NUL."""
    if "\0" in text or (not text.isascii() and text != text.encode("utf-8", "ignore").decode()):
        raise InventoryError(f"{where} = {_show(text)}: is not valid Unicode, or holds a NUL")


def _host(target: Any, labels: dict[str, str], where: str) -> Host:
    if not isinstance(target, str) or not target:
        raise InventoryError(f"{where}: targets: {_show(target)} must be a string like 'host:9861'")
    _check_text(target, f"{where}: target")
    if not labels.get("cluster"):
        raise InventoryError(f"{where}: target {target} has no label 'cluster'")
    if labels.get("__scheme__", "http") not in ("http", "https"):
        scheme = _show(labels["__scheme__"])
        raise InventoryError(f"{where}: target {target}: __scheme__ = {scheme}: must be http or https")
    name = labels.get("host") or _without_port(target)
    return Host(target=target, name=name, cluster=labels["cluster"], labels=labels)


def _without_port(target: str) -> str:
    host, colon, port = target.rpartition(":")
    return host if colon and port.isdigit() and host else target


def _refuse_twins(hosts: tuple[Host, ...], path: Path) -> None:
    targets: set[str] = set()
    named: dict[str, Host] = {}
    for host in hosts:
        if host.target in targets:
            raise InventoryError(f"{path}: target {host.target} is listed twice")
        if host.name in named:
            other = named[host.name].target
            raise InventoryError(f"{path}: targets {other} and {host.target} share the host name '{host.name}'")
        targets.add(host.target)
        named[host.name] = host


@dataclass(frozen=True, slots=True)
class _Bound:
    """A numeric label: what it may hold and what it is when absent (None: required)."""

    low: float
    high: float
    default: float | None


_PLACE = {
    "latitude": _Bound(-90.0, 90.0, None),
    "longitude": _Bound(-180.0, 180.0, None),
    "altitude_m": _Bound(-500.0, 9000.0, 0.0),
    "facing_azimuth_deg": _Bound(-360.0, 360.0, 0.0),
    "facing_elevation_deg": _Bound(-90.0, 90.0, 90.0),
    "rigidity_gv": _Bound(0.0, 25.0, 0.0),
}

_PLACE_KEYS = {"latitude", "longitude"}


def _cluster(name: str, members: list[Host], path: Path) -> Cluster:
    first = members[0]
    place = _place(first, path)
    for other in members[1:]:
        other_place = _place(other, path)
        for key, value in place.items():
            if other_place[key] != value:
                raise InventoryError(
                    f"{path}: cluster {name}: {key} is {value:g} at {first.name} but {other_place[key]:g} at "
                    f"{other.name}; one cluster stands in one place"
                )
    return Cluster(
        name=name,
        latitude_deg=place["latitude"],
        longitude_deg=place["longitude"],
        altitude_m=place["altitude_m"],
        hosts=sum(_weight(host, path) for host in members),
        facing_azimuth_deg=place["facing_azimuth_deg"],
        facing_elevation_deg=place["facing_elevation_deg"],
        rigidity_gv=place["rigidity_gv"] if "rigidity_gv" in first.labels else None,
        labels=dict(set.intersection(*(set(host.labels.items()) for host in members))),
    )


def _place(host: Host, path: Path) -> dict[str, float]:
    return {key: _number(host, key, bound, path) for key, bound in _PLACE.items()}


def _number(host: Host, key: str, bound: _Bound, path: Path) -> float:
    text = host.labels.get(key)
    if text is None:
        if bound.default is None:
            raise InventoryError(f"{path}: target {host.target} has no label '{key}'")
        return bound.default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not bound.low <= value <= bound.high:
        raise InventoryError(
            f"{path}: target {host.target}: {key} = {_show(text)}: "
            f"must be a number from {bound.low:g} to {bound.high:g}"
        )
    return value


def _weight(host: Host, path: Path) -> int:
    text = host.labels.get("hosts", "1")
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**9):
        raise InventoryError(
            f"{path}: target {host.target}: hosts = {_show(text)}: must be a whole number from 1 to 1000000000"
        )
    return weight(host)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
