"""The collector's commands: `collector`, `import` and `bursts`; `simulate` and `replay` stand in commands_history.

Enters: arguments. Leaves: text or JSON on stdout, logs on stderr, exit status 0, or 2 with one sentence for trouble.
"""

import contextlib
import hashlib
import itertools
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np

from agent.report import Fault
from checksum import systemd
from checksum.settings import SettingsError
from collectors import config as settings
from collectors import history, inventory, notify, server
from collectors.commands_history import Trouble, replay, say_what_was_unusable, simulate
from collectors.correlator import Revision
from collectors.inventory import InventoryError
from collectors.minutes import DAY_NS, SCANNED_STREAMS
from collectors.page import latest_bursts
from collectors.server import ServerError
from collectors.store import Store, StoreError

__all__ = ["bursts", "collector", "import_", "replay", "simulate"]

IMPORT_BATCH = 10_000  # faults per transaction: a running collector waits for one batch, not for the file

_CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("/etc/flipwatch/collector.toml"),
    show_default=True,
    help="The configuration file (TOML), with a [collector] table.",
)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Everything that a person can mend becomes one sentence."""
    try:
        yield
    except (SettingsError, InventoryError, StoreError, ServerError) as error:
        raise Trouble(str(error)) from error
    except sqlite3.Error as error:
        raise Trouble(f"the store can't be used: {error}") from error


@click.command()
@_CONFIG
def collector(config_path: Path) -> None:
    """Pull all agents, correlate their faults and alert. Ends cleanly on SIGTERM."""
    systemd.start_log("%(asctime)s %(levelname)s %(name)s: %(message)s")
    reread = partial(settings.load, config_path)
    with _sentences():
        server.serve(reread(), reread)


@click.command(name="import")
@click.argument("history_path", metavar="HISTORY", type=click.Path(path_type=Path))
@_CONFIG
def import_(history_path: Path, config_path: Path) -> None:
    """Put the faults and alive lines of HISTORY (NDJSON) into a collector's store, running or not.

    A line that is there already is not stored again, so an import may be repeated.
    """
    with _sentences():
        config = settings.load(config_path)
        clusters = inventory.load(config.inventory).cluster_names
        try:
            sha256, lines = _sha256(history_path), history.read(history_path, clusters)
        except OSError as error:
            raise Trouble(f"{history_path}: can't be read: {error.strerror}") from error
        say_what_was_unusable(lines, history_path)
        with contextlib.closing(Store(config.store_path)) as store:
            if store.was_imported(sha256):
                click.echo(f"{history_path} was imported before: nothing to do")
                return
            counts = _import_faults(store, lines.faults, time.time_ns() - config.history_days * DAY_NS)
            store.finish_import(sha256, history_path.name, _exposure(lines, clusters))
    click.echo(
        f"{counts['new']} faults and {len(lines.alive)} alive lines imported; "
        f"{counts['known']} faults were there already, {counts['old']} are older than history_days, "
        f"{lines.bad_lines} lines unusable"
    )


def _import_faults(store: Store, faults: Sequence[Fault], oldest_ns: int) -> Counter[str]:
    """Stores them in batches; counts the new, the known and the old ones."""
    recent = [fault for fault in faults if fault.time_ns >= oldest_ns]
    occurrences: Counter[str] = Counter()
    new = 0
    for begin in range(0, len(recent), IMPORT_BATCH):
        new += store.import_faults(recent[begin : begin + IMPORT_BATCH], occurrences)
    return Counter(new=new, known=len(recent) - new, old=len(faults) - len(recent))


def _exposure(lines: history.History, clusters: Sequence[str]) -> Iterator[tuple[str, str, int, int, int]]:
    """(cluster, stream, begin_minute, end_minute, hosts) of each stretch with the same number of watching hosts."""
    for stream in SCANNED_STREAMS:
        if stream not in lines.streams:
            continue
        first, hosts = history.watching(lines, stream, clusters)
        for column, cluster in enumerate(clusters):
            series = hosts[:, column]
            edges = [0, *(np.flatnonzero(np.diff(series)) + 1).tolist(), len(series)]
            for begin, end in itertools.pairwise(edges):
                if end > begin and series[begin]:
                    yield cluster, stream, first + begin, first + end, int(series[begin])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@click.group()
def bursts() -> None:
    """The catalogue of bursts that a collector has raised."""


@bursts.command(name="list")
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every revision, oldest first.")
def list_(config_path: Path, as_json: bool) -> None:
    """All bursts, the latest first."""
    with _catalogue(config_path) as store:
        if as_json:
            click.echo(json.dumps({"bursts": store.revisions()}, indent=1))
            return
        known = latest_bursts(store)
    for burst in known:
        state = "retracted" if burst.kind == "retract" else burst.label
        clusters = f"{len(notify.members(burst))}/{len(burst.clusters)} clusters"
        click.echo(f"{burst.burst_id}  rev {burst.rev}  {state:<11} {clusters:<16} {notify.false_alarms(burst)}")
    if not known:
        click.echo("no burst so far")


@bursts.command()
@click.argument("burst_id", metavar="ID")
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every revision of it, oldest first.")
def show(burst_id: str, config_path: Path, as_json: bool) -> None:
    """One burst: what was seen, where, and how sure that is."""
    with _catalogue(config_path) as store:
        revisions = [document for document in store.revisions() if document["burst_id"] == burst_id]
    if not revisions:
        raise Trouble(f"there is no burst {burst_id}; `flipwatch bursts list` names them all")
    if as_json:
        click.echo(json.dumps({"bursts": revisions}, indent=1))
        return
    click.echo("\n".join(_words(Revision.from_document(revisions[-1]))))


def _words(burst: Revision) -> Iterator[str]:
    yield f"burst {burst.burst_id}, revision {burst.rev} ({burst.kind})"
    yield f"{notify.rfc3339(burst.t_start_ns)} to {notify.rfc3339(burst.t_end_ns)}"
    yield notify.description(burst)
    yield ""
    for cause, probability in sorted(burst.posterior.items(), key=lambda item: -item[1]):
        yield f"  {cause:<12} {100 * probability:6.2f} %"
    yield ""
    yield f"  {'cluster':<20} {'seen':>6} {'expected':>9}"
    for share in sorted(burst.clusters, key=lambda share: share.expected - share.observed):
        yield f"  {share.cluster:<20} {share.observed:>6} {share.expected:>9.3g}"


@contextlib.contextmanager
def _catalogue(config_path: Path) -> Iterator[Store]:
    with _sentences(), contextlib.closing(Store(settings.load(config_path).store_path, create=False)) as store:
        yield store
