"""The overview: what the collector knows at one moment, gathered once for the page, the metrics and the JSON.

Enters: the inventory, the agents' states, the store and the last correlation step. Leaves: an Overview, plain data.
Reads no clock.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.report import STREAMS, Change
from collectors.changes import RollOut, roll_outs
from collectors.inventory import Inventory
from collectors.minutes import DAY_NS
from collectors.notify import rfc3339
from collectors.pull import STATES, Agent
from collectors.recording import Loss
from collectors.stepper import Step
from collectors.store import Store, Total

SHOWN_AGENTS_MAX = 200
CLOSED_SHOWN_DAYS = 7


@dataclass(frozen=True, slots=True)
class AgentView:
    """One agent that has something to say about itself."""

    host: str
    cluster: str
    target: str
    state: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One cluster: agents per state, watching hosts and expected novel faults per minute by stream."""

    name: str
    hosts: int
    agents: Mapping[str, int]
    watching: Mapping[str, int]
    expected_per_minute: Mapping[str, float]
    lag_s: float | None  # how far back the least complete of its agents lies; None: none was ever reached
    lost: int
    place_deg: tuple[float, float] | None  # latitude and longitude; None: not told


@dataclass(frozen=True, slots=True)
class Health:
    """Sentences about what is wrong with the collector itself; empty strings where nothing is."""

    store: str = ""
    inventory: str = ""
    config: str = ""
    correlator: str = ""
    alerts: str = ""
    alerts_wanted: bool = False


@dataclass(frozen=True, slots=True)
class Overview:
    now_ns: int
    clusters: tuple[ClusterView, ...]
    agents: tuple[AgentView, ...]  # those in trouble, at most SHOWN_AGENTS_MAX
    agents_in_trouble: int
    totals: Mapping[tuple[str, str], Total]
    losses: tuple[Loss, ...]
    burst_totals: Mapping[tuple[str, str], int]
    roll_outs: tuple[RollOut, ...]  # those that go on or ended of late, the latest first
    warnings: tuple[str, ...]  # what is odd about the inventory
    step: Step | None  # None before the first one
    health: Health

    @property
    def state(self) -> str:
        """learning, live or failed; starting before the first step."""
        return _state(self.step, self.health)


def _state(step: Step | None, health: Health) -> str:
    if health.correlator:
        return "failed"
    return step.status.state if step else "starting"


def status_line(agents: Mapping[str, Agent], step: Step | None, health: Health) -> str:
    """How it all fares, in the one line that `systemctl status` shows."""
    answering = sum(agent.state == "ok" for agent in agents.values())
    bursts = len(step.active) if step else 0
    going_on = f"{bursts or 'no'} burst{'' if bursts == 1 else 's'} active"
    line = f"{answering} of {len(agents)} agents answer, correlator {_state(step, health)}, {going_on}"
    troubles = (health.store, health.inventory, health.config, health.correlator, health.alerts)
    return "; ".join([line, *filter(None, troubles)])


def gather(
    now_ns: int, inventory: Inventory, agents: Mapping[str, Agent], store: Store, step: Step | None, health: Health
) -> Overview:
    """Everything at `now_ns`; `store` is a connection that this thread may use."""
    losses = tuple(store.losses())
    troubled = [agent for agent in agents.values() if agent.sentence]
    return Overview(
        now_ns=now_ns,
        clusters=tuple(_clusters(now_ns, inventory, agents.values(), store.complete_until(), losses, step)),
        agents=tuple(_view(agent) for agent in troubled[:SHOWN_AGENTS_MAX]),
        agents_in_trouble=len(troubled),
        totals=store.totals(),
        losses=losses,
        burst_totals=store.burst_totals(),
        roll_outs=tuple(_of_late(roll_outs(change for _, change in store.changes()), now_ns)),
        warnings=inventory.warnings,
        step=step,
        health=health,
    )


def _clusters(
    now_ns: int,
    inventory: Inventory,
    agents: Iterable[Agent],
    complete_until: Mapping[str, int],
    losses: Iterable[Loss],
    step: Step | None,
) -> Iterable[ClusterView]:
    members: dict[str, list[Agent]] = defaultdict(list)
    for agent in agents:
        members[agent.host.cluster].append(agent)
    lost: Counter[str] = Counter()
    for loss in losses:
        lost[loss.cluster] += loss.faults
    expected: dict[str, dict[str, float]] = defaultdict(dict)
    for (cluster, stream), rate in step.expected_per_minute.items() if step else ():
        expected[cluster][stream] = rate
    places = {cluster.name: (cluster.latitude_deg, cluster.longitude_deg) for cluster in inventory.clusters}
    for name in inventory.all_cluster_names:
        states = Counter(agent.state for agent in members[name])
        streams = Counter(stream for agent in members[name] if agent.state == "ok" for stream in agent.watching)
        reached = [complete_until[a.host.name] for a in members[name] if a.host.name in complete_until]
        yield ClusterView(
            name=name,
            hosts=len(members[name]),
            agents={state: states[state] for state in STATES},
            watching={stream: streams[stream] for stream in STREAMS if streams[stream]},
            expected_per_minute=expected[name],
            lag_s=max((now_ns - min(reached)) / 1e9, 0.0) if reached else None,
            lost=lost[name],
            place_deg=places.get(name),
        )


def _of_late(known: Iterable[RollOut], now_ns: int) -> Iterable[RollOut]:
    return (r for r in known if r.closed_ns is None or r.closed_ns >= now_ns - CLOSED_SHOWN_DAYS * DAY_NS)


def _view(agent: Agent) -> AgentView:
    return AgentView(agent.host.name, agent.host.cluster, agent.host.target, agent.state, agent.sentence)


def status_document(overview: Overview) -> dict[str, Any]:
    """The JSON of /api/status."""
    status = overview.step.status if overview.step else None
    return {
        "time": rfc3339(overview.now_ns),
        "state": overview.state,
        "history_days": status.history_days if status else None,
        "statistic_nats": status.statistic_nats if status else None,
        "threshold_nats": status.threshold_nats if status else None,
        "far_per_year": status.far_per_year if status else None,
        "late_faults": status.late_faults if status else None,
        "clusters": [_cluster_document(cluster) for cluster in overview.clusters],
        "agents_in_trouble": overview.agents_in_trouble,
        "agents": [asdict(agent) for agent in overview.agents],
        "faults": _by_stream(overview.totals),
        "lost": sum(loss.faults for loss in overview.losses),
        "losses": [asdict(loss) for loss in overview.losses],
        "factors_24h": [factor.document() for factor in overview.step.factors_24h] if overview.step else [],
        "changes": [_roll_out_document(roll_out) for roll_out in overview.roll_outs],
        "inventory_warnings": list(overview.warnings),
        "bursts_active": [burst.burst_id for burst in overview.step.active] if overview.step else [],
        "health": asdict(overview.health),
    }


def changes_document(changes: Iterable[tuple[int, Change]]) -> dict[str, Any]:
    """The JSON of /api/changes: every change that is known, the latest first."""
    return {"changes": [_roll_out_document(roll_out) for roll_out in roll_outs(change for _, change in changes)]}


def change_document(change: Change) -> dict[str, Any]:
    """The JSON of one end of a change."""
    return {"id": change.id, "action": change.action, "cohort": change.cohort, "time": rfc3339(change.time_ns)}


def _roll_out_document(roll_out: RollOut) -> dict[str, Any]:
    closed = None if roll_out.closed_ns is None else rfc3339(roll_out.closed_ns)
    return {"id": roll_out.id, "cohort": roll_out.cohort, "opened": rfc3339(roll_out.opened_ns), "closed": closed}


def _cluster_document(cluster: ClusterView) -> dict[str, Any]:
    document = asdict(cluster)
    return {"cluster": document.pop("name"), **document}


def _by_stream(totals: Mapping[tuple[str, str], Total]) -> dict[str, dict[str, int]]:
    """Pulled faults, errors and novel faults per stream since the store began."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, stream), total in totals.items():
        sums[stream].update(faults=total.faults, errors=total.errors, novel=total.novel)
    return {stream: dict(numbers) for stream, numbers in sorted(sums.items())}
