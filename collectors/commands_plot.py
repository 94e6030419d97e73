"""The command `bursts plot`: one burst as a picture.

Enters: a burst's id, and where it was found: a collector's store or a history file. Leaves: image files whose paths are
printed, or exit status 2 with one sentence.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from checksum import durable
from checksum.printable import printable
from collectors import config as settings
from collectors import inventory, mapping
from collectors.command_line import CONFIG, PATH, Trouble, sentences
from collectors.commands_history import judge
from collectors.inventory import Cluster
from collectors.mapping import Timeline
from collectors.minutes import MINUTE_NS
from collectors.revision import Revision
from collectors.store import Store

FORMATS = ("png", "svg")


class Formats(click.ParamType):
    """Image formats, divided by commas."""

    name = "FORMATS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        wanted = tuple(dict.fromkeys(part.strip().lower() for part in value.split(",")))
        for one in wanted:
            if one not in FORMATS:
                self.fail(f"'{one}' is not one of {', '.join(FORMATS)}", param, ctx)
        return wanted


@click.command()
@click.argument("burst_id", metavar="ID")
@CONFIG
@click.option("--history", "history_path", type=PATH, help="Replay this history instead of asking a collector's store.")
@click.option("--inventory", "inventory_path", type=PATH, help="The inventory; default: the configuration's.")
@click.option("--false-alarms-per-year", type=click.FloatRange(1e-6, 1e4), default=1.0, show_default=True)
@click.option("--out", type=PATH, default=Path(), help="A directory, or a file that ends in .png or .svg.")
@click.option("--format", "formats", type=Formats(), help="png, svg or both: png,svg; default: png.")
def plot(
    burst_id: str,
    config_path: Path,
    history_path: Path | None,
    inventory_path: Path | None,
    false_alarms_per_year: float,
    out: Path,
    formats: tuple[str, ...] | None,
) -> None:
    """Draw a burst: where a source would stand in the sky, what each cluster saw, when, and the likely causes."""
    files = _files(out, burst_id, formats)
    with sentences():
        if history_path is None:
            found = _from_store(burst_id, config_path, inventory_path)
        elif inventory_path is None:
            raise Trouble("--history needs --inventory: a history file doesn't say where its clusters stand")
        else:
            found = _from_history(burst_id, history_path, inventory_path, false_alarms_per_year)
    _draw(*found, files)


def _files(out: Path, burst_id: str, formats: tuple[str, ...] | None) -> dict[Path, str]:
    """Which file gets which format."""
    suffix = out.suffix.lower().removeprefix(".")
    if suffix in FORMATS and not out.is_dir():
        if formats not in (None, (suffix,)):
            raise Trouble(f"{out} is one {suffix} file: give a directory for --format {','.join(formats or ())}")
        return {out: suffix}
    if not out.is_dir():
        raise Trouble(f"{out}: no such directory; a file must end in .png or .svg")
    name = re.sub(r"[^\w.-]", "_", burst_id, flags=re.ASCII)[:100]
    return {out / f"burst-{name}.{one}": one for one in formats or ("png",)}


def _from_store(
    burst_id: str, config_path: Path, inventory_path: Path | None
) -> tuple[Revision, Sequence[Cluster], Timeline]:
    config = settings.load(config_path)
    clusters = inventory.load(inventory_path or config.inventory).clusters
    with contextlib.closing(Store(config.store_path, create=False)) as store:
        revision = _latest(burst_id, store.bursts())
        first, end = mapping.around(revision)
        faults = store.novel_between(first * MINUTE_NS, end * MINUTE_NS)
        return revision, clusters, mapping.timeline(revision, faults, store.watched_until_ns())


def _from_history(
    burst_id: str, history_path: Path, inventory_path: Path, false_alarms_per_year: float
) -> tuple[Revision, Sequence[Cluster], Timeline]:
    fleet = inventory.load(inventory_path)
    lines, revisions = judge(history_path, fleet, false_alarms_per_year)
    revision = _latest(burst_id, revisions)
    assert lines.last_time_ns is not None, "a history without a usable line was refused"
    return revision, fleet.clusters, mapping.timeline(revision, lines.faults, lines.last_time_ns)


def _latest(burst_id: str, revisions: Sequence[Revision]) -> Revision:
    mine = [revision for revision in revisions if revision.burst_id == burst_id]
    if not mine:
        names = ", ".join(dict.fromkeys(revision.burst_id for revision in revisions[-5:])) or "none"
        raise Trouble(f"there is no burst {burst_id}; the latest are: {names}")
    return mine[-1]


def _draw(revision: Revision, clusters: Sequence[Cluster], timeline: Timeline, files: dict[Path, str]) -> None:
    try:
        from collectors import plot as drawing  # matplotlib takes a second to load, which only a picture is worth
    except ModuleNotFoundError as error:
        raise Trouble(f"a picture needs the Python package {error.name}: pip install 'flipwatch[collector]'") from error
    names = {share.cluster for share in revision.clusters}
    placed = [cluster for cluster in clusters if cluster.name in names]
    if not placed:
        raise Trouble(f"the inventory has none of the {len(names)} clusters of burst {revision.burst_id}")
    for path, image_format in files.items():
        image = drawing.render(revision, placed, timeline, image_format)
        try:
            with durable.replace_file(path) as file:
                file.write(image)
        except OSError as error:
            raise Trouble(f"{path}: can't write the picture: {error.strerror}") from error
        click.echo(printable(str(path)))
