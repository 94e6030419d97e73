"""The names and texts of /metrics.

Enters: the remembered state (memory and scrub) and what the last cycle saw. Leaves: metric families. Every value comes
from the persisted state, so a restart of the agent never resets a counter, and every known device stands at zero from
the start. The families are made at each scrape; there are no `_created` series.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent import host
from agent.acknowledge import Acknowledged, of_part
from agent.actions import ACKNOWLEDGED, GONE, NONE, QUIET, REPLACED, decide, open_severities
from agent.evidence import UNKNOWN
from agent.reconcile import devices
from agent.report import SEVERITIES
from agent.version import VERSION
from checksum.crc32c import implementation
from checksum.finding import Layer, Verdict

BLIND_REASONS = ("no-driver", "unreadable")
MEMORY_SEVERITIES = ("corrected", "uncorrected")  # shown at zero from the start; others once they occur
HOST_SEVERITIES = ("fatal",)


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What a source said of itself at its last poll, and how long that took."""

    poll_s: float
    blind: str | None = None
    trouble: tuple[str, ...] = ()
    absent: str | None = None

    @property
    def is_up(self) -> bool:
        return not (self.blind or self.trouble or self.absent)


@dataclass(frozen=True, slots=True)
class View:
    """All that /metrics tells, as of one instant."""

    now_ns: int
    state: Mapping[str, Any]
    scrub_state: Mapping[str, Any]
    sources: Mapping[str, SourceStatus]
    journal_bytes: int
    journal_damaged_bytes: int
    journal_lost_faults: int
    is_journal_writable: bool
    is_virtual: bool  # a virtual machine
    acknowledged: Acknowledged = field(default_factory=dict)


class AgentCollector(Collector):
    """Asks `view()` at every scrape."""

    def __init__(self, view: Any) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        view: View = self._view()
        yield from _memory(view)
        yield from _sources(view)
        yield from _journal(view)
        yield from _scrub(view)
        yield from _host(view)


def open_faults(view: View) -> dict[tuple[str, str], int]:
    """(stream, severity) -> devices whose last such fault is younger than seven days and not acknowledged."""
    found: dict[tuple[str, str], int] = {}
    for stream, name, device in devices(view.state):
        opened = open_severities(device, view.now_ns, _acknowledged(view, stream, name, device))
        for severity in {*_shown_severities(stream), *device["last_ns"]}:
            found[stream, severity] = found.get((stream, severity), 0) + (severity in opened)
    return found


def _acknowledged(view: View, stream: str, name: str, device: Mapping[str, Any]) -> Mapping[str, int]:
    known = of_part(view.acknowledged, stream, name, device)
    return known.errors if known is not None else {}


def _shown_severities(stream: str) -> tuple[str, ...]:
    return HOST_SEVERITIES if stream == "host" else MEMORY_SEVERITIES


def _memory(view: View) -> Iterator[Metric]:
    errors = CounterMetricFamily(
        "flipwatch_memory_errors",
        "Memory errors counted, each once, whichever witness saw it.",
        labels=["stream", "device", "severity"],
    )
    last = GaugeMetricFamily(
        "flipwatch_device_last_fault_timestamp_seconds",
        "When the device's latest fault was reported.",
        labels=["stream", "device"],
    )
    info = GaugeMetricFamily(
        "flipwatch_device_info",
        "The device's label, slot on the board, serial and part number; always 1.",
        labels=["device", "label", "slot", "serial", "part"],
    )
    size = GaugeMetricFamily("flipwatch_device_size_bytes", "The device's capacity.", labels=["device"])
    for stream, name, device in devices(view.state):
        for severity in SEVERITIES:
            if severity in _shown_severities(stream) or severity in device["errors"]:
                errors.add_metric([stream, name, severity], device["errors"].get(severity, 0))
        if device["last_ns"]:
            last.add_metric([stream, name], max(device["last_ns"].values()) / 1e9)
        info.add_metric([name, *(device.get(attribute, "") for attribute in ("label", "slot", "serial", "part"))], 1)
        if device["size_bytes"] is not None:
            size.add_metric([name], device["size_bytes"])
    yield from (errors, last, info, size, *_states(view))

    streams = sorted({stream for stream, _, _ in devices(view.state)})
    novel = CounterMetricFamily(
        "flipwatch_novel_faults",
        "First faults of a device after seven quiet days, dated to within two minutes.",
        labels=["stream"],
    )
    for stream in streams:
        novel.add_metric([stream], view.state.get(f"novel/{stream}", 0))
    yield novel
    opened = GaugeMetricFamily(
        "flipwatch_open_faults",
        "Devices with a fault in the last seven days that is neither acknowledged nor healed.",
        labels=["stream", "severity"],
    )
    for (stream, severity), count in sorted(open_faults(view).items()):
        opened.add_metric([stream, severity], count)
    yield opened


def _states(view: View) -> Iterator[Metric]:
    action = GaugeMetricFamily(
        "flipwatch_device_action",
        "What to do about a device (watch, reset, drain, replace), and the rule that says so; always 1. Acknowledged "
        "devices, and those that are gone, are left out.",
        labels=["device", "action", "rule"],
    )
    state = GaugeMetricFamily(
        "flipwatch_device_state",
        "Open, acknowledged, healed or gone, for each device that isn't quiet; replaced, where a part that had erred "
        "sat; always 1.",
        labels=["stream", "device", "state"],
    )
    mode = GaugeMetricFamily(
        "flipwatch_device_mode",
        "How a device fails (transient, single-bit, row, column, bank, several-banks), as far as is known; always 1.",
        labels=["stream", "device", "mode"],
    )
    for stream, name, device in devices(view.state):
        decision = decide(stream, name, device, view.now_ns, _acknowledged(view, stream, name, device))
        if decision.action != NONE and decision.state not in (ACKNOWLEDGED, GONE):
            action.add_metric([name, decision.action, decision.rule], 1)
        if decision.state != QUIET:
            state.add_metric([stream, name, decision.state], 1)
        if any(life["errors"] for life in view.state.get(f"{REPLACED}/{stream}/{name}", ())):
            state.add_metric([stream, name, REPLACED], 1)
        if decision.mode.name != UNKNOWN:
            mode.add_metric([stream, name, decision.mode.name], 1)
    yield from (action, state, mode)


def _sources(view: View) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "flipwatch_source_up",
        "1 if the source could read all it should at its last poll; 0 if it is in trouble, blind or absent.",
        labels=["source"],
    )
    absent = GaugeMetricFamily(
        "flipwatch_source_absent",
        "1 if there is nothing here that the source could read, which isn't trouble.",
        labels=["source"],
    )
    poll = GaugeMetricFamily("flipwatch_source_poll_seconds", "How long the last poll took.", labels=["source"])
    blind = GaugeMetricFamily(
        "flipwatch_ecc_blind", "1 if memory errors of this host can't be seen, and why.", labels=["reason"]
    )
    for name, status in sorted(view.sources.items()):
        up.add_metric([name], status.is_up)
        absent.add_metric([name], status.absent is not None)
        poll.add_metric([name], status.poll_s)
    for reason in BLIND_REASONS:
        blind.add_metric([reason], any(status.blind == reason for status in view.sources.values()))
    yield from (up, absent, poll, blind)
    yield CounterMetricFamily(
        "flipwatch_trace_lost_events",
        "Trace events that were overwritten before they were read, or read by an agent that was killed before it had "
        "kept them; counters still tell how many errors there were.",
        value=view.state.get("tracefs/lost", 0),
    )


def _journal(view: View) -> Iterator[Metric]:
    yield GaugeMetricFamily("flipwatch_journal_bytes", "Size of the kept journal.", value=view.journal_bytes)
    yield CounterMetricFamily(
        "flipwatch_journal_faults", "Faults written to the journal.", value=view.state.get("journal/faults", 0)
    )
    yield CounterMetricFamily(
        "flipwatch_journal_dropped",
        "Faults seen but never written, because the journal couldn't be written for too long.",
        value=view.state.get("journal/dropped", 0),
    )
    yield GaugeMetricFamily(
        "flipwatch_journal_damaged_bytes",
        "Bytes of the kept journal that fail their checksum.",
        value=view.journal_damaged_bytes,
    )
    yield GaugeMetricFamily(
        "flipwatch_journal_lost_faults", "Faults that stood in damaged bytes.", value=view.journal_lost_faults
    )
    yield GaugeMetricFamily(
        "flipwatch_journal_writable", "0 while the journal can't be written.", value=view.is_journal_writable
    )
    build = GaugeMetricFamily(
        "flipwatch_build_info",
        "Version and the CRC-32C implementation that runs; always 1.",
        labels=["version", "crc32c"],
    )
    build.add_metric([VERSION, implementation()], 1)
    yield build


def _scrub(view: View) -> Iterator[Metric]:
    verified = CounterMetricFamily(
        "flipwatch_records_verified", "Records whose checksum held.", labels=["store", "format"]
    )
    corrupt = GaugeMetricFamily(
        "flipwatch_records_corrupt",
        "Damaged stretches that are open now: neither healed nor gone.",
        labels=["store", "format", "verdict"],
    )
    found = CounterMetricFamily(
        "flipwatch_records_corrupt_found",
        "Damaged stretches ever told, by the layer between disk and processor that did the damage.",
        labels=["store", "format", "layer"],
    )
    read = CounterMetricFamily("flipwatch_scrub_bytes", "Bytes verified.", labels=["store"])
    ratio = GaugeMetricFamily("flipwatch_scrub_pass_ratio", "How much of the current pass is done.", labels=["store"])
    oldest = GaugeMetricFamily(
        "flipwatch_scrub_oldest_unverified_seconds",
        "Upper bound of how long ago the least recently verified byte was verified.",
        labels=["store"],
    )
    period = GaugeMetricFamily(
        "flipwatch_scrub_period_seconds", "How often everything is to be verified.", labels=["store"]
    )
    unverifiable = GaugeMetricFamily(
        "flipwatch_scrub_unverifiable_bytes",
        "Bytes that couldn't be verified in the last whole pass, and why.",
        labels=["store", "reason"],
    )
    opened = _open_findings(view.scrub_state)
    for key, store in sorted(view.scrub_state.items()):
        if not key.startswith("store/"):
            continue
        path = key.removeprefix("store/")
        for form, records in sorted(store["verified"].items()):
            verified.add_metric([path, form], records)
        for form in sorted({*store["verified"], *(f for s, f, _ in opened if s == path)}):
            for verdict in Verdict:
                corrupt.add_metric([path, form, verdict], opened.get((path, form, verdict), 0))
            for layer in Layer:
                found.add_metric([path, form, layer], store.get("found", {}).get(form, {}).get(layer, 0))
        read.add_metric([path], store["bytes"])
        ratio.add_metric([path], min(1.0, store["done_bytes"] / store["total_bytes"]) if store["total_bytes"] else 1)
        oldest.add_metric([path], max(0, view.now_ns - store["oldest_ns"]) / 1e9)
        period.add_metric([path], store["period_s"])
        for reason, size in sorted(store["unverifiable"].items()):
            unverifiable.add_metric([path, reason], size)
    yield from (verified, corrupt, found, read, ratio, oldest, period, unverifiable)


def _open_findings(state: Mapping[str, Any]) -> dict[tuple[str, str, str], int]:
    """(store, format, verdict) -> open findings."""
    found: dict[tuple[str, str, str], int] = {}
    for key, entry in state.items():
        if key.startswith("open/"):
            for finding in entry["findings"]:
                place = (entry["store"], entry["format"], finding["verdict"])
                found[place] = found.get(place, 0) + finding.get("count", 1)
    return found


def _host(view: View) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "flipwatch_host_virtual",
        "1 if this is a virtual machine, whose memory errors its host has to watch.",
        value=view.is_virtual,
    )
    yield GaugeMetricFamily(
        "flipwatch_host_boot_timestamp_seconds", "When the machine started.", value=host.boot_time_s()
    )
    load = GaugeMetricFamily("flipwatch_host_load", "Load average.", labels=["minutes"])
    for minutes, value in zip(("1", "5", "15"), host.load(), strict=True):
        load.add_metric([minutes], value)
    yield load
    temperature = GaugeMetricFamily(
        "flipwatch_host_temperature_celsius", "What a sensor of the machine says.", labels=["chip", "sensor"]
    )
    for entry in host.temperatures():
        temperature.add_metric([entry.chip, entry.sensor], entry.celsius)
    yield temperature
