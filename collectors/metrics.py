"""The collector's /metrics: an overview in, Prometheus text out.

All counters come from persisted state, so that a restart resets none; there are no `_created` series. What each means,
and when it has series, stands in dashboards/metrics.md.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from collectors.notify import SEVERITY
from collectors.overview import Overview

CORRELATOR_STATES = ("starting", "learning", "live", "failed")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(overview: Overview) -> bytes:
    """The text of /metrics."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(overview))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def describe(self) -> list[Metric]:
        return []  # the registry would else collect once just to learn the names

    def collect(self) -> Iterator[Metric]:
        yield from _faults(self._overview)
        yield from _agents(self._overview)
        yield from _bursts(self._overview)
        yield from _active_bursts(self._overview)
        yield from _correlator(self._overview)
        yield from _factors(self._overview)
        yield from _health(self._overview)


def _faults(overview: Overview) -> Iterator[Metric]:
    novel = CounterMetricFamily(
        "flipwatch_cluster_novel_faults_total",
        "Devices' first faults after seven quiet days, as pulled from the agents.",
        labels=["cluster", "stream"],
    )
    expected = CounterMetricFamily(
        "flipwatch_cluster_expected_faults_total",
        "Novel faults that the baseline expected while the collector ran.",
        labels=["cluster", "stream"],
    )
    watching = GaugeMetricFamily(
        "flipwatch_cluster_watching_hosts",
        "Hosts whose agent answers, watches the stream and can decide novelty.",
        labels=["cluster", "stream"],
    )
    for (cluster, stream), total in sorted(overview.totals.items()):
        novel.add_metric([cluster, stream], total.novel)
        expected.add_metric([cluster, stream], total.expected)
    for view in overview.clusters:
        for stream, hosts in view.watching.items():
            watching.add_metric([view.name, stream], hosts)
            if (view.name, stream) not in overview.totals:  # zero from the start, so that the first fault is a rise
                novel.add_metric([view.name, stream], 0)
                expected.add_metric([view.name, stream], 0)
    info = GaugeMetricFamily(
        "flipwatch_cluster_info", "Where the cluster stands; always 1.", labels=["cluster", "latitude", "longitude"]
    )
    for view in overview.clusters:
        if view.place_deg is not None:
            info.add_metric([view.name, *(f"{angle_deg:.7g}" for angle_deg in view.place_deg)], 1)
    yield from (novel, expected, watching, info)


def _agents(overview: Overview) -> Iterator[Metric]:
    agents = GaugeMetricFamily("flipwatch_agents", "Agents by state.", labels=["cluster", "state"])
    lag = GaugeMetricFamily(
        "flipwatch_pull_lag_seconds",
        "How far back the least complete of a cluster's agents lies.",
        labels=["cluster"],
    )
    lost = CounterMetricFamily(
        "flipwatch_pull_lost_faults_total", "Faults that were gone before they could be pulled.", labels=["cluster"]
    )
    for view in overview.clusters:
        for state, number in view.agents.items():
            agents.add_metric([view.name, state], number)
        if view.lag_s is not None:
            lag.add_metric([view.name], view.lag_s)
        lost.add_metric([view.name], view.lost)
    yield from (agents, lag, lost)


def _bursts(overview: Overview) -> Iterator[Metric]:
    active = GaugeMetricFamily(
        "flipwatch_bursts_active", "Bursts that go on now, by the cause that is named.", labels=["cause"]
    )
    labels = [burst.label for burst in overview.step.active] if overview.step else []
    for cause in SEVERITY:
        active.add_metric([cause], labels.count(cause))
    total = CounterMetricFamily(
        "flipwatch_bursts_total", "Burst revisions ever made, by cause and kind.", labels=["cause", "kind"]
    )
    for (cause, kind), number in sorted(overview.burst_totals.items()):
        total.add_metric([cause, kind], number)
    yield from (active, total)


def _active_bursts(overview: Overview) -> Iterator[Metric]:
    """Each burst that goes on now: few, and gone when it ends, so that its id may be a label."""
    burst_labels, share_labels = ["burst_id", "cause"], ["burst_id", "cause", "cluster"]
    start = GaugeMetricFamily("flipwatch_burst_start_timestamp_seconds", "When the burst began.", labels=burst_labels)
    chance = GaugeMetricFamily(
        "flipwatch_burst_false_alarms_per_year", "How often chance alone makes such a burst.", labels=burst_labels
    )
    observed = GaugeMetricFamily(
        "flipwatch_burst_observed_faults", "Novel faults of a cluster in the burst's window.", labels=share_labels
    )
    expected = GaugeMetricFamily(
        "flipwatch_burst_expected_faults", "Novel faults that the baseline expects in it.", labels=share_labels
    )
    for burst in overview.step.active if overview.step else ():
        start.add_metric([burst.burst_id, burst.label], burst.t_start_ns / 1e9)
        chance.add_metric([burst.burst_id, burst.label], burst.far_per_year)
        for share in burst.clusters:
            observed.add_metric([burst.burst_id, burst.label, share.cluster], share.observed)
            expected.add_metric([burst.burst_id, burst.label, share.cluster], share.expected)
    yield from (start, chance, observed, expected)


def _correlator(overview: Overview) -> Iterator[Metric]:
    state = GaugeMetricFamily("flipwatch_correlator_state", "1 for the state the correlator is in.", labels=["state"])
    for name in CORRELATOR_STATES:
        state.add_metric([name], float(name == overview.state))
    yield state
    if overview.step is None:
        return
    status = overview.step.status
    yield GaugeMetricFamily(
        "flipwatch_scan_statistic_nats",
        "The largest log-likelihood ratio of the windows that end now.",
        value=status.statistic_nats,
    )
    if status.far_per_year is not None:
        yield GaugeMetricFamily(
            "flipwatch_scan_false_alarms_per_year",
            "How often chance alone reaches the current statistic.",
            value=status.far_per_year,
        )
    yield GaugeMetricFamily(
        "flipwatch_step_seconds", "How long the last correlation step took.", value=overview.step.seconds
    )


def _factors(overview: Overview) -> Iterator[Metric]:
    victims = GaugeMetricFamily(
        "flipwatch_factor_victims",
        "Hosts with a novel fault in the last 24 h that share what no chance explains, at most five values.",
        labels=["attribute", "value"],
    )
    for factor in overview.step.factors_24h if overview.step else ():
        victims.add_metric([factor.attribute, factor.value], factor.victims)
    yield victims
    going_on = sum(roll_out.closed_ns is None for roll_out in overview.roll_outs)
    yield GaugeMetricFamily("flipwatch_changes_open", "Roll-outs that go on.", value=going_on)


def _health(overview: Overview) -> Iterator[Metric]:
    health = overview.health
    if health.alerts_wanted:
        yield GaugeMetricFamily(
            "flipwatch_alert_delivery_up", "1 if Alertmanager took the last POST.", value=float(not health.alerts)
        )
    yield GaugeMetricFamily(
        "flipwatch_store_up", "1 if the last write to the store succeeded.", float(not health.store)
    )
    yield GaugeMetricFamily("flipwatch_inventory_up", "1 if the inventory is sound.", float(not health.inventory))
