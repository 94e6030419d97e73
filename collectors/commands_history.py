"""The commands `simulate` and `replay`: history files out and in.

Enters: the command line. Leaves: a history file, or every revision the correlator would have made of one. These
commands own what the pure files must not: the clock (for the default end), files and printing.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from agent.report import Line, encode
from checksum import durable
from checksum.printable import printable
from collectors.command_line import PATH, Moment, Trouble, sentences
from collectors.correlator import LEARNING_DAYS, Correlator
from collectors.history import History, read
from collectors.history import replay as revisions_of
from collectors.incidents import KINDS, NEED_COHORTS, Burst, Incident, fleet_of
from collectors.inventory import Inventory, load
from collectors.minutes import MINUTE_NS, minute_of
from collectors.notify import NOT_NAMED
from collectors.population import FleetAttributes
from collectors.revision import Revision
from collectors.simulate import Simulation
from collectors.world import CALM, RESTLESS

WRITE_BYTES = 1 << 20


class Happening(click.ParamType):
    """An incident's kind and time like rack-50@2026-11-23T18:00:00Z."""

    name = "KIND@RFC3339"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        kind, _, moment = value.partition("@")
        if kind not in KINDS:
            self.fail(f"'{kind}' is none of {', '.join(KINDS)}", param, ctx)
        return kind, Moment().convert(moment, param, ctx)


@click.command()
@click.option("--fleet", "inventory_path", type=PATH, required=True, help="The inventory, a file_sd file.")
@click.option("--out", type=PATH, required=True, help="The history file to write; an older one is replaced at the end.")
@click.option("--days", type=click.IntRange(1, 400), default=15, show_default=True, help="How long the history is.")
@click.option("--end", "end_ns", type=Moment(), help="When it ends; default: now.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed, the same history.")
@click.option("--novel-per-host-hour", type=click.FloatRange(0, 10), default=1.5e-4, show_default=True)
@click.option(
    "--repeat", type=click.FloatRange(0, 1000), default=2.0, show_default=True, help="Repeats per novel fault."
)
@click.option("--burst-at", type=Moment(), help="When a burst begins; without it there's none.")
@click.option("--burst-ra", type=click.FloatRange(0, 360), help="Its right ascension in degrees (J2000).")
@click.option("--burst-dec", type=click.FloatRange(-90, 90), help="Its declination in degrees.")
@click.option("--burst-latitude", type=click.FloatRange(-90, 90), help="Or: where on Earth it stands in the zenith.")
@click.option("--burst-longitude", type=click.FloatRange(-180, 180))
@click.option("--burst-cluster", help="Or: the only cluster that rises; 'all' for the whole fleet.")
@click.option("--burst-amplitude", type=click.FloatRange(0, 1e6), default=32.0, show_default=True)
@click.option("--burst-minutes", type=click.IntRange(1, 1440), default=10, show_default=True)
@click.option(
    "--incident", "happenings", type=Happening(), multiple=True, help=f"Of one kind: {', '.join(KINDS)}; repeatable."
)
@click.option("--restless", is_flag=True, help="With weekends, drifts, month-end load, reboots and upgrades.")
@click.option(
    "--gamma-shape",
    type=click.FloatRange(0.01, 1e6),
    default=CALM.gamma_shape,
    show_default=True,
    help="Of each ten minutes' unrest: a count's variance is m + m^2 / SHAPE, and more with --restless.",
)
def simulate(
    inventory_path: Path,
    out: Path,
    days: int,
    end_ns: int | None,
    seed: int,
    novel_per_host_hour: float,
    repeat: float,
    burst_at: int | None,
    burst_ra: float | None,
    burst_dec: float | None,
    burst_latitude: float | None,
    burst_longitude: float | None,
    burst_cluster: str | None,
    burst_amplitude: float,
    burst_minutes: int,
    happenings: tuple[tuple[str, int], ...],
    restless: bool,
    gamma_shape: float,
) -> None:
    """Write a simulated history of a fleet's faults, with a burst and other incidents if wanted."""
    inventory = _inventory(inventory_path)
    places = {
        "ra_dec_deg": _both(burst_ra, burst_dec, "--burst-ra", "--burst-dec"),
        "ground_deg": _both(burst_latitude, burst_longitude, "--burst-latitude", "--burst-longitude"),
        "cluster": _cluster(burst_cluster, inventory),
    }
    end_minute = minute_of(time.time_ns() if end_ns is None else end_ns)
    burst = _burst(burst_at, burst_minutes, burst_amplitude, places, end_minute, days)
    incidents = [] if burst is None else [burst.incident(inventory.clusters)]
    simulation = Simulation(
        inventory,
        begin_minute=end_minute - days * 1440,
        end_minute=end_minute,
        seed=seed,
        novel_per_host_hour=novel_per_host_hour,
        repeats_per_novel=repeat,
        unrest=replace(RESTLESS if restless else CALM, gamma_shape=gamma_shape),
        incidents=(*incidents, *_incidents(happenings, inventory, end_minute, days, seed)),
    )
    try:
        number = _write(out, simulation.lines())
    except OSError as error:
        raise Trouble(f"{out}: can't write the history: {error.strerror}") from error
    click.echo(printable(f"{out}: {number} lines, {days} days of {len(inventory.clusters)} clusters"), err=True)


@click.command()
@click.argument("history_path", metavar="HISTORY", type=PATH)
@click.option("--inventory", "inventory_path", type=PATH, required=True, help="The inventory, a file_sd file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option("--false-alarms-per-year", type=click.FloatRange(1e-6, 1e4), default=1.0, show_default=True)
def replay(history_path: Path, inventory_path: Path, as_json: bool, false_alarms_per_year: float) -> None:
    """Run the collector's correlator over recorded history and print every revision of every burst."""
    _, revisions = judge(history_path, _inventory(inventory_path), false_alarms_per_year)
    if as_json:
        click.echo(json.dumps({"bursts": [revision.document() for revision in revisions]}, indent=1))
    else:
        click.echo("\n".join(_text(revision) for revision in revisions) or "no burst")


def judge(history_path: Path, inventory: Inventory, false_alarms_per_year: float) -> tuple[History, list[Revision]]:
    """The history and every revision that the correlator makes of it; what can't be used of it is said on stderr."""
    try:
        history = read(history_path, inventory.cluster_names)
    except OSError as error:
        raise Trouble(f"{history_path}: can't read the history: {error.strerror}") from error
    for sentence in inventory.warnings:
        click.echo(printable(f"inventory: {sentence}"), err=True)
    say_what_was_unusable(history, history_path)
    if not history.alive:
        raise Trouble(f"{history_path}: holds no 'alive' line, so nobody was watching and nothing can be judged")
    correlator = Correlator(inventory.clusters, false_alarms_per_year=false_alarms_per_year)
    attributes = FleetAttributes(inventory, {})
    attributes.fill(correlator.population)
    revisions = list(revisions_of(history, correlator, attributes.of))
    if not history.streams:
        click.echo(
            printable(f"{history_path}: holds no fault and names no stream, so there is nothing to judge"), err=True
        )
    elif correlator.status.state == "learning":
        days = correlator.status.history_days
        sentence = f"{history_path}: {days:.1f} days of history; nothing is raised before {LEARNING_DAYS} days"
        click.echo(printable(sentence), err=True)
    return history, revisions


def _inventory(path: Path) -> Inventory:
    with sentences():
        return load(path)


def _both(first: float | None, second: float | None, first_name: str, second_name: str) -> tuple[float, float] | None:
    if first is None and second is None:
        return None
    if first is None or second is None:
        raise Trouble(f"{first_name} and {second_name} go together: give both")
    return first, second


def _cluster(name: str | None, inventory: Inventory) -> str | None:
    if name is not None and name != "all" and name not in inventory.cluster_names:
        raise Trouble(f"--burst-cluster {name}: the inventory has no such cluster")
    return name


def _burst(
    start_ns: int | None, minutes: int, amplitude: float, places: dict[str, Any], end_minute: int, days: int
) -> Burst | None:
    given = {name: place for name, place in places.items() if place is not None}
    if start_ns is None:
        if given:
            raise Trouble("a place for a burst needs its time: give --burst-at")
        return None
    if len(given) != 1:
        raise Trouble("--burst-at needs one place: a sky position, a point on the ground, or --burst-cluster")
    if not end_minute - days * 1440 <= minute_of(start_ns) < end_minute:
        raise Trouble("--burst-at lies outside the history")
    if given.get("cluster") == "all":
        given = {}
    return Burst(start_ns=start_ns, duration_min=minutes, amplitude=amplitude, **given)


def _incidents(
    happenings: tuple[tuple[str, int], ...], inventory: Inventory, end_minute: int, days: int, seed: int
) -> list[Incident]:
    fleet = fleet_of(inventory)
    incidents = []
    for number, (kind, start_ns) in enumerate(happenings):
        if not end_minute - days * 1440 <= minute_of(start_ns) < end_minute:
            raise Trouble(f"--incident {kind} lies outside the history")
        if kind in NEED_COHORTS and not fleet.cohorts:
            raise Trouble(f"--incident {kind} needs an inventory whose targets have the label 'cohort'")
        incidents.append(KINDS[kind].make(fleet, minute_of(start_ns), np.random.default_rng((seed, number))))
    return incidents


def _write(out: Path, lines: Iterable[Line]) -> int:
    """Nobody ever reads half a history: it appears whole. Returns the number of lines."""
    number = 0
    waiting = bytearray()
    with durable.replace_file(out) as file:
        for line in lines:
            waiting += encode(line).encode() + b"\n"
            number += 1
            if len(waiting) >= WRITE_BYTES:
                file.write(waiting)
                waiting.clear()
        file.write(waiting)
    return number


def say_what_was_unusable(history: History, path: Path) -> None:
    """On stderr; a file without one usable line is trouble."""
    if history.last_time_ns is None:
        why = f" ({history.troubles[0]})" if history.troubles else ""
        raise Trouble(f"{path}: holds no usable line{why}; is it a history file?")
    for trouble in history.troubles:
        click.echo(printable(f"{path}: {trouble}"), err=True)
    if history.bad_lines:
        rest = f" ({history.unnamed} of them not named above)" if history.unnamed else ""
        click.echo(printable(f"{path}: {history.bad_lines} lines couldn't be used{rest}"), err=True)
    if history.repeated:
        sentence = f"{path}: {history.repeated} faults came again under their journal and seq; each counts once"
        click.echo(printable(sentence), err=True)


def _text(revision: Revision) -> str:
    r = revision
    minutes = (r.t_end_ns - r.t_start_ns) // MINUTE_NS
    start = datetime.fromtimestamp(r.t_start_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M")
    days = "" if r.extrapolated_from_days is None else f" (extrapolated from {r.extrapolated_from_days} days)"
    raised = sorted(r.clusters, key=lambda share: share.expected - share.observed)
    seen = ", ".join(f"{s.cluster} {s.observed} ({s.expected:.2g} expected)" for s in raised[:6] if s.observed)
    where = (
        f"coherent with RA {r.ra_deg:.0f} Dec {r.dec_deg:+.0f} ({r.area90_deg2:.0f} deg2 at 90 %), which stood over "
        f"{r.ground_latitude_deg:+.0f} {r.ground_longitude_deg:+.0f}; "
    )
    likelier = f"; {r.held_back}, {r.posterior[r.held_back]:.0%}, {NOT_NAMED}" if r.held_back else ""
    return (
        f"{r.burst_id} rev {r.rev} {r.kind}: {r.label} ({r.posterior[r.label]:.0%}{likelier}), {start} UTC, "
        f"{minutes} min, {r.statistic_nats:.1f} nats, {r.far_per_year:.1e} false alarms a year{days}\n"
        f"    {where if r.label == 'celestial' else ''}{printable(seen)}"
    )
